"""Where does a bias go? Its shift is followed through every reader until it is absorbed, cancelled or blocked.

A bias may go if every path ends in a node that absorbs its shift (into a bias, mean or constant further down) or
cancels it (an operator whose outputs do not depend on it). Nothing is ever added to carry it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from converter.dataclass import dataclass
from converter.model.graph import Node, Tensor
from converter.records import EffectKind, Step, Verb
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.fused import ATTENTION, CLOSED, REQUANTIZED, packed_bias_at
from converter.rewrite.analysis.linear import FUSED
from converter.rewrite.bias_flow.absorb import Absorb, Bias, TraceOptions, bias_at, find_absorb, find_sibling
from converter.rewrite.bias_flow.rules import NONLINEAR, RULES, propagate
from converter.rewrite.bias_flow.shift import NOT_LINEAR, Array, Block, Cancel, Effect, Propagate, Shift


@dataclass(slots=True)
class Trace:
    """The path of one shift: what each node does with it, what takes it over, and where it is blocked, if anywhere.

    Attributes
    ----------
    steps : list of Step
        In the model's order; the nodes by their labels, as they are when it is traced.
    ends : list of Node
        Nodes that absorb or cancel it.
    shifted : list of Tensor
        Tensors that it shifts.
    block : Block, optional
        Why it cannot be taken out; the last step says where.
    """

    bias: Bias | None
    steps: list[Step] = field(default_factory=list)
    absorbs: list[Absorb] = field(default_factory=list)
    cancels: list[Cancel] = field(default_factory=list)
    ends: list[Node] = field(default_factory=list)
    shifted: list[Tensor] = field(default_factory=list)
    block: Block | None = None
    softmax_rows: bool = False  # it went through rows of weights that sum to one
    meets_sum: bool = False  # whose other operand is not shifted: a sibling might take it over
    meets_bias_free: bool = False  # a layer without a bias: a new one might take it over

    @property
    def is_free(self) -> bool:
        """Whether the shift can be taken out."""
        return self.block is None and bool(self.absorbs or self.cancels)

    def name_part(self, mask: NDArray[np.bool_]) -> str:
        """What to call the part of a fused bias that was followed, and where it lies in it.

        In attention the ends tell the parts: softmax cancels the keys, and its rows hand the values on.
        """
        if self.softmax_rows:
            name = "value part"
        elif not self.absorbs and {c.kind for c in self.cancels} - {EffectKind.SHAPE} == {EffectKind.SOFTMAX}:
            name = "key part"
        else:
            name = "part"
        at = np.flatnonzero(mask.reshape(-1))
        is_run = at.size == at[-1] - at[0] + 1
        return f"{name}, elements {at[0]} to {at[-1]}" if is_run else f"{name}, {at.size} of {mask.size} elements"

    def list_steps(self, part: str = "") -> tuple[Step, ...]:
        """The steps, as those of a part of the bias."""
        return tuple(replace(step, part=part) for step in self.steps) if part else tuple(self.steps)


def trace_bias(facts: Facts, node: Node, options: TraceOptions | None = None) -> Trace | None:
    """Follow the bias that `node` adds to wherever it goes; None if it adds none that can be followed.

    Remembered while the graph stays as it is: a pass, and who asks why it declined, see one trace.
    """
    return facts.remember(_trace_bias, node, options or TraceOptions())


def _trace_bias(facts: Facts, node: Node, options: TraceOptions) -> Trace | None:
    bias = bias_at(facts, node)
    return None if bias is None else _Tracer(facts, bias, options).run(bias.value)


def trace_run_time_bias(facts: Facts, node: Node, slot: int, invariant: Iterable[int]) -> Trace:
    """Follow what a node adds that is known at run time only: it varies along no axis of `invariant`.

    Parameters
    ----------
    slot : int
        Input of the Add that holds it.
    """
    output = node.outputs[0]
    rank = facts.rank(output)
    assert rank is not None
    tracer = _Tracer(facts, None, TraceOptions())
    shift = Shift.of_axes(rank, invariant).tagged(("run-time bias", node.label, slot))
    tracer.push(node.label, output, shift)
    return tracer.follow()


def trace_parts(facts: Facts, node: Node) -> Sequence[tuple[NDArray[np.bool_], Trace]]:
    """The parts of a fused bias that are picked apart further down, each with its own trace."""
    return facts.remember(_trace_parts, node)


def _trace_parts(facts: Facts, node: Node) -> list[tuple[NDArray[np.bool_], Trace]]:
    bias = bias_at(facts, node)
    if bias is None:
        return []
    values = [(part, np.where(part, bias.value, 0.0)) for part in _find_parts(facts, bias)]
    return [(part, _Tracer(facts, bias, TraceOptions()).run(value)) for part, value in values if value.any()]


def _known_blockers(_: Facts) -> dict[Tensor, tuple[Node, Block] | None]:
    """What `first_blocker` found, tensor by tensor; empty at first."""
    return {}


def first_blocker(facts: Facts, tensor: Tensor) -> tuple[Node, Block] | None:
    """What blocks any shift of the tensor, through nodes that only hand it on, and why; None if unknown.

    Remembered for every tensor on the way: a long trunk is walked once, not once for each of its biases.
    """
    ends = facts.remember_wiring(_known_blockers)
    trail: list[Tensor] = []
    at: Tensor | None = tensor
    end: tuple[Node, Block] | None = None
    while at is not None:
        if at in ends:
            end = ends[at]
            break
        trail.append(at)
        readers = facts.graph.readers(at)
        maker = facts.graph.producer(at)
        if "output" in at.external_uses and maker is not None:
            why = f"{at.name!r}: it is an output of its graph, many nodes further down"
            end = maker, Block("output-is-graph-output", why)
            break
        blocking = next((r for r in readers if r.is_op(*NONLINEAR)), None)
        if blocking is not None:
            end = blocking, Block("stops", f"{NOT_LINEAR}, many nodes further down")
            break
        further = next((r for r in readers if r.scope is tensor.scope and _hands_on(facts, r, at)), None)
        at = None if further is None else further.tensor_out(0)
    ends.update(dict.fromkeys(trail, end))
    return end


def _hands_on(facts: Facts, node: Node, tensor: Tensor) -> bool:
    if node.is_op("Add"):
        others = [t for t in node.inputs if t is not tensor]
        return all(facts.constants.weight(t) is None for t in others)
    rule = RULES.get(node.op) if node.is_standard else None
    return rule is not None and rule.trunk and node.inputs[0] is tensor


_LONG = 16  # steps after which it is asked where the trace must end


class _Tracer:
    def __init__(self, facts: Facts, bias: Bias | None, options: TraceOptions) -> None:
        self.facts = facts
        self.options = options
        self.trace = Trace(bias)
        self.shifts: dict[int, tuple[Tensor, Shift]] = {}
        self.makers: dict[int, str] = {}  # label of the node that hands the shift of a tensor on
        self.queue: list[tuple[int, int, Node]] = []
        self.seen: set[int] = set()

    def run(self, value: Array) -> Trace:
        """Follow these elements of the bias, zero elsewhere."""
        self.start(value)
        return self.follow()

    def follow(self) -> Trace:
        """Ask the readers of what is shifted, and theirs, until all paths end or one is blocked."""
        while self.queue and self.trace.block is None:
            _, _, node = heapq.heappop(self.queue)
            try:
                self.visit(node)
            except (ValueError, IndexError) as exc:  # only a model whose shapes contradict each other
                self.block(node, Block("shapes", f"its shapes do not fit together ({exc})"))
        return self.trace

    def start(self, value: Array) -> None:
        """Shift the output of the node that bears the bias: a MatMul and its Add are one node here."""
        bias = self.trace.bias
        assert bias is not None
        if bias.node.is_op(REQUANTIZED):
            self.block(bias.node, Block("stops", "it rounds the sum, and cuts it to its range"))
            return
        if bias.node.is_microsoft(*CLOSED):
            self.start_closed(bias, value)
            return
        if bias.node.is_microsoft(*ATTENTION):
            self.start_packed(bias, value)
            return
        self.push(bias.node.label, bias.output, Shift.of_value(value.reshape(bias.shape)))

    def start_closed(self, bias: Bias, value: Array) -> None:
        """The bias lies inside of a fused operator: behind it comes what the operator ends with."""
        node, rank = bias.node, self.facts.rank(bias.output)
        normed = node.op == "SkipLayerNormalization" and rank is not None
        layer = node.is_microsoft(*FUSED) and not node.attr("activation", "") and rank is not None
        if normed and rank is not None:
            shift = Shift.of_value(value.reshape((1,) * (rank - 1) + (-1,)))
            self.heed(node, propagate(self.facts, node, {0: shift}), {})
        elif layer and rank is not None:
            behind = rank - 2 if node.op == "FusedConv" else 0
            self.push(node.label, bias.output, Shift.of_value(value.reshape(1, -1, *[1] * behind)))
        else:
            self.block(node, Block("stops", NOT_LINEAR, EffectKind.NONLINEAR))

    def start_packed(self, bias: Bias, value: Array) -> None:
        """Of attention's bias the softmax cancels the keys' part, and its rows hand on the values' part."""
        packed = packed_bias_at(self.facts, bias.node)
        if packed is None or packed.problem is not None:
            code, why = ("rank", "where its parts lie is not known") if packed is None else packed.problem or ("", "")
            self.block(bias.node, Block(code, why))
            return
        query, key, values = packed.split(value)
        if query.any():
            self.block(bias.node, Block("attention-query", "it weighs the keys by the shifted value"))
            return
        if key.any():
            found = Cancel(EffectKind.SOFTMAX, "softmax does not depend on what all keys share")
            self.heed(bias.node, found, {})
        if values.any():
            shift = Shift.of_value(values.reshape(1, 1, -1))
            self.heed(bias.node, Propagate({0: shift}, EffectKind.SOFTMAX_ROWS), {})

    def push(self, maker: str, tensor: Tensor, shift: Shift) -> None:
        """The tensor is shifted: its readers are asked next, in the model's order."""
        if shift.is_zero:
            return
        if tensor.external_uses or tensor.is_input:
            self.block_use(maker, tensor)
            return
        is_long = not self.options.siblings and len(self.trace.steps) >= _LONG
        blocker = first_blocker(self.facts, tensor) if is_long else None
        if blocker is not None:
            self.block(*blocker)
            return
        self.shifts[id(tensor)] = (tensor, shift)
        self.makers[id(tensor)] = maker
        self.trace.shifted.append(tensor)
        for reader in self.facts.graph.readers(tensor):
            if reader.scope is not tensor.scope:
                self.block(reader, Block("captured-by-subgraph", "a control-flow body reads it"))
            elif id(reader) not in self.seen:
                self.seen.add(id(reader))
                heapq.heappush(self.queue, (reader.position, id(reader), reader))

    def add(self, node: Node, verb: Verb, how: str, kind: EffectKind) -> None:
        sources = dict.fromkeys(self.makers[id(t)] for t in node.inputs if id(t) in self.makers)
        self.trace.steps.append(Step(node.label, str(node.op), verb, how, kind, tuple(sources)))

    def block(self, node: Node, block: Block) -> None:
        self.add(node, Verb.BLOCKS, block.why, block.kind)
        self.trace.block = block

    def block_use(self, maker: str, tensor: Tensor) -> None:
        """No node blocks the shift, but what the tensor is used for besides."""
        if "output" in tensor.external_uses:
            op, code, why = "output", "output-is-graph-output", "it is an output of the model"
        else:
            op, code, why = "use", "captured-by-subgraph", f"it is used by {', '.join(tensor.external_uses)}"
        self.trace.steps.append(Step(str(tensor.name), op, Verb.BLOCKS, why, sources=(maker,)))
        self.trace.block = Block(code, why)

    def absorb(self, absorb: Absorb) -> None:
        self.trace.absorbs.append(absorb)
        self.trace.ends.append(absorb.node)
        self.add(absorb.node, Verb.ABSORBS, absorb.how, absorb.kind)

    def shifts_of(self, node: Node) -> dict[int, Shift]:
        """Input slot -> shift."""
        return {i: self.shifts[id(t)][1] for i, t in enumerate(node.inputs) if id(t) in self.shifts}

    def visit(self, node: Node) -> None:
        shifts = self.shifts_of(node)
        absorb = find_absorb(self.facts, self.options, node, shifts)
        if absorb is not None:
            self.absorb(absorb)
            return
        effect = propagate(self.facts, node, shifts)
        meets_sum = isinstance(effect, Propagate) and node.is_op("Add", "Sub") and len(shifts) == 1
        sibling = find_sibling(self.facts, node, shifts) if meets_sum and self.options.siblings else None
        if sibling is not None:
            self.absorb(sibling)
            return
        self.heed(node, effect, shifts)
        if isinstance(effect, Propagate):
            self.trace.meets_sum |= meets_sum

    def heed(self, node: Node, effect: Effect, shifts: Mapping[int, Shift]) -> None:
        """Go on with what the node does."""
        match effect:
            case Block():
                self.block(node, effect)
            case Cancel(kind, how):
                self.trace.cancels.append(effect)
                self.trace.ends.append(node)
                self.add(node, Verb.CANCELS, how, kind)
            case Propagate(out, kind):
                self.add(node, Verb.PROPAGATES, effect.how, kind)
                self.trace.softmax_rows |= kind is EffectKind.SOFTMAX_ROWS
                self.trace.meets_bias_free |= node.is_op("Conv", "ConvTranspose", "Gemm")
                for slot, shift in out.items():
                    tensor = node.tensor_out(slot)
                    if tensor is not None:
                        self.push(node.label, tensor, shift)


