"""What becomes of a shift under operators from one element to one element."""

from __future__ import annotations

import numpy as np

from converter.model.graph import Node
from converter.records import EffectKind
from converter.rewrite.analysis.channel_axis import is_view
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.bias_flow.shift import (
    MOST_ELEMENTS,
    Block,
    Cancel,
    Effect,
    Propagate,
    Rule,
    Shift,
    Shifts,
    add_shifts,
    are_equal,
    one_shift,
    tensor_at,
)


def _only_shape(_: Facts, node: Node, shifts: Shifts) -> Effect:
    return Cancel(EffectKind.SHAPE, "it reads the shape alone")


def _cast_like(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    if 0 not in shifts:
        return Cancel(EffectKind.SHAPE, "it reads the type alone")
    before, after = (facts.graph.elem_type(tensor_at(node, i)) for i in (0, 1))
    if _widens(before, after):
        return Propagate({0: shifts[0]})
    return Block("stops", "it rounds to a narrower type")


@one_shift
def _same(_: Facts, __: Node, s: Shift) -> Shift | Effect:
    return s


@one_shift
def _dropout(facts: Facts, node: Node, s: Shift) -> Shift | Effect:
    return s if is_view(facts, node) else Block("stops", "it may drop elements at random")


_FLOATS = {10: (11, 5), 16: (8, 8), 1: (24, 8), 11: (53, 11)}  # element type -> bits of significand and exponent


_INT32, _WIDE = 6, (1, 11)  # sums of integer products, and floats that hold them to their own rounding


def is_float(kind: int | None) -> bool:
    """Whether an element type, as onnx numbers them, is a float of 16 bits or more."""
    return kind in _FLOATS


def _widens(before: int | None, after: int | None) -> bool:
    """Whether every value of one type is a value of the other."""
    if before not in _FLOATS or after not in _FLOATS:
        return False
    return all(a <= b for a, b in zip(_FLOATS[before], _FLOATS[after], strict=True))


@one_shift
def _cast(facts: Facts, node: Node, s: Shift) -> Shift | Effect:
    before, after = facts.graph.elem_type(tensor_at(node, 0)), node.attr("to")
    if _widens(before, after) or (before == _INT32 and after in _WIDE):
        return s
    return Block("stops", "it rounds to a narrower type")


@one_shift
def _neg(_: Facts, __: Node, s: Shift) -> Shift | Effect:
    return s if s.value is None else Shift.of_value(-s.value)


def _sum(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    if node.op == "Sub" and set(shifts) == {0, 1} and shifts[0].tag is not None and are_equal(shifts[0], shifts[1]):
        return Cancel(EffectKind.SUM, "the shifts of its operands cancel")
    signs = {slot: -1.0 if node.op == "Sub" and slot == 1 else 1.0 for slot in shifts}
    ranks = [facts.rank(t) for t in node.inputs]
    known_ranks = [r for r in ranks if r is not None]
    rank = max([*known_ranks, *(s.rank for s in shifts.values())])
    if len(known_ranks) < len(ranks) and any(not s.constant_on(range(s.rank)) for s in shifts.values()):
        return Block("rank", "the number of axes of its other operand is not known")
    parts = [s if s.value is None or signs[i] > 0 else Shift.of_value(-s.value, s.masked) for i, s in shifts.items()]
    whole = add_shifts([p.of_rank(rank) for p in parts])
    return Cancel(EffectKind.SUM, "the shifts of its operands cancel") if whole.is_zero else Propagate({0: whole})


def _mean(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    if any(s.value is None for s in shifts.values()):
        return Block("stops", "the shift depends on the data")
    out = _sum(facts, node, shifts)
    if isinstance(out, Propagate):
        value = out.shifts[0].value
        assert value is not None
        return Propagate({0: Shift.of_value(value / len(node.inputs))})
    return out


def _product(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    if len(shifts) != 1:
        return Block("gate", "both its factors are shifted")
    ((slot, s),) = shifts.items()
    if node.op == "Div" and slot == 1:
        return Block("stops", "it divides by the shifted value")
    other = node.tensor_in(1 - slot)
    if other is None:
        return Block("stops", "it has one operand")
    rank = facts.rank(other)
    weight = facts.read_weight(other)
    if weight is not None and s.value is not None:
        factor = weight.float64()
        if node.op == "Div" and (factor == 0).any():
            return Block("stops", "it divides by zero")
        if factor.size * s.value.size > MOST_ELEMENTS:
            return Block("too-large", "the shift would vary in too many places")
        return Propagate({0: Shift.of_value(s.value / factor if node.op == "Div" else s.value * factor)})
    if rank is None:
        return Block("rank", "the number of axes of its other factor is not known")
    # x * m with m known at run time: the shift is D * m, of which only the axes are known.
    whole = s.of_rank(max(rank, s.rank))
    shape = facts.shape(other)
    lead = whole.rank - rank
    still = {i for i in whole.invariant if i < lead or (shape is not None and shape[i - lead] == 1)}
    moved = Shift.of_axes(whole.rank, still)
    if s.tag is not None:
        moved = moved.tagged((s.tag, node.op, other.name))
    return Propagate({0: moved}, EffectKind.FACTOR)


def _where(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    if 0 in shifts:
        return Block("stops", "its condition is shifted")
    ranks = [facts.rank(t) for t in node.inputs]
    if {1, 2} <= set(shifts):
        if not are_equal(shifts[1], shifts[2]):
            return Block("branches", "its branches are shifted differently")
        if any(r is None for r in ranks):
            return Block("rank", "the number of axes of an operand is not known")
        return Propagate({0: shifts[1].of_rank(max(r for r in ranks if r is not None))})
    ((slot, s),) = shifts.items()
    other = tensor_at(node, 3 - slot)
    value = facts.constants.evaluate(other)
    if value is None or not (value == -np.inf).all():
        return Block("mask-fill", "its other branch does not move with the shift (a finite mask fill, or data)")
    if any(r is None for r in ranks):
        return Block("rank", "the number of axes of an operand is not known")
    whole = s.of_rank(max(r for r in ranks if r is not None))
    return Propagate(
        {0: Shift(whole.rank, whole.invariant, whole.value, masked=True)},
        EffectKind.MASKED,
    )


def _extreme(_: Facts, node: Node, shifts: Shifts) -> Effect:
    if len(shifts) != len(node.inputs):
        return Block("stops", "its operands are not shifted alike")
    first, *rest = shifts.values()
    if all(are_equal(first, s) for s in rest):
        return Propagate({0: first})
    return Block("stops", "its operands are not shifted alike")


ELEMENTWISE_RULES: dict[str, Rule] = {
    "Identity": Rule(_same, masked=True, tiled=True, trunk=True),
    "Dropout": Rule(_dropout, masked=True, tiled=True, trunk=True),
    "Cast": Rule(_cast, masked=True, tiled=True),
    "CastLike": Rule(_cast_like, masked=True, tiled=True),
    **dict.fromkeys(("Shape", "Size"), Rule(_only_shape, masked=True, tiled=True)),
    "Neg": Rule(_neg),
    "Add": Rule(_sum, masked=True, since=7),
    "Sub": Rule(_sum, since=7),
    "Sum": Rule(_sum),
    "Mean": Rule(_mean),
    **dict.fromkeys(("Mul", "Div"), Rule(_product, since=7)),
    "Where": Rule(_where),
    **dict.fromkeys(("Max", "Min"), Rule(_extreme)),
}
