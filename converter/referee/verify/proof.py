"""The proof of a fold of this tool's own: every number recomputed, every rounding bounded; and the smoke test after it.

What the parameters stage has recomputed is equal in real arithmetic. What is left is rounding: where a theorem of
`converter.referee.normal_form.laws` says how much a place may add, for all inputs, nothing needs to be run. The other
places are measured on what really comes to them: onnxruntime runs the original once and hands out the tensors before
these places; each is computed there in float64 and run before and after, and its error has to stay within its bound,
element by element, and within a few times the original's own.

The proof says that no place adds more rounding than a small multiple of the original's. What that comes to at the
outputs is seen by moving every weight of the original by its own rounding error: the difference of the two models is
reported in units of that movement. Where rounding decides (a quantiser, a comparison, an arg-max), one flipped step
moves an output by more than any rounding; there the weights are moved further, until steps flip as they do here. Steps
of a quantiser that flip are counted.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import NodeProto

from converter.errors import DataError, ModelError
from converter.records import OutputCheck, Stage, Verdict
from converter.records.evidence import worst_verdict
from converter.referee.inputs.stream import list_arrays
from converter.referee.proto.copies import perturb_weights
from converter.referee.proto.diff import ChangedRegions, Region
from converter.referee.proto.source import LoadedModel, read_ports, walk_nodes
from converter.referee.proto.structural_hash import is_same_computation
from converter.referee.reference.kernels import Unsupported, list_captures
from converter.referee.verify.metrics import (
    Difference,
    apply_tolerances,
    compute_metrics,
    is_number,
    measure_difference,
)
from converter.referee.verify.models import ModelInput, ModelUnderTest, Outputs, make_region_options
from converter.referee.verify.options import Options
from converter.referee.verify.outputs import get_output, get_unit
from converter.referee.verify.region_replay import RegionReplay, measure_growth, run_regions
from converter.referee.verify.structure import rounding_decides

if TYPE_CHECKING:
    from onnx import ModelProto

GROWTH = 10.0  # times the original's error at a place, above which the fold is no longer backward stable


def is_recomputed(a: LoadedModel, b: LoadedModel, difference: ChangedRegions, parameters: Stage) -> bool:
    """Whether every number that was written is the recomputed one, and nothing else differs."""
    count = len(difference.regions) + len(difference.unmatched)
    if parameters.status is not Verdict.PASS or not count or len(parameters.outputs) < count:
        return False
    if any(check.status is not Verdict.PASS for check in parameters.outputs):
        return False
    return is_same_computation(a, b, [region.name for region in difference.regions])


def bound_rounding(
    a: LoadedModel,
    b: LoadedModel,
    difference: ChangedRegions,
    parameters: Stage,
    case: ModelInput | None,
    options: Options,
) -> Stage | None:
    """The local stage of a proof: each place by its theorem, or measured on ``case``; None where one is not bounded."""
    found = {check.name: check.detail for check in parameters.outputs}
    checks: dict[str, OutputCheck] = {}
    factor, n_proved = 1.0, 0
    for region in difference.regions:
        detail = {key: found[region.name][key] for key in ("rounding", "laws")}
        checks[region.name] = OutputCheck(region.name, Verdict.PASS, detail=detail)
        if detail["rounding"] is not None:
            factor, n_proved = max(factor, detail["rounding"]), n_proved + 1
    rest = [region for region in difference.regions if checks[region.name].detail["rounding"] is None]
    for check in _measure(a, b, rest, case, options):
        if check.status is not Verdict.PASS or not check.detail.get("growth", np.inf) <= GROWTH:
            return None
        checks[check.name] = replace(check, detail=checks[check.name].detail | check.detail)
    detail = {"places": len(checks), "proved": n_proved, "replayed": len(rest), "factor": factor, "missed": {}}
    return Stage(
        "local", Verdict.PASS, _summarize(list(checks.values()), n_proved, factor), tuple(checks.values()), detail
    )


def _summarize(checks: Sequence[OutputCheck], n_proved: int, factor: float) -> str:
    said = []
    if n_proved:
        said.append(
            f"{n_proved} of {len(checks)} places round at most {factor:g} times as much as before, for all inputs"
        )
    if n_proved < len(checks):
        top = max((c.score / c.limit for c in checks if c.score is not None and c.limit), default=0.0)
        said.append(f"{len(checks) - n_proved} measured: at most {top:.2g} of what rounding explains")
    return "; ".join(said)


def _measure(
    a: LoadedModel, b: LoadedModel, regions: Sequence[Region], case: ModelInput | None, options: Options
) -> list[OutputCheck]:
    """The places on what comes to them; on inputs of their own where the original does not run, or in a branch."""
    if not regions:
        return []
    options.progress(f"onnxruntime: original, {len(regions)} places")
    values = _run_original(a, regions, case, options)
    replay = RegionReplay(ChangedRegions(tuple(regions)), a, b, options, ours=True)
    checks = []
    for region in regions:
        check = None if values is None or region.scope else _measure_cropped(region, a, b, values, replay, options)
        if check is None:
            alone = run_regions(ChangedRegions((region,)), a, b, options, light=True, with_growth=True)
            check = next(iter(alone.outputs), OutputCheck(region.name, Verdict.INCONCLUSIVE, why=alone.why))
        checks.append(check)
    return checks


def _run_original(
    a: LoadedModel, regions: Sequence[Region], case: ModelInput | None, options: Options
) -> dict[str, Any] | None:
    """What comes to the places while onnxruntime runs the original, its optimisations off."""
    if case is None or case.runtime is None:
        return None
    made = {name for node in a.proto.graph.node for name in node.output}
    reads = {name for region in regions if not region.scope for name in region.inputs}
    wanted = sorted(reads & made)
    values = dict(case.feeds)
    if not wanted:
        return values
    try:
        return values | ModelUnderTest(a, replace(options, prove=False)).run_exposing(case.feeds, wanted)
    except (DataError, ModelError):
        return None


_SIDE = 64  # of a map that a place is measured on: a layer is the same layer at any size


def _measure_cropped(
    region: Region, a: LoadedModel, b: LoadedModel, values: Mapping[str, Any], replay: RegionReplay, options: Options
) -> OutputCheck | None:
    """A place on a part of the maps that come to it, if it takes them in that size and passes; else on all of them."""
    maps = {n: v for n, v in values.items() if n in region.inputs and np.ndim(v) == 4}
    sizes = {np.shape(v)[2:] for v in maps.values()}
    if len(sizes) == 1 and max(size := sizes.pop()) > 2 * _SIDE:
        top, left = (max(0, (side - _SIDE) // 2) for side in size)
        part = {n: np.ascontiguousarray(v[:, :, top : top + _SIDE, left : left + _SIDE]) for n, v in maps.items()}
        both = _open_sizes(region.before, maps), _open_sizes(region.after, maps)
        opened = replace(Region.of(region.scope, region.output, *both), find_certain=region.find_certain)
        check = _measure_region(opened, a, b, {**values, **part}, replay, options)
        if check is not None and check.status is Verdict.PASS and check.detail.get("growth", np.inf) <= GROWTH:
            return check
    return _measure_region(region, a, b, values, replay, options)


def _open_sizes(model: ModelProto, names: Container[str]) -> ModelProto:
    """A copy whose maps, and outputs, may have any height and width."""
    copy = type(model)()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        if value.name in names and value.type.HasField("tensor_type"):
            for dim in value.type.tensor_type.shape.dim[2:]:
                dim.Clear()
    for value in copy.graph.output:
        if value.type.HasField("tensor_type"):  # else nothing is said of it
            value.type.tensor_type.ClearField("shape")
    return copy


def _measure_region(
    region: Region, a: LoadedModel, b: LoadedModel, values: Mapping[str, Any], replay: RegionReplay, options: Options
) -> OutputCheck | None:
    small = make_region_options(options)
    if not region.inputs <= values.keys():
        return None
    feeds = {name: values[name] for name in region.inputs}
    left = ModelUnderTest(LoadedModel(region.before, region.output, None, a.folder), small)
    right = ModelUnderTest(LoadedModel(region.after, region.output, None, b.folder), small)
    try:
        exact = left.reference(feeds)[region.output]
        check = replay.judge(region, {**feeds, region.output: exact})
        if check is None:
            return None
        growth = measure_growth(region, left, right, feeds, exact)
    except (DataError, ModelError, Unsupported, ValueError):
        return None
    finally:
        left.close()
        right.close()
    return replace(check, detail=check.detail | {"growth": growth})


LIMIT = 100.0  # times the movement of the original: correct folds reach 8, the smallest injected bugs 150
_STEPS = 4.0  # times the movement that flips steps
_FURTHER = (1.0, 64.0)  # how far the weights are moved, in units of their rounding error
_SEEDS = 2
_STEP = 2.0**-6  # of an output: two steps of an 8-bit quantiser of all that comes to it
_FLIPS, _FEW = 0.01, 2  # of integers: those that are another step, and as many more
_BASE = 8  # roundings of any output, beside one for each node
# Their outputs jump where their inputs pass a threshold.
_JUMPS = {"Round", "Floor", "Ceil", "Sign", "Mod", "ArgMax", "ArgMin", "TopK", "NonMaxSuppression", "Hardmax", "Unique"}


def run_smoke_test(
    a: ModelUnderTest, b: ModelUnderTest, case: ModelInput, difference: ChangedRegions, options: Options
) -> Stage | None:
    """Both models on ``case``, which the original has run; None where the difference is not explained by rounding."""
    options.progress("onnxruntime as deployed: rewritten model")
    try:
        after = b.run(case.feeds)
    except (DataError, ModelError):
        return None  # for the stages that look closer to say
    finally:
        b.close()
    moved = _Moved(a.source, case, options)
    moved.stepped = find_stepped(a.source, difference)
    names = read_ports(a.source.proto.graph.output)
    checks = tuple(_judge(a.source, name, case.runtime or {}, after, moved, options) for name in names)
    if worst_verdict((c.status for c in checks), nothing=Verdict.PASS) is not Verdict.PASS:
        return None
    top = max((c.score or 0.0 for c in checks), default=0.0)
    flipped = sum(int(c.detail.get("steps", c.detail.get("mismatches", 0))) for c in checks)
    why = f"one input: moved {top:.2g} times as far as rounding the weights would"
    if flipped:
        why += f"; {flipped} elements are another step, as rounding makes them"
    detail = {"inputs": 1, "furthest_input": 0, "opt_level": options.opt_level, "smoke": True}
    return Stage(name_smoke(options), Verdict.PASS, why, checks, detail)


def name_smoke(options: Options) -> str:
    """The stage that it is part of."""
    return "runtime" if options.precision_gate == "strict" else "runtime-deployed"


def _judge(
    source: LoadedModel, name: str, before: Outputs, after: Outputs, moved: _Moved, options: Options
) -> OutputCheck:
    pair = (get_output(before, name), get_output(after, name))
    gap = measure_difference(*pair)
    if gap.problem:
        return OutputCheck(name, Verdict.INCONCLUSIVE, math.inf, LIMIT, why=gap.problem)
    unit = get_unit(before, name)
    detail: dict[str, Any] = {"distance": gap.relative, "nonfinite": gap.nonfinite, "elements": gap.compared}
    detail["mismatches"] = gap.mismatches
    if not gap.mismatches and gap.relative <= unit * moved.carried:
        found = Verdict.PASS, gap.relative / (unit * moved.carried), 1.0
        detail["yardstick"] = unit * moved.carried
    else:
        found = _judge_moved(source, name, pair, gap, moved, unit, detail)
    measures, histogram = compute_metrics([pair])
    detail |= {k: v for k, v in {"classic": measures, "hist_log10_abs": histogram}.items() if v}
    check = OutputCheck(name, *found, gap.max_abs, detail=detail)
    return apply_tolerances(check, measures, options.tolerances)


def _judge_moved(
    source: LoadedModel,
    name: str,
    pair: tuple[Any, Any],
    gap: Difference,
    moved: _Moved,
    unit: float,
    detail: dict[str, Any],
) -> tuple[Verdict, float, float]:
    """By how far the original moves: under the rounding of its weights, then far enough to flip steps."""
    score = math.inf
    for times in _FURTHER:
        if times > 1 and not (moved.jumps or rounding_decides(source, name)):
            break
        others = [measure_difference(get_output(moved.before, name), get_output(x, name)) for x in moved.runs(times)]
        others = [g for g in others if not g.problem]
        size = max((g.relative for g in others if math.isfinite(g.relative)), default=0.0)
        steps = max((g.mismatches for g in others), default=0)
        limit = LIMIT if times == 1 else _STEPS
        part = gap.relative / max(size, unit) / limit
        enough = gap.mismatches <= _STEPS * steps + (1 if gap.discrete >= 1000 and moved.jumps else 0)
        score = min(score, LIMIT * part)
        if part <= 1 and enough:
            detail |= {"yardstick": max(size, unit), "moved_by": times}
            return Verdict.PASS, LIMIT * part, LIMIT
    few = gap.mismatches <= _FLIPS * gap.discrete + _FEW and gap.relative <= _STEP
    if name in moved.stepped and few:  # weights behind scales do not move, and a step may lie on its boundary
        detail |= {"steps": count_steps(pair, unit * moved.carried), "yardstick": _STEP}
        return Verdict.PASS, gap.relative / _STEP, 1.0
    return Verdict.INCONCLUSIVE, score, LIMIT


def _quantizes(node: NodeProto) -> bool:
    return "Quantize" in node.op_type or node.op_type.startswith("QLinear")


def find_stepped(source: LoadedModel, difference: ChangedRegions) -> frozenset[str]:
    """The tensors that a place which changed reaches through a quantiser: there a step may flip, nowhere else."""
    reached = {region.output for region in difference.regions if not region.scope}
    inner = any(region.scope for region in difference.regions)  # what lies in a subgraph comes out of its node
    stepped: set[str] = set()
    for node in source.proto.graph.node:
        read = {*node.input, *list_captures(node)}
        holds = inner and (any(a.HasField("g") for a in node.attribute) or node.domain not in ("", "ai.onnx"))
        if not holds and read.isdisjoint(reached):  # a union of both for each node would take the square
            continue
        reached.update(node.output)
        if _quantizes(node) or not read.isdisjoint(stepped):
            stepped.update(node.output)
    return frozenset(stepped)


def count_steps(pair: tuple[Any, Any], rounding: float) -> int:
    """How many elements differ by more than rounding makes of the largest: by another step of a quantiser."""
    found = 0
    for x, y in zip(*map(list_arrays, pair), strict=True):
        if is_number(x):
            left, right = x.astype(np.float64), y.astype(np.float64)
            finite = np.isfinite(left) & np.isfinite(right)
            largest = np.abs(left[finite]).max(initial=0.0)
            found += int(np.count_nonzero(np.abs(left - right)[finite] > rounding * largest))
        else:
            found += int(np.count_nonzero(x != y))
    return found


class _Moved:
    """The original's outputs when its weights are moved; made when they are needed."""

    def __init__(self, source: LoadedModel, case: ModelInput, options: Options) -> None:
        self._source, self._case, self._options = source, case, options
        self._runs: dict[float, list[Outputs]] = {}
        self.before: Outputs = case.runtime or {}
        nodes = list(walk_nodes(source.proto))
        self.carried = _BASE + len(nodes)  # one rounding each, carried on with a gain of one
        self.stepped: frozenset[str] = frozenset()
        self.jumps = any(_quantizes(n) or n.op_type in _JUMPS or "Integer" in n.op_type for n in nodes)

    def runs(self, times: float) -> Sequence[Outputs]:
        """A few runs with weights that are moved ``times`` as far as their rounding may."""
        if times not in self._runs:
            self._runs[times] = list(self._run(times))
        return self._runs[times]

    def _run(self, times: float) -> Iterator[Outputs]:
        self._options.progress("onnxruntime: original with perturbed weights")
        for k in range(_SEEDS):
            proto = perturb_weights(self._source.proto, self._options.seed + k, self._source.folder, times)
            side = ModelUnderTest(
                replace(self._source, proto=proto, path=None),
                replace(self._options, prove=False),
                deployed=self._options.precision_gate != "strict",
            )
            try:
                yield side.run(self._case.feeds)
            except (DataError, ModelError):
                return
            finally:
                side.close()
