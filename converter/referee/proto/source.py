"""A model given as a path, as bytes or as a proto, seen the same way; external data stays where it lies."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers the types that numpy lacks)
import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from converter.dataclass import dataclass
from converter.errors import ModelError
from converter.model.file.disk import read_whole
from converter.model.file.dtypes import get_numpy_dtype
from converter.model.file.preparation import are_sorted, sort_nodes
from converter.model.file.reader import graphs, tensors
from converter.model.file.validate import stored_bytes, validate
from converter.records import ModelFacts
from converter.referee.proto.tensors import is_external, locate_external

LARGEST = (1 << 31) - 1  # bytes of a protobuf message
_SMALL = 1 << 12  # elements up to which a skeleton keeps a tensor's values: shapes and axes are known by value


@dataclass(frozen=True, slots=True)
class Port:
    """A graph input or output: ``dims`` holds sizes, symbol names or None, and is None for unknown rank."""

    name: str
    kind: str  # tensor | sequence | optional | map | sparse | none
    elem: int = 0
    dims: tuple[int | str | None, ...] | None = None

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The numpy type of an element, None where there is none."""
        return get_dtype(self.elem)


def get_dtype(elem: int) -> np.dtype[Any] | None:
    """The numpy (or ml_dtypes) type of an ONNX element type; None for text and the unknown."""
    if elem in (TensorProto.UNDEFINED, TensorProto.STRING):
        return None
    try:
        return get_numpy_dtype(elem)
    except (KeyError, ValueError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model to be compared: its proto (external data not loaded), and where it came from."""

    proto: ModelProto
    label: str
    path: Path | None
    folder: Path | None
    digest: str = ""  # SHA-256 of the bytes that the model came as, in hex; empty for a message
    n_bytes: int = 0  # how many these are

    @classmethod
    def open(
        cls, model: Path | str | bytes | ModelProto, data: Path | None = None, label: str = "model"
    ) -> LoadedModel:
        """Read ``model``; ``data`` is the directory of its external data, by default the file's own."""
        if isinstance(model, ModelProto):
            validate(model, label, has_all_data=True)
            if not are_sorted(model):
                copy = ModelProto()
                copy.CopyFrom(model)  # the caller's own stays as it is
                sort_nodes(copy)
                came = serialize(model, label)
                return cls(copy, label, None, data, hashlib.sha256(came).hexdigest(), len(came))
            return cls(model, label, None, data)
        if isinstance(model, bytes):
            return cls(_parse(model, label), label, None, data, hashlib.sha256(model).hexdigest(), len(model))
        path = Path(model)
        content = read_whole(path, LARGEST)
        proto = _parse(content, str(path))
        folder, digest = data or _find_folder(path, proto), hashlib.sha256(content).hexdigest()
        return cls(proto, str(path), path, folder, digest, len(content))

    def compute_digest(self) -> str:
        """SHA-256 of the model's own bytes as they came, without data files, in hex."""
        return self.digest or hashlib.sha256(serialize(self.proto, self.label)).hexdigest()

    def for_runtime(self) -> tuple[bytes | Path, Path | None]:
        """What onnxruntime loads: the file where there is one, and the directory of external data."""
        if self.path is not None and self.folder is not None and self.folder.resolve() == self.path.parent.resolve():
            return self.path, None
        return serialize(self.proto, self.label), self.folder


def _find_folder(path: Path, model: ModelProto) -> Path:
    """Where external data is looked for: beside the name, or beside what it links to if it is there."""
    if path.is_symlink():
        held = (t for t in model.graph.initializer if is_external(t))
        location = next((e.value for t in held for e in t.external_data if e.key == "location"), None)
        beside = path.resolve().parent
        if location and not (path.parent / location).exists() and (beside / location).exists():
            return beside
    return path.parent


def _parse(content: bytes, label: str) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as exc:
        raise ModelError(f"{label}: not an ONNX model, or truncated") from exc
    if not model.HasField("graph"):
        raise ModelError(f"{label}: not an ONNX model: it has no graph")
    validate(model, label, has_all_data=True)
    sort_nodes(model)
    return model


def serialize(model: ModelProto, label: str = "model") -> bytes:
    """The model as bytes."""
    try:
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError) as exc:
        raise ModelError(f"{label}: cannot be serialised ({exc}); save it with external data") from exc


