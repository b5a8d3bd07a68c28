"""Decisions judged again: the bounds are computed anew from the counts that the document holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from converter.records import OutputCheck
from converter.referee.verify.decisions import AgreementCounts, decide, decide_by_interval
from converter.referee.verify.options import Deciding


def check(found: OutputCheck, margin: float | None, alpha: float | None) -> OutputCheck:
    """One output's decisions by another margin or another level; as it was where the counts are not there."""
    detail = found.detail
    if (margin is None and alpha is None) or "n" not in detail or "margin" not in detail:
        return found
    ask = Deciding(
        margin=detail["margin"] if margin is None else margin, alpha=detail["alpha"] if alpha is None else alpha
    )
    if "k" in detail:
        again = decide(found.name, _votes(detail), ask)
        return replace(again, detail=detail | again.detail)
    if alpha is not None or "lower" not in detail or "upper" not in detail or found.score is None:
        return found  # a bootstrap at another level needs the samples
    bounds = (float(detail["lower"]), float(detail["upper"]))
    return decide_by_interval(
        found.name, found.score, bounds, ask, detail | _asked(ask), f"changes by {found.score:+.3g}", "give more inputs"
    )


def _asked(ask: Deciding) -> dict[str, Any]:
    return {"margin": ask.margin, "alpha": ask.alpha}


def _votes(detail: dict[str, Any]) -> AgreementCounts:
    n, labelled = int(detail["n"]), "gained" in detail
    return AgreementCounts(
        rows=n,
        differ=float(detail["k"]),
        maps=detail.get("metric") == "pixel_disagreement",
        right_a=n * float(detail.get("accuracy_a", 0.0)),
        right_b=n * float(detail.get("accuracy_b", 0.0)),
        gained=int(detail.get("gained", 0)),
        lost=int(detail.get("lost", 0)),
        labelled=n if labelled else 0,
    )
