"""Quantized layers: where their scale lies, and what it becomes when the layer takes a factor.

W = scale * (q - zero): a factor of W goes into the scale, and q keeps its bytes, but where the factor is negative
or zero. Letters as in `linear`. Source: ONNX DequantizeLinear 10 to 25, MatMulInteger and ConvInteger 10;
onnxruntime's operator schemas of com.microsoft.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Edit, Node, Rename, SetAttr, SetConst, Tensor
from converter.records import Weight
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import Linear, Quantized

Array = NDArray[np.float64]
Decline = tuple[str, str]

# onnxruntime's operators: slots of scale and float bias, -1 for none (the integers of QGemm's count in its scale).
FUSED_WEIGHTS = {
    "QGemm": (4, -1),
    "MatMulNBits": (2, 5),
    "DynamicQuantizeMatMul": (2, 4),
    "MatMulIntegerToFloat": (3, 6),
}
_INTEGER = ("MatMulInteger", "ConvInteger")
QUANTIZED_TYPES = (*_INTEGER, "DequantizeLinear", *FUSED_WEIGHTS)  # one of these is in each quantized operator


# -- finding them ----------------------------------------------------------------------------


def quantized_at(facts: Facts, node: Node | None) -> Quantized | None:
    """The quantized operator whose result, bias included, `node` gives; None if there is none."""
    if node is None or node.tensor_out(0) is None:
        return None
    for found in _find_forms(facts, node):
        if found is not None and facts.constants.weight(found.weight) is not None and _fits(facts, found):
            return found
    return None


def _find_forms(facts: Facts, node: Node) -> Iterator[Quantized | None]:
    if node.is_op("Mul"):
        yield _find_chain(facts, node)
    elif node.is_op("DequantizeLinear"):
        yield _find_dequantized(facts, node)
    elif node.is_microsoft(*FUSED_WEIGHTS):
        yield _find_fused(facts, node)
    elif node.is_op("Add") and node.scope.opset >= 7:
        for data in (0, 1):
            source = node.tensor_in(data)
            producer = None if source is None else facts.graph.producer(source)
            inner = None if producer is None or producer.scope is not node.scope else quantized_at(facts, producer)
            if inner is not None and not inner.channels:
                inner = _along_bias(facts, inner, node, 1 - data)
            if inner is not None and inner.bias_node is None and is_bias_add(facts, inner, node, 1 - data):
                yield Quantized(
                    inner.node, node, 1 - data, inner.scale, inner.end, inner.channels, inner.axes_behind, inner.blocks
                )


def _along_bias(facts: Facts, found: Quantized, add: Node, slot: int) -> Quantized | None:
    """A DequantizeLinear of data whose channels are those of the vector that an Add puts on it."""
    bias = add.tensor_in(slot)
    weight = None if bias is None else facts.constants.weight(bias)
    varying = [] if weight is None else [k for k, d in enumerate(weight.shape) if d != 1]
    if weight is None or len(varying) != 1:
        return None
    behind = len(weight.shape) - 1 - varying[0]
    return Quantized(found.node, None, 0, found.scale, found.end, weight.shape[varying[0]], behind)


def quantized_into(facts: Facts, node: Node) -> Quantized | None:
    """The quantized operator that `node`, of a type of its own, belongs to, with the Add after it."""
    if not node.is_op(*_INTEGER, "DequantizeLinear") and not node.is_microsoft(*FUSED_WEIGHTS):
        return None
    found = quantized_at(facts, node)
    at = node
    for _ in range(_CHAIN):
        out = at.tensor_out(0)
        readers = [] if out is None else [r for r in facts.graph.readers(out) if r.is_op(*_LINKS)]
        if len(readers) != 1 or (found is not None and not readers[0].is_op("Add")):
            break
        at = readers[0]
        further = quantized_at(facts, at)
        if further is not None and further.node is node:
            found = further
    return found


_CHAIN = 6  # nodes from the integers to the bias
_LINKS = ("Cast", "Mul", "Add", "Reshape")


def _find_chain(facts: Facts, node: Node) -> Quantized | None:
    """Mul (Cast (MatMulInteger or ConvInteger), Mul (x's scale, W's scale)): the last, a constant, is the scale.

    Or a constant in the place of the inner Mul, where the scale of x is one too.
    """
    for data in (0, 1):
        integers, scales = node.tensor_in(data), node.tensor_in(1 - data)
        maker = None if integers is None else _find_integer_maker(facts, integers)
        if maker is None or scales is None:
            continue
        place = _find_scale(facts, node, 1 - data)
        weight = facts.constants.weight(maker.inputs[1])
        if place is None or weight is None:
            continue
        behind = len(weight.shape) - 2 if maker.is_op("ConvInteger") else 0
        channels = weight.shape[0] if behind else weight.shape[-1]
        if maker.is_op("MatMulInteger") and len(weight.shape) != 2:
            return None
        return Quantized(maker, None, 0, place, node, channels, behind)
    return None


def _find_scale(facts: Facts, node: Node, slot: int) -> tuple[Node, int] | None:
    """Where the constant scale of the weight lies: in the slot, or in a Mul by that of x that gives what lies there."""
    scales = node.inputs[slot]
    if facts.constants.weight(scales) is not None:
        return node, slot
    product = facts.graph.producer(scales)
    if product is None or not product.is_op("Mul") or product.scope is not node.scope:
        return None
    for k in (0, 1):
        scale, other = product.tensor_in(k), product.tensor_in(1 - k)
        if scale is None or other is None or facts.constants.weight(scale) is None:
            continue
        shape = facts.shape(other)
        fits = shape is not None and len(shape) <= 1 and all(d == 1 for d in shape)
        return (product, k) if fits else None
    return None


def _find_integer_maker(facts: Facts, tensor: Tensor) -> Node | None:
    """The integer product behind a Cast, and perhaps an Add of integers."""
    at: Tensor | None = tensor
    for _ in range(_CHAIN):
        node = None if at is None else facts.graph.producer(at)
        if node is None or node.is_op(*_INTEGER):
            return node
        if node.is_op("Add"):
            makers = [facts.graph.producer(t) for t in node.inputs]
            at = next(
                (t for t, m in zip(node.inputs, makers, strict=True) if m is not None and m.is_op(*_INTEGER)), None
            )
        elif node.is_op("Cast"):
            at = node.tensor_in(0)
        else:
            return None
    return None


def _find_dequantized(facts: Facts, node: Node) -> Quantized | None:
    """DequantizeLinear of data."""
    source, scale = node.tensor_in(0), node.tensor_in(1)
    if source is None or scale is None or facts.constants.weight(source) is not None:
        return None
    return Quantized(node, None, 0, (node, 1), node, 0)


def _find_fused(facts: Facts, node: Node) -> Quantized | None:
    scale, bias = FUSED_WEIGHTS[str(node.op)]
    weight = node.tensor_in(1)
    if node.tensor_in(scale) is None or weight is None:
        return None
    if node.op == "MatMulNBits":
        return Quantized(node, node, bias, (node, scale), node, int(node.attr("N", 0)), blocks=True)
    if node.op == "QGemm":
        weight = node.tensor_in(3)
        if weight is None or any(node.tensor_in(slot) is not None for slot in (7, 8)):
            return None  # its result is quantized
    matrix = facts.constants.weight(weight)
    if matrix is None or len(matrix.shape) != 2:
        return None
    channels = matrix.shape[0 if node.attr("transB", 0) else 1]
    if bias < 0:
        return Quantized(node, None, 0, (node, scale), node, channels)
    return Quantized(node, node, bias, (node, scale), node, channels)


def _fits(facts: Facts, found: Quantized) -> bool:
    """Whether the scale is one number, or one for each channel (and block)."""
    shape = facts.weight(found.weight).shape
    if not found.channels or found.node.is_op("DequantizeLinear"):
        return True
    if found.blocks:
        return math.prod(shape) % found.channels == 0 and len(shape) <= 3
    return _is_per_channel(found, shape)


def _is_per_channel(found: Quantized, shape: tuple[int, ...]) -> bool:
    """Whether a constant beside the result holds one number, or one for each channel."""
    if math.prod(shape) == 1:
        return True
    at = len(shape) - 1 - found.axes_behind
    return at >= 0 and shape[at] == found.channels and math.prod(shape) == found.channels


def is_bias_add(facts: Facts, found: Quantized, add: Node, slot: int) -> bool:
    """Whether an Add adds one constant per output channel, and alone reads the product."""
    bias = add.tensor_in(slot)
    if bias is None or not found.channels or facts.use_problem(found.result, add) is not None:
        return False
    constant = facts.constants.weight(bias)
    rank = facts.rank(found.result) or facts.rank(found.node.inputs[0])
    if constant is None or not numerics.is_float(constant.dtype) or rank is None or len(constant.shape) > rank:
        return False
    return math.prod(constant.shape) == found.channels and _is_per_channel(found, constant.shape)


def unpack_blocks(facts: Facts, node: Node) -> Array | None:
    """The matrix [K, N] of a MatMulNBits, dequantized; None where it is not constant, or packed in another way."""
    n, k, block, bits = (int(node.attr(a, d)) for a, d in (("N", 0), ("K", 0), ("block_size", 0), ("bits", 4)))
    weights = [None if (t := node.tensor_in(slot)) is None else facts.constants.weight(t) for slot in (1, 2, 3)]
    packed, scales, zeros = weights
    if packed is None or scales is None or bits not in (2, 4, 8) or node.tensor_in(4) is not None or not n * k * block:
        return None
    if zeros is None and node.tensor_in(3) is not None:
        return None
    if int(node.attr("accuracy_level", 0)) == 4:
        return None  # it rounds what it multiplies to 8 bits, block by block
    blocks = -(-k // block)
    integers = _unpack_bits(packed.load().reshape(n, blocks, -1), bits)[..., :block]
    at: Array = np.full((1, 1, 1), float(1 << (bits - 1)))
    if zeros is not None and zeros.dtype == np.uint8:
        at = _unpack_bits(zeros.load().reshape(n, -1), bits)[:, :blocks].reshape(n, blocks, 1)
    elif zeros is not None:
        at = zeros.float64().reshape(n, blocks, 1)
    values = (integers - at) * scales.float64().reshape(n, blocks, 1)
    return np.asarray(values.reshape(n, -1)[:, :k].T)


def _unpack_bits(packed: NDArray[np.uint8], bits: int) -> Array:
    """Bytes [..., n] as numbers [..., n * 8 / bits], those in the low bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.asarray(numbers.reshape(*packed.shape[:-1], -1), np.float64)


