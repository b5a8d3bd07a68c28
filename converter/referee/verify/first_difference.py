"""Two models run in float64 side by side, without holding either's tensors: where do they part?

Of each tensor that both know, what is kept is a sketch: sums per channel and a fixed sample of elements. The
difference of two sketches estimates that of the tensors; a third run, of the original with its weights moved by
their own rounding error, says what rounding does there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from converter.errors import DataError
from converter.referee.proto.random_inputs import BATCHES, find_hints, guess_shapes, make_feeds
from converter.referee.proto.scopes import build_scopes
from converter.referee.proto.source import LoadedModel, list_free_inputs
from converter.referee.reference.evaluator import Reference
from converter.referee.reference.kernels import Unsupported

_SAMPLE = 4096  # elements of a tensor that are kept
_BEYOND = 40.0  # of what rounding does: above it the algebra stage fails too
_LEAST = 2.0**-40  # of a tensor's size: float64 arithmetic in another order
Array = np.ndarray[Any, Any]


class FirstDifference(NamedTuple):
    """The first tensor that differs."""

    rewrite: str = ""
    tensor: str = ""
    node: str = ""
    why: str = ""
    steps: int = 0


def find_first_difference(
    a: LoadedModel, b: LoadedModel, shapes: Mapping[str, tuple[int, ...]] | None, seed: int, tell: Callable[[str], None]
) -> FirstDifference:
    """The first tensor of the same name, in the order of ``b``, that differs and whose difference reaches an output.

    Raises
    ------
    DataError
        The original cannot be run in float64.
    """
    names = _find_common(a, b)
    feeds, before = _run_original(a, shapes, seed, names, tell)
    tell("float64: original with perturbed weights")
    moved = _take_fingerprints(Reference(a.proto, weight_perturb=seed, external_dir=a.folder), feeds, names)
    tell("float64: rewritten")
    try:
        after = _take_fingerprints(Reference(b.proto, external_dir=b.folder), feeds, names)
    except Unsupported as exc:
        raise DataError(f"{b.label}: cannot be run in float64 ({exc})") from exc
    ratios = {n: _compute_ratio(before[n], after[n], moved.get(n)) for n in names if n in before and n in after}
    found = _find_first(b, {n for n, ratio in ratios.items() if ratio > _BEYOND}, ratios.keys())
    if found is None:
        return FirstDifference(steps=3, why="no tensor that both models know differs by more than rounding")
    node = next((n for n in b.proto.graph.node if found in n.output), None)
    label = "" if node is None else node.name or f"{node.op_type}:{found}"
    channel = _find_channel(before[found], after[found])
    where = f"{found!r}, channel {channel}," if channel is not None else f"{found!r}"
    return FirstDifference("", found, label, f"{where} is {ratios[found]:.3g} times as far off as rounding explains", 3)


def _run_original(
    a: LoadedModel,
    shapes: Mapping[str, tuple[int, ...]] | None,
    seed: int,
    names: set[str],
    tell: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, _Fingerprint]]:
    known = find_hints(a.proto.graph, set(list_free_inputs(a.proto)))
    why = "no input of any size that was tried is accepted"
    tell("float64: original")
    for guess in guess_shapes(a.proto, shapes, BATCHES[0]):
        feeds = make_feeds(a.proto, guess, seed, known)
        try:
            return feeds, _take_fingerprints(Reference(a.proto, external_dir=a.folder), feeds, names)
        except Unsupported as exc:
            why = str(exc)
    raise DataError(f"{a.label}: cannot be run in float64 ({why})")


def _find_common(a: LoadedModel, b: LoadedModel) -> set[str]:
    """Tensors of the main graphs that both make."""
    return build_scopes(a, {})[""].makers.keys() & build_scopes(b, {})[""].makers.keys()


class _Fingerprint(NamedTuple):
    shape: tuple[int, ...]
    channels: Array  # sums along all but the second axis
    sample: Array


def _take_fingerprints(reference: Reference, feeds: dict[str, Any], names: set[str]) -> dict[str, _Fingerprint]:
    found: dict[str, _Fingerprint] = {}

    def watch(name: str, value: Any) -> None:
        if name in names and isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            found[name] = _take_fingerprint(value.astype(np.float64, copy=False))

    inputs = {k: v for k, v in feeds.items() if k in reference.input_names}
    reference.run(inputs, watch)
    return found


def _take_fingerprint(x: Array) -> _Fingerprint:
    flat = x.reshape(-1)
    step = max(1, flat.size // _SAMPLE)
    axis = 1 if x.ndim > 1 else 0
    sums = x.sum(axis=tuple(k for k in range(x.ndim) if k != axis)) if x.ndim else flat
    return _Fingerprint(x.shape, np.asarray(sums).reshape(-1), flat[::step].copy())


def _measure_distance(x: _Fingerprint, y: _Fingerprint) -> float:
    """The larger of the two parts' relative distances."""
    if x.shape != y.shape:
        return float("inf")
    parts = []
    with np.errstate(all="ignore"):
        for p, q in ((x.channels, y.channels), (x.sample, y.sample)):
            apart, size = np.linalg.norm(np.nan_to_num(q - p)), np.linalg.norm(np.nan_to_num(p))
            parts.append(0.0 if apart == 0 else float(apart / size) if size else float("inf"))
    return max(parts)


def _compute_ratio(before: _Fingerprint, after: _Fingerprint, moved: _Fingerprint | None) -> float:
    noise = _measure_distance(before, moved) if moved is not None else 0.0
    return _measure_distance(before, after) / max(noise, _LEAST)


def _find_channel(x: _Fingerprint, y: _Fingerprint) -> int | None:
    if x.shape != y.shape or len(x.shape) < 2:
        return None
    return int(np.argmax(np.abs(y.channels - x.channels)))


def _find_first(b: LoadedModel, bad: set[str], compared: Collection[str]) -> str | None:
    """The first of the tensors that differ from which only tensors that differ lead to an output.

    A tensor that kept its name and changed its meaning is put right by what reads it, and is not to blame.
    """
    scope = build_scopes(b, {})[""]
    outputs = set(scope.outputs)
    readers: dict[str, list[str]] = {}
    for node in scope.nodes:
        for name in node.input:
            readers.setdefault(name, []).extend(o for o in node.output if o)
    leads: dict[str, bool] = {}
    for node in reversed(scope.nodes):
        for name in node.output:
            after = any(leads.get(n, False) for n in readers.get(name, []))
            reaches = name in outputs or after
            # what only one model knows passes on what comes after it
            leads[name] = reaches and (name in bad or name not in compared)
    return next((n for node in scope.nodes for n in node.output if n in bad and leads.get(n)), None)
