"""Local replay: each rewritten place on what really comes to it, while the original runs in float64.

The original is run node by node for the algebra stage anyway; here its tensors are listened to. As soon as a
place's inputs are there, they are rounded to the model's type, the rewritten place is run on them, and its output
is held against the original's own tensor, in units of what rounding explains. A tensor is let go after its last
place. So an error is found at the layer where it arises, whatever becomes of it further down.

`run_regions` runs the places on inputs of their own: for models that cannot be run whole, and beside a whole run for
the errors that no output shows (an epsilon dropped in one layer, a weight of a channel that is always off). Each
region is a pair of small models with the same inputs, judged as whole models are: in float64 against the rounding of
its weights, and on onnxruntime where that has the kernels.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import ModelProto

from converter.dataclass import dataclass
from converter.errors import DataError, ModelError
from converter.records import OutputCheck, Stage, Verdict
from converter.records.evidence import worst_verdict
from converter.referee.proto.diff import ChangedRegions, Region, shrink
from converter.referee.proto.source import LoadedModel, Port, find_float_types, read_ports
from converter.referee.proto.tensors import UNIT_ROUNDOFF, read_tensor
from converter.referee.reference.kernels import Unsupported
from converter.referee.verify.algebra import DOUBT_DRAWS, PASS_BELOW, judge_algebra
from converter.referee.verify.metrics import measure_difference
from converter.referee.verify.models import ModelInput, ModelInputs, ModelUnderTest, make_region_options
from converter.referee.verify.options import Options, find_folds
from converter.referee.verify.outputs import judge_outputs
from converter.referee.verify.rounding_bound import BoundedModel, add_bound, find_unit

Array = np.ndarray[Any, Any]
# Of two places with inputs that they take: what differs where no random input leads, or nothing.
Driver = Callable[[LoadedModel, LoadedModel, dict[str, Any], Options], str]

# Other tools fold in float32, operation by operation: where a bias nearly cancels, that is 26 in a correct fold.
FOREIGN_LIMIT = 100.0
_PENDING = 8  # tensors that are held until they are recognised


@dataclass(eq=False, slots=True)
class _Pending:
    """A place that seems wrong, whose tensor may be another one of the original's that is still to come."""

    number: int  # of its check
    found: Array
    bound: Array


class RenamedTensors:
    """Which tensors of the original the names of the rewritten model stand for."""

    def __init__(self, a: LoadedModel, b: LoadedModel, *, ours: bool) -> None:
        kept = {n for node in b.proto.graph.node for n in node.output}
        gone = {n for node in a.proto.graph.node for n in node.output} - kept
        self._gone = set() if ours else gone  # this tool keeps a name only where its value stays
        self._pending: list[_Pending] = []
        self.meant: dict[str, Any] = {}  # by name, the value of the tensor that it stands for

    def wait(self, number: int, found: Array, bound: Array) -> None:
        """The check of this number failed; its tensor may be one that is still to come."""
        if self._gone and len(self._pending) < _PENDING:
            self._pending.append(_Pending(number, found, bound))

    def note_tensor(self, name: str, value: Any, checks: list[OutputCheck]) -> None:
        """A tensor of the original was made: one that the rewritten model lacks may be one that is waited for."""
        for waiting in self._pending if name in self._gone else ():
            score = _measure_distance(waiting.found, np.asarray(value), waiting.bound)
            if score <= FOREIGN_LIMIT:
                check = checks[waiting.number]
                detail = check.detail | {"score": score, "means": name}
                found = {"score": score, "limit": FOREIGN_LIMIT, "detail": detail, "why": ""}
                checks[waiting.number] = replace(check, status=Verdict.PASS, **found)  # type: ignore[arg-type]
                self.meant[check.name] = value
                self._pending.remove(waiting)
                return


def _measure_distance(found: Array, value: Array, bound: Array) -> float:
    if found.shape != value.shape or value.dtype.kind != "f":
        return math.inf
    return float(ratios(found, value, bound).max(initial=0.0))


def ratios(found: Array, expected: Array, bound: Array) -> Array:
    """Every element's distance in units of its bound; infinite where it is not a number."""
    with np.errstate(all="ignore"):
        ratio = np.abs(found - expected) / bound
    return np.where(np.isfinite(ratio), ratio, np.inf)


