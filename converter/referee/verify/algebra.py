"""Both models in float64, against what rounding the weights may do.

``e`` is the distance between the two models' outputs; ``e_pert`` the distance that the original moves when every
weight is perturbed by the rounding error of its own type. A correct rewrite rounds each weight about once
(measured: 0.6 to 0.75 of ``e_pert``); the smallest of the injected bugs are above 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from converter.dataclass import dataclass
from converter.errors import ModelError
from converter.records import OutputCheck, Stage, Verdict
from converter.records.evidence import worst_verdict
from converter.referee.proto.source import LoadedModel, find_float_types
from converter.referee.proto.tensors import UNIT_ROUNDOFF
from converter.referee.reference.kernels import Unsupported
from converter.referee.verify.metrics import Difference, measure_difference, sum_differences
from converter.referee.verify.models import ModelInput, ModelUnderTest
from converter.referee.verify.options import Options
from converter.referee.verify.structure import rounding_decides

PASS_BELOW = 4.0
FAIL_ABOVE = 40.0
# Largest differences scatter more than norms.
PEAK_PASSES, PEAK_FAILS = 10.0, 40.0
DOUBT_DRAWS = (
    4  # perturbations per input where the first verdict left doubt: two draws of few weights can both be small
)
# float64 arithmetic itself: 3e-14 over a ResNet-50 folded without rounding its weights.
_REFERENCE_NOISE = 2.0**-46
# Integers and truth values that depend on ties: this many may differ beyond what a perturbation moves.
_TIES = 3


@dataclass(frozen=True, slots=True)
class _Measured:
    change: Difference  # rewritten against original
    noise: tuple[Difference, ...]  # perturbed originals against original


def judge_algebra(
    a: ModelUnderTest, b: ModelUnderTest, cases: Sequence[ModelInput], options: Options, draws: int = 1
) -> Stage:
    """The stage over ``cases``; each has ``draws`` perturbations of its own."""
    try:
        measured = [_measure(a, b, case, k, draws, options) for k, case in enumerate(cases)]
    except (Unsupported, ModelError) as exc:
        return Stage("algebra", Verdict.SKIPPED, f"float64 reference: {exc}")
    names = [o.name for o in a.source.proto.graph.output]
    floor = _find_floor(a.source)
    checks = tuple(
        _judge(name, [m[name] for m in measured], floor, ties=rounding_decides(a.source, name)) for name in names
    )
    return Stage("algebra", worst_verdict(c.status for c in checks), _summarize(checks), checks)


def _measure(
    a: ModelUnderTest, b: ModelUnderTest, case: ModelInput, number: int, draws: int, options: Options
) -> dict[str, _Measured]:
    options.progress(f"float64: original, input {number + 1}")
    exact = case.exact = a.reference(case.feeds) if case.exact is None else case.exact
    options.progress(f"float64: rewritten, input {number + 1}")
    after = b.reference(case.feeds)
    options.progress(f"float64: original with perturbed weights, input {number + 1}")
    seeds = range(options.seed + number * draws, options.seed + (number + 1) * draws)
    moved = [a.reference(case.feeds, perturb=seed) for seed in seeds]
    return {
        name: _Measured(
            measure_difference(value, after.get(name)), tuple(measure_difference(value, m[name]) for m in moved)
        )
        for name, value in exact.items()
    }


def _find_floor(source: LoadedModel) -> float:
    """The least noise that counts as noise: one rounding in the model's finest weight type."""
    units = [UNIT_ROUNDOFF[t] for t in find_float_types(source.proto)]
    return max(min(units, default=2.0**-24), _REFERENCE_NOISE)


def _judge(name: str, measured: Sequence[_Measured], floor: float, *, ties: bool) -> OutputCheck:
    change, noise = sum_differences(m.change for m in measured), [n for m in measured for n in m.noise]
    if change.problem:
        verdict = Verdict.INCONCLUSIVE if any(n.problem for n in noise) else Verdict.FAIL
        return OutputCheck(name, verdict, math.inf, PASS_BELOW, why=change.problem)
    if not change.compared:
        return OutputCheck(name, Verdict.INCONCLUSIVE, why="nothing to compare: no finite element")
    verdict = _judge_integers(change, max(n.mismatches for n in noise), ties=ties)
    e = max(m.change.relative for m in measured)
    e_pert = max((n.relative for n in noise if math.isfinite(n.relative)), default=0.0)
    score = e / max(e_pert, floor)
    if score > FAIL_ABOVE:
        verdict = Verdict.FAIL
    elif score > PASS_BELOW and verdict is Verdict.PASS:
        verdict = Verdict.INCONCLUSIVE
    peak = _compute_peak(change, noise, floor)
    if peak > PEAK_FAILS:
        verdict = Verdict.FAIL
    elif peak > PEAK_PASSES and verdict is Verdict.PASS:
        verdict = Verdict.INCONCLUSIVE
    detail = {"e": e, "e_pert": e_pert, "peak": peak, "elements": change.compared, "mismatches": change.mismatches}
    why = "" if verdict is Verdict.PASS else _explain(score, change, peak)
    return OutputCheck(name, verdict, score, PASS_BELOW, change.max_abs, detail=detail, why=why)


def measure_score(change: Difference, noise: Sequence[Difference], source: LoadedModel) -> float:
    """How many times as far as rounding the weights two outputs are apart, by their norms or by one element."""
    if change.problem:
        return math.inf if not any(n.problem for n in noise) else 0.0
    if change.mismatches:
        return math.inf if change.mismatches > max((n.mismatches for n in noise), default=0) else 0.0
    floor = _find_floor(source)
    moved = max((n.relative for n in noise if math.isfinite(n.relative)), default=0.0)
    return max(change.relative / max(moved, floor), _compute_peak(change, noise, floor))


def _compute_peak(change: Difference, noise: Sequence[Difference], floor: float) -> float:
    """The largest difference in units of the largest that rounding makes: one wrong number among a million.

    The norms that ``e`` is made of hide it; elements that are sensitive are so to both.
    """
    largest = max((n.max_abs for n in noise if not n.problem), default=0.0)
    return change.max_abs / max(largest, floor * change.size, 5e-324) if change.max_abs else 0.0


def _judge_integers(change: Difference, steps: int, *, ties: bool) -> Verdict:
    """Integers that flip where the perturbed original flips too are ties, not errors."""
    if change.mismatches == 0:
        return Verdict.PASS
    few = _TIES if ties and change.discrete >= 1000 else 0
    if change.mismatches <= PASS_BELOW * steps + few:
        return Verdict.PASS
    return Verdict.INCONCLUSIVE if change.mismatches <= FAIL_ABOVE * steps + 10 * few else Verdict.FAIL


def _explain(score: float, change: Difference, peak: float) -> str:
    if change.mismatches:
        return f"{change.mismatches} of {change.discrete} integers differ"
    if score <= PASS_BELOW:
        return f"one element moved {peak:.3g} times as far as rounding the weights moves any (limit {PEAK_PASSES:g})"
    return f"moved {score:.3g} times as far as rounding the weights would (limit {PASS_BELOW:g})"


def _summarize(checks: Sequence[OutputCheck]) -> str:
    bad = [c for c in checks if c.status is not Verdict.PASS]
    if bad:
        return f"output {bad[0].name!r}: {bad[0].why}"
    top = max((c.score or 0.0 for c in checks), default=0.0)
    return f"changed {top:.2g} times as much as rounding the weights would (limit {PASS_BELOW:g})"
