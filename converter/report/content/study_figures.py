"""The pictures of a study, made from its results: what biases are worth by width, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from converter.records.study import StudyResult
from converter.report import charts
from converter.report.charts import Scale
from converter.report.figures import MINUS, Entry, Figure, Series, across, bars, foot, forest, lines

NAN = math.nan
TONES = {"EQUIVALENT": "good", "DIFFERENT": "bad", "INCONCLUSIVE": "a"}
VERDICTS = (("bar good", "equivalent"), ("bar bad", "different"), ("bar a", "undecided"))
_TALL = 210.0


def draw_figures(result: StudyResult) -> dict[str, Figure]:
    """Every picture for which there are results, by name."""
    found, margin = result.results, result.margin
    made: list[Figure | None] = []
    if "widths" in found:
        made += [draw_accuracy(found["widths"], kind) for kind in found["widths"]["sequence"]]
        made += [draw_differences(found["widths"], margin), draw_multiplier(found["widths"])]
    if "norms" in found:
        made.append(
            _draw_compared("norms", "With and without biases, by normalisation", found["norms"], "norm", margin)
        )
    if "depth" in found:
        made.append(_draw_compared("depth", "With and without biases, 4 layers deep", found["depth"], "depth", margin))
    if "exact" in found:
        made += [draw_centring(found["exact"]), draw_replaceability(found["exact"])]
    if "ablation" in found:
        made += [draw_removal(found["ablation"]), draw_error(found["ablation"])]
    if "recall" in found:
        made.append(draw_recall(found["recall"]))
    if "contrast" in found:
        made.append(draw_contrast(found["contrast"]))
    if "capacity" in found:
        made.append(draw_capacity(found["capacity"], margin))
    return {figure.name: figure for figure in made if figure is not None}


def _stretch(percent: float) -> float:
    """Accuracy as minus the logarithm of what is missing: near 100 % the same step means ever more."""
    return -math.log(max(100.2 - percent, 0.2))


def _place_point(x: float, arm: Mapping[str, Any]) -> tuple[float, float, float, float]:
    return x, _stretch(arm["mean"]), _stretch(arm["low"]), _stretch(arm["high"])


def draw_accuracy(found: Mapping[str, Any], kind: str) -> Figure:
    """Accuracy against channels, one line for each arm."""
    rows = [c for c in found["comparisons"] if c["input"] == kind]
    at = across([c["width"] for c in rows])
    arms = [("with biases", "b", "with"), ("without", "warm", "without")]
    every = [c[arm] for c in rows for _, _, arm in arms]
    lowest = min(v["low"] if math.isfinite(v["low"]) else v["mean"] for v in every)
    ticks = [v for v in (30, 50, 60, 70, 80, 90, 95, 98, 99) if v >= lowest - 8]
    scale = Scale(_stretch(min([*ticks, lowest])), _stretch(99.3))
    series = [
        Series(name, tone, tuple(_place_point(at[c["width"]] + shift, c[arm]) for c in rows))
        for (name, tone, arm), shift in zip(arms, (-0.004, 0.004), strict=True)
    ]
    feet = {f"{w:g}": x for w, x in at.items()}
    marks, labels = lines(series, scale, {f"{t} %": _stretch(t) for t in ticks}, feet, _TALL, "")
    keys = (("bar b", "with biases"), ("bar warm", "without, in the convolutions"))
    caption = "Mean over seeds with 95 % interval, against channels. The axis is stretched towards 100 %."
    return Figure(f"accuracy-{kind}", f"Accuracy, {kind} input", caption, _TALL + 22, marks, labels, keys)


def _sign_ticks(values: Sequence[float]) -> dict[str, float]:
    return {(f"{v:+g}".replace("-", MINUS) if v else "0"): v for v in values}


def draw_differences(found: Mapping[str, Any], margin: float) -> Figure:
    """Forest plot of the difference that biases make."""
    rows = []
    for kind in found["sequence"]:
        mine = [c for c in found["comparisons"] if c["input"] == kind]
        rows += [_make_entry(f"{kind} {c['width']}", c) for c in mine]
    return _draw_forest(
        "differences",
        "What biases are worth, by input and channels",
        "Accuracy with minus without, in points, mean and 90 % interval over paired seeds. Green: what counts as none.",
        rows,
        margin,
    )


def _make_entry(label: str, c: Mapping[str, Any]) -> Entry:
    needs = f"; about {c['needed']} seeds would tell" if c["needed"] else ""
    note = f"{c['verdict'].lower()}, {c['n']} seeds{needs}"
    return Entry(label, c["mean"], c["low90"], c["high90"], TONES[c["verdict"]], note)


def _draw_forest(name: str, title: str, caption: str, rows: Sequence[Entry], margin: float) -> Figure:
    ends = [abs(e) for r in rows for e in (r.low, r.high) if math.isfinite(e)]
    reach = min(max([*ends, 2 * margin]), max(6 * margin, 3.0))
    scale = Scale(-reach, reach)
    marks, labels, height = forest(rows, scale, _sign_ticks(charts.nice(-reach, reach, 6)), (-margin, margin), 0.0)
    return Figure(name, title, caption, height, marks, labels, VERDICTS)


def _draw_compared(name: str, title: str, found: Mapping[str, Any], key: str, margin: float) -> Figure:
    rows = [_make_entry(f"{'depth ' if key == 'depth' else ''}{c[key]}, {c['width']}", c) for c in found["comparisons"]]
    caption = "Accuracy with minus without biases, in points, mean and 90 % interval; after the comma the channels."
    return _draw_forest(name, title, caption, rows, margin)


def draw_multiplier(found: Mapping[str, Any]) -> Figure | None:
    """How many times the channels a net without biases needs."""
    rows = []
    for kind, made in found["multiplier"].items():
        if made:
            rows.append(Entry(f"{kind}, all", made["factor"], made["low"], made["high"], "b", "pooled"))
            rows += [
                Entry(
                    f"{kind} {w['width']}",
                    w["factor"],
                    w["low"] or NAN,
                    w["high"] or NAN,
                    "a",
                    _describe_censored(w),
                    True,
                )
                for w in made["widths"]
                for label in [f"{kind} {w['width']}"]
                if w["factor"] is not None and not w["at_ceiling"]
            ]
    if not rows:
        return None
    scale = Scale(0.5, 4.5, log=True)
    ticks = {f"\u00d7{v:g}": v for v in (0.5, 1, 2, 4)}
    marks, labels, height = forest(rows, scale, ticks, None, 1.0)
    claimed = charts.rect(scale(2), 0, scale(4) - scale(2), height - 22, "claimed", "2 to 4 times: what was claimed")
    caption = (
        "Factor on the channels with which a net without biases comes to the same accuracy, with 95 % interval. "
        "Yellow: the 2 to 4 times that were claimed. Widths at which most resamples have no answer are left out."
    )
    keys = (("bar b", "all widths together"), ("bar a", "one width"))
    return Figure("multiplier", "Channels needed without biases", caption, height, (claimed, *marks), labels, keys)


def _describe_censored(w: Mapping[str, Any]) -> str:
    return f"{100 * w['censored']:.0f} % of the resamples have no answer"


def draw_capacity(found: Mapping[str, Any], margin: float) -> Figure:
    """What more channels gain, with and without weight decay."""
    rows = []
    for g in found["gains"]:
        label = f"\u00d7{g['times']:g}, {'L2' if g['weight_decay'] else 'no L2'}"
        arm = "with biases" if g["bias"] == "all" else "without"
        rows.append(Entry(label, g["mean"], g["low"], g["high"], "b" if g["bias"] == "all" else "warm", arm))
    low = min([-1.0, *(r.low for r in rows if math.isfinite(r.low))])
    high = max([1.0, *(r.high for r in rows if math.isfinite(r.high))])
    scale = Scale(low, high)
    marks, labels, height = forest(rows, scale, _sign_ticks(charts.nice(low, high, 6)), (-margin, margin), 0.0)
    keys = (("bar b", "with biases"), ("bar warm", "without"))
    caption = f"Accuracy minus that of {found['base']} channels, in points, mean and 95 % interval."
    return Figure("capacity", f"2 and 4 times {found['base']} channels", caption, height, marks, labels, keys)


def draw_centring(found: Mapping[str, Any]) -> Figure:
    """What the first layer's inputs cannot imitate of a bias, by centring."""
    tones = {"raw": "b", "centred": "warm", "pixel": "a"}
    rows = [
        (layer, [(tones[r["input"]], r["r"]) for r in found["first layer"] if r["layer"] == layer])
        for layer in ("dense", "conv")
    ]
    marks, labels, height = bars(rows, None, "", 1.0)
    caption = "r of the first layer: 0 means that its weights can make any bias themselves, 1 that they cannot at all."
    keys = (("bar b", "raw"), ("bar warm", "minus one mean"), ("bar a", "minus each pixel's mean"))
    return Figure("centring", "The first layer, by the input's centring", caption, height, marks, labels, keys)


