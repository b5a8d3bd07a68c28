"""The protobuf wire format, walked without parsing the weights.

A model file is read as *spans*: where each field of each message lies. What no edit touches is
later copied span by span, so it stays the same to the byte, unknown fields and field order
included, and a weight is read only when a pass asks for it.

Source: protobuf.dev, "Encoding"; field numbers from onnx.proto (IR version 3 and later).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Protocol

from converter.dataclass import dataclass

# Messages up to this many bytes are parsed whole; larger ones are searched for weights to leave out.
WHOLE_BYTES = 4096
# A tensor's data field above this many bytes is left out of the skeleton. Shapes, axes and scalars stay in.
CUT_BYTES = 1024


class WireError(ValueError):
    """The bytes are not a well-formed protobuf message."""


class Buffer(Protocol):
    """Random access to bytes: ``bytes`` or a memory map."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice) -> bytes: ...


class Kind(Enum):
    """The ONNX messages that can hold a tensor somewhere inside."""

    MODEL = "ModelProto"
    GRAPH = "GraphProto"
    NODE = "NodeProto"
    ATTRIBUTE = "AttributeProto"
    FUNCTION = "FunctionProto"
    TRAINING = "TrainingInfoProto"
    SPARSE = "SparseTensorProto"
    TENSOR = "TensorProto"


# message -> {field number: message in that field}
CHILDREN: dict[Kind, dict[int, Kind]] = {
    Kind.MODEL: {7: Kind.GRAPH, 20: Kind.TRAINING, 25: Kind.FUNCTION},
    Kind.GRAPH: {1: Kind.NODE, 5: Kind.TENSOR, 15: Kind.SPARSE},
    Kind.NODE: {5: Kind.ATTRIBUTE},
    Kind.ATTRIBUTE: {
        5: Kind.TENSOR,
        6: Kind.GRAPH,
        10: Kind.TENSOR,
        11: Kind.GRAPH,
        22: Kind.SPARSE,
        23: Kind.SPARSE,
    },
    Kind.FUNCTION: {7: Kind.NODE, 11: Kind.ATTRIBUTE},
    Kind.TRAINING: {1: Kind.GRAPH, 2: Kind.GRAPH},
    Kind.SPARSE: {1: Kind.TENSOR, 2: Kind.TENSOR},
    Kind.TENSOR: {},
}
# TensorProto: float_data, int32_data, string_data, int64_data, raw_data, double_data, uint64_data
TENSOR_DATA = frozenset({4, 5, 6, 7, 9, 10, 11})
RAW_DATA = 9

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WINDOW = 20  # a tag and a length are two varints of at most ten bytes each


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: ``start`` of its tag, ``payload`` of its value, ``end`` after it."""

    number: int
    start: int
    payload: int
    end: int

    @property
    def n_bytes(self) -> int:
        """Length of the value."""
        return self.end - self.payload


def _varint(window: bytes, pos: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if pos >= len(window) or shift > 63:
            raise WireError("a number runs past the end of the data")
        byte = window[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos
        shift += 7


def fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of the message at ``[start, end)``, in file order.

    Raises
    ------
    WireError
        A tag is unknown or a length runs past ``end``.
    """
    pos = start
    while pos < end:
        window = buffer[pos : min(pos + _WINDOW, end)]
        tag, used = (window[0], 1) if window and window[0] < 0x80 else _varint(window, 0)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise WireError(f"field number 0 at byte {pos}")
        if wire_type == _BYTES:
            length, used = _varint(window, used)
            payload, stop = pos + used, pos + used + length
        elif wire_type == _VARINT:
            payload = pos + used
            _, used = _varint(window, used)
            stop = pos + used
        elif wire_type in (_FIXED64, _FIXED32):
            payload = pos + used
            stop = payload + (8 if wire_type == _FIXED64 else 4)
        else:
            raise WireError(f"wire type {wire_type} at byte {pos}")
        if stop > end:
            raise WireError(f"the field at byte {pos} runs past the end of its message (truncated file?)")
        yield Field(number, pos, payload, stop)
        pos = stop


def varint(value: int) -> bytes:
    """`value` as a protobuf varint."""
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, n_bytes: int) -> bytes:
    """The tag and length that come before a length-delimited field."""
    return varint(number << 3 | _BYTES) + varint(n_bytes)


def slim(buffer: Buffer, start: int, end: int, kind: Kind) -> bytes:
    """The message at ``[start, end)`` without the large data of its tensors, however deep.

    The result parses as the same message; a tensor that was cut has its dims, type and name.
    """
    if end - start <= WHOLE_BYTES:
        return buffer[start:end]
    children = CHILDREN[kind]
    out: list[bytes] = []
    run = start  # fields that stay as they are are copied in one piece
    for f in fields(buffer, start, end):
        if kind is Kind.TENSOR and f.number in TENSOR_DATA and f.n_bytes > CUT_BYTES:
            out.append(buffer[run : f.start])
            run = f.end
        elif f.number in children and f.n_bytes > WHOLE_BYTES:
            out.append(buffer[run : f.start])
            body = slim(buffer, f.payload, f.end, children[f.number])
            out += (tag(f.number, len(body)), body)
            run = f.end
    out.append(buffer[run:end])
    return b"".join(out)
