"""The runtime stage: both models on onnxruntime, B's error over A's, and the limits (3, 10) it is judged by.

Both models on onnxruntime, optimisations off, judged by their distance from the float64 reference.

R is the rewritten model's error over the original's. The reference counts, output by output, only if it agrees
with onnxruntime on the original: a wrong one would make R about 1 whatever the bug. Without it the two models
are held against each other, the yardstick being how far onnxruntime's own output moves when every weight of
the original is perturbed by its rounding error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any

import numpy as np

from converter.dataclass import dataclass
from converter.errors import DataError, ModelError
from converter.records import OutputCheck, Stage, Verdict
from converter.records.evidence import worst_verdict
from converter.referee.inputs.stream import list_arrays
from converter.referee.proto.copies import perturb_weights
from converter.referee.proto.source import LoadedModel, get_dtype, list_free_inputs, read_ports, walk_nodes
from converter.referee.reference.kernels import Unsupported
from converter.referee.verify.metrics import (
    Difference,
    apply_tolerances,
    compute_metrics,
    is_number,
    measure_difference,
    sum_differences,
)
from converter.referee.verify.models import ModelInput, ModelUnderTest, Outputs
from converter.referee.verify.options import Options
from converter.referee.verify.structure import find_natural_scale, rounding_decides

# How far two correct computations of one answer may be apart before one of them is not of that type at all.
_TRUST = {"float16": 3e-2, "bfloat16": 0.25}
_TRUST_ELSE = 1e-3
_UNITS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float64": 2.0**-53}


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """What else the judgement of a stage rests on."""

    noise: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of the original against itself
    trusted: frozenset[str] = frozenset()  # outputs whose reference has earned its trust at strict precision
    strict: Sequence[Outputs] = ()  # what the original gave there
    extra: Sequence[ModelInput] = ()  # of other sizes, without a float64 run: held to the errors of the others


def _count_flipped(before: Any, after: Any) -> int:
    """Elements that are further apart than float arithmetic explains: a quantizer's step, or what became of one."""
    count = 0
    for x, y in zip(list_arrays(before), list_arrays(after), strict=True):
        if is_number(x) and x.shape == y.shape and x.size:
            left, right = (np.asarray(v, np.float64) for v in (x, y))
            size = float(np.max(np.abs(left), initial=0.0, where=np.isfinite(left)))
            with np.errstate(all="ignore"):
                count += int(np.count_nonzero(np.abs(left - right) > _FLIPPED * size))
    return count


def find_furthest(cases: Sequence[ModelInput], after: Sequence[Outputs]) -> int:
    """Which input shows the difference best."""
    distances = []
    for case, got in zip(cases, after, strict=True):
        gaps = [measure_difference(value, got.get(name)) for name, value in (case.runtime or {}).items()]
        distances.append(max((math.inf if g.problem or g.mismatches else g.relative for g in gaps), default=0.0))
    return max(range(len(cases)), key=distances.__getitem__, default=0)


def _count_lost(exact: Any, ran: Any) -> int:
    if not (is_number(exact) and is_number(ran)) or exact.shape != ran.shape:
        return 0
    with np.errstate(all="ignore"):
        return int(np.count_nonzero(np.isfinite(exact) & ~np.isfinite(ran.astype(exact.dtype))))


def get_output(values: Outputs | None, name: str) -> Any:
    return None if values is None else values.get(name)


def _find_narrow_types(source: LoadedModel) -> set[str]:
    """Narrow float types in the model's interface and weights: they widen what counts as agreement."""
    model = source.proto
    seen = {p.dtype for p in (*list_free_inputs(model).values(), *read_ports(model.graph.output).values())}
    seen |= {get_dtype(t.data_type) for t in model.graph.initializer}
    return {str(t) for t in seen if t is not None} & set(_TRUST)


def get_unit(values: Outputs | None, name: str) -> float:
    return _get_unit_of(get_output(values, name))


def _get_unit_of(value: Any) -> float:
    """The unit roundoff of a value's type; float32's for what is no float."""
    return _UNITS.get(str(getattr(value, "dtype", "")), 2.0**-24)


def find_trust_limit(source: LoadedModel) -> float:
    """How far the reference may be from onnxruntime, as a part of the output, and still count."""
    return max([_TRUST.get(t, _TRUST_ELSE) for t in _find_narrow_types(source)], default=_TRUST_ELSE)


