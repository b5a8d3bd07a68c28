"""What becomes of a shift under convolutions and products."""

from __future__ import annotations

import numpy as np

from converter.analysis import linear as lin
from converter.analysis.facts import Facts
from converter.analysis.linear import Linear
from converter.analysis.outcomes import Carry, Outcome, Rule, Shifts, Stop
from converter.analysis.pools import reads_padding
from converter.analysis.shifts import MOST_ELEMENTS, Array, Shift, known, unknown
from converter.analysis.transfer_attention import by_data, sums_to_one
from converter.graph import Node, Tensor


def conv_problem(facts: Facts, node: Node, s: Shift) -> Stop | None:
    """Why a convolution does not turn the shift into one shift per channel; None if it does."""
    if not s.constant_on([0, *range(2, s.rank)]):
        return Stop("varies", "the shift varies over positions")
    weight = facts.readable(node.inputs[1])
    if weight is None:
        return Stop("stops", "its weight is known at run time only")
    if node.op == "Conv":
        return (
            Stop("padding", "it reads padded zeros, which the shift does not reach")
            if reads_padding(facts, node)
            else None
        )
    plain = not any(node.attr("pads", [0])) and not any(node.attr("output_padding", [0]))
    unit = all(k == 1 for k in weight.shape[2:]) and all(v == 1 for v in node.attr("strides", [1]))
    if plain and unit and node.attr("output_shape") is None and node.attr("auto_pad", "NOTSET") != "SAME_UPPER":
        return None
    return Stop("phases", "its borders and phases see unequal taps")


def added_by_conv(facts: Facts, linear: Linear, s: Shift) -> Array:
    """What the shift of the input adds to each output channel, shape [O]."""
    assert s.value is not None
    channels = lin.in_channels(facts, linear)
    return lin.input_sum(facts, linear, np.broadcast_to(s.value.reshape(-1), (channels,)))


