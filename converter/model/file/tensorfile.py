"""Tensors, sequences and optionals in files of their own, as onnxruntime's test data holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from onnx import OptionalProto, SequenceProto, TensorProto, numpy_helper

from converter.errors import DataError, ModelError
from converter.model.file.disk import read_whole
from converter.model.file.dtypes import decode

_LARGEST = (1 << 31) - 1  # bytes of a protobuf message


def read_value(path: Path, kind: str = "tensor") -> tuple[str, Any]:
    """The name and value in a ``.pb`` file; ``kind`` is tensor, sequence or optional.

    Raises
    ------
    DataError
        The file cannot be read, or is none of that kind.
    """
    made: TensorProto | SequenceProto | OptionalProto = TensorProto()
    if kind == "sequence":
        made = SequenceProto()
    elif kind == "optional":
        made = OptionalProto()
    try:
        made.ParseFromString(read_whole(path, _LARGEST))
        if isinstance(made, TensorProto):
            if made.data_location == TensorProto.EXTERNAL:
                raise ValueError("its data lies in another file")
            return made.name, decode(made)
        if isinstance(made, SequenceProto):
            return made.name, numpy_helper.to_list(made)
        return made.name, numpy_helper.to_optional(made)
    except ModelError as exc:  # no regular file, or too long
        raise DataError(str(exc)) from exc
    except (OSError, DecodeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError) as exc:
        raise DataError(f"{path}: holds no {kind} ({' '.join(str(exc).split())[:120]})") from exc
