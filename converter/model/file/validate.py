"""What must hold of a model before anything else looks at it: its names, its tensors, where its external data lies.

protobuf parses what is no model: names that are no text, tensors whose data does not fit their shape, functions that
call each other in a circle, attributes of another type than their operator's. Each of these is one line here that
says where, instead of an exception far inside.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from converter.errors import ModelError
from converter.model.file.dtypes import get_numpy_dtype

MAX_DIMS = 64  # numpy's limit
MAX_ELEMENTS = 2**62
MAX_INLINED = 2_000_000  # nodes after every function is inlined
MAX_LOCATION = 4096  # characters of a path
_T = TensorProto
_A = AttributeProto

# Which field of a tensor holds the values of a type, how many entries an element takes, and how many it shares.
_INT32 = ("INT32", "INT16", "INT8", "UINT16", "UINT8", "BOOL", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ",
          "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0")  # fmt: skip
_HALVES = ("UINT4", "INT4", "FLOAT4E2M1")
_QUARTERS = ("UINT2", "INT2")
_FIELDS: dict[str, tuple[str, int]] = {
    **dict.fromkeys((*_INT32, *_HALVES, *_QUARTERS), ("int32_data", 1)),
    "FLOAT": ("float_data", 1),
    "COMPLEX64": ("float_data", 2),
    "DOUBLE": ("double_data", 1),
    "COMPLEX128": ("double_data", 2),
    "INT64": ("int64_data", 1),
    "STRING": ("string_data", 1),
    "UINT64": ("uint64_data", 1),
    "UINT32": ("uint64_data", 1),
}
_DATA = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_VALUES: dict[int, str] = {
    _A.FLOAT: "f", _A.INT: "i", _A.STRING: "s", _A.TENSOR: "t", _A.GRAPH: "g", _A.SPARSE_TENSOR: "sparse_tensor",
    _A.TYPE_PROTO: "tp",
}  # fmt: skip


def validate(model: ModelProto, label: str, *, has_all_data: bool) -> None:
    """Look at everything in `model` that later code takes for granted.

    Parameters
    ----------
    model : ModelProto
    label : str
        What the model is called in messages: its path.
    has_all_data : bool
        Whether data that is not there is missing; False for a skeleton, whose large tensors were cut.

    Raises
    ------
    ModelError
        Something in it cannot be; the message says what and where.
    """
    with malformed(label):
        _Validator(model, label, has_all_data).check()


@contextlib.contextmanager
def malformed(label: str) -> Iterator[None]:
    """While a model is read: what its content makes Python raise is an error of the file, not of this program."""
    try:
        yield
    except RecursionError as exc:
        raise ModelError(f"{label}: is nested too deeply to be read; export the model again") from exc
    except MemoryError as exc:
        raise ModelError(f"{label}: needs more memory than there is; give the process more") from exc
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, StopIteration, DecodeError) as exc:
        raise ModelError(f"{label}: not a valid ONNX model ({first_line(exc)}); export the model again") from exc


def first_line(exc: BaseException) -> str:
    """The first line of an exception's text, cut to what fits on a screen."""
    lines = str(exc).strip().splitlines()
    return (lines[0] if lines else type(exc).__name__)[:200]


def count_inlined_nodes(model: ModelProto) -> int:
    """How many nodes a valid model has after every function is inlined, those of bodies among them."""
    validator = _Validator(model, "", has_all_data=False)
    validator.functions = {_function_key(function): function for function in model.functions}
    return validator.count_inlined()


