"""Every rewritten place on its own.

For models that cannot be run whole, and beside a whole run for the errors that no output shows (an epsilon
dropped in one layer, a weight of a channel that is always off). Each region is a pair of small models with the
same inputs, judged as whole models are: in float64 against the rounding of its weights, and on onnxruntime
where that has the kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from converter.errors import DataError, ModelError
from converter.records import OutputCheck, Stage, Verdict
from converter.records.evidence import worst_verdict
from converter.referee.proto.diff import ChangedRegions, Region, is_ours, shrink
from converter.referee.proto.source import LoadedModel
from converter.referee.reference.kernels import Unsupported
from converter.referee.verify.algebra import DOUBT_DRAWS, judge_algebra
from converter.referee.verify.models import ModelInputs, ModelUnderTest, make_region_options
from converter.referee.verify.options import Options
from converter.referee.verify.outputs import judge_outputs

if TYPE_CHECKING:
    from onnx import ModelProto

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
) -> Stage:
    """The stage over all regions of a pair.

    ``light``: one small input each, in float64 alone. ``partial``: until the deadline, and without a word on
    places that cannot be run.
    """
    checks = list(_check_regions(difference, a, b, options, light, partial))
    if not partial:
        checks += [OutputCheck(n, Verdict.INCONCLUSIVE, why="cannot be cut out and run") for n in difference.unmatched]
    if not is_ours(a, b):
        checks = [_doubt_foreign(c) for c in checks]
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
    difference: ChangedRegions, a: LoadedModel, b: LoadedModel, options: Options, light: bool, partial: bool
) -> Iterator[OutputCheck]:
    for k, region in enumerate(difference.regions):
        late = options.time_left() < 0
        if partial and late:
            return
        small = replace(make_region_options(options), quick=light or late or options.quick)
        options.progress(f"region {k + 1} of {len(difference.regions)}: {region.output}")
        check = _check_region(region, a, b, small, light or late)
        if not partial or check.status in (Verdict.PASS, Verdict.FAIL):
            yield check


def _doubt_foreign(check: OutputCheck) -> OutputCheck:
    """In a model of another tool a tensor may have kept its name and changed its meaning."""
    if check.status is not Verdict.FAIL:
        return check
    return replace(check, status=Verdict.INCONCLUSIVE, why=f"{check.why}; or this name no longer means the same")


def _check_region(region: Region, a: LoadedModel, b: LoadedModel, options: Options, light: bool) -> OutputCheck:
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
                    return _check_region(region, a, b, options, light=False)  # no float64: then by onnxruntime alone
                return replace(found, name=name)
            why = cases.why_not
        except (DataError, ModelError, Unsupported) as exc:
            why = str(exc)
        finally:
            left.close()
            right.close()
    return OutputCheck(name, Verdict.INCONCLUSIVE, why=f"could not be run: {why}")


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
