"""Symbolic shape inference, node by node; and shapes that a file states of its tensors: claims, which may be wrong.

Exporters leave arithmetic on sizes in a model: Shape, Gather, Div, Concat, Reshape. Each node is asked once,
in the model's order: its value, if it is a small tensor of sizes; its shape, if inference left some of it open.
Only what follows from the sizes that the model states is taken as known; a size that a caller chooses stays a symbol.

Exporters write claims, and editors that change a graph forget them. onnx's inference takes them as given and goes on
from there. Here inference starts from the graph's inputs and weights alone. What it leaves open is taken on the file's
word, where nothing that the file says is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from itertools import count, zip_longest
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TypeProto, helper, numpy_helper

from converter.dataclass import dataclass
from converter.model.file.checker import no_remarks
from converter.model.file.dtypes import get_numpy_dtype
from converter.model.file.reader import graphs
from converter.model.file.validate import schema_of
from converter.model.shapes import fused
from converter.model.shapes.symbols import Entry, Size, product, quotient, size

# Operator -> the first input that sets a size of its output (or picks elements by their place).
_SIZED = {"ConstantOfShape": 0, "Range": 0, "Gather": 1, "Where": 0}
_SIZED |= dict.fromkeys("Reshape Expand Slice Tile Resize Upsample Pad Split Squeeze Unsqueeze TopK Trilu".split(), 1)


def computes_sizes(model: ModelProto) -> bool:
    """Whether some node gives a size to another, or a graph inside a node takes one from outside of it.

    Only then there is anything to follow: the rest is onnx's to infer.
    """
    if any(i.domain == fused.DOMAIN for i in model.opset_import):
        return True  # operators that onnx's inference does not know
    return any(_takes_size(g, inner=i > 0) for i, g in enumerate(graphs(model.graph)))


def _takes_size(graph: GraphProto, *, inner: bool) -> bool:
    made: set[str] = set()
    held = {"", *(t.name for t in graph.initializer)} if inner else set()
    for node in graph.node:
        first = _SIZED.get(node.op_type)
        if first is not None:
            sizes = node.input[first:]
            if not made.isdisjoint(sizes) or (inner and not held.issuperset(sizes)):
                return True
        if node.op_type != "Constant":
            made.update(node.output)
        elif inner:
            held.update(node.output)
    return False


Dim = int | str | None


def reshape_dims(wanted: Sequence[Entry], before: Sequence[Dim] | None) -> list[Dim]:
    """Dims that a Reshape gives (``allowzero=0``): one that is left open follows from the count of elements."""
    target = [_copy_entry(d, i, before) for i, d in enumerate(wanted)]
    free = [i for i, d in enumerate(target) if d is None or (isinstance(d, int) and d < 0)]
    if len(free) == 1 and before is not None:
        have = [size(d) for d in before if d is not None]
        rest = [d for d in target if isinstance(d, int | Size) and d != -1]
        if len(have) == len(before) and len(rest) == len(target) - 1:
            target[free[0]] = quotient(product(have), product(rest))
    return [dim(d) for d in target]


def _copy_entry(entry: Entry, axis: int, before: Sequence[Dim] | None) -> Entry:
    if not isinstance(entry, int) or entry != 0:
        return entry
    source = before[axis] if before is not None and axis < len(before) else None
    return None if source is None else size(source)


def expand_dims(wanted: Sequence[Entry], before: Sequence[Dim]) -> list[Dim]:
    """Dims that an Expand gives."""
    sizes: list[Entry] = [None if d is None else size(d) for d in before]
    pairs = zip_longest(sizes[::-1], list(wanted)[::-1], fillvalue=1)
    return [dim(_broadcast(a, b)) for a, b in pairs][::-1]


def _broadcast(a: Entry, b: Entry) -> Entry:
    """The size of two that fit together; None if it is not known."""
    if a == b or (isinstance(b, int) and b == 1):
        return a
    if isinstance(a, int) and a == 1:
        return b
    return next((x for x in (a, b) if isinstance(x, int) and x > 1), None)


def dim(entry: Entry) -> Dim:
    """An entry as a dim: a number, the name of a symbol or a product of them, or None."""
    if isinstance(entry, Size):
        return str(entry)
    return entry if isinstance(entry, int) and entry >= 0 else None


def is_open(dims: Sequence[Dim] | None) -> bool:
    """Whether some of a shape was not found; the names that inference makes up do not count as found."""
    return dims is None or any(is_made_up(d) for d in dims)


def is_made_up(d: Dim) -> bool:
    return d is None or (isinstance(d, str) and d.startswith(("unk__", "?")))


def merge_dims(before: Sequence[Dim] | None, found: Sequence[Dim]) -> list[Dim] | None:
    """Both findings in one: what the model or inference named stays. None where they contradict each other."""
    if before is None:
        return list(found)
    if len(before) != len(found):
        return None
    return [
        new if old is None or (is_made_up(old) and not is_made_up(new)) else old
        for old, new in zip(before, found, strict=True)
    ]


_GRAPH = onnx.AttributeProto.GRAPH
_WHOLE = frozenset({onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL})
_NUMBERS = _WHOLE | {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}


@dataclass(slots=True)
class Sizes:
    """What was found out about one graph: dims and element types by tensor, values of whole numbers by tensor."""

    dims: dict[str, tuple[Dim, ...]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)


def follow_sizes(inferred: ModelProto) -> list[Sizes]:
    """Shapes and values that inference did not find, for the main graph and each graph inside it, outermost first.

    Parameters
    ----------
    inferred : the model with the shapes that onnx's inference found
    """
    with no_remarks():
        return [g.found for g in _Graph(inferred.graph, None, _Model(inferred)).run()]


class _Model:
    """What holds for all graphs of a model."""

    def __init__(self, model: ModelProto) -> None:
        self.imports = list(model.opset_import)
        self.ir_version = model.ir_version
        self.opset = max((i.version for i in self.imports if i.domain in ("", "ai.onnx")), default=0)
        self.overridden = {f.name for f in model.functions if f.domain in ("", "ai.onnx")}
        self.schemas: dict[str, Any] = {}
        self.fresh = count()

    def schema(self, op: str) -> Any:
        """ONNX's schema of the operator; None if it has none."""
        if op not in self.schemas:
            try:
                self.schemas[op] = onnx.defs.get_schema(op, self.opset, "")
            except onnx.defs.SchemaError:
                self.schemas[op] = None
        return self.schemas[op]


