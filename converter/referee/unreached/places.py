"""What no input reached: each place that another tool changed, on values and sizes where it may differ.

Outputs that agree say nothing of a bound that nothing came near, of a row that nothing read, of a unit that was never
on. So each changed place, cut out at tensors that correspond, runs by itself on what really comes to it and on what
`Pair` drives there. What differs only so is looked for once more from the inputs of the whole models: found, it is a
failure with inputs to show it; not found, nobody knows, and the place is named.

A pool that rounds its size up, a slice that ends at 128, a branch on the length: at the sizes that are usually tried
such models agree. Where two models differ in an operator whose meaning hangs on sizes, both run on these too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import ModelProto

from converter.errors import BiasoptError
from converter.records import OutputCheck, Stage, Verdict
from converter.records.evidence import worst_verdict
from converter.referee.proto.diff import ChangedRegions, Region, find_changed_regions
from converter.referee.proto.random_inputs import (
    Guess,
    find_hints,
    has_open_batch,
    make_feeds,
    resize_shapes,
)
from converter.referee.proto.source import LoadedModel, list_free_inputs
from converter.referee.proto.structural_hash import is_same_computation
from converter.referee.reference.kernels import Unsupported, read_attributes
from converter.referee.unreached.correspondence import align
from converter.referee.unreached.driving import DIFFERS, SURELY, Coverage, Feeds, Pair, Witness, list_own_covers
from converter.referee.unreached.tables import RowBound
from converter.referee.unreached.thresholds import UNSEEN, Constants, walk_live_nodes
from converter.referee.unreached.unlike import POLYNOMIAL, describe_key
from converter.referee.verify.models import ModelInput
from converter.referee.verify.options import Options
from converter.referee.verify.region_replay import RegionReplay

Shapes = dict[str, tuple[int, ...]]
Key = tuple[Any, ...]

_SIZED = {
    *("MaxPool", "AveragePool", "LpPool", "Resize", "Upsample", "Slice", "Reshape", "Expand", "Pad", "Tile", "Range"),
    *("Split", "ConstantOfShape", "Trilu", "EyeLike", "CenterCropPad", "GridSample", "RoiAlign", "If", "Loop", "Conv"),
    *("ConvTranspose", "CumSum", "TopK", "OneHot", "Flatten", "Squeeze", "Unsqueeze", "ReduceMean", "ReduceSum"),
}
_BY_WINDOW = {"auto_pad", "ceil_mode", "pads", "strides", "dilations", "kernel_shape", "output_padding"}
_END = 1 << 31  # of a slice: beyond any size
_LONGEST = 1 << 12
_MOST_SIZES = 4
_ELEMENTS = 1 << 17  # of the inputs, or four times those that were taken


def find_own_sizes(a: LoadedModel, b: LoadedModel) -> list[str]:
    """The operators whose meaning hangs on sizes and that only one of the two has, each said in a few words."""
    left, right = (
        {_describe(n, h): n.op_type for n in walk_live_nodes(s)} for s, h in ((a, Constants(a)), (b, Constants(b)))
    )
    own = [*(k for k in left if k and k not in right), *(k for k in right if k and k not in left)]
    return [str(k[0]) for k in own]


def _describe(node: Any, held: Constants) -> Key:
    if node.op_type not in _SIZED or node.domain not in ("", "ai.onnx"):
        return ()
    given = {k: repr(v) for k, v in read_attributes(node).items()}
    if node.op_type in ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"):
        given = {k: v for k, v in given.items() if k in _BY_WINDOW}
    fixed = (held.get(n) if n else None for n in node.input[1:])
    numbers = tuple(
        tuple(int(min(max(x, -_END), _END)) if x == x else None for x in v.reshape(-1).tolist())
        if v is not None and v.size <= 16 and v.dtype.kind in "iuf"
        else ()
        for v in fixed
    )
    return node.op_type, tuple(sorted(given.items())), () if node.op_type in ("Conv", "ConvTranspose") else numbers


def list_sizes(
    a: LoadedModel, b: LoadedModel, base: Mapping[str, Any], given: Mapping[str, Any] | None, rows: Collection[int]
) -> Iterator[Shapes]:
    """Other shapes of the inputs, none larger than may be run quickly; ``rows`` are numbers to go beyond, too."""
    model = a.proto
    shapes = {n: tuple(np.shape(v)) for n, v in base.items() if n in list_free_inputs(model)}
    known = find_hints(model.graph, set(list_free_inputs(model)))
    largest = max((max(s, default=1) for s in shapes.values()), default=1)
    beyond = sorted({n + 1 for n in (*_list_numbers(a), *_list_numbers(b), *rows) if largest <= n < _LONGEST})
    chosen = beyond if len(beyond) <= _MOST_SIZES else [*beyond[: _MOST_SIZES - 1], beyond[-1]]
    most = max(_ELEMENTS, 4 * sum(math.prod(s) for s in shapes.values()))
    batches: list[int | None] = [None]
    if has_open_batch(model, given):
        batches += [2]
    seen = [shapes]
    for size in (1, largest + 1, 7, 12, *chosen):
        for batch in batches:
            found = resize_shapes(model, given, shapes, known, size, batch)
            if found not in seen and sum(math.prod(s) for s in found.values()) <= most:
                seen.append(found)
                yield found
                break
    for batch in chosen if len(batches) > 1 else ():
        found = resize_shapes(model, given, shapes, known, None, batch)
        if found not in seen and sum(math.prod(s) for s in found.values()) <= most:
            seen.append(found)
            yield found


def _list_numbers(source: LoadedModel) -> set[int]:
    """The whole numbers that a model's graph holds in constants of a few elements."""
    held, found = Constants(source), set[int]()
    for node in walk_live_nodes(source):
        for value in (held.get(n) for n in node.input if held.counts_few(n)):
            if value is not None and value.dtype.kind in "iu":
                found |= {int(x) for x in value.reshape(-1)}
    return found


