"""``biasopt.study/1``: all that a study found, as JSON values; every other form of the report is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from converter.report import documents
from converter.study import claims
from converter.study.results import DIFFERENT, EQUIVALENT, add_parameters, summarize_blocks

SCHEMA = "biasopt.study/1"
MINUS = "\u2212"


@dataclass(frozen=True, slots=True)
class Ran:
    """What the document says of the run itself."""

    rows: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]
    planned: int
    left_out: Sequence[str]
    resumed: int
    seconds: float
    cpu_seconds: float
    quick: bool


def study_document(ran: Ran, margin: float, *, argv: Sequence[str], version: str) -> dict[str, Any]:
    """The document.

    Parameters
    ----------
    margin : float
        Percentage points that count as no difference.
    """
    share = ran.facts["test"] / ran.facts["train"]
    found = summarize_blocks(ran.rows, margin, share)
    if "widths" in found:
        add_parameters(found["widths"], ran.facts["shape"], ran.facts["classes"])
    made = claims.run_checks(found)
    valid = claims.is_valid(made)
    return {
        "schema": SCHEMA,
        "tool": documents.tool(argv, version),
        "exit_code": 1 if valid is False else 0,
        "verdict": write_verdict(found, made, ran.facts["dataset"], margin),
        "valid": valid,
        "checks": [asdict(check) for check in made],
        "warnings": _list_warnings(ran, made),
        "claims": [_claim_json(claim) for claim in claims.judge_claims(found, margin)],
        "margin": margin,
        "results": found,
        "limits": list_limits(ran, found),
        "facts": dict(ran.facts),
        "run": {
            "jobs": ran.planned,
            "left_out": list(ran.left_out),
            "resumed": ran.resumed,
            "seconds": round(ran.seconds, 1),
            "cpu_seconds": round(ran.cpu_seconds, 1),
            "models": sum(row["block"] != "exact" for row in ran.rows),
            "quick": ran.quick,
        },
        "rows": [{k: _shorten(v) for k, v in row.items() if k not in ("job", "of")} for row in ran.rows],
        "repro": documents.repro(argv),
    }


def _claim_json(claim: claims.Claim) -> dict[str, Any]:
    return {
        "id": claim.id,
        "said": claim.said,
        "stamp": claim.verdict,
        "because": claim.because,
        "blocks": list(claim.blocks),
    }


def _shorten(value: Any) -> Any:
    """A measured number to 6 digits: more say nothing, and rows are many."""
    if isinstance(value, dict):
        return {k: _shorten(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_shorten(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def write_verdict(found: Mapping[str, Any], made: list[claims.Check], dataset: str, margin: float) -> dict[str, Any]:
    """The answer in a sentence, its conditions, and whether it is an answer."""
    failed = [check for check in made if check.passed is False]
    if failed:
        said = "; ".join(f"{check.name}: {check.said}" for check in failed)
        more = f"What is certain did not show. {said}."
        return {"answered": False, "sentence": "This run is invalid: a control failed.", "more": more}
    if "widths" not in found:
        more = "The claims below say what was looked at."
        return {"answered": False, "sentence": "The main comparison was not run.", "more": more}
    return _write_answer(found, dataset, margin) | {"more": _write_conditions(found, margin)}


def _write_answer(found: Mapping[str, Any], dataset: str, margin: float) -> dict[str, Any]:
    compared = found["widths"]["comparisons"]
    common = set.intersection(*(set(s["equivalent"]) for s in found["widths"]["sequence"].values()))
    widest = max(c["width"] for c in compared)
    if any(c["verdict"] == DIFFERENT for c in compared if c["width"] == widest):
        said = f"On {dataset}, biases in the convolutions make a difference, even in the widest nets."
        return {"answered": True, "sentence": said}
    if common:
        so = f"from {min(common)} channels on" if min(common) < widest else f"at {widest} channels"
        said = f"On {dataset}, biases in the convolutions change accuracy by less than {margin:g} points {so}."
        return {"answered": True, "sentence": said}
    said = f"On {dataset}, these seeds cannot tell whether biases in the convolutions make a difference."
    return {"answered": False, "sentence": said}


def _write_conditions(found: Mapping[str, Any], margin: float) -> str:
    compared = found["widths"]["comparisons"]
    parts_ = []
    open_ = sorted({c["width"] for c in compared if c["verdict"] not in (DIFFERENT, EQUIVALENT)})
    if open_:
        parts_.append(
            f"At {_join_numbers(open_)} channels the seeds that were run leave it open, for one input or both."
        )
    some = [c for c in compared if c["verdict"] == DIFFERENT]
    if some:
        said = "; ".join(
            f"{format_points(c['mean'])} points at {c['width']} channels, {c['input']} input" for c in some
        )
        parts_.append(f"They differ: {said}.")
    contrast = found.get("contrast", {}).get("accuracy", [])
    if contrast:
        none = max(r["mean"] for r in contrast if r["bias"] == "none")
        every = min(r["mean"] for r in contrast if r["bias"] == "all")
        parts_.append(
            f"Where brightness is the answer they make all the difference, at any width: {every:.0f} % right with "
            f"biases, {none:.0f} % without."
        )
    nets = [n for n in found.get("ablation", {}).get("nets", []) if n["norm"] == "batch"]
    if nets:
        net = max(nets, key=lambda n: n["width"])
        zero, seq = (net["methods"][m]["lost"]["mean"] for m in ("zero", "sequential"))
        parts_.append(
            f"Taken out of a trained net of {net['width']} channels whose batch norm was folded they cost "
            f"{zero:.1f} points; moved into the weights, {max(seq, 0):.1f}."
        )
    return " ".join(parts_)


def format_points(value: float) -> str:
    """``+1.04``, with a real minus."""
    return f"{value:+.2f}".replace("-", MINUS)


def _join_numbers(widths: Sequence[int]) -> str:
    said = [str(w) for w in widths]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _list_warnings(ran: Ran, made: list[claims.Check]) -> list[str]:
    found = [f"Control not run: {check.name}." for check in made if check.passed is None]
    if ran.left_out:
        found.append(
            f"{len(ran.left_out)} of {ran.planned} jobs did not fit into the time; --out DIR keeps rows, so that "
            "another run goes on with them."
        )
    if ran.quick:
        found.append("A quick run: few widths, few seeds, some claims not looked at.")
    return found


def list_limits(ran: Ran, found: Mapping[str, Any]) -> list[str]:
    """What this does not show."""
    facts = ran.facts
    c, h, w = facts["shape"]
    said = [
        (
            f"One data set: {facts['dataset']}, {facts['images']:,} images of {c} x {h} x {w} numbers; "
            "nothing here says what happens on ImageNet."
        ),
        (
            "One recipe: 3 x 3 convolutions with ReLU, Adam with a rate of 0.01 (0.003 from 32 channels on) along a "
            "cosine, 420 steps of 64 images. No depthwise convolutions, no attention, no tuning of each arm by itself "
            "(the block on rates looks at that)."
        ),
        (
            "Intervals are over seeds: split, initial weights and order of batches at once. The splits of one data set "
            "overlap, so that on new data of this kind they are wider: see the columns on new data."
        ),
        "Equivalent means within the margin, not the same. No difference found is not no difference.",
        (
            "In distribution only. A net without biases is the same at every contrast; whether that is good depends on "
            "what a level means, see the contrast control."
        ),
    ]
    if "ablation" in found:
        said.append(
            "Biases of nets trained without batch norm are small here; that leaving them out is harmless says little."
        )
    if "recall" in found:
        said.append("LSTMs: one lag, 32 cells, a task made for the forget gate. On other data it may matter less.")
    return said
