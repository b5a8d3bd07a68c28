"""Both models on onnxruntime, optimisations off, judged by their distance from the float64 reference.

R is the rewritten model's error over the original's. The reference counts, output by output, only if it agrees
with onnxruntime on the original: a wrong one would make R about 1 whatever the bug. Without it the two models
are held against each other, the yardstick being how far onnxruntime's own output moves when every weight of
the original is perturbed by its rounding error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from converter.errors import DataError, ModelError
from converter.protos.perturb import perturbed
from converter.protos.source import Source, free_inputs, ports
from converter.records import OutputCheck, Stage, Verdict
from converter.verify.algebra import worst
from converter.verify.measure import Gap, gap, total
from converter.verify.pair import Case, Options, Outputs, Side
from converter.verify.structure import natural_scale

PASS_BELOW, PASS_BELOW_SMALL, FAIL_ABOVE = 3.0, 5.0, 10.0
_SMALL = 1000  # elements below which noise dominates the ratio
# Direct comparison: correct folds reach 8 times the perturbation (two fp32 runs differ by more than their
# weights' rounding does), the smallest injected bugs 150.
_DIRECT_PASS, _DIRECT_FAIL = 16.0, 100.0
_TRUST = {"float16": 3e-2, "bfloat16": 0.25}
_TRUST_ELSE = 1e-3
_UNITS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float64": 2.0**-53}
_TIES = 3


def outputs(a: Side, b: Side, cases: Sequence[Case], options: Options, extra: Case | None = None) -> Stage:
    """The stage over ``cases``, whose runs of the original are there already.

    ``extra`` is an input of another batch size without a float64 run: it is held to the errors of the others.
    """
    try:
        options.progress("onnxruntime: rewritten model")
        after = [b.run(case.feeds) for case in cases]
        beyond = None if extra is None else b.run(extra.feeds)
    except (DataError, ModelError) as exc:
        return Stage("runtime", Verdict.FAIL, f"the original runs, the rewritten model does not: {exc}")
    finally:
        b.close()
    judge = _Judge(a, cases, after, options)
    names = ports(a.source.proto.graph.output)
    checks = tuple(judge.check(name) for name in names)
    if extra is not None:
        checks = tuple(_also(c, gap(_of(extra.runtime, n), _of(beyond, n))) for n, c in zip(names, checks, strict=True))
    return Stage("runtime", worst(checks), judge.summary(checks), checks)


def _also(check: OutputCheck, pair: Gap) -> OutputCheck:
    """Hold another batch size to what this output's errors allow: |B - A| is at most their sum."""
    expected = sum(float(check.detail.get(k, 0.0)) for k in ("error_before", "error_after", "distance", "yardstick"))
    ratio = pair.relative / max(expected, 8 * 2.0**-24)
    if check.status is Verdict.FAIL or not (pair.problem or ratio > FAIL_ABOVE):
        return check
    why = pair.problem or f"another batch size moves it {ratio:.3g} times as far as the error allows"
    return replace(check, status=Verdict.FAIL, why=why)


