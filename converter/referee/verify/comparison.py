"""A pair of models run whole where that can be, rewrite by rewrite where not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import DataError
from converter.records import Parity, Stage, Verdict
from converter.records.choices import StageId
from converter.records.evidence import Warning, WarningCode
from converter.referee.proto.diff import ChangedRegions
from converter.referee.proto.source import LoadedModel, count_stored_bytes, walk_nodes
from converter.referee.proto.structural_hash import is_same_computation
from converter.referee.reference.kernels import Unsupported
from converter.referee.unreached.driving import SURELY, Witness
from converter.referee.unreached.places import drive_alone, drive_places
from converter.referee.verify.algebra import DOUBT_DRAWS, judge_algebra
from converter.referee.verify.decisions import run_decisions
from converter.referee.verify.metrics import measure_distance
from converter.referee.verify.models import ModelInput, ModelInputs, ModelUnderTest, Outputs
from converter.referee.verify.options import Options, find_folds
from converter.referee.verify.outputs import NoiseFloor, judge_new_input, judge_outputs
from converter.referee.verify.parameters import check_parameters, settle_parameters
from converter.referee.verify.precision import PrecisionCheck, check_beside_cpu, check_precision
from converter.referee.verify.proof import bound_rounding, is_recomputed, name_smoke, run_smoke_test
from converter.referee.verify.region_replay import Driver, RegionReplay, run_regions
from converter.referee.verify.structure import Claim, check_claims
from converter.referee.verify.verdict import (
    Fact,
    conclude,
    describe_outputs,
    describe_tf32,
    describe_unexecuted,
    find_constant_outputs,
    find_facts,
    find_unexecuted,
    merge_stages,
    outputs_suffice,
)

if TYPE_CHECKING:
    pass

_RUN_INPUTS = (StageId.ALGEBRA, StageId.LOCAL, StageId.SEGMENTS, StageId.RUNTIME, StageId.RUNTIME_DEPLOYED)

LARGE = 1_000_000_000  # bytes of a model, above which a proof is not followed by a run unless memory is given for it
MANY_NODES = 5_000  # above which a smoke test does without onnxruntime's optimisations
_MOST_INPUTS = 16
_QUICK = 0.25  # seconds of a float64 run that may be repeated on a larger batch
_ALGEBRA_SECONDS = 8.0  # above which one input must do for what is compared in float64
_PLACES_SECONDS = 4.0
_RUNS = 5  # float64 runs that are still to come after the first one
_PRECISION_INPUTS = 2  # that a GPU's float32 is proved on
_SHARE = 1 / 3  # of the time, that more inputs of the user's may take


class Referee:
    """One comparison of two models with the same interface."""

    def __init__(
        self,
        a: LoadedModel,
        b: LoadedModel,
        options: Options,
        difference: ChangedRegions,
        stages: list[Stage],
        warnings: list[Warning],
        claims: Sequence[Claim] = (),
        written_out: tuple[LoadedModel, LoadedModel] | None = None,
    ) -> None:
        of_a, of_b = options.for_side(0), options.for_side(1)
        self.a, self.b = ModelUnderTest(a, of_a), ModelUnderTest(b, of_b)
        self.cut = written_out or (a, b)  # what the difference is of; what runs whole is each as it is
        self.ours = find_folds(a, b, options) > 0
        # Once for both stages, since proving where they run may take an engine's making.
        self.deployed = ModelUnderTest(a, of_a, deployed=True), ModelUnderTest(b, of_b, deployed=True)
        self.options = options
        self.difference = difference
        self.stages = stages
        self.warnings = warnings
        self.claims = claims
        self.cases = ModelInputs(self.a, options)
        self.ran = self.a, self.b  # as they ran
        self.other_sizes: list[ModelInput] = []
        self.no_reference = ""  # why there is none
        listens = self._asks("local") and not options.quick
        self.replay = RegionReplay(difference, *self.cut, options, ours=self.ours) if listens else None
        self.constant: list[str] = []  # outputs that do not depend on the inputs
        self.failing: list[dict[str, Any]] = []

    def judge(self) -> Parity:
        """By proof where there is one; else whole if it can be run whole; else rewrite by rewrite."""
        self._parameters()
        proved = self._prove()
        return proved if proved is not None else self._judge_by_outputs()

    def _prove(self) -> Parity | None:
        """A fold of this tool's own, recomputed number by number, that one run does not contradict; None if not."""
        (a, b), options = self.cut, self.options
        parameters = self.parameters
        on_cpu = options.provider == "cpu" and not options.is_crossed  # elsewhere the precision of the run is looked at
        if parameters is None or not options.by_proof or not self.ours or not on_cpu:
            return None
        if not is_recomputed(a, b, self.difference, parameters):
            return None
        case = None if self._is_too_large() else self._run_first()
        begun = time.monotonic()
        local = bound_rounding(a, b, self.difference, parameters, case, options)
        if local is None:
            return None
        local = replace(local, seconds=round(time.monotonic() - begun, 3))
        ran = case is not None and case.runtime is not None
        if case is not None and ran:
            begun = time.monotonic()
            smoke = run_smoke_test(*self._smoking, case, self.difference, self._smoke_options)
            if smoke is None:
                return None
            smoke = replace(smoke, seconds=round(time.monotonic() - begun, 3))
        elif a is not self.a.source or b is not self.b.source:
            return None  # that functions were written out as they are called shows in a run alone
        else:
            why = self.cases.no_runtime or self.cases.why_not
            smoke = Stage(name_smoke(self._smoke_options), Verdict.SKIPPED, f"the original is not run: {why}")
            self.warn(WarningCode.NOT_RUN_WHOLE, f"the model was not run whole: {why}")
        self._check_claims([case.runtime or {}] if case is not None else ())
        if self.stages[0].status is not Verdict.PASS:
            return None
        self.stages += [local, smoke]
        if self._asks("decision"):
            self.stages.append(self._decision())
        self.warnings.extend(self.cases.describe_domain())
        self.warnings.extend(describe_outputs([case.runtime or {}] if case is not None else [], (), self.stages))
        facts = {Fact.PROVED, *({Fact.RUNTIME} if ran else ())}
        if any(s.id == "decision" and s.status is Verdict.PASS for s in self.stages):
            facts.add(Fact.DECISIONS)
        return conclude(self.stages, self.warnings, facts, "whole-model")

    def _is_too_large(self) -> bool:
        """Whether a proof does without a run: onnxruntime holds copies of all weights, a proof a few at a time."""
        size = count_stored_bytes(self.a.source)
        if self.options.runs_large or size <= LARGE:
            return False
        self.cases.why_not = f"its weights take {size / 1e9:.1f} GB; --max-memory {2 * size / 1e9 + 1:.0f}GB runs it"
        return True

    @property
    def parameters(self) -> Stage | None:
        """The parameters stage, if it was asked for."""
        return next((s for s in self.stages if s.id == "parameters"), None)

    @property
    def _smoking(self) -> tuple[ModelUnderTest, ModelUnderTest]:
        """The pair that a smoke test runs: as deployed, unless strict precision alone is to decide."""
        return (self.a, self.b) if self._smoke_options.precision_gate == "strict" else self.deployed

    @cached_property
    def _smoke_options(self) -> Options:
        """With onnxruntime's optimisations off for many nodes, whose square they take: they prove nothing here."""
        many = sum(1 for _ in walk_nodes(self.a.source.proto)) > MANY_NODES
        return replace(self.options, precision_gate="strict") if many else self.options

    def _run_first(self) -> ModelInput | None:
        """One input that the original has run; None if it accepts none."""
        self.options.progress("onnxruntime: original")
        cases = ModelInputs(self._smoking[0], self.options, needs_runtime=True)
        cases.fill(1)
        self._smoking[0].close()  # its weights would lie beside those of what is measured
        if cases.items:
            self.ran, self.cases = self._smoking, cases
            return cases.items[0]
        self.cases.why_not = cases.why_not
        return None

    def _judge_by_outputs(self) -> Parity:
        """Whole if it can be run whole, else rewrite by rewrite."""
        self.ran, self.cases = (self.a, self.b), ModelInputs(self.a, self.options)
        self.options.progress("onnxruntime: original")
        try:
            whole = self.cases.fill(1)
        except Unsupported as exc:
            whole, self.cases.why_not = False, f"{self.cases.no_runtime}; {exc}"
        if not whole:
            return self._by_regions(self.cases.why_not)
        if self.cases.random and self._is_empty(self.cases.items[0]):
            return self._by_regions("an input holds no element, so that there is nothing to compare")
        exact = self._time_stage(self._algebra)
        if self._asks("algebra"):
            self.stages.append(exact)
        if self.cases.no_runtime:
            self.stages.append(Stage("runtime", Verdict.SKIPPED, self.cases.no_runtime))
        elif self._asks("runtime"):
            self._runtimes()
        if self._asks("decision"):
            self.stages.append(self._decision())
        runs = [c.runtime or c.exact or {} for c in self.cases.items]
        self.constant = find_constant_outputs(runs)
        self.warnings.extend(self.cases.describe_domain())
        self.warnings.extend(describe_outputs(runs, self.constant, self.stages))
        self._check_claims([*runs, *(c.runtime or {} for c in self.other_sizes)])
        return self._conclude(exact.status)

    @staticmethod
    def _is_empty(case: ModelInput) -> bool:
        """Whether an input holds no element, and so no output does."""
        made = case.runtime or case.exact or {}
        return any(np.size(x) == 0 for x in case.feeds.values()) and not any(np.size(y) for y in made.values())

    def _check_claims(self, runs: Sequence[Outputs]) -> None:
        self.stages[0] = check_claims(self.stages[0], self.claims, runs)

    def _asks(self, stage: str) -> bool:
        return stage in self.options.stages

    def _time_stage(self, make: Callable[[], Stage]) -> Stage:
        begun = time.monotonic()
        return replace(make(), seconds=round(time.monotonic() - begun, 3))

    def _algebra(self) -> Stage:
        """Two inputs with a perturbation each; four if that leaves doubt; one where a run takes long."""
        first, begun = self.cases.items[0], time.process_time()  # not what others do on this machine
        self.options.progress("float64: original, input 1")
        try:
            watch = self.replay if self.ours else None  # names of other tools say little: see `_drive`
            first.exact = first.exact or self.a.reference(first.feeds, watch=watch)
        except Unsupported as exc:
            self.cases.fill(self.options.n_inputs)
            self.no_reference = f"float64 reference: {exc}"
            return Stage("algebra", Verdict.SKIPPED, self.no_reference)
        taken = time.process_time() - begun - (self.replay.seconds if self.replay is not None else 0.0)
        # A larger batch is worth a float64 run only while that is quick; onnxruntime sees it in any case.
        self.cases.same_batch = taken > _QUICK
        self.cases.fill(self.options.n_inputs)
        if not self._asks("algebra"):
            return Stage("algebra", Verdict.SKIPPED, "not asked for")
        slow = _RUNS * taken > _ALGEBRA_SECONDS or self.options.time_left() < 0
        used = self.cases.items[:1] if slow else self.cases.items
        stage = judge_algebra(self.a, self.b, used, self.options)
        if stage.status is Verdict.INCONCLUSIVE and self.cases.fill(2 * len(used)):
            draws = 1 if slow else DOUBT_DRAWS
            stage = judge_algebra(self.a, self.b, self.cases.items, self.options, draws)
        return stage  # also where the rewritten model has no reference: the original's judges both at run time

    def _parameters(self) -> None:
        if self._asks("parameters"):
            stage = self._time_stage(lambda: check_parameters(*self.cut, self.difference, self.options))
            self.stages.append(stage)

    def _runtimes(self) -> None:
        """At strict precision, without optimisations; then as deployed, judged by the same reference."""
        strict = self._time_stage(self._runtime)
        gate = self.options.precision_gate
        if gate == "as-deployed" and strict.status is not Verdict.PASS:
            why = f"no gate as deployed, and {strict.status.value} at strict precision: {strict.why}"
            self.stages.append(replace(strict, status=Verdict.SKIPPED, why=why))
        else:
            self.stages.append(strict)
        if gate != "strict" and not self.options.quick and strict.outputs:
            self.stages.append(self._time_stage(lambda: self._run_deployed(strict)))

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
            self.other_sizes = extra = self.cases.other_sizes()
            self.a.close()
            stage = judge_outputs(self.a, self.b, self.cases.items, self.options, NoiseFloor(noise, extra=extra))
            count = len(self.cases.items)
            enough = count >= _MOST_INPUTS or self.options.time_left() < 0
            if stage.status is not Verdict.INCONCLUSIVE or enough:
                return self._with_precision(stage)
            self.cases.fill(2 * count)
            if len(self.cases.items) == count:
                return self._with_precision(stage)

    def _with_precision(self, stage: Stage) -> Stage:
        """The stage, with whether it was computed in float32 where that was asked for: a GPU may take TF32 unasked."""
        of_a, of_b = self.options.for_side(0), self.options.for_side(1)
        if self.options.precision_gate == "as-deployed":
            return stage
        options = of_b if of_a.provider == "cpu" else of_a
        found = None
        if of_a.provider != "cpu":
            found = self._check_precision(of_a)
        elif of_b.provider != "cpu":
            found = check_beside_cpu(self.b.source.proto, stage.outputs)
        if found is None:
            return stage
        if not found.holds:
            self.warn(WarningCode.TF32, describe_tf32(found, options.provider))
        told = {"output": found.output, "error": found.error, "bound": found.bound, "holds": found.holds}
        return replace(stage, detail=stage.detail | {"float32": told})

    def _check_precision(self, options: Options) -> PrecisionCheck | None:
        cases = [case for case in self.cases.items[:_PRECISION_INPUTS] if case.exact and case.runtime]
        self.options.progress("float32 or TF32: original on the CPU")
        cpu = ModelUnderTest(self.a.source, replace(options, provider="cpu", provider_options={}))
        return check_precision(
            self.a.source.proto,
            [case.exact or {} for case in cases],
            [case.runtime or {} for case in cases],
            lambda k: cpu.run(cases[k].feeds),
            lambda k: self.a.reference(cases[k].feeds, perturb=options.seed),
        )

    def _noise(self) -> dict[str, dict[str, float]]:
        """How far the original is from itself, run again and in a second session, whose profile says where it ran."""
        if self.options.quick and self.options.provider == "cpu":
            return {}
        self.options.progress("onnxruntime: original again")
        first = self.cases.items[0]
        rerun, resession = self.a.run(first.feeds), self.a.run_again(first.feeds)
        names = first.runtime or {}
        found = {
            n: {"rerun": measure_distance(v, rerun[n]), "resession": measure_distance(v, resession[n])}
            for n, v in names.items()
        }
        if any(max(each.values()) for each in found.values()):
            self.warn(
                WarningCode.NOT_REPEATABLE,
                "the original gives other numbers when it is run again; that noise counts as its own",
            )
        return found

    def _run_deployed(self, strict: Stage) -> Stage:
        a, b = self.deployed
        self.options.progress("onnxruntime as deployed: original")
        try:
            cases = [ModelInput(c.feeds, a.run(c.feeds), c.exact) for c in self.cases.items]
        except DataError as exc:
            return Stage("runtime-deployed", Verdict.SKIPPED, f"the original does not run as deployed: {exc}")
        finally:
            a.close()
        trusted = frozenset(c.name for c in strict.outputs if "error_before" in c.detail)
        ground = NoiseFloor(trusted=trusted, strict=[c.runtime or {} for c in self.cases.items])
        stage = judge_outputs(a, b, cases, self.options, ground, "runtime-deployed")
        return replace(stage, detail=stage.detail | {"opt_level": self.options.opt_level})

    def _decision(self) -> Stage:
        if self.options.stream is None:
            return Stage("decision", Verdict.SKIPPED, "needs real inputs; give them with --inputs or --images")
        if self.cases.no_runtime:
            return Stage("decision", Verdict.SKIPPED, self.cases.no_runtime)
        if self.options.quick:
            return Stage("decision", Verdict.SKIPPED, "left out by --quick")
        begun = time.monotonic()
        decided = run_decisions(*self.deployed, self.options)
        stage = replace(decided.stage, seconds=round(time.monotonic() - begun, 3))
        # What cannot be equal at all fails without a margin, too.
        counted = all("margin" in c.detail for c in stage.outputs if c.status is not Verdict.PASS)
        if not self.options.deciding.judges and stage.status is not Verdict.PASS and counted:
            checks = tuple(replace(check, status=Verdict.SKIPPED) for check in stage.outputs)
            why = f"{stage.why}; not judged without --accuracy-margin"
            return replace(stage, status=Verdict.SKIPPED, why=why, outputs=checks)
        self.failing = decided.failing
        return stage

    def _fill_exact(self) -> None:
        """The float64 outputs of every input, where there is a reference."""
        for k, case in enumerate(self.cases.items):
            if case.exact is None and not self.no_reference:
                self.options.progress(f"float64: original, input {k + 1}")
                try:
                    case.exact = self.a.reference(case.feeds)
                except Unsupported as exc:  # what an operator is given may be what it cannot do
                    self.no_reference = f"float64 reference: {exc}"

    def warn(self, code: WarningCode, text: str) -> None:
        """Keep a warning for the verdict."""
        self.warnings.append(Warning(code, text))

    def _conclude(self, algebra_status: Verdict) -> Parity:
        varies = len(self.constant) < len(self.a.source.proto.graph.output)
        facts = find_facts(self.stages, runs=not self.cases.no_runtime, varies=varies)
        if self._asks("local"):
            driven = self._drive()
            by_names = self._replay() if driven is None or (self.ours and driven.status is Verdict.PASS) else None
            # On more inputs and more perturbations than the replay's one: what is in doubt there may be settled.
            settled = by_names is None or (driven is not None and by_names.status is Verdict.INCONCLUSIVE)
            replayed = driven if settled else by_names
            if driven is not None:
                self.stages[:] = [settle_parameters(s, driven) for s in self.stages]
            partial = outputs_suffice(facts) or algebra_status is Verdict.FAIL
            # Names are a hint: where each place between tensors that correspond agrees, they say nothing more.
            known = driven is not None and driven.status is Verdict.PASS and not self.ours
            regions = None if known or (partial and replayed is not None) else self._places(partial=partial)
            decided = any(s.status is Verdict.FAIL for s in self.stages)
            if regions is None and driven is None and not decided and self._driver is not None:
                regions = run_regions(self.difference, *self.cut, self.options, light=True, drive=self._driver)
            places = merge_stages(regions, self._unexecuted())
            self.stages.extend(s for s in (replayed, places) if s is not None)
        return conclude(self.stages, self.warnings, facts, "whole-model")

    def _drive(self) -> Stage | None:
        """The local stage of what nothing proves; None where a stage has failed, or nothing runs in float64."""
        if self.options.quick or self.no_reference or any(s.status is Verdict.FAIL for s in self.stages):
            return None
        a, b = self.cut
        if self.ours and (self.parameters is None or is_recomputed(a, b, self.difference, self.parameters)):
            return None
        stage, witness = drive_places(a, b, self.cases.list_fixed(), self.options, random=self.cases.random)
        if stage is None and self.cases.random:  # an index, say, that the model does not take
            stage, witness = drive_places(a, b, self.cases.items, self.options, random=True)
        if witness is not None:
            self.failing = [witness.feeds]
            if witness.score <= SURELY:
                self._run_witness(witness)
        return stage

    def _run_witness(self, witness: Witness) -> None:
        """A driven input on which float64 tells the models apart, on onnxruntime: the second witness, or none."""
        place = next((k for k, s in enumerate(self.stages) if s.id == "runtime" and s.status is not Verdict.FAIL), None)
        if place is None or self.cases.no_runtime:
            return
        stage = judge_new_input(self.a, self.b, witness.feeds, self.cases.items[0], self.options)
        if stage is not None and stage.status is Verdict.FAIL:
            self.stages[place] = replace(stage, why=f"on driven inputs: {stage.why}")

    def _replay(self) -> Stage | None:
        """The local stage by names; of another tool's models the original runs once more for it."""
        if self.replay is None:
            return None
        if not self.ours and not self.no_reference:
            self.a.reference(self.cases.items[0].feeds, watch=self.replay)
        return self.replay.stage()

    def _unexecuted(self) -> Stage | None:
        """The rewritten places in branches that did not run, each on its own; None if there is none."""
        ran = self.a.entered
        self.warnings.extend(describe_unexecuted(self.a.source, ran))
        difference = find_unexecuted(self.difference, ran)
        if difference.is_empty:
            return None
        how: dict[str, Any] = {"light": not self.cases.no_runtime, "drive": self._driver}
        return run_regions(difference, *self.cut, self.options, **how)

    @property
    def _driver(self) -> Driver | None:
        """What is asked of the places of another tool's model, each alone; None where the inputs are the user's."""
        return drive_alone if not self.ours and self.cases.random and not self.options.quick else None

    def _places(self, partial: bool) -> Stage | None:
        """The rewritten places on their own: all of them where the outputs prove little, else what time allows."""
        (a, b), options = self.cut, self.options
        if not partial:
            how: dict[str, Any] = {"light": not self.cases.no_runtime, "drive": self._driver}
            return run_regions(self.difference, a, b, options, **how)
        if options.quick or not self.ours:
            return None
        deadline = min(options.deadline, time.monotonic() + _PLACES_SECONDS)
        stage = run_regions(self.difference, a, b, replace(options, deadline=deadline), light=True, partial=True)
        return None if stage.status is Verdict.SKIPPED else stage

    def _by_regions(self, reason: str) -> Parity:
        if self.options.stream is not None and not self.cases.no_runtime:
            raise DataError(f"the inputs that were given cannot be run: {reason}")
        self.warn(WarningCode.NOT_RUN_WHOLE, f"the model was not run whole: {reason}")
        self._check_claims(())
        places = run_regions(self.difference, *self.cut, self.options, drive=self._driver)
        if places.status in (Verdict.PASS, Verdict.SKIPPED) and not self._is_all():
            why = f"{places.why}; something else differs, which could not be cut out and run"
            places = replace(places, status=Verdict.INCONCLUSIVE, why=why)
        self.stages.append(places)
        return conclude(self.stages, self.warnings, (), "per-rewrite")

    def failing_inputs(self, parity: Parity) -> list[dict[str, Any]]:
        """The inputs on which the models differ; none where nothing that ran them failed."""
        if self.failing:
            return self.failing
        failed = [stage for stage in parity.stages if stage.status is Verdict.FAIL and stage.id in _RUN_INPUTS]
        items = self.cases.items
        place = next((s.detail["furthest_input"] for s in failed if "furthest_input" in s.detail), 0)
        return [items[place].feeds] if failed and items else []

    def _is_all(self) -> bool:
        """Whether the models are one computation if the places that were compared are the same."""
        return is_same_computation(*self.cut, [s.name for s in self.difference.regions])
