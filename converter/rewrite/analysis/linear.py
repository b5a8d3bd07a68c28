"""Conv, ConvTranspose, Gemm and MatMul as one thing: a weight, a bias, channels in and out; quantized ones beside them.

Letters: N batch, I input and O output channels, g groups, *k kernel, K contracted axis of a matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Bypass, DropInput, Edit, Node, SetAttr, SetConst, SetOp, Tensor
from converter.records import Weight
from converter.rewrite.analysis.facts import Facts

Array = NDArray[np.float64]

# A product of matrices comes first: with a bias it becomes a Gemm.
LINEAR = CONV, CONV_TRANSPOSE, MATMUL, GEMM = "Conv", "ConvTranspose", "MatMul", "Gemm"
QUANTIZED = "Quantized"  # no operator's name: what `quantized` finds
OPS = (*LINEAR, QUANTIZED)
# onnxruntime's own, of a layer and what follows it: they take in what stands before them.
FUSED = {"FusedConv": CONV, "FusedGemm": GEMM}


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear operator with its weight, and for MatMul the Add that carries its bias.

    Attributes
    ----------
    node : Node
    bias_node : Node, optional
        Where the bias lies: the node itself, or an Add after a MatMul; None for a MatMul without.
    bias_slot : int
    """

    node: Node
    bias_node: Node | None
    bias_slot: int

    @property
    def op(self) -> str:
        """Conv, ConvTranspose, Gemm or MatMul."""
        return kind_of(self.node)

    @property
    def weight(self) -> Tensor:
        """The weight: [O, I/g, *k], [I, O/g, *k] for ConvTranspose, a matrix for the others."""
        found = self.node.tensor_in(1)
        assert found is not None
        return found

    @property
    def bias(self) -> Tensor | None:
        """The bias tensor; None where there is none."""
        return None if self.bias_node is None else self.bias_node.tensor_in(self.bias_slot)

    @property
    def last(self) -> Node:
        """The node that gives the result, bias included."""
        return self.bias_node if self.bias_node is not None else self.node

    @property
    def result(self) -> Tensor:
        """The output, bias included."""
        found = self.last.tensor_out(0)
        assert found is not None
        return found

    @property
    def groups(self) -> int:
        """Groups of a convolution; 1 for the others."""
        return int(self.node.attr("group", 1)) if self.op in (CONV, CONV_TRANSPOSE) else 1

    @property
    def adds_bias(self) -> bool:
        """Whether an Add of its own carries the bias."""
        return self.bias_node is not None and self.bias_node is not self.node

    @property
    def inner(self) -> Sequence[Tensor]:
        """Tensors between its nodes: a new weight changes their values."""
        return [self.node.outputs[0]] if self.last is not self.node else []


@dataclass(frozen=True, slots=True)
class Quantized(Linear):
    """A linear operator on integers, or of packed weights: it multiplies by a constant scale of its own.

    Attributes
    ----------
    scale : (Node, int)
        The node and the input slot that the scale lies in.
    end : Node
        Gives the result without the bias: the node itself, or the last of a chain of nodes.
    channels : int
        O; 0 where the axis is chosen by what is folded (a DequantizeLinear of data).
    axes_behind : int
        Axes behind that of the channels, in scale, bias and result.
    blocks : bool
        The scale is [O * blocks of its input] in memory order.
    """

    scale: tuple[Node, int]
    end: Node
    channels: int
    axes_behind: int = 0
    blocks: bool = False

    @property
    def op(self) -> str:
        """Quantized."""
        return QUANTIZED

    @property
    def weight(self) -> Tensor:
        """The scale: one number, or one for each output channel (and block)."""
        node, slot = self.scale
        found = node.tensor_in(slot)
        assert found is not None
        return found

    @property
    def last(self) -> Node:
        """The node that gives the result, bias included."""
        return self.bias_node if self.adds_bias and self.bias_node is not None else self.end

    @property
    def inner(self) -> Sequence[Tensor]:
        """Tensors behind the scale and before the result."""
        nodes = dict.fromkeys(n for n in (self.scale[0], self.end) if n is not self.last)
        return [n.outputs[0] for n in nodes]

    def spread(self, vector: Array) -> Array:
        """A vector [O] as it lies beside the result: [O, 1, ...]."""
        return vector.reshape(-1, *[1] * self.axes_behind)


def kind_of(node: Node) -> str:
    """Type of the linear operator that the node is, or begins with; empty where it is another domain's."""
    if node.is_microsoft(*FUSED):
        return FUSED[str(node.op)]
    return str(node.op) if node.is_standard else ""


def linear_at(facts: Facts, node: Node | None, op: str) -> Linear | None:
    """The linear operator of type `op` whose result, bias included, `node` gives; None if there is none."""
    if node is None or node.tensor_out(0) is None:
        return None
    if node.is_op(op) and node.tensor_in(0) is not None and node.tensor_in(1) is not None:
        return Linear(node, None, 0) if op == MATMUL else Linear(node, node, 2)
    if op == MATMUL and node.is_op("Add"):
        for data in (0, 1):
            if is_its_bias(facts, node, data):
                return Linear(node.inputs[data].inputs[0], node, 1 - data)
    return None


