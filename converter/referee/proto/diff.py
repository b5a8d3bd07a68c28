"""Cut two models, where they differ, into small pairs of models with the same inputs and output.

A tensor whose name both models know is taken to hold the same value in both, and every such tensor that a
changed node makes is the output of one region: checking them all proves the claim, in topological order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from converter.dataclass import dataclass
from converter.referee.proto.inference import infer_certain_shapes, infer_types
from converter.referee.proto.source import (
    LoadedModel,
    Port,
    get_dtype,
    list_bodies,
    make_body_key,
    make_value_info,
    read_ports,
    walk_nodes,
)
from converter.referee.proto.tensors import UNIT_ROUNDOFF, is_external, locate_external, read_tensor
from converter.referee.reference.kernels import bind_function, list_captures

_UNREPEATABLE = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


@dataclass(eq=False)
class Scope:
    """A graph, subgraph body or function body: what it makes, what it holds, what lies around it."""

    key: str
    source: LoadedModel
    nodes: list[NodeProto]
    inputs: list[str]
    outputs: list[str]
    consts: dict[str, Any] = field(default_factory=dict)  # TensorProto or SparseTensorProto
    known: dict[str, Port] = field(default_factory=dict)
    outer: Scope | None = None
    opset_import: Any = None
    narrow: bool = True  # whether a tensor of which not every value can be may be cut at
    calls: list[tuple[Scope, dict[str, str]]] = field(default_factory=list)  # of a function: where, with what as what

    @cached_property
    def makers(self) -> dict[str, NodeProto]:
        """The node that makes each tensor of this scope."""
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def order(self) -> dict[int, int]:
        """Position of each node, by identity."""
        return {id(node): k for k, node in enumerate(self.nodes)}

    @cached_property
    def derived(self) -> set[str]:
        """Tensors made from constants alone."""
        found: set[str] = set()
        for node in self.nodes:
            if node.op_type in _UNREPEATABLE:
                continue
            if all(n in found or n in self.consts or self._is_const_outside(n) for n in list_reads(node)):
                found.update(name for name in node.output if name)
        return found

    @cached_property
    def confined(self) -> set[str]:
        """Tensors of which not every value can be: what a Relu or a Clip made, and what only moves that about."""
        found: set[str] = set()
        for node in self.nodes:
            moved = node.op_type in _MOVING and any(n in found for n in node.input)
            if node.op_type in _CONFINING or moved:
                found.update(name for name in node.output if name)
        return found

    def is_const(self, name: str) -> bool:
        """Whether the tensor's value is fixed by this scope or one around it."""
        return name in self.consts or name in self.derived or self._is_const_outside(name)

    def _is_const_outside(self, name: str) -> bool:
        if self.outer is None or name in self.makers or name in self.inputs:
            return False
        return self.outer.is_const(name)

    def home(self, name: str) -> Scope | None:
        """The innermost scope, from here outwards, where the tensor comes into being."""
        if name in self.consts or name in self.makers or name in self.inputs:
            return self
        return self.outer.home(name) if self.outer is not None else None

    def depth(self) -> int:
        """How many scopes lie around this one."""
        return 0 if self.outer is None else 1 + self.outer.depth()


def list_reads(node: NodeProto) -> list[str]:
    """What a node and its subgraphs read."""
    return [*(n for n in node.input if n), *sorted(list_captures(node))]


def build_scopes(source: LoadedModel, known: dict[str, Port]) -> dict[str, Scope]:
    """All scopes of a model by a key that does not depend on node names; ``known`` types the main graph."""
    model = source.proto
    main = _build_graph_scope("", source, model.graph, None, model.opset_import)
    main.known.update(known)
    found = {s.key: s for s in _walk_bodies(main)}
    for function in _sort_callers_first(model.functions):
        for way in _build_function_scopes(source, function, list(found.values())):
            found |= {scope.key: scope for scope in _walk_bodies(way)}
    return found


