"""The referee's rule on values that something other than onnxruntime computed: torch, before an export."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from converter.records import OutputCheck, Verdict
from converter.verify.measure import Gap, gap, total
from converter.verify.outputs import FAIL_ABOVE, PASS_BELOW, PASS_BELOW_SMALL

_SMALL = 1000  # elements below which noise dominates the ratio
_UNITS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float64": 2.0**-53}
_SAME = 1e-8  # of two float64 runs: sums of a million terms in another order are 1e-10 apart
# How far two correct computations of one answer may be apart before one of them is no float32 at all.
_TRUST = {"float16": 3e-2, "bfloat16": 0.25}


def judge_values(
    name: str,
    before: Sequence[Any],
    after: Sequence[Any],
    exact: Sequence[Any] | None,
    *,
    fail_ratio: float = FAIL_ABOVE,
) -> OutputCheck:
    """One output over all inputs: R is the error of `after` over that of `before`, both against `exact`.

    Parameters
    ----------
    before, after : sequence of arrays, one for each input
        What the original and what the new model gave.
    exact : sequence of float64 arrays, optional
        The reference. Without one, `after` passes only where it agrees with `before` to 8 units of its type.
    """
    pair = _total(before, after)
    if pair.problem:
        return OutputCheck(name, Verdict.FAIL, math.inf, PASS_BELOW, why=pair.problem)
    if not pair.compared:
        return OutputCheck(name, Verdict.INCONCLUSIVE, why="nothing to compare: no finite element")
    unit = max(_UNITS.get(str(getattr(value, "dtype", "")), 2.0**-24) for value in before)
    if exact is None:
        return _alike(name, pair, unit)
    mine, theirs = _total(exact, before), _total(exact, after)
    if mine.problem or mine.relative > _TRUST.get(str(before[0].dtype), 1e-3):
        return _alike(name, pair, unit)
    return _by_ratio(name, pair, mine, theirs, unit, fail_ratio)


def judge_exact(name: str, before: Sequence[Any], after: Sequence[Any]) -> OutputCheck:
    """One output of which both models were run in float64: they agree as far as float64 goes, or they differ."""
    pair = _total(before, after)
    detail: dict[str, Any] = {"note": "float64 alone", "distance": pair.relative, "elements": pair.compared}
    if pair.problem or not pair.compared:
        why = pair.problem or "nothing to compare: no finite element"
        return OutputCheck(name, Verdict.FAIL if pair.problem else Verdict.INCONCLUSIVE, detail=detail, why=why)
    score = pair.relative
    if score <= _SAME and not pair.mismatches:
        return OutputCheck(name, Verdict.PASS, score, _SAME, pair.max_abs, detail)
    why = f"in float64 the two are {score:.2g} apart"
    return OutputCheck(name, Verdict.FAIL, score, _SAME, pair.max_abs, detail, why)


def _total(left: Sequence[Any], right: Sequence[Any]) -> Gap:
    return total(gap(x, y) for x, y in zip(left, right, strict=True))


def _by_ratio(name: str, pair: Gap, mine: Gap, theirs: Gap, unit: float, fail_ratio: float) -> OutputCheck:
    limit = PASS_BELOW_SMALL if pair.count < _SMALL else PASS_BELOW
    score = 1.0 if theirs.square == mine.square else math.inf if not mine.rms else theirs.rms / mine.rms
    near = score <= limit or theirs.relative <= 8 * unit
    detail = {"error_before": mine.relative, "error_after": theirs.relative, "nonfinite": pair.nonfinite}
    detail |= {"elements": pair.compared, "mismatches": pair.mismatches}
    # Integers may differ as often as ties make the original differ from its own reference.
    if pair.discrete and theirs.mismatches > PASS_BELOW * mine.mismatches:
        why = f"{pair.mismatches} of {pair.discrete} integers differ"
        return OutputCheck(name, Verdict.FAIL, score, limit, pair.max_abs, detail, why)
    if near:
        return OutputCheck(name, Verdict.PASS, score, limit, pair.max_abs, detail)
    verdict = Verdict.FAIL if score > fail_ratio else Verdict.INCONCLUSIVE
    return OutputCheck(name, verdict, score, limit, pair.max_abs, detail, f"error is {score:.3g} times the original's")


def _alike(name: str, pair: Gap, unit: float) -> OutputCheck:
    """Without a reference: the same up to the last bits, or undecided."""
    score = pair.relative / unit
    detail = {"note": "no float64 reference", "distance": pair.relative, "elements": pair.compared}
    detail["mismatches"] = pair.mismatches
    if pair.mismatches:
        why = f"{pair.mismatches} of {pair.discrete} integers differ"
        return OutputCheck(name, Verdict.FAIL, score, 8.0, pair.max_abs, detail, why)
    if score <= 8:
        return OutputCheck(name, Verdict.PASS, score, 8.0, pair.max_abs, detail)
    why = f"no float64 reference, and the two are {pair.relative:.2g} apart"
    return OutputCheck(name, Verdict.INCONCLUSIVE, score, 8.0, pair.max_abs, detail, why)