LIMIT, FAIL_ABOVE = 1.0, 10.0
_SECONDS = 8.0  # that all places together may take, and a third of what time is left
_TINY = float(np.finfo(np.float32).tiny)


class RegionReplay:
    """Listens to a float64 run of the original: give it to `Reference.run` as ``watch``."""

    def __init__(
        self, difference: ChangedRegions, a: LoadedModel, b: LoadedModel, options: Options, *, ours: bool
    ) -> None:
        self._a, self._b, self._options, self._ours = a, b, options, ours
        self.total = len(difference.regions) + len(difference.unmatched)
        self._waiting = deque(s for s in difference.regions if not s.scope and s.inputs)
        self._needs = {id(s): {*s.inputs, s.output} for s in self._waiting}
        self._readers = Counter(name for needs in self._needs.values() for name in needs)
        self._values: dict[str, Any] = {}
        self._exact: dict[str, Any] | None = None  # of a place, where it is known already
        self._names = RenamedTensors(a, b, ours=ours)
        self.checks: list[OutputCheck] = []
        self.missed: dict[str, str] = {}
        self.seconds = 0.0  # spent here rather than in the run that is listened to
        self._limit = min(_SECONDS, max(options.time_left() / 3, 0.0))

    def __call__(self, name: str, value: Any) -> None:
        """A tensor of the original was made."""
        self._names.note_tensor(name, value, self.checks)
        if name not in self._readers:
            return
        self._values[name] = value
        begun = time.process_time()
        ready = [s for s in self._waiting if self._needs[id(s)] <= self._values.keys()]
        for region in ready:
            self._waiting.remove(region)
            if self.seconds + time.process_time() - begun < self._limit:
                self._judge_region(region)
            self._release(region)
        self.seconds += time.process_time() - begun

    def _release(self, region: Region) -> None:
        for name in self._needs.pop(id(region)):
            self._readers[name] -= 1
            if not self._readers[name]:
                del self._readers[name], self._values[name]
                self._names.meant.pop(name, None)

    def stage(self) -> Stage | None:
        """What was found; None if no place was replayed."""
        if not self.checks:
            return None
        bad = [c for c in self.checks if c.status is not Verdict.PASS]
        top = max((c.score for c in self.checks if c.score is not None), default=0.0)
        why = f"{len(self.checks)} of {self.total} places replayed; at most {top:.2g} of what rounding explains"
        detail = {"places": self.total, "replayed": len(self.checks), "missed": dict(list(self.missed.items())[:20])}
        if bad:
            first = bad[0]
            why = f"{first.name}: {first.why}" + (f"; {len(bad)} places" if len(bad) > 1 else "")
        return Stage(
            "local",
            worst_verdict(c.status for c in self.checks),
            why,
            tuple(self.checks),
            detail,
            round(self.seconds, 3),
        )

    # -- one place -------------------------------------------------------------------------------

    def judge(self, region: Region, values: Mapping[str, Any]) -> OutputCheck | None:
        """One place on ``values``, its inputs, as declared, and its exact output; None where it could not be run."""
        self._values, self._exact = dict(values), {region.output: np.asarray(values[region.output])}
        count = len(self.checks)
        try:
            self._judge_region(region)
        finally:
            self._exact = None
        return self.checks[-1] if len(self.checks) > count else None

    def _judge_region(self, region: Region) -> None:
        self._options.progress(f"place {len(self.checks) + 1} of {self.total}: {region.output}")
        expected = np.asarray(self._values[region.output])
        if expected.dtype.kind != "f" or not np.isfinite(expected).all():
            self.missed[region.output] = "its output is not finite, or no float"
            return
        try:
            measure = add_bound(region.after)
            check = self._linear(region, measure, expected) if measure is not None else self._other(region)
        except (DataError, ModelError, Unsupported, ValueError) as exc:
            self.missed[region.output] = " ".join(str(exc).split())[:160]
            return
        if not self._ours:
            check = _doubt_foreign(check)
        self.checks.append(check)

    def _linear(self, region: Region, measure: BoundedModel, expected: np.ndarray[Any, Any]) -> OutputCheck:
        """Error against gamma * (|W| * |x| + |b|), the largest over all elements."""
        side = ModelUnderTest(
            LoadedModel(measure.model, region.output, None, self._b.folder), make_region_options(self._options)
        )
        try:
            got = side.run(self._feeds(measure.model))
        finally:
            side.close()
        unit = find_unit(region.after)
        found = np.asarray(got[region.output]).astype(np.float64)
        if found.shape != expected.shape:
            raise ValueError(f"shape {list(expected.shape)} became {list(found.shape)}")
        bound = np.asarray(got[measure.bound]).astype(np.float64) * (measure.factor * unit) + _TINY
        ratio = ratios(found, expected, bound)
        at = np.unravel_index(int(np.argmax(ratio)), ratio.shape) if ratio.size else (0,)
        score = float(ratio[at]) if ratio.size else 0.0
        channel = int(at[measure.axis]) if len(at) > 1 else 0
        norms = _compute_norms(region.before, self._a)
        detail = {"layer": measure.layer, "op": measure.op, "n": measure.n, "channel": channel, "score": score, **norms}
        status = Verdict.PASS if score <= LIMIT else Verdict.FAIL if score > FAIL_ABOVE else Verdict.INCONCLUSIVE
        why = "" if status is Verdict.PASS else _explain(measure, channel, score)
        if status is Verdict.FAIL:
            self._names.wait(len(self.checks), found, bound)
        apart = float(np.abs(found - expected).max(initial=0.0))
        return OutputCheck(region.output, status, score, LIMIT, apart, detail=detail, why=why)

    def _other(self, region: Region) -> OutputCheck:
        """A place that is not linear: in float64, against what rounding its weights does to it."""
        small = replace(make_region_options(self._options), quick=True)
        if self._names.meant.keys() & {i.name for i in region.after.graph.input}:
            return self._find_renamed(region, small)
        left = ModelUnderTest(LoadedModel(region.before, region.output, None, self._a.folder), small)
        right = ModelUnderTest(LoadedModel(region.after, region.output, None, self._b.folder), small)
        feeds = self._feeds(region.before) | self._feeds(region.after)
        found = judge_algebra(left, right, [ModelInput(feeds, exact=self._exact)], small)
        if not found.outputs:
            raise ModelError(found.why)
        check, node = found.outputs[0], region.after.graph.node[-1]
        detail = check.detail | {"layer": node.name or node.output[0], "op": node.op_type, "score": check.score}
        return replace(check, name=region.output, detail=detail)

    def _find_renamed(self, region: Region, options: Options) -> OutputCheck:
        """A place that reads a name with another meaning: on what it means, against the original's own tensor."""
        side = ModelUnderTest(LoadedModel(region.after, region.output, None, self._b.folder), options)
        feeds = self._feeds(region.after)
        got, moved = (side.reference(feeds, seed)[region.output] for seed in (None, options.seed))
        change, noise = measure_difference(self._values[region.output], got), measure_difference(got, moved)
        unit = max((UNIT_ROUNDOFF[t] for t in find_float_types(self._b.proto)), default=2.0**-24)
        score = math.inf if change.problem else change.relative / max(noise.relative, unit)
        node = region.after.graph.node[-1]
        detail = {"layer": node.name or node.output[0], "op": node.op_type, "score": score, "e": change.relative}
        status = Verdict.PASS if score <= PASS_BELOW else Verdict.FAIL
        why = "" if status is Verdict.PASS else change.problem or f"moved {score:.3g} times as far as rounding would"
        return OutputCheck(region.output, status, score, PASS_BELOW, change.max_abs, detail=detail, why=why)

    def _feeds(self, model: ModelProto) -> dict[str, Any]:
        """The inputs of a place, rounded to the types that it declares."""
        feeds = {}
        for name, port in read_ports(model.graph.input).items():
            feeds[name] = _round(self._names.meant.get(name, self._values[name]), port)
        return feeds


