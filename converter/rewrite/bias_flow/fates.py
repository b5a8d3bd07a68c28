"""What became of every bias of a model: a tracker that goes along while the passes run.

A *site* is a node that bears a bias: Conv, ConvTranspose, Gemm, MatMul with its Add, LSTM, GRU or RNN, from the
start or since a fold gave it one, and a batch norm that is left in the end. Each site has one `Fate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from difflib import get_close_matches

import numpy as np

from converter.dataclass import dataclass
from converter.model.graph import Node, Tensor
from converter.records import Delta, EffectKind, Fate, FateKind, Finding, Step, Verb
from converter.rewrite.analysis.affine import affine_at, scale_and_shift, training_problem
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.fused import ATTENTION, CLOSED, REQUANTIZED
from converter.rewrite.analysis.linear import CONV, CONV_TRANSPOSE, GEMM, MATMUL, Linear, linear_at, linear_into
from converter.rewrite.analysis.quantized import quantized_at, quantized_into
from converter.rewrite.analysis.recurrent import BIAS, is_recurrent
from converter.rewrite.bias_flow.absorb import TraceOptions, bias_at
from converter.rewrite.bias_flow.trace import Trace, trace_bias


class UnknownBias(LookupError):
    """No bias has the name that was asked for; the message names those that come near."""


NoSuchBias = UnknownBias  # its name in earlier versions


def find_bias(fates: Iterable[Fate], name: str, ops: Mapping[str, str]) -> Fate:
    """The fate of the bias that somebody calls `name`.

    Parameters
    ----------
    ops : every node's label -> its operator, to tell a node without a bias from no node at all

    Raises
    ------
    UnknownBias
        None is called that.
    """
    biases = list(fates)
    matches = [f for f in biases if f.node == name] or [f for f in biases if name in f.names]
    if matches:
        return matches[0]
    if name in ops:
        passing = [f.node for f in biases if any(step.node == name for step in f.path)]
        met = f"; it meets that of {' and '.join(passing[:3])}" if passing else ""
        raise UnknownBias(f"{name!r} is a {ops[name]} without a bias{met}.")
    near = _find_near(name, biases)
    hint = f"did you mean {' or '.join(near)}?" if near else "`inspect --fates` lists them."
    raise UnknownBias(f"no bias is called {name!r}; {hint}")


def _find_near(name: str, fates: list[Fate]) -> list[str]:
    """Labels that hold the name, or are much like it."""
    holding = [f.node for f in fates if name.lower() in f.node.lower()]
    if holding:
        return holding[:3]
    near = get_close_matches(name, [n for f in fates for n in f.names], cutoff=0.5)
    return list(dict.fromkeys(f.node for n in near for f in fates if n in f.names))[:3]


@dataclass(frozen=True, slots=True)
class BiasChange:
    """What one rewrite does to a bias: it takes all of it away, or a part.

    Attributes
    ----------
    node : str
        The node that bears the bias.
    where : str
        Nodes where it goes, or is lost.
    removed : int
        Elements that go.
    part : str
        What the part is called; empty where all of the bias goes.
    path : tuple of Step
        The way there, as the graph is before the edits.
    """

    node: str
    kind: FateKind
    where: str
    removed: int
    part: str = ""
    path: tuple[Step, ...] = ()


@dataclass(slots=True)
class BiasSite:
    """A node that bears a bias, the bias as it is now, and what happened to it.

    ``last`` adds it: the Add of a MatMul, otherwise the node. ``linear`` is None for LSTM, GRU and RNN.
    """

    node: Node
    last: Node
    tensor: Tensor
    elements: int
    linear: Linear | None = None
    has_bias: bool = True
    names: set[str] = field(default_factory=set)
    changes: list[BiasChange] = field(default_factory=list)


def site_at(facts: Facts, node: Node) -> BiasSite | None:
    """The constant bias that `node`, or the Add after it, or the MatMul before it, bears; None if there is none."""
    linear = None
    if node.is_op(CONV, CONV_TRANSPOSE, GEMM):
        linear = linear_into(facts, node, str(node.op))
    elif node.is_op(MATMUL):
        linear = linear_into(facts, node, MATMUL)
    elif node.is_op("Add"):
        linear = linear_at(facts, node, MATMUL) or quantized_at(facts, node)
    elif node.is_microsoft(*ATTENTION, *CLOSED) or node.is_op(REQUANTIZED):
        found = bias_at(facts, node)
        linear = None if found is None else found.linear
    else:
        linear = quantized_into(facts, node)
    owner = node if linear is None else linear.node
    tensor = node.tensor_in(BIAS) if is_recurrent(node) else None if linear is None else linear.bias
    weight = None if tensor is None else facts.constants.weight(tensor)
    if tensor is None or weight is None:
        return None
    last = node if linear is None else linear.last
    return BiasSite(owner, last, tensor, math.prod(weight.shape), linear, names=_collect_names(tensor, owner, last))


def _collect_names(tensor: Tensor, *nodes: Node) -> set[str]:
    outputs = {str(t.name) for n in nodes for t in n.outputs}
    return {n for n in {tensor.name, *(x.label for x in nodes), *(x.name for x in nodes), *outputs} if n}


class BiasTracker:
    """Sites and what happened to them.

    Parameters
    ----------
    facts : Facts
        Of the graph before any pass.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._nodes = {n.label: n for n in facts.graph.nodes()}
        self._sites: dict[str, BiasSite] = {}
        self._adds: dict[str, str] = {}  # the Add that holds a MatMul's bias -> the MatMul
        for node in self._nodes.values():
            self._enter(node)

    def _enter(self, node: Node) -> str | None:
        """Enter the bias that the node bears, if it bears one: the label of its site."""
        now = site_at(self._facts, node) if node.alive else None
        if now is None:
            return None
        label = now.node.label
        site = self._sites.setdefault(label, now)
        if not site.has_bias:
            site.changes.clear()  # the bias that went is not the one that a fold gave the node since
        site.has_bias, site.elements = True, now.elements
        site.names |= now.names
        self._adds[now.last.label] = label
        return label

    def note(self, delta: Delta, change: BiasChange | None) -> None:
        """Enter what one rewrite did, after the edits."""
        if change is not None and change.node in self._sites:
            self._sites[change.node].changes.append(self._add_path(change))
        labels = (*delta.changed_nodes, *delta.removed_nodes)
        touched = [self._nodes[label] for label in labels if label in self._nodes]
        present = {label for node in touched if (label := self._enter(node)) is not None}
        asked = (*labels, *([change.node] if change else []))
        for label in dict.fromkeys(self._adds.get(label, label) for label in asked):
            site = self._sites.get(label)
            if site is not None and site.has_bias and label not in present:
                self._lose(label, site, change, delta)
        if len(present) == 1:  # a fold: who asks for the node that went means the bias that it became
            gone = [self._nodes[label] for label in delta.removed_nodes if label in self._nodes]
            self._sites[present.pop()].names |= {name for n in gone for name in (n.label, n.name) if name}

    def _add_path(self, change: BiasChange) -> BiasChange:
        end = self._nodes.get(change.where)
        if change.path or end is None or change.kind is not FateKind.ABSORBED:
            return change
        norm = end.is_op("BatchNormalization")
        how, kind = ("takes it over into its mean", EffectKind.MEAN) if norm else ("takes it over", EffectKind.PLAIN)
        return replace(change, path=(Step(change.where, str(end.op), Verb.ABSORBS, how, kind, (change.node,)),))

    def _lose(self, label: str, site: BiasSite, change: BiasChange | None, delta: Delta) -> None:
        if site.node.alive and site_at(self._facts, site.node) is not None:
            return
        site.has_bias = False
        if change is None or change.node != label:  # a fold moved it on; that is no pass of biases
            bearers = dict.fromkeys(self._adds.get(n, n) for n in delta.changed_nodes)
            others = {n: str(self._nodes[n].op) for n in bearers if n != label}
            ends = [Step(n, op, Verb.ABSORBS, "folded into it", sources=(label,)) for n, op in others.items()]
            where = ", ".join(others)
            kind = FateKind.ABSORBED if others else FateKind.DEAD  # nobody reads it any more
            site.changes.append(BiasChange(label, kind, where, site.elements, path=tuple(ends)))

    def close(self, declined: Iterable[Finding], unasked: Mapping[str, str]) -> tuple[Fate, ...]:
        """Every fate, in the model's order.

        Parameters
        ----------
        declined : findings of passes that take biases away, and those on batch norms
        unasked : label of a node that passes may not ask about -> why
        """
        findings: dict[str, Finding] = {}
        for finding in declined:
            findings.setdefault(finding.node, finding)
        fates = [(site.node.position, self._fate(site, findings, unasked)) for site in self._sites.values()]
        for node in self._facts.graph.nodes():
            if node.is_op("BatchNormalization"):
                fate = _build_batch_norm_fate(self._facts, node, findings.get(node.label))
                if fate is not None:
                    fates.append((node.position, fate))
        return tuple(fate for _, fate in sorted(fates, key=lambda item: item[0]))

    def _fate(self, site: BiasSite, findings: Mapping[str, Finding], unasked: Mapping[str, str]) -> Fate:
        now = site_at(self._facts, site.node) if site.has_bias else None
        if now is None:
            return _build_gone_fate(site)
        declined = findings.get(now.last.label) or findings.get(now.node.label)
        return _build_kept_fate(self._facts, site, now, declined, unasked.get(now.node.label))