def _conv(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    if set(shifts) != {0}:
        return Stop("stops", "its parameters are shifted")
    s = shifts[0]
    problem = conv_problem(facts, node, s)
    if problem is not None:
        return problem
    if s.value is None:
        return Carry({0: unknown(s.rank, [0, *range(2, s.rank)])})
    added = added_by_conv(facts, Linear(node, node, 2), s)
    return Carry({0: known(added.reshape(1, -1, *[1] * (s.rank - 2)))}, "through its weights")


def _gemm(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    if set(shifts) != {0} or node.attr("transA", 0):
        return Stop("stops", "it is not its first factor, as it stands, that is shifted")
    s = shifts[0]
    if facts.readable(node.inputs[1]) is None:
        return Stop("stops", "its weight is known at run time only")
    if s.value is None:
        return Carry({0: unknown(2, s.invariant & {0})})
    linear = Linear(node, node, 2)
    row = np.broadcast_to(s.value, (s.value.shape[0], lin.in_channels(facts, linear)))
    return Carry({0: known(np.stack([lin.input_sum(facts, linear, r) for r in row]))}, "through its weights")


def _matmul(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    if len(shifts) != 1:
        return Stop("bilinear", "both its factors are shifted")
    ((slot, s),) = shifts.items()
    other = node.tensor_in(1 - slot)
    if other is None or s.rank < 2:
        return Stop("rank", "it is a product of vectors")
    weight = facts.readable(other)
    if s.value is not None and not s.tiled and weight is not None and len(weight.shape) >= 2:
        return _constant_product(s.value, weight.master(), slot)
    rank = facts.rank(other)
    if rank is None or rank < 2:
        return Stop("rank", "the number of axes of its other factor is not known, or one")
    mine, theirs = (s.rank - 2, rank - 1) if slot == 1 else (s.rank - 1, rank - 2)
    if sums_to_one(facts, other, theirs):
        if s.constant_on([mine]):
            return Carry({0: s.of_rank(max(rank, s.rank))}, "rows of weights that sum to one hand it on")
        return Stop("varies", "the shift varies along the axis that the weights sum over")
    return Carry({0: _bilinear(facts, s, other, rank, slot)}, by_data(facts, other))


def _constant_product(value: Array, matrix: Array, slot: int) -> Outcome:
    contracted = matrix.shape[-2 if slot == 0 else -1]
    axis = value.ndim - 1 if slot == 0 else value.ndim - 2
    wide = np.repeat(value, contracted, axis) if value.shape[axis] == 1 else value
    if wide.size * matrix.shape[-1] > MOST_ELEMENTS * 64:
        return Stop("too-large", "the shift would vary in too many places")
    product = wide @ matrix if slot == 0 else matrix @ wide
    if product.size > MOST_ELEMENTS:
        return Stop("too-large", "the shift would vary in too many places")
    return Carry({0: known(product)}, "through its weights")


def _bilinear(facts: Facts, s: Shift, other: Tensor, rank: int, slot: int) -> Shift:
    """D times data: unknown, but the same along the axis that only the shifted factor has."""
    whole = s.of_rank(max(rank, s.rank))
    shape = facts.shape(other)
    lead = whole.rank - rank
    free = whole.rank - (2 if slot == 0 else 1)  # rows of the first factor, columns of the second
    invariant = {free} if free in whole.invariant else set()
    for i in range(whole.rank - 2):
        single = i < lead or (shape is not None and shape[i - lead] == 1)
        if i in whole.invariant and single:
            invariant.add(i)
    return unknown(whole.rank, invariant)


def _einsum(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    terms = _parse(node.attr("equation", ""))
    if terms is None or len(shifts) != 1 or len(node.inputs) != 2:
        return Stop("stops", "its equation is not a product of two factors")
    ((slot, s),) = shifts.items()
    mine, theirs, out = terms[slot], terms[1 - slot], terms[2]
    if len(mine) != s.rank:
        return Stop("rank", "its equation does not fit")
    other = node.inputs[1 - slot]
    contracted = [c for c in mine if c not in out]
    summed = [c for c in theirs if c not in out]  # one more than the softmax's axis would scale the sum
    averages = contracted == summed and len(summed) == 1 and sums_to_one(facts, other, theirs.index(summed[0]))
    if averages and mine.index(contracted[0]) in s.invariant and not _alone(mine, theirs, out):
        return _place(s, mine, out)
    invariant = [j for j, c in enumerate(out) if c in mine and c not in theirs and mine.index(c) in s.invariant]
    weight = facts.readable(other)
    if weight is not None and s.value is not None:
        return _constant_einsum(s, weight.master(), (mine, theirs, out))
    return Carry({0: unknown(len(out), invariant)}, by_data(facts, other))


def _alone(mine: str, theirs: str, out: str) -> bool:
    """Whether an axis is summed over that the other factor has not: the sum would scale the shift."""
    return any(c not in out and c not in theirs for c in mine)


def _place(s: Shift, mine: str, out: str) -> Outcome:
    kept = [c for c in mine if c in out]
    order = [c for c in out if c in mine]
    invariant = {j for j, c in enumerate(out) if c not in mine or mine.index(c) in s.invariant}
    if s.value is None:
        return Carry({0: unknown(len(out), invariant)})
    squeezed = s.value.reshape([s.value.shape[mine.index(c)] for c in kept])
    moved = squeezed.transpose([kept.index(c) for c in order])
    shape = [moved.shape[order.index(c)] if c in order else 1 for c in out]
    return Carry({0: known(moved.reshape(shape))}, "rows of weights that sum to one hand it on")


def _constant_einsum(s: Shift, weight: Array, terms: tuple[str, str, str]) -> Outcome:
    mine, theirs, out = terms
    assert s.value is not None
    if any(c not in theirs and (c not in out or s.value.shape[i] != 1) for i, c in enumerate(mine)):
        return Stop("stops", "the shift varies along an axis that its equation sums or keeps alone")
    extents = dict(zip(theirs, weight.shape, strict=True))
    shape = [extents.get(c, 1) for c in mine]
    if int(np.prod([extents.get(c, 1) for c in set(mine + theirs)])) > MOST_ELEMENTS * 64:
        return Stop("too-large", "the shift would vary in too many places")
    equation = f"{mine},{theirs}->{out}"
    return Carry({0: known(np.einsum(equation, np.broadcast_to(s.value, shape), weight))}, "through its weights")


def _parse(equation: str) -> tuple[str, str, str] | None:
    text = equation.replace(" ", "")
    if "..." in text or "->" not in text or text.count(",") != 1:
        return None
    left, out = text.split("->")
    first, second = left.split(",")
    if any(len(set(t)) != len(t) for t in (first, second, out)):
        return None
    return first, second, out


PRODUCT_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
}
