"""Inputs of other sizes than those that were tried first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from converter.protos.feeds import MAX_ELEMENTS, Hints, Shapes, hints, is_fixed
from converter.protos.source import Port, free_inputs

if TYPE_CHECKING:
    from onnx import ModelProto


def larger(
    model: ModelProto, given: Mapping[str, tuple[int, ...]] | None, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Shapes]:
    """Shapes with every open size beyond the batch made larger, likeliest first; none where there is no such size."""
    known = hints(model.graph, set(free_inputs(model)))
    for step in (lambda n: n + 32, lambda n: 2 * n, lambda n: n + 1):
        found = {n: _stretched(p, known, shapes[n], step) for n, p in free_inputs(model).items() if n in shapes}
        found |= {n: tuple(s) for n, s in (given or {}).items()}
        if found == {n: tuple(s) for n, s in shapes.items()}:
            return
        if max(math.prod(s) for s in found.values()) <= MAX_ELEMENTS:
            yield found


def _stretched(port: Port, known: Hints, shape: tuple[int, ...], step: Callable[[int], int]) -> tuple[int, ...]:
    if port.dims is None or len(port.dims) != len(shape):
        return tuple(shape)
    fixed = {axis % len(shape) for axis in known.sizes.get(port.name, {}) if -len(shape) <= axis < len(shape)}
    held = [k == 0 or is_fixed(d) or k in fixed for k, d in enumerate(port.dims)]
    return tuple(n if stays else step(n) for n, stays in zip(shape, held, strict=True))