def describe_overflow(cases: Sequence[ModelInput], name: str) -> str:
    """Where the original is not finite although it should be, in float64; empty where it is nowhere."""
    count = 0
    for case in cases:
        if case.exact is not None and name in case.exact:
            count += sum(
                _count_lost(x, y)
                for x, y in zip(
                    list_arrays(case.exact[name]), list_arrays(get_output(case.runtime, name)), strict=False
                )
            )
    return f"the original overflows: {count} elements are finite in float64 only" if count else ""


PASS_BELOW, PASS_BELOW_SMALL, FAIL_ABOVE = 3.0, 5.0, 10.0
_SMALL = 1000  # elements below which noise dominates the ratio
# Direct comparison: correct folds reach 8 times the perturbation (two fp32 runs differ by more than their
# weights' rounding does), the smallest injected bugs 150.
_DIRECT_PASS, _DIRECT_FAIL = 16.0, 100.0
_TIES = 3
_FLIPPED = 2.0**-14  # of the largest element
_QUANTIZERS = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}
_GRID = 2.0**-25  # of a sigmoid or a softmax, which come as parts of 1: 3e-8


def judge_outputs(
    a: ModelUnderTest,
    b: ModelUnderTest,
    cases: Sequence[ModelInput],
    options: Options,
    ground: NoiseFloor | None = None,
    name: str = "runtime",
) -> Stage:
    """The stage over ``cases``, whose runs of the original are there already."""
    ground = ground or NoiseFloor()
    try:
        options.progress("onnxruntime: rewritten model")
        after = [b.run(case.feeds) for case in cases]
        beyond = [b.run(case.feeds) for case in ground.extra]
    except (DataError, ModelError) as exc:
        return Stage(name, Verdict.FAIL, f"the original runs, the rewritten model does not: {exc}")
    finally:
        b.close()
    judge = _Judge(a, cases, after, options, ground)
    names = read_ports(a.source.proto.graph.output)
    checks = tuple(judge.check(name) for name in names)
    for case, got in zip(ground.extra, beyond, strict=True):
        checks = tuple(judge.check_other_size(c, n, case, got) for n, c in zip(names, checks, strict=True))
    detail = {"inputs": len(cases), "furthest_input": find_furthest(cases, after)}
    return Stage(name, worst_verdict(c.status for c in checks), judge.summarize(checks), checks, detail)


def judge_new_input(
    a: ModelUnderTest, b: ModelUnderTest, feeds: Mapping[str, Any], like: ModelInput, options: Options
) -> Stage | None:
    """The stage over an input that nothing has run yet, in the types of ``like``; None if the original refuses it."""
    types = {name: np.asarray(value).dtype for name, value in like.feeds.items()}
    typed = {name: np.asarray(value).astype(types[name]) for name, value in feeds.items() if name in types}
    try:
        case = ModelInput(typed, a.run(typed), a.reference(typed))
    except (DataError, Unsupported):
        return None
    finally:
        a.close()
    return judge_outputs(a, b, [case], options)