def _build_graph_scope(
    key: str, source: LoadedModel, graph: GraphProto, outer: Scope | None, opset_import: Any
) -> Scope:
    consts: dict[str, Any] = {t.name: t for t in graph.initializer}
    consts |= {t.values.name: t for t in graph.sparse_initializer}
    free = [i.name for i in graph.input if i.name not in consts]
    scope = Scope(key, source, list(graph.node), free, [o.name for o in graph.output], consts)
    scope.outer, scope.opset_import = outer, opset_import
    scope.known.update(read_ports([*graph.value_info, *graph.input, *graph.output]))
    return scope


def _walk_bodies(scope: Scope) -> Iterator[Scope]:
    yield scope
    for node in scope.nodes:
        for name, graph in list_bodies(node):
            key = make_body_key(scope.key, node, name)
            yield from _walk_bodies(_build_graph_scope(key, scope.source, graph, scope, scope.opset_import))


def format_function_key(function: FunctionProto) -> str:
    """What a function is called."""
    return f"function {function.domain}.{function.name}.{getattr(function, 'overload', '')}"


def _sort_callers_first(functions: Iterable[FunctionProto]) -> list[FunctionProto]:
    left = list(functions)
    done: list[FunctionProto] = []
    while left:
        called = {(n.domain, n.op_type) for f in left for n in _walk_inner(f.node)}
        ready = [f for f in left if (f.domain, f.name) not in called] or left
        done += ready
        left = [f for f in left if all(f is not g for g in ready)]
    return done


def _walk_inner(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for _, graph in list_bodies(node):
            yield from _walk_inner(graph.node)


def _build_function_scopes(source: LoadedModel, function: FunctionProto, callers: list[Scope]) -> Iterator[Scope]:
    """A function as its calls see it, attributes bound, constant arguments as constants: a scope for each way."""
    ways: dict[Any, list[tuple[Scope, NodeProto]]] = {}
    for caller in callers:
        for node in caller.nodes:
            if _calls(node, function):
                ways.setdefault(_describe_call(caller, node), []).append((caller, node))
    for k, calls in enumerate(ways.values() or [[]]):
        key = format_function_key(function) + (f"#{k}" if k else "")
        scope = Scope(key, source, list(function.node), list(function.input), list(function.output))
        scope.opset_import = function.opset_import
        scope.calls = [(caller, dict(zip(function.input, node.input, strict=False))) for caller, node in calls]
        if calls:
            scope.nodes = list(bind_function(function, calls[0][1]).node)
            _take_arguments(scope, *scope.calls[0])
        yield scope


def _calls(node: NodeProto, function: FunctionProto) -> bool:
    return (node.domain, node.op_type) == (function.domain, function.name)


def _describe_call(caller: Scope, node: NodeProto) -> tuple[Any, ...]:
    """What a function is bound to by a call: its attributes, and the constants among its arguments."""
    homes = [caller.home(name) for name in node.input]
    tensors = tuple(h and id(h.consts.get(n)) for h, n in zip(homes, node.input, strict=True) if h and n in h.consts)
    given = tuple(h is not None and n in h.consts for h, n in zip(homes, node.input, strict=True))
    return given, tensors, tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))


def _take_arguments(scope: Scope, caller: Scope, arguments: dict[str, str]) -> None:
    for formal, actual in arguments.items():
        home = caller.home(actual)
        tensor = home.consts.get(actual) if home is not None else None
        if isinstance(tensor, TensorProto):
            copy = TensorProto()
            copy.CopyFrom(tensor)
            copy.name = formal
            scope.consts[formal] = copy
            scope.inputs.remove(formal)
        elif home is not None and actual in home.known:
            port = home.known[actual]
            scope.known[formal] = Port(formal, port.kind, port.elem, port.dims)


def infer_inner_types(found: dict[str, Scope]) -> None:
    """Give the tensors of subgraphs and functions the types that inference finds from what surrounds them."""
    for scope in sorted(found.values(), key=Scope.depth):
        if scope.key == "":
            continue
        outside = {n for node in scope.nodes for n in list_reads(node)} - scope.makers.keys() - scope.consts.keys()
        graph = GraphProto(name="body", node=scope.nodes)
        for name in sorted(outside | set(scope.inputs)):
            home = scope.home(name)
            const = home.consts.get(name) if home is not None else None
            port = home.known.get(name) if home is not None else None
            if isinstance(const, TensorProto):
                graph.initializer.append(const)
            elif port is not None and port.kind == "tensor":
                graph.input.append(make_value_info(name, port))
        graph.initializer.extend(t for t in scope.consts.values() if isinstance(t, TensorProto))
        body = ModelProto(ir_version=8, opset_import=scope.opset_import, graph=graph)
        body.functions.extend(scope.source.proto.functions)
        for name, port in infer_types(body).items():
            scope.known.setdefault(name, port)