def _build_gone_fate(site: BiasSite) -> Fate:
    """All of it went; where parts went before the rest did, the parts say where to."""
    changes = [c for c in site.changes if c.kind is not FateKind.ZERO] or site.changes
    kinds = [c.kind for c in changes]
    kind = next(k for k in (FateKind.MERGED, FateKind.ABSORBED, FateKind.DEAD, FateKind.ZERO) if k in kinds)
    where = ", ".join(dict.fromkeys(c.where for c in changes if c.where))
    path = tuple(step for c in changes for step in c.path)
    names, op = tuple(sorted(site.names)), str(site.node.proto.op_type)
    return Fate(site.node.label, op, kind, site.elements, site.elements, where, path=path, names=names)


# -- why it is kept ----------------------------------------------------------------------------

Why = tuple[str, str, tuple[Step, ...]]  # code, clause, path


def _build_kept_fate(
    facts: Facts, site: BiasSite, now: BiasSite, declined: Finding | None, unasked: str | None
) -> Fate:
    """A bias that the passes left where it is, or a part of it.

    Parameters
    ----------
    now : the site as it is now
    declined : what a pass that takes biases away said against it
    unasked : why no pass may ask about the node
    """
    parts = site.changes
    code, why, path = _explain_kept(facts, now, _name_rest(parts), declined, unasked)
    return Fate(
        node=site.node.label,
        op=str(now.node.op),
        kind=FateKind.KEPT,
        elements=now.elements,
        removed=sum(c.removed for c in parts),
        where=", ".join(dict.fromkeys(c.where for c in parts if c.where and c.where != c.node)),
        code=code,
        why="; ".join([why, *map(_describe_part, parts)]),
        path=(*(step for c in parts for step in c.path), *path),
        names=tuple(sorted(site.names)),
    )