class _Judge:
    """The runs of one stage; the perturbed run is made only if an output needs it."""

    def __init__(
        self,
        a: ModelUnderTest,
        cases: Sequence[ModelInput],
        after: Sequence[Outputs],
        options: Options,
        ground: NoiseFloor,
    ) -> None:
        self._a = a
        self._ground = ground
        self._cases = cases
        self._after = after
        self._options = options
        self._noise: dict[int, Outputs] = {}  # by the place in memory of the case
        self._trust = find_trust_limit(a.source)
        self._has_steps = any(n.op_type in _QUANTIZERS for n in walk_nodes(a.source.proto))
        self._stepped: Outputs | None = None  # what the original gives as deployed

    def check(self, name: str) -> OutputCheck:
        """One output over all cases, with the usual measures beside the judgement."""
        values = [
            (get_output(c.runtime, name), get_output(g, name)) for c, g in zip(self._cases, self._after, strict=True)
        ]
        pair = sum_differences(measure_difference(x, y) for x, y in values)
        if pair.problem:
            return self._judge_one_sided(name, pair.problem)
        if not pair.compared:
            return self._explain_nothing(name, pair)
        measures, histogram = compute_metrics(values)
        check = self._judge_difference(name, pair)
        more: dict[str, Any] = {
            "classic": measures,
            "hist_log10_abs": histogram,
            "noise": dict(self._ground.noise.get(name, {})),
        }
        if text := describe_overflow(self._cases, name):
            more["overflow"] = text
        if self._has_steps:
            more["flipped"] = sum(_count_flipped(x, y) for x, y in values)
        check = replace(check, detail=check.detail | {k: v for k, v in more.items() if v})
        return apply_tolerances(check, measures, self._options.tolerances)

    def check_other_size(self, check: OutputCheck, name: str, case: ModelInput, got: Outputs) -> OutputCheck:
        """Another size of the inputs: |B - A| is at most the sum of this output's errors, or what rounding moves."""
        pair = measure_difference(get_output(case.runtime, name), get_output(got, name))
        errors = ("error_before", "error_after", "distance", "yardstick")
        expected = max(sum(float(check.detail.get(k, 0.0)) for k in errors), 8 * 2.0**-24)
        if check.status is Verdict.FAIL or not (pair.problem or pair.relative > FAIL_ABOVE * expected):
            return check
        moved = measure_difference(get_output(case.runtime, name), get_output(self._run_perturbed(case), name))
        if not pair.problem and pair.rms <= FAIL_ABOVE * max(moved.rms, self._find_grid(name)):
            return check
        why = pair.problem or f"moved {pair.relative / expected:.3g} times as far as the error allows"
        return replace(check, status=Verdict.FAIL, why=f"with inputs of another size: {why}")

    def _find_grid(self, name: str) -> float:
        """How far apart two correct results of the operator that makes an output may be, whatever their size."""
        return _GRID if find_natural_scale(self._a.source, name) else 0.0

    def _judge_one_sided(self, name: str, problem: str) -> OutputCheck:
        """Not finite on one side. Where that is the original's fault alone, the rewritten model is the better one."""
        lost = describe_overflow(self._cases, name)
        reference = self._measure_reference(name) if lost else None
        if reference is None or reference[1].problem or reference[1].relative > self._trust:
            return OutputCheck(name, Verdict.FAIL, math.inf, PASS_BELOW, why=lost or problem)
        error = reference[1].relative
        detail = {"overflow": f"{lost}; the rewritten model is right there", "error_after": error}
        return OutputCheck(name, Verdict.PASS, detail=detail)

    def _explain_nothing(self, name: str, pair: Difference) -> OutputCheck:
        if pair.nonfinite:
            why = "nothing to compare: no finite element"
            detail: dict[str, Any] = {"nonfinite": pair.nonfinite}
            if text := describe_overflow(self._cases, name):
                detail["overflow"] = text
            return OutputCheck(name, Verdict.INCONCLUSIVE, detail=detail, why=why)
        return OutputCheck(name, Verdict.FAIL, why="nothing was compared: the output holds no element")

    def _judge_difference(self, name: str, pair: Difference) -> OutputCheck:
        reference = self._measure_reference(name)
        if reference is None:
            return self._judge_direct(name, pair, "no float64 reference")
        mine, theirs = reference
        if mine.problem:
            return self._judge_direct(name, pair, f"reference not trusted: {mine.problem}")
        scale = max(mine.size, find_natural_scale(self._a.source, name))
        known = self._ground.trusted if self._ground.strict else None
        if pair.count and (mine.rms > self._trust * scale if known is None else name not in known):
            why = "" if known is not None else f": {mine.rms / scale:.1e} from onnxruntime"
            return self._judge_direct(name, pair, f"reference not trusted{why}")
        return self._judge_ratio(name, pair, mine, theirs)

    def _measure_reference(self, name: str) -> tuple[Difference, Difference] | None:
        if any(c.exact is None for c in self._cases):
            return None
        mine = sum_differences(
            measure_difference(get_output(c.exact, name), get_output(c.runtime, name)) for c in self._cases
        )
        theirs = sum_differences(
            measure_difference(get_output(c.exact, name), get_output(g, name))
            for c, g in zip(self._cases, self._after, strict=True)
        )
        return mine, theirs

    def _judge_ratio(self, name: str, pair: Difference, mine: Difference, theirs: Difference) -> OutputCheck:
        asked = self._options.max_ratio
        limit = asked if asked is not None else PASS_BELOW_SMALL if pair.count < _SMALL else PASS_BELOW
        unit_ = get_unit(self._cases[0].runtime, name)
        # What a provider that gives other numbers every time adds by itself is no error of the rewrite.
        own = max(mine.rms, mine.size * max(self._ground.noise.get(name, {"": 0.0}).values()))
        score = 1.0 if theirs.square == mine.square else math.inf if not own else theirs.rms / own
        if score <= limit or theirs.relative <= 8 * unit_ or self._is_rounding(name, theirs, limit):
            verdict = Verdict.PASS
        else:
            verdict = Verdict.FAIL if score > self._options.fail_ratio else Verdict.INCONCLUSIVE
        verdict = self._judge_integers(verdict, theirs.mismatches, mine.mismatches, pair, name)
        detail = {"error_before": mine.relative, "error_after": theirs.relative, "nonfinite": pair.nonfinite}
        why = "" if verdict is Verdict.PASS else _explain(pair, f"error is {score:.3g} times the original's")
        return OutputCheck(name, verdict, score, limit, pair.max_abs, detail=detail | _describe_counts(pair), why=why)

    def _is_rounding(self, name: str, theirs: Difference, limit: float) -> bool:
        """Whether an error is no more than one rounding of each weight, or the grid of the last operator, makes.

        The original's own error may be small by luck, or 0.
        """
        first = self._cases[0]
        moved = measure_difference(get_output(first.runtime, name), get_output(self._run_perturbed(first), name))
        steps = self._measure_steps(name)
        usual = max(0.0 if g.problem else g.rms for g in (moved, steps))
        return theirs.rms <= limit * max(usual, self._find_grid(name))

    def _measure_steps(self, name: str) -> Difference:
        """How far the original itself moves where a quantizer's step flips: as deployed beside strict.

        A value that lies on the border of two steps is either, and which one hangs on the order of the arithmetic:
        onnxruntime's own integer kernels decide otherwise than its separate operators do.
        """
        first = self._cases[0]
        if not self._has_steps or self._ground.strict or self._options.provider != "cpu":
            return Difference()
        if self._stepped is None:
            self._options.progress("onnxruntime as deployed: original, for its quantizers' steps")
            side = ModelUnderTest(self._a.source, self._options, deployed=True)
            try:
                self._stepped = side.run(first.feeds)
            except (DataError, ModelError):
                self._stepped = {}
            finally:
                side.close()
        if name not in self._stepped:
            return Difference()
        return measure_difference(get_output(first.runtime, name), self._stepped[name])

    def _judge_direct(self, name: str, pair: Difference, note: str) -> OutputCheck:
        """Without a reference: the distance of B from A, by how far onnxruntime's A moves under perturbation."""
        noise = measure_difference(
            get_output(self._cases[0].runtime, name), get_output(self._run_perturbed(self._cases[0]), name)
        )
        unit_ = get_unit(self._cases[0].runtime, name)
        own = (
            measure_difference(get_output(x, name), get_output(c.runtime, name))
            for x, c in zip(self._ground.strict, self._cases, strict=False)
        )
        moved = [noise, sum_differences(own), self._measure_steps(name)]
        yardstick = max(unit_, *(g.relative for g in moved if math.isfinite(g.relative)))
        yardstick = max(yardstick, *self._ground.noise.get(name, {"": 0.0}).values())
        score = pair.relative / yardstick
        if noise.problem:
            verdict = Verdict.INCONCLUSIVE
        elif score <= _DIRECT_PASS:
            verdict = Verdict.PASS
        else:
            verdict = Verdict.FAIL if score > _DIRECT_FAIL else Verdict.INCONCLUSIVE
        verdict = self._judge_integers(verdict, pair.mismatches, noise.mismatches, pair, name)
        detail = {"note": note, "distance": pair.relative, "yardstick": yardstick, "nonfinite": pair.nonfinite}
        why = (
            "" if verdict is Verdict.PASS else noise.problem or _explain(pair, f"moved {score:.3g} times the yardstick")
        )
        return OutputCheck(
            name, verdict, score, _DIRECT_PASS, pair.max_abs, detail=detail | _describe_counts(pair), why=why
        )

    def _judge_integers(self, verdict: Verdict, mismatches: int, ties: int, pair: Difference, name: str) -> Verdict:
        """Integers may differ as often as ties make the original itself differ."""
        few = _TIES if pair.discrete >= _SMALL and rounding_decides(self._a.source, name) else 0
        if verdict is Verdict.FAIL or mismatches <= PASS_BELOW * ties + few:
            return verdict
        return Verdict.INCONCLUSIVE if mismatches <= FAIL_ABOVE * ties + 10 * few else Verdict.FAIL

    def _run_perturbed(self, case: ModelInput) -> Outputs:
        if id(case) not in self._noise:
            self._options.progress("onnxruntime: original with perturbed weights")
            source = self._a.source
            moved = LoadedModel(
                perturb_weights(source.proto, self._options.seed, source.folder), source.label, None, source.folder
            )
            self._noise[id(case)] = ModelUnderTest(moved, self._options).run(case.feeds)
        return self._noise[id(case)]

    def summarize(self, checks: Sequence[OutputCheck]) -> str:
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


