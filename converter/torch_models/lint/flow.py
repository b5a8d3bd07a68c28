"""Follow the change of one bias through a traced graph: where it ends, and which biases are candidates by that.

Operators that write into their operand are followed too: what shares memory with the operand has then changed
in a way that nobody follows, unless it is the operand itself.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from converter.dataclass import dataclass
from converter.torch_models.lint.confirm import GRADIENT, Change, Twin, is_vector
from converter.torch_models.lint.rules import elementwise, layout, linear, normalization
from converter.torch_models.lint.shift import Block, Call, Effect, Support, bind_arguments, new_shift, op_name
from converter.torch_models.lint.trace import TracedModule

RULES = {**layout.RULES, **elementwise.RULES, **linear.RULES, **normalization.RULES}
_MAY_ALIAS = ("dropout", "feature_dropout", "alpha_dropout")  # in eval mode they return what they were given


@dataclass(frozen=True, slots=True)
class Cancel:
    """A place where a change ends."""

    kind: str  # batch-norm | instance-norm | group-norm | layer-norm | frozen-norm | attention | softmax | centring
    node: Any


@dataclass(frozen=True, slots=True)
class Trace:
    """What became of the change of one bias."""

    dead: bool  # no output depends on it, and something took it away
    cancels: tuple[Cancel, ...] = ()
    block: Block | None = None  # why not
    via: tuple[str, ...] = ()  # the operators on the way, each once
    products: bool = False  # whether it went through a product of two tensors: attention's scores


@dataclass(slots=True)
class _Run:
    changes: dict[Any, Any] = field(default_factory=dict)
    cancels: list[Cancel] = field(default_factory=list)
    via: dict[str, None] = field(default_factory=dict)
    block: Block | None = None


class BiasFlow:
    """Follows changes through one traced graph."""

    def __init__(self, traced: TracedModule) -> None:
        self.traced = traced
        self._order = {node: index for index, node in enumerate(traced.graph.nodes)}
        self._data = traced.data
        self._views = self._alias_groups()
        self._places = {node: name for node, name in traced.names.items() if name}

    def trace(self, parameter: str, part: tuple[int, int] | None = None, *, absorb_frozen: bool = False) -> Trace:
        """Follow an arbitrary change of a parameter, or of a part of it (a vector's elements start:stop)."""
        run = _Run()
        waiting: list[tuple[int, Any]] = []
        for node, name in self._places.items():
            if name == parameter:
                self._set(run, node, _start_shift(node, part), waiting)
        while waiting and run.block is None:
            _, node = heapq.heappop(waiting)
            if all(_effect_at(run, source) is None for source in node.all_input_nodes):
                continue  # it was taken away meanwhile
            if node.op == "output":
                run.block = Block("output", "it reaches the output")
                break
            found = self._step(run, node, absorb_frozen)
            self._write(run, node, found, waiting)
        products = any(name in run.via for name in ("matmul", "bmm", "baddbmm", "einsum"))
        dead = run.block is None and bool(run.cancels)
        return Trace(dead, tuple(dict.fromkeys(run.cancels)), run.block, tuple(run.via), products)

    def _step(self, run: _Run, node: Any, absorb_frozen: bool) -> Any:
        if node.target is operator.getitem:
            value = run.changes.get(node.args[0])
            return value[node.args[1]] if isinstance(value, tuple) else value
        op = op_name(node)
        if _reads_shape_only(run, node, op):
            return None
        if node not in self._data and node.op == "call_function":
            return _change_computed(node)
        rule = RULES.get(op) or RULES.get(op.removesuffix("_"))
        call = Call(
            node,
            op,
            bind_arguments(node),
            lambda value: _effect_at(run, value),
            lambda value: value in self._data,
            lambda kind, nodes: run.cancels.extend(Cancel(kind, n) for n in nodes),
            absorb_frozen,
        )
        found = rule(call) if rule is not None else call.block("it is not known to pass a shift on")
        if found is not None:
            run.via[op.removesuffix("_")] = None
        return found

    def _write(self, run: _Run, node: Any, found: Any, waiting: list[tuple[int, Any]]) -> None:
        if isinstance(found, Block):
            run.block = found
            return
        schema = getattr(node.target, "_schema", None)
        written = _written_operand(node, schema) if schema is not None and schema.is_mutable else None
        if written is not None:
            before = run.changes.get(written)
            if (found or before) and len(self._views.get(written, ())) > 1 and self._read_later(written, node):
                run.block = Block(op_name(node), "writes into memory that is read under another name")
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
            for source in _aliased_operands(node):
                merged = groups.get(source, {source}) | groups.get(node, {node})
                for member in merged:
                    groups[member] = merged
        return groups


# Operators of which an operand gives its shape or its type and nothing else, by the operand's name.
_SHAPE_ONLY = {
    **dict.fromkeys(("reshape_as", "view_as", "expand_as", "type_as", "resize_as"), "other"),
    **dict.fromkeys(("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"), "self"),
    **dict.fromkeys(("new_zeros", "new_ones", "new_empty", "new_full"), "self"),
}


def _reads_shape_only(run: _Run, node: Any, op: str) -> bool:
    """Whether nothing that changes gives this operator more than a shape."""
    name = _SHAPE_ONLY.get(op)
    if name is None:
        return False
    rest = {key: value for key, value in bind_arguments(node).items() if key != name}
    return all(_effect_at(run, value) is None for value in rest.values())


def _change_computed(node: Any) -> Any:
    """The change of what is computed from parameters alone, as a parametrised bias is: any values, of its shape."""
    value = node.meta.get("val")
    shape = getattr(value, "shape", None)
    if shape is None:
        return Block(op_name(node), "several values of parameters")
    return new_shift([axis for axis, size in enumerate(shape) if size != 1])


def _start_shift(node: Any, part: tuple[int, int] | None) -> Effect:
    shape = node.meta["val"].shape
    varies = [axis for axis, size in enumerate(shape) if size != 1] or list(range(len(shape)))
    support = Support(0, *part) if part is not None and varies == [0] else None
    return new_shift(varies, support)


def _effect_at(run: _Run, value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        found = tuple(_effect_at(run, item) for item in value)
        return found if any(item is not None for item in found) else None
    try:
        return run.changes.get(value)
    except TypeError:  # no node
        return None


def _written_operand(node: Any, schema: Any) -> Any:
    for argument, value in zip(schema.arguments, node.args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return value
    return None


def _aliased_operands(node: Any) -> list[Any]:
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


_OFFSETS = ("batch_norm", "instance_norm", "group_norm", "layer_norm")
_NORMS = ("batch-norm", "instance-norm", "group-norm", "layer-norm")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One bias, or part of one, whose change the trace saw end."""

    code: str
    change: Change
    trace: Trace
    n_parameters: int

    @property
    def key(self) -> str:
        """Its name, unique among candidates."""
        part = self.change.part
        return self.change.parameter + (f"[{part[0]}:{part[1]}]" if part else "")


def list_biases(module: Any) -> dict[str, Any]:
    """The trained vectors that could be biases: one axis at most is longer than 1."""
    named = module.named_parameters()
    return {name: p for name, p in named if p.is_floating_point() and p.numel() and is_vector(p)}


def find_candidates(traced: TracedModule, twin: Twin | None) -> Iterator[Candidate]:
    """Biases that end at norms and softmaxes; parts of a bias where float64 suggests one."""
    flow = BiasFlow(traced)
    for name, parameter in list_biases(traced.module).items():
        trace = flow.trace(name)
        if trace.dead:
            yield Candidate(_choose_code(trace), Change(name), trace, parameter.numel())
            continue
        trace = flow.trace(name, absorb_frozen=True)
        if trace.dead and _is_frozen_norm_trained(traced, trace):
            yield Candidate("frozen-norm-bias", Change(name), trace, parameter.numel())
            continue
        for part in _find_quiet_parts(twin, name) if parameter.ndim == 1 else ():
            trace = flow.trace(name, part)
            if trace.dead:
                yield Candidate(_choose_code(trace), Change(name, part), trace, part[1] - part[0])


def _choose_code(trace: Trace) -> str:
    kinds = [cancel.kind for cancel in trace.cancels]
    if next(iter(trace.via), "") in _OFFSETS:
        return "dead-norm-offset"
    norms = [kind for kind in _NORMS if kind in kinds]
    if norms:
        return f"bias-before-{norms[0]}"
    if "attention" in kinds or ("softmax" in kinds and trace.products):
        return "attention-key-bias"
    return "bias-before-softmax" if "softmax" in kinds else "bias-before-centring"


def _is_frozen_norm_trained(traced: TracedModule, trace: Trace) -> bool:
    """Whether each fixed norm on the way has an offset of its own that is trained: else the bias is the only one."""
    parameters = dict(traced.module.named_parameters(remove_duplicate=False))
    frozen = [cancel.node for cancel in trace.cancels if cancel.kind == "frozen-norm"]
    betas = [parameters.get(traced.names.get(bind_arguments(node)["bias"], "")) for node in frozen]
    return bool(frozen) and all(beta is not None and beta.requires_grad for beta in betas)


def _find_quiet_parts(twin: Twin | None, name: str) -> list[tuple[int, int]]:
    """Runs of elements without a gradient, in a vector that has one: what packs several biases shows itself so."""
    gradient = None if twin is None else twin.gradients.get(name)
    if gradient is None or gradient.numel() < 2:
        return []
    largest = float(gradient.abs().max())
    if not largest:
        return []
    quiet = (gradient.abs() <= GRADIENT * largest).tolist()
    found, start = [], None
    for index, is_quiet in enumerate([*quiet, False]):
        if is_quiet and start is None:
            start = index
        elif not is_quiet and start is not None:
            found.append((start, index))
            start = None
    return found


def find_norm_modules(traced: TracedModule, trace: Trace, modules: Mapping[str, Any]) -> list[str]:
    """The qualified names of the modules in which a change ended."""
    found = []
    for cancel in trace.cancels:
        stack = cancel.node.meta.get("nn_module_stack") or {}
        name = str(next(reversed(stack.values()))[0]) if stack else _find_owner(traced, cancel.node)
        if name in modules:
            found.append(name)
    return list(dict.fromkeys(found))


def find_mean_modules(traced: TracedModule, trace: Trace, modules: Mapping[str, Any]) -> list[str]:
    """Those of them that keep a running mean, which can take a bias over; a functional norm has no such module."""
    return [
        n for n in find_norm_modules(traced, trace, modules) if getattr(modules[n], "running_mean", None) is not None
    ]


def _find_owner(traced: TracedModule, node: Any) -> str:
    """The module that holds a norm's parameters or statistics: for traces that keep no stack of modules."""
    names = [traced.names[source] for source in node.all_input_nodes if traced.names.get(source)]
    return names[0].rpartition(".")[0] if names else ""
