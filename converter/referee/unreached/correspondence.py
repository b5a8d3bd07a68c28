"""Which tensors of two models are the same, by what they hold: a name is only a hint.

Numbers as exporters give them, equalised or permuted channels, a batch norm made neutral: a tensor may keep its name
and mean something else. Both models run in float64 on the same inputs, some of them driven far up, and of every
tensor a sketch is kept. Where two sketches agree the rewritten model's tensor gets the original's name, in a copy;
every other one gets a name of its own. Cut at such tensors, the models are compared place by place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from converter.referee.proto.copies import rename_tensors
from converter.referee.proto.source import LoadedModel, find_float_types
from converter.referee.proto.structural_hash import hash_tensor
from converter.referee.proto.tensors import UNIT_ROUNDOFF
from converter.referee.reference.evaluator import Reference
from converter.referee.reference.kernels import Unsupported

Array = np.ndarray[Any, Any]
_SAMPLE = 256  # elements that are kept as they are
_WEIGHED = 1 << 16  # elements that a sum with random signs is made of
# Two tensors that rounding explains are within this many unit roundoffs; a wider net catches no wrong fish for long,
# since each place is compared by itself afterwards.
_UNITS = 2.0**12
_LEAST_TOLERANCE = 2.0**-30
_NEAREST = 8.0  # candidates within this many times the nearest one's distance are all candidates
_FLOOR = 2.0**-40  # of a tensor's size: float64 arithmetic in another order
_OTHER = "@rewritten"


class Sketch(NamedTuple):
    """What is kept of one tensor in one run."""

    shape: tuple[int, ...]
    norm: float
    weighed: float  # the sum with fixed random signs
    sample: Array


class SketchBook:
    """Listens to a float64 run: give it to `Reference.run` as ``watch``."""

    def __init__(self) -> None:
        self.sketches: dict[str, Sketch] = {}

    def __call__(self, name: str, value: Any) -> None:
        """A tensor was made."""
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
            self.sketches[name] = _sketch(value)


def _sketch(value: Array) -> Sketch:
    flat = value.reshape(-1)
    some = flat[:: -(-flat.size // _WEIGHED)]
    signs = np.random.default_rng(some.size).integers(0, 2, some.size) * 2.0 - 1.0
    with np.errstate(all="ignore"):
        norm, weighed = float(np.linalg.norm(flat)), float(some @ signs)
    return Sketch(value.shape, norm, weighed, flat[:: -(-flat.size // _SAMPLE)].copy())


def align(a: LoadedModel, b: LoadedModel, probes: Sequence[Mapping[str, Any]], max_bytes: int) -> LoadedModel:
    """A copy of the rewritten model whose tensors have the names of the original's that they are.

    Raises
    ------
    Unsupported
        One of the two cannot be run in float64 on the first of the ``probes``; others are left out where that is so.
    """
    left, right = (_list_sketches(side, probes, max_bytes) for side in (a, b))
    outputs = {o.name for o in b.proto.graph.output}
    order = {name: k for k, name in enumerate(n for node in a.proto.graph.node for n in node.output)}
    before = {n: s for n, s in left.items() if n in order and n not in outputs}
    makers = {name: node for node in b.proto.graph.node for name in node.output if name}
    after = {n: s for n, s in right.items() if n in makers and n not in outputs}
    tolerance = max([UNIT_ROUNDOFF[t] * _UNITS for t in find_float_types(a.proto)] or [2.0**-12])
    found = _match(a.proto, before, makers, after, max(min(tolerance, 0.05), _LEAST_TOLERANCE))
    return replace(b, proto=rename_tensors(b.proto, _choose_names(a, b, found)), path=None)


def _list_sketches(side: LoadedModel, probes: Sequence[Mapping[str, Any]], max_bytes: int) -> dict[str, list[Sketch]]:
    """The sketches of every tensor, one for each probe that the model runs on to the end."""
    reference = Reference(side.proto, external_dir=side.folder, max_bytes=max_bytes)
    found: dict[str, list[Sketch]] = defaultdict(list)
    for k, feeds in enumerate(probes):
        book = SketchBook()
        try:
            reference.run({n: v for n, v in feeds.items() if n in reference.input_names}, book)
        except Unsupported:
            if not k:
                raise
        for name, sketch in book.sketches.items():
            if len(found[name]) == k:
                found[name].append(sketch)
    return found


def _match(
    model: ModelProto,
    before: Mapping[str, list[Sketch]],
    makers: Mapping[str, NodeProto],
    after: Mapping[str, list[Sketch]],
    tolerance: float,
) -> dict[str, str]:
    """The original's name of every tensor that it has too."""
    by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, sketches in before.items():
        by_shape[sketches[0].shape].append(name)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    norms = {shape: np.array([before[n][0].norm for n in names]) for shape, names in by_shape.items()}
    for name, sketches in after.items():
        names = by_shape.get(sketches[0].shape, [])
        if not names or not np.isfinite(sketches[0].norm):
            continue
        size = sketches[0].norm
        close = np.flatnonzero(np.abs(norms[sketches[0].shape] - size) <= tolerance * size + 1e-300)
        distances = {names[k]: _measure_distance(before[names[k]], sketches) for k in close}
        near = {n: d for n, d in distances.items() if d <= tolerance}
        if near:
            least = _NEAREST * min(near.values()) + _FLOOR
            groups[tuple(n for n in before if near.get(n, np.inf) <= least)].append(name)
    ops = {name: node.op_type for node in model.graph.node for name in node.output}
    found: dict[str, str] = {}
    for theirs, ours in groups.items():
        found |= {b: a for a, b in _pair_up(theirs, ours, ops, {n: makers[n].op_type for n in ours})}
    taken: set[str] = set()
    for name in reversed(list(found)):  # one that two groups claim is the later one's
        if found[name] in taken:
            del found[name]
        else:
            taken.add(found[name])
    return found


