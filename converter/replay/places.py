"""The place that a step rewrites, before and after, as two small models whose float64 numbers are compared.

Constants enter as they are before any rounding, so that what is left is the algebra of the step: it must agree to
float64 rounding. How far each stored tensor was rounded is another question, with its own bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from converter.protos.form_places import Place, recompute
from converter.protos.segments import Segment
from converter.protos.shapes import inferred
from converter.protos.source import Port, Source, ports, value_info
from converter.replay.constants import Constant
from converter.replay.derive import is_derived
from converter.replay.editor import Change
from converter.replay.sheet import Area, Item, Sheet, Wire

LIMIT = 1.0  # of the float64 error bounds
_FLOATS = ("f", "V")


class Types:
    """Types of the original's tensors, inferred once."""

    def __init__(self, sheet: Sheet) -> None:
        self._sheet = sheet
        self._known: dict[str, dict[str, Port]] = {}

    def of(self, wire: Wire) -> Port | None:
        """Type of a wire; a renamed one has that of its origin."""
        area = wire.scope
        if area.path not in self._known:
            proto = area.proto
            if area.path == "":
                self._known[""] = inferred(self._sheet.model)
            else:
                values = [*proto.value_info, *proto.input, *proto.output] if isinstance(proto, GraphProto) else []
                self._known[area.path] = ports(values)
        return self._known[area.path].get(wire.origin)


def places(sheet: Sheet, change: Change, types: Types) -> Iterator[Place]:
    """Every tensor that the rest of the model reads from what the step touched."""
    touched = [sheet.items[path] for path in change.before]
    areas = {item.scope.path: item.scope for item in touched}
    if len(areas) > 1:
        yield Place(next(iter(areas)), (), "the step touches several graphs")
        return
    (area,) = areas.values()
    order = sorted(touched, key=lambda i: i.number)
    before = _Side(area, [(i, *change.before[i.path]) for i in order], types)
    after = _Side(area, [(i, i.as_node(), i.inputs) for i in order if i.alive], types)
    made = {name for node in before.nodes for name in node.output}
    done: dict[Any, Any] = {}
    source = Source(sheet.model, "step", None, None)
    for wire in _seen(order):
        if wire.name not in made:
            yield Place(wire.name, (), "is made anew")
            continue
        segment = Segment(area.path, wire.name, before.model(wire.name), after.model(wire.name))
        yield recompute(segment, source, source, done)


def _seen(touched: list[Item]) -> Iterator[Wire]:
    inside = set(map(id, touched))
    for item in touched:
        for wire in item.outputs if item.alive else ():
            if wire.name and (wire.pins or any(id(r) not in inside for r in wire.readers)):
                yield wire


class _Side:
    """One side of the step: its nodes, with what makes their constants, and its inputs."""

    def __init__(self, area: Area, parts: Iterable[tuple[Item, NodeProto, list[Wire]]], types: Types) -> None:
        self._area, self._types = area, types
        self.nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._inputs: dict[str, Port | None] = {}
        chosen = list(parts)
        inside = {name for _, node, _ in chosen for name in node.output}
        drawn: dict[str, Item] = {}
        for _, node, wires in chosen:
            for name, wire in zip(node.input, wires, strict=True):
                self._take(name, wire, inside, drawn)
        extra = [(i, i.as_node()) for i in drawn.values()]
        both = [*extra, *((i, node) for i, node, _ in chosen)]
        self.nodes = [node for _, node in sorted(both, key=lambda pair: pair[0].number)]

    def _take(self, name: str, wire: Wire, inside: set[str], drawn: dict[str, Item]) -> None:
        if not name or name in inside or name in self._constants or name in self._inputs:
            return
        if wire.constant is not None:
            self._constants[name] = _wide(name, wire.constant)
        elif wire.maker is not None and wire.scope is self._area and (is_derived(wire) or self._is_telling(wire)):
            if wire.maker.path not in drawn:
                drawn[wire.maker.path] = wire.maker
                for inner in wire.maker.inputs:
                    self._take(inner.name, inner, inside, drawn)
        else:
            self._inputs[name] = self._types.of(wire)

    def _is_telling(self, wire: Wire) -> bool:
        """Whether the form follows it by value (integers: shapes) or by what it is (rows that sum to one)."""
        if wire.maker is not None and wire.maker.op == "Softmax":
            return True
        port = self._types.of(wire)
        return port is not None and port.dtype is not None and port.dtype.kind in "iu"

    def model(self, output: str) -> ModelProto:
        """The side as a model of one output."""
        sheet = self._area.sheet
        graph = GraphProto(name="place", node=self.nodes, initializer=self._constants.values())
        for name, port in self._inputs.items():
            graph.input.append(value_info(name, port, TensorProto.FLOAT))
        graph.output.append(value_info(output, None))
        imports = sheet.model.opset_import if not self._area.is_function else self._area.proto.opset_import
        return ModelProto(ir_version=max(sheet.ir_version, 4), opset_import=imports, graph=graph)


def _wide(name: str, constant: Constant) -> TensorProto:
    """A constant before rounding, floats as float64."""
    if constant.dtype.kind in _FLOATS:
        return numpy_helper.from_array(np.ascontiguousarray(constant.master()).reshape(constant.shape), name)
    return numpy_helper.from_array(constant.load(), name)
