"""Follow the change of one bias through a traced graph, and say where it ends.

Operators that write into their operand are followed too: what shares memory with the operand has then changed
in a way that nobody follows, unless it is the operand itself.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from converter.torch_models.lint.call import Call, bound, op_name
from converter.torch_models.lint.rules import elementwise as rules_point
from converter.torch_models.lint.rules import layout as rules_view
from converter.torch_models.lint.rules import linear as rules_linear
from converter.torch_models.lint.rules import normalization as rules_norm
from converter.torch_models.lint.shift import Change, Live, Shift, Support, shift
from converter.torch_models.lint.trace import Traced

RULES = {**rules_view.RULES, **rules_point.RULES, **rules_linear.RULES, **rules_norm.RULES}
_MAY_ALIAS = ("dropout", "feature_dropout", "alpha_dropout")  # in eval mode they return what they were given


@dataclass(frozen=True, slots=True)
class Kill:
    """A place where a change ends."""

    kind: str  # batch-norm | instance-norm | group-norm | layer-norm | frozen-norm | attention | softmax | centring
    node: Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the change of one bias."""

    dead: bool  # no output feels it, and something took it away
    kills: tuple[Kill, ...] = ()
    live: Live | None = None  # why not
    via: tuple[str, ...] = ()  # the operators on the way, each once
    products: bool = False  # whether it went through a product of two tensors: attention's scores


@dataclass(slots=True)
class _Run:
    changes: dict[Any, Any] = field(default_factory=dict)
    kills: list[Kill] = field(default_factory=list)
    via: dict[str, None] = field(default_factory=dict)
    live: Live | None = None


class Flow:
    """Follows changes through one traced graph."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self._order = {node: index for index, node in enumerate(traced.graph.nodes)}
        self._data = traced.data
        self._views = self._alias_groups()
        self._places = {node: name for node, name in traced.names.items() if name}

    def decide(self, parameter: str, part: tuple[int, int] | None = None, *, absorb_frozen: bool = False) -> Outcome:
        """Follow an arbitrary change of a parameter, or of a part of it (a vector's elements start:stop)."""
        run = _Run()
        waiting: list[tuple[int, Any]] = []
        for node, name in self._places.items():
            if name == parameter:
                self._set(run, node, _start(node, part), waiting)
        while waiting and run.live is None:
            _, node = heapq.heappop(waiting)
            if all(_change(run, source) is None for source in node.all_input_nodes):
                continue  # it was taken away meanwhile
            if node.op == "output":
                run.live = Live("output", "it reaches the output")
                break
            found = self._step(run, node, absorb_frozen)
            self._write(run, node, found, waiting)
        products = any(name in run.via for name in ("matmul", "bmm", "baddbmm", "einsum"))
        dead = run.live is None and bool(run.kills)
        return Outcome(dead, tuple(dict.fromkeys(run.kills)), run.live, tuple(run.via), products)

    def _step(self, run: _Run, node: Any, absorb_frozen: bool) -> Any:
        if node.target is operator.getitem:
            value = run.changes.get(node.args[0])
            return value[node.args[1]] if isinstance(value, tuple) else value
        op = op_name(node)
        rule = RULES.get(op) or RULES.get(op.removesuffix("_"))
        call = Call(
            node,
            op,
            bound(node),
            lambda value: _change(run, value),
            lambda value: value in self._data,
            lambda kind, nodes: run.kills.extend(Kill(kind, n) for n in nodes),
            absorb_frozen,
        )
        found = rule(call) if rule is not None else call.live("it is not known to pass a shift on")
        if found is not None:
            run.via[op.removesuffix("_")] = None
        return found

    def _write(self, run: _Run, node: Any, found: Any, waiting: list[tuple[int, Any]]) -> None:
        if isinstance(found, Live):
            run.live = found
            return
        schema = getattr(node.target, "_schema", None)
        written = _written(node, schema) if schema is not None and schema.is_mutable else None
        if written is not None:
            before = run.changes.get(written)
            if (found or before) and len(self._views.get(written, ())) > 1 and self._read_later(written, node):
                run.live = Live(op_name(node), "writes into memory that is read under another name")
                return
            self._set(run, written, found, waiting, after=node)
        self._set(run, node, found, waiting)

    def _read_later(self, written: Any, node: Any) -> bool:
        """Whether what shares memory with an operand, other than what comes of this write, is read afterwards."""
        others = [n for n in self._views[written] if n is not written and self._order[n] < self._order[node]]
        return any(self._order[user] > self._order[node] for other in others for user in other.users)

    def _set(self, run: _Run, node: Any, change: Any, waiting: list[tuple[int, Any]], after: Any = None) -> None:
        if change is None and node not in run.changes:
            return
        run.changes[node] = change
        if change is None or (isinstance(change, tuple) and not any(change)):
            return
        start = self._order[after if after is not None else node]
        queued = {index for index, _ in waiting}
        for user in node.users:
            index = self._order[user]
            if index > start and index not in queued:
                heapq.heappush(waiting, (index, user))

    def _alias_groups(self) -> dict[Any, set[Any]]:
        """Nodes that may share memory."""
        groups: dict[Any, set[Any]] = {}
        for node in self._order:
            for source in _aliased(node):
                merged = groups.get(source, {source}) | groups.get(node, {node})
                for member in merged:
                    groups[member] = merged
        return groups


def _start(node: Any, part: tuple[int, int] | None) -> Change:
    shape = node.meta["val"].shape
    varies = [axis for axis, size in enumerate(shape) if size != 1] or list(range(len(shape)))
    support = Support(0, *part) if part is not None and varies == [0] else None
    return shift(varies, support)


def _change(run: _Run, value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        found = tuple(_change(run, item) for item in value)
        return found if any(item is not None for item in found) else None
    try:
        return run.changes.get(value)
    except TypeError:  # no node
        return None


def _written(node: Any, schema: Any) -> Any:
    for argument, value in zip(schema.arguments, node.args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return value
    return None


def _aliased(node: Any) -> list[Any]:
    """The operands whose memory a node's result may share."""
    if node.target is operator.getitem:
        return [node.args[0]]
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return []
    if op_name(node) in _MAY_ALIAS:
        return [node.args[0]]
    if not any(result.alias_info is not None for result in schema.returns):
        return []
    pairs = zip(schema.arguments, node.args, strict=False)
    return [v for a, v in pairs if a.alias_info is not None and hasattr(v, "users")]


__all__ = ["Flow", "Kill", "Outcome", "Shift"]
