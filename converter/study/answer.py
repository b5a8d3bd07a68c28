"""What the rows of a study say: the answer with its conditions, warnings and limits, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from converter.records.study import Answer, Check, Stamp, StudyCost, StudyResult
from converter.study import claims
from converter.study.results import ALPHA, DIFFERENT, EQUIVALENT, OPEN, add_parameters, summarize_blocks

if TYPE_CHECKING:
    from converter.study.run import StudyRun  # which needs torch

Result = TypeVar("Result", bound=StudyResult)
MINUS = "\u2212"


def summarize_study(
    done: StudyRun, margin: float, record: type[Result], /, *, quick: bool, preset: str = "laptop"
) -> Result:
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
        if "majority" in done.facts:
            found["widths"]["majority"] = done.facts["majority"]
    checks = claims.run_checks(found)
    valid = claims.is_valid(checks)
    judged = claims.judge_claims(found, margin, _name_command(done.facts["dataset"], preset))
    if valid is False:
        judged = [replace(c, stamp=Stamp.NOT_RUN, because="A control failed: this run says nothing.") for c in judged]
    return record(
        verdict=write_verdict(found, checks, done.facts["dataset"], margin),
        valid=valid,
        checks=tuple(checks),
        warnings=tuple(_list_warnings(done, checks, quick=quick)),
        claims=tuple(judged),
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
            preset=preset,
            not_run=done.not_run,
        ),
        rows=tuple(_shorten({k: v for k, v in row.items() if k not in ("job", "of")}) for row in done.rows),
    )


def _name_command(dataset: str, preset: str) -> str:
    given = (
        "" if dataset == "digits" else f" --dataset {dataset}" + (" --data-dir DIR" if dataset != "synthetic" else "")
    )
    return f"biasopt study{given}" + ("" if preset == "laptop" else f" --preset {preset}")


_COUNTED = ("accuracy", "accuracy_without", "agreement")  # shares of images: with 6 digits equal differences would part
_DIGITS, _FEW_DIGITS = 10, 6


def _shorten(value: Any, digits: int = _FEW_DIGITS) -> Any:
    """Measured numbers to some digits: more say nothing, and rows are many."""
    if isinstance(value, dict):
        return {k: _shorten(v, _DIGITS if k in _COUNTED else _FEW_DIGITS) for k, v in value.items()}
    if isinstance(value, list):
        return [_shorten(v, digits) for v in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


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
    return Answer(answered, sentence, _write_conditions(found))


def _write_sentence(found: Mapping[str, Any], dataset: str, margin: float) -> tuple[bool, str]:
    """About one comparison alone: biases of the convolutions on or off, the head's kept."""
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


def _write_conditions(found: Mapping[str, Any]) -> str:
    compared = found["widths"]["comparisons"]
    said = ["The head keeps its bias."]
    open_ = sorted({c["width"] for c in compared if c["verdict"] not in (DIFFERENT, EQUIVALENT)})
    if open_:
        said.append(f"At {_join_numbers(open_)} channels it is open for one input or both.")
    some = [c for c in compared if c["verdict"] == DIFFERENT]
    if some:
        each = (f"{format_points(c['mean'])} points at {c['width']} channels, {c['input']} input" for c in some)
        said.append(f"They differ: {'; '.join(each)}.")
    said += _describe_other_rate(found, compared)
    small = found["widths"]["small"]
    if small["p_flip"] <= ALPHA and small["width"] <= claims.SMALL:
        said.append(f"At {small['width']} channels, both inputs together, they are worth {small['mean']:.1f} points.")
    if "contrast" in found:
        said.append(_describe_contrast(found["contrast"]["accuracy"]))
    zeroing = found.get("ablation", {}).get("zeroing")
    if zeroing:
        said.append(
            f"{describe_zeroing(zeroing)} Moved into the weights they cost {_find_lost_moved(found, zeroing):.1f}."
        )
    return " ".join(said)