class _Judge:
    """The runs of one stage; the perturbed run is made only if an output needs it."""

    def __init__(self, a: Side, cases: Sequence[Case], after: Sequence[Outputs], options: Options) -> None:
        self._a = a
        self._cases = cases
        self._after = after
        self._options = options
        self._noise: Outputs | None = None
        self._trust = max([_TRUST.get(t, _TRUST_ELSE) for t in _low_types(a.source)], default=_TRUST_ELSE)

    def check(self, name: str) -> OutputCheck:
        """One output over all cases."""
        pair = total(gap(_of(c.runtime, name), _of(g, name)) for c, g in zip(self._cases, self._after, strict=True))
        if pair.problem:
            return OutputCheck(name, Verdict.FAIL, math.inf, PASS_BELOW, why=pair.problem)
        if not pair.compared:
            return OutputCheck(name, Verdict.INCONCLUSIVE, why="nothing to compare: no finite element")
        reference = self._against_reference(name)
        if reference is None:
            return self._direct(name, pair, "no float64 reference")
        mine, theirs = reference
        if mine.problem:
            return self._direct(name, pair, f"reference not trusted: {mine.problem}")
        scale = max(mine.size, natural_scale(self._a.source, name))
        if pair.count and mine.rms > self._trust * scale:
            return self._direct(name, pair, f"reference not trusted: {mine.rms / scale:.1e} from onnxruntime")
        return self._ratio(name, pair, mine, theirs)

    def _against_reference(self, name: str) -> tuple[Gap, Gap] | None:
        if any(c.exact is None for c in self._cases):
            return None
        mine = total(gap(_of(c.exact, name), _of(c.runtime, name)) for c in self._cases)
        theirs = total(gap(_of(c.exact, name), _of(g, name)) for c, g in zip(self._cases, self._after, strict=True))
        return mine, theirs

    def _ratio(self, name: str, pair: Gap, mine: Gap, theirs: Gap) -> OutputCheck:
        limit = PASS_BELOW_SMALL if pair.count < _SMALL else PASS_BELOW
        unit = _unit(self._cases[0].runtime, name)
        score = 1.0 if theirs.square == mine.square else math.inf if not mine.square else theirs.rms / mine.rms
        if score <= limit or theirs.relative <= 8 * unit:
            verdict = Verdict.PASS
        else:
            verdict = Verdict.FAIL if score > FAIL_ABOVE else Verdict.INCONCLUSIVE
        verdict = _with_integers(verdict, theirs.mismatches, mine.mismatches, pair)
        detail = {"error_before": mine.relative, "error_after": theirs.relative, "nonfinite": pair.nonfinite}
        why = "" if verdict is Verdict.PASS else _why(pair, f"error is {score:.3g} times the original's")
        return OutputCheck(name, verdict, score, limit, pair.max_abs, detail | _count(pair), why)

    def _direct(self, name: str, pair: Gap, note: str) -> OutputCheck:
        """Without a reference: the distance of B from A, by how far onnxruntime's A moves under perturbation."""
        noise = gap(_of(self._cases[0].runtime, name), _of(self._perturbed(), name))
        unit = _unit(self._cases[0].runtime, name)
        yardstick = max(noise.relative if math.isfinite(noise.relative) else 0.0, unit)
        score = pair.relative / yardstick
        if noise.problem:
            verdict = Verdict.INCONCLUSIVE
        elif score <= _DIRECT_PASS:
            verdict = Verdict.PASS
        else:
            verdict = Verdict.FAIL if score > _DIRECT_FAIL else Verdict.INCONCLUSIVE
        verdict = _with_integers(verdict, pair.mismatches, noise.mismatches, pair)
        detail = {"note": note, "distance": pair.relative, "yardstick": yardstick, "nonfinite": pair.nonfinite}
        why = "" if verdict is Verdict.PASS else noise.problem or _why(pair, f"moved {score:.3g} times the yardstick")
        return OutputCheck(name, verdict, score, _DIRECT_PASS, pair.max_abs, detail | _count(pair), why)

    def _perturbed(self) -> Outputs:
        if self._noise is None:
            self._options.progress("onnxruntime: original with perturbed weights")
            source = self._a.source
            moved = Source(
                perturbed(source.proto, self._options.seed, source.folder), source.label, None, source.folder
            )
            self._noise = Side(moved, self._options).run(self._cases[0].feeds)
        return self._noise

    def summary(self, checks: Sequence[OutputCheck]) -> str:
        bad = [c for c in checks if c.status is not Verdict.PASS]
        if bad:
            return f"output {bad[0].name!r}: {bad[0].why}"
        direct = [c for c in checks if "note" in c.detail]
        top = max((c.score or 0.0 for c in checks), default=0.0)
        if len(direct) == len(checks):
            return f"moved {top:.2g} times as far as rounding the weights would (limit {_DIRECT_PASS:g})"
        top = max((c.score or 0.0 for c in checks if "note" not in c.detail), default=0.0)
        note = f"; {len(direct)} outputs without trusted reference" if direct else ""
        return f"error at most {top:.3g} times the original's{note}"


def _of(values: Outputs | None, name: str) -> Any:
    return None if values is None else values.get(name)


def _low_types(source: Source) -> set[str]:
    """Narrow float types in the model's interface and weights: they widen what counts as agreement."""
    model = source.proto
    seen = {p.dtype for p in (*free_inputs(model).values(), *ports(model.graph.output).values())}
    seen |= {_dtype(t.data_type) for t in model.graph.initializer}
    return {str(t) for t in seen if t is not None} & set(_TRUST)


def _dtype(elem: int) -> Any:
    from converter.protos.source import dtype_of

    return dtype_of(elem)


def _unit(values: Outputs | None, name: str) -> float:
    return _UNITS.get(str(getattr(_of(values, name), "dtype", "")), 2.0**-24)


def _with_integers(verdict: Verdict, mismatches: int, ties: int, pair: Gap) -> Verdict:
    """Integers may differ as often as ties make the original itself differ."""
    few = _TIES if pair.discrete >= _SMALL else 0
    if verdict is Verdict.FAIL or mismatches <= PASS_BELOW * ties + few:
        return verdict
    return Verdict.INCONCLUSIVE if mismatches <= FAIL_ABOVE * ties + 10 * few else Verdict.FAIL


def _count(pair: Gap) -> dict[str, int]:
    return {"elements": pair.compared, "mismatches": pair.mismatches}


def _why(pair: Gap, text: str) -> str:
    return f"{pair.mismatches} of {pair.discrete} integers differ" if pair.mismatches else text