def _describe_counts(pair: Difference) -> dict[str, int]:
    return {"elements": pair.compared, "mismatches": pair.mismatches}


def _explain(pair: Difference, text: str) -> str:
    return f"{pair.mismatches} of {pair.discrete} integers differ" if pair.mismatches else text


_SAME = 1e-8  # of two float64 runs: sums of a million terms in another order are 1e-10 apart


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
    pair = _sum_over_inputs(before, after)
    if pair.problem:
        return OutputCheck(name, Verdict.FAIL, math.inf, PASS_BELOW, why=pair.problem)
    if not pair.compared:
        return OutputCheck(name, Verdict.INCONCLUSIVE, why="nothing to compare: no finite element")
    unit = max(_get_unit_of(value) for value in before)
    if exact is None:
        return _judge_by_last_bits(name, pair, unit)
    mine, theirs = _sum_over_inputs(exact, before), _sum_over_inputs(exact, after)
    if mine.problem or mine.relative > _TRUST.get(str(before[0].dtype), _TRUST_ELSE):
        return _judge_by_last_bits(name, pair, unit)
    return _judge_by_ratio(name, pair, mine, theirs, unit, fail_ratio)


def judge_exact(name: str, before: Sequence[Any], after: Sequence[Any]) -> OutputCheck:
    """One output of which both models were run in float64: they agree as far as float64 goes, or they differ."""
    pair = _sum_over_inputs(before, after)
    detail: dict[str, Any] = {"note": "float64 alone", "distance": pair.relative, "elements": pair.compared}
    if pair.problem or not pair.compared:
        why = pair.problem or "nothing to compare: no finite element"
        return OutputCheck(name, Verdict.FAIL if pair.problem else Verdict.INCONCLUSIVE, detail=detail, why=why)
    score = pair.relative
    if score <= _SAME and not pair.mismatches:
        return OutputCheck(name, Verdict.PASS, score, _SAME, pair.max_abs, detail=detail)
    why = f"in float64 the two are {score:.2g} apart"
    return OutputCheck(name, Verdict.FAIL, score, _SAME, pair.max_abs, detail=detail, why=why)


