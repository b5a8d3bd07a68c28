"""An affine node before a linear operator becomes part of it: eight passes, by what is folded and into what.

W (s * x + t) + b = (W s) x + (b + W t), with s and t per input channel. Between the two may stand
nodes that only move axes, and pools that an affine map passes through: averages of uncounted
padding, maxima where s is positive. A shift is exact only where no padded element is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from converter.dataclass import dataclass
from converter.model.graph import Bypass, Edit, Node, Rename, Tensor
from converter.records import Safety, Weight
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import Affine, affines_at, aligned_shape, keeps_shape, scale_and_shift
from converter.rewrite.analysis.channel_axis import (
    follow_axis,
    is_pool,
    is_view,
    merges_features,
    positions_behind,
    reads_padding,
)
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import LINEAR, Linear, linear_into
from converter.rewrite.analysis.quantized import Rescaled, rescale
from converter.rewrite.passes.base import Check, Decline, Pass
from converter.rewrite.passes.folding import (
    FORM,
    KINDS,
    OPERANDS,
    RESULT,
    Fold,
    Kind,
    averaged_padding,
    kebab,
    list_types,
    negative_scale,
)

Array = NDArray[np.float64]

_RUNS = "Across Flatten each channel stands for its run of features."
# operator -> the new weight and bias, and what there is to say of it
_RESULTS = {
    lin.CONV: (
        "W'[:, i] = W[:, i] s[i] within each group, b' = b + sum over i and taps of W[:, i] t[i]",
        "A shift only where no padded element is read.",
    ),
    lin.CONV_TRANSPOSE: (
        "W'[i] = s[i] W[i]; for kernel 1 and stride 1, b' = b + sum over i of W[i] t[i]",
        "A shift only for kernel 1 and stride 1.",
    ),
    lin.GEMM: ("B'[k] = alpha s[k] B[k], C' = beta C + alpha t B, alpha = beta = 1", _RUNS),
    lin.MATMUL: ("W'[k] = s[k] W[k], b' = b + t W", _RUNS),
}


@dataclass(frozen=True, slots=True)
class IntoConsumer(Fold):
    """An affine node, views and pools, and a linear operator, in the order of the data."""

    @property
    def nodes(self) -> Sequence[Node]:
        """All of them."""
        return [self.affine.node, *self.between, self.linear.node]

    @property
    def path(self) -> Sequence[tuple[Tensor, Node]]:
        """Each tensor from the affine node to the operator."""
        outputs = [self.affine.result, *(n.outputs[0] for n in self.between)]
        return list(zip(outputs, [*self.between, self.linear.node], strict=True))

    def channel_problem(self, facts: Facts) -> str | None:
        """The channels must lie on the axis that the operator sums over."""
        arrived, wanted = _arrive(facts, self), _in_axis(facts, self.linear)
        if isinstance(arrived, str):
            return arrived
        if arrived[0] == -1:
            return None
        if isinstance(wanted, str):
            return wanted
        if arrived[0] == wanted:
            return None
        return f"the channels lie on axis {arrived[0]}, {self.linear.op} sums over axis {wanted}"

    def spread(self, facts: Facts) -> tuple[Array, Array] | str:
        """Scale and shift of each input channel."""
        arrived = _arrive(facts, self)
        assert not isinstance(arrived, str)
        channels = lin.in_channels(facts, self.linear)
        scale, shift = (v.reshape(-1) for v in scale_and_shift(facts, self.affine))
        if self.affine.params and not self.affine.is_bn and not keeps_shape(facts, self.affine):
            return "the constant may enlarge the value"
        if scale.size == 1 and not self.affine.is_bn:
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

    def scale_weight(self, weight: Weight, scale: Array) -> Weight:
        """Input channels are scaled."""
        return lin.scale_inputs(self.linear, weight, scale)

    def rescale(self, facts: Facts) -> Rescaled | Decline | None:
        """The scale of a quantized weight takes the factors of input channels."""
        return rescale(facts, self.linear, self.numbers(facts)[0], inputs=True)

    def fold_bias(self, facts: Facts) -> Array | None:
        """b + W t."""
        shift = self.numbers(facts)[1]
        added = lin.input_sum(facts, self.linear, shift) if shift.any() else None
        return None if added is None else lin.scale_bias(facts, self.linear, None, added)


def _finder(op: str) -> Callable[[Facts, Node], IntoConsumer | None]:
    """A find for affine nodes before linear operators of type `op`."""

    def find(facts: Facts, node: Node) -> IntoConsumer | None:
        for affine in affines_at(node):
            if not _has_constants(facts, affine):
                continue
            path: list[Node] = []
            tensor = affine.result
            while True:
                readers = list(dict.fromkeys(facts.graph.readers(tensor)))
                target = next((r for r in readers if lin.kind_of(r) == op and r.inputs[0] is tensor), None)
                linear = linear_into(facts, target, op) if target is not None else None
                if linear is not None:
                    return IntoConsumer(affine, tuple(path), linear)
                if len(readers) != 1 or not (is_view(facts, readers[0]) or is_pool(readers[0])):
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


def _start(facts: Facts, m: IntoConsumer) -> int | str | None:
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


def _arrive(facts: Facts, m: IntoConsumer) -> tuple[int, int | None] | str:
    """Axis of the channels at the operator, and how many positions of one channel lie side by side.

    The second is None where the channels are still an axis of their own, 0 where a Flatten merged
    them as the outermost (so the count follows from the number of features). Axis -1: one number.
    """
    start = _start(facts, m)
    if not isinstance(start, int):
        return start if isinstance(start, str) else (-1, None)
    axis: int | str = start
    merged: int | None = None
    for node in m.between:
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


# -- what the path does to scale and shift ---------------------------------------------------


def _padded_shift(facts: Facts, m: IntoConsumer) -> str | None:
    averaged = averaged_padding(facts, m)
    if averaged is not None or not m.numbers(facts)[1].any():
        return averaged
    if m.linear.op == lin.CONV and reads_padding(facts, m.linear.node):
        return f"{m.linear.node.label} reads padded zeros, which the shift does not reach"
    return None


def _transposed_shift(facts: Facts, m: IntoConsumer) -> str | None:
    node = m.linear.node
    if m.linear.op != lin.CONV_TRANSPOSE or not m.numbers(facts)[1].any():
        return None
    if not lin.spreads_unevenly(facts, m.linear):
        return None
    kernel = facts.weight(m.linear.weight).shape[2:]
    return f"{node.label} spreads the shift unevenly (kernel {list(kernel)})"


_CHECKS = (
    *FORM,
    Check("negative-scale", negative_scale),
    Check("padded-shift", _padded_shift),
    Check("transposed-shift", _transposed_shift),
    *RESULT,
)


def _plan(facts: Facts, m: IntoConsumer) -> list[Edit]:
    """New weight and bias, the affine node out, fresh names for what changed its meaning."""
    edits = m.set_weight(facts)
    edits += lin.set_bias(facts, m.linear, m.bias(facts))
    changed = [n.outputs[0] for n in m.between]
    changed += m.linear.inner
    return [*edits, Bypass(m.affine.node, m.affine.data, keep="input"), *(Rename(t) for t in changed)]


def _fold(kind: Kind, op: str) -> Pass:
    """One row of the family."""
    result, note = _RESULTS[op]
    title = kind.title[0].upper() + kind.title[1:]
    page = f"""{title} then {op} becomes one {op}.

Given:  {kind.given}; then {OPERANDS[op]}.
Result: {result}; the first node is gone.
        {note}
        Between them may stand views, averages of uncounted padding, and maxima where s > 0.
Source: {kind.source}."""
    return Pass(
        page,
        Safety.ROUNDING,
        ops=kind.ops,
        find=_finder(op),
        checks=_CHECKS,
        plan=_plan,
        output=lambda m: m.linear.result,
        name=f"fold-{kind.name}-into-next-{kebab(op)}",
        beside=list_types(op),
        after=(f"fold-{kind.name}-into-{kebab(op)}",),
        upward=True,
    )


PASSES = tuple(_fold(kind, op) for kind in KINDS for op in LINEAR)