def compute_signature(node: NodeProto) -> tuple[Any, ...]:
    """What makes two nodes the same, their subgraphs' nodes left out (those are compared in their own scope)."""
    attributes: list[tuple[str, Any]] = []
    for a in node.attribute:
        if a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            graphs = [a.g] if a.type == AttributeProto.GRAPH else a.graphs
            attributes.append((a.name, tuple(tuple(v.name for v in (*g.input, *g.output)) for g in graphs)))
        else:
            attributes.append((a.name, hashlib.sha256(a.SerializeToString(deterministic=True)).digest()))
    overload = getattr(node, "overload", "")
    head = (node.domain, node.op_type, overload, tuple(node.input), tuple(node.output))
    return (*head, tuple(sorted(attributes, key=lambda x: x[0])))


def is_same_constant(a: Any, source_a: LoadedModel, b: Any, source_b: LoadedModel) -> bool:
    """Whether two constants have the same type, shape and bits; one tensor of each is read at a time."""
    if type(a) is not type(b):
        return False
    if not isinstance(a, TensorProto):
        return bool(a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True))
    if (a.data_type, list(a.dims)) != (b.data_type, list(b.dims)):
        return False
    if is_external(a) and is_external(b):
        if locate_external(a, source_a.folder) == locate_external(b, source_b.folder):
            return True
    elif a.HasField("raw_data") and b.HasField("raw_data"):
        return bool(a.raw_data == b.raw_data)
    x, y = read_tensor(a, source_a.folder), read_tensor(b, source_b.folder)
    if x.dtype.kind in "OUS":
        return bool(np.array_equal(x, y))
    return np.ascontiguousarray(x).tobytes() == np.ascontiguousarray(y).tobytes()