def draw_replaceability(found: Mapping[str, Any]) -> Figure:
    """r against the number of inputs: formula as a line, draws as dots."""
    rows = found["replaceability"]
    at = across(sorted({r["n"] for r in rows}))
    scale = Scale(1e-3, 1.0, log=True)
    series, dots = [], []
    for rho, tone in zip(sorted({r["rho"] for r in rows}), ("b", "warm", "bad"), strict=False):
        mine = [r for r in rows if r["rho"] == rho]
        formula = tuple((at[r["n"]], r["theory"], NAN, NAN) for r in mine)
        series.append(Series(f"correlation {rho:g}", tone, formula, dots=False))
        dots += [
            charts.dot(at[r["n"]], _TALL * (1 - scale(r["measured"])), f"mark {tone}", f"drawn: {r['measured']:.4f}")
            for r in mine
        ]
    ticks = {"1": 1.0, "0.1": 0.1, "0.01": 0.01, "0.001": 0.001}
    marks, labels = lines(series, scale, ticks, {f"{n:g}": x for n, x in at.items()}, _TALL, "")
    keys = (("bar b", "independent inputs"), ("bar warm", "correlation 0.2"), ("bar bad", "correlation 0.8"))
    caption = "r = 1/(1+q) of rectified normal inputs, against how many there are; lines by formula, dots drawn."
    return Figure(
        "replaceability",
        "More inputs replace a bias, if they vary independently",
        caption,
        _TALL + 22,
        (*marks, *dots),
        labels,
        keys,
    )


