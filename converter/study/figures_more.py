"""The pictures of what is not about widths: the first layer, theory, taken-out biases, LSTMs, the contrast control."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from converter.report import charts as svg
from converter.study.draw import Figure, Series, across, bars, foot, lines

NAN = math.nan
_TALL = 210.0


def centring(found: Mapping[str, Any]) -> Figure:
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


def replaceability(found: Mapping[str, Any]) -> Figure:
    """r against the number of inputs: formula as a line, draws as dots."""
    rows = found["replaceability"]
    at = across(sorted({r["n"] for r in rows}))
    scale = svg.Scale(1e-3, 1.0, log=True)
    series, dots = [], []
    for rho, tone in zip(sorted({r["rho"] for r in rows}), ("b", "warm", "bad"), strict=False):
        mine = [r for r in rows if r["rho"] == rho]
        formula = tuple((at[r["n"]], r["theory"], NAN, NAN) for r in mine)
        series.append(Series(f"correlation {rho:g}", tone, formula, dots=False))
        dots += [
            svg.dot(at[r["n"]], _TALL * (1 - scale(r["measured"])), f"mark {tone}", f"drawn: {r['measured']:.4f}")
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


def removal(found: Mapping[str, Any]) -> Figure:
    """Accuracy of trained nets without their biases, by width."""
    return _removed(
        found, "accuracy", "removal", "Biases taken out of trained nets, batch norm folded",
        "Accuracy in per cent against channels, mean and 95 % interval.", log=False,
    )  # fmt: skip


def error(found: Mapping[str, Any]) -> Figure:
    """Error of the logits, the same way."""
    return _removed(
        found, "error", "error", "What is left of the damage, batch norm folded",
        "Relative error of the logits against channels; black, dashed: root of the second layer's r.", log=True,
    )  # fmt: skip


def _removed(found: Mapping[str, Any], value: str, name: str, title: str, caption: str, *, log: bool) -> Figure:
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
        scale, ticks = svg.Scale(0.02, 1.5, log=True), {"1": 1.0, "0.1": 0.1, "0.03": 0.03}
    else:
        series.insert(0, Series("as trained", "good", points("original"), dashed=True))
        scale, ticks = svg.Scale(0, 100), {f"{t} %": float(t) for t in (0, 25, 50, 75, 100)}
    marks, labels = lines(series, scale, ticks, {f"{w:g}": x for w, x in at.items()}, _TALL, "" if log else " %")
    keys = tuple((f"bar {tone}", said) for _, tone, said in _METHODS)
    return Figure(name, title, caption, _TALL + 22, marks, labels, keys if log else (*keys, ("bar good", "as trained")))


def recall(found: Mapping[str, Any]) -> Figure:
    """When each LSTM had learned, by the bias of its forget gate."""
    step = max(found["arms"][0]["checks"])
    labels, row = {}, 34.0
    tall = row * len(found["arms"])
    marks = [svg.down(0.86 * value / step, 0, tall, "grid") for value in svg.nice(0, step, 4)]
    for k, arm in enumerate(found["arms"]):
        middle = row * (k + 0.5)
        tau = f" \u03c4 {arm['time_constant']:.1f}" if arm["time_constant"] else ""
        labels[f"{_said(arm['forget_bias'])}{tau}"] = middle + 4
        for n, at in enumerate(arm["solved_at"]):
            y = middle + 2.6 * (n % 8 - 3.5)
            if at is None:
                marks.append(svg.dot(0.96, y, "mark hollow bad", "not learned", 3))
            else:
                marks.append(svg.dot(0.86 * at / step, y, "mark b", f"learned after {at} steps", 3))
    ends = {f"{v:g}": 0.86 * v / step for v in svg.nice(0, step, 4)} | {"never": 0.96}
    caption = (
        f"Steps until the first of {found['lag']} entries was recalled, a dot a seed. \u03c4 = 1 + e^b: how many steps "
        "the cell remembers at the start."
    )
    return Figure("recall", "When each LSTM had learned", caption, tall + 22, (*marks, *foot(ends, tall)), labels)


def _said(arm: str) -> str:
    return {"none": "no bias"}.get(arm, arm if arm == "chrono" else f"b = {arm}")


def contrast(found: Mapping[str, Any]) -> Figure:
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