def _doubt_foreign(check: OutputCheck) -> OutputCheck:
    """Of another tool's model: float32 arithmetic makes more than one rounding, and names may change their meaning."""
    if check.status is Verdict.PASS:
        return check
    if check.limit == LIMIT and check.score is not None and check.score <= FOREIGN_LIMIT:
        return replace(check, status=Verdict.PASS, limit=FOREIGN_LIMIT, why="")
    doubt = f"{check.why}; or this name no longer means the same"
    return replace(check, status=Verdict.INCONCLUSIVE, why=doubt)


def _round(value: Any, port: Port) -> Any:
    array = np.asarray(value)
    if port.dtype is None or array.dtype == port.dtype:
        return array
    with np.errstate(all="ignore"):
        return array.astype(port.dtype)


def _explain(measure: BoundedModel, channel: int, score: float) -> str:
    where = f"{measure.op} {measure.layer!r}, channel {channel}"
    return f"{where}: {score:.3g} times as far off as rounding explains (n = {measure.n})"


def _compute_norms(before: ModelProto, a: LoadedModel) -> dict[str, float]:
    """Largest scale and smallest variance of the batch norms that went: where errors are large for a reason."""
    held = {t.name: t for t in before.graph.initializer}
    scales, variances = [], []
    for node in before.graph.node:
        if node.op_type == "BatchNormalization" and {node.input[1], node.input[4]} <= held.keys():
            gamma, var = (read_tensor(held[node.input[k]], a.folder).astype(np.float64) for k in (1, 4))
            epsilon = next((x.f for x in node.attribute if x.name == "epsilon"), 1e-5)
            with np.errstate(all="ignore"):
                scales.append(float(np.max(np.abs(gamma) / np.sqrt(var + epsilon), initial=0.0)))
            variances.append(float(np.min(var, initial=np.inf)))
    return {"scale_max": max(scales), "var_min": min(variances)} if scales else {}


