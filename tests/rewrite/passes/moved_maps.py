"""Models for the passes that move an affine map over several operators: text, and constants by their shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from tests.tiny import Draw, model

Build = Callable[[], onnx.ModelProto]


def net(text: str, *, bn: dict[str, int] | None = None, opset: int = 17, positive: str = "", **consts: Any) -> Build:
    """A model of this text; a constant is an array, or the shape of a drawn one; `bn`: channels of norms by their tag.

    Constants named in `positive` are drawn above zero.
    """

    def build() -> onnx.ModelProto:
        draw = Draw()
        held: dict[str, Any] = {}
        for tag, channels in (bn or {}).items():
            held |= draw.bn(channels, tag)
        for name, value in consts.items():
            plain = isinstance(value, tuple)
            make = draw.positive if name in positive.split() else draw.normal
            held[name] = make(*value) if plain else np.asarray(value)
        return model(text, held, opset=opset)

    return build


def norm(source: str, result: str, tag: str = "") -> str:
    """A BatchNormalization in text."""
    names = ", ".join(n + tag for n in ("g", "be", "m", "v"))
    return f"{result} = BatchNormalization <epsilon = 1e-3> ({source}, {names})"


def ints(*values: int) -> np.ndarray[Any, Any]:
    """Sizes, axes or indices."""
    return np.array(values, np.int64)
