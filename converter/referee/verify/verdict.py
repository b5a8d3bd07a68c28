"""The verdict on a pair and the level of the claim, from what the stages found; and what a run leaves unseen.

The worst of several verdicts is `converter.records.evidence.worst_verdict`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import DataError
from converter.records import Environment, InputSet, OutputCheck, Parity, Stage, Verdict
from converter.records.evidence import Warning, WarningCode, worst_verdict
from converter.records.options import LEVELS
from converter.referee.inputs.stream import count_nonfinite, list_arrays
from converter.referee.proto.diff import ChangedRegions
from converter.referee.proto.source import LoadedModel, describe_model, list_bodies, make_body_key, walk_nodes
from converter.referee.verify.models import ModelUnderTest, Outputs
from converter.referee.verify.options import STAGES, Options
from converter.referee.verify.precision import PrecisionCheck
from converter.runtime.machine import describe_environment
from converter.runtime.providers import PROVIDERS, list_providers
from converter.temporary import open_whole

FAILING = "failing_inputs.npz"
SURELY = 40.0  # times what is usual: one witness is enough
_BY_RATIO = ("algebra", "runtime", "runtime-deployed", "local")
_WITNESSES = {"runtime-deployed": "runtime"}
_NO_NUMBERS = ("environment", "structure")


class Fact(StrEnum):
    """What the level of a claim rests on."""

    NUMBERS = "numbers were compared"
    FLOAT64 = "in float64 the two models agree"
    REFERENCE = "a float64 reference that earned trust judged every output"
    FLOAT32 = "where float32 was asked for, its errors are those of float32"
    RUNTIME = "onnxruntime runs the original"
    VARIES = "an output depends on the inputs"
    AGREES = "the outputs agree in float64 or on onnxruntime"
    PROVED = "every number is recomputed, and the rounding of every place bounded"
    DECISIONS = "what is decided on real inputs stays within the margin"


_WHOLE = frozenset({Fact.NUMBERS, Fact.FLOAT64, Fact.REFERENCE, Fact.FLOAT32, Fact.RUNTIME, Fact.VARIES})
_NEEDS: tuple[tuple[str, frozenset[Fact]], ...] = (
    ("A", _WHOLE | {Fact.DECISIONS}),
    ("A", frozenset({Fact.PROVED, Fact.RUNTIME, Fact.DECISIONS})),
    ("P", frozenset({Fact.PROVED})),
    ("B", _WHOLE),
    ("C", frozenset({Fact.NUMBERS})),
    ("D", frozenset()),
)
_OUTPUTS_SUFFICE = frozenset({Fact.AGREES, Fact.REFERENCE, Fact.VARIES})


def claim_level(facts: Collection[Fact]) -> str:
    """The highest level whose needs are all met."""
    return next(level for level, needs in _NEEDS if needs.issubset(facts))


def outputs_suffice(facts: Collection[Fact]) -> bool:
    """Whether the outputs say enough, also where the rewritten model has no float64 reference of its own."""
    return _OUTPUTS_SUFFICE.issubset(facts)


def has_trusted_reference(checks: Sequence[OutputCheck]) -> bool:
    """Whether every output was held to a trusted float64 reference; ``note`` says of one that it was not."""
    return bool(checks) and not any("note" in check.detail for check in checks)


def find_facts(stages: Sequence[Stage], *, runs: bool, varies: bool) -> set[Fact]:
    """What the stages of a whole run show and whether the original runs on onnxruntime and varies with its inputs."""
    status = {stage.id: stage.status for stage in stages}
    of_outputs = [stage for stage in stages if stage.id in ("algebra", "runtime")]
    claims = {
        Fact.FLOAT64: status.get("algebra") is Verdict.PASS,
        Fact.REFERENCE: has_trusted_reference([check for stage in of_outputs for check in stage.outputs]),
        Fact.FLOAT32: all(stage.detail.get("float32", {}).get("holds", True) for stage in stages),
        Fact.RUNTIME: runs,
        Fact.VARIES: varies,
        Fact.AGREES: any(stage.status is Verdict.PASS for stage in of_outputs),
        Fact.DECISIONS: status.get("decision") is Verdict.PASS,
    }
    return {fact for fact, holds in claims.items() if holds}


def conclude(stages: Sequence[Stage], warnings: Sequence[Warning], facts: Collection[Fact], scope: str) -> Parity:
    """The parity that the stages amount to."""
    stages = doubt_lone_witness(sort_stages(stages))
    verdict = combine_stages(stages)
    numbers = [stage for stage in stages if stage.outputs and stage.id not in _NO_NUMBERS]
    blamed = next((s for s in numbers if s.status is verdict), None)
    if verdict is Verdict.PASS:
        why = "; ".join(f"{s.id}: {s.why}" for s in numbers if s.status is Verdict.PASS)
    elif blamed is not None:
        why = f"{blamed.id}: {blamed.why}"
    else:
        failed = [s for s in stages if s.status is verdict]
        why = failed[0].why if failed else "nothing could be compared"
    if scope == "per-rewrite":
        why = f"checked per rewrite: {why}"
    level = claim_level({*facts, Fact.NUMBERS} if numbers else facts)
    return Parity(verdict, level, stages=stages, warnings=tuple(warnings), scope=scope, why=why)


def doubt_lone_witness(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Failures that rest on one witness which is not far beyond its limit are doubts: it takes two, or one beyond 40.

    Both runs on onnxruntime are one witness, since they share inputs and yardstick.
    """
    against = {_WITNESSES.get(s.id, s.id) for s in stages if s.status in (Verdict.FAIL, Verdict.INCONCLUSIVE)}
    failed = [s for s in stages if s.status is Verdict.FAIL]
    bad = [c for s in failed for c in s.outputs if c.status is Verdict.FAIL]
    if len(against) != 1 or not failed or not bad or any(s.id not in _BY_RATIO for s in failed):
        return tuple(stages)
    if any(c.score is None or c.limit is None or not c.limit < c.score <= SURELY for c in bad):
        return tuple(stages)
    return tuple(_doubt(s) if s.status is Verdict.FAIL else s for s in stages)


