"""A pair of models run whole where that can be, rewrite by rewrite where not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from converter.errors import DataError
from converter.protos.meaning import same_computation
from converter.protos.reference import Unsupported
from converter.protos.segments import Difference, is_ours
from converter.protos.source import Source
from converter.records import Parity, Stage, Verdict
from converter.verify.algebra import DOUBT_DRAWS, algebra
from converter.verify.conclusion import conclude, look_at_outputs
from converter.verify.decision import decision
from converter.verify.grounds import Ground
from converter.verify.idle import idle, together
from converter.verify.local import local
from converter.verify.local_replay import Replay
from converter.verify.measure import apart
from converter.verify.options import Options
from converter.verify.outputs import outputs
from converter.verify.pair import Case, Cases
from converter.verify.parameters import parameters
from converter.verify.side import Side

_MOST_INPUTS = 16
_QUICK = 0.25  # seconds of a float64 run that may be repeated on a larger batch
_ALGEBRA_SECONDS = 8.0  # above which one input must do for what is compared in float64
_PLACES_SECONDS = 4.0
_RUNS = 5  # float64 runs that are still to come after the first one
_SHARE = 1 / 3  # of the time, that more inputs of the user's may take


class Referee:
    """One comparison of two models with the same interface."""

    def __init__(
        self, a: Source, b: Source, options: Options, difference: Difference, stages: list[Stage], warnings: list[str]
    ) -> None:
        self.a, self.b = Side(a, options), Side(b, options)
        # Once for both stages, since proving where they run may take an engine's making.
        self.deployed = Side(a, options, deployed=True), Side(b, options, deployed=True)
        self.options = options
        self.difference = difference
        self.stages = stages
        self.warnings = warnings
        self.cases = Cases(self.a, options)
        self.no_reference = ""  # why there is none
        listens = self._asks("local") and not options.quick
        self.replay = Replay(difference, a, b, options, ours=is_ours(a, b)) if listens else None
        self.failing: list[dict[str, Any]] = []

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
        exact = self._timed(self._algebra)
        if self._asks("algebra"):
            self.stages.append(exact)
        self._parameters()
        if self.cases.no_runtime:
            self.stages.append(Stage("runtime", Verdict.SKIPPED, self.cases.no_runtime))
        elif self._asks("runtime"):
            self._runtimes()
        if self._asks("decision"):
            self.stages.append(self._decision())
        look_at_outputs(self)
        return self._conclude(exact)

    def _asks(self, stage: str) -> bool:
        return stage in self.options.stages

    def _timed(self, make: Callable[[], Stage]) -> Stage:
        begun = time.monotonic()
        return replace(make(), seconds=round(time.monotonic() - begun, 3))

    def _algebra(self) -> Stage:
        """Two inputs with a perturbation each; four if that leaves doubt; one where a run takes long."""
        first, begun = self.cases.items[0], time.monotonic()
        self.options.progress("float64: original, input 1")
        try:
            first.exact = first.exact or self.a.reference(first.feeds, watch=self.replay)
        except Unsupported as exc:
            self.cases.fill(self.options.n_inputs)
            self.no_reference = f"float64 reference: {exc}"
            return Stage("algebra", Verdict.SKIPPED, self.no_reference)
        taken = time.monotonic() - begun - (self.replay.seconds if self.replay is not None else 0.0)
        # A larger batch is worth a float64 run only while that is quick; onnxruntime sees it in any case.
        self.cases.same_batch = taken > _QUICK
        self.cases.fill(self.options.n_inputs)
        if not self._asks("algebra"):
            return Stage("algebra", Verdict.SKIPPED, "not asked for")
        slow = _RUNS * taken > min(self.options.time_left(), _ALGEBRA_SECONDS)
        used = self.cases.items[:1] if slow else self.cases.items
        stage = algebra(self.a, self.b, used, self.options)
        if stage.status is Verdict.INCONCLUSIVE and self.cases.fill(2 * len(used)):
            draws = 1 if slow else DOUBT_DRAWS
            stage = algebra(self.a, self.b, self.cases.items, self.options, draws)
        return stage  # also where the rewritten model has no reference: the original's judges both at run time

    def _parameters(self) -> None:
        if self._asks("parameters"):
            stage = self._timed(lambda: parameters(self.a.source, self.b.source, self.difference, self.options))
            self.stages.append(stage)

    def _runtimes(self) -> None:
        """At strict precision, without optimisations; then as deployed, judged by the same reference."""
        strict = self._timed(self._runtime)
        gate = self.options.gate
        if gate == "as-deployed" and strict.status is not Verdict.PASS:
            why = f"no gate as deployed, and {strict.status.value} at strict precision: {strict.why}"
            self.stages.append(replace(strict, status=Verdict.SKIPPED, why=why))
        else:
            self.stages.append(strict)
        if gate != "strict" and not self.options.quick and strict.outputs:
            self.stages.append(self._timed(lambda: self._deployed(strict)))

    def _runtime(self) -> Stage:
        """At least two inputs; more of the user's while there is time; more of any while there is doubt."""
        while len(self.cases.items) < self.options.wanted and self.options.spent() < _SHARE:
            count = len(self.cases.items)
            if not self.cases.fill(count + 1) or len(self.cases.items) == count:
                break
            self._fill_exact()
        noise = self._noise()
        while True:
            self._fill_exact()
            extra = self.cases.other_sizes()
            self.a.close()
            stage = outputs(self.a, self.b, self.cases.items, self.options, Ground(noise, extra=extra))
            count = len(self.cases.items)
            enough = count >= _MOST_INPUTS or self.options.time_left() < 0
            if stage.status is not Verdict.INCONCLUSIVE or enough:
                return stage
            self.cases.fill(2 * count)
            if len(self.cases.items) == count:
                return stage

    def _noise(self) -> dict[str, dict[str, float]]:
        """How far the original is from itself, run again and in a second session, whose profile says where it ran."""
        if self.options.quick and self.options.provider == "cpu":
            return {}
        self.options.progress("onnxruntime: original again")
        first = self.cases.items[0]
        rerun, resession = self.a.run(first.feeds), self.a.again(first.feeds)
        names = first.runtime or {}
        found = {n: {"rerun": apart(v, rerun[n]), "resession": apart(v, resession[n])} for n, v in names.items()}
        if any(max(each.values()) for each in found.values()):
            self.warnings.append("the original gives other numbers when it is run again; that noise counts as its own")
        return found

    def _deployed(self, strict: Stage) -> Stage:
        a, b = self.deployed
        self.options.progress("onnxruntime as deployed: original")
        try:
            cases = [Case(c.feeds, a.run(c.feeds), c.exact) for c in self.cases.items]
        except DataError as exc:
            return Stage("runtime-deployed", Verdict.SKIPPED, f"the original does not run as deployed: {exc}")
        finally:
            a.close()
        trusted = frozenset(c.name for c in strict.outputs if "error_before" in c.detail)
        ground = Ground(trusted=trusted, strict=[c.runtime or {} for c in self.cases.items])
        stage = outputs(a, b, cases, self.options, ground, "runtime-deployed")
        return replace(stage, detail=stage.detail | {"opt_level": self.options.opt_level})

    def _decision(self) -> Stage:
        if self.options.stream is None:
            return Stage("decision", Verdict.SKIPPED, "needs real inputs; give them with --inputs or --images")
        if self.cases.no_runtime:
            return Stage("decision", Verdict.SKIPPED, self.cases.no_runtime)
        if self.options.quick:
            return Stage("decision", Verdict.SKIPPED, "left out by --quick")
        begun = time.monotonic()
        decided = decision(*self.deployed, self.options)
        self.failing = decided.failing
        return replace(decided.stage, seconds=round(time.monotonic() - begun, 3))

    def _fill_exact(self) -> None:
        """The float64 outputs of every input, where there is a reference."""
        for k, case in enumerate(self.cases.items):
            if case.exact is None and not self.no_reference:
                self.options.progress(f"float64: original, input {k + 1}")
                try:
                    case.exact = self.a.reference(case.feeds)
                except Unsupported as exc:  # what an operator is given may be what it cannot do
                    self.no_reference = f"float64 reference: {exc}"

    @property
    def constant(self) -> bool:
        """Whether no output depends on the inputs."""
        return sum("does not depend on the inputs" in w for w in self.warnings) == len(self.a.source.proto.graph.output)

    def _conclude(self, exact: Stage) -> Parity:
        checks = [c for s in self.stages if s.id in ("algebra", "runtime") for c in s.outputs]
        trusted = exact.status is Verdict.PASS and not any("note" in c.detail for c in checks)
        proven = any(s.status is Verdict.PASS for s in self.stages if s.id in ("algebra", "runtime"))
        level = "B" if trusted and proven and not self.cases.no_runtime and not self.constant else "C"
        if self._asks("local"):
            replayed = None if self.replay is None else self.replay.stage()
            # Errors against a trusted reference say enough, also where the rewritten model has none of its own.
            told = proven and bool(checks) and not self.constant and not any("note" in c.detail for c in checks)
            partial = told or exact.status is Verdict.FAIL
            segments = None if partial and replayed is not None else self._places(partial=partial)
            places = together(segments, idle(self))
            self.stages.extend(s for s in (replayed, places) if s is not None)
        decided = next((s for s in self.stages if s.id == "decision"), None)
        if level == "B" and decided is not None and decided.status is Verdict.PASS:
            level = "A"
        return conclude(self, level, "whole-model")

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
        if self.options.stream is not None and not self.cases.no_runtime:
            raise DataError(f"the inputs that were given cannot be run: {reason}")
        self.warnings.append(f"the model was not run whole: {reason}")
        self._parameters()
        places = local(self.difference, self.a.source, self.b.source, self.options)
        if places.status in (Verdict.PASS, Verdict.SKIPPED) and not self._is_all():
            why = f"{places.why}; something else differs, which could not be cut out and run"
            places = replace(places, status=Verdict.INCONCLUSIVE, why=why)
        self.stages.append(places)
        return conclude(self, "C", "per-rewrite")

    def _is_all(self) -> bool:
        """Whether the models are one computation if the places that were compared are the same."""
        return same_computation(self.a.source, self.b.source, [s.name for s in self.difference.segments])
