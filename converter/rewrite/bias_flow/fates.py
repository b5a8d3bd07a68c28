"""What became of every bias of a model: a ledger that is kept while the passes run.

A *seat* is a node that bears a bias: Conv, ConvTranspose, Gemm, MatMul with its Add, LSTM, GRU or RNN, from the
start or since a fold gave it one, and a batch norm that is left in the end. Each seat has one `Fate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from converter.model.graph import Node, Tensor
from converter.records import Delta, EffectKind, Fate, FateKind, Finding, Hop, Verb
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import CONV, CONV_TRANSPOSE, GEMM, MATMUL, Linear, linear_at, linear_into
from converter.rewrite.analysis.recurrent import BIAS, RECURRENT
from converter.rewrite.bias_flow.reasons import Kept, Reader, why_batch_norm, why_kept


class NoSuchBias(LookupError):
    """No bias has the name that was asked for; the message names those that come near."""


@dataclass(frozen=True, slots=True)
class BiasFate(Fate):
    """A fate, and all the names by which somebody may ask for it: of nodes, of tensors, before and after."""

    names: frozenset[str] = field(default=frozenset(), repr=False)


def named(fates: Iterable[BiasFate], name: str, ops: Mapping[str, str]) -> BiasFate:
    """The fate of the bias that somebody calls `name`.

    Parameters
    ----------
    ops : every node's label -> its operator, to tell a node without a bias from no node at all

    Raises
    ------
    NoSuchBias
        None is called that.
    """
    biases = list(fates)
    found = [f for f in biases if f.node == name] or [f for f in biases if name in f.names]
    if found:
        return found[0]
    if name in ops:
        passing = [f.node for f in biases if any(hop.node == name for hop in f.path)]
        met = f"; it meets that of {' and '.join(passing[:3])}" if passing else ""
        raise NoSuchBias(f"{name!r} is a {ops[name]} without a bias{met}.")
    near = _near(name, biases)
    hint = f"did you mean {' or '.join(near)}?" if near else "`inspect --fates` lists them."
    raise NoSuchBias(f"no bias is called {name!r}; {hint}")


def _near(name: str, fates: list[BiasFate]) -> list[str]:
    """Labels that hold the name, or are much like it."""
    holding = [f.node for f in fates if name.lower() in f.node.lower()]
    if holding:
        return holding[:3]
    near = get_close_matches(name, [n for f in fates for n in sorted(f.names)], cutoff=0.5)
    return list(dict.fromkeys(f.node for n in near for f in fates if n in f.names))[:3]


@dataclass(frozen=True, slots=True)
class Bias:
    """A bias as it is now: the node that bears it, the node that adds it, and the constant."""

    node: Node
    last: Node
    tensor: Tensor
    elements: int
    linear: Linear | None = None  # None for LSTM, GRU and RNN


def bias_of(facts: Facts, node: Node) -> Bias | None:
    """The constant bias that `node`, or the Add after it, or the MatMul before it, bears; None if there is none."""
    linear = None
    if node.is_op(CONV, CONV_TRANSPOSE, GEMM):
        linear = linear_into(facts, node, str(node.op))
    elif node.is_op(MATMUL):
        linear = linear_into(facts, node, MATMUL)
    elif node.is_op("Add"):
        linear = linear_at(facts, node, MATMUL)
    owner = node if linear is None else linear.node
    tensor = node.tensor_in(BIAS) if node.is_op(*RECURRENT) else None if linear is None else linear.bias
    weight = None if tensor is None else facts.constants.weight(tensor)
    if tensor is None or weight is None:
        return None
    last = node if linear is None else linear.last
    return Bias(owner, last, tensor, math.prod(weight.shape), linear)


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
    path : tuple of Hop
        The way there, as the graph is before the edits.
    """

    node: str
    kind: FateKind
    where: str
    removed: int
    part: str = ""
    path: tuple[Hop, ...] = ()


@dataclass(slots=True)
class _Seat:
    node: Node
    elements: int = 0
    taken: bool = True  # whether there is a bias now
    names: set[str] = field(default_factory=set)
    acts: list[BiasChange] = field(default_factory=list)