def _describe_other_rate(found: Mapping[str, Any], compared: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the learning rate that was given up would have said something else."""
    verdicts = {c["width"]: c["verdict"] for c in compared if c["input"] == "raw"}
    tested = found.get("rates", {}).get("tested", [])
    other = [c for c in tested if c["verdict"] != verdicts.get(c["width"], c["verdict"])]
    words = {EQUIVALENT: "within the margin", DIFFERENT: "a difference", OPEN: "open"}
    return [
        f"With the learning rate {c['rate']:g}, which was given up, it is {words[c['verdict']]} at {c['width']} "
        f"channels ({format_points(c['mean'])} points)."
        for c in other
    ]


def _describe_contrast(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same comparison where a level is the answer; then, apart, nets without any bias."""
    with_ = min(r["mean"] for r in rows if r["bias"] == "all")
    head = sorted((r["width"], r["mean"]) for r in rows if r["bias"] == "head")
    none = max(r["mean"] for r in rows if r["bias"] == "none")
    (few, first), (many, last) = head[0], head[-1]
    return (
        f"Where brightness is the answer they are worth {with_ - first:.0f} points at {few} channels and "
        f"{with_ - last:.0f} at {many}; without any bias, the head's included, no net gets beyond chance "
        f"({none:.0f} %)."
    )


def describe_zeroing(zeroing: Mapping[str, Any]) -> str:
    """What leaving out the biases of a trained net costs, with its range: the one number that documents give."""
    return (
        f"Left out of a trained net of {zeroing['width']} channels whose batch norm was folded, the convolutions' "
        f"biases cost {zeroing['mean']:.0f} points on average, {zeroing['least']:.0f} to {zeroing['most']:.0f} in "
        f"{zeroing['n']} nets."
    )


def _find_lost_moved(found: Mapping[str, Any], zeroing: Mapping[str, Any]) -> float:
    nets = found["ablation"]["nets"]
    net = next(n for n in nets if n["norm"] == "batch" and n["width"] == zeroing["width"])
    return max(0.0, float(net["methods"]["sequential"]["lost"]["mean"]))


def list_advice(found: Mapping[str, Any], margin: float) -> list[str]:
    """What to do, in five lines; those for which there are results."""
    said = ["A norm that takes off each channel's mean follows at once: bias=False, nothing is lost (proved)."]
    if "widths" in found:
        common = set.intersection(*(set(s["equivalent"]) for s in found["widths"]["sequence"].values()))
        if common:
            said.append(
                f"No norm, and no level in the input that means anything: from {min(common)} channels on it does not "
                f"matter, to within {margin:g} points (measured)."
            )
    if "contrast" in found:
        said.append("A level or a place in the input is part of the answer: keep them, at any width (proved).")
    if "ablation" in found:
        said.append(
            "The net is trained already: do not zero them. Fold and merge what is exact (biasopt fold), and let ablate "
            "say what weights can imitate (measured)."
        )
    if "recall" in found:
        said.append("An LSTM that must remember for long: forget bias 1 or 2 at the start (published, and measured).")
    return said


def format_points(value: float) -> str:
    """``+1.04``, with a real minus."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", MINUS)


def _join_numbers(widths: Sequence[int]) -> str:
    said = [str(w) for w in widths]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _list_warnings(done: StudyRun, made: Sequence[Check], *, quick: bool) -> list[str]:
    found = [f"Control not run: {check.name}." for check in made if check.passed is None]
    if done.not_run:
        found.append(f"There was no time for {', '.join(done.not_run)}; with --out DIR another run goes on with them.")
    if done.facts.get("seeds"):
        found.append(f"Not the numbers of seeds of the plan: {done.facts['seeds']} in every part, as asked for.")
    if quick:
        found.append("A quick run: few widths; claims that need more are not judged.")
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
            "One recipe: 3 x 3 convolutions with ReLU, Adam with a rate of 0.01 (0.003 from 32 channels on: lowered "
            "after 64 channels were seen to suffer from 0.01; the block on rates has both) along a cosine, 420 steps "
            "of 64 images. No depthwise convolutions, no attention, no tuning of each arm by itself."
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
        said.append("LSTMs: 32 cells, 200 steps, a task made for the forget gate. On other data it may matter less.")
    return said