def _doubt(stage: Stage) -> Stage:
    checks = [replace(c, status=Verdict.INCONCLUSIVE) if c.status is Verdict.FAIL else c for c in stage.outputs]
    why = f"{stage.why}; nothing else shows it, and alone it would have to be {SURELY:g} times"
    return replace(stage, status=Verdict.INCONCLUSIVE, outputs=tuple(checks), why=why)


def sort_stages(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages in the order in which they are reported, cheapest first."""
    return tuple(sorted(stages, key=lambda s: STAGES.index(s.id) if s.id in STAGES else len(STAGES)))


def combine_stages(stages: Sequence[Stage]) -> Verdict:
    """The worst verdict; that an environment or a structure passes is no evidence, since it compares no numbers."""
    return worst_verdict(s.status for s in stages if s.id not in _NO_NUMBERS or s.status is not Verdict.PASS)


def merge_stages(first: Stage | None, second: Stage | None) -> Stage | None:
    """One stage of two that looked at different places, or at some of them twice."""
    if first is None or second is None:
        return first or second
    seen = {c.name for c in second.outputs}
    checks = (*(c for c in first.outputs if c.name not in seen), *second.outputs)
    blamed = second if second.status is not Verdict.PASS and first.status is not Verdict.FAIL else first
    return replace(blamed, status=worst_verdict(c.status for c in checks), outputs=checks)


def hold_to_level(parity: Parity, required: str | None) -> Parity:
    """A claim below the level that was required is not made; that nothing differs is above every level."""
    if required is None or parity.verdict is not Verdict.PASS or parity.scope == "identical":
        return parity
    if LEVELS.index(parity.level) <= LEVELS.index(required):
        return parity
    why = f"the claim is of level {parity.level}, and {required} is required: {_explain_level(parity)}"
    return replace(parity, verdict=Verdict.INCONCLUSIVE, why=why)


def _explain_level(parity: Parity) -> str:
    """Why the level is no higher."""
    skipped = [s for s in parity.stages if s.status is Verdict.SKIPPED]
    if parity.level in ("P", "B"):
        undecided = next((s for s in skipped if s.id == "decision"), None)
        if undecided is None:
            return "no decisions on real inputs"
        real = parity.inputs is not None and parity.inputs.real
        return f"decision: {undecided.why}" + ("" if real else "; --accuracy-margin says how many may change")
    notes = [f"{c.name}: {c.detail['note']}" for s in parity.stages for c in s.outputs if "note" in c.detail]
    first = (str(warning) for warning in parity.warnings if warning.code is WarningCode.TF32)
    reasons = (*first, *notes, *(f"{s.id}: {s.why}" for s in skipped), *parity.warnings)
    return next(iter(reasons), "not all stages were asked for")


def complete(
    parity: Parity,
    sides: tuple[LoadedModel, LoadedModel],
    options: Options,
    ran: tuple[ModelUnderTest | None, ModelUnderTest | None],
    inputs: InputSet | None,
) -> Parity:
    """The parity with everything that its reader needs; ``ran`` are both models as they ran at strict precision."""
    where = _describe_environment(options.for_side(0), ran[0])
    other = _describe_environment(options.for_side(1), ran[1]) if options.is_crossed else None
    said = _format_environment(where)
    stage = Stage("environment", Verdict.PASS, said if other is None else f"A: {said}; B: {_format_environment(other)}")
    warnings = list(parity.warnings)
    if len(where.ort_dists) > 1:
        both = ", ".join(where.ort_dists)
        said = f"several distributions of onnxruntime are installed and overwrite each other: {both}"
        warnings.append(Warning(WarningCode.SEVERAL_RUNTIMES, said))
    if "NVIDIA_TF32_OVERRIDE" in where.machine and {options.provider, options.provider_b or "cpu"} != {"cpu"}:
        said = "NVIDIA_TF32_OVERRIDE is set: it rules over use_tf32 for the whole process"
        warnings.append(Warning(WarningCode.TF32, said))
    proved = any("float32" in each.detail for each in parity.stages)
    if options.provider == "tensorrt" and options.precision_gate != "as-deployed" and not proved:
        said = "TensorRT has no option against TF32: at strict precision small errors may stay unseen"
        warnings.append(Warning(WarningCode.TF32, said))
    return replace(
        parity,
        stages=(stage, *parity.stages),
        warnings=tuple(dict.fromkeys(warnings)),
        a=describe_model(sides[0]),
        b=describe_model(sides[1]),
        environment=where,
        environment_b=other,
        inputs=inputs,
    )


def _describe_environment(options: Options, ran: ModelUnderTest | None) -> Environment:
    asked: Any = list_providers(options.provider, options.provider_options)[0]
    return describe_environment(
        options.provider,
        providers=(ran.providers if ran is not None else ()) or (PROVIDERS[options.provider],),
        options=asked[1] if isinstance(asked, tuple) else {},
        nodes=ran.placement.nodes if ran is not None and ran.placement is not None else {},
        arithmetic=ran.placement.arithmetic if ran is not None and ran.placement is not None else {},
    )


def _format_environment(where: Environment) -> str:
    ran = ", ".join(f"{count} nodes on {name}" for name, count in where.nodes_by_ep.items())
    shares = [f"{name} {count}" for name, count in where.arithmetic_by_ep.items()]
    share = f"; of the arithmetic {', '.join(shares)}" if len(shares) > 1 else ""
    return f"onnxruntime {where.versions['onnxruntime']}, {ran or where.providers_active[0]}{share}"


def describe_tf32(found: PrecisionCheck, provider: str) -> str:
    """What it means that a run at strict precision was not as exact as float32."""
    asked = "although it was asked off" if provider == "cuda" else "since TensorRT has no option against it"
    return (
        f"TF32 was on {asked}: output {found.output!r} is {found.error:.1e} from float64, "
        f"where float32 stays below {found.bound:.1e}; small errors may stay unseen"
    )


def save_failing(runs: Sequence[dict[str, Any]], folder: Path) -> str:
    """Write inputs to one file that ``--inputs`` reads, and give its path; runs of another shape are left out.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    if not runs or any(isinstance(v, list | dict) for v in runs[0].values()):
        return ""
    first = {n: np.shape(v) for n, v in runs[0].items()}
    alike = [r for r in runs if {n: np.shape(v) for n, v in r.items()} == first]
    path = folder / FAILING
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open_whole(path) as file:
            np.savez_compressed(file, **{n: np.stack([_widen(r[n]) for r in alike]) for n in first})  # type: ignore[arg-type]
    except OSError as exc:
        raise DataError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
    return str(path)


def _widen(value: Any) -> Any:
    """Types that numpy cannot save without pickling become float32, which holds them."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


_BODIES = (".then_branch", ".else_branch", ".body")


def find_constant_outputs(runs: Sequence[Outputs]) -> list[str]:
    """The outputs that were the same for two different inputs."""
    if len(runs) < 2:
        return []
    return [name for name in runs[0] if _is_same(runs[0][name], runs[1][name])]


def describe_outputs(runs: Sequence[Outputs], constant: Sequence[str], stages: Sequence[Stage]) -> list[Warning]:
    """Warnings of outputs whose parity proves little: the same for every input, or not finite."""
    said = "does not depend on the inputs: its parity proves little"
    warnings = [Warning(WarningCode.CONSTANT_OUTPUT, f"output {name!r} {said}") for name in constant]
    n_bad = sum(count_nonfinite(value) for run in runs for value in run.values())
    if n_bad:
        hit = sum(any(count_nonfinite(value) for value in run.values()) for run in runs)
        what = f"{hit} of {len(runs)} inputs, {n_bad} NaN or Inf elements"
        said = f"the original's outputs are not finite for {what}; they count as equal where both are"
        warnings.append(Warning(WarningCode.NOT_FINITE, said))
    overflown = [check for stage in stages for check in stage.outputs if "overflow" in check.detail]
    return warnings + [Warning(WarningCode.OVERFLOW, f"output {c.name!r}: {c.detail['overflow']}") for c in overflown]


def _is_same(first: Any, second: Any) -> bool:
    """Whether two different inputs gave the same output, row by row where the batch size differs."""
    left, right = list_arrays(first), list_arrays(second)
    if len(left) != len(right):
        return False
    return all(_equal_rows(x, y) for x, y in zip(left, right, strict=True))


def _equal_rows(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> bool:
    if x.dtype.kind == "V" or x.dtype != y.dtype:
        return False
    if x.dtype.kind == "f" and not np.isfinite(x).any():
        return False  # what is no number says nothing of the inputs
    nan = x.dtype.kind == "f"
    if x.shape == y.shape:
        return bool(np.array_equal(x, y, equal_nan=nan))
    if x.shape[1:] != y.shape[1:] or not x.ndim or not len(x) or not len(y):
        return False
    return all(np.array_equal(x[0], row, equal_nan=nan) for row in (*x, *y))


def find_unexecuted(difference: ChangedRegions, ran: frozenset[str]) -> ChangedRegions:
    """The rewritten places in branches that are not among those that ``ran``."""
    places = tuple(s for s in difference.regions if s.scope.endswith(_BODIES) and not s.scope.endswith(tuple(ran)))
    inner = [n for n in difference.unmatched if any(f"{body}/" in n for body in _BODIES)]
    return ChangedRegions(places, tuple(n for n in inner if not any(f"{body}/" in n for body in ran)))


def describe_unexecuted(source: LoadedModel, ran: frozenset[str]) -> list[Warning]:
    """A warning of the branches of the original that no input led into, where a float64 run has shown it."""
    bodies = {make_body_key("", n, name) for n in walk_nodes(source.proto) for name, _ in list_bodies(n)}
    missed = sorted(bodies - ran)
    if not ran or not missed:
        return []
    some = ", ".join(key.removeprefix("/") for key in missed[:3])
    count = f"{len(missed)} branches" if len(missed) > 1 else "1 branch"
    said = f"{count} ran on no input, so that no output says anything of them: {some}"
    return [Warning(WarningCode.BRANCH_NOT_RUN, said)]
