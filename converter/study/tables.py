"""Rows of words, made from a document, that the terminal, Markdown and the page share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converter.study.document import MINUS, points

Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A heading for each column, rows, which columns are numbers, and what the columns mean."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    right: tuple[int, ...]
    note: str = ""


def tables(document: Found) -> dict[str, Table]:
    """Every table for which there are results, by name."""
    found = document["results"]
    return {name: make(found[block]) for name, (block, make) in _TABLES.items() if block in found}


def span(low: float | None, high: float | None, said: Callable[[float], str]) -> str:
    """An interval; empty where there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "\u2013"
    return f"[{said(low)}, {said(high)}]"


def percent(value: float) -> str:
    return f"{value:.2f}"


def small(value: float) -> str:
    """A number over many orders of magnitude."""
    return "0" if value == 0 else f"{value:.3f}" if value >= 0.01 else f"{value:.1e}".replace("-", MINUS)


def _about(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


_COMPARED = (
    "n",
    "with %",
    "without %",
    "\u0394 points",
    "90 % interval",
    "95 %, new data",
    "p",
    "Holm",
    "verdict",
    "seeds",
)
_COMPARED_NOTE = (
    "\u0394: with minus without biases, mean over paired seeds. 90 % interval: inside the margin means EQUIVALENT (two "
    "one-sided tests). 95 %, new data: as it would be on new data of this kind (Nadeau\u2013Bengio). p: exact sign-flip test. "
    "Holm: t-test, corrected over the table. seeds: that would show equivalence with a power of 90 %, if there is no difference."
)


def _compare(c: Found) -> tuple[str, ...]:
    return (
        f"{c['n']}",
        percent(c["with"]["mean"]),
        percent(c["without"]["mean"]),
        points(c["mean"]),
        span(c["low90"], c["high90"], points),
        span(c["low_new"], c["high_new"], points),
        _about(c["p_flip"]),
        _about(c["p_holm"]),
        c["verdict"],
        "" if c["needed"] is None else f"\u2248{c['needed']:,}",
    )


def _comparisons(keys: Sequence[str], heads: Sequence[str]) -> Callable[[Found], Table]:
    def make(found: Found) -> Table:
        rows = [(*(_key(c[k]) for k in keys), *_compare(c)) for c in found["comparisons"]]
        k = len(keys)
        right = tuple(j for j in range(1, k + len(_COMPARED)) if j != k + 8)
        return Table((*heads, *_COMPARED), rows, right, _COMPARED_NOTE)

    return make


def _key(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _multiplier(found: Found) -> Table:
    rows = []
    for kind, made in found["multiplier"].items():
        if made is None:
            continue
        rows.append((kind, "all", f"\u00d7{made['factor']:.2f}", span(made["low"], made["high"], percent), ""))
        for w in made["widths"]:
            factor = "\u2013" if w["factor"] is None else f"\u00d7{w['factor']:.2f}"
            censored = f"{100 * w['censored']:.0f} %"
            interval = "at the ceiling" if w["at_ceiling"] else span(w["low"], w["high"], percent)
            rows.append((kind, f"{w['width']}", factor, interval, censored))
    note = (
        "Factor on the channels with which a net without biases comes to the same accuracy; bootstrap over seeds. "
        "censored: share of resamples in which no number of channels that was tried does."
    )
    return Table(("input", "channels", "factor", "95 % interval", "censored"), rows, (1, 2, 4), note)


def _contrast(found: Found) -> Table:
    names = {"all": "everywhere", "head": "in the head alone", "none": "nowhere"}
    rows = [
        (f"{r['width']}", names[r["bias"]], f"{r['n']}", percent(r["mean"]), percent(r["worst"]))
        for r in found["accuracy"]
    ]
    note = "worst: of the seeds; where there is no bias the best. Chance is 50 %."
    return Table(("channels", "biases", "n", "right %", "worst %"), rows, (0, 2, 3, 4), note)


def _identity(found: Found) -> Table:
    rows = [(r["norm"], f"{r['n']}", small(r["apart"]), f"{r['difference']:g}") for r in found["checks"]]
    note = "Trained in float64, one of two nets with random biases before its norms: largest relative difference of logits."
    return Table(("norm", "n", "logits differ by", "accuracy by, points"), rows, (1, 2, 3), note)


def _dead(found: Found) -> Table:
    rows = [(r["followed_by"], "dead" if r["expected_dead"] else "live", small(r["change"])) for r in found["dead"]]
    note = "Relative change of the output in training, in float64, when a random bias is added: below 1e\u221212 is rounding."
    return Table(("convolution followed by", "bias is", "change"), rows, (2,), note)


def _replaceability(found: Found) -> Table:
    rows = found["replaceability"]
    sizes = sorted({r["n"] for r in rows})
    body = []
    for rho in sorted({r["rho"] for r in rows}):
        for kind in ("measured", "theory"):
            at = {r["n"]: r[kind] for r in rows if r["rho"] == rho}
            body.append((f"{rho:g}", "formula" if kind == "theory" else "drawn", *(_two(at[n]) for n in sizes)))
    note = "r = 1 \u2212 \u03bc'S\u207b\u00b9\u03bc of n rectified normal inputs with equal correlations; what a bias-free layer cannot imitate."
    return Table(("correlation", "", *(f"n = {n}" for n in sizes)), body, tuple(range(2, 2 + len(sizes))), note)


def _two(value: float) -> str:
    """To two digits."""
    return f"{value:.2g}"


def _first_layer(found: Found) -> Table:
    rows = [(r["layer"], r["input"], f"{r['r']:.3f}", f"{100 * r['empty']:.1f}") for r in found["first layer"]]
    note = "empty: share of inputs that are all zero, where nothing can imitate a bias; r cannot be less."
    return Table(("first layer", "input", "r", "empty %"), rows, (2, 3), note)


def _update(found: Found) -> Table:
    rows = [(r["optimiser"], small(r["error"])) for r in found["update"]]
    return Table(("optimiser", "error of 'step = \u2212rate x delta'"), rows, (1,))


def _constant(found: Found) -> Table:
    rows = [(f"{r['padding']}", r["weight"], small(r["inside"]), small(r["border"])) for r in found["constant channel"]]
    note = "A bias against the weight of a channel that is always 1: largest difference of the outputs."
    return Table(("padding", "its weight", "inside", "at the border"), rows, (0, 2, 3), note)


def _recall(found: Found) -> Table:
    p = {t["forget_bias"]: _about(t["p_holm"]) for t in found["tests"]}
    rows = [
        (
            a["forget_bias"],
            "" if a["time_constant"] is None else f"{a['time_constant']:.1f}",
            f"{a['solved']}/{a['n']}",
            span(100 * a["low"], 100 * a["high"], lambda v: f"{v:.0f}"),
            "never" if a["median_steps"] is None else f"{a['median_steps']:g}",
            f"{a['accuracy']:.0f}",
            p.get(a["forget_bias"], ""),
        )
        for a in found["arms"]
    ]
    note = (
        f"Lag {found['lag']}, {found['steps']} steps. \u03c4 = 1 + e^b. solved: over 95 % right, with Wilson's interval. "
        "p: Fisher's exact test against b = 0, Holm."
    )
    header = ("forget bias", "\u03c4", "solved", "95 % interval, %", "median steps", "right %", "p")
    return Table(header, rows, (1, 2, 4, 5, 6), note)


_METHODS = {
    "original": "as trained",
    "zero": "left out",
    "head": "head corrected",
    "independent": "each alone",
    "sequential": "in sequence",
}


def _ablation(found: Found) -> Table:
    rows = []
    for net in found["nets"]:
        made = net["methods"]
        accuracy = (percent(made[m]["accuracy"]["mean"]) for m in _METHODS)
        more = (percent(made["sequential"]["agreement"]["mean"]), small(made["sequential"]["error"]["mean"]))
        rows.append(
            ("folded" if net["norm"] == "batch" else "none", f"{net['width']}", f"{net['n']}", *accuracy, *more)
        )
    note = (
        "Accuracy in per cent of nets of three convolutions trained with biases (or with batch norm, folded since), then "
        "without. head corrected: left out, but for the head's bias, which restores the mean of the logits. each alone, in "
        "sequence: moved into the weights, layer by layer. agree, error: answers and logits of the last against the original."
    )
    header = ("norm", "channels", "n", *_METHODS.values(), "agree %", "error")
    return Table(header, rows, tuple(range(1, 10)), note)


def _layers(found: Found) -> Table:
    rows = []
    for net in found["nets"]:
        norm = "folded" if net["norm"] == "batch" else "none"
        cells = [f"{layer[k]:.3f}" for k in ("r", "size") for layer in net["layers"]]
        rows.append((norm, f"{net['width']}", *cells))
    header = ("norm", "channels", "r 1", "r 2", "r 3", "|b|/sd 1", "|b|/sd 2", "|b|/sd 3")
    note = "r of each convolution's bias, and its mean size beside the deviation of what it is added to."
    return Table(header, rows, tuple(range(1, 8)), note)


def _off(found: Found) -> Table:
    nets = [n for n in found["nets"] if n["norm"] == "batch"]
    contrasts = list(nets[0]["methods"]["original"]["contrast"]) if nets else []
    rows = [
        (f"{n['width']}", _METHODS[m], *(f"{n['methods'][m]['contrast'][c]:.1f}" for c in contrasts))
        for n in nets
        for m in ("original", "sequential")
    ]
    note = "Accuracy in per cent of folded nets on images at other contrasts, with biases and with weights that imitate them."
    return Table(
        ("channels", "biases", *(f"\u00d7{c}" for c in contrasts)), rows, (0, *range(2, 2 + len(contrasts))), note
    )


def _capacity(found: Found) -> Table:
    rows = [
        (
            f"\u00d7{g['times']:g}",
            f"{g['weight_decay']:g}",
            "yes" if g["bias"] == "all" else "no",
            f"{g['n']}",
            points(g["mean"]),
            span(g["low"], g["high"], points),
            g["verdict"],
        )
        for g in found["gains"]
    ]
    header = ("channels", "weight decay", "biases", "n", f"\u0394 to {found['base']}", "95 % interval", "verdict")
    note = (
        f"Accuracy minus that of {found['base']} channels, in points; weight decay is an L2 penalty in Adam's gradient."
    )
    return Table(header, rows, (0, 1, 3, 4, 5), note)


def _drift(found: Found) -> Table:
    rows = [
        (
            o["optimiser"],
            f"{o['rate']:g}",
            f"{o['n']}",
            small(o["gradient_bias"]),
            small(o["gradient_weight"]),
            small(o["rms"]),
            small(o["largest"]),
            points(o["difference"]["mean"]),
        )
        for o in found["optimisers"]
    ]
    note = "Biases before batch norm, from 0, after training: their gradient is rounding, which Adam makes steps of."
    header = ("optimiser", "rate", "n", "gradient", "of weights", "bias rms", "largest", "\u0394 points")
    return Table(header, rows, tuple(range(1, 8)), note)


_TABLES: dict[str, tuple[str, Callable[[Found], Table]]] = {
    "widths": ("widths", _comparisons(("input", "width"), ("input", "channels"))),
    "multiplier": ("widths", _multiplier),
    "contrast": ("contrast", _contrast),
    "identity": ("identity", _identity),
    "dead": ("exact", _dead),
    "norms": ("norms", _comparisons(("norm", "width"), ("norm", "channels"))),
    "first layer": ("exact", _first_layer),
    "replaceability": ("exact", _replaceability),
    "ablation": ("ablation", _ablation),
    "layers": ("ablation", _layers),
    "off the data": ("ablation", _off),
    "recall": ("recall", _recall),
    "depth": ("depth", _comparisons(("depth", "width"), ("depth", "channels"))),
    "capacity": ("capacity", _capacity),
    "capacity, bias": ("capacity", _comparisons(("weight_decay", "width"), ("weight decay", "channels"))),
    "drift": ("drift", _drift),
    "update": ("exact", _update),
    "constant channel": ("exact", _constant),
    "rates": ("rates", _comparisons(("width", "rate"), ("channels", "rate"))),
}