def make_sized_feeds(a: LoadedModel, shapes: Shapes, base: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Random inputs of these shapes."""
    names = set(list_free_inputs(a.proto))
    found: dict[str, Any] = make_feeds(a.proto, Guess(shapes, 2), seed, find_hints(a.proto.graph, names))
    return {n: found.get(n, v) for n, v in base.items()}


_SEED = 7  # not the caller's: what is driven is the same whatever the seed
_SECONDS = 10.0  # that all places together may take
_HINT = "give inputs with --inputs"
# What says the same without saturating: two logits are as far apart as what a layer made of them.
_SATURATING = {"Softmax": "LogSoftmax", "Sigmoid": "Identity", "Tanh": "Identity", "Erf": "Identity"}
_PROBES = (2.0**5, -3.0)  # times the first input: what a bound keeps apart has two values then
_SLOW = 1.0  # seconds of a float64 run, above which one input does
_OF_POLYNOMIALS = 4  # driven inputs of a place without anything that turns
_QUICK_SIZES = 2
_QUICK_RUNS = 6  # driven inputs of a model whose run takes that long


class DrivenPlaces(RegionReplay):
    """Listens to a float64 run of the original, and drives each changed place as soon as its inputs are there."""

    def __init__(self, difference: ChangedRegions, a: LoadedModel, b: LoadedModel, options: Options) -> None:
        super().__init__(difference, a, b, options, ours=True)
        self._difference = difference
        self._limit = max(min(_SECONDS, options.time_left()), 1.0)

    @property
    def late(self) -> list[str]:
        """Places that time did not allow."""
        seen = {c.name for c in self.checks} | self.missed.keys()
        return [r.output for r in self._difference.regions if not r.scope and r.output not in seen]

    def _judge_region(self, region: Region) -> None:
        self._options.progress(f"place {len(self.checks) + 1} of {self.total}: {region.output}")
        before, after = _open_up(region)
        a = LoadedModel(before, region.output, None, self._a.folder)
        b = LoadedModel(after, region.output, None, self._b.folder)
        try:
            if is_same_computation(a, b):
                check = OutputCheck(region.output, Verdict.PASS, 0.0, DIFFERS)
            else:
                check = self._drive(region, Pair(a, b, _SEED, self._options.max_memory))
        except (BiasoptError, Unsupported, ValueError) as exc:
            self.missed[region.output] = " ".join(str(exc).split())[:160]
            return
        self.checks.append(check)

    def _drive(self, region: Region, pair: Pair) -> OutputCheck:
        node = region.after.graph.node[-1]
        detail: dict[str, Any] = {"layer": node.name or node.output[0], "op": node.op_type}
        ops = {n.op_type for model in (region.before, region.after) for n in model.graph.node}
        most = _OF_POLYNOMIALS if ops <= POLYNOMIAL else 99
        witness = pair.find_difference({n: np.asarray(self._values[n]) for n in sorted(region.inputs)}, most=most)
        why, score = "", pair.worst if witness is None else witness.score
        if witness is not None:
            why = describe_bounds(pair.coverage) or (
                f"differs {_format(score)} on values that no input brought there; {_HINT}"
            )
            detail["changed"] = describe_change(pair.coverage)
        elif pair.missed:
            why = describe_bounds(pair.missed)
        status = Verdict.INCONCLUSIVE if why else Verdict.PASS
        return OutputCheck(region.output, status, score, DIFFERS, detail=detail | {"score": score}, why=why)


def _open_up(region: Region) -> tuple[ModelProto, ModelProto]:
    """The two models without the saturation that both end with: driven values far up would all come out as 0 or 1."""
    models = region.before, region.after
    last = [next((n for n in m.graph.node if region.output in n.output), None) for m in models]
    if None in last or {n.op_type for n in last if n is not None} not in [{op} for op in _SATURATING]:
        return models
    if len({str(sorted(read_attributes(n).items())) for n in last if n is not None}) > 1:
        return models
    opened = []
    for model in models:
        copy = ModelProto()
        copy.CopyFrom(model)
        node = next(n for n in copy.graph.node if region.output in n.output)
        node.op_type = _SATURATING[node.op_type]
        if node.op_type == "Identity":
            del node.attribute[:]
        opened.append(copy)
    return opened[0], opened[1]


def drive_places(
    a: LoadedModel, b: LoadedModel, cases: Sequence[ModelInput], options: Options, *, random: bool
) -> tuple[Stage | None, Witness | None]:
    """The local stage of two models of which neither says what was rewritten, and inputs on which they differ.

    None where one of them cannot be run in float64.
    """
    begun = time.process_time()
    feeds = cases[0].feeds
    try:
        options.progress("float64: which tensors correspond")
        aligned = align(a, b, list(_list_probes(cases, random=random)), options.max_memory)
        shapes = {n: tuple(np.shape(v)) for n, v in feeds.items()}
        difference = find_changed_regions(a, aligned, shapes, wide=True)
        places = DrivenPlaces(difference, a, aligned, options)
        from converter.referee.reference.evaluator import Reference

        reference = Reference(a.proto, external_dir=a.folder, max_bytes=options.max_memory)
        reference.run({n: v for n, v in feeds.items() if n in reference.input_names}, places)
    except (Unsupported, BiasoptError, MemoryError):
        return None, None
    inner = [r for r in difference.regions if r.scope]
    unsure = [c for c in places.checks if c.status is not Verdict.PASS]
    witness = None
    left = [n for n in difference.unmatched if n not in {r.output for r in inner}] + list(places.missed) + places.late
    sized = find_own_sizes(a, b) if random else []
    bodies = sorted({r.scope for r in inner})
    if unsure or left or bodies or sized:
        whole, witness = _drive_whole(a, b, feeds, options, random=random, placed=not (unsure or left or bodies))
        places.checks += _judge_left(left, whole) + _judge_bodies(bodies, whole)
    stage = _make_stage(places, len(difference.regions) - len(inner) + len(difference.unmatched), witness)
    return replace(stage, seconds=round(time.process_time() - begun, 3)), witness


def drive_alone(a: LoadedModel, b: LoadedModel, feeds: Feeds, options: Options) -> str:
    """Why two places that agree on ``feeds`` are not known to be the same: what driven values show; empty if they are.

    Where they do not run in float64, a bound that one of them alone has is enough.
    """
    if is_same_computation(a, b):
        return ""
    try:
        pair = Pair(a, b, _SEED, options.max_memory)
        witness = pair.find_difference({n: np.asarray(v) for n, v in sorted(feeds.items())})
    except (Unsupported, BiasoptError, MemoryError, ValueError):
        return describe_bounds([c for c in list_own_covers(a, b) if c.bound.sides])
    if witness is None:
        return describe_bounds(pair.missed if pair.ran else pair.coverage)
    return describe_bounds(pair.coverage) or f"differs {_format(witness.score)} on driven values; {_HINT}"


def _list_probes(cases: Sequence[ModelInput], *, random: bool) -> list[Feeds]:
    probes = [c.feeds for c in cases[:2]]
    if random:
        first = cases[0].feeds
        probes += [{n: _scale(v, scale) for n, v in first.items()} for scale in _PROBES]
    return probes


def _scale(value: Any, factor: float) -> Any:
    array = np.asarray(value)
    return array.astype(np.float64) * factor if array.dtype.kind == "f" or array.dtype.kind == "V" else value


def _drive_whole(
    a: LoadedModel, b: LoadedModel, feeds: Feeds, options: Options, *, random: bool, placed: bool
) -> tuple[Pair | None, Witness | None]:
    """The whole models on driven inputs; the user's own say what inputs there are, so that none are made up then.

    ``placed``: every place agrees on driven values, and only other sizes are tried.
    """
    if not random or options.ranges:
        return None, None
    options.progress("float64: driven inputs")
    try:
        pair = Pair(a, b, _SEED, options.max_memory)
        begun = time.process_time()
        found = pair.compare(feeds)
        slow = time.process_time() - begun > _SLOW
        if not placed and not (found and found.score > SURELY):
            others = pair.find_difference(feeds, most=_QUICK_RUNS if slow else 99, enough=SURELY)
            found = max(filter(None, (found, others)), key=lambda w: w.score, default=None)
        return pair, found or _drive_sizes(pair, feeds, options, _QUICK_SIZES if slow else 99)
    except Unsupported:
        return None, None


def _drive_sizes(pair: Pair, base: Feeds, options: Options, most: int) -> Witness | None:
    """The first of other open sizes at which the two differ."""
    rows = {n for c in pair.coverage if isinstance(c.bound, RowBound) for n in c.bound.rows}
    for k, shapes in enumerate(list_sizes(pair.a, pair.b, base, options.shapes, rows)):
        if k >= most:
            break
        found = pair.compare(make_sized_feeds(pair.a, shapes, base, _SEED + k))
        if found is not None:
            return found
    return None


def _judge_left(names: Sequence[str], whole: Pair | None) -> list[OutputCheck]:
    """Places that could not be run by themselves: the whole models on driven inputs speak for them."""
    if not names:
        return []
    missed = [] if whole is None else whole.missed
    if whole is not None and not missed:
        return [OutputCheck(n, Verdict.PASS, 0.0, DIFFERS, detail={"whole": True}) for n in names]
    why = describe_bounds(missed) or f"cannot be cut out and run; {_HINT}"
    return [OutputCheck(n, Verdict.INCONCLUSIVE, why=why) for n in names]


def _judge_bodies(names: Sequence[str], whole: Pair | None) -> list[OutputCheck]:
    """Bodies of control flow that differ: what the whole models came to in there."""
    missed = [] if whole is None else [c for c in whole.missed if c.bound.home]
    if not names or not missed:
        return []
    return [OutputCheck(names[0], Verdict.INCONCLUSIVE, why=describe_bounds(missed))]


def _make_stage(places: DrivenPlaces, total: int, witness: Witness | None) -> Stage:
    checks = list(places.checks)
    if witness is not None:
        why = f"on driven inputs the models differ {_format(witness.score)}"
        changed = next((c.detail["changed"] for c in checks if c.detail.get("changed")), "")
        why += f": {changed}" if changed else ""
        checks.insert(0, OutputCheck(witness.output, Verdict.FAIL, witness.score, DIFFERS, why=why))
    detail = {"places": total, "replayed": len(places.checks), "missed": dict(list(places.missed.items())[:20])}
    bad = [c for c in checks if c.status is not Verdict.PASS]
    top = max((c.score for c in checks if c.score is not None), default=0.0)
    why = f"{len(places.checks)} of {total} places agree on driven values; at most {top:.2g} of what rounding explains"
    if bad:
        why = f"{bad[0].name}: {bad[0].why}" + (f"; {len(bad)} places" if len(bad) > 1 else "")
    return Stage("local", worst_verdict([Verdict.PASS, *(c.status for c in checks)]), why, tuple(checks), detail)


def _format(score: float) -> str:
    return "where rounding explains nothing" if np.isinf(score) else f"{score:.3g} times as far as rounding explains"


def describe_bounds(covers: Sequence[Coverage]) -> str:
    """What changed, and how near any input came to it; empty where no bound of one model alone is known."""
    change, (cover, _) = describe_change(covers), _find_pair(covers)
    if cover is None:
        return ""
    near, limit = "", cover.bound.limit
    if limit is not None and np.isfinite(cover.usual[1]):
        side = min(cover.usual, key=lambda v: abs(v - limit))
        near = f" ({'largest' if side == cover.usual[1] else 'smallest'} value {side:.3g})"
    reached = "read it" if isinstance(cover.bound, RowBound) else "came near it"
    reached = "showed what that does" if UNSEEN in cover.bound.sides else reached
    return f"{change}; no input {reached}{near}; {_HINT}"


def describe_change(covers: Sequence[Coverage]) -> str:
    """A bound of one model and what the other has in its place: ``Clip's upper bound changed from 6 to none``."""
    cover, twin = _find_pair(covers)
    if cover is None:
        return ""
    bound, (old, new) = cover.bound, (cover, twin) if cover.first else (twin, cover)
    if isinstance(bound, RowBound):
        more = f" and {len(bound.rows) - 1} more" if len(bound.rows) > 1 else ""
        return f"row {min(bound.rows)}{more} of the table {bound.key[1]!r} changed"
    if UNSEEN in bound.sides:
        said = describe_key(*(None if c is None else c.bound.key for c in (old, new)))
        return f"{bound.op} {said}" if None in (old, new) else f"{bound.op}'s {said}"
    values = ["none" if c is None else _name_limit(c.bound.limit) for c in (old, new)]
    what = _WORDS.get(str(bound.key[0]), "turning point")
    return f"{bound.op}'s {what} changed" + ("" if values[0] == values[1] else f" from {values[0]} to {values[1]}")


def _find_pair(covers: Sequence[Coverage]) -> tuple[Coverage | None, Coverage | None]:
    """The first bound that only one model has, and the other model's of its kind."""
    for cover in covers:
        twin = next((c for c in covers if c.first is not cover.first and c.bound.key[0] == cover.bound.key[0]), None)
        if cover.first or twin is None:
            return cover, twin
    return None, None


def _name_limit(limit: float | None) -> str:
    return "another" if limit is None else f"{limit:g}"


_WORDS = {
    "upper": "upper bound",
    "lower": "lower bound",
    "greater": "threshold",
    "at least": "threshold",
    "equal": "threshold",
    "if": "branches",
    "ArgMax": "choice among equals",
    "ArgMin": "choice among equals",
    "remainder": "sign of the remainder",
}