def linear_into(facts: Facts, node: Node, op: str) -> Linear | None:
    """The linear operator of type `op` that `node` itself is, with the Add after a MatMul."""
    if kind_of(node) != op or node.tensor_in(0) is None or node.tensor_in(1) is None:
        return None
    if op != MATMUL:
        return Linear(node, node, 2)
    out = node.tensor_out(0)
    readers = [] if out is None else facts.graph.readers(out)
    if out is not None and len(readers) == 1 and not out.external_uses:
        found = linear_at(facts, readers[0], MATMUL)
        if found is not None and found.node is node:
            return found
    return Linear(node, None, 0)


def is_bias_add(facts: Facts, matmul: Node, add: Node, slot: int) -> bool:
    """Whether an Add after a MatMul adds one constant per output channel, and alone reads the product."""
    product, bias, weight = matmul.tensor_out(0), add.tensor_in(slot), matmul.tensor_in(1)
    if add.scope.opset < 7:  # there, broadcasting is by an axis attribute
        return False
    if product is None or bias is None or weight is None or facts.use_problem(product, add) is not None:
        return False
    constant, matrix = facts.constants.weight(bias), facts.constants.weight(weight)
    if constant is None or matrix is None or len(matrix.shape) != 2:
        return False
    *lead, last = constant.shape or (0,)
    rank = facts.rank(product)
    fits = len(constant.shape) == 1 or (rank is not None and len(constant.shape) <= rank)
    return fits and last == matrix.shape[1] and all(d == 1 for d in lead)


def is_its_bias(facts: Facts, add: Node, data: int) -> bool:
    """Whether a node is the Add that makes a product's bias, right after the MatMul whose result is in slot `data`."""
    source = add.tensor_in(data)
    product = facts.graph.producer(source) if source is not None else None
    return (
        product is not None
        and add.is_op("Add")
        and product.is_op(MATMUL)
        and product.scope is add.scope
        and is_bias_add(facts, product, add, 1 - data)
    )


def out_channels(facts: Facts, linear: Linear) -> int:
    """O."""
    if isinstance(linear, Quantized):
        return linear.channels
    shape = facts.weight(linear.weight).shape
    match linear.op:
        case "Conv":
            return shape[0]
        case "ConvTranspose":
            return shape[1] * linear.groups
        case "Gemm":
            return shape[0] if linear.node.attr("transB", 0) else shape[1]
        case _:
            return shape[1]


def in_channels(facts: Facts, linear: Linear) -> int:
    """I, or K for matrix products."""
    shape = facts.weight(linear.weight).shape
    match linear.op:
        case "Conv":
            return shape[1] * linear.groups
        case "Gemm":
            return shape[1] if linear.node.attr("transB", 0) else shape[0]
        case _:
            return shape[0]


def out_axis(facts: Facts, linear: Linear) -> int | str:
    """Where the output channels lie in the result, or why that is not known."""
    if linear.op not in (MATMUL, QUANTIZED):
        return 1
    rank = facts.rank(linear.result) or facts.rank(linear.node.inputs[0])
    behind = linear.axes_behind if isinstance(linear, Quantized) else 0
    return "the number of axes of the product is not known" if rank is None else rank - 1 - behind


def result_rank(facts: Facts, linear: Linear) -> int | None:
    """Axes of the result."""
    if linear.op in (CONV, CONV_TRANSPOSE):
        return len(facts.weight(linear.weight).shape)
    return 2 if linear.op == GEMM else facts.rank(linear.result) or facts.rank(linear.node.inputs[0])


def weight_rank_problem(facts: Facts, linear: Linear) -> str | None:
    """Why the weight, or a convolution's bias, has not the rank of its operator; None if it has."""
    if isinstance(linear, Quantized):
        return None
    rank = len(facts.weight(linear.weight).shape)
    if linear.op in (CONV, CONV_TRANSPOSE):
        bias = None if linear.bias is None else facts.constants.weight(linear.bias)
        if bias is not None and len(bias.shape) != 1:
            return f"its bias has {len(bias.shape)} axes, not 1"
        return None if rank >= 3 else f"its kernel has {rank} axes"
    return None if rank == 2 else f"its weight has {rank} axes, not 2"


