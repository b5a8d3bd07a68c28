"""What becomes of a shift under convolutions and products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from converter.model.graph import Node, Tensor
from converter.records import EffectKind
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.channel_axis import is_view, reads_padding
from converter.rewrite.analysis.facts import Facts, further_outputs
from converter.rewrite.analysis.linear import Linear
from converter.rewrite.bias_flow.rules.elementwise import is_float
from converter.rewrite.bias_flow.rules.normalization import find_softmax_axes
from converter.rewrite.bias_flow.shift import (
    MOST_ELEMENTS,
    Array,
    Block,
    Cancel,
    Effect,
    Propagate,
    Rule,
    Shift,
    Shifts,
)


def sums_to_one(facts: Facts, weights: Tensor, axis: int) -> bool:
    """Whether `weights` surely sum to one along `axis`: they come from a softmax over it, perhaps transposed.

    A guard in between (a fully masked row set to zero) would break the sum, so none may stand there. A cast
    rounds the weights, as it rounds what they weigh.
    """
    maker, axis = _find_maker(facts, weights, axis)
    if maker is None or not maker.is_op("Softmax"):
        return False
    rank = facts.rank(maker.outputs[0]) or facts.rank(maker.inputs[0])
    return rank is not None and find_softmax_axes(maker, rank) == [axis]


def _find_maker(facts: Facts, weights: Tensor, axis: int) -> tuple[Node | None, int]:
    """The node that computes the weights, which others only hand on, and where `axis` lies there."""
    tensor = weights
    while True:
        node = facts.graph.producer(tensor)
        if node is None or node.function_attrs or node.outputs[0] is not tensor:
            return None, axis
        if node.is_op("Transpose"):
            perm = node.attr("perm")
            rank = facts.rank(tensor) if perm is None else len(perm)
            if rank is None or axis >= rank:
                return None, axis
            axis = rank - 1 - axis if perm is None else int(perm[axis])
        elif not _keeps_weights(facts, node):
            return node, axis
        tensor = node.inputs[0]


def weigh_by_data(facts: Facts, weights: Tensor) -> tuple[EffectKind, str]:
    """What to say of a product with data; of attention's, what keeps its weights from summing to one."""
    maker, _ = _find_maker(facts, weights, 0)
    sources = [] if maker is None else [facts.graph.producer(t) for t in maker.inputs if t.name]
    if maker is None or not any(n is not None and n.is_op("Softmax") for n in sources):
        return EffectKind.DATA, ""
    why = f"multiplied by data: after {maker.op} ({maker.label}) its weights need not sum to one"
    return EffectKind.UNNORMALIZED, why


def _keeps_weights(facts: Facts, node: Node) -> bool:
    if node.is_op("Cast"):
        return is_float(facts.graph.elem_type(node.inputs[0])) and is_float(node.attr("to"))
    return node.is_op("Identity", "Dropout") and is_view(facts, node)


_Q, _K, _V, _MASK, _PAST_K, _PAST_V, _LENGTHS = range(7)


