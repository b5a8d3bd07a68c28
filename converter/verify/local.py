"""Every rewritten place on its own, for models that cannot be run whole.

Each segment is a pair of small models with the same inputs, judged as whole models are: in float64 against
the rounding of its weights, and on onnxruntime where that has the kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from converter.errors import BiasoptError
from converter.protos.reference import Unsupported
from converter.protos.segments import Difference, Segment, loosened
from converter.protos.source import Source
from converter.records import OutputCheck, Stage, Verdict
from converter.verify.algebra import algebra, worst
from converter.verify.outputs import outputs
from converter.verify.pair import Cases, Options, Side, mini

_NO_LIMIT = 1 << 62


def local(difference: Difference, a: Source, b: Source, options: Options) -> Stage:
    """The stage over all segments of a pair."""
    checks = [*_checks(difference, a, b, mini(options), options)]
    checks += [OutputCheck(n, Verdict.INCONCLUSIVE, why="cannot be cut out and run") for n in difference.unmatched]
    if not checks:
        return Stage("segments", Verdict.SKIPPED, "no node was rewritten")
    bad = [c for c in checks if c.status is not Verdict.PASS]
    top = max((c.score for c in checks if c.score is not None), default=0.0)
    why = f"{len(checks)} rewritten places, each run before and after; score at most {top:.2g} (limit 4)"
    return Stage("segments", worst(checks), f"{bad[0].name}: {bad[0].why}" if bad else why, tuple(checks))


def _checks(difference: Difference, a: Source, b: Source, small: Options, options: Options) -> Iterator[OutputCheck]:
    for k, segment in enumerate(difference.segments):
        options.progress(f"segment {k + 1} of {len(difference.segments)}: {segment.output}")
        yield _check(segment, a, b, small)


def _check(segment: Segment, a: Source, b: Source, options: Options) -> OutputCheck:
    name = f"{segment.scope}/{segment.output}" if segment.scope else segment.output
    why = ""
    # As large as in the model if that fits into memory, else with the large sizes left open.
    free = replace(options, max_memory=_NO_LIMIT)
    for before, after, limits in (
        (segment.before, segment.after, options),
        (loosened(segment.before), loosened(segment.after), free),
    ):
        left = Side(Source(before, name, None, a.folder), limits)
        right = Side(Source(after, name, None, b.folder), limits)
        cases = Cases(left, limits)
        try:
            if cases.fill(options.n_inputs):
                return replace(_judge(left, right, cases, limits), name=name)
            why = cases.why_not
        except (BiasoptError, Unsupported) as exc:
            why = str(exc)
        finally:
            left.close()
            right.close()
    return OutputCheck(name, Verdict.INCONCLUSIVE, why=f"could not be run: {why}")


def _judge(a: Side, b: Side, cases: Cases, options: Options) -> OutputCheck:
    """Float64 first; onnxruntime as well where it can, while there is time."""
    exact = algebra(a, b, cases.items, options)
    if exact.status is Verdict.INCONCLUSIVE and cases.random and cases.fill(2 * len(cases.items)):
        exact = algebra(a, b, cases.items, options)
    if exact.status is Verdict.SKIPPED and cases.no_runtime:
        return OutputCheck("", Verdict.INCONCLUSIVE, why=f"no way to run it: {exact.why}; {cases.no_runtime}")
    if exact.status is Verdict.FAIL or cases.no_runtime or (exact.outputs and options.time_left() < 0):
        return exact.outputs[0]
    ran = outputs(a, b, cases.items, options)
    if not ran.outputs:
        return OutputCheck("", ran.status, why=ran.why)
    if exact.status is Verdict.SKIPPED or ran.status is not Verdict.PASS:
        return ran.outputs[0]
    return exact.outputs[0]