# -- what a factor makes of the scale ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rescaled:
    """The new scale, and all that changes with it."""

    scale: Weight
    edits: tuple[Edit, ...]


def rescale(facts: Facts, linear: Linear, factor: Array, *, inputs: bool, axis: int = 0) -> Rescaled | Decline | None:
    """What takes the factor [channels] in the place of the weight's numbers; None if these do themselves.

    Parameters
    ----------
    inputs : bool
        The factor is of the input channels, not of the output channels.
    axis : int
        Where the channels lie in a DequantizeLinear of data.
    """
    if isinstance(linear, Quantized):
        if linear.node.is_op("DequantizeLinear"):
            shape = facts.shape(linear.result)
            full = np.reshape(factor, (-1, *[1] * ((0 if shape is None else len(shape)) - 1 - axis)))
            return _rescale_dequantizer(facts, linear.node, _lead(full, 0 if shape is None else len(shape)), None)
        node, _ = linear.scale
        problem = None if node is linear.end else facts.use_problem(node.outputs[0], linear.end)
        if problem is not None:
            return problem
        scale = _scale_constant(facts, linear, factor)
        return Rescaled(scale, (SetConst(*linear.scale, scale, "scale"), *_spread_zero(facts, linear.node, scale)))
    problem = facts.constants.problem(linear.weight)
    if problem is None:
        return None
    return _rescale_weight(facts, linear, factor, inputs=inputs) or problem


