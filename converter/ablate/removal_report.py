"""What a removal did, for the reports of `fold`: as JSON values, and as lines for the terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from converter.ablate.document import fit_json
from converter.ablate.removal import Proposal
from converter.records import Stage, Verdict
from converter.report import serialize as parts
from converter.report import wording
from converter.report.content.ablate import share

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
        "decision": parts.encode(stage),
        "inputs": dict(inputs) if inputs is not None else None,
    }


def removal_lines(document: Mapping[str, Any]) -> list[str]:
    """The same in words, a line each; ``document`` is what `removal_json` gave."""
    rows, removed = document["rows"], document["removed"]
    gone = document["verdict"] == Verdict.PASS.value
    lines = [f"{document['verdict']}: {wording.plain(document['why'])}"]
    if removed:
        did = "removed" if gone else "would have been removed"
        lines.append(
            f"{wording.count(len(removed), 'bias', 'biases')} {did} within {wording.percent(document['budget'])}:"
        )
        lines += [f"  {_fit(fit)}" for fit in removed]
        parts_of = (rows["calibrate"], rows["select"], rows["confirm"])
        lines.append("fitted on {:,} rows, selected on {:,}, judged on {:,} others".format(*parts_of))
        lines.append(ASSUMPTION)
    lines += [
        f"{len(nodes)} kept ({code}): {wording.listing(tuple(nodes))}" for code, nodes in _by_code(document["kept"])
    ]
    return lines + [f"warning: {wording.plain(w)}" for w in document["warnings"]]


def _fit(fit: Mapping[str, Any]) -> str:
    steps = f", {fit['steps']} steps" if fit["steps"] else ""
    left = share(fit["left"])
    return f"{wording.plain(fit['node'])}: {left} of the squared error left ({fit['method']}{steps})"


def _by_code(kept: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for each in kept:
        found.setdefault(each["code"], []).append(each["node"])
    return list(found.items())
