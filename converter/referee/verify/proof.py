"""The proof of a fold of this tool's own: every number recomputed, every rounding bounded, nothing else changed.

What the parameters stage has recomputed is equal in real arithmetic. What is left is rounding: where a theorem of
`converter.referee.normal_form.laws` says how much a place may add, for all inputs, nothing needs to be run. The other
places are measured on what really comes to them: onnxruntime runs the original once and hands out the tensors before
these places; each is computed there in float64 and run before and after, and its error has to stay within its bound,
element by element, and within a few times the original's own.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import DataError, ModelError
from converter.records import OutputCheck, Stage, Verdict
from converter.referee.proto.diff import ChangedRegions, Region
from converter.referee.proto.source import LoadedModel
from converter.referee.proto.structural_hash import is_same_computation
from converter.referee.reference.kernels import Unsupported
from converter.referee.verify.models import ModelInput, ModelUnderTest, make_region_options
from converter.referee.verify.options import Options
from converter.referee.verify.region_replay import RegionReplay, measure_growth, run_regions

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
