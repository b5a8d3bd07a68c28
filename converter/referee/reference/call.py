"""What an operator's implementation is given, and functions that several of them compute."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from converter.dataclass import dataclass
from converter.referee.reference.conv import Array


class Unsupported(Exception):
    """The float64 reference cannot evaluate this model; the text says why."""


@dataclass(frozen=True, slots=True)
class KernelCall:
    """One evaluation of a node: its inputs (None where left out), attributes and the opset in force."""

    inputs: tuple[Any, ...]
    attributes: dict[str, Any]
    opset: int
    n_outputs: int = 1
    name: str = ""

    def input(self, index: int) -> Any:
        """The input at ``index``, or None."""
        return self.inputs[index] if index < len(self.inputs) else None

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute ``name``, or ``default``."""
        return self.attributes.get(name, default)


Outputs = tuple[Any, ...]
Op = Callable[[KernelCall], Outputs]


def erf(x: Array) -> Array:
    """The error function, elementwise, in float64."""
    values = np.fromiter(map(math.erf, x.ravel().tolist()), dtype=np.float64, count=x.size)
    return values.reshape(x.shape)


def gelu(x: Array, approximate: bool = False) -> Array:
    """Gaussian error linear unit, exact or by tanh."""
    if approximate:
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))


def softmax(x: Array, axis: int) -> Array:
    """The softmax along an axis."""
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


def activate(x: Array, kind: str, params: list[float]) -> Array:
    """The activation that a fused operator ends with."""
    match kind:
        case "":
            return x
        case "Relu":
            return np.maximum(x, 0)
        case "LeakyRelu":
            return np.where(x >= 0, x, x * params[0])
        case "Sigmoid":
            return np.asarray(1 / (1 + np.exp(-x)))
        case "Tanh":
            return np.tanh(x)
        case "Clip":
            return np.clip(x, params[0], params[1])
        case "HardSigmoid":
            return np.clip(x * params[0] + params[1], 0, 1)
    raise Unsupported(f"activation {kind} of a fused operator")
