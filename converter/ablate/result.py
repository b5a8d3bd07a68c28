"""What was found out, as records: scores, effects, fits and removals, without the models and data behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from converter.ablate.ablate import Ablation, count_classes
from converter.ablate.compensate import Fit
from converter.ablate.measure import Effect, changes_off_data
from converter.ablate.removal import Proposal
from converter.ablate.scoring import MEANS, NOTE, Score
from converter.records import InputSet, Safety, Stage
from converter.records.ablate import (
    AblateResult,
    BiasScore,
    ClassCount,
    EffectSummary,
    LookedAt,
    MovedBias,
    ProbeScore,
    Removal,
    RowCounts,
    SplitRows,
    VariantScore,
)

Result = TypeVar("Result", bound=AblateResult)
DIGITS = 8  # of a float: onnxruntime's own results repeat no further from one processor to the next


def summarize_ablation(result: Ablation, record: type[Result], /, **more: Any) -> Result:
    """The ablation as a ``record``; ``more`` are its fields that do not come from the data."""
    return record(
        warnings=result.warnings,
        output=LookedAt(result.zeroed.output, result.zeroed.decides),
        rows=RowCounts(result.rows, result.zeroed.rows, result.fit_rows),
        labelled=result.labelled,
        classes={name: ClassCount(n, MEANS[name]) for name, n in count_classes(result.scores).items()},
        biases=tuple(map(summarize_score, result.scores)),
        variants=tuple(VariantScore(v.name, v.said, v.biases, summarize_effect(v.effect)) for v in result.variants),
        fits=tuple(map(summarize_fit, result.fits)),
        probes=_summarize_probes(result),
        findings=tuple(finding for score in result.scores for finding in score.findings),
        note=NOTE if any(s.findings for s in result.scores) else None,
        **more,
    )


def summarize_score(score: Score) -> BiasScore:
    """One bias."""
    site, (kind, why) = score.site, score.verdict
    return BiasScore(
        node=site.label,
        op=site.op,
        role=site.role,
        kind=kind,
        why=why,
        fate=None if site.fate is None else site.fate.kind,
        channels=site.form.n_out,
        inputs_per_output=site.form.n_in,
        groups=site.form.groups,
        ratio=_number(score.ratio),
        ratio_largest=_number(score.ratio_most),
        constant_channels=score.constant,
        r=_number(score.r),
        r_held_out=_number(score.r_held),
        r_fitted=_number(score.r_fit),
        r_is_bound=score.bounded,
        r_method=score.method or None,
        rows=score.rows,
        positions=score.positions,
        predicted_error=_number(score.predicted),
        predicted_error_compensated=_number(score.compensated),
        effect=None if score.effect is None or not score.effect.rows else summarize_effect(score.effect),
        imitated=None if score.imitated is None or not score.imitated.rows else summarize_effect(score.imitated),
        p_holm=_number(score.p_holm),
        problem=score.problem or None,
        per_channel=None
        if score.per_channel is None
        else {name: list(map(_round, values)) for name, values in score.per_channel.items()},
    )


def summarize_fit(fit: Fit) -> MovedBias:
    """One layer whose weights took a bias over."""
    return MovedBias(
        node=fit.site.label,
        op=fit.site.op,
        method=fit.method,
        left=_number(fit.left),
        weight_growth=_number(fit.growth),
        rows=fit.rows,
        positions=fit.positions,
        steps=fit.steps,
    )


def _summarize_probes(result: Ablation) -> tuple[ProbeScore, ...]:
    on_data = {v.name: v.effect for v in result.variants}
    return tuple(
        ProbeScore(
            kind=probed.probe.kind,
            amount=probed.probe.amount,
            said=probed.probe.said,
            effects={name: summarize_effect(effect) for name, effect in probed.effects.items()},
            changes=_find_changes(on_data, probed.effects),
        )
        for probed in result.probed
    )


def _find_changes(on_data: Mapping[str, Effect], off_data: Mapping[str, Effect]) -> tuple[str, ...]:
    both = on_data.keys() & off_data.keys()
    return tuple(sorted(name for name in both if changes_off_data(on_data[name], off_data[name])))


def summarize_effect(effect: Effect) -> EffectSummary:
    """What a report shows of an effect."""
    found = effect.summarize()
    return replace(found, **{f.name: _round(getattr(found, f.name)) for f in fields(found)})


def _number(value: float) -> float | None:
    return None if math.isnan(value) else _round(value)


def _round(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) and math.isfinite(value) else value


ASSUMPTION = (
    "assumes that the model will meet data like this: equal in its decisions within the budget, not in its outputs"
)


def summarize_removal(proposal: Proposal, stage: Stage, budget: float, inputs: InputSet) -> Removal:
    """What was removed or would have been, and the verdict on it."""
    return Removal(
        verdict=stage.status,
        why=stage.why,
        safety=Safety.ASSUMES,
        assumption=ASSUMPTION,
        budget=budget,
        rows=SplitRows(*proposal.rows),
        rows_needed=proposal.needed,
        select_loss=None if math.isnan(proposal.select) else proposal.select,
        selections_tried=proposal.tried,
        removed=tuple(map(summarize_fit, proposal.fits)),
        kept=proposal.kept,
        off_the_data=proposal.off,
        warnings=proposal.warnings,
        decision=stage,
        inputs=inputs,
    )
