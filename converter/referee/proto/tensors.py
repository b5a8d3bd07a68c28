"""Tensors of a model as float64 arrays, read when they are needed."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from converter.errors import ModelError
from converter.model.file.disk import check_checksum, resolve_location
from converter.model.file.dtypes import decode, get_plain_dtype
from converter.model.file.reader import to_array
from converter.model.file.validate import checksum_of, external_entry, malformed, stored_bytes
from converter.referee.reference.conv import Array

# Unit roundoff of the float types that become float64 (and of float64 itself).
UNIT_ROUNDOFF: dict[int, float] = {
    TensorProto.FLOAT16: 2.0**-11,
    TensorProto.BFLOAT16: 2.0**-8,
    TensorProto.FLOAT: 2.0**-24,
    TensorProto.DOUBLE: 2.0**-53,
}
_BLOCK = 1 << 18  # elements that are moved at a time; even, as random numbers of 32 bits are drawn in pairs
_WIDENED = {np.dtype(np.float16), np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)}


def widen(value: Any) -> Any:
    """``value`` with float16, bfloat16 and float32 arrays made float64, also inside sequences."""
    if isinstance(value, np.ndarray | np.generic):
        return value.astype(np.float64) if value.dtype in _WIDENED else np.asarray(value)
    if isinstance(value, list):
        return [widen(v) for v in value]
    return value


def locate_external(tensor: TensorProto, folder: Path | None) -> tuple[Path, int, int | None]:
    """File, offset and length (None: to the end) of a tensor's external data.

    Raises
    ------
    ModelError
        The file is missing, no regular file, or outside the model's directory.
    """
    where = f"tensor {tensor.name!r}"
    if folder is None:
        raise ModelError(f"{where} is in external data; say in which directory")
    location, offset, length = external_entry(tensor, where)
    path, _ = resolve_location(location, (folder,), where)
    check_checksum(path, checksum_of(tensor), where)
    return path, offset, length


def is_external(tensor: TensorProto) -> bool:
    """Whether the tensor's bytes are in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def read_tensor(tensor: TensorProto, folder: Path | None = None) -> Array:
    """The tensor in its stored type; the proto is not changed."""
    if not is_external(tensor):
        with malformed(f"tensor {tensor.name!r}"):
            return to_array(tensor)
    path, offset, needed = find_stored(tensor, folder)
    dtype = get_plain_dtype(tensor.data_type)
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            if dtype is not None:
                held = np.empty(needed, np.uint8)
                read_into(file, held)
                return held.view(dtype).reshape(tuple(tensor.dims))
            inline = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            inline.raw_data = file.read(needed)
        return decode(inline)
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise ModelError(f"{path}: cannot read tensor {tensor.name!r} ({exc}); the data file may be truncated") from exc


def find_stored(tensor: TensorProto, folder: Path | None) -> tuple[Path, int, int]:
    """File, offset and size of a tensor's external data: the size that its shape needs, whatever length is said.

    Raises
    ------
    ModelError
        As `locate_external`; the type has no size, or the length that is said is too small.
    """
    path, offset, length = locate_external(tensor, folder)
    needed = stored_bytes(tensor)
    if needed is None:
        raise ModelError(f"tensor {tensor.name!r}: external data of a type that has no size; export the model again")
    if length is not None and length < needed:
        raise ModelError(
            f"{path}: cannot read tensor {tensor.name!r} ({length} bytes are said, its shape needs {needed});"
            " the data file may be truncated"
        )
    return path, offset, needed


def read_into(file: io.RawIOBase, held: NDArray[np.uint8]) -> None:
    """Fill an array with what comes next in a file.

    Raises
    ------
    ValueError
        The file ends before.
    """
    done = 0
    while done < held.size:
        got = file.readinto(held[done:].data)
        if not got:
            raise ValueError(f"{done} bytes are there, {held.size} are needed")
        done += got


def densify(tensor: onnx.SparseTensorProto, folder: Path | None = None) -> Array:
    """A sparse tensor as a dense array in its stored type."""
    values, indices = read_tensor(tensor.values, folder), read_tensor(tensor.indices, folder)
    with malformed(f"tensor {tensor.values.name!r}"):
        dense = np.zeros(tuple(tensor.dims), dtype=values.dtype)
        if indices.ndim == 2:
            dense[tuple(indices.T)] = values
        else:
            dense.reshape(-1)[indices] = values
    return dense


class Weights:
    """Reads a model's constants as float64; with ``seed``, perturbed by their own rounding error.

    Perturbed: every float tensor of two or more elements, times ``1 + u * xi``, u the unit roundoff of the
    stored type and xi uniform with variance one, as rounding errors are. Single numbers stay (exponents,
    thresholds, scale factors of shapes) unless ``weight`` says that a layer reads them as one. ``times``: how many
    times as far.
    """

    def __init__(self, folder: Path | None, seed: int | None, times: float = 1.0) -> None:
        self.folder = folder
        self.seed = seed
        self.times = times

    def tensor(self, tensor: TensorProto, name: str, *, fixed: bool = False, weight: bool = False) -> Array:
        """The value of an initializer or Constant; ``fixed`` ones are never perturbed."""
        stored = read_tensor(tensor, self.folder)
        unit = UNIT_ROUNDOFF.get(tensor.data_type)
        return self._finish(stored, None if fixed else unit, name, 1 if weight else 2)

    def sparse(self, tensor: onnx.SparseTensorProto, name: str) -> Array:
        """The dense value of a sparse initializer or Constant."""
        return self._finish(densify(tensor, self.folder), UNIT_ROUNDOFF.get(tensor.values.data_type), name)

    def _finish(self, stored: Array, unit: float | None, name: str, least: int = 2) -> Array:
        value: Array = widen(stored)
        if self.seed is None or unit is None or value.size < least:
            return value
        unit *= self.times
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        if not value.flags.writeable or not value.flags.c_contiguous or np.may_share_memory(value, stored):
            value = value.copy()
        flat = value.reshape(-1)
        for k in range(0, flat.size, _BLOCK):  # no second array of the size of a large weight
            part = flat[k : k + _BLOCK]
            noise = np.asarray(rng.random(part.size, dtype=np.float32), dtype=np.float64)
            noise *= unit * 12**0.5
            noise += 1.0 - unit * 3**0.5
            part *= noise
        return value
