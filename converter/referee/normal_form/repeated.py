"""Places that are one place but for their names, as layers that share their weights are: recomputed once.

What is recomputed hangs on operators, constants, and sizes that are certain; names only tie these together. So two
places whose nodes, read in order, are the same up to a renaming, on both sides by the same one, and that hold the very
same tensors of the model, have the same normal forms up to that renaming.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

from onnx import NodeProto

from converter.referee.normal_form.compare import ROUNDED, ComparedArray, Place, recompute
from converter.referee.proto.diff import Outline, Region
from converter.referee.proto.source import LoadedModel
from converter.referee.reference.evaluator import get_overload

_LARGE = 1 << 12  # elements of a tensor that it is worth to look at once
_LONGEST = 1 << 16  # bytes of a node's attributes, above which they are not compared

_Sides = tuple[Outline, Outline]


class Recomputer:
    """Recomputes the places of one pair of models, each repeated one once."""

    def __init__(self, a: LoadedModel, b: LoadedModel) -> None:
        self._a, self._b = a, b
        self._weights: dict[Any, ComparedArray] = {}  # that were compared, as several places share some
        # By the large tensors that they hold: a place, and, from the second one on, what it is but for its names.
        self._seen: dict[frozenset[str], list[tuple[Region, Place, _Outlined | None]]] = {}
        self.n_reused = 0

    def recompute(self, region: Region) -> Place:
        """Every number of a place."""
        sides = region.outlines
        held = frozenset(n for side in sides for n, t in side.tensors.items() if prod(t.dims) > _LARGE)
        earlier = self._seen.setdefault(held, []) if held else []
        this = _outline_place(region, sides) if earlier else None
        for k, (other, place, outlined) in enumerate(earlier):
            if outlined is None:
                outlined = _outline_place(other, other.outlines)
                earlier[k] = other, place, outlined
            if this is not None and outlined is not None and this.key == outlined.key:
                self.n_reused += 1
                return _rename(place, region, outlined, this)
        place = recompute(region, self._a, self._b, self._weights, sides)
        if held and not place.problem and all(c.score <= ROUNDED for c in place.compared):
            earlier.append((region, place, this))
        return place


class _Outlined:
    """What a place is but for its names, and its names in the order in which they come."""

    def __init__(self, key: tuple[Any, ...], names: tuple[str, ...], labels: tuple[str, ...]) -> None:
        self.key, self.names, self.labels = key, names, labels


def _outline_place(region: Region, sides: _Sides) -> _Outlined | None:
    """None where it holds what is not compared: subgraphs, and long constants in nodes."""
    numbers: dict[str, int] = {}
    parts: list[Any] = []
    for side in sides:
        rows = [_outline_node(node, side.tensors, numbers) for node in side.model.graph.node]
        if None in rows:
            return None
        inputs = []
        for value in side.model.graph.input:
            certain = None if region.find_certain is None else region.find_certain(value.name)
            known = None if certain is None else (certain.kind, certain.elem, certain.dims)
            number = numbers.setdefault(value.name, len(numbers))
            inputs.append((number, value.type.SerializeToString(deterministic=True), known))
        sparse = tuple(t.SerializeToString(deterministic=True) for t in side.model.graph.sparse_initializer)
        (made,) = side.model.graph.output
        output = numbers.setdefault(made.name, len(numbers)), made.type.SerializeToString(deterministic=True)
        parts.append((tuple(rows), tuple(sorted(inputs, key=lambda i: i[0])), sparse, output))
    nodes = [node for side in sides for node in side.model.graph.node]
    labels = tuple(node.name or f"{node.op_type}:{node.output[0]}" for node in nodes)
    return _Outlined((region.scope, *parts), tuple(numbers), labels)


def _outline_node(node: NodeProto, held: Mapping[str, Any], numbers: dict[str, int]) -> tuple[Any, ...] | None:
    if any(a.HasField("g") or a.graphs or a.ref_attr_name for a in node.attribute) or node.ByteSize() > _LONGEST:
        return None

    def name(text: str) -> str | int:
        return text if not text or text in held else numbers.setdefault(text, len(numbers))

    reads, makes = tuple(map(name, node.input)), tuple(map(name, node.output))
    attributes = tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
    return node.domain, node.op_type, get_overload(node), reads, makes, attributes


def _rename(place: Place, region: Region, old: _Outlined, new: _Outlined) -> Place:
    names = dict(zip(old.names, new.names, strict=True))
    layers = names | dict(zip(old.labels, new.labels, strict=True))
    compared = tuple(
        replace(c, layer=layers.get(c.layer, c.layer), tensor=names.get(c.tensor, c.tensor)) for c in place.compared
    )
    return replace(place, name=region.name, compared=compared)
