"""What a verdict is handed over with: the models' facts, the machine, the inputs, and those that failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import DataError
from converter.protos.facts import model_facts
from converter.protos.source import Source
from converter.records import Environment, Parity, Stage, Verdict
from converter.runtime.machine import environment
from converter.runtime.providers import PROVIDERS, provider_list
from converter.verify.options import LEVELS, Options
from converter.verify.whole import Referee

FAILING = "failing_inputs.npz"


def closed(
    parity: Parity,
    sides: tuple[Source, Source],
    options: Options,
    referee: Referee | None,
    required: str | None,
    failing: Path | None,
) -> Parity:
    """The parity with everything that its reader needs, held to the level that was required."""
    where = _environment(options, referee)
    stage = Stage("environment", Verdict.PASS, _where(where))
    warnings = list(parity.warnings)
    if len(where.distributions) > 1:
        both = ", ".join(where.distributions)
        warnings.append(f"several distributions of onnxruntime are installed and overwrite each other: {both}")
    if "NVIDIA_TF32_OVERRIDE" in where.machine and options.provider != "cpu":
        warnings.append("NVIDIA_TF32_OVERRIDE is set: it rules over use_tf32 for the whole process")
    if options.provider == "tensorrt" and options.gate != "as-deployed":
        warnings.append("TensorRT has no option against TF32: at strict precision small errors may stay unseen")
    parity = replace(
        parity,
        stages=(stage, *parity.stages),
        warnings=tuple(dict.fromkeys(warnings)),
        a=model_facts(sides[0]),
        b=model_facts(sides[1]),
        environment=where,
        inputs=None if referee is None else referee.cases.record(),
    )
    if parity.verdict is not Verdict.PASS and failing is not None and referee is not None:
        parity = replace(parity, failing_inputs=_save(_failing(parity, referee), failing))
    return _held(parity, required)


def _environment(options: Options, referee: Referee | None) -> Environment:
    found = None if referee is None else referee.a
    asked: Any = provider_list(options.provider, options.provider_options)[0]
    return environment(
        options.provider,
        providers=(found.providers if found is not None else ()) or (PROVIDERS[options.provider],),
        options=asked[1] if isinstance(asked, tuple) else {},
        nodes=found.placement.nodes if found is not None and found.placement is not None else {},
    )


def _where(where: Environment) -> str:
    ran = ", ".join(f"{count} nodes on {name}" for name, count in where.nodes.items())
    return f"onnxruntime {where.versions['onnxruntime']}, {ran or where.providers[0]}"


def _held(parity: Parity, required: str | None) -> Parity:
    """A claim below the level that was required is not made; that nothing differs is above every level."""
    if required is None or parity.verdict is not Verdict.PASS or parity.scope == "identical":
        return parity
    if LEVELS.index(parity.level) <= LEVELS.index(required):
        return parity
    why = f"the claim is of level {parity.level}, and {required} is required: {_lacking(parity)}"
    return replace(parity, verdict=Verdict.INCONCLUSIVE, why=why)


def _lacking(parity: Parity) -> str:
    """Why the level is no higher."""
    skipped = [f"{s.id}: {s.why}" for s in parity.stages if s.status is Verdict.SKIPPED]
    notes = [f"{c.name}: {c.detail['note']}" for s in parity.stages for c in s.outputs if "note" in c.detail]
    if parity.level == "B":
        return next((text for text in skipped if text.startswith("decision")), "no decisions on real inputs")
    return next(iter((*notes, *skipped, *parity.warnings)), "not all stages were asked for")


def _failing(parity: Parity, referee: Referee) -> list[dict[str, Any]]:
    if referee.failing:
        return referee.failing
    stage = next((s for s in parity.stages if "furthest_input" in s.detail), None)
    items = referee.cases.items
    return [items[stage.detail["furthest_input"] if stage is not None else 0].feeds] if items else []


def _save(runs: list[dict[str, Any]], folder: Path) -> str:
    """One file that ``--inputs`` reads; runs of another shape than the first are left out."""
    if not runs or any(isinstance(v, list | dict) for v in runs[0].values()):
        return ""
    first = {n: np.shape(v) for n, v in runs[0].items()}
    alike = [r for r in runs if {n: np.shape(v) for n, v in r.items()} == first]
    path = folder / FAILING
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **{n: np.stack([_plain(r[n]) for r in alike]) for n in first})  # type: ignore[arg-type]
    except OSError as exc:
        raise DataError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
    return str(path)


def _plain(value: Any) -> Any:
    """Types that numpy cannot save without pickling become float32, which holds them."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "V" else array
