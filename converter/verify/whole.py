"""A pair of models run whole where that can be, rewrite by rewrite where not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from converter.errors import DataError
from converter.protos.reference import Unsupported
from converter.protos.segments import Difference, is_ours
from converter.protos.source import Source
from converter.records import Parity, Stage, Verdict
from converter.verify.algebra import DOUBT_DRAWS, algebra
from converter.verify.local import local
from converter.verify.measure import leaves
from converter.verify.outputs import outputs
from converter.verify.pair import Cases, Options, Side

_MOST_INPUTS = 16
_QUICK = 0.25  # seconds of a float64 run that may be repeated on a larger batch
_ALGEBRA_SECONDS = 8.0  # above which one input must do for what is compared in float64
_PLACES_SECONDS = 4.0
_RUNS = 5  # float64 runs that are still to come after the first one


class Referee:
    """One comparison of two models with the same interface."""

    def __init__(
        self, a: Source, b: Source, options: Options, difference: Difference, stages: list[Stage], warnings: list[str]
    ) -> None:
        self.a, self.b = Side(a, options), Side(b, options)
        self.options = options
        self.difference = difference
        self.stages = stages
        self.warnings = warnings
        self.cases = Cases(self.a, options)

    def judge(self) -> Parity:
        """Whole if it can be run whole, else rewrite by rewrite."""
        self.options.progress("onnxruntime: original")
        try:
            whole = self.cases.fill(1)
        except Unsupported as exc:
            whole, self.cases.why_not = False, f"{self.cases.no_runtime}; {exc}"
        if not whole:
            return self._by_segments(self.cases.why_not)
        if self.cases.random and any(np.size(x) == 0 for x in self.cases.items[0].feeds.values()):
            return self._by_segments("an input holds no element, so that there is nothing to compare")
        exact = self._algebra()
        self.stages.append(exact)
        if self.cases.no_runtime:
            self.stages.append(Stage("runtime", Verdict.SKIPPED, self.cases.no_runtime))
        elif exact.status is not Verdict.FAIL:
            self.stages.append(self._runtime())
        self._look_at_outputs()
        return self._conclude(exact)

    def _algebra(self) -> Stage:
        """Two inputs with a perturbation each; four if that leaves doubt; one where a run takes long."""
        first, begun = self.cases.items[0], time.monotonic()
        self.options.progress("float64: original, input 1")
        try:
            first.exact = first.exact or self.a.reference(first.feeds)
        except Unsupported as exc:
            self.cases.fill(self.options.n_inputs)
            return Stage("algebra", Verdict.SKIPPED, f"float64 reference: {exc}")
        taken = time.monotonic() - begun
        # A larger batch is worth a float64 run only while that is quick; onnxruntime sees it in any case.
        self.cases.same_batch = taken > _QUICK
        self.cases.fill(self.options.n_inputs)
        slow = _RUNS * taken > min(self.options.time_left(), _ALGEBRA_SECONDS)
        used = self.cases.items[:1] if slow else self.cases.items
        stage = algebra(self.a, self.b, used, self.options)
        if stage.status is Verdict.INCONCLUSIVE and self.cases.fill(2 * len(used)):
            draws = 1 if slow else DOUBT_DRAWS
            stage = algebra(self.a, self.b, self.cases.items, self.options, draws)
        return stage

    def _runtime(self) -> Stage:
        """At least two inputs; more while there is doubt and time."""
        while True:
            self._fill_exact()
            extra = self.cases.other_batch() if self.cases.same_batch and not self.options.quick else None
            self.a.close()
            stage = outputs(self.a, self.b, self.cases.items, self.options, extra)
            count = len(self.cases.items)
            enough = count >= _MOST_INPUTS or self.options.time_left() < 0
            if stage.status is not Verdict.INCONCLUSIVE or enough:
                return stage
            self.cases.fill(2 * count)
            if len(self.cases.items) == count:
                return stage

    def _fill_exact(self) -> None:
        """The float64 outputs of every input, where there is a reference."""
        if self.stages[-1].status is Verdict.SKIPPED:
            return
        for k, case in enumerate(self.cases.items):
            if case.exact is None:
                self.options.progress(f"float64: original, input {k + 1}")
                case.exact = self.a.reference(case.feeds)

    def _look_at_outputs(self) -> None:
        runs = [c.runtime or c.exact or {} for c in self.cases.items]
        for name in runs[0]:
            if len(runs) > 1 and _same_for_all(runs[0][name], runs[1][name]):
                self.warnings.append(f"output {name!r} does not depend on the inputs: its parity proves little")
        n_bad = sum(_nonfinite(value) for run in runs for value in run.values())
        if n_bad:
            self.warnings.append(f"the original's outputs hold {n_bad} NaN or Inf elements")

    @property
    def _constant(self) -> bool:
        return sum("does not depend on the inputs" in w for w in self.warnings) == len(self.a.source.proto.graph.output)

    def _conclude(self, exact: Stage) -> Parity:
        checks = [c for s in self.stages[1:] for c in s.outputs]
        trusted = exact.status is Verdict.PASS and not any("note" in c.detail for c in checks)
        proven = any(s.status is Verdict.PASS for s in self.stages[1:])
        level = "B" if trusted and proven and not self.cases.no_runtime and not self._constant else "C"
        segments = self._places(partial=level == "B" or exact.status is Verdict.FAIL)
        self.stages.extend([segments] if segments is not None else [])
        return self._parity(level, "whole-model")

    def _places(self, partial: bool) -> Stage | None:
        """The rewritten places on their own: all of them where the outputs prove little, else what time allows."""
        a, b, options = self.a.source, self.b.source, self.options
        if not partial:
            return local(self.difference, a, b, options, light=not self.cases.no_runtime)
        if options.quick or not is_ours(a, b):
            return None
        deadline = min(options.deadline, time.monotonic() + _PLACES_SECONDS)
        stage = local(self.difference, a, b, replace(options, deadline=deadline), light=True, partial=True)
        return None if stage.status is Verdict.SKIPPED else stage

    def _by_segments(self, reason: str) -> Parity:
        if self.options.inputs is not None and not self.cases.no_runtime:
            raise DataError(f"the inputs that were given cannot be run: {reason}")
        self.warnings.append(f"the model was not run whole: {reason}")
        self.stages.append(local(self.difference, self.a.source, self.b.source, self.options))
        return self._parity("C", "per-rewrite")

    def _parity(self, level: str, scope: str) -> Parity:
        verdict = combined(self.stages)
        numbers = [s for s in self.stages[1:] if s.outputs]
        blamed = next((s for s in numbers if s.status is verdict), None)
        if verdict is Verdict.PASS:
            why = "; ".join(f"{s.id}: {s.why}" for s in numbers)
        elif blamed is not None:
            why = f"{blamed.id}: {blamed.why}"
        else:
            failed = [s for s in self.stages if s.status is verdict]
            why = failed[0].why if failed else "nothing could be compared"
        if not numbers:
            level = "D"
        if scope == "per-rewrite":
            why = f"checked per rewrite: {why}"
        return Parity(verdict, level, tuple(self.stages), tuple(self.warnings), scope, why)


def combined(stages: Sequence[Stage]) -> Verdict:
    """FAIL if any stage fails, INCONCLUSIVE if any is or no numbers were compared, else PASS."""
    seen = [s.status for s in stages]
    if Verdict.FAIL in seen:
        return Verdict.FAIL
    compared = [s for s in stages if s.id != "structure" and s.status is Verdict.PASS]
    return Verdict.INCONCLUSIVE if Verdict.INCONCLUSIVE in seen or not compared else Verdict.PASS


def _same_for_all(first: Any, second: Any) -> bool:
    """Whether two different inputs gave the same output, row by row where the batch size differs."""
    left, right = leaves(first), leaves(second)
    if len(left) != len(right):
        return False
    return all(_equal_rows(x, y) for x, y in zip(left, right, strict=True))


def _equal_rows(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> bool:
    if x.dtype.kind == "V" or x.dtype != y.dtype:
        return False
    nan = x.dtype.kind == "f"
    if x.shape == y.shape:
        return bool(np.array_equal(x, y, equal_nan=nan))
    if x.shape[1:] != y.shape[1:] or not x.ndim or not len(x) or not len(y):
        return False
    return all(np.array_equal(x[0], row, equal_nan=nan) for row in (*x, *y))


def _nonfinite(value: Any) -> int:
    return sum(int(np.count_nonzero(~np.isfinite(x))) for x in leaves(value) if x.dtype.kind == "f")
