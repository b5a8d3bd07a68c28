"""One table: operator -> what becomes of a constant shift of its inputs.

Every rule is an identity in real arithmetic, tested in float64. Sources: the ONNX operator schemas;
measured tables of which operators commute with a constant (pools, resizes, pads, norms, attention).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from converter.analysis.facts import Facts, further_outputs
from converter.analysis.shifts import MOST_ELEMENTS, Shift, known, same, total, unknown
from converter.graph import Node, Tensor


@dataclass(frozen=True, slots=True)
class Carry:
    """The outputs have shifts of their own."""

    shifts: Mapping[int, Shift]  # output slot -> shift
    how: str = ""


@dataclass(frozen=True, slots=True)
class Gone:
    """The outputs do not depend on the shift."""

    how: str
    kind: str  # norm | softmax | cancelled | shape


@dataclass(frozen=True, slots=True)
class Stop:
    """The shift is felt here; it cannot be taken out by this path."""

    code: str
    why: str


Outcome = Carry | Gone | Stop
Shifts = Mapping[int, Shift]
Rule = Callable[[Facts, Node, Shifts], Outcome]

# What exporters put between a bias and the place where it can go; everything else is felt.
LINEARITY = "it is not linear, so it feels the shift"


def through(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    """What becomes of the shifts of the node's inputs.

    Parameters
    ----------
    shifts : mapping of input slot to Shift; slots that are not in it have none
    """
    rule = RULES.get(node.op) if node.is_standard else None
    if rule is None and node.is_standard and node.op in NOT_LINEAR:
        return Stop("stops", LINEARITY)
    if rule is None:
        return Stop("unknown-operator", "it is not known to hand a shift on")
    if node.function_attrs:
        return Stop("function-attribute", "an attribute comes from each call of its function")
    if any(s.masked for s in shifts.values()) and node.op not in _MASK_SAFE:
        return Stop("masked", "entries that are minus infinity may not meet it")
    if node.scope.opset < 7 and node.op in ("Add", "Sub", "Mul", "Div"):
        return Stop("opset", "before opset 7 broadcasting is an attribute")
    if node.op not in _TILE_SAFE:
        shifts = {i: s.by_axes if s.tiled else s for i, s in shifts.items()}
    return rule(facts, node, shifts)


def _tensor(node: Node, slot: int) -> Tensor:
    found = node.tensor_in(slot)
    assert found is not None
    return found


def only(shifts: Shifts, slot: int = 0) -> Shift | Stop:
    """The one shift, if it is at `slot`."""
    if set(shifts) != {slot}:
        return Stop("stops", "it feels a shift of its parameters")
    return shifts[slot]


NOT_LINEAR = frozenset(
    "Relu LeakyRelu PRelu Elu Selu Celu Gelu ThresholdedRelu Clip Sigmoid HardSigmoid HardSwish Mish Swish Tanh "
    "Softplus Softsign Exp Log Sqrt Reciprocal Pow Abs Sign Erf Floor Ceil Round Sin Cos Not Equal Greater Less LSTM "
    "GRU RNN RMSNormalization LpNormalization LRN ReduceL2 ReduceProd QuantizeLinear DynamicQuantizeLinear TopK".split()
)


def _only_shape(_: Facts, node: Node, shifts: Shifts) -> Outcome:
    return Gone("it reads the shape alone", "shape")


def _cast_like(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    if 0 not in shifts:
        return Gone("it reads the type alone", "shape")
    before, after = (facts.graph.elem_type(_tensor(node, i)) for i in (0, 1))
    if _widens(before, after):
        return Carry({0: shifts[0]})
    return Stop("stops", "it rounds to a narrower type")


# -- one element to one element --------------------------------------------------------------


def _same(_: Facts, __: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    return s if isinstance(s, Stop) else Carry({0: s})


def _dropout(_: Facts, node: Node, shifts: Shifts) -> Outcome:
    from converter.analysis.views import is_view

    s = only(shifts)
    if isinstance(s, Stop):
        return s
    return Carry({0: s}) if is_view(node) else Stop("stops", "it may drop elements at random")


_FLOATS = {10: (11, 5), 16: (8, 8), 1: (24, 8), 11: (53, 11)}  # element type -> bits of significand and exponent


def is_float(kind: int | None) -> bool:
    """Whether an element type, as onnx numbers them, is a float of 16 bits or more."""
    return kind in _FLOATS


def _widens(before: int | None, after: int | None) -> bool:
    """Whether every value of one type is a value of the other."""
    if before not in _FLOATS or after not in _FLOATS:
        return False
    return all(a <= b for a, b in zip(_FLOATS[before], _FLOATS[after], strict=True))


def _cast(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    before, after = facts.graph.elem_type(_tensor(node, 0)), node.attr("to")
    if _widens(before, after):
        return Carry({0: s})
    return Stop("stops", "it rounds to a narrower type")


def _neg(_: Facts, __: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    return Carry({0: s if s.value is None else known(-s.value)})


def _sum(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    signs = {slot: -1.0 if node.op == "Sub" and slot == 1 else 1.0 for slot in shifts}
    ranks = [facts.rank(t) for t in node.inputs]
    known_ranks = [r for r in ranks if r is not None]
    rank = max([*known_ranks, *(s.rank for s in shifts.values())])
    if len(known_ranks) < len(ranks) and any(not s.constant_on(range(s.rank)) for s in shifts.values()):
        return Stop("rank", "the number of axes of its other operand is not known")
    parts = [s if s.value is None or signs[i] > 0 else known(-s.value, s.masked) for i, s in shifts.items()]
    whole = total([p.of_rank(rank) for p in parts])
    return Gone("the shifts of its operands cancel", "cancelled") if whole.is_zero else Carry({0: whole})


def _mean(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    if any(s.value is None for s in shifts.values()):
        return Stop("stops", "the shift depends on the data")
    out = _sum(facts, node, shifts)
    if isinstance(out, Carry):
        value = out.shifts[0].value
        assert value is not None
        return Carry({0: known(value / len(node.inputs))})
    return out


def _product(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    if len(shifts) != 1:
        return Stop("gate", "both its factors are shifted")
    ((slot, s),) = shifts.items()
    if node.op == "Div" and slot == 1:
        return Stop("stops", "it divides by the shifted value")
    other = node.tensor_in(1 - slot)
    if other is None:
        return Stop("stops", "it has one operand")
    rank = facts.rank(other)
    weight = facts.readable(other)
    if weight is not None and s.value is not None:
        factor = weight.master()
        if node.op == "Div" and (factor == 0).any():
            return Stop("stops", "it divides by zero")
        if factor.size * s.value.size > MOST_ELEMENTS:
            return Stop("too-large", "the shift would vary in too many places")
        return Carry({0: known(s.value / factor if node.op == "Div" else s.value * factor)})
    if rank is None:
        return Stop("rank", "the number of axes of its other factor is not known")
    # x * m with m known at run time: the shift is D * m, of which only the axes are known.
    whole = s.of_rank(max(rank, s.rank))
    shape = facts.shape(other)
    lead = whole.rank - rank
    still = {i for i in whole.invariant if i < lead or (shape is not None and shape[i - lead] == 1)}
    return Carry({0: unknown(whole.rank, still)}, "by a factor that depends on the data")


def _where(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    if 0 in shifts:
        return Stop("stops", "its condition is shifted")
    ranks = [facts.rank(t) for t in node.inputs]
    if {1, 2} <= set(shifts):
        if not same(shifts[1], shifts[2]):
            return Stop("branches", "its branches are shifted differently")
        if any(r is None for r in ranks):
            return Stop("rank", "the number of axes of an operand is not known")
        return Carry({0: shifts[1].of_rank(max(r for r in ranks if r is not None))})
    ((slot, s),) = shifts.items()
    other = _tensor(node, 3 - slot)
    value = facts.constants.evaluate(other)
    if value is None or not (value == -np.inf).all():
        return Stop("mask-fill", "its other branch does not move with the shift (a finite mask fill, or data)")
    if any(r is None for r in ranks):
        return Stop("rank", "the number of axes of an operand is not known")
    whole = s.of_rank(max(r for r in ranks if r is not None))
    return Carry(
        {0: Shift(whole.rank, whole.invariant, whole.value, masked=True)}, "masked entries stay minus infinity"
    )


def _extreme(_: Facts, node: Node, shifts: Shifts) -> Outcome:
    if len(shifts) != len(node.inputs):
        return Stop("stops", "its operands are not shifted alike")
    first, *rest = shifts.values()
    if all(same(first, s) for s in rest):
        return Carry({0: first})
    return Stop("stops", "its operands are not shifted alike")


# -- pools, reductions, norms ----------------------------------------------------------------


def _pool(_: Facts, node: Node, shifts: Shifts) -> Outcome:
    from converter.analysis.pools import average_counts_padding, is_average, is_pool

    s = only(shifts)
    if isinstance(s, Stop):
        return s
    if not is_pool(node):
        return Stop("stops", "its indices are read as well")
    if is_average(node) and average_counts_padding(node):
        return Stop("counted-padding", "it averages padded zeros in, which the shift does not reach")
    if not s.constant_on(range(2, s.rank)):
        return Stop("varies", "the shift varies over the positions that it pools")
    return Carry({0: s})


def reduced_axes(facts: Facts, node: Node, rank: int) -> list[int] | None:
    """Axes that a reduction works on; None if they are not known."""
    source = node.tensor_in(1)
    if source is not None:
        value = facts.constants.evaluate(source)
        if value is None:
            return None
        axes = [int(a) for a in value.reshape(-1)]
    else:
        axes = list(node.attr("axes") or [])
    if not axes:
        return [] if node.attr("noop_with_empty_axes", 0) else list(range(rank))
    return [a % rank for a in axes]


def _reduce(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    axes = reduced_axes(facts, node, s.rank)
    if axes is None:
        return Stop("axes", "its axes are known at run time only")
    if not s.constant_on(axes):
        return Stop("varies", "the shift varies along the axes that it reduces")
    times = 1.0
    if node.op == "ReduceSum":
        shape = facts.shape(_tensor(node, 0))
        extents = [None if shape is None else shape[a] for a in axes]
        if any(not isinstance(d, int) for d in extents):
            return Stop("axes", "the number of elements that it sums is not known")
        times = float(np.prod([d for d in extents if isinstance(d, int)]))
    if node.attr("keepdims", 1):
        return Carry({0: s if s.value is None else known(s.value * times)})
    kept = [i for i in range(s.rank) if i not in axes]
    invariant = {j for j, i in enumerate(kept) if i in s.invariant}
    if s.value is None:
        return Carry({0: unknown(len(kept), invariant)})
    return Carry({0: known(s.value.reshape([s.value.shape[i] for i in kept]) * times)})


def _centred(axes_of: Callable[[Facts, Node, int], list[int] | None], what: str) -> Rule:
    """A norm that subtracts the mean over some axes."""

    def rule(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
        s = only(shifts)
        if isinstance(s, Stop):
            return s
        if further_outputs(node):
            return Stop("stops", "the mean that it gives as well would change")
        axes = axes_of(facts, node, s.rank)
        if axes is None:
            return Stop("stops", "its axes are not known")
        if s.constant_on(axes):
            return Gone(f"{what} subtracts the mean, the shift with it", "norm")
        return Stop("norm-mixes-channels", "it takes the mean over channels that are shifted differently")

    return rule


def _layer_axes(_: Facts, node: Node, rank: int) -> list[int]:
    return list(range(node.attr("axis", -1) % rank, rank))


def _mvn_axes(_: Facts, node: Node, rank: int) -> list[int]:
    return [a % rank for a in (node.attr("axes") or [0, 2, 3])]


def _group_norm(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    shape = facts.shape(_tensor(node, 0))
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    groups = node.attr("num_groups", 0)
    if not s.constant_on(range(2, s.rank)):
        return Stop("varies", "the shift varies over positions")
    if s.constant_on([1]) or (groups and channels == groups):
        return Gone("group normalisation subtracts the mean, the shift with it", "norm")
    if s.value is not None and groups and s.value.shape[1] % groups == 0:
        grouped = s.value.reshape(s.value.shape[0], groups, -1)
        if (grouped == grouped[:, :, :1]).all():
            return Gone("every channel of a group is shifted alike", "norm")
    return Stop("norm-mixes-channels", "it takes the mean over channels that are shifted differently")


def _batch_norm(_: Facts, node: Node, shifts: Shifts) -> Outcome:
    from converter.analysis.affine import affine_at, training_problem

    s = only(shifts)
    if isinstance(s, Stop):
        return s
    affine = affine_at(node, 0)
    if affine is None or training_problem(affine) is None:
        return Stop("batch-norm", "its statistics are fixed, so it feels the shift")
    if node.scope.opset < 14:
        return Stop("batch-norm", "before opset 14 runtimes differ on what training means")
    if further_outputs(node):
        return Stop("batch-norm", "the statistics that it gives would change")
    if s.constant_on([0, *range(2, s.rank)]):
        return Gone("batch normalisation in training subtracts the batch's mean", "norm")
    return Stop("varies", "the shift varies over positions")


def softmax_axes(node: Node, rank: int) -> list[int]:
    """Axes over which a softmax's weights sum to one: before opset 13 all from `axis` on."""
    if node.scope.opset < 13:
        return list(range(node.attr("axis", 1) % rank, rank))
    return [node.attr("axis", -1) % rank]


