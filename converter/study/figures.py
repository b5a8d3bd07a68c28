"""The pictures of a study, made from its document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from converter.report import charts as svg
from converter.study.draw import MINUS, Entry, Figure, Series, across, forest, lines
from converter.study.figures_more import centring, contrast, error, recall, removal, replaceability

NAN = math.nan
TONES = {"EQUIVALENT": "good", "DIFFERENT": "bad", "INCONCLUSIVE": "a"}
VERDICTS = (("bar good", "equivalent"), ("bar bad", "different"), ("bar a", "undecided"))
_TALL = 210.0


def figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    """Every picture for which there are results, by name."""
    found, margin = document["results"], document["margin"]
    made: list[Figure | None] = []
    if "widths" in found:
        made += [accuracy(found["widths"], kind) for kind in found["widths"]["sequence"]]
        made += [differences(found["widths"], margin), multiplier(found["widths"])]
    if "norms" in found:
        made.append(_compared("norms", "With and without biases, by normalisation", found["norms"], "norm", margin))
    if "depth" in found:
        made.append(_compared("depth", "With and without biases, 4 layers deep", found["depth"], "depth", margin))
    if "exact" in found:
        made += [centring(found["exact"]), replaceability(found["exact"])]
    if "ablation" in found:
        made += [removal(found["ablation"]), error(found["ablation"])]
    if "recall" in found:
        made.append(recall(found["recall"]))
    if "contrast" in found:
        made.append(contrast(found["contrast"]))
    if "capacity" in found:
        made.append(capacity(found["capacity"], margin))
    return {figure.name: figure for figure in made if figure is not None}


def _stretched(percent: float) -> float:
    """Accuracy as minus the logarithm of what is missing: near 100 % the same step means ever more."""
    return -math.log(max(100.2 - percent, 0.2))


def _point(x: float, arm: Mapping[str, Any]) -> tuple[float, float, float, float]:
    return x, _stretched(arm["mean"]), _stretched(arm["low"]), _stretched(arm["high"])


def accuracy(found: Mapping[str, Any], kind: str) -> Figure:
    """Accuracy against channels, one line for each arm."""
    rows = [c for c in found["comparisons"] if c["input"] == kind]
    at = across([c["width"] for c in rows])
    arms = [("with biases", "b", "with"), ("without", "warm", "without")]
    every = [c[arm] for c in rows for _, _, arm in arms]
    lowest = min(v["low"] if math.isfinite(v["low"]) else v["mean"] for v in every)
    ticks = [v for v in (30, 50, 60, 70, 80, 90, 95, 98, 99) if v >= lowest - 8]
    scale = svg.Scale(_stretched(min([*ticks, lowest])), _stretched(99.3))
    series = [
        Series(name, tone, tuple(_point(at[c["width"]] + shift, c[arm]) for c in rows))
        for (name, tone, arm), shift in zip(arms, (-0.004, 0.004), strict=True)
    ]
    feet = {f"{w:g}": x for w, x in at.items()}
    marks, labels = lines(series, scale, {f"{t} %": _stretched(t) for t in ticks}, feet, _TALL, "")
    keys = (("bar b", "with biases"), ("bar warm", "without, in the convolutions"))
    caption = "Mean over seeds with 95 % interval, against channels. The axis is stretched towards 100 %."
    return Figure(f"accuracy-{kind}", f"Accuracy, {kind} input", caption, _TALL + 22, marks, labels, keys)


def _signed(values: Sequence[float]) -> dict[str, float]:
    return {(f"{v:+g}".replace("-", MINUS) if v else "0"): v for v in values}


def differences(found: Mapping[str, Any], margin: float) -> Figure:
    """Forest plot of the difference that biases make."""
    rows = []
    for kind in found["sequence"]:
        mine = [c for c in found["comparisons"] if c["input"] == kind]
        rows += [_entry(f"{kind} {c['width']}", c) for c in mine]
    return _forest(
        "differences",
        "What biases are worth, by input and channels",
        "Accuracy with minus without, in points, mean and 90 % interval over paired seeds. Green: what counts as none.",
        rows,
        margin,
    )


def _entry(label: str, c: Mapping[str, Any]) -> Entry:
    needs = f"; about {c['needed']} seeds would tell" if c["needed"] else ""
    note = f"{c['verdict'].lower()}, {c['n']} seeds{needs}"
    return Entry(label, c["mean"], c["low90"], c["high90"], TONES[c["verdict"]], note)


def _forest(name: str, title: str, caption: str, rows: Sequence[Entry], margin: float) -> Figure:
    ends = [abs(e) for r in rows for e in (r.low, r.high) if math.isfinite(e)]
    reach = min(max([*ends, 2 * margin]), max(6 * margin, 3.0))
    scale = svg.Scale(-reach, reach)
    marks, labels, height = forest(rows, scale, _signed(svg.nice(-reach, reach, 6)), (-margin, margin), 0.0)
    return Figure(name, title, caption, height, marks, labels, VERDICTS)


def _compared(name: str, title: str, found: Mapping[str, Any], key: str, margin: float) -> Figure:
    rows = [_entry(f"{'depth ' if key == 'depth' else ''}{c[key]}, {c['width']}", c) for c in found["comparisons"]]
    caption = "Accuracy with minus without biases, in points, mean and 90 % interval; after the comma the channels."
    return _forest(name, title, caption, rows, margin)


def multiplier(found: Mapping[str, Any]) -> Figure | None:
    """How many times the channels a net without biases needs."""
    rows = []
    for kind, made in found["multiplier"].items():
        if made:
            rows.append(Entry(f"{kind}, all", made["factor"], made["low"], made["high"], "b", "pooled"))
            rows += [
                Entry(f"{kind} {w['width']}", w["factor"], w["low"] or NAN, w["high"] or NAN, "a", _censored(w), True)
                for w in made["widths"]
                if w["factor"] is not None and not w["at_ceiling"]
            ]
    if not rows:
        return None
    scale = svg.Scale(0.5, 4.5, log=True)
    ticks = {f"\u00d7{v:g}": v for v in (0.5, 1, 2, 4)}
    marks, labels, height = forest(rows, scale, ticks, None, 1.0)
    claimed = svg.rect(scale(2), 0, scale(4) - scale(2), height - 22, "claimed", "2 to 4 times: what was claimed")
    caption = (
        "Factor on the channels with which a net without biases comes to the same accuracy, with 95 % interval. "
        "Yellow: the 2 to 4 times that were claimed. Widths at which most resamples have no answer are left out."
    )
    keys = (("bar b", "all widths together"), ("bar a", "one width"))
    return Figure("multiplier", "Channels needed without biases", caption, height, (claimed, *marks), labels, keys)


def _censored(w: Mapping[str, Any]) -> str:
    return f"{100 * w['censored']:.0f} % of the resamples have no answer"


def capacity(found: Mapping[str, Any], margin: float) -> Figure:
    """What more channels gain, with and without weight decay."""
    rows = []
    for g in found["gains"]:
        label = f"\u00d7{g['times']:g}, {'L2' if g['weight_decay'] else 'no L2'}"
        arm = "with biases" if g["bias"] == "all" else "without"
        rows.append(Entry(label, g["mean"], g["low"], g["high"], "b" if g["bias"] == "all" else "warm", arm))
    low = min([-1.0, *(r.low for r in rows if math.isfinite(r.low))])
    high = max([1.0, *(r.high for r in rows if math.isfinite(r.high))])
    scale = svg.Scale(low, high)
    marks, labels, height = forest(rows, scale, _signed(svg.nice(low, high, 6)), (-margin, margin), 0.0)
    keys = (("bar b", "with biases"), ("bar warm", "without"))
    caption = f"Accuracy minus that of {found['base']} channels, in points, mean and 95 % interval."
    return Figure("capacity", f"2 and 4 times {found['base']} channels", caption, height, marks, labels, keys)
