"""An affine node before a linear operator: the match, guards and plan that the forward folds share.

W (s * x + t) + b = (W s) x + (b + W t), with s and t per input channel. Between the two may stand
nodes that only move axes, and pools that an affine map passes through: averages of uncounted
padding, maxima where s is positive. A shift is exact only where no padded element is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.model.graph import Bypass, Edit, Node, Rename, Tensor
from converter.records import Safety
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import (
    ARITHMETIC,
    BATCH_NORM,
    Affine,
    affine_at,
    aligned_shape,
    keeps_shape,
    scale_and_shift,
)
from converter.rewrite.analysis.channel_axis import (
    average_counts_padding,
    follow_axis,
    is_average,
    is_maximum,
    is_pool,
    is_view,
    merges_features,
    positions_behind,
    reads_padding,
)
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import Linear, linear_into
from converter.rewrite.passes import _checks
from converter.rewrite.passes._folds import NO_BIAS_SLOT, Fold, holds_bias, replaced
from converter.rewrite.passes.base import Guard, Pass

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Forward:
    """An affine node, views and pools, and a linear operator, in the order of the data."""

    affine: Affine
    path: tuple[Node, ...]
    linear: Linear
    memo: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def tensors(self) -> list[tuple[Tensor, Node]]:
        """Each tensor from the affine node to the operator, with its one rightful reader."""
        made = [self.affine.result, *(n.outputs[0] for n in self.path)]
        return list(zip(made, [*self.path, self.linear.node], strict=True))


def finder(op: str) -> Callable[[Facts, Node], Forward | None]:
    """A find for affine nodes before linear operators of type `op`."""

    def find(facts: Facts, node: Node) -> Forward | None:
        for data in (0, 1):
            affine = affine_at(node, data)
            if affine is None or not _has_constants(facts, affine):
                continue
            path: list[Node] = []
            tensor = affine.result
            while True:
                readers = list(dict.fromkeys(facts.graph.readers(tensor)))
                target = next((r for r in readers if r.is_op(op) and r.inputs[0] is tensor), None)
                linear = linear_into(facts, target, op) if target is not None else None
                if linear is not None:
                    return Forward(affine, tuple(path), linear)
                if len(readers) != 1 or not (is_view(readers[0]) or is_pool(readers[0])):
                    break
                if readers[0].inputs[0] is not tensor:
                    break
                path.append(readers[0])
                tensor = readers[0].outputs[0]
        return None

    return find


def _has_constants(facts: Facts, affine: Affine) -> bool:
    """Sums and products of computed values before an operator are no near miss."""
    return affine.is_bn or all(facts.constants.weight(t) is not None for t in affine.params)


# -- where the channels are ------------------------------------------------------------------


def _start(facts: Facts, m: Forward) -> int | str | None:
    """Axis that scale and shift vary on; None if they are one number; a clause if there are several."""
    if m.affine.is_bn:
        return 1
    if all(v.size == 1 for v in scale_and_shift(facts, m.affine)):
        return None
    rank = facts.rank(m.affine.source)
    if rank is None:
        return "the number of axes of its input is not known"
    full = aligned_shape(facts, m.affine, rank)
    varying = [i for i, d in enumerate(full) if d != 1]
    if len(full) > rank or len(varying) > 1:
        return f"the constant of shape {list(full)} is not one value per channel"
    return varying[0]


def _arrive(facts: Facts, m: Forward) -> tuple[int, int | None] | str:
    """Axis of the channels at the operator, and how many positions of one channel lie side by side.

    The second is None where the channels are still an axis of their own, 0 where a Flatten merged
    them as the outermost (so the count follows from the number of features). Axis -1: one number.
    """
    start = _start(facts, m)
    if not isinstance(start, int):
        return start if isinstance(start, str) else (-1, None)
    axis: int | str = start
    merged: int | None = None
    for node in m.path:
        assert isinstance(axis, int)
        if is_pool(node):
            if axis > 1 or merged is not None:
                return f"{node.label} pools over axis {axis}, on which the values differ"
            continue
        moved = follow_axis(facts, node, axis)
        if isinstance(moved, str) and axis >= 1 and merged is None and merges_features(facts, node):
            behind = 0 if axis == 1 else positions_behind(facts, node, axis)
            if behind is not None:
                merged, moved = behind, 1
        axis = moved
        if isinstance(axis, str):
            return axis
    assert isinstance(axis, int)
    return axis, merged


def _in_axis(facts: Facts, linear: Linear) -> int | str:
    if linear.op == lin.GEMM:
        return 0 if linear.node.attr("transA", 0) else 1
    if linear.op == lin.MATMUL:
        rank = facts.rank(linear.node.inputs[0])
        return "the number of axes of the factor is not known" if rank is None else rank - 1
    return 1


def _channel_axis(facts: Facts, m: Forward) -> str | None:
    arrived, wanted = _arrive(facts, m), _in_axis(facts, m.linear)
    if isinstance(arrived, str):
        return arrived
    if arrived[0] == -1:
        return None
    if isinstance(wanted, str):
        return wanted
    return (
        None
        if arrived[0] == wanted
        else f"the channels lie on axis {arrived[0]}, {m.linear.op} sums over axis {wanted}"
    )


def _spread(facts: Facts, m: Forward) -> tuple[Array, Array] | str:
    arrived = _arrive(facts, m)
    assert not isinstance(arrived, str)
    channels = lin.in_channels(facts, m.linear)
    scale, shift = (v.reshape(-1) for v in scale_and_shift(facts, m.affine))
    if m.affine.params and not m.affine.is_bn and not keeps_shape(facts, m.affine):
        return "the constant may enlarge the value"
    if scale.size == 1 and not m.affine.is_bn:
        return np.full(channels, scale[0]), np.full(channels, shift[0])
    behind = arrived[1]
    if behind is None:
        if scale.size != channels:
            return f"it has {scale.size} channels, the operator {channels}"
        return scale, shift
    if scale.size == 0 or channels % (scale.size * max(behind, 1)):
        return f"{channels} features are no multiple of its {scale.size} channels"
    side = behind or channels // scale.size
    times = channels // (scale.size * side)
    return np.tile(np.repeat(scale, side), times), np.tile(np.repeat(shift, side), times)


def _moved(facts: Facts, m: Forward) -> Array | None:
    shift = FOLD.numbers(facts, m)[1]
    added = lin.input_sum(facts, m.linear, shift) if shift.any() else None
    return None if added is None else lin.scale_bias(facts, m.linear, None, added)


FOLD = Fold(_spread, lin.scale_inputs, _moved)


# -- what the path does to scale and shift ---------------------------------------------------


def _negative_scale(facts: Facts, m: Forward) -> str | None:
    pool = next((n for n in m.path if is_maximum(n)), None)
    bad = None if pool is None else numerics.first_bad(FOLD.numbers(facts, m)[0] <= 0)
    if pool is None or bad is None:
        return None
    return f"{pool.label} takes a maximum and the scale of channel {bad} is not positive"


def _padded_shift(facts: Facts, m: Forward) -> str | None:
    if not FOLD.numbers(facts, m)[1].any():
        return None
    for node in m.path:
        if is_average(node) and average_counts_padding(node):
            return f"{node.label} averages padded zeros in, which the shift does not reach"
    if m.linear.op == lin.CONV and reads_padding(facts, m.linear.node):
        return f"{m.linear.node.label} reads padded zeros, which the shift does not reach"
    return None


def _transposed_shift(facts: Facts, m: Forward) -> str | None:
    node = m.linear.node
    if m.linear.op != lin.CONV_TRANSPOSE or not FOLD.numbers(facts, m)[1].any():
        return None
    kernel = facts.weight(m.linear.weight).shape[2:]
    ones = all(k == 1 for k in kernel) and all(s == 1 for s in node.attr("strides", [1]))
    plain = not any(node.attr("pads", [0])) and not any(node.attr("output_padding", [0]))
    if ones and plain and node.attr("output_shape") is None:
        return None
    return f"{node.label} spreads the shift unevenly (kernel {list(kernel)})"


def _no_bias_slot(facts: Facts, m: Forward) -> str | None:
    if holds_bias(facts, m.linear) or not FOLD.numbers(facts, m)[1].any():
        return None
    return NO_BIAS_SLOT


GUARDS = (
    *FOLD.form(
        lambda m: [m.affine.node, *m.path, m.linear.node],
        _channel_axis,
        "the channels must lie on the axis that the operator sums over",
    ),
    Guard("negative-scale", _negative_scale, "a maximum of s * x is s times the maximum only for positive s"),
    Guard("padded-shift", _padded_shift, "padded zeros are not shifted, so the border would differ"),
    Guard("transposed-shift", _transposed_shift, "borders and phases of a transposed convolution see unequal taps"),
    *FOLD.result(_no_bias_slot, lambda f, m: _checks.shared(f, replaced(m)), "with --no-growth no tensor is copied"),
)


def plan(facts: Facts, m: Forward) -> list[Edit]:
    """New weight and bias, the affine node out, fresh names for what changed its meaning."""
    edits: list[Edit] = []
    if (FOLD.numbers(facts, m)[0] != 1).any():
        edits += lin.set_weight(m.linear, FOLD.weight(facts, m))
    edits += lin.set_bias(facts, m.linear, FOLD.bias(facts, m))
    changed = [n.outputs[0] for n in m.path]
    if m.linear.last is not m.linear.node:
        changed.append(m.linear.node.outputs[0])
    return [*edits, Bypass(m.affine.node, m.affine.data, keep="input"), *(Rename(t) for t in changed)]


def forward_pass(name: str, summary: str, op: str, kind: str, module: str, after: tuple[str, ...] = ()) -> Pass:
    """The row of a forward fold."""
    return Pass(
        name=name,
        summary=summary,
        safety=Safety.ROUNDING,
        ops=frozenset(BATCH_NORM if kind == "bn" else ARITHMETIC),
        find=finder(op),
        guards=GUARDS,
        plan=plan,
        output=lambda m: str(m.linear.result.name),
        module=module,
        after=after,
    )
