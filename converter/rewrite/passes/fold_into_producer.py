"""An affine node after a linear operator becomes part of it: eight passes, by what is folded and into what.

y = s * (W x + b) + t = (s W) x + (s b + t), with s and t per output channel. Between the two may
stand nodes that only move axes; the channel axis is followed through them. Pools let an affine map of their channels
through: averages of uncounted padding, maxima where s is positive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Bypass, DropInput, Edit, Node, Rename, SetConst, SetOp, Tensor
from converter.records import Safety, Weight
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import Affine, affines_at, aligned_shape, per_channel, scale_and_shift
from converter.rewrite.analysis.channel_axis import follow_axis, is_pool, is_view
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import LINEAR, Linear, Quantized, linear_at
from converter.rewrite.analysis.quantized import Rescaled, quantized_at, rescale
from converter.rewrite.passes.base import Check, Decline, Pass
from converter.rewrite.passes.folding import (
    BN,
    FORM,
    KINDS,
    OPERANDS,
    RESULT,
    Fold,
    Kind,
    averaged_padding,
    holds_bias,
    kebab,
    list_types,
    negative_scale,
)

Array = NDArray[np.float64]

_SHUFFLE = "DepthToSpace"
_VIEWS = "Between them may stand what hands on or moves values, pools (s > 0 for maxima) and DepthToSpace."
_GROUPS = "The output channel is axis 1 of W within a group; a square W does not tell, so the layout is never guessed."
_SPREAD = "C of any shape is broadcast with s and t: [M, 1] grows to [M, N]."
_ADD = "Without an Add, a matrix product becomes a Gemm; one of more axes keeps its shift as one Add."
_OWN = "The constant scale becomes one of each channel. Without a place for a bias, the shift stays as one Add."
# operator -> the new weight and bias, and what there is to say of it
_RESULTS = {
    lin.CONV: ("W'[o] = s[o] W[o], b' = s b + t", _VIEWS),
    lin.CONV_TRANSPOSE: ("W'[:, o] = s[o] W[:, o] within each group, b' = s b + t", _GROUPS),
    lin.GEMM: ("B'[:, n] = alpha s[n] B[:, n], C' = beta s C + t, alpha = beta = 1", _SPREAD),
    lin.MATMUL: ("W'[:, o] = s[o] W[:, o], b' = s b + t", _ADD),
    lin.QUANTIZED: ("scale'[o] = s[o] scale[o], b' = s b + t, the integers as they are", _OWN),
}


@dataclass(frozen=True, slots=True)
class IntoProducer(Fold):
    """A linear operator, views, and an affine node, in the order of the data."""

    @property
    def nodes(self) -> Sequence[Node]:
        """All of them."""
        return [self.linear.node, *self.between, self.affine.node]

    @property
    def path(self) -> Sequence[tuple[Tensor, Node]]:
        """Each tensor from the operator to the affine node."""
        outputs = [self.linear.result, *(v.outputs[0] for v in self.between)]
        return list(zip(outputs, [*self.between, self.affine.node], strict=True))

    def axis(self, facts: Facts) -> int | str:
        """Where the operator's channels lie at the affine node, or why that is not known."""
        if _is_dequantizer(self.linear):
            found = _dequantized_axis(facts, self)
            return found if isinstance(found, str) else found[1]
        axis = lin.out_axis(facts, self.linear)
        for view in self.between:
            if isinstance(axis, str):
                return axis
            axis = _follow(facts, view, axis)
        return axis

    def channel_problem(self, facts: Facts) -> str | None:
        """The channels must lie where the affine node works on them."""
        axis = self.axis(facts)
        if isinstance(axis, str):
            return axis
        if self.affine.is_bn and axis != 1:
            return f"the channels lie on axis {axis}, the batch norm works on axis 1"
        return None

    def spread(self, facts: Facts) -> tuple[Array, Array] | str:
        """Scale and shift of each output channel."""
        axis = self.axis(facts)
        assert isinstance(axis, int)
        rank = lin.result_rank(facts, self.linear) if not self.between else facts.rank(self.affine.source)
        channels = lin.out_channels(facts, self.linear) or self.affine_channels(facts, axis, rank)
        shuffles = [n for n in self.between if n.is_op(_SHUFFLE)]
        blocks = math.prod(int(n.attr("blocksize", 1)) ** 2 for n in shuffles)
        found = per_channel(facts, self.affine, axis, rank, channels // blocks)
        for node in reversed(shuffles if not isinstance(found, str) else []):
            times, inner = int(node.attr("blocksize", 1)) ** 2, node.attr("mode", "DCR") == "CRD"
            scale, shift = (np.repeat(v, times) if inner else np.tile(v, times) for v in found)
            found = scale, shift
        return found

    def affine_channels(self, facts: Facts, axis: int, rank: int | None) -> int:
        """How many values the affine node has along the axis; for an operator that scales along any."""
        full = facts.weight(self.affine.params[0]).shape if self.affine.params else ()
        if self.affine.is_bn:
            return full[0]
        full = aligned_shape(facts, self.affine, rank or 0)
        return full[axis] if axis < len(full) else 1

    def scale_weight(self, weight: Weight, scale: Array) -> Weight:
        """Output channels are scaled."""
        return lin.scale_outputs(self.linear, weight, scale)

    def rescale(self, facts: Facts) -> Rescaled | Decline | None:
        """The scale of a quantized weight takes the factors of output channels."""
        found = _dequantized_axis(facts, self) if _is_dequantizer(self.linear) else (0, 0)
        assert not isinstance(found, str)
        axis, _ = found
        return rescale(facts, self.linear, self.numbers(facts)[0], inputs=False, axis=axis)

    def fold_bias(self, facts: Facts) -> Array | None:
        """s b + t."""
        return lin.scale_bias(facts, self.linear, *self.numbers(facts))

    def shift_stays(self, facts: Facts) -> bool:
        """Scale goes into the matrix, shift stays as one Add in the affine node's place."""
        scale, shift = self.numbers(facts)
        return (
            not holds_bias(facts, self.linear)
            and not any(n.is_op(_SHUFFLE) for n in self.between)  # there, it is of other channels
            and bool(shift.any())
            and bool((scale != 1).any())
            and facts.rank(self.affine.source) is not None
            and self.affine.node.scope.opset >= 7  # before, Add broadcasts only by attributes
        )

    def shared_problem(self, facts: Facts) -> str | None:
        """Nothing is copied, and no bias grows."""
        found = Fold.shared_problem(self, facts)  # slots: no super() without arguments
        if found is None and facts.options.no_growth and self.linear.bias is not None:
            bias, channels = self.bias(facts), lin.out_channels(facts, self.linear)
            if bias is not None and bias.size > max(facts.float64(self.linear.bias).size, channels):
                return f"the bias {self.linear.bias.name!r} would grow to {list(bias.shape)}"
        return found


def _finder(op: str) -> Callable[[Facts, Node], IntoProducer | None]:
    """A find for affine nodes after linear operators of type `op`."""

    def find(facts: Facts, node: Node) -> IntoProducer | None:
        for affine in affines_at(node):
            if not _is_near_miss(facts, affine):
                continue
            views: list[Node] = []
            producer = facts.graph.producer(affine.source)
            while producer is not None and _is_followed(facts, producer):
                views.insert(0, producer)
                producer = facts.graph.producer(producer.inputs[0])
            linear = quantized_at(facts, producer) if op == lin.QUANTIZED else linear_at(facts, producer, op)
            if linear is not None and not _is_its_bias(facts, linear, affine):
                return IntoProducer(affine, tuple(views), linear)
        return None

    return find


def _is_followed(facts: Facts, node: Node) -> bool:
    """Whether channels are followed back through a node: a shuffle hands each on to a block of positions."""
    shuffles = node.is_op(_SHUFFLE) and node.tensor_in(0) is not None and node.tensor_out(0) is not None
    return is_view(facts, node) or is_pool(node) or shuffles


def _is_near_miss(facts: Facts, affine: Affine) -> bool:
    """Sums of computed values (residuals) and gates are none; a product with another layer or an input is."""
    if affine.is_bn or not affine.params or facts.constants.weight(affine.params[0]) is not None:
        return True
    producer = facts.graph.producer(affine.params[0])
    return affine.node.is_op("Mul", "Div") and (producer is None or producer.is_op(*LINEAR))


def _is_dequantizer(linear: Linear) -> bool:
    return isinstance(linear, Quantized) and not linear.channels


def _dequantized_axis(facts: Facts, m: IntoProducer) -> tuple[int, int] | str:
    """The axis that scale and shift vary on, where DequantizeLinear gives it, and at the affine node."""
    if not m.affine.is_bn and all(v.size == 1 for v in scale_and_shift(facts, m.affine)):
        return 0, 0
    axis = _varying_axis(facts, m.affine)
    if isinstance(axis, str):
        return axis
    rank = facts.rank(m.linear.result)
    for start in range(rank or 0):
        found: int | str = start
        for node in m.between:
            found = found if isinstance(found, str) else _follow(facts, node, found)
        if found == axis:
            return start, axis
    return f"{m.between[0].label} lies between {m.linear.node.label} and the factors of its channels"


def _varying_axis(facts: Facts, affine: Affine) -> int | str:
    if affine.is_bn:
        return 1
    rank = facts.rank(affine.source)
    if rank is None:
        return "the number of axes of its input is not known"
    full = aligned_shape(facts, affine, rank)
    varying = [k for k, d in enumerate(full) if d != 1]
    return varying[0] if len(varying) == 1 else f"the constant of shape {list(full)} is not one value per channel"


def _follow(facts: Facts, node: Node, axis: int) -> int | str:
    """The same axis behind a node that hands on values; of a shuffle or a pool, where it is that of channels."""
    if node.is_op(_SHUFFLE):
        return axis if axis == 1 else f"{node.label} takes its blocks from axis 1, the channels lie on axis {axis}"
    if is_pool(node):
        return axis if axis <= 1 else f"{node.label} pools over axis {axis}, on which the values differ"
    return follow_axis(facts, node, axis)


def _is_its_bias(facts: Facts, linear: Linear, affine: Affine) -> bool:
    """An Add right after a MatMul is its bias, not something to fold."""
    if isinstance(linear, Quantized):
        return linear.bias_node is None and affine.node.is_op("Add", "Sub", "Sum")
    return (
        linear.op == lin.MATMUL
        and linear.bias_node is None
        and affine.node.is_op("Add")
        and lin.is_bias_add(facts, linear.node, affine.node, 1 - affine.data)
    )


def _plan(facts: Facts, m: IntoProducer) -> list[Edit]:
    """New weight and bias, the affine node out, fresh names for what changed its meaning."""
    edits = m.set_weight(facts)
    changed = [*m.linear.inner, *(t for t, _ in m.path)]
    if m.shift_stays(facts):
        edits += _as_add(facts, m)
    else:
        edits += lin.set_bias(facts, m.linear, m.bias(facts))
        edits.append(Bypass(m.affine.node, m.affine.data))
        changed.pop()  # it takes the name of the affine node's output
    return edits + [Rename(t) for t in changed]


def _as_add(facts: Facts, m: IntoProducer) -> list[Edit]:
    """The affine node turned into an Add of the shift."""
    node, axis = m.affine.node, m.axis(facts)
    rank = facts.rank(m.affine.source)
    assert isinstance(axis, int) and rank is not None
    shift = m.numbers(facts)[1].reshape(-1, *[1] * (rank - 1 - axis))
    weight = numerics.NewTensor(shift, facts.weight(m.linear.weight).dtype)
    drops = [DropInput(node, i) for i in range(len(node.inputs) - 1, 1, -1)]
    return [*drops, SetOp(node, "Add"), SetConst(node, 1 - m.affine.data, weight, "bias")]


def _coarser_kernel(facts: Facts, m: IntoProducer) -> str | None:
    """onnxruntime computes DequantizeLinear, Softmax, QuantizeLinear on integers, where nothing else lies between.

    Its kernel rounds far more than a step of the result: of BERT and ViT quantized with the scores' factor left in, the
    output moved by a tenth of its size.
    """
    if not _is_dequantizer(m.linear) or m.shift_stays(facts):
        return None
    pending = facts.graph.readers(m.affine.result)
    while pending:
        node = pending.pop()
        if node.is_op("Softmax", "LogSoftmax"):
            return f"with it gone, onnxruntime would compute {node.label} on integers"
        result = node.tensor_out(0)
        if result is not None and node.is_op("Identity", "Cast", "CastLike", "Dropout"):
            pending += facts.graph.readers(result)
    return None


_POOLS = (Check("negative-scale", negative_scale), Check("padded-shift", averaged_padding))
_KERNEL = Check("coarser-kernel", _coarser_kernel)


def _fold(kind: Kind, op: str) -> Pass:
    """One row of the family."""
    result, note = _RESULTS[op]
    page = f"""{op} then {kind.title} becomes one {op}.

Given:  {OPERANDS[op]}; then {kind.given}.
Result: {result}; the second node is gone.
        {note}
Source: {kind.source}."""
    return Pass(
        page,
        Safety.ROUNDING,
        ops=kind.ops,
        find=_finder(op),
        checks=(*FORM, *_POOLS, *([_KERNEL] if op == lin.QUANTIZED else []), *RESULT),
        plan=_plan,
        output=lambda m: m.affine.result,
        name=f"fold-{kind.name}-into-{kebab(op)}",
        beside=list_types(op),
        after=() if kind is BN else (f"fold-bn-into-{kebab(op)}",),
    )


PASSES = tuple(_fold(kind, op) for kind in KINDS for op in lin.OPS)
