"""What the rows of a study say: the answer with its conditions, warnings and limits, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from converter.records.study import Answer, Check, StudyCost, StudyResult
from converter.study import claims
from converter.study.results import DIFFERENT, EQUIVALENT, add_parameters, summarize_blocks

if TYPE_CHECKING:
    from converter.study.run import StudyRun  # which needs torch

Result = TypeVar("Result", bound=StudyResult)
MINUS = "\u2212"


def summarize_study(done: StudyRun, margin: float, record: type[Result], /, *, quick: bool) -> Result:
    """What the rows say, as a ``record``.

    Parameters
    ----------
    margin : float
        Percentage points that count as no difference.
    """
    share = done.facts["test"] / done.facts["train"]
    found = summarize_blocks(done.rows, margin, share)
    if "widths" in found:
        add_parameters(found["widths"], done.facts["shape"], done.facts["classes"])
    checks = claims.run_checks(found)
    return record(
        verdict=write_verdict(found, checks, done.facts["dataset"], margin),
        valid=claims.is_valid(checks),
        checks=tuple(checks),
        warnings=tuple(_list_warnings(done, checks, quick=quick)),
        claims=tuple(claims.judge_claims(found, margin)),
        margin=margin,
        results=found,
        limits=tuple(list_limits(done.facts, found)),
        facts=dict(done.facts),
        run=StudyCost(
            jobs=done.planned,
            left_out=tuple(done.left_out),
            resumed=done.resumed,
            seconds=round(done.seconds, 1),
            cpu_seconds=round(done.cpu_seconds, 1),
            models=sum(row["block"] != "exact" for row in done.rows),
            quick=quick,
        ),
        rows=tuple({k: _shorten(v) for k, v in row.items() if k not in ("job", "of")} for row in done.rows),
    )


def _shorten(value: Any) -> Any:
    """A measured number to 6 digits: more say nothing, and rows are many."""
    if isinstance(value, dict):
        return {k: _shorten(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_shorten(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def write_verdict(found: Mapping[str, Any], made: Sequence[Check], dataset: str, margin: float) -> Answer:
    """The answer in a sentence, its conditions, and whether it is an answer."""
    failed = [check for check in made if check.passed is False]
    if failed:
        said = "; ".join(f"{check.name}: {check.said}" for check in failed)
        more = f"What is certain did not show. {said}."
        return Answer(False, "This run is invalid: a control failed.", more)
    if "widths" not in found:
        more = "The claims below say what was looked at."
        return Answer(False, "The main comparison was not run.", more)
    answered, sentence = _write_sentence(found, dataset, margin)
    return Answer(answered, sentence, _write_conditions(found, margin))


def _write_sentence(found: Mapping[str, Any], dataset: str, margin: float) -> tuple[bool, str]:
    compared = found["widths"]["comparisons"]
    common = set.intersection(*(set(s["equivalent"]) for s in found["widths"]["sequence"].values()))
    widest = max(c["width"] for c in compared)
    if any(c["verdict"] == DIFFERENT for c in compared if c["width"] == widest):
        said = f"On {dataset}, biases in the convolutions make a difference, even in the widest nets."
        return True, said
    if common:
        so = f"from {min(common)} channels on" if min(common) < widest else f"at {widest} channels"
        said = f"On {dataset}, biases in the convolutions change accuracy by less than {margin:g} points {so}."
        return True, said
    said = f"On {dataset}, these seeds cannot tell whether biases in the convolutions make a difference."
    return False, said


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


def _list_warnings(done: StudyRun, made: Sequence[Check], *, quick: bool) -> list[str]:
    found = [f"Control not run: {check.name}." for check in made if check.passed is None]
    if done.left_out:
        found.append(
            f"{len(done.left_out)} of {done.planned} jobs did not fit into the time; --out DIR keeps rows, so that "
            "another run goes on with them."
        )
    if quick:
        found.append("A quick run: few widths, few seeds, some claims not looked at.")
    return found


def list_limits(facts: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What this does not show."""
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