class _Validator:
    def __init__(self, model: ModelProto, label: str, has_all_data: bool) -> None:
        self.model = model
        self.label = label
        self.has_all_data = has_all_data
        self.functions: dict[tuple[str, str, str], FunctionProto] = {}
        self.in_function = False

    def fail(self, where: str, what: str, advice: str = "export the model again") -> None:
        raise ModelError(f"{self.label}: {where}{': ' if where else ''}{what}; {advice}")

    def check(self) -> None:
        model = self.model
        versions = self._versions(model.opset_import)
        self._functions()
        self.in_function = True
        for function in model.functions:
            where = f"function {_shorten(function.name)}"
            own = self._versions(function.opset_import) or versions
            self._texts(where, (*function.input, *function.output, *function.attribute))
            for value in getattr(function, "value_info", ()):
                self._value(where, value)
            for attribute in function.attribute_proto:
                self._attribute(where, attribute, None, own)
            self._nodes(function.node, own, function.input)
        self.in_function = False
        self._graph(model.graph, versions)
        for training in model.training_info:
            for graph in (training.initialization, training.algorithm):
                self._graph(graph, versions)
            for binding in (*training.initialization_binding, *training.update_binding):
                self._texts("the training information", (binding.key, binding.value))

    def _texts(self, where: str, texts: Iterable[object]) -> None:
        """What is compared, looked up or shown must be text; remarks and metadata are only copied, as they are."""
        for text in texts:
            if not isinstance(text, str):
                self.fail(where, f"the name {text!r:.100} is not text")

    def _versions(self, imports: Any) -> dict[str, int]:
        versions: dict[str, int] = {}
        for entry in imports:
            self._texts("the operator sets", (entry.domain,))
            if not 0 <= entry.version < 2**31:
                self.fail("", f"version {entry.version} of operator set {_shorten(entry.domain)} cannot be")
            domain = "" if entry.domain == "ai.onnx" else entry.domain
            if versions.setdefault(domain, int(entry.version)) != entry.version:
                # onnxruntime goes by the last, others by the first: the file has two meanings.
                both = f"versions {versions[domain]} and {entry.version}"
                self.fail("", f"imports operator set {_shorten(domain or 'ai.onnx')} in {both}", "keep one of the two")
        return versions

    # -- functions -------------------------------------------------------------------------

    def _functions(self) -> None:
        for function in self.model.functions:
            key = _function_key(function)
            self._texts("a function", key)
            if key in self.functions:
                self.fail("", f"function {_shorten(function.name)} is there twice")
            self.functions[key] = function
        total = self.count_inlined()
        if total > MAX_INLINED:
            self.fail(
                "", f"has {total} nodes once its functions are inlined, more than the {MAX_INLINED} that are read"
            )

    def count_inlined(self) -> int:
        sizes: dict[tuple[str, str, str], int] = {}
        for key in self.functions:
            self._size_of(key, sizes, ())
        return self._n_nodes(self.model.graph.node, sizes, ())

    def _size_of(self, key: tuple[str, str, str], sizes: dict[Any, int], above: tuple[Any, ...]) -> int:
        """Nodes of a function with those that it calls, each function once."""
        if key in above:
            self.fail("", f"function {_shorten(key[1])} calls itself")
        if len(above) > 200:
            self.fail("", f"function {_shorten(key[1])} lies more than 200 calls deep")
        if key not in sizes:
            sizes[key] = self._n_nodes(self.functions[key].node, sizes, (*above, key))
        return sizes[key]

    def _n_nodes(self, nodes: Iterable[NodeProto], sizes: dict[Any, int], above: tuple[Any, ...]) -> int:
        total = 0
        for node in nodes:
            key = (_plain(node.domain), node.op_type, getattr(node, "overload", ""))
            total += self._size_of(key, sizes, above) if key in self.functions else 1
            for attribute in node.attribute:
                for graph in _graphs(attribute):
                    total += self._n_nodes(graph.node, sizes, above)
        return total

    # -- graphs and nodes ------------------------------------------------------------------

    def _graph(self, graph: GraphProto, versions: Mapping[str, int]) -> None:
        self._texts("a graph", (graph.name,))
        for value in (*graph.input, *graph.output, *graph.value_info):
            self._value(f"tensor {_shorten(value.name)}", value)
        for tensor in graph.initializer:
            self._tensor(tensor, f"tensor {_shorten(tensor.name)}")
        for sparse in graph.sparse_initializer:
            self._sparse(sparse, f"tensor {_shorten(sparse.values.name)}")
        for note in graph.quantization_annotation:
            self._texts("an annotation", (note.tensor_name,))
            for entry in note.quant_parameter_tensor_names:
                self._texts("an annotation", (entry.key, entry.value))
        held = [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
        self._nodes(graph.node, versions, [*(value.name for value in graph.input), *held])

    def _value(self, where: str, value: Any) -> None:
        self._texts(where, (value.name,))
        self._type(where, value.type)

    def _type(self, where: str, kind: Any, depth: int = 0) -> None:
        if depth > MAX_DIMS:
            self.fail(where, "its type is nested too deeply")
        match kind.WhichOneof("value"):
            case "tensor_type" | "sparse_tensor_type" as name:
                dims = getattr(kind, name).shape.dim
                if len(dims) > MAX_DIMS:
                    self.fail(where, f"has {len(dims)} dimensions, and numpy knows {MAX_DIMS}")
                self._texts(where, (d.dim_param for d in dims))
            case "sequence_type":
                self._type(where, kind.sequence_type.elem_type, depth + 1)
            case "optional_type":
                self._type(where, kind.optional_type.elem_type, depth + 1)
            case "map_type":
                self._type(where, kind.map_type.value_type, depth + 1)
            case _:
                pass

    def _nodes(self, nodes: Iterable[NodeProto], versions: Mapping[str, int], given: Iterable[str]) -> None:
        """Each node; ``given``: the names that the graph has without them, which none of them may make again."""
        made = set(given)
        for node in nodes:
            for text in (node.name, node.op_type, node.domain, *node.input, *node.output):
                if not isinstance(text, str):
                    self.fail("a node", f"the name {text!r:.100} is not text")
            for name in filter(None, node.output):
                if name in made:
                    self.fail(f"node {_name_of(node)}", f"makes {_shorten(name)}, which is there already")
                made.add(name)
            schema = self._schema(node, versions)
            if schema is not None:
                self._arity(node, schema)
            seen = set()
            for attribute in node.attribute:
                self._attribute(f"node {_name_of(node)}", attribute, schema, versions)
                if attribute.name in seen:
                    self.fail(f"node {_name_of(node)}", f"attribute {_shorten(attribute.name)} is there twice")
                seen.add(attribute.name)
            if schema is not None and schema.name == "Constant" and len(node.attribute) != 1:
                self.fail(f"node {_name_of(node)}", f"a Constant of {len(node.attribute)} values")

    def _schema(self, node: NodeProto, versions: Mapping[str, int]) -> Any:
        domain = _plain(node.domain)
        if domain in versions and (domain, node.op_type, getattr(node, "overload", "")) not in self.functions:
            return schema_of(node.op_type, versions[domain], domain)
        return None

    def _arity(self, node: NodeProto, schema: Any) -> None:
        n_in, n_out = len(node.input), len(node.output)
        if not schema.min_input <= n_in <= schema.max_input:
            self.fail(f"node {_name_of(node)}", f"has {n_in} inputs, and {node.op_type} takes {_span(schema, 'input')}")
        if not schema.min_output <= n_out <= schema.max_output:
            what = f"has {n_out} outputs, and {node.op_type} makes {_span(schema, 'output')}"
            self.fail(f"node {_name_of(node)}", what)
        if not any(node.output):
            self.fail(f"node {_name_of(node)}", f"a {node.op_type} that makes nothing")

    def _attribute(self, where: str, attribute: AttributeProto, schema: Any, versions: Mapping[str, int]) -> None:
        self._texts(where, (attribute.name, attribute.ref_attr_name))
        known = schema.attributes.get(attribute.name) if schema is not None else None
        kind = attribute.type
        if schema is not None and known is None and not attribute.name.startswith("__"):  # those are a runtime's own
            what = f"{schema.name} has no attribute {_shorten(attribute.name)} in the opset that the model names"
            self.fail(where, what, "convert it with onnx.version_converter, which changes the nodes as well")
        if known is not None and known.type.value != kind:
            wanted, found = known.type.name, _A.AttributeType.Name(kind) if kind in _A.AttributeType.values() else kind
            self.fail(where, f"attribute {attribute.name} is {found}, and must be {wanted}")
        if attribute.ref_attr_name:
            if not self.in_function:
                self.fail(where, f"attribute {_shorten(attribute.name)} is a function's, and the node is in none")
            return
        field = _VALUES.get(kind)
        if field in ("t", "g", "sparse_tensor", "tp") and not attribute.HasField(field):
            self.fail(where, f"attribute {_shorten(attribute.name)} has no value")
        if (kind != _A.GRAPH and attribute.HasField("g")) or (kind != _A.GRAPHS and attribute.graphs):
            self.fail(where, f"attribute {_shorten(attribute.name)} holds a graph, and says that it is something else")
        if attribute.HasField("t"):
            self._tensor(attribute.t, f"{where}, attribute {attribute.name}")
        for tensor in attribute.tensors:
            self._tensor(tensor, f"{where}, attribute {attribute.name}")
        if attribute.HasField("sparse_tensor"):
            self._sparse(attribute.sparse_tensor, where)
        for graph in _graphs(attribute):
            self._graph(graph, versions)

    # -- tensors ---------------------------------------------------------------------------

    def _sparse(self, sparse: Any, where: str) -> None:
        self._tensor(sparse.values, where)
        self._tensor(sparse.indices, where)
        if len(sparse.dims) > MAX_DIMS or any(d < 0 for d in sparse.dims):
            self.fail(where, f"cannot have the shape {list(sparse.dims)!s:.100}")

    def _tensor(self, tensor: TensorProto, where: str) -> None:
        self._texts(where, (tensor.name,))
        dims = tensor.dims
        if len(dims) > MAX_DIMS or any(d < 0 for d in dims) or math.prod(dims) > MAX_ELEMENTS:
            self.fail(where, f"cannot have the shape {list(dims)!s:.100}")
        if tensor.data_type == _T.UNDEFINED:
            self.fail(where, "has no element type")
        if not is_known_type(tensor.data_type):
            self.fail(where, f"has the element type {tensor.data_type}, which this onnx does not know")
        if tensor.data_location == _T.EXTERNAL:
            external_entry(tensor, f"{self.label}: {where}")
            return
        needed = stored_bytes(tensor)
        if tensor.HasField("raw_data"):
            n_bytes = len(tensor.raw_data)
            if needed is not None and n_bytes != needed:
                what = f"has {n_bytes} bytes of data, its shape {list(dims)!s:.100} needs {needed}"
                self.fail(where, what, "the file is damaged")
            return
        self._typed_data(tensor, where)

    def _typed_data(self, tensor: TensorProto, where: str) -> None:
        name = type_name(tensor.data_type)
        n_entries = sum(len(getattr(tensor, field)) for field in _DATA)
        if name not in _FIELDS or (n_entries == 0 and not self.has_all_data):
            return
        field, per_element = _FIELDS[name]
        elements = math.prod(tensor.dims)
        share = 2 if name in _HALVES else 4 if name in _QUARTERS else 1
        needed = (elements * per_element + share - 1) // share
        found = len(getattr(tensor, field))
        if found != needed or n_entries != found:
            what = f"has {n_entries} values, its shape {list(tensor.dims)!s:.100} and type {name} need {needed}"
            self.fail(where, what, "the file is damaged")


@cache  # protobuf looks through all of them
def type_name(data_type: int) -> str:
    """The name of an element type; empty for one that this onnx does not know."""
    return str(_T.DataType.Name(data_type)) if data_type in _T.DataType.values() else ""


@cache
def is_known_type(data_type: int) -> bool:
    """Whether this onnx, or `get_numpy_dtype` without it, can say what an element type is."""
    if type_name(data_type):
        return True
    try:
        get_numpy_dtype(data_type)
    except KeyError:
        return False
    return True


def stored_bytes(tensor: TensorProto) -> int | None:
    """Bytes that a tensor's raw data takes; None where the type does not say (text, and the unknown)."""
    name, n = type_name(tensor.data_type), int(math.prod(tensor.dims))
    if name in _HALVES:
        return (n + 1) // 2
    if name in _QUARTERS:
        return (n + 3) // 4
    if name in ("", "UNDEFINED", "STRING"):
        return None
    return n * int(get_numpy_dtype(tensor.data_type).itemsize)


def external_entry(tensor: TensorProto, where: str) -> tuple[str, int, int | None]:
    """Location, offset and length (None: not said) of a tensor's external data, as the model says them.

    Raises
    ------
    ModelError
        They are no text and numbers, or leave the model's directory.
    """
    info = {entry.key: entry.value for entry in tensor.external_data}
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in info.items()):
        raise ModelError(f"{where}: its external data is described by what is not text; export the model again")
    location = info.get("location", "")
    if not location:
        raise ModelError(f"{where}: external data without a location; export the model again")
    if "\0" in location or len(location) > MAX_LOCATION:
        raise ModelError(
            f"{where}: external data at {location!r:.100}, which no file is called; export the model again"
        )
    if Path(location).is_absolute() or ".." in Path(location.replace("\\", "/")).parts:
        raise ModelError(f"{where}: external data at {location!r} lies outside the model's directory; refused")
    return location, _number(info, "offset", where) or 0, _number(info, "length", where)


def checksum_of(tensor: TensorProto) -> str:
    """What the model says is the checksum of the tensor's data file; empty if nothing."""
    return next((str(entry.value) for entry in tensor.external_data if entry.key == "checksum"), "")


def _number(info: Mapping[str, str], key: str, where: str) -> int | None:
    text = info.get(key, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelError(
            f"{where}: offset or length of its external data is not a number ({text!r:.40}); export the model again"
        )
    return int(text)


@cache
def schema_of(op_type: str, version: int, domain: str) -> Any:
    """The operator's schema in that version; None if this onnx has none."""
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except (onnx.defs.SchemaError, UnicodeError):
        return None


def _graphs(attribute: AttributeProto) -> Iterator[GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _function_key(function: FunctionProto) -> tuple[str, str, str]:
    return _plain(function.domain), function.name, getattr(function, "overload", "")


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _name_of(node: NodeProto) -> str:
    return _shorten(node.name or next((o for o in node.output if o), node.op_type))


def _span(schema: Any, side: str) -> str:
    low, high = getattr(schema, f"min_{side}"), getattr(schema, f"max_{side}")
    return str(low) if low == high else f"{low} to {high}" if high < 2**31 - 1 else f"{low} or more"


def _shorten(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 100 else text[:97] + "..."