# -- places on inputs of their own ---------------------------------------------------------------

_NO_LIMIT = 1 << 62
_SMALL, _LARGE = 16, 64  # spatial sizes to shrink to: quickly, or in little memory


def run_regions(
    difference: ChangedRegions,
    a: LoadedModel,
    b: LoadedModel,
    options: Options,
    *,
    light: bool = False,
    partial: bool = False,
    with_growth: bool = False,
    drive: Driver | None = None,
) -> Stage:
    """The stage over all regions of a pair.

    ``light``: one small input each, in float64 alone. ``partial``: until the deadline, and without a word on
    places that cannot be run. ``with_growth``: each place that passes says how its rounding grew, where it runs.
    ``drive``: what is asked of a place that passes, since random inputs come near few bounds.
    """
    checks = list(_check_regions(difference, a, b, options, light, partial, with_growth, drive))
    if not partial:
        checks += [OutputCheck(n, Verdict.INCONCLUSIVE, why="cannot be cut out and run") for n in difference.unmatched]
    if not find_folds(a, b, options):
        checks = [_doubt_name(c) for c in checks]
    if not checks:
        return Stage("segments", Verdict.SKIPPED, "no rewritten place could be run on its own")
    bad = [c for c in checks if c.status is not Verdict.PASS]
    top = max((c.score for c in checks if c.score is not None), default=0.0)
    count = f"{len(checks)} of {len(difference.regions) + len(difference.unmatched)}"
    why = f"{count} rewritten places run before and after; score at most {top:.2g} (limit 4)"
    return Stage(
        "segments",
        worst_verdict(c.status for c in checks),
        f"{bad[0].name}: {bad[0].why}" if bad else why,
        tuple(checks),
    )


def _check_regions(
    difference: ChangedRegions,
    a: LoadedModel,
    b: LoadedModel,
    options: Options,
    light: bool,
    partial: bool,
    with_growth: bool,
    drive: Driver | None,
) -> Iterator[OutputCheck]:
    for k, region in enumerate(difference.regions):
        late = options.time_left() < 0
        if partial and late:
            return
        small = replace(make_region_options(options), quick=light or late or options.quick)
        options.progress(f"region {k + 1} of {len(difference.regions)}: {region.output}")
        check = _check_region(region, a, b, small, light or late, with_growth, None if late else drive)
        if not partial or check.status in (Verdict.PASS, Verdict.FAIL):
            yield check


def _doubt_name(check: OutputCheck) -> OutputCheck:
    """In a model of another tool a tensor may have kept its name and changed its meaning."""
    if check.status is not Verdict.FAIL:
        return check
    return replace(check, status=Verdict.INCONCLUSIVE, why=f"{check.why}; or this name no longer means the same")


