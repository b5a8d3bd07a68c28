"""A model as it lies on disk or in memory: a skeleton without weights, and where they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto

from converter.dataclass import dataclass
from converter.errors import BiasoptError, ModelError
from converter.model.file import wire
from converter.model.file.disk import DiskBuffer, check_checksum, read_bytes, resolve_location
from converter.model.file.dtypes import decode, get_numpy_dtype
from converter.model.file.preparation import are_sorted, has_calls, sort_nodes, write_out
from converter.model.file.validate import checksum_of, external_entry, first_line, malformed, stored_bytes, validate
from converter.model.file.wire import Buffer, Field, Kind, WireError

# The newest operator set of this onnx; a newer model may mean other things by the same names.
NEWEST_OPSET: int = onnx.defs.onnx_opset_version()

# A guard reads a weight to see whether its fold may be rounded, and the writer reads it again. What is read first
# stays up to this sum: enough for a ResNet-50, and no more in a model of any size.
_KEPT_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class External:
    """Where a tensor's bytes lie outside the model file."""

    path: Path
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor of the model: its header, and its place in the source if its data was cut."""

    header: TensorProto
    span: tuple[int, int]  # payload of the whole TensorProto
    external: External | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's dims."""
        return tuple(self.header.dims)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy (or ml_dtypes) type of an element; void for a type that this onnx does not know."""
        try:
            return get_numpy_dtype(self.header.data_type)
        except KeyError:
            return np.dtype(np.void)

    @property
    def n_bytes(self) -> int:
        """Bytes of the data, as stored."""
        return packed_bytes(self.header)


def packed_bytes(header: TensorProto) -> int:
    """Bytes that a tensor's data takes: of text what it holds, of a type that this onnx does not know 0."""
    needed = stored_bytes(header)
    return sum(map(len, header.string_data)) if needed is None else needed