def _spread_zero(facts: Facts, node: Node, scale: Weight) -> list[Edit]:
    """A QGemm has as many zero points as scales."""
    zero = node.tensor_in(5) if node.op == "QGemm" else None
    points = None if zero is None else facts.constants.weight(zero)
    if points is None or points.shape == scale.shape:
        return []
    spread = np.broadcast_to(points.load().astype(np.float64), scale.shape)
    return [SetConst(node, 5, numerics.NewTensor(spread, points.dtype), "zero_point")]


def _lead(array: Array, rank: int) -> Array:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def _scale_constant(facts: Facts, linear: Quantized, factor: Array) -> Weight:
    weight = facts.weight(linear.weight)
    if linear.blocks:
        view = (linear.channels, math.prod(weight.shape) // linear.channels)
        return numerics.scale_weight(weight, view, factor[:, None])
    if (factor == factor[0]).all():
        return numerics.scale_weight(weight, weight.shape, factor[0].reshape((1,) * len(weight.shape)))
    if math.prod(weight.shape) == 1:
        return numerics.NewTensor(weight.float64().reshape(()) * linear.spread(factor), weight.dtype)
    return numerics.scale_weight(weight, weight.shape, _lead(linear.spread(factor), len(weight.shape)))


def _rescale_weight(facts: Facts, linear: Linear, factor: Array, *, inputs: bool) -> Rescaled | Decline | None:
    """A weight behind DequantizeLinear, perhaps transposed on the way; None where something else makes it."""
    between: list[Tensor] = []
    tensor, reader = linear.weight, linear.node
    perms: list[list[int]] = []
    while True:
        node = facts.graph.producer(tensor)
        if node is None or not node.is_op("DequantizeLinear", "Transpose", "Identity") or node.function_attrs:
            return None
        problem = facts.use_problem(tensor, reader)
        if problem is not None:
            return problem
        between.append(tensor)
        if node.is_op("DequantizeLinear"):
            break
        if node.is_op("Transpose"):
            rank = len(facts.weight(tensor).shape)
            perms.append([int(p) for p in node.attr("perm") or range(rank)[::-1]])
        tensor, reader = node.inputs[0], node
    scaled = (lin.scale_inputs if inputs else lin.scale_outputs)(linear, facts.weight(linear.weight), factor)
    assert isinstance(scaled, numerics.ScaledTensor)
    full = _align(*scaled.factors[-1], scaled.shape)
    for perm in perms:
        full = full.transpose(np.argsort(perm))
    found = _rescale_dequantizer(facts, node, full, facts.weight(node.inputs[0]))
    if not isinstance(found, Rescaled):
        return found
    renamed = tuple(Rename(t) for t in between)
    alpha = linear.op == lin.GEMM and "alpha" in linear.node.attr_protos and linear.node.attr("alpha") is not None
    return Rescaled(found.scale, (*found.edits, *([SetAttr(linear.node, "alpha")] if alpha else []), *renamed))


def _align(view: tuple[int, ...], factor: Array, shape: tuple[int, ...]) -> Array:
    """The factor with the axes of the weight: groups and the channels of a group are one axis there."""
    more = len(view) - len(shape)
    if not more:
        return factor
    lead = np.broadcast_to(factor, (*view[: more + 1], *factor.shape[more + 1 :]))
    return lead.reshape(shape[0], *factor.shape[more + 1 :])


def _rescale_dequantizer(facts: Facts, node: Node, factor: Array, integers: Weight | None) -> Rescaled | Decline:
    """A DequantizeLinear that gives `factor` times as much; the factor has the axes of what it gives.

    Parameters
    ----------
    integers : Weight, optional
        What is dequantized, where that is constant: then factors may have any sign.
    """
    for axis in range(factor.ndim):
        first = factor.take([0], axis)
        factor = first if (factor == first).all() else factor
    if integers is None and (factor <= 0).any():
        bad = numerics.first_bad(factor.reshape(-1) <= 0)
        return "negative-scale", f"the scale of {node.label} would not be positive in channel {bad}"
    old = facts.weight(node.inputs[1])
    sized = np.where(factor == 0, 1.0, np.abs(factor))
    placed = _place(node, old, sized, factor.ndim)
    if isinstance(placed, tuple):
        return placed
    zero = node.tensor_in(2)
    if zero is not None and facts.constants.problem(zero) is not None:
        return "not-constant", f"the zero point of {node.label} is known at run time only"
    axis, view = placed.axis, placed.view
    if view is not None:
        scale = numerics.scale_weight(old, old.shape, view)
        edits: list[Edit] = [SetConst(node, 1, scale, "scale")]
    else:
        scale = numerics.NewTensor(old.float64().reshape(()) * sized.reshape(-1), old.dtype)
        edits = [SetConst(node, 1, scale, "scale"), SetAttr(node, "axis", axis)]
        if zero is not None:
            points = facts.weight(zero)
            same = np.full(sized.size, points.load().reshape(-1)[0]).astype(np.float64)
            edits.append(SetConst(node, 2, numerics.NewTensor(same, points.dtype), "zero_point"))
    if integers is None or (factor > 0).all():
        return Rescaled(scale, tuple(edits))
    turned = _turn(facts, node, np.sign(factor), integers, zero)
    if not isinstance(turned, numerics.NewTensor):
        return turned
    return Rescaled(scale, (SetConst(node, 0, turned, "integers"), *edits))


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where a factor lies in the scale: in its own shape, or along an axis that it gets."""

    axis: int
    view: Array | None


def _place(node: Node, old: Weight, factor: Array, rank: int) -> _Placed | Decline:
    varying = [k for k, d in enumerate(factor.shape) if d != 1]
    axis = int(node.attr("axis", 1)) % max(rank, 1)
    block = int(node.attr("block_size", 0))
    if not varying:
        return _Placed(axis, factor.reshape((1,) * len(old.shape)))
    where = f"axis {varying[0]}" if len(varying) == 1 else f"axes {varying}"
    if block:
        if axis in varying:
            n = factor.shape[axis]
            starts = factor.take(range(0, n, block), axis)
            whole = np.repeat(starts, block, axis).take(range(n), axis)
            if not (whole == factor).all():
                return "scale-axis", f"the factor differs within a block of {block} along axis {axis} of {node.label}"
            factor = starts
        return _Placed(axis, factor)
    if math.prod(old.shape) == 1 and len(old.shape) < 2:
        if len(varying) > 1:
            return "scale-axis", f"the factor differs along {where} of {node.label}, a scale along one"
        if node.scope.opset < 13:
            return "per-axis-scale", f"at opset {node.scope.opset} {node.label} has one scale for all channels"
        return _Placed(varying[0], None)
    if varying != [axis]:
        return "scale-axis", f"the factor differs along {where} of {node.label}, its scale along axis {axis}"
    return _Placed(axis, factor.reshape(-1))


def _turn(facts: Facts, node: Node, sign: Array, integers: Weight, zero: Tensor | None) -> numerics.NewTensor | Decline:
    """Integers whose distance from their zero point is `sign` times what it was."""
    q = integers.load()
    points = np.zeros(()) if zero is None else facts.weight(zero).load().astype(np.float64)
    block, axis = int(node.attr("block_size", 0)), int(node.attr("axis", 1)) % max(q.ndim, 1)
    if points.size == 1 and points.ndim < 2:
        at = points.reshape(())
    elif block:
        at = np.repeat(points, block, axis).take(range(q.shape[axis]), axis)
    else:
        at = points.reshape([-1 if k == axis else 1 for k in range(q.ndim)])
    value = at + sign * (q.astype(np.float64) - at)
    low, high = _range_of(q.dtype)
    if low > value.min(initial=0.0) or high < value.max(initial=0.0):
        why = f"{node.inputs[0].name!r} holds a number whose negative {q.dtype} has not, and a factor is negative"
        return "integer-range", why
    return numerics.NewTensor(value, q.dtype)


def _range_of(dtype: np.dtype[np.generic]) -> tuple[float, float]:
    info = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return float(info.min), float(info.max)