class _Graph:
    def __init__(self, graph: GraphProto, outer: _Graph | None, model: _Model) -> None:
        from converter.model.shapes import symbols as size_values

        self.ops = size_values
        self.graph, self.outer, self.model = graph, outer, model
        self.found = Sizes()
        self.dims: dict[str, tuple[Dim, ...]] = {}
        self.types: dict[str, int] = {}
        self.values: dict[str, NDArray[np.object_]] = {}
        for info in (*graph.input, *graph.value_info, *graph.output):
            if info.type.HasField("tensor_type"):
                self._declare(info.name, info.type)
        given = {i.name for i in graph.input} if model.ir_version >= 4 else set()
        for tensor in graph.initializer:
            self.dims[tensor.name], self.types[tensor.name] = tuple(tensor.dims), tensor.data_type
            if tensor.name not in given and (value := size_values.stored(tensor)) is not None:
                self.values[tensor.name] = value

    def _declare(self, name: str, declared: TypeProto) -> None:
        self.types[name] = declared.tensor_type.elem_type
        if declared.tensor_type.HasField("shape"):
            self.dims[name] = tuple(self._name_size(d) for d in declared.tensor_type.shape.dim)

    def _name_size(self, given: Any) -> Dim:
        """A size without a name gets one of its own, under which it is still equal to itself."""
        if given.HasField("dim_value") and given.dim_value >= 0:  # exporters write -1 for a size that they leave open
            return int(given.dim_value)
        return str(given.dim_param) or f"?{next(self.model.fresh)}"

    def look_up(self, table: str, name: str) -> Any:
        """What is known of a tensor here or in an enclosing graph."""
        at: _Graph | None = self
        while at is not None:
            if name in getattr(at, table):
                return getattr(at, table)[name]
            at = at.outer
        return None

    def run(self) -> list[_Graph]:
        """Ask every node; this graph and those inside it, outermost first."""
        out = [self]
        for node in self.graph.node:
            inside = [g for a in node.attribute for g in (*([a.g] if a.type == _GRAPH else []), *a.graphs)]
            bodies = [_Graph(g, self, self.model).run() for g in inside]
            out += [g for body in bodies for g in body]
            if node.domain in ("", "ai.onnx") and node.op_type not in self.model.overridden:
                self._visit(node, [body[0] for body in bodies])
            elif node.domain == fused.DOMAIN and is_open(self.dims.get(node.output[0] if node.output else "")):
                self._give_fused_shape(node)
        return out

    def _visit(self, node: NodeProto, bodies: Sequence[_Graph]) -> None:
        if any(is_open(self.dims.get(name)) for name in node.output if name):
            self._give_shape(node, bodies)
        if node.op_type == "Constant":
            value = self.ops.constant(node)
        elif node.op_type in self.ops.OPERATORS and len(node.output) == 1:
            value = self._evaluate(node)
        else:
            return
        if value is not None:
            self._keep(node.output[0], value)

    def _evaluate(self, node: NodeProto) -> NDArray[np.object_] | None:
        values = [self.look_up("values", name) if name else None for name in node.input]
        if node.op_type == "Concat":  # of a few sizes, some of which are not known at all
            values = [self._blank(name) if v is None else v for name, v in zip(node.input, values, strict=True)]
        unread = node.op_type in ("Shape", "Size")
        if not unread and any(v is None for name, v in zip(node.input, values, strict=True) if name):
            return None
        return self.ops.evaluate(self.ops.Call(node, values, self.look_up("dims", node.input[0])))

    def _blank(self, name: str) -> NDArray[np.object_] | None:
        dims = self.look_up("dims", name)
        small = dims is not None and len(dims) == 1 and isinstance(dims[0], int) and dims[0] <= self.ops.MOST_ELEMENTS
        return np.full(dims, None, object) if small else None

    def _keep(self, name: str, value: NDArray[np.object_]) -> None:
        self.values[name] = value
        dtype = _whole_type(self.types.get(name))
        if dtype is not None and all(isinstance(e, int) for e in value.flat):
            self.found.values[name] = np.array(value.tolist(), dtype).reshape(value.shape)
        if is_open(self.dims.get(name)):
            self._learn(name, value.shape)

    # -- shapes --------------------------------------------------------------------------------

    def _give_shape(self, node: NodeProto, bodies: Sequence[_Graph]) -> None:
        if bodies:
            if node.op_type == "If":
                self._either(node, bodies)
            return
        rule = {"Reshape": self._infer_reshape, "Expand": self._expand_shape, "ConstantOfShape": self._fill_shape}.get(
            node.op_type
        )
        dims = None if rule is None else rule(node)
        if dims is not None:
            if node.op_type != "ConstantOfShape":
                self.types.setdefault(node.output[0], self.look_up("types", node.input[0]) or 0)
            self._learn(node.output[0], dims)
        else:
            self._infer(node)

    def _give_fused_shape(self, node: NodeProto) -> None:
        """Of one of onnxruntime's own operators; one that begins with ONNX's has its shape."""
        if node.op_type in fused.LIKE:
            plain = NodeProto()
            plain.CopyFrom(node)
            plain.op_type, plain.domain = fused.LIKE[node.op_type], ""
            del plain.input[3:]
            known = self.model.schema(plain.op_type)
            kept = [a for a in plain.attribute if known is not None and a.name in known.attributes]
            del plain.attribute[:]
            plain.attribute.extend(kept)
            self._infer(plain)
            return
        given = [self.look_up("dims", name) if name else None for name in node.input]
        dims = fused.find_shape(node.op_type, given, fused.read_attributes(node))
        if dims is not None:
            like = node.input[fused.TYPED_BY.get(node.op_type, 0)]
            self.types.setdefault(node.output[0], self.look_up("types", like) or 0)
            self._learn(node.output[0], dims)

    def _either(self, node: NodeProto, branches: Sequence[_Graph]) -> None:
        """What both branches of an If agree on."""
        for i, name in enumerate(node.output):
            ends = [b.graph.output[i].name for b in branches if i < len(b.graph.output)]
            dims = [b.look_up("dims", end) for b, end in zip(branches, ends, strict=False)]
            if len(dims) == len(branches) and None not in dims and len({len(d) for d in dims}) == 1:
                self.types.setdefault(name, branches[0].look_up("types", ends[0]) or 0)
                self._learn(name, [sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*dims, strict=True)])

    def _infer(self, node: NodeProto) -> None:
        """Ask onnx about this one node."""
        schema = self.model.schema(node.op_type)
        inputs = {name: found for name in node.input if name and (found := self._type(name)) is not None}
        whole = all(name in inputs for name in node.input if name)
        if schema is None or not whole:
            return
        data = {name: tensor for name in node.input if name and (tensor := self._data(name)) is not None}
        try:
            outputs = onnx.shape_inference.infer_node_outputs(
                schema, node, inputs, data, opset_imports=self.model.imports, ir_version=self.model.ir_version
            )
        except (
            onnx.shape_inference.InferenceError,
            onnx.checker.ValidationError,  # an attribute that the operator had in another opset
            RuntimeError,
            ValueError,
            TypeError,
        ):
            return
        for name, given in outputs.items():
            if given.HasField("tensor_type") and given.tensor_type.HasField("shape"):
                self.types.setdefault(name, given.tensor_type.elem_type)
                self._learn(name, [self._name_size(d) for d in given.tensor_type.shape.dim])

    def _type(self, name: str) -> TypeProto | None:
        kind = self.look_up("types", name)
        return helper.make_tensor_type_proto(kind, self.look_up("dims", name)) if kind else None

    def _data(self, name: str) -> onnx.TensorProto | None:
        value = self.look_up("values", name)
        kind = self.look_up("types", name)
        if value is None or kind not in _NUMBERS or any(e is None or isinstance(e, Size) for e in value.flat):
            return None
        array = np.array(value.tolist(), get_numpy_dtype(kind)).reshape(value.shape)
        return numpy_helper.from_array(array)

    def _target(self, node: NodeProto, slot: int) -> list[Any] | None:
        value = self.look_up("values", node.input[slot]) if slot < len(node.input) else None
        return None if value is None or value.ndim != 1 else list(value)

    def _infer_reshape(self, node: NodeProto) -> list[Dim] | None:
        wanted = self._target(node, 1)
        if wanted is None or any(a.name == "allowzero" and a.i for a in node.attribute):
            return None
        return reshape_dims(wanted, self.look_up("dims", node.input[0]))

    def _expand_shape(self, node: NodeProto) -> list[Dim] | None:
        wanted, before = self._target(node, 1), self.look_up("dims", node.input[0])
        return None if wanted is None or before is None else expand_dims(wanted, before)

    def _fill_shape(self, node: NodeProto) -> list[Dim] | None:
        wanted = self._target(node, 0)
        return None if wanted is None else [dim(d) for d in wanted]

    def _learn(self, name: str, dims: Sequence[Dim]) -> None:
        both = merge_dims(self.dims.get(name), dims)
        if both is None:
            return
        self.dims[name] = tuple(f"?{next(self.model.fresh)}" if d is None else d for d in both)
        self.found.dims[name] = self.dims[name]
        if name in self.types:
            self.found.types[name] = self.types[name]


