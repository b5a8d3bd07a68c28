"""The functions of a model written out at their calls, by onnx's own inliner."""

from __future__ import annotations

import onnx
from google.protobuf.message import DecodeError, EncodeError

_MOST_BYTES = 1 << 30  # of a model that is copied as a message, three times over


def has_calls(model: onnx.ModelProto) -> bool:
    """Whether the model has functions of its own that may be written out."""
    return bool(model.functions) and not model.training_info


def write_out(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy without functions of its own; None where some stay, or it cannot be made.

    Calls' results keep their names, and so does what the main graph had; what lay in a function gets a number after
    its name. A function of another operator set than the model's is left as it is, and so is the model.

    Parameters
    ----------
    model : ModelProto
        With its weights, or with the places of external ones.
    """
    if not has_calls(model) or model.ByteSize() > _MOST_BYTES:
        return None
    from onnx.inliner import inline_local_functions

    try:
        found: onnx.ModelProto = inline_local_functions(model)
    except (ValueError, RuntimeError, DecodeError, EncodeError):
        return None  # functions that call themselves, or a call that does not fit its function
    return None if found.functions else found
