"""Where does a bias go? Its shift is followed through every reader until it is taken up, vanishes, or is felt.

A bias may go if every path ends in an absorber (a bias, mean or constant further down that takes the
shift over) or an annihilator (an operator that does not feel it). Nothing is ever added to carry it.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from converter.model.graph import Node, Tensor
from converter.records import EffectKind, Verb
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.bias_flow.absorb import absorber, sibling
from converter.rewrite.bias_flow.flow import Flow, Permit, Source, Step
from converter.rewrite.bias_flow.rules import through
from converter.rewrite.bias_flow.shift import LINEARITY, NOT_LINEAR, Array, Carry, Gone, Outcome, Shift, Stop, known


def felt_at(facts: Facts, tensor: Tensor) -> tuple[Node, Stop] | None:
    """Where any shift of the tensor is felt, through nodes that only hand it on, and why; None if unknown.

    Remembered for every tensor on the way: a long trunk is walked once, not once for each of its biases.
    """
    known_ends: dict[Tensor, tuple[Node, Stop] | None] = facts.of_wiring(("felt",), dict)
    trail: list[Tensor] = []
    at: Tensor | None = tensor
    end: tuple[Node, Stop] | None = None
    while at is not None:
        if at in known_ends:
            end = known_ends[at]
            break
        trail.append(at)
        readers = facts.graph.readers(at)
        maker = facts.graph.producer(at)
        if "output" in at.external_uses and maker is not None:
            why = f"{at.name!r}: it is an output of its graph, many nodes further down"
            end = maker, Stop("output-is-graph-output", why)
            break
        feels = next((r for r in readers if r.is_op(*NOT_LINEAR)), None)
        if feels is not None:
            end = feels, Stop("stops", f"{LINEARITY}, many nodes further down")
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


_LONG = 16  # nodes of a way after which it is asked where it must end


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
                self.stop(node, Stop("shapes", f"its shapes do not fit together ({exc})"))
        return self.flow

    def push(self, maker: Node, tensor: Tensor, shift: Shift) -> None:
        """The tensor is shifted: its readers are asked next, in the model's order."""
        if shift.is_zero:
            return
        if tensor.external_uses or tensor.is_input:
            what = (
                "it is an output of its graph"
                if "output" in tensor.external_uses
                else f"it is used by {', '.join(tensor.external_uses)}"
            )
            code = "output-is-graph-output" if "output" in tensor.external_uses else "captured-by-subgraph"
            self.stop(maker, Stop(code, what))
            return
        far = None if self.permit.siblings or len(self.flow.steps) < _LONG else felt_at(self.facts, tensor)
        if far is not None:
            self.stop(*far)
            return
        self.shifts[id(tensor)] = (tensor, shift)
        self.flow.carried.append(tensor)
        for reader in self.facts.graph.readers(tensor):
            if reader.scope is not tensor.scope:
                self.stop(reader, Stop("captured-by-subgraph", "a control-flow body reads it"))
            elif id(reader) not in self.seen:
                self.seen.add(id(reader))
                heapq.heappush(self.queue, (reader.position, id(reader), reader))

    def stop(self, node: Node, stop: Stop) -> None:
        step = Step(node, Verb.BLOCKS, stop.why, stop.kind, stop.code)
        self.flow.steps.append(step)
        self.flow.stop = step

    def visit(self, node: Node) -> None:
        shifts = {i: self.shifts[id(t)][1] for i, t in enumerate(node.inputs) if id(t) in self.shifts}
        absorb = absorber(self.facts, self.permit, node, shifts)
        if absorb is not None:
            self.flow.absorbs.append(absorb)
            self.flow.steps.append(Step(node, Verb.ABSORBS, absorb.how, absorb.kind))
            return
        outcome: Outcome = through(self.facts, node, shifts)
        if isinstance(outcome, Carry) and self.permit.siblings and node.is_op("Add") and len(shifts) == 1:
            beside = sibling(self.facts, node, shifts)
            if beside is not None:
                self.flow.absorbs.append(beside)
                self.flow.steps.append(Step(node, Verb.ABSORBS, beside.how, beside.kind))
                return
        match outcome:
            case Stop():
                self.stop(node, outcome)
            case Gone(how, kind):
                self.flow.gone.append(outcome)
                self.flow.steps.append(Step(node, Verb.CANCELS, how, kind))
            case Carry(out, kind):
                self.flow.steps.append(Step(node, Verb.PROPAGATES, outcome.how, kind))
                self.flow.softmax_rows |= kind is EffectKind.SOFTMAX_ROWS
                self.flow.adds |= node.is_op("Add") and len(shifts) == 1
                self.flow.bias_free |= node.is_op("Conv", "ConvTranspose", "Gemm")
                for slot, shift in out.items():
                    tensor = node.tensor_out(slot)
                    if tensor is not None:
                        self.push(node, tensor, shift)


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