_METHODS = (
    ("zero", "bad", "left out"),
    ("head", "warm", "head corrected"),
    ("independent", "a", "each layer alone"),
    ("sequential", "b", "layer after layer"),
)


def draw_removal(found: Mapping[str, Any]) -> Figure:
    """Accuracy of trained nets without their biases, by width."""
    return _draw_removed(
        found, "accuracy", "removal", "Biases taken out of trained nets, batch norm folded",
        "Accuracy in per cent against channels, mean and 95 % interval.", log=False,
    )  # fmt: skip


def draw_error(found: Mapping[str, Any]) -> Figure:
    """Error of the logits, the same way."""
    return _draw_removed(
        found, "error", "error", "What is left of the damage, batch norm folded",
        "Relative error of the logits against channels; black, dashed: root of the second layer's r.", log=True,
    )  # fmt: skip


def _draw_removed(found: Mapping[str, Any], value: str, name: str, title: str, caption: str, *, log: bool) -> Figure:
    nets = [n for n in found["nets"] if n["norm"] == "batch"] or found["nets"]
    at = across([n["width"] for n in nets])

    def points(method: str) -> tuple[tuple[float, float, float, float], ...]:
        each = [(n, n["methods"][method][value]) for n in nets]
        if log:
            return tuple((at[n["width"]], m["mean"], NAN, NAN) for n, m in each)
        return tuple((at[n["width"]], m["mean"], max(0.0, m["low"]), min(100.0, m["high"])) for n, m in each)

    series = [Series(said, tone, points(method)) for method, tone, said in _METHODS]
    if log:
        root = tuple((at[n["width"]], math.sqrt(n["layers"][1]["r"]), NAN, NAN) for n in nets)
        series.append(Series("root of r", "ink", root, dashed=True, dots=False))
        scale, ticks = Scale(0.02, 1.5, log=True), {"1": 1.0, "0.1": 0.1, "0.03": 0.03}
    else:
        series.insert(0, Series("as trained", "good", points("original"), dashed=True))
        scale, ticks = Scale(0, 100), {f"{t} %": float(t) for t in (0, 25, 50, 75, 100)}
    marks, labels = lines(series, scale, ticks, {f"{w:g}": x for w, x in at.items()}, _TALL, "" if log else " %")
    keys = tuple((f"bar {tone}", said) for _, tone, said in _METHODS)
    return Figure(name, title, caption, _TALL + 22, marks, labels, keys if log else (*keys, ("bar good", "as trained")))


def draw_recall(found: Mapping[str, Any]) -> Figure:
    """When each LSTM had learned, by the bias of its forget gate."""
    step = max(found["arms"][0]["checks"])
    labels, row = {}, 34.0
    tall = row * len(found["arms"])
    marks = [charts.down(0.86 * value / step, 0, tall, "grid") for value in charts.nice(0, step, 4)]
    for k, arm in enumerate(found["arms"]):
        middle = row * (k + 0.5)
        tau = f" \u03c4 {arm['time_constant']:.1f}" if arm["time_constant"] else ""
        labels[f"{_name_start(arm['forget_bias'])}{tau}"] = middle + 4
        for n, at in enumerate(arm["solved_at"]):
            y = middle + 2.6 * (n % 8 - 3.5)
            if at is None:
                marks.append(charts.dot(0.96, y, "mark hollow bad", "not learned", 3))
            else:
                marks.append(charts.dot(0.86 * at / step, y, "mark b", f"learned after {at} steps", 3))
    ends = {f"{v:g}": 0.86 * v / step for v in charts.nice(0, step, 4)} | {"never": 0.96}
    caption = (
        f"Steps until the first of {found['lag']} entries was recalled, a dot a seed. \u03c4 = 1 + e^b: how many steps "
        "the cell remembers at the start."
    )
    return Figure("recall", "When each LSTM had learned", caption, tall + 22, (*marks, *foot(ends, tall)), labels)


def _name_start(arm: str) -> str:
    return {"none": "no bias"}.get(arm, arm if arm == "chrono" else f"b = {arm}")


def draw_contrast(found: Mapping[str, Any]) -> Figure:
    """The contrast control."""
    tones = {"all": "b", "head": "a", "none": "bad"}
    rows = [
        (f"{w} channels", [(tones[r["bias"]], r["mean"]) for r in found["accuracy"] if r["width"] == w])
        for w in sorted({r["width"] for r in found["accuracy"]})
    ]
    marks, labels, height = bars(rows, 50.0, " %")
    keys = (("bar b", "with biases"), ("bar a", "in the head alone"), ("bar bad", "nowhere"))
    caption = "Right answers to: is the image bright or dim? Dashed: chance."
    return Figure("contrast", "Where a level is the answer", caption, height, marks, labels, keys)
