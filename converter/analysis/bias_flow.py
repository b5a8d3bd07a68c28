"""Where does a bias go? Its shift is followed through every reader until it is taken up, vanishes, or is felt.

A bias may go if every path ends in an absorber (a bias, mean or constant further down that takes the
shift over) or an annihilator (an operator that does not feel it). Nothing is ever added to carry it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.analysis import linear as lin
from converter.analysis.affine import Affine, affine_at, stats_problem, training_problem, values
from converter.analysis.facts import Facts
from converter.analysis.linear import Linear, linear_at, linear_into
from converter.analysis.shifts import Array, Shift, known
from converter.analysis.transfer import LINEARITY, NOT_LINEAR, RULES, Carry, Gone, Outcome, Stop, through
from converter.analysis.transfer_product import PRODUCT_RULES, added_by_conv, conv_problem
from converter.analysis.transfer_reshape import RESHAPE_RULES
from converter.analysis.transfer_shape import SHAPE_RULES
from converter.graph import Node, Tensor

_LONG = 16  # nodes of a way after which it is asked where it must end

RULES.update({**SHAPE_RULES, **RESHAPE_RULES, **PRODUCT_RULES})


@dataclass(frozen=True, slots=True)
class Source:
    """A bias: the node that adds it, the constant, and the tensor that it shifts.

    ``kind`` is Conv, ConvTranspose, Gemm or MatMul; ``shape`` is the shift's, beside that tensor.
    """

    linear: Linear
    tensor: Tensor  # the bias
    output: Tensor
    value: Array  # the bias as it stands, Gemm's beta included
    shape: tuple[int, ...]

    @property
    def node(self) -> Node:
        """The linear operator."""
        return self.linear.node


@dataclass(frozen=True, slots=True)
class Absorb:
    """A node that takes the shift over: what `make` gives goes to its bias, mean (negated) or constant.

    It is made when a plan asks: it may take reading a weight, and most ways end elsewhere.
    """

    node: Node
    kind: str  # bias | new-bias | mean | constant | sibling
    target: Linear | Affine
    make: Callable[[], Array]
    n_elements: int
    how: str


@dataclass(frozen=True, slots=True)
class Step:
    """What one node does with the shift."""

    node: Node
    verb: str  # carries | absorbs | annihilates | stops
    how: str
    code: str = ""


@dataclass(slots=True)
class Flow:
    """The way of one shift: every reader, what takes it over, and where it is felt, if anywhere."""

    source: Source
    steps: list[Step] = field(default_factory=list)
    absorbs: list[Absorb] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)
    carried: list[Tensor] = field(default_factory=list)
    stop: Step | None = None
    softmax_rows: bool = False  # it went through rows of weights that sum to one
    adds: bool = False  # it met a sum whose other operand is not shifted: a sibling might take it over
    bias_free: bool = False  # it met a layer without a bias: a new one might take it over

    @property
    def free(self) -> bool:
        """Whether the shift can be taken out."""
        return self.stop is None and bool(self.absorbs or self.gone)


@dataclass(frozen=True, slots=True)
class Permit:
    """What may take a shift over, beyond biases, means and constants that exist.

    ``siblings``: the bias of the other operand of an Add. ``new_bias``: a bias where there is none.
    """

    siblings: bool = False
    new_bias: bool = False


def source_at(facts: Facts, node: Node) -> Source | None:
    """The bias that `node` adds, if it is a constant that may be replaced."""
    for op in lin.LINEAR:
        linear = linear_at(facts, node, op)
        if linear is None or linear.bias is None or linear.node.function_attrs:
            continue
        if facts.constants.weight(linear.bias) is None or facts.constants.weight(linear.weight) is None:
            return None
        value = lin.bias_value(facts, linear)
        shape = _beside_output(facts, linear, value)
        if value is None or shape is None:
            return None
        return Source(linear, linear.bias, linear.result, value, shape)
    return None


def _beside_output(facts: Facts, linear: Linear, value: Array | None) -> tuple[int, ...] | None:
    """Shape of the bias as it broadcasts to the output, with all axes; None if it has none."""
    if value is None:
        return None
    if linear.op in (lin.CONV, lin.CONV_TRANSPOSE):
        rank = lin.result_rank(facts, linear)
        return None if rank is None or value.ndim != 1 else (1, value.size, *[1] * (rank - 2))
    if linear.op == lin.GEMM:
        return value.shape if value.ndim == 2 else (1, value.size)
    rank = facts.rank(linear.result)
    return None if rank is None else (1,) * (rank - value.ndim) + value.shape


def trace(facts: Facts, source: Source, value: Array | None = None, permit: Permit | None = None) -> Flow:
    """Follow the bias (or `value`, some of its elements) to wherever it goes.

    Parameters
    ----------
    value : ndarray, shape of the bias, optional
        The elements to follow, zero elsewhere.
    """
    return _Trace(facts, source, permit or Permit()).run(source.value if value is None else value)


class _Trace:
    def __init__(self, facts: Facts, source: Source, permit: Permit) -> None:
        self.facts = facts
        self.permit = permit
        self.flow = Flow(source)
        self.shifts: dict[int, tuple[Tensor, Shift]] = {}
        self.queue: list[tuple[int, int, Node]] = []
        self.seen: set[int] = set()

    def run(self, value: Array) -> Flow:
        source = self.flow.source
        self.push(source.linear.last, source.output, known(value.reshape(source.shape)))
        while self.queue and self.flow.stop is None:
            _, _, node = heapq.heappop(self.queue)
            try:
                self.visit(node)
            except (ValueError, IndexError) as exc:  # only a model whose shapes contradict each other
                self.stop(node, "shapes", f"its shapes do not fit together ({exc})")
        return self.flow

    def push(self, maker: Node, tensor: Tensor, shift: Shift) -> None:
        """The tensor is shifted: its readers are asked next, in the model's order."""
        if shift.is_zero:
            return
        if tensor.pins or tensor.is_input:
            what = (
                "it is an output of its graph" if "output" in tensor.pins else f"it is used by {', '.join(tensor.pins)}"
            )
            code = "output-is-graph-output" if "output" in tensor.pins else "captured-by-subgraph"
            self.stop(maker, code, f"{tensor.name!r}: {what}")
            return
        far = None if self.permit.siblings or len(self.flow.steps) < _LONG else felt_at(self.facts, tensor)
        if far is not None:
            self.stop(*far)
            return
        self.shifts[id(tensor)] = (tensor, shift)
        self.flow.carried.append(tensor)
        for reader in self.facts.graph.readers(tensor):
            if reader.scope is not tensor.scope:
                self.stop(reader, "captured-by-subgraph", "a control-flow body reads it")
            elif id(reader) not in self.seen:
                self.seen.add(id(reader))
                heapq.heappush(self.queue, (reader.position, id(reader), reader))

    def stop(self, node: Node, code: str, why: str) -> None:
        step = Step(node, "stops", why, code)
        self.flow.steps.append(step)
        self.flow.stop = step

    def visit(self, node: Node) -> None:
        shifts = {i: self.shifts[id(t)][1] for i, t in enumerate(node.inputs) if id(t) in self.shifts}
        absorb = self.absorber(node, shifts)
        if absorb is not None:
            self.flow.absorbs.append(absorb)
            self.flow.steps.append(Step(node, "absorbs", absorb.how))
            return
        outcome: Outcome = through(self.facts, node, shifts)
        if isinstance(outcome, Carry) and self.permit.siblings and node.is_op("Add") and len(shifts) == 1:
            sibling = self.sibling(node, shifts)
            if sibling is not None:
                self.flow.absorbs.append(sibling)
                self.flow.steps.append(Step(node, "absorbs", sibling.how))
                return
        match outcome:
            case Stop(code, why):
                self.stop(node, code, why)
            case Gone(how):
                self.flow.gone.append(outcome)
                self.flow.steps.append(Step(node, "annihilates", how))
            case Carry(out, how):
                self.flow.steps.append(Step(node, "carries", how))
                self.flow.softmax_rows |= "sum to one" in how
                self.flow.adds |= node.is_op("Add") and len(shifts) == 1
                self.flow.bias_free |= node.is_op("Conv", "ConvTranspose", "Gemm")
                for slot, shift in out.items():
                    tensor = node.tensor_out(slot)
                    if tensor is not None:
                        self.push(node, tensor, shift)

    # -- absorbers -----------------------------------------------------------------------------

    def absorber(self, node: Node, shifts: dict[int, Shift]) -> Absorb | None:
        if set(shifts) != {0} and not (node.is_op("Add", "Sub") and len(shifts) == 1):
            return None
        ((slot, s),) = shifts.items()
        if s.value is None or s.masked or s.tiled:
            return None
        if node.is_op("Conv", "ConvTranspose", "Gemm", "MatMul"):
            return self.into_linear(node, s)
        if node.is_op("BatchNormalization"):
            return self.into_mean(node, s)
        if node.is_op("Add", "Sub"):
            return self.into_constant(node, slot, s)
        return None

    def into_linear(self, node: Node, s: Shift) -> Absorb | None:
        linear = linear_into(self.facts, node, str(node.op))
        if linear is None or node.function_attrs or self.facts.readable(linear.weight) is None:
            return None
        make = self.added(linear, s)
        if make is None:
            return None
        channels = lin.out_channels(self.facts, linear)
        if linear.bias is None:
            room = node.op != "MatMul" and self.permit.new_bias
            return Absorb(node, "new-bias", linear, make, channels, "its new bias takes it over") if room else None
        if self.facts.constants.problem(linear.bias) is not None:
            return None
        shape = self.facts.weight(linear.bias).shape
        if np.broadcast_shapes(shape, (channels,)) != shape and math.prod(shape) != 1:
            return None
        return Absorb(node, "bias", linear, make, channels, f"its bias {linear.bias.name!r} takes it over")

    def added(self, linear: Linear, s: Shift) -> Callable[[], Array] | None:
        """What the shift adds to the output channels, shape [O]; None if it is not one vector."""
        node, value, facts = linear.node, s.value, self.facts
        assert value is not None
        if linear.op in (lin.CONV, lin.CONV_TRANSPOSE):
            return None if conv_problem(facts, node, s) else lambda: added_by_conv(facts, linear, s)
        if lin.weight_rank_problem(facts, linear) is not None or node.attr("transA", 0):
            return None
        if not s.constant_on(range(s.rank - 1)):
            return None
        row = np.broadcast_to(value.reshape(-1), (lin.in_channels(facts, linear),))
        return lambda: lin.input_sum(facts, linear, row)

    def into_mean(self, node: Node, s: Shift) -> Absorb | None:
        bn = affine_at(node, 0)
        if bn is None or node.function_attrs or training_problem(bn) or stats_problem(self.facts, bn):
            return None
        if any(self.facts.constants.problem(t) is not None for t in bn.params):
            return None
        if not s.constant_on([0, *range(2, s.rank)]) or not sound(self.facts, bn):
            return None
        assert s.value is not None
        channels = self.facts.weight(bn.params[2]).shape
        added = np.broadcast_to(s.value.reshape(-1), channels)
        return Absorb(node, "mean", bn, lambda: added, added.size, "its mean takes it over")

    def into_constant(self, node: Node, slot: int, s: Shift) -> Absorb | None:
        """A constant Add, unless it is the bias of a MatMul (that one is reached through the MatMul)."""
        affine = affine_at(node, slot)
        if affine is None or node.scope.opset < 7 or self.facts.constants.problem(affine.params[0]) is not None:
            return None
        weight = self.facts.weight(affine.params[0])
        assert s.value is not None
        if not numerics.is_float(weight.dtype):
            return None
        # The constant becomes c + D (Sub: c - D, or D subtracted with the value's sign); its shape must not grow.
        value = s.value.reshape(_trimmed(s.value.shape, len(weight.shape)) or s.value.shape)
        if np.broadcast_shapes(value.shape, weight.shape) != weight.shape:
            return None
        sign = -1.0 if node.is_op("Sub") else 1.0
        how = f"its constant {affine.params[0].name!r} takes it over"
        return Absorb(node, "constant", affine, lambda: sign * value, value.size, how)

    def sibling(self, node: Node, shifts: dict[int, Shift]) -> Absorb | None:
        """The bias of the layer that gives the other operand, if nobody else reads that layer."""
        ((slot, s),) = shifts.items()
        other = node.tensor_in(1 - slot)
        if other is None or s.value is None or s.tiled or self.facts.use_problem(other, node) is not None:
            return None
        source = source_at(self.facts, self.facts.graph.producer(other) or node)
        if source is None or source.output is not other or len(source.shape) != s.rank:
            return None
        if self.facts.constants.problem(source.tensor) is not None:
            return None
        if np.broadcast_shapes(source.shape, s.value.shape) != source.shape:
            return None
        added = np.broadcast_to(s.value, source.shape).reshape(source.value.shape)
        how = f"the bias of {source.node.label} takes it over"
        return Absorb(node, "sibling", source.linear, lambda: added, added.size, how)


