"""The tables of a study, block by block, with what their columns mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from converter.dataclass import dataclass
from converter.report.figures import MINUS
from converter.study.answer import format_points

Found = Mapping[str, Any]

_COMPARED_NOTE = (
    "\u0394: with minus without biases, mean over paired seeds. 90 % interval: inside the margin means "
    "EQUIVALENT (two one-sided tests). 95 %, new data: as it would be on new data of this kind "
    "(Nadeau\u2013Bengio). p: sign-flip test. Holm: t-test, corrected over the table. seeds: that would show "
    "equivalence with a power of 90 % if there is no difference."
)
_MULTIPLIER_NOTE = (
    "Factor on the channels with which a net without biases comes to the same accuracy; bootstrap over "
    "seeds. parameters: the same as a factor on the parameters of the whole net. censored: share of "
    "resamples in which no number of channels that was tried does."
)
_CONTRAST_NOTE = "worst: of the seeds; where there is no bias the best. Chance is 50 %."
_IDENTITY_NOTE = (
    "Trained in float64, one of two nets with random biases before its norms: largest relative difference"
    " of the logits."
)
_DEAD_NOTE = (
    "Relative change of the output in training, in float64, when a random bias is added: below 1e\u221212 is rounding."
)
_REPLACEABILITY_NOTE = (
    "r = 1 \u2212 \u03bc'S\u207b\xb9\u03bc of n rectified normal inputs, equally correlated: what a bias-free layer "
    "cannot imitate of a bias, in mean square."
)
_FIRST_NOTE = "empty: share of inputs that are all zero, where nothing can imitate a bias; r cannot be less."
_CONSTANT_NOTE = "A bias against the weight of a channel that is always 1: largest difference of the outputs."
_RECALL_NOTE = (
    "Lag {lag}, {steps} steps. \u03c4 = 1 + e^b. solved: over 95 % right, with Wilson's interval. p: Fisher's "
    "exact test against b = 0, Holm."
)
_ABLATION_NOTE = (
    "Accuracy in per cent of nets of three convolutions trained with biases (folded: with batch norm, "
    "folded since), then without. head corrected: left out, but for the head's bias, which restores the "
    "mean of the logits. each alone, in sequence: moved into the weights, layer by layer. agree, error: "
    "answers and logits of the last against the original."
)
_LAYERS_NOTE = "r of each convolution's bias, and its mean size beside the deviation of what it is added to."
_OFF_NOTE = (
    "Accuracy in per cent of folded nets on images at other contrasts, with biases and with weights that imitate them."
)
_CAPACITY_NOTE = (
    "Accuracy minus that of {base} channels, in points; weight decay is an L2 penalty in Adam's gradient."
    " Verdict: against no change."
)
_DRIFT_NOTE = "Biases before batch norm, from 0, after training: their gradient is rounding, which Adam makes steps of."

TITLES = {
    "widths": "With and without biases",
    "multiplier": "Channels needed without biases",
    "contrast": "Bright or dim",
    "identity": "Twins trained in float64",
    "dead": "What a bias does before each norm",
    "norms": "Nets with norms, trained",
    "first layer": "The first layer",
    "replaceability": "r by the number of inputs",
    "ablation": "Accuracy without biases",
    "layers": "Layer by layer",
    "off the data": "At other contrasts",
    "recall": "Recall by forget bias",
    "depth": "With and without biases, deeper",
    "capacity": "More channels",
    "capacity, bias": "With and without biases, by weight decay",
    "drift": "Dead biases after training",
    "update": "The step of a bias",
    "constant channel": "Bias against constant channel",
    "rates": "With and without biases, by learning rate",
}


@dataclass(frozen=True, slots=True)
class Grid:
    """A heading for each column, rows, which columns are numbers, and what the columns mean."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    right: tuple[int, ...]
    note: str = ""


def tabulate(results: Found) -> dict[str, Grid]:
    """Every table for which there are results, by name."""
    return {name: make(results[block]) for name, (block, make) in _TABLES.items() if block in results}


