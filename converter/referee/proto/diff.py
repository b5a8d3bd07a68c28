"""Cut two models, where they differ, into small pairs of models with the same inputs and output.

A tensor whose name both models know is taken to hold the same value in both, and every such tensor that a
changed node makes is the output of one region: checking them all proves the claim, in topological order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial

from onnx import ModelProto, NodeProto, TensorProto

from converter.bounded_json import parse_texts
from converter.dataclass import dataclass
from converter.model.file.validate import stored_bytes
from converter.referee.proto.inference import infer_certain_shapes, infer_types
from converter.referee.proto.scopes import (
    Scope,
    build_scopes,
    compute_signature,
    find_port,
    infer_inner_types,
    is_same_constant,
    list_reads,
)
from converter.referee.proto.source import (
    LoadedModel,
    Port,
    copy_header,
    get_dtype,
    make_value_info,
    walk_nodes,
)
from converter.referee.proto.tensors import UNIT_ROUNDOFF

_MAX_NODES = 400
_LARGE, _KEPT = 1 << 20, 2  # bytes of weights of a large region, and how many of these are held at once
_MARK = "/biasopt/"
_REWRITES, _ORIGINALS = "biasopt.rewrites", "biasopt.originals"
_SHORT = "biasopt"  # of a file that has no room for more
# Their outputs have a property that a rewrite may rest on (rows that sum to one), and random values have not.
_NORMALISED = {"Softmax", "Attention"}
_INTEGER_OPS = {"Shape", "Size", "ArgMax", "ArgMin", "NonZero"}


@dataclass(frozen=True, slots=True)
class Outline:
    """A model without the values of its large initializers, and where these are: to read it copies no weight."""

    model: ModelProto
    tensors: Mapping[str, TensorProto]  # every initializer, as the whole model holds it

    @classmethod
    def of(cls, model: ModelProto) -> Outline:
        """A model as its own outline."""
        return cls(model, {t.name: t for t in model.graph.initializer})


@dataclass(frozen=True, slots=True)
class _Source:
    """One side of a region, to be built."""

    scope: Scope
    part: _Part
    output: str
    types: Scope

    def build(self) -> ModelProto:
        return _build_model(self.scope, self.part, self.output, self.types)

    def outline(self) -> Outline:
        model = _build_model(self.scope, self.part, self.output, self.types, copy_header)
        return Outline(model, {n: t for n, t in self.part.consts.items() if isinstance(t, TensorProto)})


class _Pair:
    """The two models of a region, built when they are asked for; of large ones only the latest few are kept."""

    def __init__(self, before: _Source | ModelProto, after: _Source | ModelProto, latest: list[_Pair]) -> None:
        self._sources, self._latest = (before, after), latest
        self._models: tuple[ModelProto, ModelProto] | None = None

    @property
    def outlines(self) -> tuple[Outline, Outline]:
        """Both, without their weights."""
        before, after = (Outline.of(s) if isinstance(s, ModelProto) else s.outline() for s in self._sources)
        return before, after

    @property
    def models(self) -> tuple[ModelProto, ModelProto]:
        """Both."""
        if self._models is None:
            before, after = (s if isinstance(s, ModelProto) else s.build() for s in self._sources)
            self._models = before, after
            if sum(stored_bytes(t) or 0 for model in self._models for t in model.graph.initializer) > _LARGE:
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
        return cls(scope, output, inputs, _Pair(before, after, []))

    @property
    def before(self) -> ModelProto:
        """The place in the original."""
        return self.pair.models[0]

    @property
    def after(self) -> ModelProto:
        """The place in the rewritten model."""
        return self.pair.models[1]

    @property
    def outlines(self) -> tuple[Outline, Outline]:
        """The place in both models, made anew, without a copy of its weights."""
        return self.pair.outlines

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
                ports = [find_port(caller, given[formal]) for caller, given in scope.calls if formal in given]
                if formal in scope.known and any(p is None or p.dims != scope.known[formal].dims for p in ports):
                    scope.known[formal] = replace(scope.known[formal], dims=None)
        infer_inner_types(scopes)
        return scopes

    def find(self, key: str, name: str) -> Port | None:
        """A tensor of the scope ``key`` or of one around it."""
        scope = self._scopes.get(key)
        return None if scope is None else find_port(scope, name)


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
    pair = _Pair(_Source(a, part_a, output, a), _Source(b, part_b, output, a), latest)
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
        home = scope.find_home(name)
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


def _build_model(
    scope: Scope,
    part: _Part,
    output: str,
    types: Scope,
    stored: Callable[[TensorProto], TensorProto] = lambda tensor: tensor,
) -> ModelProto:
    """A model of one part; its inputs get the types that ``types`` knows. ``stored``: what it holds of a tensor."""
    whole = scope.source.proto
    ir_version = max(whole.ir_version, 4)  # before IR 4 an initializer would have to be an input too
    model = ModelProto(ir_version=ir_version, opset_import=scope.opset_import, functions=whole.functions)
    graph = model.graph  # filled where it is: to hand it over would copy its weights again
    graph.name = "region"
    graph.node.extend(node for _, node in part.nodes)
    for tensor in part.consts.values():
        if isinstance(tensor, TensorProto):
            graph.initializer.append(stored(tensor))
        else:
            graph.sparse_initializer.append(tensor)
    fallback = _find_float_type(part)
    for name in sorted(part.inputs):
        graph.input.append(make_value_info(name, find_port(types, name), fallback))
    graph.output.append(make_value_info(output, find_port(types, output) or find_port(scope, output)))
    return model


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
    short = said.get(_SHORT, "")  # the beginning of the latest one's, where there was no room for more
    if short and a.compute_digest().startswith(short):
        return 1
    if _ORIGINALS in said:
        found, digest = parse_texts(said[_ORIGINALS]), a.compute_digest()
        return len(found) - found.index(digest) + bool(short) if digest in found else 0
    if short:
        return 0
    earlier = {p.key for p in a.proto.metadata_props}
    if any(key in said and key not in earlier for key in (_REWRITES, _SHORT)):
        return 1
    old = {t.name for t in a.proto.graph.initializer}
    names = (t.name for t in b.proto.graph.initializer if t.name not in old)
    used = (name for n in walk_nodes(b.proto) for name in (*n.input, *n.output))
    return int(any(_MARK in name for name in (*names, *used)))