def _whole_type(kind: int | None) -> np.dtype[Any] | None:
    return get_numpy_dtype(kind) if kind in _WHOLE else None


Dims = tuple[Dim, ...]


def without_claims(skeleton: ModelProto) -> ModelProto:
    """A copy in which a shape is stated only of what operators make that onnx has no rule for; element types stay."""
    bare = ModelProto()
    bare.CopyFrom(skeleton)
    unknown = _unknown_operators(skeleton)
    for graph in graphs(bare.graph):
        trusted = {name for node in graph.node if unknown(node) for name in node.output}
        for value in (*graph.value_info, *graph.output):
            if value.name not in trusted and value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
    return bare


def _unknown_operators(model: ModelProto) -> Any:
    imports = {"" if i.domain == "ai.onnx" else i.domain: i.version for i in model.opset_import}
    functions = {(f.domain, f.name) for f in model.functions}

    def unknown(node: Any) -> bool:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (node.domain, node.op_type) in functions:
            return False
        schema = schema_of(node.op_type, imports.get(domain, 0), domain)
        return schema is None or not schema.has_type_and_shape_inference_function

    return unknown


def list_stale(skeleton: ModelProto, found: Sequence[Mapping[str, Dims]]) -> tuple[str, ...]:
    """Tensors of which the file states another rank or size than follows from the inputs.

    Parameters
    ----------
    skeleton : ModelProto
        As it came.
    found : sequence of mapping
        Dims by tensor as they follow, a mapping a graph, outermost first.
    """
    stale = (name for claims, dims in _pair(skeleton, found) for name in _stale_in(claims, dims))
    return tuple(dict.fromkeys(stale))


