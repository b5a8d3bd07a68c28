"""What the operators of the float64 reference are given, and how they say no."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Unsupported(Exception):
    """The float64 reference cannot evaluate this model; the text says why."""


@dataclass(frozen=True, slots=True)
class Call:
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
Op = Callable[[Call], Outputs]