def format_span(low: float | None, high: float | None, said: Callable[[float], str]) -> str:
    """An interval; empty where there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "\u2013"
    return f"[{said(low)}, {said(high)}]"


def format_percent(value: float) -> str:
    return f"{value:.2f}"


def format_small(value: float) -> str:
    """A number over many orders of magnitude; rounding errors are not told apart."""
    return (
        "0"
        if value == 0
        else f"\u2264 1e{MINUS}13"
        if value <= 1e-13
        else f"{value:.3f}"
        if value >= 0.01
        else f"{value:.1e}".replace("-", MINUS)
    )


def format_p(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


_COMPARED = (
    "n",
    "with %",
    "without %",
    "\u0394 points",
    "median",
    "90 % interval",
    "95 %, new data",
    "p",
    "Holm",
    "verdict",
    "seeds",
)


def _compare_row(c: Found) -> tuple[str, ...]:
    return (
        f"{c['n']}",
        format_percent(c["with"]["mean"]),
        format_percent(c["without"]["mean"]),
        format_points(c["mean"]),
        format_points(c["median"]),
        format_span(c["low90"], c["high90"], format_points),
        format_span(c["low_new"], c["high_new"], format_points),
        format_p(c["p_flip"]),
        format_p(c["p_holm"]),
        c["verdict"],
        "" if c["needed"] is None else f"\u2248{c['needed']:,}",
    )


def _tabulate_comparisons(keys: Sequence[str], heads: Sequence[str]) -> Callable[[Found], Grid]:
    def make(found: Found) -> Grid:
        rows = [(*(_format_key(c[k]) for k in keys), *_compare_row(c)) for c in found["comparisons"]]
        k = len(keys)
        right = tuple(j for j in range(1, k + len(_COMPARED)) if j != k + 9)
        return Grid((*heads, *_COMPARED), rows, right, _COMPARED_NOTE)

    return make


def _format_key(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _tabulate_multiplier(found: Found) -> Grid:
    rows = []
    for kind, made in found["multiplier"].items():
        if made is None:
            continue
        rows.append(
            (kind, "all", f"\u00d7{made['factor']:.2f}", format_span(made["low"], made["high"], format_percent), "", "")
        )
        for w in made["widths"]:
            factor = _format_times(w["factor"])
            censored = f"{100 * w['censored']:.0f} %"
            interval = "at the ceiling" if w["at_ceiling"] else format_span(w["low"], w["high"], format_percent)
            rows.append((kind, f"{w['width']}", factor, interval, _format_times(w["parameters"]), censored))
    return Grid(
        ("input", "channels", "factor", "95 % interval", "parameters", "censored"), rows, (1, 2, 4, 5), _MULTIPLIER_NOTE
    )


def _format_times(factor: float | None) -> str:
    return "\u2013" if factor is None else f"\u00d7{factor:.2f}"


def _tabulate_contrast(found: Found) -> Grid:
    names = {"all": "everywhere", "head": "in the head alone", "none": "nowhere"}
    rows = [
        (f"{r['width']}", names[r["bias"]], f"{r['n']}", format_percent(r["mean"]), format_percent(r["worst"]))
        for r in found["accuracy"]
    ]
    return Grid(("channels", "biases", "n", "right %", "worst %"), rows, (0, 2, 3, 4), _CONTRAST_NOTE)


def _tabulate_identity(found: Found) -> Grid:
    rows = [(r["norm"], f"{r['n']}", format_small(r["apart"]), f"{r['difference']:g}") for r in found["checks"]]
    return Grid(("norm", "n", "logits differ by", "accuracy by, points"), rows, (1, 2, 3), _IDENTITY_NOTE)


def _tabulate_dead(found: Found) -> Grid:
    rows = [
        (r["followed_by"], "dead" if r["expected_dead"] else "live", format_small(r["change"])) for r in found["dead"]
    ]
    return Grid(("convolution followed by", "bias is", "change"), rows, (2,), _DEAD_NOTE)


def _tabulate_replaceability(found: Found) -> Grid:
    rows = found["replaceability"]
    sizes = sorted({r["n"] for r in rows})
    body = []
    for rho in sorted({r["rho"] for r in rows}):
        for kind in ("measured", "theory"):
            at = {r["n"]: r[kind] for r in rows if r["rho"] == rho}
            body.append((f"{rho:g}", "formula" if kind == "theory" else "drawn", *(_format_two(at[n]) for n in sizes)))
    return Grid(
        ("correlation", "", *(f"n = {n}" for n in sizes)), body, tuple(range(2, 2 + len(sizes))), _REPLACEABILITY_NOTE
    )


def _format_two(value: float) -> str:
    """To two digits."""
    return f"{value:.2g}"


def _tabulate_first_layer(found: Found) -> Grid:
    rows = [(r["layer"], r["input"], f"{r['r']:.3f}", f"{100 * r['empty']:.1f}") for r in found["first layer"]]
    return Grid(("first layer", "input", "r", "empty %"), rows, (2, 3), _FIRST_NOTE)


def _tabulate_update(found: Found) -> Grid:
    rows = [(r["optimiser"], format_small(r["error"])) for r in found["update"]]
    return Grid(("optimiser", "error of 'step = \u2212rate x delta'"), rows, (1,))


def _tabulate_constant(found: Found) -> Grid:
    rows = [
        (f"{r['padding']}", r["weight"], format_small(r["inside"]), format_small(r["border"]))
        for r in found["constant channel"]
    ]
    return Grid(("padding", "its weight", "inside", "at the border"), rows, (0, 2, 3), _CONSTANT_NOTE)


def _tabulate_recall(found: Found) -> Grid:
    p = {t["forget_bias"]: format_p(t["p_holm"]) for t in found["tests"]}
    rows = [
        (
            a["forget_bias"],
            "" if a["time_constant"] is None else f"{a['time_constant']:.1f}",
            f"{a['solved']}/{a['n']}",
            format_span(100 * a["low"], 100 * a["high"], lambda v: f"{v:.0f}"),
            "never" if a["median_steps"] is None else f"{a['median_steps']:g}",
            f"{a['accuracy']:.0f}",
            p.get(a["forget_bias"], ""),
        )
        for a in found["arms"]
    ]
    header = ("forget bias", "\u03c4", "solved", "95 % interval, %", "median steps", "right %", "p")
    return Grid(header, rows, (1, 2, 4, 5, 6), _RECALL_NOTE.format(**found))


_METHODS = {
    "original": "as trained",
    "zero": "left out",
    "head": "head corrected",
    "independent": "each alone",
    "sequential": "in sequence",
}


def _tabulate_ablation(found: Found) -> Grid:
    rows = []
    for net in found["nets"]:
        made = net["methods"]
        accuracy = (format_percent(made[m]["accuracy"]["mean"]) for m in _METHODS)
        more = (
            format_percent(made["sequential"]["agreement"]["mean"]),
            format_small(made["sequential"]["error"]["mean"]),
        )
        rows.append(
            ("folded" if net["norm"] == "batch" else "none", f"{net['width']}", f"{net['n']}", *accuracy, *more)
        )
    header = ("norm", "channels", "n", *_METHODS.values(), "agree %", "error")
    return Grid(header, rows, tuple(range(1, 10)), _ABLATION_NOTE)


def _tabulate_layers(found: Found) -> Grid:
    rows = []
    for net in found["nets"]:
        norm = "folded" if net["norm"] == "batch" else "none"
        cells = [f"{layer[k]:.3f}" for k in ("r", "size") for layer in net["layers"]]
        rows.append((norm, f"{net['width']}", *cells))
    header = ("norm", "channels", "r 1", "r 2", "r 3", "|b|/sd 1", "|b|/sd 2", "|b|/sd 3")
    return Grid(header, rows, tuple(range(1, 8)), _LAYERS_NOTE)


def _tabulate_off_data(found: Found) -> Grid:
    nets = [n for n in found["nets"] if n["norm"] == "batch"]
    contrasts = list(nets[0]["methods"]["original"]["contrast"]) if nets else []
    rows = [
        (f"{n['width']}", _METHODS[m], *(f"{n['methods'][m]['contrast'][c]:.1f}" for c in contrasts))
        for n in nets
        for m in ("original", "sequential")
    ]
    return Grid(
        ("channels", "biases", *(f"\u00d7{c}" for c in contrasts)), rows, (0, *range(2, 2 + len(contrasts))), _OFF_NOTE
    )


def _tabulate_capacity(found: Found) -> Grid:
    rows = [
        (
            f"\u00d7{g['times']:g}",
            f"{g['weight_decay']:g}",
            "yes" if g["bias"] == "all" else "no",
            f"{g['n']}",
            format_points(g["mean"]),
            format_span(g["low"], g["high"], format_points),
            g["verdict"],
        )
        for g in found["gains"]
    ]
    header = ("channels", "weight decay", "biases", "n", f"\u0394 to {found['base']}", "95 % interval", "verdict")
    return Grid(header, rows, (0, 1, 3, 4, 5), _CAPACITY_NOTE.format(**found))


def _tabulate_drift(found: Found) -> Grid:
    rows = [
        (
            o["optimiser"],
            f"{o['rate']:g}",
            f"{o['n']}",
            format_small(o["gradient_bias"]),
            format_small(o["gradient_weight"]),
            format_small(o["rms"]),
            format_small(o["largest"]),
            format_points(o["difference"]["mean"]),
        )
        for o in found["optimisers"]
    ]
    header = ("optimiser", "rate", "n", "gradient", "of weights", "bias rms", "largest", "\u0394 points")
    return Grid(header, rows, tuple(range(1, 8)), _DRIFT_NOTE)


_TABLES: dict[str, tuple[str, Callable[[Found], Grid]]] = {
    "widths": ("widths", _tabulate_comparisons(("input", "width"), ("input", "channels"))),
    "multiplier": ("widths", _tabulate_multiplier),
    "contrast": ("contrast", _tabulate_contrast),
    "identity": ("identity", _tabulate_identity),
    "dead": ("exact", _tabulate_dead),
    "norms": ("norms", _tabulate_comparisons(("norm", "width"), ("norm", "channels"))),
    "first layer": ("exact", _tabulate_first_layer),
    "replaceability": ("exact", _tabulate_replaceability),
    "ablation": ("ablation", _tabulate_ablation),
    "layers": ("ablation", _tabulate_layers),
    "off the data": ("ablation", _tabulate_off_data),
    "recall": ("recall", _tabulate_recall),
    "depth": ("depth", _tabulate_comparisons(("depth", "width"), ("depth", "channels"))),
    "capacity": ("capacity", _tabulate_capacity),
    "capacity, bias": ("capacity", _tabulate_comparisons(("weight_decay", "width"), ("weight decay", "channels"))),
    "drift": ("drift", _tabulate_drift),
    "update": ("exact", _tabulate_update),
    "constant channel": ("exact", _tabulate_constant),
    "rates": ("rates", _tabulate_comparisons(("width", "rate"), ("channels", "rate"))),
}