def _check_region(
    region: Region,
    a: LoadedModel,
    b: LoadedModel,
    options: Options,
    light: bool,
    with_growth: bool,
    drive: Driver | None,
) -> OutputCheck:
    name = region.name
    why = ""
    for before, after, limits in _list_sizes(region, options):
        left = ModelUnderTest(LoadedModel(before, name, None, a.folder), limits)
        right = ModelUnderTest(LoadedModel(after, name, None, b.folder), limits)
        cases = ModelInputs(left, limits, exact_only=light)
        try:
            if cases.fill(limits.n_inputs):
                found = _judge(left, right, cases, limits, light)
                if light and found.score is None and found.status is Verdict.INCONCLUSIVE:
                    return _check_region(region, a, b, options, False, with_growth, drive)  # onnxruntime alone
                if with_growth and found.status is Verdict.PASS:
                    found = replace(found, detail=found.detail | _find_growth(region, left, right, cases.items[0]))
                if drive is not None and found.status is Verdict.PASS:
                    doubt = drive(left.source, right.source, cases.items[0].feeds, limits)
                    found = replace(found, status=Verdict.INCONCLUSIVE, why=doubt) if doubt else found
                return replace(found, name=name)
            why = cases.why_not
        except (DataError, ModelError, Unsupported) as exc:
            why = str(exc)
        finally:
            left.close()
            right.close()
    return OutputCheck(name, Verdict.INCONCLUSIVE, why=f"could not be run: {why}")


def _find_growth(region: Region, a: ModelUnderTest, b: ModelUnderTest, case: ModelInput) -> dict[str, float]:
    try:
        exact = case.exact if case.exact is not None else a.reference(case.feeds)
        return {"growth": measure_growth(region, a, b, case.feeds, exact[region.output])}
    except (DataError, ModelError, Unsupported, ValueError):
        return {}


def measure_growth(region: Region, a: ModelUnderTest, b: ModelUnderTest, feeds: Mapping[str, Any], exact: Any) -> float:
    """How many times the original's own error a place has, on onnxruntime and on ``feeds``; one rounding is no error.

    Raises
    ------
    DataError, ModelError
        One side does not run.
    """
    mine, theirs = (measure_difference(exact, side.run(dict(feeds))[region.output]) for side in (a, b))
    if mine.problem or theirs.problem or not np.isfinite(theirs.relative):  # numbers that are not finite, say
        return np.inf
    unit = max((UNIT_ROUNDOFF[t] for t in find_float_types(region.after)), default=2.0**-24)
    return theirs.relative / max(mine.relative, unit)


def _list_sizes(region: Region, options: Options) -> Iterator[tuple[ModelProto, ModelProto, Options]]:
    """The region in the sizes to try: small (a layer is the same layer at any size), as it is, within memory."""
    free = replace(options, max_memory=_NO_LIMIT)
    yield shrink(region.before, _SMALL), shrink(region.after, _SMALL), free
    yield region.before, region.after, options
    yield shrink(region.before, _LARGE), shrink(region.after, _LARGE), free


def _judge(a: ModelUnderTest, b: ModelUnderTest, cases: ModelInputs, options: Options, light: bool) -> OutputCheck:
    """Float64 first; onnxruntime as well where it can, while there is time."""
    exact = judge_algebra(a, b, cases.items, options)
    if exact.status is Verdict.INCONCLUSIVE and cases.fill(2 * len(cases.items)):
        exact = judge_algebra(a, b, cases.items, options, DOUBT_DRAWS)
    if exact.status is Verdict.SKIPPED and cases.no_runtime:
        return OutputCheck("", Verdict.INCONCLUSIVE, why=f"no way to run it: {exact.why}; {cases.no_runtime}")
    if exact.status is Verdict.FAIL or cases.no_runtime or (exact.outputs and (light or options.time_left() < 0)):
        return exact.outputs[0]
    ran = judge_outputs(a, b, cases.items, options)
    if not ran.outputs:
        return OutputCheck("", ran.status, why=ran.why)
    if exact.status is Verdict.SKIPPED or ran.status is not Verdict.PASS:
        return ran.outputs[0]
    return exact.outputs[0]