def _sum_over_inputs(left: Sequence[Any], right: Sequence[Any]) -> Difference:
    return sum_differences(measure_difference(x, y) for x, y in zip(left, right, strict=True))


def _judge_by_ratio(
    name: str, pair: Difference, mine: Difference, theirs: Difference, unit: float, fail_ratio: float
) -> OutputCheck:
    limit = PASS_BELOW_SMALL if pair.count < _SMALL else PASS_BELOW
    score = 1.0 if theirs.square == mine.square else math.inf if not mine.rms else theirs.rms / mine.rms
    near = score <= limit or theirs.relative <= 8 * unit
    detail = {"error_before": mine.relative, "error_after": theirs.relative, "nonfinite": pair.nonfinite}
    detail |= {"elements": pair.compared, "mismatches": pair.mismatches}
    # Integers may differ as often as ties make the original differ from its own reference.
    if pair.discrete and theirs.mismatches > PASS_BELOW * mine.mismatches:
        why = f"{pair.mismatches} of {pair.discrete} integers differ"
        return OutputCheck(name, Verdict.FAIL, score, limit, pair.max_abs, detail=detail, why=why)
    if near:
        return OutputCheck(name, Verdict.PASS, score, limit, pair.max_abs, detail=detail)
    verdict = Verdict.FAIL if score > fail_ratio else Verdict.INCONCLUSIVE
    return OutputCheck(
        name, verdict, score, limit, pair.max_abs, detail=detail, why=f"error is {score:.3g} times the original's"
    )


def _judge_by_last_bits(name: str, pair: Difference, unit: float) -> OutputCheck:
    """Without a reference: the same up to the last bits, or undecided."""
    score = pair.relative / unit
    detail = {"note": "no float64 reference", "distance": pair.relative, "elements": pair.compared}
    detail["mismatches"] = pair.mismatches
    if pair.mismatches:
        why = f"{pair.mismatches} of {pair.discrete} integers differ"
        return OutputCheck(name, Verdict.FAIL, score, 8.0, pair.max_abs, detail=detail, why=why)
    if score <= 8:
        return OutputCheck(name, Verdict.PASS, score, 8.0, pair.max_abs, detail=detail)
    why = f"no float64 reference, and the two are {pair.relative:.2g} apart"
    return OutputCheck(name, Verdict.INCONCLUSIVE, score, 8.0, pair.max_abs, detail=detail, why=why)