def _softmax(_: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    if s.constant_on(softmax_axes(node, s.rank)):
        return Gone("softmax does not feel what all its entries share", "softmax")
    return Stop("softmax", "its entries are shifted differently")


def _arg(_: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    if s.constant_on([node.attr("axis", 0) % s.rank]):
        return Gone("the place of the extreme stays where it is", "softmax")
    return Stop("stops", "its entries are shifted differently")


_MASK_SAFE = frozenset(
    "Shape Size CastLike Identity Cast Dropout Add Softmax Reshape Transpose Squeeze Unsqueeze".split()
)

# What a shift that repeats may meet with its value: attention in which batch and heads are one axis.
_TILE_SAFE = frozenset("Shape Size CastLike Identity Cast Dropout Reshape Transpose MatMul".split())

RULES: dict[str, Rule] = {
    "Identity": _same,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    **dict.fromkeys(("Shape", "Size"), _only_shape),
    "Neg": _neg,
    **dict.fromkeys(("Add", "Sub", "Sum"), _sum),
    "Mean": _mean,
    **dict.fromkeys(("Mul", "Div"), _product),
    "Where": _where,
    **dict.fromkeys(("Max", "Min"), _extreme),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"), _reduce),
    "InstanceNormalization": _centred(lambda _, __, r: list(range(2, r)), "instance normalisation"),
    "LayerNormalization": _centred(_layer_axes, "layer normalisation"),
    "MeanVarianceNormalization": _centred(_mvn_axes, "mean-variance normalisation"),
    "GroupNormalization": _group_norm,
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
}