def _name_rest(parts: list[BiasChange]) -> str:
    """What a fused bias still holds."""
    if not parts:
        return ""
    if any(c.kind is FateKind.MERGED for c in parts):
        return "input part"  # of an LSTM, GRU or RNN
    gone = {c.part.split(",")[0] for c in parts}
    return "query part" if {"key part", "value part"} <= gone else "rest"


def _describe_part(change: BiasChange) -> str:
    name = change.part.split(",")[0] or "recurrence part"
    if change.kind is FateKind.DEAD:
        return f"its {name} is dead"
    if change.kind is FateKind.MERGED:
        return f"its {name} was added into the input part"
    return f"its {name} went to {change.where}"


def _explain_kept(facts: Facts, site: BiasSite, rest: str, declined: Finding | None, unasked: str | None) -> Why:
    """Why, and the path of what is left, which is called `rest`."""
    problem = facts.constants.problem(site.tensor)
    if problem is not None and problem[0] == "overridable":
        return *problem, ()
    if unasked is not None:
        return "opset", unasked, ()
    if site.linear is None:
        return _explain_recurrent(site.node, rest, declined)
    trace = trace_bias(facts, site.last)
    if trace is None:
        return _explain_untraced(facts, site.linear)
    if declined is not None:  # the path that it could have taken
        wider = (TraceOptions(), TraceOptions(new_bias=True), TraceOptions(siblings=True))
        traces = (trace_bias(facts, site.last, options) for options in wider)
        free = next((t for t in traces if t is not None and t.is_free), None)
        return declined.code, declined.why, () if free is None else free.list_steps(rest)
    return *_explain_block(trace, rest), trace.list_steps(rest)


def _explain_recurrent(node: Node, rest: str, declined: Finding | None) -> Why:
    if declined is not None:
        return declined.code, declined.why, ()
    step = Step(node.label, str(node.op), Verb.BLOCKS, "its gates are not linear")
    return "recurrent-gates", _describe_block(step, rest), (step,)


def _explain_untraced(facts: Facts, linear: Linear) -> Why:
    if facts.constants.weight(linear.weight) is None:
        return "not-constant", f"the weight {linear.weight.name!r} is known at run time only", ()
    return "rank", "the number of axes of its output is not known", ()


def _explain_block(trace: Trace, rest: str) -> tuple[str, str]:
    if trace.block is None:
        if trace.is_free or (trace.bias is not None and not trace.bias.value.any()):
            return "not-asked", "a pass that would take it away was left out"
        return "unread", "no node reads what it shifts"
    return trace.block.code, _describe_block(trace.steps[-1], rest)


def _describe_block(end: Step, rest: str) -> str:
    if end.op == "output":
        return f"it reaches output {end.node!r}"
    if end.op == "use":
        return f"it reaches {end.node!r} ({end.how})"
    said = f"{end.op} ({end.node}) depends on {f'its {rest}' if rest else 'it'}"
    return said if end.kind is EffectKind.NONLINEAR else f"{said}: {end.how}"


def _build_batch_norm_fate(facts: Facts, node: Node, declined: Finding | None) -> Fate | None:
    """Of the shift of a batch norm that is left; None if it has none, or none that is known."""
    affine = affine_at(node, 0)
    if affine is None or any(facts.constants.weight(t) is None for t in affine.params):
        return None
    training = training_problem(affine) is not None
    shift = facts.float64(affine.params[1]) if training else scale_and_shift(facts, affine)[1]
    if not np.any(shift):
        return None
    code, why = ("batch-norm", "the batch norm that adds it stays")
    if declined is not None:
        code, why = declined.code, declined.why
    names = {node.label, node.name, *(str(t.name) for t in (*node.inputs[1:], node.outputs[0]))}
    known = tuple(sorted(n for n in names if n))
    return Fate(node.label, str(node.op), FateKind.KEPT, shift.size, code=code, why=why, names=known)
