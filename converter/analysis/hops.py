"""The way of a bias as records: a `Hop` for each node that its shift meets, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.analysis.flow_records import Flow, Step
from converter.records import Hop


@dataclass(frozen=True, slots=True)
class Reader(Hop):
    """A hop, with the nodes that hand it the shift, so that a path can be drawn as a tree.

    ``part``: the part of a fused bias whose way this is. Where ``op`` is ``output``, ``node`` is a tensor.
    """

    given_by: tuple[str, ...] = ()
    part: str = ""


def hops(flow: Flow, part: str = "") -> tuple[Reader, ...]:
    """The flow's steps, in the model's order. To be asked while the graph is as it was traced."""
    last, root = flow.source.linear.last, flow.source.node.label
    # A MatMul's bias lies in the Add after it; both are one node here.
    labels = {id(t): root if t is flow.source.output else str(t.inputs[0].label) for t in flow.carried}
    carriers = {id(last), *(id(s.node) for s in flow.steps if s.verb == "carries")}
    found = []
    for step in flow.steps:
        if step.verb == "stops" and id(step.node) in carriers:
            found.append(_use(step, root if step.node is last else step.node.label, part))
        else:
            given_by = dict.fromkeys(labels[id(t)] for t in step.node.inputs if id(t) in labels)
            found.append(Reader(step.node.label, str(step.node.op), step.verb, step.how, tuple(given_by), part))
    return tuple(found)


def _use(step: Step, maker: str, part: str) -> Reader:
    """No node stops it, but what the tensor is used for besides."""
    tensor = next((t for t in step.node.outputs if t.pins or t.is_input), step.node.outputs[0])
    if "output" in tensor.pins:
        return Reader(str(tensor.name), "output", step.verb, "it is an output of the model", (maker,), part)
    return Reader(str(tensor.name), "use", step.verb, step.how.removeprefix(f"{tensor.name!r}: "), (maker,), part)


def part_of(flow: Flow, mask: NDArray[np.bool_] | None) -> str:
    """What to call a part of a fused bias, and where it lies in it; empty for all of it.

    In attention the ends tell the parts: softmax does not feel the keys, and its rows hand the values on.
    """
    if mask is None:
        return ""
    if flow.softmax_rows:
        name = "value part"
    elif not flow.absorbs and {g.kind for g in flow.gone if g.kind != "shape"} == {"softmax"}:
        name = "key part"
    else:
        name = "part"
    at = np.flatnonzero(mask.reshape(-1))
    whole = at.size == at[-1] - at[0] + 1
    return f"{name}, elements {at[0]} to {at[-1]}" if whole else f"{name}, {at.size} of {mask.size} elements"