class ModelFile:
    """A model opened for reading; nothing large is read until asked for.

    Parameters
    ----------
    source : Path or bytes
        The file, or a serialised ModelProto.
    base : Path, optional
        Directory of external data; the file's own directory by default.

    Raises
    ------
    ModelError
        Missing, unreadable, not a model, truncated, or external data missing, cut short or outside `base`.
    """

    def __init__(self, source: Path | bytes, base: Path | None = None) -> None:
        self.path = source if isinstance(source, Path) else None
        self.label = str(source) if isinstance(source, Path) else "<model>"
        # First of all, so that a path that leads nowhere is reported as one.
        self.buffer: Buffer = source if isinstance(source, bytes) else DiskBuffer(source)
        self.base = base if base is not None else (source.resolve().parent if isinstance(source, Path) else None)
        self._external_dir = self.base
        if isinstance(source, Path) and base is None:
            # Locations are relative to where the name lies; a link's target directory is tried second.
            self._external_dir = source.absolute().parent
        self._kept: dict[tuple[int, int], NDArray[Any]] = {}
        self._room = _KEPT_BYTES
        with malformed(self.label):
            self.skeleton = self._parse()
        validate(self.skeleton, self.label, has_all_data=False)
        self.was_written_out = False
        self.was_unsorted = not are_sorted(self.skeleton)
        if self.was_unsorted:  # legal for onnxruntime. Rare enough to pay for one copy.
            self._sort()
        self.root = (0, len(self.buffer))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the model's own bytes as they came, in hex."""
        if isinstance(self.buffer, DiskBuffer):
            return self.buffer.digest()
        return hashlib.sha256(self.buffer[0 : len(self.buffer)]).hexdigest()

    def _parse(self) -> onnx.ModelProto:
        try:
            top = list(wire.fields(self.buffer, 0, len(self.buffer)))
            slim = wire.slim(self.buffer, 0, len(self.buffer), Kind.MODEL)
            model: onnx.ModelProto = onnx.ModelProto.FromString(slim)
        except (WireError, DecodeError, RecursionError) as exc:
            raise ModelError(f"{self.label}: not an ONNX model ({first_line(exc)}); give an .onnx file") from exc
        n_graphs = sum(f.number == 7 for f in top)
        if n_graphs == 0 or not model.ir_version:
            raise ModelError(f"{self.label}: not an ONNX model (no graph in it); give an .onnx file")
        self._check_opset(model)
        if n_graphs > 1:  # legal protobuf: the parts merge. Rare enough to pay for one copy.
            assert self.digest  # of what came
            self.buffer = onnx.ModelProto.FromString(self.buffer[0 : len(self.buffer)]).SerializeToString()
            return self._parse()
        return model

    def _sort(self) -> None:
        assert self.digest  # of what came
        model = onnx.ModelProto.FromString(self.buffer[0 : len(self.buffer)])
        sort_nodes(model)
        self.buffer = model.SerializeToString()
        self.skeleton = self._parse()

    def write_out_functions(self) -> None:
        """Go on with the functions written out at their calls, where that can be."""
        assert self.digest  # of what came
        if not has_calls(self.skeleton):
            return
        found = write_out(onnx.ModelProto.FromString(self.buffer[0 : len(self.buffer)]))
        if found is None:
            return
        self.forget()
        self.buffer = found.SerializeToString()
        with malformed(self.label):
            self.skeleton = self._parse()
        if not are_sorted(self.skeleton):
            self._sort()
        self.root = (0, len(self.buffer))
        self.was_written_out = True

    def _check_opset(self, model: onnx.ModelProto) -> None:
        for entry in model.opset_import:
            if entry.domain in ("", "ai.onnx") and not 1 <= entry.version <= NEWEST_OPSET:
                raise ModelError(
                    f"{self.label}: opset {entry.version} is unknown, this onnx knows 1 to {NEWEST_OPSET};"
                    " install a newer onnx, or export to an older opset"
                )

    # -- tensors ---------------------------------------------------------------------------

    def ref(self, header: TensorProto, f: Field) -> TensorRef:
        """The tensor with this header, whose TensorProto is the value of field `f`."""
        return TensorRef(header, (f.payload, f.end), self.locate(header))

    def locate(self, header: TensorProto) -> External | None:
        """Where the tensor's external data lies, checked; None if its data is in the model."""
        if header.data_location != TensorProto.EXTERNAL:
            return None
        where = f"{self.label}: tensor {header.name!r}"
        if self._external_dir is None:
            raise ModelError(f"{where}: has external data, but the model is not a file; give data_dir=DIRECTORY")
        location, offset, length = external_entry(header, where)
        path, size = resolve_location(location, dict.fromkeys((self._external_dir, self.base)), where)
        check_checksum(path, checksum_of(header), where)
        n_bytes = packed_bytes(header) if length is None else length
        if n_bytes < packed_bytes(header) or offset + n_bytes > size:
            raise ModelError(
                f"{where}: needs bytes {offset} to {offset + max(n_bytes, packed_bytes(header))} of {path},"
                f" which has {size}; the data file is cut short or belongs to another model"
            )
        return External(path, offset, n_bytes)

    def raw_span(self, ref: TensorRef) -> tuple[int, int] | None:
        """Where the tensor's raw_data lies in the source; None if it is stored otherwise."""
        found = [f for f in wire.fields(self.buffer, *ref.span) if f.number in wire.TENSOR_DATA]
        if len(found) == 1 and found[0].number == wire.RAW_DATA:
            return found[0].payload, found[0].end
        return None

    def read(self, ref: TensorRef) -> NDArray[Any]:
        """The tensor's value, in its own type, read-only."""
        if ref.span == (0, 0):  # not in the file: made by an edit, with its data
            return decode(ref.header)
        if ref.span in self._kept:
            return self._kept[ref.span]
        value = self._read(ref)
        value.flags.writeable = False
        if value.nbytes <= self._room:
            self._room -= value.nbytes
            self._kept[ref.span] = value
        return value

    def forget(self) -> None:
        """Give back the memory of the tensors that were read; they are read again when they are asked for."""
        self._kept.clear()
        self._room = _KEPT_BYTES

    def _read(self, ref: TensorRef) -> NDArray[Any]:
        if ref.external is not None:
            return self._from_raw(ref, read_bytes(ref.external.path, ref.external.offset, ref.n_bytes))
        span = self.raw_span(ref)
        if span is None:
            whole = TensorProto.FromString(self.buffer[ref.span[0] : ref.span[1]])
            with malformed(f"{self.label}: tensor {ref.header.name!r}"):
                return to_array(whole)
        if isinstance(self.buffer, DiskBuffer):
            return self._from_raw(ref, self.buffer.read(span[0], span[1] - span[0]))
        return self._from_raw(ref, self.buffer[span[0] : span[1]])

    def _from_raw(self, ref: TensorRef, data: bytes | memoryview) -> NDArray[Any]:
        dtype, n = ref.dtype, int(np.prod(ref.shape, dtype=np.int64))
        if len(data) == n * dtype.itemsize:
            return np.frombuffer(data, dtype=dtype).reshape(ref.shape)
        whole = TensorProto()
        whole.CopyFrom(ref.header)
        del whole.external_data[:]
        whole.ClearField("data_location")
        whole.raw_data = bytes(data)
        try:
            return decode(whole)
        except (ValueError, TypeError, KeyError) as exc:
            raise ModelError(
                f"{self.label}: tensor {ref.header.name!r} has {len(data)} bytes of data,"
                f" its shape {list(ref.shape)} needs {ref.n_bytes}; the file is damaged"
            ) from exc

    def close(self) -> None:
        """Let go of the file."""
        self._kept.clear()
        if isinstance(self.buffer, DiskBuffer):
            self.buffer.close()


def to_array(tensor: TensorProto) -> NDArray[Any]:
    """The value of a tensor that holds its own data; text that is no UTF-8 keeps its bytes as lone surrogates."""
    if tensor.data_type == TensorProto.STRING:
        texts = [s.decode("utf-8", "surrogateescape") for s in tensor.string_data]
        return np.asarray(texts, dtype=object).reshape(tuple(tensor.dims))
    return decode(tensor)


def graphs(graph: Any) -> Iterator[Any]:
    """The graph, or function, and every graph inside its nodes, outermost first."""
    yield graph
    for node in graph.node:
        for a in node.attribute:
            for g in (*([a.g] if a.type == onnx.AttributeProto.GRAPH else []), *a.graphs):
                yield from graphs(g)


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every dense tensor that a model holds: initializers of all its graphs, and what nodes hold, also in functions."""
    for g in (g for whole in (model.graph, *model.functions) for g in graphs(whole)):
        yield from g.initializer if isinstance(g, onnx.GraphProto) else ()
        for a in (a for node in g.node for a in node.attribute):
            yield from ([a.t] if a.HasField("t") else [])
            yield from a.tensors


def list_external(path: Path) -> list[External]:
    """Where the tensors of a model on disk lie outside of it, read from its skeleton alone.

    Of what is no model, or a broken one, there are none: who reads it says so.
    """
    try:
        file = ModelFile(path)
    except BiasoptError:
        return []
    try:
        return [place for tensor in tensors(file.skeleton) if (place := file.locate(tensor)) is not None]
    except BiasoptError:
        return []
    finally:
        file.close()