def list_bodies(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """The subgraphs of a node, by attribute name."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        for k, graph in enumerate(attribute.graphs):
            yield f"{attribute.name}[{k}]", graph


def make_body_key(outer: str, node: NodeProto, attribute: str) -> str:
    """What a subgraph is called: by the first tensor that its node makes, which is there and is no one else's."""
    return f"{outer}/{next((name for name in node.output if name), node.name)}.{attribute}"


def walk_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node of the main graph, of subgraphs and of functions."""
    pending = [*model.graph.node, *(n for f in model.functions for n in f.node)]
    while pending:
        node = pending.pop()
        yield node
        for _, graph in list_bodies(node):
            pending.extend(graph.node)


def read_ports(values: Any) -> dict[str, Port]:
    """The graph's inputs or outputs, in order."""
    return {v.name: _read_port(v) for v in values}


def list_free_inputs(model: ModelProto) -> dict[str, Port]:
    """The inputs that a caller must feed: those without an initializer."""
    held = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    return {name: port for name, port in read_ports(model.graph.input).items() if name not in held}


def find_overridable(model: ModelProto) -> set[str]:
    """Initializers that a caller may replace, because they are also graph inputs (from IR version 4)."""
    return set() if model.ir_version < 4 else {i.name for i in model.graph.input} - set(list_free_inputs(model))


def _read_port(value: Any) -> Port:
    kind = value.type.WhichOneof("value") or "none"
    if kind != "tensor_type":
        return Port(value.name, kind.removesuffix("_type").removesuffix("_tensor"))
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return Port(value.name, "tensor", tensor.elem_type)
    return Port(value.name, "tensor", tensor.elem_type, tuple(_read_dim(d) for d in tensor.shape.dim))


def _read_dim(dim: Any) -> int | str | None:
    kind = dim.WhichOneof("value")
    if kind == "dim_value":
        return int(dim.dim_value) if dim.dim_value >= 0 else None  # exporters write -1 for a size that they leave open
    return str(dim.dim_param) or None if kind == "dim_param" else None


def make_value_info(name: str, port: Port | None, fallback: int = TensorProto.UNDEFINED) -> ValueInfoProto:
    """A typed name: ``port``'s type and shape as far as they are known, else the element type ``fallback``."""
    elem = port.elem if port is not None and port.elem else fallback
    if not elem:
        return ValueInfoProto(name=name)
    kind = TypeProto(tensor_type=TypeProto.Tensor(elem_type=elem))
    if port is not None and port.dims is not None:
        kind.tensor_type.shape.SetInParent()
        for dim in port.dims:
            if isinstance(dim, int):
                kind.tensor_type.shape.dim.add().dim_value = dim
            else:
                kind.tensor_type.shape.dim.add().dim_param = dim or ""
    return ValueInfoProto(name=name, type=kind)


def read_opsets(model: ModelProto) -> dict[str, int]:
    """The operator set versions that the model imports."""
    return {("" if i.domain == "ai.onnx" else i.domain): int(i.version) for i in model.opset_import}


def find_float_types(model: ModelProto) -> set[int]:
    """Float element types of the model's weights."""
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    return {t.data_type for t in model.graph.initializer if t.data_type in floats} | {
        a.t.data_type for n in walk_nodes(model) for a in n.attribute if a.HasField("t") and a.t.data_type in floats
    }


def read_constant_dims(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    """The shapes of initializers and of what Constant nodes hold."""
    dims = {t.name: tuple(t.dims) for t in graph.initializer}
    for node in graph.node:
        for a in node.attribute if node.op_type == "Constant" else ():
            dims[node.output[0]] = tuple(a.t.dims) if a.HasField("t") else (len(a.floats) or len(a.ints),)
    return dims


def strip_weights(model: ModelProto, dims: dict[str, tuple[int, ...]] | None = None) -> ModelProto:
    """A copy without the values of large tensors, inputs set to ``dims`` where given."""
    bare = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = bare.graph
    graph.name = model.graph.name
    for field in ("input", "output", "value_info"):
        getattr(graph, field).extend(getattr(model.graph, field))
    graph.initializer.extend(copy_header(t) for t in model.graph.initializer)
    for node in model.graph.node:
        graph.node.append(_copy_bare(node))
    for value in graph.input:
        if dims and value.name in dims and value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
            for size in dims[value.name]:
                value.type.tensor_type.shape.dim.add().dim_value = size
    return bare


def copy_header(tensor: TensorProto) -> TensorProto:
    """The tensor without its values where these are many, or in another file."""
    if int(np.prod(tensor.dims, dtype=np.int64)) <= _SMALL and not is_external(tensor):
        return tensor
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _copy_bare(node: NodeProto) -> NodeProto:
    large = [a for a in node.attribute if a.HasField("t") and copy_header(a.t) is not a.t]
    if not large:
        return node
    copy = NodeProto(op_type=node.op_type, domain=node.domain, name=node.name, input=node.input, output=node.output)
    for attribute in node.attribute:
        if attribute.HasField("t"):
            copy.attribute.append(AttributeProto(name=attribute.name, type=attribute.type, t=copy_header(attribute.t)))
        else:
            copy.attribute.append(attribute)
    return copy


def seed_nodes(model: ModelProto, unseeded: Callable[[NodeProto], bool], seed_of: Callable[[str], int]) -> ModelProto:
    """A copy in which every random node without a seed has one that follows from its output's name."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for node in walk_nodes(copy):
        if unseeded(node):
            value = seed_of(node.output[0])
            seed: float | int = value if node.op_type == "Dropout" else float(value)
            node.attribute.append(onnx.helper.make_attribute("seed", seed))
    return copy


_CHUNK = 1 << 22


def describe_model(source: LoadedModel) -> ModelFacts:
    """The facts of one model.

    ``sha256`` is that of the file; where the model has data files, that of the file followed by them, in the order
    of their names.

    Raises
    ------
    ModelError
        A data file is missing.
    """
    told, size, files = source.digest, source.n_bytes, list_data_files(source)
    if files or not told:  # else it was hashed as it came
        digest, size = hashlib.sha256(), 0
        if source.path is not None:
            size += _update(digest, source.path)
        else:
            content = serialize(source.proto, source.label)
            digest.update(content)
            size += len(content)
        for path in files:
            size += _update(digest, path)
        told = digest.hexdigest()
    counts = Counter(n.op_type for n in walk_nodes(source.proto))
    return ModelFacts(
        path=None if source.path is None else str(source.path),
        sha256=told,
        size_bytes=size,
        ir_version=int(source.proto.ir_version),
        opset=read_opsets(source.proto).get("", 0),
        nodes=dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))),
    )


def check_data_files(source: LoadedModel) -> None:
    """Refuse data files that onnxruntime would wait for (pipes), read without end, or find outside of the folder.

    Raises
    ------
    ModelError
        One is missing, no regular file, or leads out of the model's directory.
    """
    sparse = (s.values for g in graphs(source.proto.graph) for s in g.sparse_initializer)
    for tensor in filter(is_external, (*tensors(source.proto), *sparse)):
        locate_external(tensor, source.folder)


def list_data_files(source: LoadedModel) -> list[Path]:
    """The files that hold the model's external data, in the order of their names."""
    held = filter(is_external, tensors(source.proto))
    names = {e.value for t in held for e in t.external_data if e.key == "location"}
    return [(source.folder or Path()) / name for name in sorted(names)]


def count_stored_bytes(source: LoadedModel) -> int:
    """Bytes of the model and of its data files, as far as they are there."""
    held = (t for t in tensors(source.proto) if not is_external(t))
    size = 0 if source.path is not None else sum(stored_bytes(t) or 0 for t in held)
    for path in [*([source.path] if source.path is not None else []), *list_data_files(source)]:
        with contextlib.suppress(OSError):
            size += path.stat().st_size
    return size


def _update(digest: hashlib._Hash, path: Path) -> int:
    size = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    return size
