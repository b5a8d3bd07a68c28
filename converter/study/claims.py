"""One function for each claim: its verdict, and why, from the results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from converter.records.study import Check, Claim, Stamp
from converter.stats import fisher
from converter.study.results import ALPHA, DIFFERENT, EQUIVALENT, OPEN

DEAD = 1e-12  # relative change in float64 that is rounding
LIVE = 1e-3  # and that is not
APART = 1e-6  # of logits after training in float64: rounding grows with every step
CHANCE = 55.0  # per cent of two classes: at most this without any bias on the contrast task
SEEN = 80.0  # at least this with biases
LEARNED = 5.0  # points by which the widest nets must be better than the most frequent class: else nothing can differ

Results = Mapping[str, Any]


def run_checks(found: Results) -> list[Check]:
    """The three controls; a fourth where the main comparison was run on data whose classes were counted."""
    made = [_check_dead(found), _check_identity(found), _check_contrast(found)]
    return made + ([_check_learned(found["widths"])] if "majority" in found.get("widths", {}) else [])


def is_valid(made: Sequence[Check]) -> bool | None:
    """Whether all passed; None if some were not run and none failed."""
    states = [check.passed for check in made]
    return False if False in states else None if None in states else True


def _check_dead(found: Results) -> Check:
    name = "a bias before a per-channel norm changes nothing, before others it does"
    rows = found.get("exact", {}).get("dead", [])
    if not rows:
        return Check(name, None, "not run")
    most = max(row["change"] for row in rows if row["expected_dead"])
    least = min(row["change"] for row in rows if not row["expected_dead"])
    return Check(
        name,
        most <= DEAD and least >= LIVE,
        f"relative change at most {most:.0e} where dead, at least {least:.2g} elsewhere",
    )


def _check_identity(found: Results) -> Check:
    name = "two nets that differ in a random bias before their norm learn the same"
    rows = found.get("identity", {}).get("checks", [])
    if not rows:
        return Check(name, None, "not run")
    apart, points = max(row["apart"] for row in rows), max(row["difference"] for row in rows)
    said = f"after training in float64 the logits differ by {apart:.0e}, the accuracy by {points:g} points"
    return Check(name, apart <= APART and points == 0, said)


def _check_contrast(found: Results) -> Check:
    name = "no net without biases tells bright from dim, and nets with biases do"
    rows = found.get("contrast", {}).get("accuracy", [])
    if not rows:
        return Check(name, None, "not run")
    best = max(row["worst"] for row in rows if row["bias"] == "none")
    mean = min(row["mean"] for row in rows if row["bias"] == "all")
    return Check(
        name, best <= CHANCE and mean >= SEEN, f"at most {best:.1f} % without, {mean:.1f} % and more with biases"
    )


def _check_learned(widths: Results) -> Check:
    """Nets that learned nothing do not differ either, whatever their biases are worth."""
    compared, most = widths["comparisons"], widths["majority"]
    widest = max(c["width"] for c in compared)
    least = min(c["with"]["mean"] for c in compared if c["width"] == widest)
    said = f"{least:.1f} % are right with {widest} channels; the most frequent class is {most:.1f} %"
    return Check("the widest nets have learned something that could differ", least >= most + LEARNED, said)


SMALL = 4  # channels up to which a net is called small
_EXACT = 1e-6
_MODEST = 2.0  # times
_MOST = 400  # seeds at which it is no use to say how many would tell
_PROVABLE = ("threshold", "rings")  # tasks that no net without biases can do, whatever its size

Judgement = tuple[Stamp, str]


def judge_update(found: Results, margin: float) -> Judgement:
    error = {row["optimiser"]: row["error"] for row in found["exact"]["update"]}
    others = [name for name in error if name != "SGD" and error[name] > _EXACT]
    if error["SGD"] > _EXACT:
        return Stamp.FALSE, f"Not even for plain SGD: the step is off by {error['SGD']:.1e}."
    if not others:
        return Stamp.CONFIRMED, "For every optimiser that was tried."
    drift = ""
    if "drift" in found:
        adam = next((o for o in found["drift"]["optimisers"] if o["optimiser"] == "Adam"), None)
        drift = f" Adam even moves a bias that is dead, up to {adam['largest']:.2f} here." if adam else ""
    return Stamp.CONDITION, (
        "Exact for plain SGD, with the deltas summed over the batch and over every place of the image; not for "
        f"{' or '.join(others)}.{drift}"
    )


def judge_large(found: Results, margin: float) -> Judgement:
    sequences = found["widths"]["sequence"]
    held = [set(s["equivalent"]) for s in sequences.values()]
    common = set.intersection(*held) if held else set()
    widest = [max((c for c in _select_input(found, i)), key=lambda c: c["width"]) for i in sequences]
    if any(c["verdict"] == DIFFERENT for c in widest):
        return Stamp.FALSE, "Even the widest nets differ: " + "; ".join(format_difference(c) for c in widest) + "."
    if not common:
        return (
            Stamp.UNDECIDED,
            f"Not shown to be within \u00b1{margin:g} points even at the widest{_say_needed(widest)}.",
        )
    so = f"Within \u00b1{margin:g} points from {min(common)} channels on, whatever the input's centring"
    rows = found["contrast"]["accuracy"]
    if min(r["mean"] for r in rows if r["bias"] == "head") >= 100 - margin:
        return Stamp.CONFIRMED, so + "."
    return Stamp.CONDITION, f"{so}; but only where the level of the input says nothing: {describe_level(found)}."


def _select_input(found: Results, kind: str) -> list[Any]:
    return [c for c in found["widths"]["comparisons"] if c["input"] == kind]


def _say_needed(compared: Sequence[Mapping[str, Any]]) -> str:
    needed = [c["needed"] for c in compared if c["verdict"] == OPEN]
    if not needed:
        return ""
    return "; no number of seeds that can be run would tell" if None in needed else _say_seeds(max(needed))


def _say_seeds(count: int | None) -> str:
    return f"; about {count:,} seeds would tell" if count else ""


def format_difference(c: Mapping[str, Any]) -> str:
    """``+1.20 [+0.40, +2.00] points at 4 channels``."""
    at = f" at {c['width']} channels" if "width" in c else ""
    return f"{_format_change(c)} points{at}"


def _format_change(c: Mapping[str, Any]) -> str:
    return f"{c['mean']:+.2f} [{c['low']:+.2f}, {c['high']:+.2f}]".replace("-", "\u2212")


def describe_level(found: Results) -> str:
    """What convolution biases are worth where a level is the answer, in a clause: the head keeps its bias."""
    rows = found["contrast"]["accuracy"]
    by_arm = {arm: sorted((r["width"], r["mean"]) for r in rows if r["bias"] == arm) for arm in ("all", "head")}
    with_ = min(mean for _, mean in by_arm["all"])
    (few, first), (many, last) = by_arm["head"][0], by_arm["head"][-1]
    return (
        f"bright against dim is right in {with_:.0f} % with biases, and with the head's alone in {first:.0f} % at "
        f"{few} channels and {last:.0f} % at {many}"
    )


def judge_first_layer(found: Results, margin: float) -> Judgement:
    rows = found["exact"]["first layer"]
    spans = {la: {r["input"]: r["r"] for r in rows if r["layer"] == la} for la in ("dense", "conv")}
    spread = max(max(r.values()) / max(min(r.values()), 1e-6) for r in spans.values())
    said = "; ".join(f"{layer}: r = " + ", ".join(f"{v:.3f} {k}" for k, v in r.items()) for layer, r in spans.items())
    if spread < _MODEST:
        return Stamp.UNSUPPORTED, f"On this data the centring changes little of what inputs can imitate ({said})."
    more = [c for c in found["mechanism"]["more"] if c["input"] == "pixel"]
    so = "What the first layer can imitate of a bias depends on the centring of its inputs"
    worth = "Where they can imitate nothing, r = 1, a bias is worth " + "; ".join(map(format_difference, more))
    if any(c["verdict"] == DIFFERENT and c["mean"] > margin for c in more):
        return Stamp.CONFIRMED, f"{so} ({said}). {worth} more than on raw inputs."
    seen = [c["width"] for c in more if c["p_holm"] <= ALPHA and c["mean"] > 0]
    shown = f"shows it by less than {margin:g} points" if seen else "did not show it"
    return Stamp.CONDITION, (
        f"{so} ({said}); accuracy {shown}: the ability, not the accuracy. {worth} more than on raw inputs."
    )


def judge_small(found: Results, margin: float) -> Judgement:
    c = found["widths"]["small"]
    if c["width"] > SMALL:
        return Stamp.NOT_RUN, f"No net of up to {SMALL} channels was trained; the whole study has them."
    need, proved = _describe_provable(found)
    digits = f"with {c['width']} channels biases are worth {_format_change(c)} points (p = {c['p_flip']:.3f})"
    if c["low"] > margin:
        return Stamp.CONFIRMED, f"On this data, {digits}. {proved}"
    if c["high"] < -margin:
        return Stamp.FALSE, f"Small nets did better without: {digits}. {proved}"
    if need:
        return Stamp.CONDITION, f"Where a level or a place counts. {proved} On this data, {digits}."
    if c["verdict"] == EQUIVALENT:
        return Stamp.FALSE, f"Small nets do as well without: {digits}. {proved}"
    return Stamp.UNDECIDED, f"On this data it is open: {digits}{_say_needed([c])}. {proved}"


def _describe_provable(found: Results) -> tuple[bool, str]:
    """Whether nets fail without any bias where they must, and do it with; and the figures."""
    rows = found["points"]["accuracy"]
    said, need = [], True
    for task in dict.fromkeys(r["task"] for r in rows):
        none, every = (max(r["mean"] for r in rows if r["task"] == task and r["bias"] == b) for b in ("none", "all"))
        said.append(f"{task} {none:.0f} % without, {every:.0f} % with")
        need &= every >= SEEN and (none <= CHANCE or task not in _PROVABLE)
    sizes = sorted({r["width"] for r in rows})
    so = f"On points, where it can be proved, the best of {sizes[0]} to {sizes[-1]} units is right in"
    return need, f"{so}: {'; '.join(said)}."


def judge_forget_gate(found: Results, margin: float) -> Judgement:
    arms = {(arm["lag"], arm["forget_bias"]): arm for arm in found["recall"]["arms"]}
    lags = found["recall"]["lags"]
    helps = {
        lag: [
            t["forget_bias"]
            for t in found["recall"]["tests"]
            if t["lag"] == lag and t["against"] == "0" and t["p_holm"] <= ALPHA
        ]
        for lag in lags
    }
    said = " ".join(f"{_count_solved(found, lag)}." for lag in lags)
    rest = [t for t in found["recall"]["tests"] if t["against"] == "2"]
    none = "" if any(t["p_holm"] <= ALPHA for t in rest) else " Nothing speaks for ln(T \u2212 1) over 2."
    enough = [lag for lag in lags if arms[lag, "0"]["solved"] == arms[lag, "0"]["n"]]
    solved = [lag for lag in lags if any(4 * arms[lag, a]["solved"] >= 3 * arms[lag, a]["n"] for a in ("1", "2"))]
    if not any(helps.values()):
        if enough == lags:
            return Stamp.UNSUPPORTED, f"Zero was enough at every lag. {said}"
        return Stamp.UNDECIDED, f"Too few seeds to tell from zero{_say_seeds(_count_seeds_to_tell(found))}. {said}"
    if solved == lags and helps[lags[-1]]:
        also = f", and zero is enough for short ones ({enough[-1]})" if enough else ""
        return Stamp.CONFIRMED, f"For long lags{also}. {said}{none}"
    return Stamp.CONDITION, f"It helps, but not at every lag. {said}{none}"


def _count_seeds_to_tell(found: Results) -> int | None:
    """Seeds at which the shares that learned the longest lag would differ; None where they are the same."""
    arms = {arm["forget_bias"]: arm for arm in found["recall"]["arms"] if arm["lag"] == found["recall"]["lags"][-1]}
    share = {name: arms[name]["solved"] / arms[name]["n"] for name in ("0", "1", "2")}
    most, tests = max(share["1"], share["2"]), sum(t["against"] == "0" for t in found["recall"]["tests"])
    for n in range(arms["0"]["n"], _MOST):
        if tests * fisher(round(most * n), n, round(share["0"] * n), n) <= ALPHA:
            return n
    return None


def _count_solved(found: Results, lag: int) -> str:
    counts = ", ".join(
        f"{a['solved']}/{a['n']} with {a['forget_bias']}" for a in found["recall"]["arms"] if a["lag"] == lag
    )
    return f"A lag of {lag} was learned by {counts}".replace("ln(T-1)", "ln(T \u2212 1)")


def judge_batch_norm(found: Results, margin: float) -> Judgement:
    rows = found["exact"]["dead"]
    dead = [r for r in rows if r["expected_dead"]]
    live = [r["followed_by"] for r in rows if r["change"] > 1e-9]
    if max(r["change"] for r in dead) > 1e-9:
        return Stamp.FALSE, "A bias before batch norm changed the output."
    trained = [c for c in found.get("norms", {}).get("comparisons", []) if c["norm"] in ("batch", "instance")]
    more = f" Trained nets differ by at most {max(abs(c['mean']) for c in trained):.2f} points." if trained else ""
    return Stamp.CONFIRMED, (
        "Exact, to rounding: the norm takes off what the bias adds, and its own offset does what the bias was for. "
        "Two things end that: statistics that are frozen (or of evaluation) while the bias is trained, and a norm "
        f"without an offset (affine=False), which leaves none at all.{more} It does not carry over to "
        + "; ".join(name for name in live if name != "nothing" and "frozen" not in name)
        + "."
    )


def judge_function(found: Results, margin: float) -> Judgement:
    nets = [net for net in found["ablation"]["nets"] if net["norm"] == "batch"]
    net = max(nets, key=lambda n: n["width"])
    before, after = (net["methods"][m]["contrast"]["0.25"] for m in ("original", "sequential"))
    same = net["methods"]["sequential"]["agreement"]["mean"]
    if abs(before - after) < _MODEST:
        return Stamp.UNSUPPORTED, "Nets with biases and their imitations answer alike off the data, too."
    return Stamp.CONFIRMED, (
        f"On the data {same:.1f} % of the answers agree; at a quarter of the contrast the net with biases is right in "
        f"{before:.1f} %, its imitation without, but for the head's, in {after:.1f} %."
    )


def judge_multiplier(found: Results, margin: float) -> Judgement:
    made = {k: m for k, m in found["widths"]["multiplier"].items() if m}
    if not made:
        return Stamp.NOT_RUN, "Fewer than three widths were run; the whole study has six."
    said = ", ".join(f"\u00d7{m['factor']:.2f} [{m['low']:.2f}, {m['high']:.2f}] ({k})" for k, m in made.items())
    so = f"Channels needed without convolution biases: {said}"
    if all(m["low"] > 1 and m["factor"] >= _MORE for m in made.values()):
        return Stamp.CONFIRMED, f"{so}."
    if all(m["high"] < _MORE for m in made.values()):
        level = f"; where a level counts no number of channels makes up for them: {describe_level(found)}"
        return Stamp.UNSUPPORTED, f"{so}{level}."
    times = max(_more_seeds(m) for m in made.values())
    return Stamp.UNDECIDED, f"{so}; about {times:,} times the seeds would tell."


def _more_seeds(m: Mapping[str, Any]) -> int:
    """How many times the seeds narrow an interval, which goes with their root, so far that it leaves out a bound."""
    factor, low, high = (math.log(m[k]) for k in ("factor", "low", "high"))
    half, gap = (factor - low, factor) if m["factor"] >= _MORE else (high - factor, math.log(_MORE) - factor)
    return max(2, math.ceil((half / max(gap, 1e-3)) ** 2))


_MORE = 1.1  # times the channels: about the least that anybody would call more


def judge_channels(found: Results, margin: float) -> Judgement:
    depth = found["depth"]
    fewer, deeper = depth["fewer"], depth["deeper"]
    few, many = depth["widths"][0], depth["widths"][-1]
    shallow, deep = depth["depths"][0], depth["depths"][-1]
    channels = "; ".join(f"{_format_change(c)} at depth {c['depth']}" for c in fewer)
    layers = "; ".join(f"{_format_change(c)} at {c['width']} channels" for c in deeper)
    so = (
        f"Moving the biases of trained nets into their weights costs more with {few} channels than with {many} "
        f"(points: {channels}), and at depth {deep} than at {shallow} by {layers}"
    )
    matters = [c["verdict"] == DIFFERENT and c["mean"] > margin for c in fewer]
    if not any(matters):
        if all(c["verdict"] == EQUIVALENT for c in fewer):
            return Stamp.FALSE, f"{so}: channels do not matter."
        return Stamp.UNDECIDED, f"{so}{_say_needed(fewer)}."
    felt = [c["width"] for c in deeper if c["verdict"] == DIFFERENT and abs(c["mean"]) > margin]
    if many in felt:
        return Stamp.FALSE, f"{so}: depth matters even with many channels."
    if felt:
        return Stamp.CONDITION, f"{so}: depth matters where channels are few, and not where they are many."
    if all(c["verdict"] == EQUIVALENT for c in deeper):
        return Stamp.CONFIRMED, f"{so}: depth does not matter."
    return Stamp.UNDECIDED, f"{so}{_say_needed(deeper)}."


def judge_capacity(found: Results, margin: float) -> Judgement:
    gains = found["capacity"]["gains"]
    kept = [g for g in gains if g["weight_decay"] > 0]
    if not kept:
        return Stamp.UNDECIDED, "The widest nets were the least that is needed; wider ones would tell."
    said = "; ".join(
        f"{_format_change(g)} points (\u00d7{g['times']}, {'with' if g['weight_decay'] else 'without'} weight decay)"
        for g in gains
    )
    need = ", ".join(
        f"{w} channels {'with' if float(d) else 'without'}" for d, w in found["capacity"]["needed"].items()
    )
    so = f"Needed are {need} weight decay; more parameters than that: {said}"
    if any(g["verdict"] == DIFFERENT and g["mean"] < -margin for g in kept):
        return Stamp.FALSE, f"It hurt. {so}."
    if all(g["low"] >= -margin for g in kept):
        return Stamp.CONFIRMED, f"It did not hurt. {so}."
    return Stamp.UNDECIDED, f"{so}{_say_needed(kept)}."


def judge_constant(found: Results, margin: float) -> Judgement:
    rows = found["exact"]["constant channel"]
    centre = max(max(r["inside"], r["border"]) for r in rows if r["weight"] == "centre")
    border = max(r["border"] for r in rows)
    if centre > _EXACT:
        return Stamp.FALSE, f"The two differ by {centre:.1e}."
    more = (
        ""
        if border <= _EXACT
        else " A weight that is spread over the kernel would lose its share at borders that are "
        f"padded with zeros (by {border:.2g} here)."
    )
    return Stamp.CONFIRMED, f"To rounding, with its weight at the centre of the kernel, padded or not.{more}"


def judge_claims(found: Results, margin: float, again: str = "biasopt study") -> list[Claim]:
    """A verdict on every claim; ``again`` is the command that runs this study, which is told to run what is missing."""
    made = []
    for key, said, quoted, blocks, judge in CLAIMS:
        missing = [block for block in blocks if block not in found]
        if missing:
            stamp, because = Stamp.NOT_RUN, f"{again} --blocks {','.join(blocks)}"
        else:
            stamp, because = judge(found, margin)
        made.append(Claim(key, said, stamp, because, blocks, quoted))
    return made


# What was answered to the question on Stack Overflow (questions/51959507, 2018), and what of it is tested.
CLAIMS: tuple[tuple[str, str, str, tuple[str, ...], Callable[[Results, float], Judgement]], ...] = (
    (
        "1",
        "The update of a bias is its delta times the learning rate.",
        "is updated by subtracting the just the product of the delta value and learning rate",
        ("exact", "drift"),
        judge_update,
    ),
    (
        "2",
        "In a large model convolution biases make little difference: weights make one of the average of their inputs.",
        (
            "In a large model, removing the bias inputs makes very little difference because each node can make a bias "
            "node out of the average activation of all of its inputs"
        ),
        ("widths", "contrast"),
        judge_large,
    ),
    (
        "3",
        "In the first layer that depends on the distribution of the input.",
        "At the first layer, the ability for this to happens depends on your input distribution.",
        ("exact", "mechanism"),
        judge_first_layer,
    ),
    (
        "4",
        "A small net needs its biases.",
        "On a small network, of course you need a bias input",
        ("widths", "points"),
        judge_small,
    ),
    (
        "5",
        "An LSTM that must remember for long needs a forget bias such as 1 or 2; else small random ones will do.",
        (
            "small random weights which works well on many problems [...] simply initializing the forget gates bias to "
            "a large value such as 1 or 2"
        ),
        ("recall",),
        judge_forget_gate,
    ),
    (
        "6",
        "With batch norm after the convolution a bias gains nothing.",
        "if you have a batchnorm layer there is no gain",
        ("exact", "identity"),
        judge_batch_norm,
    ),
    (
        "7a",
        "Without biases a net learns a different function.",
        "you are learning different functions",
        ("ablation",),
        judge_function,
    ),
    (
        "7b",
        "Nearly the same accuracy takes more parameters without biases.",
        "almost the same thing without bias as with bias but end up using more parameters",
        ("widths", "contrast"),
        judge_multiplier,
    ),
    (
        "7c",
        "For that channels count, and depth does not.",
        "try using few channels (I don't think the depth of the network matters that much)",
        ("depth",),
        judge_channels,
    ),
    (
        "8",
        "Two to four times the parameters that are needed do not hurt, with weight decay.",
        "2-4 times more parameters than really needed rarely hurts performance [...] especially if you regularise",
        ("capacity",),
        judge_capacity,
    ),
    (
        "9",
        "A bias is a neuron whose activation is always 1.",
        "caused by input from a neuron with a fixed activation of 1",
        ("exact",),
        judge_constant,
    ),
)
