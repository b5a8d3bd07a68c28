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
        made.append(draw_answer(found, result.facts["dataset"], margin))
        made += [draw_accuracy(found["widths"], kind) for kind in found["widths"]["sequence"]]
        made += [draw_differences(found["widths"], margin), draw_multiplier(found["widths"])]
    if "norms" in found:
        made.append(_draw_norms(found["norms"], margin))
    made += [draw(found[block], margin) for block, draw in _DRAWN.items() if block in found]
    if "exact" in found:
        made += [draw_centring(found["exact"]), draw_replaceability(found["exact"])]
    if "ablation" in found:
        made += [draw_removal(found["ablation"]), draw_error(found["ablation"])]
    return {figure.name: figure for figure in made if figure is not None}


def draw_answer(found: Mapping[str, Any], dataset: str, margin: float) -> Figure:
    """The question in one picture: what convolution biases are worth by channels, here and where a level counts."""
    compared = found["widths"]["comparisons"]
    groups = [
        (
            f"{dataset}, {kind} input",
            tone,
            [(c["width"], c["mean"], c["low"], c["high"]) for c in compared if c["input"] == kind],
        )
        for kind, tone in zip(found["widths"]["sequence"], ("b", "warm"), strict=False)
    ]
    if "contrast" in found:
        rows = {(r["width"], r["bias"]): r["mean"] for r in found["contrast"]["accuracy"]}
        level = [(w, rows[w, "all"] - rows[w, "head"], NAN, NAN) for w, b in sorted(rows) if b == "all"]
        groups.append(("bright or dim", "bad", level))
    at = across(sorted({w for _, _, points in groups for w, *_ in points}))
    ends = [v for _, _, points in groups for _, *values in points for v in values if math.isfinite(v)]
    low, high = min([-2.0, *ends]), max([2.0, *ends])
    scale = Scale(low - 0.5, high + 0.5)
    series = [
        Series(name, tone, tuple((at[w] + 0.004 * (k - 1), *values) for w, *values in points))
        for k, (name, tone, points) in enumerate(groups)
    ]
    ticks = _sign_ticks(charts.nice(low, high, 5))
    marks, labels = lines(series, scale, ticks, {f"{w:g}": x for w, x in at.items()}, _TALL, " points")
    top, bottom = (_TALL * (1 - scale(end)) for end in (margin, -margin))
    band = charts.rect(0, top, 1, bottom - top, "room", f"within {margin:g} points: no difference")
    keys = tuple((f"bar {tone}", name) for name, tone, _ in groups)
    caption = (
        "Accuracy with minus without biases in the convolutions, in points, against channels; the head keeps its bias. "
        "Green: what counts as none."
    )
    return Figure(
        "answer", "What biases in the convolutions are worth", caption, _TALL + 22, (band, *marks), labels, keys
    )


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


def _draw_forest(
    name: str,
    title: str,
    caption: str,
    rows: Sequence[Entry],
    margin: float,
    keys: Sequence[tuple[str, str]] = VERDICTS,
) -> Figure:
    ends = [e for r in rows for e in (r.value, r.low, r.high) if math.isfinite(e)]
    low, high = min([*ends, -2 * margin]), max([*ends, 2 * margin])
    room = 0.02 * (high - low)
    scale = Scale(low - room, high + room)
    marks, labels, height = forest(rows, scale, _sign_ticks(charts.nice(low, high, 6)), (-margin, margin), 0.0)
    return Figure(name, title, caption, height, marks, labels, tuple(keys))


def _draw_norms(found: Mapping[str, Any], margin: float) -> Figure:
    rows = [_make_entry(f"{c['norm']}, {c['width']}", c) for c in found["comparisons"]]
    caption = "Accuracy with minus without biases, in points, mean and 90 % interval; after the comma the channels."
    return _draw_forest("norms", "With and without biases, by normalisation", caption, rows, margin)


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
    ends = [e for r in rows for e in (r.value, r.low, r.high) if math.isfinite(e)]
    scale = Scale(min([0.5, *ends]) * 0.97, max([2.0, *ends]) * 1.03, log=True)
    ticks = {f"\u00d7{v:g}": v for v in (0.25, 0.5, 1, 2, 4) if scale.low <= v <= scale.high}
    marks, labels, height = forest(rows, scale, ticks, None, 1.0)
    caption = (
        "Factor on the channels with which a net without biases comes to the same accuracy, with 95 % interval. "
        "Widths at which most resamples have no answer are left out."
    )
    keys = (("bar b", "all widths together"), ("bar a", "one width"))
    return Figure("multiplier", "Channels needed without biases", caption, height, marks, labels, keys)


def _describe_censored(w: Mapping[str, Any]) -> str:
    return f"{100 * w['censored']:.0f} % of the resamples have no answer"


def draw_capacity(found: Mapping[str, Any], margin: float) -> Figure:
    """What more parameters than needed gain, with and without weight decay."""
    rows = [
        Entry(
            f"\u00d7{g['times']:g}, {'decay' if g['weight_decay'] else 'none'}",
            g["mean"],
            g["low"],
            g["high"],
            "b" if g["weight_decay"] else "warm",
            f"{g['width']} channels in place of {found['needed'][format(g['weight_decay'], 'g')]}",
        )
        for g in found["gains"]
    ]
    caption = "Accuracy minus that of the least net that is needed, in points, mean and 95 % interval."
    keys = (("bar b", "with weight decay"), ("bar warm", "without"))
    return _draw_forest("capacity", "Two and four times the parameters that are needed", caption, rows, margin, keys)


