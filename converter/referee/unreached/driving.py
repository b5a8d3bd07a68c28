"""Inputs driven to where two models may part: far up and down, to other signs, onto bounds, to rows of a table.

`Pair.find_difference` runs both models in float64 on such inputs, seeded and in a fixed number. What differs by more
than rounding does is a witness; a bound that only one model has, and that no input crossed, is said.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice, pairwise
from typing import Any, NamedTuple

import numpy as np

from converter.referee.proto.source import LoadedModel
from converter.referee.reference.evaluator import Reference
from converter.referee.reference.kernels import Unsupported
from converter.referee.unreached.tables import RowBound, find_other_rows
from converter.referee.unreached.thresholds import (
    ABOVE,
    BELOW,
    EQUAL,
    Bound,
    Constants,
    find_own_bounds,
    list_bounds,
)
from converter.referee.verify.algebra import measure_score
from converter.referee.verify.metrics import Difference, measure_difference

Array = np.ndarray[Any, Any]
Feeds = dict[str, Any]

DIFFERS = 10.0  # of what rounding the weights does; float32 arithmetic of other tools is about 3
SURELY = 40.0  # above it no further perturbation is drawn
_DRAWS, _MORE_DRAWS = 2, 6
_SCALES = (-1.0, 2.0**4, 2.0**-6, -(2.0**8), 2.0**14, -(2.0**20), 2.0**20)
_SPREADS = (1.0, 2.0**6, 2.0**12)
_OFFSETS = 12  # inputs with a number of their own for each channel
_ROWS = 8  # inputs that read rows which differ
_WALKS = 24  # steps of a walk towards a bound that nothing crossed
_ELEMENTS = 3  # whose crossing of a bound is located
_HALVINGS = 40
_FEW = 1e-3  # of the elements, that a rounding may move over a step; what differs really does so beside them too
# An element differs clearly by this part of itself, and so many times as far as rounding the weights moves it; below
# this part of the largest one, float64 itself may be what differs.
_CLEAR_PART, _CLEAR, _CLEAR_FLOOR = 1e-2, 1e4, 1e-13
_HUGE = 1e120
_BESIDE = 2  # inputs close by that then decide
_BESIDES = frozenset({BELOW, ABOVE})
_CHEAP = 1 << 18  # elements in and out, above which fewer inputs are taken


class Witness(NamedTuple):
    """Inputs on which two models differ."""

    feeds: Feeds
    score: float
    output: str


@dataclass(slots=True)
class Coverage:
    """A bound of one model, and the sides of it that some input was on."""

    bound: Bound | RowBound
    first: bool  # of the original
    seen: set[str] = field(default_factory=set)
    usual: tuple[float, float] = (math.inf, -math.inf)  # the least and the largest value before any were driven

    @property
    def missing(self) -> frozenset[str]:
        """The sides that no input was on."""
        return self.bound.sides - self.seen


def list_own_covers(
    a: LoadedModel, b: LoadedModel, bounds: tuple[list[Bound], list[Bound]] | None = None
) -> list[Coverage]:
    """What only one of two models turns at, and the rows in which their tables differ; nothing of it seen yet."""
    own = find_own_bounds(*(bounds or (list_bounds(a), list_bounds(b))))
    found = [Coverage(x, first) for first, side in ((True, own[0]), (False, own[1])) for x in side]
    return found + [Coverage(x, True) for x in find_other_rows(a, b, Constants(a), Constants(b))]


class Pair:
    """Two models with the same inputs and outputs, in float64."""

    def __init__(self, a: LoadedModel, b: LoadedModel, seed: int, max_bytes: int | None = None) -> None:
        self.a, self.b = a, b
        self._left = Reference(a.proto, external_dir=a.folder, max_bytes=max_bytes)
        self._right = Reference(b.proto, external_dir=b.folder, max_bytes=max_bytes)
        self._moved = [
            Reference(a.proto, weight_perturb=seed + k, external_dir=a.folder, max_bytes=max_bytes)
            for k in range(_DRAWS)
        ]
        self._seed, self._max_bytes = seed, max_bytes
        self.ran = 0  # inputs that both models took
        self.worst = 0.0  # of what rounding explains, over all inputs
        bounds = list_bounds(a), list_bounds(b)
        self.coverage = list_own_covers(a, b, bounds)
        self._limits = sorted(
            {x.limit for side in bounds for x in side if x.limit is not None and math.isfinite(x.limit)}
        )
        self._jumps = any(x.limit is None or EQUAL in x.sides for side in bounds for x in side)
        self._reads = [{n for c in self.coverage if c.first is first for n in c.bound.reads} for first in (True, False)]

    def find_difference(self, base: Feeds, *, most: int = 99, enough: float = DIFFERS) -> Witness | None:
        """The first of the driven inputs on which the two differ by more than ``enough``, or where they differ most.

        `missed` says what none of them reached.
        """
        first = (self.compare(feeds) for feeds in islice(self._drive(base), most))
        rest = (self.compare(f, located=True) for f in chain(self._set_on_bounds(base), self._cross(base)))
        best: Witness | None = None
        for found in chain(first, rest):
            if found is not None and (best is None or found.score > best.score):
                best = found
            if best is not None and best.score > enough:
                break
        return best

    @property
    def missed(self) -> list[Coverage]:
        """Bounds of one model alone that no input was seen on both sides of."""
        return [c for c in self.coverage if c.missing]

    def compare(self, feeds: Feeds, *, located: bool = False) -> Witness | None:
        """A witness if the outputs differ; ``located`` inputs are where a single element may be what differs."""
        try:
            left, right = self._run(feeds)
        except Unsupported:  # what no model takes shows nothing
            return None
        self.ran += 1
        sizes = {n: _find_size(v) for n, v in left.items()}
        changes = {n: measure_difference(_divide(v, sizes[n]), _divide(right[n], sizes[n])) for n, v in left.items()}
        suspect = [n for n, d in changes.items() if d.problem or d.mismatches or d.square]
        if not suspect or not self._is_finite(left):
            return None
        moved = [run.run(self._select(run, feeds)) for run in self._moved[:_DRAWS]]
        for name in suspect:
            size = sizes[name]
            noise = [measure_difference(_divide(left[name], size), _divide(m[name], size)) for m in moved]
            score = measure_score(changes[name], noise, self.a)
            if score <= DIFFERS and _is_clear(left[name], right[name], [m[name] for m in moved]):
                score = SURELY
            if DIFFERS < score < SURELY and len(moved) == _DRAWS:  # two draws may both be small
                moved += [run.run(self._select(run, feeds)) for run in self._list_more_moved()]
                noise = [measure_difference(_divide(left[name], size), _divide(m[name], size)) for m in moved]
                score = measure_score(changes[name], noise, self.a)
            if score > DIFFERS and (located or not self._may_be_step(left[name], right[name], noise)):
                return Witness(feeds, score, name)
            if score > DIFFERS:
                beside = (self.compare(f, located=True) for f in self._list_beside(feeds))
                if (found := next(filter(None, beside), None)) is not None:
                    return found
            else:
                self.worst = max(self.worst, score)
        return None

    def _list_more_moved(self) -> list[Reference]:
        """Further perturbations of the original, made when they are first needed."""
        if len(self._moved) == _DRAWS:
            a = self.a
            seeds = range(self._seed + _DRAWS, self._seed + _DRAWS + _MORE_DRAWS)
            self._moved += [
                Reference(a.proto, weight_perturb=k, external_dir=a.folder, max_bytes=self._max_bytes) for k in seeds
            ]
        return self._moved[_DRAWS:]

    def _may_be_step(self, left: Any, right: Any, noise: Sequence[Difference]) -> bool:
        """Whether so few elements differ that each may be one that lay within rounding of a step."""
        return self._jumps and _count_apart(left, right, noise) <= max(1.0, _FEW * np.size(left))

    def _list_beside(self, feeds: Feeds) -> Iterator[Feeds]:
        """The inputs moved a little, so that what lay within rounding of a step lies elsewhere."""
        for k in range(_BESIDE):
            yield {
                n: v * (1 + 1e-3 * self._rng(n, 300 + k).standard_normal(np.shape(v))) if v.dtype.kind == "f" else v
                for n, v in ((n, np.asarray(v)) for n, v in feeds.items())
            }

    def _run(self, feeds: Feeds) -> tuple[Feeds, Feeds]:
        """Both models' outputs; the bounds are told of what comes to them."""
        results = []
        for reference, first, wanted in ((self._left, True, self._reads[0]), (self._right, False, self._reads[1])):
            seen = {n: np.asarray(v) for n, v in feeds.items() if n in wanted}
            told = partial(_keep, wanted, seen), partial(_gather, wanted, seen)
            results.append(reference.run(self._select(reference, feeds), *told))
            for cover in (c for c in self.coverage if c.first is first):
                _note(cover, seen)
        return results[0], results[1]

    @staticmethod
    def _select(reference: Reference, feeds: Feeds) -> Feeds:
        return {n: v for n, v in feeds.items() if n in reference.input_names}

    @staticmethod
    def _is_finite(outputs: Feeds) -> bool:
        """Whether the original is far from overflow: inputs that bring it there are none of its own."""
        arrays = [v for v in outputs.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
        return all(np.isfinite(v).any() for v in arrays)

    # -- inputs --------------------------------------------------------------------------------------

    def _drive(self, base: Feeds) -> Iterator[Feeds]:
        """Beside the base: scaled, spread, on bounds, rounded, and the rows that differ; the same ones each time."""
        floats = [n for n, v in base.items() if np.asarray(v).dtype.kind == "f"]
        yield base
        if sum(np.size(v) for v in base.values()) > _CHEAP:
            yield self._spread(base, floats, 1.0, 0)
            yield self._spread(base, floats, 2.0**6, 1)
            yield from self._read_rows(base)
            return
        if floats:  # where a number that keeps a logarithm or a quotient from zero is all there is
            yield _scale_feeds(base, floats, 0.0)
        for scale in _SCALES:
            if all(_fits(base[n], scale) for n in floats):
                yield {n: v * np.asarray(scale, v.dtype) if n in floats else v for n, v in base.items()}
        for k, spread in enumerate(_SPREADS):
            yield self._spread(base, floats, spread, k)
            if spread > 1.0:  # every element far up and far down
                yield self._spread(base, floats, -spread, k)
        if floats:
            yield from (self._offset(base, floats, k) for k in range(_OFFSETS))
        yield from self._vary_others(base, floats)
        yield from self._read_rows(base)

    def _offset(self, base: Feeds, floats: Sequence[str], k: int) -> Feeds:
        """The same number for all that lies behind one channel: what a mean over pixels does not level out."""
        found = self._spread(base, floats, 1.0, 20 + k)
        for name in floats:
            value = found[name]
            axis = 1 if value.ndim > 2 else value.ndim - 1
            shape = [n if j == axis else 1 for j, n in enumerate(value.shape)]
            far = 8.0 if k % 2 else 3.0  # some channels off altogether, the others on
            found[name] = value + far * np.std(value) * self._rng(name, 400 + k).standard_normal(shape)
        return found

    def _set_on_bounds(self, base: Feeds) -> Iterator[Feeds]:
        """Values that are equal to a bound, or to each other."""
        floats = [n for n, v in base.items() if np.asarray(v).dtype.kind == "f"]
        if not floats or not self.coverage:
            return
        limits = np.array([*self._limits, 0.0, 1.0, -1.0])
        for parts in (1, 2):
            yield {n: np.round(v * parts) / parts if n in floats else v for n, v in base.items()}
        for k in range(2):
            yield {n: self._rng(n, 90 + k).choice(limits, v.shape) if n in floats else v for n, v in base.items()}

    def _spread(self, base: Feeds, floats: Sequence[str], spread: float, k: int) -> Feeds:
        """Normal values of the size that each input has, times ``spread``."""
        found = dict(base)
        for name in floats:
            value = np.asarray(base[name], np.float64)
            size = float(np.sqrt(np.mean(value * value))) if value.size else 0.0
            found[name] = self._rng(name, k).standard_normal(value.shape) * (size or 1.0) * spread
        return found

    def _vary_others(self, base: Feeds, floats: Sequence[str]) -> Iterator[Feeds]:
        """Truth values turned, integers of both signs: where a model takes them."""
        rest = [n for n in base if n not in floats and np.asarray(base[n]).dtype.kind in "iub"]
        if not rest:
            return
        whole = [int(x) for x in self._limits if x == int(x)]
        for k, most in enumerate((8, 100, 1 << 14, 0, -1)):
            found = dict(base)
            for name in rest:
                value, rng = np.asarray(base[name]), self._rng(name, 50 + k)
                if value.dtype.kind == "b":
                    found[name] = rng.integers(0, 2, value.shape).astype(bool)
                elif most < 0:
                    found[name] = _draw_far(value, rng)
                elif not most:
                    ends = np.iinfo(value.dtype)
                    near = [x + d for x in whole for d in (-1, 0, 1) if ends.min <= x + d <= ends.max]
                    found[name] = rng.choice(near or [0, 1], value.shape).astype(value.dtype)
                else:
                    ends = np.iinfo(value.dtype)
                    low, high = max(-most, ends.min), min(most, ends.max)
                    found[name] = rng.integers(low, high + 1, value.shape).astype(value.dtype)
            yield found

    def _read_rows(self, base: Feeds) -> Iterator[Feeds]:
        """Indices of the rows in which a table of one model is unlike the other's."""
        tables = [c.bound for c in self.coverage if isinstance(c.bound, RowBound)]
        if not tables:
            return
        seen: dict[str, Any] = {}
        wanted = {name for table in tables for name in table.reads}
        try:
            self._left.run(self._select(self._left, base), *(partial(_keep, wanted, seen) for _ in range(2)))
        except Unsupported:
            return
        floats = [n for n, v in base.items() if np.asarray(v).dtype.kind == "f"]
        others = [
            _scale_feeds(base, floats, -1.0),
            *(self._spread(base, floats, 2.0 ** (6 * k), 60 + k) for k in range(3)),
        ]
        for table in tables:  # in a body: where it runs
            rows = np.array(sorted(table.rows))
            read = np.asarray(seen.get(table.reads[0], base.get(table.reads[0], ())))
            for name, value in ((n, np.asarray(v)) for n, v in base.items()):
                apart = read.reshape(-1) - value.reshape(-1) if read.size == value.size else np.zeros(0)
                if value.dtype.kind not in "iu" or not value.size or np.unique(apart).size != 1:
                    continue  # not the indices themselves, moved by one number
                for k in range(0, min(len(rows), _ROWS * value.size), value.size):
                    full = np.resize(rows[k:] - int(apart[0]), value.shape).astype(value.dtype)
                    yield {**base, name: full}
                    yield from ({**other, name: full} for other in others if table.home)
                    mixed = np.where(np.arange(value.size).reshape(value.shape) % 2, value, full)
                    yield {**base, name: mixed.astype(value.dtype)}  # a norm takes away what all have in common

    def _rng(self, name: str, k: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(name.encode()), k])

    # -- bounds --------------------------------------------------------------------------------------

    def _cross(self, base: Feeds) -> Iterator[Feeds]:
        """Inputs on both sides of each bound that only one model has, and between two bounds that lie close by."""
        floats = [n for n, v in base.items() if np.asarray(v).dtype.kind == "f"]
        if not self.coverage or not floats or sum(np.size(v) for v in base.values()) > _CHEAP:
            return
        turning = [c for c in self.coverage if c.bound.sides & _BESIDES]
        for cover in [c for c in turning if c.missing & _BESIDES]:
            yield from self._walk(cover, base, floats)
        for start in (base, self._spread(base, floats, 1.0, 7)):
            found: dict[int, list[float]] = {}
            for cover in turning:
                for element, scale in self._locate(cover, start, floats):
                    found.setdefault(element, []).append(scale)
            for scales in found.values():
                yield from (_scale_feeds(start, floats, s) for s in _pick_between(scales))

    def _margin(self, cover: Coverage, feeds: Feeds) -> Array | None:
        bound = cover.bound
        if isinstance(bound, RowBound):
            return None
        reference = self._left if cover.first else self._right
        seen = {n: np.asarray(v) for n, v in feeds.items()}
        try:
            told = partial(_keep, bound.reads, seen), partial(_gather, bound.reads, seen)
            reference.run(self._select(reference, feeds), *told)
            return np.asarray(bound.margin(seen), np.float64).reshape(-1)
        except (Unsupported, KeyError):
            return None

    def _walk(self, cover: Coverage, base: Feeds, floats: Sequence[str]) -> Iterator[Feeds]:
        """Along directions that move what the bound reads: the steps that go on towards it are kept, and doubled."""
        up = 1.0 if ABOVE in cover.missing else -1.0
        at, reached = base, self._reach(cover, base, up)
        step = 1.0
        for k in range(_WALKS):
            far = self._spread(base, floats, step, 200 + k)
            tried = {n: np.asarray(at[n], np.float64) + far[n] if n in floats else v for n, v in base.items()}
            gone = self._reach(cover, tried, up)
            if gone > reached:
                at, reached, step = tried, gone, 2 * step
            if reached > 0:
                yield at
                return

    def _reach(self, cover: Coverage, feeds: Feeds, up: float) -> float:
        margin = self._margin(cover, feeds)
        return -math.inf if margin is None or not margin.size else float(np.nanmax(up * margin))

    def _locate(self, cover: Coverage, base: Feeds, floats: Sequence[str]) -> Iterator[tuple[int, float]]:
        """For some elements the scale of the inputs at which they cross the bound."""
        scales = [s for e in range(-6, 16, 2) for s in (2.0**e, -(2.0**e))]
        scales.sort()
        rows = [self._margin(cover, _scale_feeds(base, floats, s)) for s in scales]
        if any(r is None or r.shape != rows[0].shape for r in rows if rows[0] is not None) or rows[0] is None:
            return
        signs = np.stack([np.sign(r) for r in rows if r is not None])
        turns = np.argwhere(signs[1:] * signs[:-1] < 0)
        for at, element in turns[np.argsort(turns[:, 1], kind="stable")][:: max(1, len(turns) // _ELEMENTS)][
            :_ELEMENTS
        ]:
            low, high, sign = scales[at], scales[at + 1], signs[at, element]
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                margin = self._margin(cover, _scale_feeds(base, floats, middle))
                if margin is None:
                    break
                low, high = (middle, high) if np.sign(margin[element]) == sign else (low, middle)
            yield int(element), (low + high) / 2


def _draw_far(like: Array, rng: np.random.Generator) -> Array:
    """Integers of every magnitude that the type has, of both signs."""
    ends = np.iinfo(like.dtype)
    far: Array = np.exp2(rng.uniform(0.0, math.log2(float(ends.max)) - 1e-3, like.shape)).astype(like.dtype)
    return np.where(rng.integers(0, 2, like.shape) == 1, far, -far) if ends.min else far


def _find_size(value: Any) -> float:
    """The largest number where a sum of squares of it would overflow, else 1."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.size:
        return 1.0
    largest = float(np.max(np.where(np.isfinite(value), np.abs(value), 0.0)))
    return largest if largest > _HUGE else 1.0


def _divide(value: Any, size: float) -> Any:
    return value if size == 1.0 else np.asarray(value) / size


def _keep(wanted: Collection[str], seen: dict[str, Any], name: str, value: Any) -> None:
    if name in wanted:
        seen[name] = value


def _gather(wanted: Collection[str], seen: dict[str, Any], name: str, value: Any) -> None:
    """Of a body that runs several times, what it held each time."""
    if name in wanted and name in seen and np.size(seen[name]) < _CHEAP:
        value = np.concatenate([np.ravel(seen[name]), np.ravel(value)])
    _keep(wanted, seen, name, value)


def _note(cover: Coverage, seen: Mapping[str, Any]) -> None:
    cover.seen |= cover.bound.find_sides(seen)
    value = seen.get(cover.bound.reads[0]) if cover.bound.reads else None
    if cover.bound.limit is None:
        return
    if cover.usual[1] == -math.inf and isinstance(value, np.ndarray) and value.size and value.dtype.kind in "fiu":
        cover.usual = float(np.nanmin(value)), float(np.nanmax(value))


def _scale_feeds(base: Feeds, floats: Sequence[str], scale: float) -> Feeds:
    return {n: np.asarray(v, np.float64) * scale if n in floats else v for n, v in base.items()}


def _fits(value: Array, scale: float) -> bool:
    """Whether the values times ``scale`` are numbers of their type: no model is given others."""
    most = float(np.finfo(value.dtype).max)
    return abs(scale) * max(1.0, float(np.max(np.abs(value), initial=0.0))) <= most


def _pick_between(scales: Sequence[float]) -> Iterator[float]:
    """Just below and above each crossing, and halfway between two."""
    ordered = sorted(scales)
    for s in ordered:
        yield from (s * (1 - 1e-3), s * (1 + 1e-3))
    for low, high in pairwise(ordered):
        if abs(high - low) > 1e-6 * abs(high):
            yield (low + high) / 2


def _is_clear(left: Any, right: Any, moved: Sequence[Any]) -> bool:
    """Whether elements differ that rounding does not move, however small they are beside the others.

    What comes next may be a logarithm or a quotient: to it 1e-12 and 1e-9 are as far apart as 1 and 1000.
    """
    if not isinstance(left, np.ndarray) or left.dtype.kind != "f" or not left.size:
        return False
    with np.errstate(all="ignore"):
        apart, size = np.abs(right - left), np.maximum(np.abs(left), np.abs(right))
        usual = np.max([np.abs(m - left) for m in moved], axis=0)
        floor = _CLEAR_FLOOR * float(np.max(size, where=np.isfinite(size), initial=0.0))
        clear = (apart > _CLEAR_PART * size) & (apart > _CLEAR * usual) & (apart > floor)
    return int(np.count_nonzero(clear)) > max(0.0, _FEW * left.size)


def _count_apart(left: Any, right: Any, noise: Sequence[Difference]) -> float:
    """How many elements are further apart than rounding explains."""
    x, y = np.asarray(left), np.asarray(right)
    if x.shape != y.shape:
        return math.inf
    if x.dtype.kind != "f":
        return int(np.count_nonzero(x != y))
    usual = max([n.max_abs for n in noise if not n.problem] or [0.0])
    with np.errstate(all="ignore"):
        return int(np.count_nonzero(np.abs(x - y) > DIFFERS * max(usual, 1e-12 * float(np.nanmax(np.abs(x))))))