_MAX_NODES = 400
_LARGE, _KEPT = 1 << 20, 2  # bytes of weights of a large region, and how many of these are held at once
_MARK = "/biasopt/"
_REWRITES, _ORIGINALS = "biasopt.rewrites", "biasopt.originals"
# Their outputs have a property that a rewrite may rest on (rows that sum to one), and random values have not.
_NORMALISED = {"Softmax", "Attention"}
_CONFINING = {
    *("Relu", "Clip", "Abs", "Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Exp", "Sqrt", "Erf", "Sign", "Sin", "Cos"),
    *("Max", "Min", "ThresholdedRelu", "Floor", "Ceil", "Round", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Softmax"),
    *("LogSoftmax", "Hardmax", "Where", "QuantizeLinear", "DequantizeLinear", "Dropout", "Elu", "Selu", "Celu", "Pow"),
    *("FusedConv", "FusedGemm", "HardSwish", "Cast", "Gelu", "QuickGelu", "FastGelu", "BiasGelu", "Mish", "Mod"),
}
_MOVING = {
    *("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat", "Expand"),
    *("Gather", "Pad", "Tile", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "Resize"),
    *("ReduceMax", "ReduceMin", "ReduceSum", "DepthToSpace", "SpaceToDepth"),
}
_INTEGER_OPS = {"Shape", "Size", "ArgMax", "ArgMin", "NonZero"}


class _Pair:
    """The two models of a region, built when they are asked for; of large ones only the latest few are kept."""

    def __init__(self, before: Callable[[], ModelProto], after: Callable[[], ModelProto], latest: list[_Pair]) -> None:
        self._make, self._latest = (before, after), latest
        self._models: tuple[ModelProto, ModelProto] | None = None

    @property
    def models(self) -> tuple[ModelProto, ModelProto]:
        """Both."""
        if self._models is None:
            self._models = self._make[0](), self._make[1]()
            if sum(model.ByteSize() for model in self._models) > _LARGE:
                self._latest.append(self)
                while len(self._latest) > _KEPT:
                    self._latest.pop(0)._models = None
        return self._models


@dataclass(frozen=True, slots=True)
class Region:
    """One rewritten place: ``before`` and ``after`` compute ``output`` from the same inputs.

    The sizes of its inputs are those that it is run with. ``find_certain`` says what is true of one for all inputs of
    the model: what follows from these alone, neither guessed nor stated by the file; None if what the region's models
    state is that.
    """

    scope: str
    output: str
    inputs: frozenset[str]  # of either model
    pair: _Pair
    find_certain: Callable[[str], Port | None] | None = None

    @classmethod
    def of(cls, scope: str, output: str, before: ModelProto, after: ModelProto) -> Region:
        """A region of two models that are there."""
        inputs = frozenset(value.name for model in (before, after) for value in model.graph.input)
        return cls(scope, output, inputs, _Pair(lambda: before, lambda: after, []))

    @property
    def before(self) -> ModelProto:
        """The place in the original."""
        return self.pair.models[0]

    @property
    def after(self) -> ModelProto:
        """The place in the rewritten model."""
        return self.pair.models[1]

    @property
    def name(self) -> str:
        """The output, with the scope that it is in."""
        return f"{self.scope}/{self.output}" if self.scope else self.output


@dataclass(frozen=True, slots=True)
class ChangedRegions:
    """Where two models differ: regions that can be run, and names of what cannot be compared."""

    regions: tuple[Region, ...]
    unmatched: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether both models compute the same thing by the same nodes."""
        return not self.regions and not self.unmatched


@dataclass(frozen=True, slots=True)
class _Part:
    nodes: tuple[tuple[Scope, NodeProto], ...]
    consts: dict[str, TensorProto]
    inputs: frozenset[str]


def find_changed_regions(
    a: LoadedModel, b: LoadedModel, dims: dict[str, tuple[int, ...]] | None = None, *, wide: bool = False
) -> ChangedRegions:
    """All regions of a pair; ``dims`` are the input shapes that types are inferred with.

    ``wide``: cut only at tensors that can hold any value, so that a region may be fed with values of one's own.
    """
    before, after = build_scopes(a, {}), build_scopes(b, {})
    changed = {key: _find_changed_constants(before[key], after[key]) for key in after if key in before}
    targets = [(key, name) for key, new in changed.items() for name in _find_targets(before[key], after[key], new)]
    if not targets:
        return ChangedRegions(())
    before, after = build_scopes(a, infer_types(a.proto, dims)), build_scopes(b, infer_types(b.proto, dims))
    infer_inner_types(before)
    infer_inner_types(after)
    for scope in (*before.values(), *after.values()):
        scope.narrow = not wide
    certain = _CertainSizes(a)
    found, unmatched = [], []
    latest: list[_Pair] = []
    for key, name in targets:
        region = _cut_region(before[key], after[key], name, changed[key], certain, latest)
        if region is None:
            unmatched.append(f"{key}/{name}" if key else name)
        else:
            found.append(region)
    return ChangedRegions(tuple(found), tuple(unmatched))


def _find_targets(a: Scope, b: Scope, changed: set[str]) -> Iterator[str]:
    """Tensors that both scopes know and that the rewrite makes anew, in the order in which B makes them."""
    old = {compute_signature(node) for node in a.nodes if not changed.intersection(list_reads(node))}
    for node in b.nodes:
        if compute_signature(node) not in old or changed.intersection(list_reads(node)):
            yield from (name for name in node.output if name and (name in a.makers or name in a.consts))
    for name in b.outputs:
        if name in b.consts and (name in changed or name not in a.consts):
            yield name


def _find_changed_constants(a: Scope, b: Scope) -> set[str]:
    """Constants of the same name with other values, here and in the scopes around."""
    changed: set[str] = set()
    while True:
        for name in a.consts.keys() & b.consts.keys():
            if not is_same_constant(a.consts[name], a.source, b.consts[name], b.source):
                changed.add(name)
        # a name that is a constant on one side only no longer means the same
        changed |= {n for n in a.consts.keys() ^ b.consts.keys() if n in a.makers or n in b.makers}
        if a.outer is None or b.outer is None:
            return changed
        a, b = a.outer, b.outer


class _CertainSizes:
    """What follows of a model's tensors from its inputs, found when it is first asked for."""

    def __init__(self, source: LoadedModel) -> None:
        self._source = source

    @cached_property
    def _scopes(self) -> dict[str, Scope]:
        inferred = replace(self._source, proto=infer_certain_shapes(self._source.proto), path=None)
        scopes = build_scopes(inferred, {})
        for scope in scopes.values():
            for formal in scope.inputs if scope.calls else ():
                ports = [_find_port(caller, given[formal]) for caller, given in scope.calls if formal in given]
                if formal in scope.known and any(p is None or p.dims != scope.known[formal].dims for p in ports):
                    scope.known[formal] = replace(scope.known[formal], dims=None)
        infer_inner_types(scopes)
        return scopes

    def find(self, key: str, name: str) -> Port | None:
        """A tensor of the scope ``key`` or of one around it."""
        scope = self._scopes.get(key)
        return None if scope is None else _find_port(scope, name)


def _cut_region(
    a: Scope, b: Scope, output: str, changed: set[str], certain: _CertainSizes, latest: list[_Pair]
) -> Region | None:
    """The pair of models for one output, or None if they grow too large or read different things."""
    open_a: set[str] = set()
    open_b: set[str] = set()
    while True:
        part_a, part_b = _walk(a, b, output, open_a, changed), _walk(b, a, output, open_b, changed)
        if max(len(part_a.nodes), len(part_b.nodes)) > _MAX_NODES:
            return None
        # What only one side reads must be made from what both read, or the comparison would be of two functions.
        more_a = {n for n in part_a.inputs - part_b.inputs if n in a.makers}
        more_b = {n for n in part_b.inputs - part_a.inputs if n in b.makers}
        if part_a.inputs != part_b.inputs and not more_a and not more_b:
            # One side gets at something only through a tensor that is fed: compute that inside as well.
            more_a = more_b = {n for n in part_a.inputs & part_b.inputs if n in a.makers and n in b.makers}
        if not more_a and not more_b:
            break
        # Only what comes after all that the other side stops at: further back the two may meet.
        last_a, last_b = (max((_find_place(a, n) for n in names), default=-1) for names in (more_a, more_b))
        open_a |= {n for n in more_a if _find_place(a, n) >= last_b}
        open_b |= {n for n in more_b if _find_place(a, n) >= last_a}
    if not all(_is_reachable(a, name) for name in part_b.inputs - part_a.inputs):
        return None
    pair = _Pair(partial(_build_model, a, part_a, output, a), partial(_build_model, b, part_b, output, a), latest)
    return Region(b.key, output, part_a.inputs | part_b.inputs, pair, partial(certain.find, b.key))


def _find_place(scope: Scope, name: str) -> int:
    node = scope.makers.get(name)
    return -1 if node is None else scope.order[id(node)]


def _is_reachable(scope: Scope | None, name: str) -> bool:
    while scope is not None:
        if name in scope.inputs or name in scope.makers or name in scope.consts:
            return True
        scope = scope.outer
    return False


def _walk(scope: Scope, other: Scope, output: str, opened: set[str], changed: set[str]) -> _Part:
    """From ``output`` back to tensors that ``other`` knows too, constants, and inputs."""
    nodes: dict[int, tuple[Scope, NodeProto]] = {}
    consts: dict[str, TensorProto] = {}
    inputs: set[str] = set()
    pending, seen = [output], {output}
    while pending:
        name = pending.pop()
        home = scope.home(name)
        if home is None:
            inputs.add(name)
        elif name in home.consts:
            consts[name] = home.consts[name]
        elif name in home.inputs or (name != output and not _is_open(name, home, scope, other, opened, changed)):
            inputs.add(name)
        else:
            node = home.makers[name]
            nodes[id(node)] = (home, node)
            fresh = [n for n in list_reads(node) if n not in seen]
            seen.update(fresh)
            pending.extend(fresh)
    ordered = sorted(nodes.values(), key=lambda pair: (pair[0].depth(), pair[0].order[id(pair[1])]))
    return _Part(tuple(ordered), consts, frozenset(inputs))


def _is_open(name: str, home: Scope, scope: Scope, other: Scope, opened: set[str], changed: set[str]) -> bool:
    """Whether a tensor that a node makes is computed inside the region rather than fed."""
    if name in home.derived or _is_integer(home, name) or _is_normalised(home, name):
        return True  # a random value in its place would have no meaning
    if not home.narrow and name in home.confined:
        return True
    if home is not scope:
        return False
    return name in opened or name in changed or name not in other.makers


def _is_normalised(scope: Scope, name: str) -> bool:
    node = scope.makers.get(name)
    while node is not None and node.op_type in ("Identity", "Dropout", "Cast") and name == node.output[0]:
        name = node.input[0]
        node = scope.makers.get(name)
    return node is not None and node.op_type in _NORMALISED


def _is_integer(scope: Scope, name: str) -> bool:
    port = scope.known.get(name)
    if port is not None and port.elem:
        dtype = get_dtype(port.elem)
        return dtype is not None and dtype.kind in "iu"
    return scope.makers[name].op_type in _INTEGER_OPS


def _build_model(scope: Scope, part: _Part, output: str, types: Scope) -> ModelProto:
    """A model of one part; its inputs get the types that ``types`` knows."""
    whole = scope.source.proto
    ir_version = max(whole.ir_version, 4)  # before IR 4 an initializer would have to be an input too
    model = ModelProto(ir_version=ir_version, opset_import=scope.opset_import, functions=whole.functions)
    graph = model.graph  # filled where it is: to hand it over would copy its weights again
    graph.name = "region"
    graph.node.extend(node for _, node in part.nodes)
    for tensor in part.consts.values():
        (graph.initializer if isinstance(tensor, TensorProto) else graph.sparse_initializer).append(tensor)
    fallback = _find_float_type(part)
    for name in sorted(part.inputs):
        graph.input.append(make_value_info(name, _find_port(types, name), fallback))
    graph.output.append(make_value_info(output, _find_port(types, output) or _find_port(scope, output)))
    return model


def _find_port(scope: Scope, name: str) -> Port | None:
    home = scope.home(name)
    return home.known.get(name) if home is not None else None


def _find_float_type(part: _Part) -> int:
    """The type of an input of which nothing is known: that of the float constants beside it."""
    for tensor in part.consts.values():
        if isinstance(tensor, TensorProto) and tensor.data_type in UNIT_ROUNDOFF:
            return int(tensor.data_type)
    return int(TensorProto.FLOAT)


def shrink(model: ModelProto, limit: int) -> ModelProto:
    """A copy to run a region quickly or in little memory: no spatial size of an input is 0 or above ``limit``."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value <= 0:
                dim.ClearField("dim_value")  # of no element there is nothing to compare; below 0 it is left open
        for dim in value.type.tensor_type.shape.dim[2:]:
            if dim.dim_value > limit or not dim.HasField("dim_value"):
                dim.dim_value = limit
    return copy


def count_folds(a: LoadedModel, b: LoadedModel) -> int:
    """How many folds of this tool's own made ``b`` of ``a``, each with one rounding; 0 of what others made.

    ``b`` says so by the digests of its originals: a fold of another export of the same network is a model like any
    other. Folds of earlier versions, which say it by their tensors' names or by the rewrites alone, count as one.
    """
    said = {p.key: p.value for p in b.proto.metadata_props}
    if _ORIGINALS in said:
        found = _read_list(said[_ORIGINALS])
        digest = a.compute_digest()
        return len(found) - found.index(digest) if digest in found else 0
    if _REWRITES in said and _REWRITES not in {p.key for p in a.proto.metadata_props}:
        return 1
    old = {t.name for t in a.proto.graph.initializer}
    names = (t.name for t in b.proto.graph.initializer if t.name not in old)
    used = (name for n in walk_nodes(b.proto) for name in (*n.input, *n.output))
    return int(any(_MARK in name for name in (*names, *used)))


def _read_list(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # a stranger's
        return []
    return [str(entry) for entry in found] if isinstance(found, list) else []