def sound(facts: Facts, bn: Affine) -> bool:
    """Whether a batch norm's scale and shift are finite: then its mean may change."""
    return all(np.isfinite(v).all() for v in (*values(facts, bn), *(facts.master(t) for t in bn.params)))


def felt_at(facts: Facts, tensor: Tensor) -> tuple[Node, str, str] | None:
    """Where any shift of the tensor is felt, through nodes that only hand it on: node, code, clause; None if unknown.

    Remembered for every tensor on the way: a long trunk is walked once, not once for each of its biases.
    """
    known_ends: dict[Tensor, tuple[Node, str, str] | None] = facts.of_wiring(("felt",), dict)
    trail: list[Tensor] = []
    at: Tensor | None = tensor
    end: tuple[Node, str, str] | None = None
    while at is not None:
        if at in known_ends:
            end = known_ends[at]
            break
        trail.append(at)
        readers = facts.graph.readers(at)
        maker = facts.graph.producer(at)
        if "output" in at.pins and maker is not None:
            end = maker, "output-is-graph-output", f"{at.name!r}: it is an output of its graph, many nodes further down"
            break
        feels = next((r for r in readers if r.is_op(*NOT_LINEAR)), None)
        if feels is not None:
            end = feels, "stops", f"{LINEARITY}, many nodes further down"
            break
        further = next((r for r in readers if r.scope is tensor.scope and _hands_on(facts, r, at)), None)
        at = None if further is None else further.tensor_out(0)
    known_ends.update(dict.fromkeys(trail, end))
    return end