def scale_outputs(linear: Linear, weight: Weight, scale: Array) -> Weight:
    """The weight with output channel o times scale[o], shape [O]."""
    shape = weight.shape
    match linear.op:
        case "Conv":
            return numerics.scale_weight(weight, shape, scale.reshape(-1, *[1] * (len(shape) - 1)))
        case "ConvTranspose":
            g = linear.groups
            view = (g, shape[0] // g, *shape[1:])
            return numerics.scale_weight(weight, view, scale.reshape(g, 1, shape[1], *[1] * (len(shape) - 2)))
        case "Gemm":
            alpha = float(linear.node.attr("alpha", 1.0))
            rows = bool(linear.node.attr("transB", 0))
            return numerics.scale_weight(weight, shape, alpha * (scale[:, None] if rows else scale[None, :]))
        case _:
            return numerics.scale_weight(weight, shape, scale[None, :])


def scale_inputs(linear: Linear, weight: Weight, scale: Array) -> Weight:
    """The weight with input channel i times scale[i], shape [I] (or [K])."""
    shape = weight.shape
    match linear.op:
        case "Conv":
            g = linear.groups
            view = (g, shape[0] // g, *shape[1:])
            return numerics.scale_weight(weight, view, scale.reshape(g, 1, shape[1], *[1] * (len(shape) - 2)))
        case "ConvTranspose":
            return numerics.scale_weight(weight, shape, scale.reshape(-1, *[1] * (len(shape) - 1)))
        case "Gemm":
            alpha = float(linear.node.attr("alpha", 1.0))
            columns = bool(linear.node.attr("transB", 0))
            return numerics.scale_weight(weight, shape, alpha * (scale[None, :] if columns else scale[:, None]))
        case _:
            return numerics.scale_weight(weight, shape, scale[:, None])


def input_sum(facts: Facts, linear: Linear, shift: Array) -> Array:
    """What adding shift[i] to every input channel adds to the output channels, shape [O]."""
    weight = facts.float64(linear.weight)
    match linear.op:
        case "Conv":
            return numerics.conv_input_sum(weight, linear.groups, shift)
        case "ConvTranspose":
            return numerics.conv_transpose_input_sum(weight, linear.groups, shift)
        case "Gemm":
            matrix = weight.T if linear.node.attr("transB", 0) else weight
            return np.asarray(float(linear.node.attr("alpha", 1.0)) * (shift @ matrix))
        case _:
            return np.asarray(shift @ weight)


def sum_per_output(linear: Linear, array: Array) -> Array:
    """An array in the shape of the weight, summed over all that enters one output channel, shape [O]."""
    match linear.op:
        case "Conv":
            return np.asarray(array.reshape(array.shape[0], -1).sum(axis=1))
        case "ConvTranspose":
            g = linear.groups
            view = array.reshape(g, array.shape[0] // g, array.shape[1], -1)
            return np.asarray(view.sum(axis=(1, 3)).reshape(-1))
        case "Gemm" if linear.node.attr("transB", 0):
            return np.asarray(array.sum(axis=1))
        case _:
            return np.asarray(array.sum(axis=0))


def bias_value(facts: Facts, linear: Linear) -> Array | None:
    """The bias in float64, Gemm's beta included, in its own shape; None where there is none."""
    if linear.bias is None:
        return None
    value = facts.float64(linear.bias)
    return value * float(linear.node.attr("beta", 1.0)) if linear.op == GEMM else value


def scale_bias(facts: Facts, linear: Linear, scale: Array | None, shift: Array) -> Array | None:
    """scale * bias + shift in the shape to store; None where it is zero and there was none."""
    bias = bias_value(facts, linear)
    if isinstance(linear, Quantized):
        scale, shift = None if scale is None else linear.spread(scale), linear.spread(shift)
    if bias is None:
        return shift if shift.any() else None
    scaled_bias = bias if scale is None else bias * scale
    return np.asarray(scaled_bias + shift)


def set_weight(linear: Linear, weight: Weight) -> list[Edit]:
    """Edits that give the operator a new weight (Gemm's alpha is in it already)."""
    edits: list[Edit] = [SetConst(linear.node, 1, weight, "weight")]
    if linear.op == GEMM and "alpha" in linear.node.attr_protos and linear.node.attr("alpha") is not None:
        edits.append(SetAttr(linear.node, "alpha"))
    return edits


def set_bias(facts: Facts, linear: Linear, bias: Array | None) -> list[Edit]:
    """Edits that give the operator a bias, in the weight's type; none for None.

    A MatMul of two matrices without an Add becomes a Gemm, the only way to hold one.
    """
    if bias is None:
        return []
    dtype = facts.weight(linear.bias if linear.bias is not None else linear.weight).dtype
    node = linear.bias_node if linear.bias_node is not None else linear.node
    slot = linear.bias_slot if linear.bias_node is not None else 2
    edits: list[Edit] = [SetConst(node, slot, numerics.NewTensor(bias, dtype), "bias")]
    if linear.op == GEMM and "beta" in node.attr_protos:
        edits.append(SetAttr(node, "beta"))
    if linear.bias_node is None:
        edits.insert(0, SetOp(linear.node, "Gemm"))
    return edits


def drop_bias(linear: Linear) -> list[Edit]:
    """Edits that leave the bias out, and the Add that carries it where there is one."""
    assert linear.bias_node is not None
    if linear.adds_bias:
        return [Bypass(linear.bias_node, 1 - linear.bias_slot)]
    return [DropInput(linear.bias_node, linear.bias_slot)]


def spreads_unevenly(facts: Facts, linear: Linear) -> bool:
    """Whether borders and phases of a transposed convolution see unequal numbers of its taps."""
    node = linear.node
    kernel = facts.weight(linear.weight).shape[2:]
    ones = all(k == 1 for k in kernel) and all(s == 1 for s in node.attr("strides", [1]))
    plain = not any(node.attr("pads", [0])) and not any(node.attr("output_padding", [0]))
    return not (ones and plain and node.attr("output_shape") is None)