def with_claims(skeleton: ModelProto, found: Sequence[Mapping[str, Dims]]) -> ModelProto | None:
    """As `without_claims`, with what the file states of tensors that inference left open; None if that is nothing.

    A Reshape gives as many elements as it takes: a claim by which it would not is left out.
    """
    told = without_claims(skeleton)
    n_told = 0
    for graph, old, dims in zip(graphs(told.graph), graphs(skeleton.graph), found, strict=True):
        shaped = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Reshape" and n.output}
        constants = {t.name: tuple(t.dims) for t in graph.initializer}
        claims = _claims_of(old)
        for value in (*graph.value_info, *graph.output):
            stated = claims.get(value.name)
            if stated is None or value.type.tensor_type.HasField("shape") or not is_open(dims.get(value.name)):
                continue
            source = shaped.get(value.name, "")
            if source and not _may_hold_as_many(constants.get(source) or dims.get(source), stated):
                continue
            value.type.tensor_type.shape.SetInParent()
            for size_ in stated:
                added = value.type.tensor_type.shape.dim.add()
                if isinstance(size_, int):
                    added.dim_value = size_
                elif size_:
                    added.dim_param = size_
            n_told += 1
    return told if n_told else None


def _pair(
    skeleton: ModelProto, found: Sequence[Mapping[str, Dims]]
) -> Iterator[tuple[dict[str, Dims], Mapping[str, Dims]]]:
    return ((_claims_of(g), dims) for g, dims in zip(graphs(skeleton.graph), found, strict=True))


