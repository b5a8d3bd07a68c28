"""One function for each claim: its verdict, and why, from the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from converter.records.study import Check, Claim, Stamp
from converter.study.results import ALPHA, DIFFERENT, EQUIVALENT

DEAD = 1e-12  # relative change in float64 that is rounding
LIVE = 1e-3  # and that is not
APART = 1e-6  # of logits after training in float64: rounding grows with every step
CHANCE = 55.0  # per cent of two classes: at most this without any bias on the contrast task
SEEN = 80.0  # at least this with biases

Results = Mapping[str, Any]


def run_checks(found: Results) -> list[Check]:
    """The three controls."""
    return [_check_dead(found), _check_identity(found), _check_contrast(found)]


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


SMALL = 4  # channels up to which a net is called small
_EXACT = 1e-6
_BIG, _MODEST = 10.0, 2.0  # times

Judgement = tuple[Stamp, str]
MISSING: Judgement = (Stamp.OPEN, "The blocks that it needs were not run.")


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
        return Stamp.FALSE, "Even the widest nets differ: " + "; ".join(_format_difference(c) for c in widest) + "."
    if not common:
        return (
            Stamp.UNSUPPORTED,
            f"Not shown to be within \u00b1{margin:g} points even at the widest: more seeds are needed.",
        )
    so = f"Within \u00b1{margin:g} points from {min(common)} channels on, whatever the input's centring"
    level = _describe_level(found)
    if level is None:
        return Stamp.CONFIRMED, so + "."
    return Stamp.CONDITION, f"{so}; but only where the level of the input says nothing: {level}, at every width."


def _select_input(found: Results, kind: str) -> list[Any]:
    return [c for c in found["widths"]["comparisons"] if c["input"] == kind]


def _format_difference(c: Mapping[str, Any]) -> str:
    return f"{c['mean']:+.2f} [{c['low']:+.2f}, {c['high']:+.2f}] points at {c['width']} channels".replace(
        "-", "\u2212"
    )


def _describe_level(found: Results) -> str | None:
    """The contrast task in a clause, if it shows that a bias is needed."""
    rows = found.get("contrast", {}).get("accuracy", [])
    none, every = ([r["mean"] for r in rows if r["bias"] == b] for b in ("none", "all"))
    if not none or max(none) > 55 or min(every) < 80:
        return None
    return f"bright against dim is right in {max(none):.0f} % without any bias, {min(every):.0f} % with"


def judge_first_layer(found: Results, margin: float) -> Judgement:
    rows = found["exact"]["first layer"]
    spans = {}
    for layer in ("dense", "conv"):
        r = {row["input"]: row["r"] for row in rows if row["layer"] == layer}
        spans[layer] = r
    spread = max(max(r.values()) / max(min(r.values()), 1e-6) for r in spans.values())
    said = "; ".join(f"{layer}: r = " + ", ".join(f"{v:.3f} {k}" for k, v in r.items()) for layer, r in spans.items())
    if spread >= _MODEST:
        return Stamp.CONFIRMED, f"What its inputs cannot imitate of a bias depends on their centring ({said})."
    return Stamp.UNSUPPORTED, f"On this data the centring changes little ({said})."


def judge_small(found: Results, margin: float) -> Judgement:
    small = [c for c in found["widths"]["comparisons"] if c["width"] <= SMALL]
    if not small:
        return Stamp.OPEN, "No net was that small."
    said = "; ".join(f"{_format_difference(c)} ({c['input']})" for c in small)
    if all(c["verdict"] == EQUIVALENT for c in small):
        return Stamp.FALSE, f"Small nets do as well without: {said}."
    if any(c["verdict"] == DIFFERENT and c["mean"] < 0 for c in small):
        return Stamp.FALSE, f"A small net did better without: {said}."
    better = [c for c in small if c["verdict"] == DIFFERENT]
    if better:
        where = "" if len(better) == len(small) else " in some cases"
        return (Stamp.CONFIRMED if not where else Stamp.CONDITION), f"Biases help small nets{where}: {said}."
    level = _describe_level(found)
    more = f" Where a level counts, {level}; but that holds for large nets as well." if level else ""
    return Stamp.UNSUPPORTED, f"On this data no difference is left after Holm's correction: {said}.{more}"


def judge_forget_gate(found: Results, margin: float) -> Judgement:
    arms = {arm["forget_bias"]: arm for arm in found["recall"]["arms"]}
    tests = {t["forget_bias"]: t["p_holm"] for t in found["recall"]["tests"]}
    helps = [name for name, p in tests.items() if p <= ALPHA and arms[name]["solved"] > arms["0"]["solved"]]
    counts = ", ".join(f"{arm['solved']}/{arm['n']} with {name}" for name, arm in arms.items())
    said = f"A lag of {found['recall']['lag']} was learned in {found['recall']['steps']} steps by {counts}"
    if not helps:
        return Stamp.UNSUPPORTED, f"{said}: too few to tell."
    quick = [arms[n]["median_steps"] for n in helps if n != "1" and arms[n]["median_steps"] is not None]
    one = arms["1"]["median_steps"]
    if "1" not in helps or (quick and (one is None or min(quick) < one)):
        return (
            Stamp.CONDITION,
            f"{said}. It is to be about ln(T \u2212 1) for a lag of T, not 1: larger ones were quicker.",
        )
    return Stamp.CONFIRMED, f"{said}."


def judge_batch_norm(found: Results, margin: float) -> Judgement:
    rows = found["exact"]["dead"]
    dead = [r for r in rows if r["expected_dead"]]
    live = [r["followed_by"] for r in rows if r["change"] > 1e-9]
    if max(r["change"] for r in dead) > 1e-9:
        return Stamp.FALSE, "A bias before batch norm changed the output."
    trained = [c for c in found.get("norms", {}).get("comparisons", []) if c["norm"] in ("batch", "instance")]
    more = f" Trained nets differ by at most {max(abs(c['mean']) for c in trained):.2f} points." if trained else ""
    if not live:
        return Stamp.CONFIRMED, f"To rounding.{more}"
    return Stamp.CONDITION, (
        f"Exact, to rounding, in training and where the norm works per channel and follows directly.{more} Not before "
        + "; ".join(name for name in live if name != "nothing")
        + "."
    )


def judge_function(found: Results, margin: float) -> Judgement:
    nets = [net for net in found["ablation"]["nets"] if net["norm"] == "batch"]
    if not nets:
        return MISSING
    net = max(nets, key=lambda n: n["width"])
    before, after = (net["methods"][m]["contrast"]["0.25"] for m in ("original", "sequential"))
    same = net["methods"]["sequential"]["agreement"]["mean"]
    if abs(before - after) < _MODEST:
        return Stamp.UNSUPPORTED, "Nets with biases and their imitations answer alike off the data, too."
    return Stamp.CONFIRMED, (
        f"On the data {same:.1f} % of the answers agree; at a quarter of the contrast the net with biases is right in "
        f"{before:.1f} %, its imitation without in {after:.1f} %. Without biases f(ax) = a f(x)."
    )


def judge_multiplier(found: Results, margin: float) -> Judgement:
    made = {k: m for k, m in found["widths"]["multiplier"].items() if m}
    if not made:
        return Stamp.OPEN, "Fewer than three widths were run."
    said = ", ".join(f"\u00d7{m['factor']:.2f} [{m['low']:.2f}, {m['high']:.2f}] ({k})" for k, m in made.items())
    level = _describe_level(found)
    never = f"; and where a level counts no number of channels is enough: {level}" if level else ""
    if all(m["low"] >= 2 for m in made.values()):
        return Stamp.CONFIRMED, f"Channels needed without biases: {said}."
    if any(m["high"] >= 2 for m in made.values()):
        return Stamp.UNSUPPORTED, f"Not decided: channels needed without biases: {said}{never}."
    return Stamp.UNSUPPORTED, f"Channels needed without biases: {said}{never}."


def judge_channels(found: Results, margin: float) -> Judgement:
    deep = found["depth"]["comparisons"]
    said = "; ".join(_format_difference(c) for c in deep)
    nets = [n for n in found.get("ablation", {}).get("nets", []) if n["norm"] == "batch"]
    if len(nets) < 2:
        return Stamp.OPEN, "Nets of several widths without their biases were not looked at."
    first, last = nets[0], nets[-1]
    lost = [n["methods"]["sequential"]["lost"]["mean"] for n in (first, last)]
    channels = (
        f"biases moved into the weights of trained nets cost {lost[0]:.1f} points at {first['width']} channels and "
        f"{max(lost[1], 0.0):.1f} at {last['width']}"
    )
    depth = f"At depth {deep[0]['depth']} a bias is worth {said}"
    if lost[0] < _MODEST * max(lost[1], margin):
        return Stamp.UNSUPPORTED, f"Channels hardly matter: {channels}. {depth}."
    if deep[-1]["verdict"] != EQUIVALENT:
        return Stamp.UNSUPPORTED, f"Channels matter: {channels}. Depth was not decided: {depth[0].lower()}{depth[1:]}."
    return Stamp.CONDITION, f"Channels matter: {channels}{_describe_falls(found)}. {depth}: no sign that it matters."


def _describe_falls(found: Results) -> str:
    rows = found.get("exact", {}).get("replaceability", [])
    most = max((r["n"] for r in rows), default=0)
    said = ", ".join(f"{r['measured']:.2g} at correlation {r['rho']:g}" for r in rows if r["n"] == most)
    return f"; that ends where inputs vary together (r of {most} inputs: {said})" if said else ""


def judge_capacity(found: Results, margin: float) -> Judgement:
    gains = [g for g in found["capacity"]["gains"] if g["bias"] == "all"]
    kept = [g for g in gains if g["weight_decay"] > 0]
    free = [g for g in gains if g["weight_decay"] == 0]
    if not kept:
        return Stamp.OPEN, "Nothing was trained with weight decay."
    worst, loose = (min((g["low"] for g in some), default=0.0) for some in (kept, free))
    said = "; ".join(
        f"{_format_difference(g)} (\u00d7{g['times']:g}, weight decay {g['weight_decay']:g})" for g in gains
    )
    if worst >= -margin and loose >= -margin:
        return Stamp.CONFIRMED, f"It did not hurt, with weight decay or without: {said}."
    if worst >= -margin:
        return Stamp.CONFIRMED, f"It did not hurt with weight decay: {said}."
    if any(g["verdict"] == DIFFERENT and g["mean"] < 0 for g in kept):
        return Stamp.FALSE, f"It hurt: {said}."
    return Stamp.UNSUPPORTED, f"Not decided: {said}."


def judge_constant(found: Results, margin: float) -> Judgement:
    rows = found["exact"]["constant channel"]
    inside = max(r["inside"] for r in rows)
    border = max(r["border"] for r in rows)
    if inside > _EXACT:
        return Stamp.FALSE, f"The two differ by {inside:.1e}."
    if border <= _EXACT:
        return Stamp.CONFIRMED, "Exact everywhere."
    return Stamp.CONDITION, (
        "Exact without padding, and at the centre of the kernel. At borders padded with zeros the constant is zero as "
        f"well: a weight spread over the kernel loses its share there (by {border:.2g} here)."
    )


def judge_claims(found: Results, margin: float) -> list[Claim]:
    """A verdict on every claim."""
    made = []
    for key, said, blocks, judge in _CLAIMS:
        stamp, because = judge(found, margin) if all(b in found for b in blocks[:1]) else MISSING
        made.append(Claim(key, said, stamp, because, blocks))
    return made


_CLAIMS: tuple[tuple[str, str, tuple[str, ...], Callable[[Results, float], Judgement]], ...] = (
    ("1", "The update of a bias is its delta times the learning rate.", ("exact", "drift"), judge_update),
    (
        "2",
        "In a large model removing the bias makes little difference: each node can make one from its inputs' average.",
        ("widths", "contrast", "ablation"),
        judge_large,
    ),
    ("3", "In the first layer it depends on the distribution of the input.", ("exact", "widths"), judge_first_layer),
    ("4", "On a small network you need the bias.", ("widths", "contrast"), judge_small),
    ("5", "In an LSTM the forget gate needs a bias, of 1.", ("recall",), judge_forget_gate),
    (
        "6",
        "With batch norm after the convolution a bias gains nothing.",
        ("exact", "identity", "norms"),
        judge_batch_norm,
    ),
    ("7a", "Without biases you learn a different function.", ("ablation",), judge_function),
    ("7b", "Nearly the same comes out with 2 to 4 times the parameters.", ("widths", "contrast"), judge_multiplier),
    ("7c", "Channels matter for that, not depth.", ("depth", "ablation", "exact"), judge_channels),
    ("8", "2 to 4 times more parameters than needed rarely hurt, if you regularise.", ("capacity",), judge_capacity),
    ("9", "A bias is a neuron whose activation is always 1.", ("exact",), judge_constant),
)
