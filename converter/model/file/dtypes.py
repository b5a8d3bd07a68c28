"""Element types of tensors, and the arrays that hold them: also those that numpy lacks and older onnx does not know.

Before 1.19 onnx calls bfloat16 and the 8-bit floats float32 and hands out their bits as whole numbers. Here every type
is what ml_dtypes makes of it, whatever the onnx.
"""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

# ONNX's numbers of the types that ml_dtypes has.
_NAMES = {16: "bfloat16", 17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz"}
_NAMES |= {21: "uint4", 22: "int4", 23: "float4_e2m1fn", 24: "float8_e8m0fnu", 25: "uint2", 26: "int2"}
_NARROW = {number: np.dtype(getattr(ml_dtypes, name)) for number, name in _NAMES.items() if hasattr(ml_dtypes, name)}
_NUMBERS = {dtype: number for number, dtype in _NARROW.items()}
_BITS = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2}  # of an element, where it is less than a byte
_IS_NEW = onnx.helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16) == _NARROW[16]


@functools.cache
def get_numpy_dtype(kind: int) -> np.dtype[Any]:
    """The numpy (or ml_dtypes) type of an element type as onnx numbers them.

    Raises
    ------
    KeyError
        This onnx has no such type.
    """
    found = _NARROW.get(kind)
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)) if found is None else found


def get_element_type(dtype: np.dtype[Any]) -> int:
    """ONNX's number of a numpy (or ml_dtypes) type."""
    found = _NUMBERS.get(np.dtype(dtype))
    return int(onnx.helper.np_dtype_to_tensor_dtype(dtype)) if found is None else found


def get_plain_dtype(kind: int) -> np.dtype[Any] | None:
    """The type whose little-endian bytes raw data is; None for text, the unknown, and bits that are packed."""
    if kind in _BITS or kind in (TensorProto.STRING, TensorProto.UNDEFINED):
        return None
    try:
        return get_numpy_dtype(kind)
    except KeyError:
        return None


def decode(tensor: TensorProto) -> NDArray[Any]:
    """The value of a tensor that holds its own data.

    Raises
    ------
    ValueError, TypeError, KeyError
        It holds other data than its type and shape say.
    """
    dtype = _NARROW.get(tensor.data_type)
    if _IS_NEW or dtype is None:
        return np.asarray(numpy_helper.to_array(tensor))
    shape = tuple(tensor.dims)
    held = np.frombuffer(tensor.raw_data, np.uint8) if tensor.raw_data else np.array(tensor.int32_data, np.uint32)
    bits = _BITS.get(tensor.data_type)
    if bits is not None:
        parts = [(held.astype(np.uint8) >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
        whole = np.stack(parts, axis=-1).reshape(-1)[: int(np.prod(shape, dtype=np.int64))]
        return _from_bits(whole, dtype, bits).reshape(shape)
    if tensor.raw_data:
        return np.asarray(held.view(dtype).reshape(shape))
    return np.asarray(held.astype(f"u{dtype.itemsize}").view(dtype).reshape(shape))


def _from_bits(values: NDArray[np.uint8], dtype: np.dtype[Any], bits: int) -> NDArray[Any]:
    """Elements of less than a byte from their bits, by the table of all that there are."""
    table = np.arange(2**bits)
    if dtype == _NARROW.get(23):
        return table.astype(np.uint8).view(dtype)[values]
    if dtype in (_NARROW.get(22), _NARROW.get(26)):
        table = np.where(table >= 2 ** (bits - 1), table - 2**bits, table)
    return table.astype(dtype)[values]


def encode(array: NDArray[Any], name: str = "") -> TensorProto:
    """A tensor that holds an array, its data raw; bits of less than a byte are packed, as ONNX stores them."""
    number = _NUMBERS.get(array.dtype)
    if _IS_NEW or number is None or number in _BITS:
        return numpy_helper.from_array(array, name)
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    return TensorProto(name=name, data_type=number, dims=array.shape, raw_data=contiguous.tobytes())
