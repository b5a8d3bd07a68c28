"""Every rewritten place on its own.

For models that cannot be run whole, and beside a whole run for the errors that no output shows (an epsilon
dropped in one layer, a weight of a channel that is always off). Each segment is a pair of small models with the
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
from converter.referee.proto.diff import Difference, Segment, is_ours, shrunk
from converter.referee.proto.source import Source
from converter.referee.reference.kernels import Unsupported
from converter.referee.verify.algebra import DOUBT_DRAWS, algebra
from converter.referee.verify.models import Cases, Side, mini
from converter.referee.verify.options import Options
from converter.referee.verify.outputs import outputs

if TYPE_CHECKING:
    from onnx import ModelProto

_NO_LIMIT = 1 << 62
_SMALL, _LARGE = 16, 64  # spatial sizes to shrink to: quickly, or in little memory


def local(
    difference: Difference, a: Source, b: Source, options: Options, *, light: bool = False, partial: bool = False
) -> Stage:
    """The stage over all segments of a pair.

    ``light``: one small input each, in float64 alone. ``partial``: until the deadline, and without a word on
    places that cannot be run.
    """
    checks = list(_checks(difference, a, b, options, light, partial))
    if not partial:
        checks += [OutputCheck(n, Verdict.INCONCLUSIVE, why="cannot be cut out and run") for n in difference.unmatched]
    if not is_ours(a, b):
        checks = [_doubted(c) for c in checks]
    if not checks:
        return Stage("segments", Verdict.SKIPPED, "no rewritten place could be run on its own")
    bad = [c for c in checks if c.status is not Verdict.PASS]
    top = max((c.score for c in checks if c.score is not None), default=0.0)
    count = f"{len(checks)} of {len(difference.segments) + len(difference.unmatched)}"
    why = f"{count} rewritten places run before and after; score at most {top:.2g} (limit 4)"
    return Stage(
        "segments",
        worst_verdict(c.status for c in checks),
        f"{bad[0].name}: {bad[0].why}" if bad else why,
        tuple(checks),
    )


def _checks(
    difference: Difference, a: Source, b: Source, options: Options, light: bool, partial: bool
) -> Iterator[OutputCheck]:
    for k, segment in enumerate(difference.segments):
        late = options.time_left() < 0
        if partial and late:
            return
        small = replace(mini(options), quick=light or late or options.quick)
        options.progress(f"segment {k + 1} of {len(difference.segments)}: {segment.output}")
        check = _check(segment, a, b, small, light or late)
        if not partial or check.status in (Verdict.PASS, Verdict.FAIL):
            yield check


def _doubted(check: OutputCheck) -> OutputCheck:
    """In a model of another tool a tensor may have kept its name and changed its meaning."""
    if check.status is not Verdict.FAIL:
        return check
    return replace(check, status=Verdict.INCONCLUSIVE, why=f"{check.why}; or this name no longer means the same")


def _check(segment: Segment, a: Source, b: Source, options: Options, light: bool) -> OutputCheck:
    name = segment.name
    why = ""
    for before, after, limits in _sizes(segment, options):
        left = Side(Source(before, name, None, a.folder), limits)
        right = Side(Source(after, name, None, b.folder), limits)
        cases = Cases(left, limits, exact_only=light)
        try:
            if cases.fill(limits.n_inputs):
                found = _judge(left, right, cases, limits, light)
                if light and found.score is None and found.status is Verdict.INCONCLUSIVE:
                    return _check(segment, a, b, options, light=False)  # no float64: then by onnxruntime alone
                return replace(found, name=name)
            why = cases.why_not
        except (DataError, ModelError, Unsupported) as exc:
            why = str(exc)
        finally:
            left.close()
            right.close()
    return OutputCheck(name, Verdict.INCONCLUSIVE, why=f"could not be run: {why}")


def _sizes(segment: Segment, options: Options) -> Iterator[tuple[ModelProto, ModelProto, Options]]:
    """The segment in the sizes to try: small (a layer is the same layer at any size), as it is, within memory."""
    free = replace(options, max_memory=_NO_LIMIT)
    yield shrunk(segment.before, _SMALL), shrunk(segment.after, _SMALL), free
    yield segment.before, segment.after, options
    yield shrunk(segment.before, _LARGE), shrunk(segment.after, _LARGE), free


def _judge(a: Side, b: Side, cases: Cases, options: Options, light: bool) -> OutputCheck:
    """Float64 first; onnxruntime as well where it can, while there is time."""
    exact = algebra(a, b, cases.items, options)
    if exact.status is Verdict.INCONCLUSIVE and cases.fill(2 * len(cases.items)):
        exact = algebra(a, b, cases.items, options, DOUBT_DRAWS)
    if exact.status is Verdict.SKIPPED and cases.no_runtime:
        return OutputCheck("", Verdict.INCONCLUSIVE, why=f"no way to run it: {exact.why}; {cases.no_runtime}")
    if exact.status is Verdict.FAIL or cases.no_runtime or (exact.outputs and (light or options.time_left() < 0)):
        return exact.outputs[0]
    ran = outputs(a, b, cases.items, options)
    if not ran.outputs:
        return OutputCheck("", ran.status, why=ran.why)
    if exact.status is Verdict.SKIPPED or ran.status is not Verdict.PASS:
        return ran.outputs[0]
    return exact.outputs[0]