def draw_depth(found: Mapping[str, Any], margin: float) -> Figure:
    """What moving biases into weights costs, by channels, a line a depth."""
    at = across(found["widths"])
    series = [
        Series(
            f"depth {depth}",
            tone,
            tuple(
                (at[n["width"]] + shift, *(n["methods"]["sequential"]["lost"][k] for k in ("mean", "low", "high")))
                for n in found["nets"]
                if n["depth"] == depth
            ),
        )
        for depth, tone, shift in zip(found["depths"], ("b", "warm", "bad"), (-0.006, 0.0, 0.006), strict=False)
    ]
    ends = [v for one in series for _, *values in one.points for v in values if math.isfinite(v)]
    low, high = min([-1.0, *ends]), max([1.0, *ends])
    feet = {f"{w:g}": x for w, x in at.items()}
    ticks = _sign_ticks(charts.nice(low, high, 5))
    marks, labels = lines(series, Scale(low - 0.5, high + 0.5), ticks, feet, _TALL, " points")
    caption = (
        "Points lost when the biases of folded nets are moved into their weights, against channels; 95 % interval."
    )
    keys = tuple((f"bar {one.tone}", one.name) for one in series)
    return Figure("depth", "Channels and depth by one yardstick", caption, _TALL + 22, marks, labels, keys)


def draw_mechanism(found: Mapping[str, Any], margin: float) -> Figure:
    """What biases are worth more where weights cannot imitate them."""
    said = {("raw", "centred"): "centred", ("pixel", "free"): "r = 1"}
    rows = [
        Entry(f"{said[c['input'], c['filters']]}, {c['width']}", c["mean"], c["low"], c["high"], TONES[c["verdict"]])
        for c in found["more"]
    ]
    caption = (
        "What biases are worth beyond what they are worth on raw inputs with free filters, in points; 95 % interval. "
        "Centred: filters whose weights add up to 0; r = 1: inputs without a mean; after the comma the channels."
    )
    return _draw_forest("mechanism", "Where weights cannot imitate a bias", caption, rows, margin)


def draw_points(found: Mapping[str, Any], margin: float) -> Figure:
    """Dense nets on points, by units."""
    tones = {"all": "b", "head": "a", "none": "bad"}
    rows = found["accuracy"]
    groups = [
        (f"{task}, {w}", [(tones[r["bias"]], r["mean"]) for r in rows if r["task"] == task and r["width"] == w])
        for task in dict.fromkeys(r["task"] for r in rows)
        for w in sorted({r["width"] for r in rows})
    ]
    marks, labels, height = bars(groups, 50.0, " %")
    keys = (("bar b", "with biases"), ("bar a", "in the head alone"), ("bar bad", "nowhere"))
    caption = "Right answers of nets of one hidden layer; after the comma its units. Dashed: chance."
    return Figure("points", "Points of the plane, and one number", caption, height, marks, labels, keys)


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
        scale, ticks = Scale(0, 104), {f"{t} %": float(t) for t in (0, 25, 50, 75, 100)}
    marks, labels = lines(series, scale, ticks, {f"{w:g}": x for w, x in at.items()}, _TALL, "" if log else " %")
    keys = tuple((f"bar {tone}", said) for _, tone, said in _METHODS)
    return Figure(name, title, caption, _TALL + 22, marks, labels, keys if log else (*keys, ("bar good", "as trained")))


def draw_recall(found: Mapping[str, Any], margin: float) -> Figure:
    """When each LSTM had learned, by how long it must remember and by the bias of its forget gate."""
    step = max(found["arms"][0]["checks"])
    labels, row = {}, 24.0
    tall = row * len(found["arms"])
    marks = [charts.down(0.86 * value / step, 0, tall, "grid") for value in charts.nice(0, step, 4)]
    for k, arm in enumerate(found["arms"]):
        middle = row * (k + 0.5)
        labels[f"{arm['lag']}: {arm['forget_bias'].replace('T-1', f'T{MINUS}1')}"] = middle + 4
        for n, at in enumerate(arm["solved_at"]):
            y = middle + 2.2 * (n % 8 - 3.5)
            if at is None:
                marks.append(charts.dot(0.96, y, "mark hollow bad", "not learned", 3))
            else:
                marks.append(charts.dot(0.86 * at / step, y, "mark b", f"learned after {at} steps", 3))
    ends = {f"{v:g}": 0.86 * v / step for v in charts.nice(0, step, 4)} | {"never": 0.96}
    caption = (
        "Steps until the first of so many entries was recalled, a dot a seed. Before the colon the lag, after it the "
        "bias of the forget gate at the start; torch: all biases as torch draws them."
    )
    return Figure("recall", "When each LSTM had learned", caption, tall + 22, (*marks, *foot(ends, tall)), labels)


def draw_contrast(found: Mapping[str, Any], margin: float) -> Figure:
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


_DRAWN = {
    "depth": draw_depth,
    "mechanism": draw_mechanism,
    "points": draw_points,
    "recall": draw_recall,
    "contrast": draw_contrast,
    "capacity": draw_capacity,
}