class Ledger:
    """Seats and what happened to them.

    Parameters
    ----------
    facts : Facts
        Of the graph before any pass.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._nodes = {n.label: n for n in facts.graph.nodes()}
        self._seats: dict[str, _Seat] = {}
        self._adds: dict[str, str] = {}  # the Add that holds a MatMul's bias -> the MatMul
        for node in self._nodes.values():
            self._look(node)

    def _look(self, node: Node) -> str | None:
        """Enter the bias that the node bears, if it bears one: the label of its seat."""
        if not node.alive:
            return None
        bias = bias_of(self._facts, node)
        if bias is None:
            return None
        seat = self._seats.setdefault(bias.node.label, _Seat(bias.node))
        if not seat.taken:
            seat.acts.clear()  # it lost one and was given another
        seat.taken, seat.elements = True, bias.elements
        seat.names |= _names(bias)
        self._adds[bias.last.label] = bias.node.label
        return bias.node.label

    def note(self, delta: Delta, act: BiasChange | None) -> None:
        """Enter what one rewrite did, after the edits."""
        if act is not None and act.node in self._seats:
            self._seats[act.node].acts.append(self._with_path(act))
        labels = (*delta.changed_nodes, *delta.removed_nodes)
        touched = [self._nodes[label] for label in labels if label in self._nodes]
        present = {label for node in touched if (label := self._look(node)) is not None}
        for label in dict.fromkeys(self._adds.get(label, label) for label in (*labels, *([act.node] if act else []))):
            seat = self._seats.get(label)
            if seat is not None and seat.taken and label not in present:
                self._lose(label, seat, act, delta)
        if len(present) == 1:  # a fold: who asks for the node that went means the bias that it became
            gone = [self._nodes[label] for label in delta.removed_nodes if label in self._nodes]
            self._seats[present.pop()].names |= {name for n in gone for name in (n.label, n.name) if name}

    def _with_path(self, act: BiasChange) -> BiasChange:
        end = self._nodes.get(act.where)
        if act.path or end is None or act.kind is not FateKind.ABSORBED:
            return act
        norm = end.is_op("BatchNormalization")
        how, kind = ("takes it over into its mean", EffectKind.MEAN) if norm else ("takes it over", EffectKind.PLAIN)
        hop = Reader(act.where, str(end.op), Verb.ABSORBS, how, kind, (act.node,))
        return replace(act, path=(hop,))

    def _lose(self, label: str, seat: _Seat, act: BiasChange | None, delta: Delta) -> None:
        if seat.node.alive and bias_of(self._facts, seat.node) is not None:
            return
        seat.taken = False
        if act is None or act.node != label:  # a fold moved it on; that is no pass of biases
            bearers = dict.fromkeys(self._adds.get(n, n) for n in delta.changed_nodes)
            others = [n for n in bearers if n != label]
            ends = [_folded(self._nodes[n], n, label) for n in others]
            seat.acts.append(BiasChange(label, FateKind.ABSORBED, ", ".join(others), seat.elements, path=tuple(ends)))

    def close(self, declined: Iterable[Finding], unasked: Mapping[str, str]) -> tuple[BiasFate, ...]:
        """Every fate, in the model's order.

        Parameters
        ----------
        declined : findings of passes that take biases away, and those on batch norms
        unasked : label of a node that passes may not ask about -> why
        """
        findings: dict[str, Finding] = {}
        for finding in declined:
            findings.setdefault(finding.node, finding)
        found = [(seat.node.position, self._fate(seat, findings, unasked)) for seat in self._seats.values()]
        for node in self._facts.graph.nodes():
            if node.is_op("BatchNormalization"):
                kept = why_batch_norm(self._facts, node, findings.get(node.label))
                if kept is not None:
                    found.append((node.position, _batch_norm(node, *kept)))
        return tuple(fate for _, fate in sorted(found, key=lambda item: item[0]))

    def _fate(self, seat: _Seat, findings: Mapping[str, Finding], unasked: Mapping[str, str]) -> BiasFate:
        bias = bias_of(self._facts, seat.node) if seat.taken else None
        if bias is None:
            return _gone(seat)
        declined = findings.get(bias.last.label) or findings.get(bias.node.label)
        kept = why_kept(self._facts, bias.tensor, bias.last, bias.linear, declined, unasked.get(bias.node.label))
        return _kept(seat, bias, kept)


def _folded(node: Node, label: str, source: str) -> Reader:
    return Reader(label, str(node.op), Verb.ABSORBS, "folded into it", given_by=(source,))


def _names(bias: Bias) -> set[str]:
    nodes = (bias.node, bias.last)
    made = {str(t.name) for n in nodes for t in n.outputs}
    return {n for n in {bias.tensor.name, *(x.label for x in nodes), *(x.name for x in nodes), *made} if n}


def _gone(seat: _Seat) -> BiasFate:
    """All of it went; where parts went before the rest did, the parts say where to."""
    acts = [a for a in seat.acts if a.kind is not FateKind.ZERO] or seat.acts
    kinds = [a.kind for a in acts]
    kind = next(k for k in (FateKind.MERGED, FateKind.ABSORBED, FateKind.DEAD, FateKind.ZERO) if k in kinds)
    where = ", ".join(dict.fromkeys(a.where for a in acts if a.where))
    path = tuple(hop for a in acts for hop in a.path)
    names = frozenset(seat.names)
    return BiasFate(seat.node.label, _op(seat), kind, seat.elements, seat.elements, where, path=path, names=names)


def _kept(seat: _Seat, bias: Bias, kept: Kept) -> BiasFate:
    parts = seat.acts
    rest = _rest(parts)
    return BiasFate(
        node=seat.node.label,
        op=_op(seat),
        kind=FateKind.KEPT,
        elements=bias.elements,
        removed=sum(a.removed for a in parts),
        where=", ".join(dict.fromkeys(a.where for a in parts if a.where and a.where != a.node)),
        code=kept.code,
        why="; ".join([kept.said(rest), *map(_told, parts)]),
        path=(*(hop for a in parts for hop in a.path), *(kept.path(rest))),
        names=frozenset(seat.names),
    )


def _rest(parts: list[BiasChange]) -> str:
    """What a fused bias still holds."""
    if not parts:
        return ""
    if any(a.kind is FateKind.MERGED for a in parts):
        return "input part"  # of an LSTM, GRU or RNN
    gone = {a.part.split(",")[0] for a in parts}
    return "query part" if {"key part", "value part"} <= gone else "rest"


def _told(act: BiasChange) -> str:
    name = act.part.split(",")[0] or "recurrence part"
    if act.kind is FateKind.DEAD:
        return f"its {name} is dead"
    if act.kind is FateKind.MERGED:
        return f"its {name} was added into the input part"
    return f"its {name} went to {act.where}"


def _op(seat: _Seat) -> str:
    return str(seat.node.proto.op_type)


def _batch_norm(node: Node, elements: int, kept: Kept) -> BiasFate:
    names = {node.label, node.name, *(str(t.name) for t in (*node.inputs[1:], node.outputs[0]))}
    return BiasFate(
        node.label,
        str(node.op),
        FateKind.KEPT,
        elements,
        code=kept.code,
        why=kept.said(""),
        names=frozenset(n for n in names if n),
    )
