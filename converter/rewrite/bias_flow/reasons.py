"""Why a bias is kept: where it is felt, or what keeps it from going where it could go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.model.graph import Node, Tensor
from converter.records import EffectKind, Finding, Hop, Verb
from converter.rewrite.analysis.affine import affine_at, scale_and_shift, training_problem
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import Linear
from converter.rewrite.bias_flow.flow import Flow, Permit, Source, Step, source_at
from converter.rewrite.bias_flow.trace import trace


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
    carriers = {id(last), *(id(s.node) for s in flow.steps if s.verb is Verb.PROPAGATES)}
    found = []
    for step in flow.steps:
        if step.verb is Verb.BLOCKS and id(step.node) in carriers:
            found.append(_use(step, root if step.node is last else step.node.label, part))
        else:
            given_by = dict.fromkeys(labels[id(t)] for t in step.node.inputs if id(t) in labels)
            found.append(
                Reader(step.node.label, str(step.node.op), step.verb, step.how, step.kind, tuple(given_by), part)
            )
    return tuple(found)


def _use(step: Step, maker: str, part: str) -> Reader:
    """No node stops it, but what the tensor is used for besides."""
    tensor = next((t for t in step.node.outputs if t.external_uses or t.is_input), step.node.outputs[0])
    if "output" in tensor.external_uses:
        return Reader(str(tensor.name), "output", step.verb, "it is an output of the model", step.kind, (maker,), part)
    return Reader(str(tensor.name), "use", step.verb, step.how, step.kind, (maker,), part)


def part_of(flow: Flow, mask: NDArray[np.bool_] | None) -> str:
    """What to call a part of a fused bias, and where it lies in it; empty for all of it.

    In attention the ends tell the parts: softmax does not feel the keys, and its rows hand the values on.
    """
    if mask is None:
        return ""
    if flow.softmax_rows:
        name = "value part"
    elif not flow.absorbs and {g.kind for g in flow.gone} - {EffectKind.SHAPE} == {EffectKind.SOFTMAX}:
        name = "key part"
    else:
        name = "part"
    at = np.flatnonzero(mask.reshape(-1))
    whole = at.size == at[-1] - at[0] + 1
    return f"{name}, elements {at[0]} to {at[-1]}" if whole else f"{name}, {at.size} of {mask.size} elements"


@dataclass(frozen=True, slots=True)
class Kept:
    """Why a bias stays. ``felt_by``: a node, with its operator, where it is felt."""

    code: str
    why: str = ""
    felt_by: str = ""
    flow: Flow | None = None
    hops: tuple[Hop, ...] = ()

    def said(self, rest: str) -> str:
        """The reason as a clause; `rest` is what the part that is left is called."""
        if not self.felt_by:
            return self.why
        return f"{self.felt_by} feels {f'its {rest}' if rest else 'it'}" + (f": {self.why}" if self.why else "")

    def path(self, rest: str) -> tuple[Hop, ...]:
        """The way of what is left."""
        return self.hops if self.flow is None else hops(self.flow, rest)


# As the passes on bias flow ask, so that what they found out is still remembered.
_PERMITS = (Permit(), Permit(new_bias=True), Permit(siblings=True))


def why_kept(
    facts: Facts, tensor: Tensor, last: Node, linear: Linear | None, declined: Finding | None, unasked: str | None
) -> Kept:
    """Why the passes left a bias where it is.

    Parameters
    ----------
    tensor : the bias
    last : the node that adds it
    linear : of which it is the bias; None for LSTM, GRU and RNN
    declined : what a pass that takes biases away said against it
    unasked : why no pass may ask about the node
    """
    problem = facts.constants.problem(tensor)
    if problem is not None and problem[0] == "overridable":
        return Kept(*problem)
    if unasked is not None:
        return Kept("opset", unasked)
    if linear is None:
        return _recurrent(last, declined)
    source = facts.remembered(("source", id(last)), lambda: source_at(facts, last))
    if source is None:
        return _untraced(facts, linear)
    if declined is not None:  # the way that it could have gone
        flows = (_flow(facts, source, last, p) for p in _PERMITS)
        return Kept(declined.code, declined.why, flow=next((f for f in flows if f.free), None))
    return _stopped(_flow(facts, source, last, Permit()))


def _flow(facts: Facts, source: Source, last: Node, permit: Permit) -> Flow:
    return facts.remembered(("flow", id(last), permit), lambda: trace(facts, source, permit=permit))


def _recurrent(node: Node, declined: Finding | None) -> Kept:
    if declined is not None:
        return Kept(declined.code, declined.why)
    why = "its gates are not linear"
    hop = Reader(node.label, str(node.op), Verb.BLOCKS, why)
    return Kept("recurrent-gates", why, f"{node.op} ({node.label})", hops=(hop,))


def _untraced(facts: Facts, linear: Linear) -> Kept:
    if facts.constants.weight(linear.weight) is None:
        return Kept("not-constant", f"the weight {linear.weight.name!r} is known at run time only")
    return Kept("rank", "the number of axes of its output is not known")


def _stopped(flow: Flow) -> Kept:
    if flow.stop is None:
        if flow.free or not flow.source.value.any():
            return Kept("not-asked", "a pass that would take it away was left out", flow=flow)
        return Kept("unread", "no node reads what it shifts", flow=flow)
    end = hops(flow)[-1]
    assert isinstance(end, Reader)
    if end.op in ("output", "use"):
        name = f"output {end.node!r}" if end.op == "output" else f"{end.node!r} ({end.how})"
        return Kept(flow.stop.code, f"it reaches {name}", flow=flow)
    why = "" if end.kind is EffectKind.NONLINEAR else end.how
    return Kept(flow.stop.code, why, f"{end.op} ({end.node})", flow)


def why_batch_norm(facts: Facts, node: Node, declined: Finding | None) -> tuple[int, Kept] | None:
    """Elements and reason of the shift of a batch norm that is left; None if it has none, or none that is known."""
    affine = affine_at(node, 0)
    if affine is None or any(facts.constants.weight(t) is None for t in affine.params):
        return None
    training = training_problem(affine) is not None
    shift = facts.float64(affine.params[1]) if training else scale_and_shift(facts, affine)[1]
    if not np.any(shift):
        return None
    if declined is not None:
        return shift.size, Kept(declined.code, declined.why)
    return shift.size, Kept("batch-norm", "the batch norm that adds it stays")