def _attention(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    """ONNX Attention (opset 23 and later): q, k, v, mask, past key, past value."""
    if len(shifts) != 1:
        return Block("bilinear", "several of its inputs are shifted")
    ((slot, s),) = shifts.items()
    sequence = 2 if s.rank == 4 else 1
    if further_outputs(node) or node.tensor_in(_PAST_K) is not None or node.tensor_in(_PAST_V) is not None:
        return Block("cache", "its keys and values are kept for later calls, or its scores are read")
    if slot not in (_K, _V) or not s.constant_on([sequence]):
        return Block("attention-query", "it weighs the keys by the shifted value")
    if slot == _K:
        if node.attr("softcap", 0.0):
            return Block("softcap", "it squashes the scores before its softmax")
        return Cancel(EffectKind.SOFTMAX, "softmax does not depend on what all keys share")
    if node.tensor_in(_MASK) is not None or node.tensor_in(_LENGTHS) is not None:
        return Block("masked-rows", "a row that its mask closes gives zero, not the shift")
    heads = (node.attr("q_num_heads"), node.attr("kv_num_heads"))
    shapes = [facts.shape(node.inputs[i]) for i in (_Q, _V)]
    if s.rank == 4:
        heads = tuple(None if d is None else d[1] for d in shapes)  # type: ignore[assignment]
    if not all(isinstance(h, int) for h in heads) or heads[1] == 0 or heads[0] % heads[1]:
        return Block("grouped-heads", "how many query heads share a value head is not known")
    return Propagate({0: _to_query_heads(s, *heads)}, EffectKind.SOFTMAX_ROWS)


def _to_query_heads(s: Shift, n_query: int, n_value: int) -> Shift:
    """The shift of the value heads beside the query heads that read them, in runs."""
    if n_query == n_value or s.value is None:
        return s
    axis = 1 if s.rank == 4 else 2
    if axis in s.invariant:
        return s
    if s.rank == 4:
        return Shift.of_value(np.repeat(s.value, n_query // n_value, 1))
    heads = s.value.reshape(*s.value.shape[:2], n_value, -1)
    return Shift.of_value(np.repeat(heads, n_query // n_value, 2).reshape(*s.value.shape[:2], -1))


def conv_problem(facts: Facts, node: Node, s: Shift) -> Block | None:
    """Why a convolution does not turn the shift into one shift per channel; None if it does."""
    if not s.constant_on([0, *range(2, s.rank)]):
        return Block("varies", "the shift varies over positions")
    weight = facts.read_weight(node.inputs[1])
    if weight is None:
        return Block("stops", "its weight is known at run time only")
    if node.op in ("Conv", "FusedConv"):
        return (
            Block("padding", "it reads padded zeros, which the shift does not reach")
            if reads_padding(facts, node)
            else None
        )
    plain = not any(node.attr("pads", [0])) and not any(node.attr("output_padding", [0]))
    unit = all(k == 1 for k in weight.shape[2:]) and all(v == 1 for v in node.attr("strides", [1]))
    if plain and unit and node.attr("output_shape") is None and node.attr("auto_pad", "NOTSET") != "SAME_UPPER":
        return None
    return Block("phases", "its borders and phases see unequal taps")


def convolve_shift(facts: Facts, linear: Linear, s: Shift) -> Array:
    """What the shift of the input adds to each output channel, shape [O]."""
    assert s.value is not None
    channels = lin.in_channels(facts, linear)
    return lin.input_sum(facts, linear, np.broadcast_to(s.value.reshape(-1), (channels,)))


def propagate_conv(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    if set(shifts) != {0}:
        return Block("stops", "its parameters are shifted")
    s = shifts[0]
    problem = conv_problem(facts, node, s)
    if problem is not None:
        return problem
    if s.value is None:
        return Propagate({0: Shift.of_axes(s.rank, [0, *range(2, s.rank)])})
    added = convolve_shift(facts, Linear(node, node, 2), s)
    return Propagate({0: Shift.of_value(added.reshape(1, -1, *[1] * (s.rank - 2)))}, EffectKind.WEIGHTS)


def propagate_gemm(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    if len(shifts) == 1 and not shifts.keys() - {0, 1}:
        ((slot, shift),) = shifts.items()
        if facts.read_weight(node.inputs[1 - slot]) is None and shift.rank == 2:
            return _multiply_computed(facts, node, slot, shift)
    if set(shifts) != {0} or node.attr("transA", 0):
        return Block("stops", "it is not its first factor, as it stands, that is shifted")
    s = shifts[0]
    if facts.read_weight(node.inputs[1]) is None:
        return Block("stops", "its weight is known at run time only")
    if s.value is None:
        return Propagate({0: Shift.of_axes(2, s.invariant & {0})})
    linear = Linear(node, node, 2)
    row = np.broadcast_to(s.value, (s.value.shape[0], lin.in_channels(facts, linear)))
    return Propagate({0: Shift.of_value(np.stack([lin.input_sum(facts, linear, r) for r in row]))}, EffectKind.WEIGHTS)


def _multiply_computed(facts: Facts, node: Node, slot: int, s: Shift) -> Effect:
    """A Gemm of two computed matrices, one of them shifted, is a product of them as it turns them."""
    other, turned = node.inputs[1 - slot], [bool(node.attr(name, 0)) for name in ("transA", "transB")]
    if turned[slot]:
        s = s.move_axes(lambda d: d.swapaxes(0, 1))
    if sums_to_one(facts, other, int(slot == 1) ^ turned[1 - slot]):
        if float(node.attr("alpha", 1.0)) != 1:
            return Block("stops", "it multiplies the shift by its alpha")
        if s.constant_on([1 - slot]):
            return Propagate({0: s}, EffectKind.SOFTMAX_ROWS)
        return Block("varies", "the shift varies along the axis that the weights sum over")
    return Propagate({0: multiply_by_data(facts, s, other, 2, slot)}, *weigh_by_data(facts, other))


def _matmul(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    if len(shifts) != 1:
        return Block("bilinear", "both its factors are shifted")
    ((slot, s),) = shifts.items()
    other = node.tensor_in(1 - slot)
    if other is None or s.rank < 2:
        return Block("rank", "it is a product of vectors")
    weight = facts.read_weight(other)
    if s.value is not None and not s.tiled and weight is not None and len(weight.shape) >= 2:
        return multiply_shift(s.value, weight.float64(), slot)
    rank = facts.rank(other)
    if rank is None or rank < 2:
        return Block("rank", "the number of axes of its other factor is not known, or one")
    mine, theirs = (s.rank - 2, rank - 1) if slot == 1 else (s.rank - 1, rank - 2)
    if sums_to_one(facts, other, theirs):
        if s.constant_on([mine]):
            return Propagate({0: s.of_rank(max(rank, s.rank))}, EffectKind.SOFTMAX_ROWS)
        return Block("varies", "the shift varies along the axis that the weights sum over")
    return Propagate({0: multiply_by_data(facts, s, other, rank, slot)}, *weigh_by_data(facts, other))


def multiply_shift(value: Array, matrix: Array, slot: int) -> Effect:
    contracted = matrix.shape[-2 if slot == 0 else -1]
    axis = value.ndim - 1 if slot == 0 else value.ndim - 2
    wide = np.repeat(value, contracted, axis) if value.shape[axis] == 1 else value
    if wide.size * matrix.shape[-1] > MOST_ELEMENTS * 64:
        return Block("too-large", "the shift would vary in too many places")
    product = wide @ matrix if slot == 0 else matrix @ wide
    if product.size > MOST_ELEMENTS:
        return Block("too-large", "the shift would vary in too many places")
    return Propagate({0: Shift.of_value(product)}, EffectKind.WEIGHTS)


def multiply_by_data(facts: Facts, s: Shift, other: Tensor, rank: int, slot: int) -> Shift:
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
    return Shift.of_axes(whole.rank, invariant)


def _einsum(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    terms = _parse_equation(node.attr("equation", ""), [facts.rank(t) for t in node.inputs])
    if terms is None or len(shifts) != 1 or len(node.inputs) != 2:
        return Block("stops", "its equation is not a product of two factors")
    ((slot, s),) = shifts.items()
    mine, theirs, out = terms[slot], terms[1 - slot], terms[2]
    if len(mine) != s.rank:
        return Block("rank", "its equation does not fit")
    other = node.inputs[1 - slot]
    contracted = [c for c in mine if c not in out]
    summed = [c for c in theirs if c not in out]  # one more than the softmax's axis would scale the sum
    averages = contracted == summed and len(summed) == 1 and sums_to_one(facts, other, theirs.index(summed[0]))
    if averages and mine.index(contracted[0]) in s.invariant and not _sums_alone(mine, theirs, out):
        return _place_axes(s, mine, out)
    invariant = [j for j, c in enumerate(out) if c in mine and c not in theirs and mine.index(c) in s.invariant]
    weight = facts.read_weight(other)
    if weight is not None and s.value is not None:
        return _multiply_einsum(s, weight.float64(), (mine, theirs, out))
    return Propagate({0: Shift.of_axes(len(out), invariant)}, *weigh_by_data(facts, other))


def _sums_alone(mine: str, theirs: str, out: str) -> bool:
    """Whether an axis is summed over that the other factor has not: the sum would scale the shift."""
    return any(c not in out and c not in theirs for c in mine)


def _place_axes(s: Shift, mine: str, out: str) -> Effect:
    order = [c for c in out if c in mine]

    def move(d: Array) -> Array:
        placed = np.einsum(f"{mine}->{''.join(order)}", d)
        return np.asarray(placed.reshape([placed.shape[order.index(c)] if c in order else 1 for c in out]))

    return Propagate({0: s.move_axes(move)}, EffectKind.SOFTMAX_ROWS)


def _multiply_einsum(s: Shift, weight: Array, terms: tuple[str, str, str]) -> Effect:
    mine, theirs, out = terms
    assert s.value is not None
    if any(c not in theirs and (c not in out or s.value.shape[i] != 1) for i, c in enumerate(mine)):
        return Block("stops", "the shift varies along an axis that its equation sums or keeps alone")
    extents = dict(zip(theirs, weight.shape, strict=True))
    shape = [extents.get(c, 1) for c in mine]
    if int(np.prod([extents.get(c, 1) for c in set(mine + theirs)])) > MOST_ELEMENTS * 64:
        return Block("too-large", "the shift would vary in too many places")
    equation = f"{mine},{theirs}->{out}"
    return Propagate(
        {0: Shift.of_value(np.einsum(equation, np.broadcast_to(s.value, shape), weight))},
        EffectKind.WEIGHTS,
    )


def _parse_equation(equation: str, ranks: Sequence[int | None]) -> tuple[str, str, str] | None:
    """The letters of both factors and of the result; what dots stand for is the same of all, in upper case."""
    text = equation.replace(" ", "")
    if "..." in text:
        terms = text.partition("->")[0].split(",")
        counts = {
            None if n is None else n + 3 - len(t) for t, n in zip(terms, ranks, strict=False) if "..." in t
        }  # axes that the dots stand for
        n_dots = counts.pop() if len(counts) == 1 else None
        if n_dots is None or not 0 <= n_dots <= 8 or text != text.lower():
            return None
        text = text.replace("...", "ABCDEFGH"[:n_dots])
    if "->" not in text or text.count(",") != 1:
        return None
    left, out = text.split("->")
    first, second = left.split(",")
    if any(len(set(t)) != len(t) for t in (first, second, out)):
        return None
    return first, second, out


PRODUCT_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), Rule(propagate_conv)),
    "Gemm": Rule(propagate_gemm),
    "MatMul": Rule(_matmul, tiled=True),
    "Einsum": Rule(_einsum),
    "Attention": Rule(_attention),
}