def _claims_of(graph: GraphProto) -> dict[str, Dims]:
    held = (v for v in (*graph.value_info, *graph.output) if v.type.HasField("tensor_type"))
    shaped = (v for v in held if v.type.tensor_type.HasField("shape"))
    return {v.name: tuple(_dim(d) for d in v.type.tensor_type.shape.dim) for v in shaped}


def _dim(d: Any) -> Dim:
    return int(d.dim_value) if d.HasField("dim_value") else str(d.dim_param) or None


def _stale_in(claims: Mapping[str, Dims], found: Mapping[str, Dims]) -> Iterator[str]:
    return (name for name, stated in claims.items() if name in found and _contradict(stated, found[name]))


def _contradict(stated: Dims, found: Dims) -> bool:
    if len(stated) != len(found):
        return True
    pairs = zip(stated, found, strict=True)
    return any(isinstance(a, int) and not is_made_up(b) and a != b for a, b in pairs)  # one size of an open one, too


def _may_hold_as_many(before: Dims | None, after: Dims) -> bool:
    if before is None or is_open(before) or is_open(after):
        return True
    a, b = (product([size(d) for d in dims if d is not None]) for dims in (before, after))
    return a == b or not {d for d in after if isinstance(d, str)} <= {d for d in before if isinstance(d, str)}
