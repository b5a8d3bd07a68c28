"""Where a long way must end, found once for all the biases that go along it."""

from __future__ import annotations

from converter.analysis.facts import Facts
from converter.analysis.outcomes import LINEARITY, NOT_LINEAR
from converter.graph import Node, Tensor


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