def _measure_distance(x: Sequence[Sketch], y: Sequence[Sketch]) -> float:
    """The largest relative distance over the probes that both have."""
    worst = 0.0
    with np.errstate(all="ignore"):
        for p, q in zip(x, y, strict=False):
            if p.shape != q.shape:
                return np.inf
            if not (np.isfinite(p.norm) and np.isfinite(q.norm)):
                continue
            size = max(p.norm, q.norm)
            apart = max(abs(p.norm - q.norm), abs(p.weighed - q.weighed), float(np.linalg.norm(p.sample - q.sample)))
            worst = max(worst, apart / size if size else 0.0)
    return worst


def _pair_up(
    theirs: Sequence[str], ours: Sequence[str], ops: Mapping[str, str], our_ops: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Which of several tensors of one value are which: made by the same operators in the same order, or the last ones.

    A Clip that no input reached has the value of what it reads. What is left without a partner is computed inside of
    the place that reads it.
    """
    if [ops[n] for n in theirs] == [our_ops[n] for n in ours]:
        yield from zip(theirs, ours, strict=True)
        return
    yield theirs[-1], ours[-1]


def _choose_names(a: LoadedModel, b: LoadedModel, found: Mapping[str, str]) -> dict[str, str]:
    """A name for every tensor of the rewritten model's main graph but its inputs and outputs."""
    fixed = {v.name for v in (*b.proto.graph.input, *b.proto.graph.output)}
    held = _find_same_constants(a, b)
    known = {v.name for v in (*a.proto.graph.input, *a.proto.graph.output, *a.proto.graph.initializer)}
    known |= {name for node in a.proto.graph.node for name in node.output}
    own = [t.name for t in b.proto.graph.initializer] + [n for node in b.proto.graph.node for n in node.output if n]
    names: dict[str, str] = {}
    for name in own:
        if name in fixed:
            continue
        chosen = held.get(name) or found.get(name) or (f"{name}{_OTHER}" if name in known else name)
        if chosen != name:
            names[name] = chosen
    return names


def _find_same_constants(a: LoadedModel, b: LoadedModel) -> dict[str, str]:
    """For each initializer that the original has bit by bit, the original's name for it: its own name if it can be."""
    by_content: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for tensor in a.proto.graph.initializer:
        by_content[_digest(tensor, a)].append(tensor.name)
    found: dict[str, str] = {}
    digests = {t.name: _digest(t, b) for t in b.proto.graph.initializer}
    for name in sorted(digests, key=lambda n: n not in by_content.get(digests[n], ())):
        if names := by_content.get(digests[name], []):
            chosen = name if name in names else names[0]
            names.remove(chosen)
            found[name] = chosen
    return found


def _digest(tensor: TensorProto, source: LoadedModel) -> tuple[Any, ...]:
    return tensor.data_type, tuple(tensor.dims), hash_tensor(tensor, source.folder)
