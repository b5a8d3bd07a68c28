"""Constants of a certificate: held by the original, or made from it by factors, in float64 and rounded once."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from converter.dataclass import dataclass
from converter.model.file.dtypes import get_numpy_dtype
from converter.referee.proto.structural_hash import hash_array, hash_tensor
from converter.referee.proto.tensors import read_tensor


class CertificateError(Exception):
    """``where``: the step or field; ``why``: what is wrong there."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where, self.why = where, why


Array = np.ndarray[Any, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
# Of quantized weights: what is stored is what was meant, to the bit.
INTEGERS: dict[str, np.dtype[Any]] = {
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "int16": np.dtype(np.int16),
    "uint16": np.dtype(np.uint16),
    "int32": np.dtype(np.int32),
    "int4": np.dtype(ml_dtypes.int4),
    "uint4": np.dtype(ml_dtypes.uint4),
}
_HALF_BYTES = ("int4", "uint4")
# Bits of the significand, and the exponent of the smallest subnormal number.
_BFLOAT16_BITS, _BFLOAT16_LEAST = 8, -133
_BFLOAT16_MOST = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)  # type: ignore[no-untyped-call]


class Constant:
    """A value that a model holds: as stored, and in float64 before it was rounded."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def n_bytes(self) -> int:
        """Bytes that it takes in a file."""
        n = math.prod(self.shape)
        return -(-n // 2) if self.dtype.name in _HALF_BYTES else n * self.dtype.itemsize

    def pack(self) -> Array:
        """As a file holds it: numbers of four bits two in a byte, the first in the low bits."""
        value = self.load()
        if self.dtype.name not in _HALF_BYTES:
            return value
        nibbles = value.reshape(-1).astype(np.int8).view(np.uint8) & 15
        even = np.append(nibbles, np.zeros(nibbles.size % 2, np.uint8))
        packed: Array = even[0::2] | (even[1::2] << 4)
        return packed

    def load(self) -> Array:
        """As stored."""
        raise NotImplementedError

    def float64(self) -> Array:
        """In float64."""
        return self.load().astype(np.float64)

    def digest(self) -> str:
        """SHA-256 of the stored elements."""
        return hash_array(self.load())


class StoredConstant(Constant):
    """A tensor of the original."""

    def __init__(self, tensor: TensorProto, folder: Path | None) -> None:
        self.tensor, self.folder = tensor, folder
        self.shape = tuple(tensor.dims)
        self._digest = ""

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """Its element type."""
        return get_numpy_dtype(self.tensor.data_type)

    def load(self) -> Array:
        return read_tensor(self.tensor, self.folder)

    def digest(self) -> str:
        self._digest = self._digest or hash_tensor(self.tensor, self.folder)
        return self._digest


@dataclass(eq=False)
class ComputedConstant(Constant):
    """What nodes of the original make of constants alone."""

    value: Array

    def __post_init__(self) -> None:
        self.shape, self.dtype = self.value.shape, self.value.dtype

    def load(self) -> Array:
        return self.value


@dataclass(eq=False)
class ScaledConstant(Constant):
    """A base times factors, or a vector of float64 numbers: rounded to ``dtype`` once.

    ``factors``: pairs (view, factor); the base, reshaped to ``view``, is multiplied by what broadcasts to it.
    """

    base: Constant
    factors: tuple[tuple[tuple[int, ...], Array], ...]
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        self.shape = self.base.shape
        self._digest = ""

    def float64(self) -> Array:
        value = self.base.float64()
        for view, factor in self.factors:
            value = (value.reshape(view) * factor).reshape(self.shape)
        return value

    def load(self) -> Array:
        return round_to(self.float64(), self.dtype)

    def digest(self) -> str:
        self._digest = self._digest or hash_array(self.load())
        return self._digest


def round_to(value: Array, dtype: np.dtype[Any]) -> Array:
    """``value`` float64 to the nearest number of ``dtype``, ties to even."""
    with np.errstate(all="ignore"):
        if dtype != DTYPES["bfloat16"]:
            return np.asarray(value).astype(dtype)
        exponent = np.maximum(np.frexp(value)[1] - _BFLOAT16_BITS, _BFLOAT16_LEAST)
        nearest = np.ldexp(np.rint(np.ldexp(value, -exponent)), exponent)
        return np.where(np.abs(nearest) > _BFLOAT16_MOST, np.copysign(np.inf, value), nearest).astype(dtype)


def measure_rounding(constant: ScaledConstant) -> tuple[Array, Array]:
    """How far each channel's numbers were rounded at most, and how far they may be: two float64 vectors.

    The bound is half a unit in the last place of the channel's largest number (unit roundoff times its power of
    two), or half the smallest subnormal number.
    """
    value = constant.float64()
    if constant.dtype.name in INTEGERS:
        return np.zeros(0), np.zeros(0)
    off = np.abs(round_to(value, constant.dtype).astype(np.float64) - value)
    size = np.abs(value)
    if constant.factors:
        view, factor = constant.factors[-1]
        axes = tuple(k for k, d in enumerate(factor.shape) if d == 1)
        off, size = (x.reshape(view).max(axis=axes, initial=0.0) for x in (off, size))
    info = ml_dtypes.finfo(constant.dtype)  # type: ignore[no-untyped-call]
    with np.errstate(all="ignore"):
        power = np.ldexp(1.0, np.frexp(size)[1] - 1)
    bound = np.maximum(power * float(info.eps) / 2, float(info.smallest_subnormal) / 2)
    return off.reshape(-1), np.where(np.isfinite(size), bound, np.inf).reshape(-1)


# -- JSON --------------------------------------------------------------------------------------


def encode_array(array: Array) -> dict[str, Any]:
    """A float64 array as JSON: shape, and the bytes in base64 (little endian)."""
    data = np.ascontiguousarray(array, dtype="<f8").tobytes()
    return {"shape": list(array.shape), "f64": base64.b64encode(data).decode("ascii")}


def decode_array(record: Any, where: str) -> Array:
    """The array again."""
    try:
        data = base64.b64decode(record["f64"], validate=True)
        shape = [int(d) for d in record["shape"]]
        if len(data) != 8 * math.prod(shape):
            raise ValueError("its length does not fit its shape")
        return np.frombuffer(data, dtype="<f8").reshape(shape).astype(np.float64)
    except (KeyError, TypeError, ValueError, binascii.Error) as exc:
        raise CertificateError(where, f"numbers that cannot be read ({exc})") from exc


def encode_integers(array: Array) -> dict[str, Any]:
    """Integers as JSON: shape, and a byte or more each in base64 (little endian)."""
    wide = array.astype(np.int32) if array.dtype.itemsize > 1 else array.astype(np.int16).astype(np.uint8)
    data = np.ascontiguousarray(wide).astype(wide.dtype.newbyteorder("<")).tobytes()
    return {"shape": list(array.shape), "bytes": base64.b64encode(data).decode("ascii")}


def _decode_integers(record: Any, where: str) -> ScaledConstant:
    dtype = INTEGERS[record["dtype"]]
    try:
        data, shape = base64.b64decode(record["bytes"], validate=True), [int(d) for d in record["shape"]]
        narrow = np.uint8 if dtype.name in ("uint8", "uint4") else np.int8
        wide = np.frombuffer(data, "<i4" if dtype.itemsize > 1 else narrow)
        array = wide.reshape(shape).astype(dtype)
        if not (array.astype(np.int64).reshape(-1) == wide).all():
            raise ValueError("its type does not hold it")
    except (KeyError, TypeError, ValueError, binascii.Error) as exc:
        raise CertificateError(where, f"integers that cannot be read ({exc})") from exc
    return ScaledConstant(ComputedConstant(array), (), dtype)


def build_constant(record: Any, base_of: Callable[[Any], Constant], where: str) -> ScaledConstant:
    """The constant that a recipe describes; ``base_of`` finds what it starts from."""
    try:
        kind = record["kind"]
        if kind == "integers":
            return _decode_integers(record, where)
        dtype = DTYPES[record["dtype"]]
    except (KeyError, TypeError) as exc:
        raise CertificateError(where, f"a constant without {exc}") from exc
    if kind == "fresh":
        return ScaledConstant(ComputedConstant(decode_array(record, where)), (), dtype)
    if kind != "scaled":
        raise CertificateError(where, f"a constant of unknown kind {kind!r}")
    factors = []
    for entry in record.get("factors", []):
        view, factor = tuple(int(d) for d in entry.get("view", ())), decode_array(entry, where)
        factors.append((view, factor))
    base = base_of(record.get("base"))
    constant = ScaledConstant(base, tuple(factors), dtype)
    if any(math.prod(view) != math.prod(base.shape) or not _is_broadcastable(factor, view) for view, factor in factors):
        raise CertificateError(where, "factors that do not fit the tensor")
    return constant


def _is_broadcastable(factor: Array, view: tuple[int, ...]) -> bool:
    return factor.ndim == len(view) and all(f in (1, d) for f, d in zip(factor.shape, view, strict=True))
