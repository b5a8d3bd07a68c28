"""``biasopt.ablate/1``: all that was found out about the biases of a model, and what a removal did, as JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converter.ablate.ablate import Ablation, count_classes
from converter.ablate.compensate import Fit
from converter.ablate.measure import Effect, changes_off_data
from converter.ablate.removal import Proposal
from converter.ablate.scoring import MEANS, NOTE, Score
from converter.report import documents, serialize

if TYPE_CHECKING:
    from converter.ablate.sites import Uncovered
    from converter.records import InputSet, ModelFacts, Stage

SCHEMA = "biasopt.ablate/1"
DIGITS = 8  # of a float: onnxruntime's own results repeat no further from one processor to the next


def ablate_document(
    model: ModelFacts,
    result: Ablation,
    uncovered: Sequence[Uncovered],
    folded: int,
    inputs: InputSet,
    seed: int,
    *,
    argv: Sequence[str],
    version: str,
) -> dict[str, Any]:
    """What ``ablate --json`` prints; every other form of the report is made of it."""
    classes = count_classes(result.scores)
    return {
        "schema": SCHEMA,
        "tool": documents.tool(argv, version),
        "exit_code": 0,
        "warnings": list(result.warnings),
        "model": documents.model_json(model),
        "inputs": serialize.encode(inputs),
        "seed": seed,
        "folded_batch_norms": folded,
        "output": {"name": result.zeroed.output, "decides": result.zeroed.decides},
        "rows": {"all": result.rows, "measured": result.zeroed.rows, "fitted_on": result.fit_rows},
        "labelled": result.labelled,
        "classes": {name: {"biases": n, "means": MEANS[name]} for name, n in classes.items()},  # type: ignore[index]
        "biases": [_bias_json(score) for score in result.scores],
        "variants": [
            {"name": v.name, "said": v.said, "biases": v.biases, "effect": _effect_json(v.effect)}
            for v in result.variants
        ],
        "fits": [fit_json(fit) for fit in result.fits],
        "probes": _probes_json(result),
        "findings": [finding for score in result.scores for finding in score.findings],
        "note": NOTE if any(s.findings for s in result.scores) else None,
        "uncovered": [{"node": u.label, "op": u.op, "why": u.why} for u in uncovered],
        "repro": documents.repro(argv),
    }


def _bias_json(score: Score) -> dict[str, Any]:
    site, (kind, why) = score.site, score.verdict
    return {
        "node": site.label,
        "op": site.op,
        "role": site.role.value,
        "class": kind.value,
        "why": why,
        "fate": None if site.fate is None else site.fate.kind.value,
        "channels": site.form.n_out,
        "inputs_per_output": site.form.n_in,
        "groups": site.form.groups,
        "ratio": _number(score.ratio),
        "ratio_largest": _number(score.ratio_most),
        "constant_channels": score.constant,
        "r": _number(score.r),
        "r_held_out": _number(score.r_held),
        "r_fitted": _number(score.r_fit),
        "r_is_bound": score.bounded,
        "r_method": score.method or None,
        "rows": score.rows,
        "positions": score.positions,
        "predicted_error": _number(score.predicted),
        "predicted_error_compensated": _number(score.compensated),
        "effect": None if score.effect is None or not score.effect.rows else _effect_json(score.effect),
        "imitated": None if score.imitated is None or not score.imitated.rows else _effect_json(score.imitated),
        "p_holm": _number(score.p_holm),
        "problem": score.problem or None,
        "per_channel": None if score.per_channel is None else _round(score.per_channel),
    }


def fit_json(fit: Fit) -> dict[str, Any]:
    """One layer whose weights took a bias over."""
    return {
        "node": fit.site.label,
        "op": fit.site.op,
        "method": fit.method,
        "left": _number(fit.left),
        "weight_growth": _number(fit.growth),
        "rows": fit.rows,
        "positions": fit.positions,
        "steps": fit.steps,
    }


def _probes_json(result: Ablation) -> list[dict[str, Any]]:
    on_data = {v.name: v.effect for v in result.variants}
    return [
        {
            "kind": probed.probe.kind,
            "amount": probed.probe.amount,
            "said": probed.probe.said,
            "effects": {name: _effect_json(effect) for name, effect in probed.effects.items()},
            "changes": sorted(
                name
                for name, effect in probed.effects.items()
                if name in on_data and changes_off_data(on_data[name], effect)
            ),
        }
        for probed in result.probed
    ]


def _effect_json(effect: Effect) -> dict[str, Any]:
    found: dict[str, Any] = _round(effect.to_json())
    return found


def _number(value: float) -> float | None:
    return None if math.isnan(value) else _round(value)


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _round(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_round(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) and math.isfinite(value) else value


ASSUMPTION = (
    "assumes that the model will meet data like this: equal in its decisions within the budget, not in its outputs"
)


def removal_json(proposal: Proposal, stage: Stage, budget: float, inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The part of ``biasopt.fold/1`` that tells of a removal."""
    calibrate, select, confirm = proposal.rows
    return {
        "verdict": stage.status.value,
        "why": stage.why,
        "safety": "assumes",
        "assumption": ASSUMPTION,
        "budget": budget,
        "rows": {"calibrate": calibrate, "select": select, "confirm": confirm},
        "rows_needed": proposal.needed,
        "select_loss": None if math.isnan(proposal.select) else proposal.select,
        "selections_tried": proposal.tried,
        "removed": [fit_json(fit) for fit in proposal.fits],
        "kept": [{"node": k.node, "op": k.op, "code": k.code, "why": k.why} for k in proposal.kept],
        "off_the_data": [{"said": o.said, "differ": o.share, "changes": o.changes} for o in proposal.off],
        "warnings": list(proposal.warnings),
        "decision": serialize.encode(stage),
        "inputs": dict(inputs) if inputs is not None else None,
    }
