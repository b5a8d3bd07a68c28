"""Tensors, sequences and optionals in files of their own, as onnxruntime's test data holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from onnx import OptionalProto, SequenceProto, TensorProto, numpy_helper

from converter.errors import DataError


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
        made.ParseFromString(path.read_bytes())
        if isinstance(made, TensorProto):
            return made.name, numpy_helper.to_array(made, str(path.parent))
        if isinstance(made, SequenceProto):
            return made.name, numpy_helper.to_list(made)
        return made.name, numpy_helper.to_optional(made)
    except (OSError, DecodeError, ValueError, TypeError) as exc:
        raise DataError(f"{path}: holds no {kind} ({' '.join(str(exc).split())[:120]})") from exc
