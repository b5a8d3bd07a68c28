"""An affine node after a linear operator: the match, guards and plan that the backward folds share.

y = s * (W x + b) + t = (s W) x + (s b + t), with s and t per output channel. Between the two may
stand nodes that only move axes; the channel axis is followed through them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.model.graph import Bypass, DropInput, Edit, Node, Rename, SetConst, SetOp, Tensor
from converter.records import Safety
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import ARITHMETIC, BATCH_NORM, Affine, affine_at, per_channel
from converter.rewrite.analysis.channel_axis import follow_axis, is_view
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import Linear, linear_at
from converter.rewrite.passes import _checks
from converter.rewrite.passes._folds import NO_BIAS_SLOT, Fold, holds_bias, replaced
from converter.rewrite.passes.base import Pass

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Backward:
    """A linear operator, views, and an affine node, in the order of the data."""

    linear: Linear
    views: tuple[Node, ...]
    affine: Affine
    memo: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def tensors(self) -> list[tuple[Tensor, Node]]:
        """Each tensor from the operator to the affine node, with its one rightful reader."""
        nodes = [*self.views, self.affine.node]
        made = [self.linear.result, *(v.outputs[0] for v in self.views)]
        return list(zip(made, nodes, strict=True))


def finder(op: str, kind: str) -> Callable[[Facts, Node], Backward | None]:
    """A find for affine nodes of `kind` ("bn" or "affine") after linear operators of type `op`."""

    def find(facts: Facts, node: Node) -> Backward | None:
        for data in (0, 1):
            affine = affine_at(node, data)
            if affine is None or not _worth_telling(facts, affine):
                continue
            views: list[Node] = []
            producer = facts.graph.producer(affine.source)
            while producer is not None and is_view(producer):
                views.insert(0, producer)
                producer = facts.graph.producer(producer.inputs[0])
            found = linear_at(facts, producer, op)
            if found is not None and not _is_its_bias(facts, found, affine):
                return Backward(found, tuple(views), affine)
        return None

    return find


def _worth_telling(facts: Facts, affine: Affine) -> bool:
    """Sums of computed values (residuals) and gates are no near misses; a product with another layer or an input is."""
    if affine.is_bn or not affine.params or facts.constants.weight(affine.params[0]) is not None:
        return True
    producer = facts.graph.producer(affine.params[0])
    return affine.node.is_op("Mul", "Div") and (producer is None or producer.is_op(*lin.LINEAR))


def _is_its_bias(facts: Facts, linear: Linear, affine: Affine) -> bool:
    """An Add right after a MatMul is its bias, not something to fold."""
    return (
        linear.op == lin.MATMUL
        and linear.bias_node is None
        and affine.node.is_op("Add")
        and lin.is_bias_add(facts, linear.node, affine.node, 1 - affine.data)
    )


def _axis(facts: Facts, m: Backward) -> int | str:
    axis = lin.out_axis(facts, m.linear)
    for view in m.views:
        if isinstance(axis, str):
            return axis
        axis = follow_axis(facts, view, axis)
    return axis


def _spread(facts: Facts, m: Backward) -> tuple[Array, Array] | str:
    axis = _axis(facts, m)
    assert isinstance(axis, int)
    rank = lin.result_rank(facts, m.linear) if not m.views else facts.rank(m.affine.source)
    return per_channel(facts, m.affine, axis, rank, lin.out_channels(facts, m.linear))


def _moved(facts: Facts, m: Backward) -> Array | None:
    return lin.scale_bias(facts, m.linear, *FOLD.numbers(facts, m))


FOLD = Fold(_spread, lin.scale_outputs, _moved)


def _channel_axis(facts: Facts, m: Backward) -> str | None:
    axis = _axis(facts, m)
    if isinstance(axis, str):
        return axis
    if m.affine.is_bn and axis != 1:
        return f"the channels lie on axis {axis}, the batch norm works on axis 1"
    return None


def _no_bias_slot(facts: Facts, m: Backward) -> str | None:
    if holds_bias(facts, m.linear) or not FOLD.numbers(facts, m)[1].any() or _becomes_add(facts, m):
        return None
    return NO_BIAS_SLOT


def _becomes_add(facts: Facts, m: Backward) -> bool:
    """Scale goes into the matrix, shift stays as one Add in the affine node's place."""
    scale, shift = FOLD.numbers(facts, m)
    return (
        not holds_bias(facts, m.linear)
        and bool(shift.any())
        and bool((scale != 1).any())
        and facts.rank(m.affine.source) is not None
        and m.affine.node.scope.opset >= 7  # before, Add broadcasts only by attributes
    )


def _shared(facts: Facts, m: Backward) -> str | None:
    found = _checks.shared(facts, replaced(m))
    if found is None and facts.options.no_growth and m.linear.bias is not None:
        bias = FOLD.bias(facts, m)
        if bias is not None and bias.size > max(facts.float64(m.linear.bias).size, lin.out_channels(facts, m.linear)):
            return f"the bias {m.linear.bias.name!r} would grow to {list(bias.shape)}"
    return found


GUARDS = (
    *FOLD.form(
        lambda m: [m.linear.node, *m.views, m.affine.node],
        _channel_axis,
        "the channels must lie where the affine node works on them",
    ),
    *FOLD.result(_no_bias_slot, _shared, "with --no-growth no tensor is copied or grows"),
)


def plan(facts: Facts, m: Backward) -> list[Edit]:
    """New weight and bias, the affine node out, fresh names for what changed its meaning."""
    scale, _ = FOLD.numbers(facts, m)
    edits: list[Edit] = []
    if (scale != 1).any():
        edits += lin.set_weight(m.linear, FOLD.weight(facts, m))
    changed = [t for t, _ in m.tensors]
    if m.linear.last is not m.linear.node:
        changed.insert(0, m.linear.node.outputs[0])
    if _becomes_add(facts, m):
        edits += _as_add(facts, m)
    else:
        edits += lin.set_bias(facts, m.linear, FOLD.bias(facts, m))
        edits.append(Bypass(m.affine.node, m.affine.data))
        changed.pop()  # it takes the name of the affine node's output
    return edits + [Rename(t) for t in changed]


def _as_add(facts: Facts, m: Backward) -> list[Edit]:
    node, axis = m.affine.node, _axis(facts, m)
    rank = facts.rank(m.affine.source)
    assert isinstance(axis, int) and rank is not None
    shift = FOLD.numbers(facts, m)[1].reshape(-1, *[1] * (rank - 1 - axis))
    slot = 1 - m.affine.data
    weight = numerics.NewTensor(shift, facts.weight(m.linear.weight).dtype)
    drops = [DropInput(node, i) for i in range(len(node.inputs) - 1, 1, -1)]
    return [*drops, SetOp(node, "Add"), SetConst(node, slot, weight, "bias")]


def backward_pass(name: str, summary: str, op: str, kind: str, module: str, after: tuple[str, ...] = ()) -> Pass:
    """The row of a backward fold."""
    return Pass(
        name=name,
        summary=summary,
        safety=Safety.ROUNDING,
        ops=frozenset(BATCH_NORM if kind == "bn" else ARITHMETIC),
        find=finder(op, kind),
        guards=GUARDS,
        plan=plan,
        output=lambda m: str(m.affine.result.name),
        module=module,
        after=after,
    )