def _hands_on(facts: Facts, node: Node, tensor: Tensor) -> bool:
    if node.is_op("Add"):
        others = [t for t in node.inputs if t is not tensor]
        return all(facts.constants.weight(t) is None for t in others)
    return (
        node.is_op("Identity", "Reshape", "Transpose", "MaxPool", "AveragePool", "Dropout") and node.inputs[0] is tensor
    )


def _trimmed(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """The last `rank` axes, if those before are of size 1."""
    lead = len(shape) - rank
    return shape[lead:] if lead > 0 and all(d == 1 for d in shape[:lead]) else ()


def segments(facts: Facts, source: Source) -> list[NDArray[np.bool_]]:
    """Parts of a fused bias (query, key, value): elements that are picked apart further down.

    Element numbers are followed through nodes that only rearrange; where Split, Slice or Gather
    picks some, those are a part. Empty if nothing picks the bias apart.
    """
    numbers = np.arange(1.0, source.value.size + 1)
    state = _Trace(facts, source, Permit())
    state.push(source.linear.last, source.output, known(numbers.reshape(source.shape)))
    parts: dict[bytes, NDArray[np.bool_]] = {}
    while state.queue:
        _, _, node = heapq.heappop(state.queue)
        if not node.is_op(*_REARRANGES, *_PICKS):
            continue
        shifts = {i: state.shifts[id(t)][1] for i, t in enumerate(node.inputs) if id(t) in state.shifts}
        outcome = through(facts, node, shifts)
        if not isinstance(outcome, Carry):
            continue
        for slot, shift in outcome.shifts.items():
            tensor = node.tensor_out(slot)
            if shift.value is None or tensor is None:
                continue
            ids = np.unique(shift.value[shift.value > 0]).astype(np.int64) - 1
            if node.is_op(*_PICKS) and 0 < ids.size < source.value.size:
                mask = np.zeros(source.value.size, bool)
                mask[ids] = True
                parts.setdefault(mask.tobytes(), mask.reshape(source.value.shape))
            else:
                state.push(node, tensor, shift)
        state.flow.stop = None
    return list(parts.values())


_REARRANGES = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Dropout")
_PICKS = ("Split", "Slice", "Gather")
