"""Open sizes that a model fixes inside: solved for from the weight, or the shape, that its data have to fit.

A file may leave a length open that a layer further down, whose weight has 4,096 rows, takes at one value only. How
many elements come to that layer is read off inferred shapes at two sizes, and the size at which they fit is found by
the secant method: convolutions and pools are linear in it, images quadratic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from onnx import ModelProto, NodeProto, numpy_helper

from converter.referee.proto.inference import infer_types
from converter.referee.proto.random_inputs import Hints, Shapes, find_hints, resize_shapes
from converter.referee.proto.source import Port, list_free_inputs, read_constant_dims

Given = Mapping[str, tuple[int, ...]] | None
Measure = Callable[[Mapping[str, Port]], int | None]

_STARTS = (64, 96)
_STEPS = 12
_LARGEST = 1 << 20
_MOST = 4  # sizes that are proposed
_CONSTRAINTS = 24


def solve_sizes(model: ModelProto, given: Given, shapes: Shapes) -> Iterator[Shapes]:
    """Input shapes at which one of the model's inner sizes fits, likeliest first; none where nothing is open."""
    known = find_hints(model.graph, set(list_free_inputs(model)))
    if resize_shapes(model, given, shapes, known, _STARTS[0], None) == resize_shapes(
        model, given, shapes, known, _STARTS[1], None
    ):
        return
    sizer = _Sizer(model, given, shapes, known)
    found: list[int] = []
    for measure, wanted, divides in list(_list_constraints(model))[:_CONSTRAINTS]:
        size = sizer.solve(measure, wanted, divides=divides)
        if size is not None and size not in found:
            found.append(size)
            yield sizer.make_shapes(size)
        if len(found) >= _MOST:
            return


class _Sizer:
    """Inferred types at one open size after the other."""

    def __init__(self, model: ModelProto, given: Given, shapes: Shapes, known: Hints) -> None:
        self._model, self._given, self._shapes, self._known = model, given, shapes, known
        self._types: dict[int, Mapping[str, Port]] = {}

    def make_shapes(self, size: int) -> Shapes:
        return resize_shapes(self._model, self._given, self._shapes, self._known, size, None)

    def _measure(self, measure: Measure, size: int) -> int | None:
        if size not in self._types:
            self._types[size] = infer_types(self._model, self.make_shapes(size))
        return measure(self._types[size])

    def solve(self, measure: Measure, wanted: int, *, divides: bool) -> int | None:
        """The size at which what is measured is ``wanted``, or a multiple of it."""
        x, y = _STARTS
        at, there = self._measure(measure, x), self._measure(measure, y)
        if at is None or there is None or at == there:
            return None
        if divides:
            wanted *= max(1, -(-at // wanted))
        for _ in range(_STEPS):
            if there == wanted:
                return y
            if at == there:
                return None
            step = round((wanted - there) * (y - x) / (there - at)) or (1 if wanted > there else -1)
            x, at, y = y, there, min(max(1, y + step), _LARGEST)
            found = self._measure(measure, y)
            if found is None:
                return None
            there = found
        return None


def _list_constraints(model: ModelProto) -> Iterator[tuple[Measure, int, bool]]:
    """What is measured, what it has to be, and whether a multiple will do."""
    dims = read_constant_dims(model.graph)
    held = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm") and len(node.input) > 1 and len(dims.get(node.input[1], ())) == 2:
            rows, columns = dims[node.input[1]]
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            yield _count_last(node), columns if turned else rows, False
        elif node.op_type in ("Add", "Mul", "Sub", "Div") and any(len(dims.get(n, ())) > 1 for n in node.input):
            yield from _fit_beside(node, dims)
        elif node.op_type == "Reshape" and len(node.input) > 1 and node.input[1] in held:
            target = [int(n) for n in numpy_helper.to_array(held[node.input[1]]).reshape(-1)]
            fixed = math.prod(n for n in target if n > 0)
            if fixed > 1:
                yield _count_all(node), fixed, any(n <= 0 for n in target)


def _count_last(node: NodeProto) -> Measure:
    return lambda types: _read_dim(types, node.input[0], -1)


def _count_all(node: NodeProto) -> Measure:
    def count(types: Mapping[str, Port]) -> int | None:
        port = types.get(node.input[0])
        sizes = None if port is None or port.dims is None else [d for d in port.dims if isinstance(d, int)]
        return None if sizes is None or port is None or len(sizes) < len(port.dims or ()) else math.prod(sizes)

    return count


def _fit_beside(node: NodeProto, dims: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[Measure, int, bool]]:
    """A constant beside the data: each of its axes that is longer than one."""
    constant = next(n for n in node.input if len(dims.get(n, ())) > 1)
    data = next((n for n in node.input if n != constant), "")
    for k, size in enumerate(reversed(dims[constant])):
        if size > 1:
            yield (lambda types, axis=-1 - k: _read_dim(types, data, axis)), size, False  # type: ignore[misc]


def _read_dim(types: Mapping[str, Port], name: str, axis: int) -> int | None:
    port = types.get(name)
    if port is None or port.dims is None or len(port.dims) < -axis:
        return None
    found = port.dims[axis]
    return found if isinstance(found, int) else None