def _find_parts(facts: Facts, bias: Bias) -> list[NDArray[np.bool_]]:
    """Parts of a fused bias (query, key, value): elements that are picked apart further down.

    Element numbers are followed through nodes that only rearrange; where Split, Slice or Gather
    picks some, those are a part. Empty if nothing picks the bias apart.
    """
    packed = packed_bias_at(facts, bias.node)
    if packed is not None:
        ends = np.cumsum([0, *packed.sizes])
        at = np.arange(bias.value.size)
        return [(at >= low) & (at < high) for low, high in pairwise(ends[1:])]
    numbers = np.arange(1.0, bias.value.size + 1)
    state = _Tracer(facts, bias, TraceOptions())
    state.start(numbers)
    parts: dict[bytes, NDArray[np.bool_]] = {}
    while state.queue:
        _, _, node = heapq.heappop(state.queue)
        if not node.is_op(*_REARRANGES, *_PICKS):
            continue
        try:
            effect = propagate(facts, node, state.shifts_of(node))
        except (ValueError, IndexError):  # as in `run`
            continue
        if not isinstance(effect, Propagate):
            continue
        for slot, shift in effect.shifts.items():
            tensor = node.tensor_out(slot)
            if shift.value is None or tensor is None:
                continue
            ids = np.unique(shift.value[shift.value > 0]).astype(np.int64) - 1
            if node.is_op(*_PICKS) and 0 < ids.size < bias.value.size:
                mask = np.zeros(bias.value.size, bool)
                mask[ids] = True
                parts.setdefault(mask.tobytes(), mask.reshape(bias.value.shape))
            else:
                state.push(node.label, tensor, shift)
        state.trace.block = None
    return list(parts.values())


_REARRANGES = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Dropout")
_PICKS = ("Split", "Slice", "Gather")
