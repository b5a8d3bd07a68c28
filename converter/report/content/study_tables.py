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
    "\u0394: accuracy with minus without biases, mean over paired seeds, in points. errors: wrong answers without "
    "biases over those with. 90 % interval: inside the margin means EQUIVALENT (two one-sided tests); what is neither "
    "that nor DIFFERENT is INCONCLUSIVE."
)
_STATISTICS_NOTE = (
    "new data: the 95 % interval as it would be on other images of this kind, which is wider, since the splits of one "
    "data set share images (Nadeau and Bengio). p: how often signs drawn at random give so large a mean. corrected: "
    "p of a t-test, made larger because the table holds many tests, of which some look like a hit by chance (Holm). "
    "seeds: as many would show equivalence in 9 studies of 10 if there is no difference."
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
    "{steps} steps. torch: all biases small and random, as torch draws them. \u03c4 = 1 + e^b: how many steps the cell "
    "remembers at the start. solved: over 95 % right, with Wilson's interval. p: Fisher's exact test of 1 and of 2 "
    "against 0, and of ln(T \u2212 1) against 2, corrected for how many there are (Holm)."
)
_POINTS_NOTE = (
    "Right answers in per cent of nets of one hidden layer, mean over {n} seeds. Without any bias f(ax) = a f(x): "
    "along a ray from the origin the answer cannot change, whatever the number of units, and a threshold is a ray's."
)
_DEPTH_NOTE = (
    "Batch norm folded; then biases left out, or moved into the weights, layer by layer. lost: points of accuracy."
)
_DEEPER_NOTE = "Points lost by moving biases into weights, differences over paired seeds; a minus: the other way round."
_MORE_NOTE = (
    "What biases are worth, in points, beyond what they are worth on raw inputs with free filters. centred: the "
    "weights of each filter add up to 0, so that they cannot make a bias of what their inputs have in common. pixel: "
    "the mean of each pixel is taken off, r = 1."
)
_IMITATED_NOTE = (
    "Trained nets, raw inputs, convolution by convolution. made: the mean that weights make before the bias, in "
    "standard deviations. r: what part of a constant the inputs cannot give. A filter is a multiple of the best "
    "constant of its inputs, and a rest whose mean is 0: all of that mean comes through this constant. unsteady: how "
    "much it varies, of its own size."
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
    "needed: the fewest channels within the margin of the best, for each weight decay; then about twice and four "
    "times its parameters. \u0394: accuracy minus that of the needed. Weight decay is decoupled: each step takes rate "
    "x decay of each parameter."
)
_DRIFT_NOTE = "Biases before batch norm, from 0, after training: their gradient is rounding, which Adam makes steps of."

TITLES = {
    "widths": "With and without biases",
    "widths, statistics": "The statistics",
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
    "depth": "Channels and depth by one yardstick",
    "deeper": "Deeper, and fewer channels",
    "depth, trained": "Trained with and without biases",
    "points": "Points, by units",
    "more": "Where weights cannot imitate a bias",
    "imitated": "What weights make of a constant",
    "rates, tested": "The other rate, on test images",
    "capacity": "More parameters than needed",
    "capacity, all": "Accuracy by channels",
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


_COMPARED = ("n", "with %", "without %", "\u0394 points", "90 % interval", "errors", "verdict")
_STATISTICS = ("median \u0394", "95 % interval", "new data", "p", "corrected", "seeds")


def _compare_row(c: Found) -> tuple[str, ...]:
    return (
        f"{c['n']}",
        format_percent(c["with"]["mean"]),
        format_percent(c["without"]["mean"]),
        format_points(c["mean"]),
        format_span(c["low90"], c["high90"], format_points),
        _format_times(c["error_ratio"] if math.isfinite(c["error_ratio"]) else None),
        c["verdict"],
    )


def _statistics_row(c: Found) -> tuple[str, ...]:
    return (
        format_points(c["median"]),
        format_span(c["low"], c["high"], format_points),
        format_span(c["low_new"], c["high_new"], format_points),
        format_p(c["p_flip"]),
        format_p(c["p_holm"]),
        "" if c["needed"] is None else f"\u2248{c['needed']:,}",
    )


def _tabulate_comparisons(
    keys: Sequence[str], heads: Sequence[str], among: str = "comparisons"
) -> Callable[[Found], Grid]:
    def make(found: Found) -> Grid:
        rows = [(*(_format_key(c[k]) for k in keys), *_compare_row(c)) for c in found[among]]
        k = len(keys)
        return Grid((*heads, *_COMPARED), rows, tuple(range(1, k + 6)), _COMPARED_NOTE)

    return make


def _tabulate_statistics(keys: Sequence[str], heads: Sequence[str]) -> Callable[[Found], Grid]:
    def make(found: Found) -> Grid:
        rows = [(*(_format_key(c[k]) for k in keys), *_statistics_row(c)) for c in found["comparisons"]]
        return Grid((*heads, *_STATISTICS), rows, tuple(range(1, len(keys) + 6)), _STATISTICS_NOTE)

    return make


def _tabulate_changes(among: str, keys: Sequence[str], heads: Sequence[str], note: str) -> Callable[[Found], Grid]:
    """Differences that were chosen beforehand."""

    def make(found: Found) -> Grid:
        rows = [
            (
                *(_format_key(c[k]) for k in keys),
                f"{c['n']}",
                format_points(c["mean"]),
                format_span(c["low"], c["high"], format_points),
                format_p(c["p_holm"]),
                c["verdict"],
            )
            for c in found[among]
        ]
        k = len(keys)
        heads_ = (*heads, "n", "\u0394 points", "95 % interval", "corrected p", "verdict")
        return Grid(heads_, rows, tuple(range(1, k + 4)), note)

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
    p = {(t["lag"], t["forget_bias"]): f"{format_p(t['p_holm'])} (against {t['against']})" for t in found["tests"]}
    rows = [
        (
            f"{a['lag']}",
            a["forget_bias"].replace("T-1", f"T {MINUS} 1"),
            f"{a['time_constant']:.1f}",
            f"{a['solved']}/{a['n']}",
            format_span(100 * a["low"], 100 * a["high"], lambda v: f"{v:.0f}"),
            "never" if a["median_steps"] is None else f"{a['median_steps']:g}",
            f"{a['accuracy']:.0f}",
            p.get((a["lag"], a["forget_bias"]), ""),
        )
        for a in found["arms"]
    ]
    header = ("lag", "forget bias", "\u03c4", "solved", "95 % interval, %", "median steps", "right %", "p")
    return Grid(header, rows, (0, 2, 3, 5, 6), _RECALL_NOTE.format(**found))


def _tabulate_points(found: Found) -> Grid:
    rows = found["accuracy"]
    at = {(r["task"], r["width"], r["bias"]): r for r in rows}
    body = [
        (task, f"{w}", *(format_percent(at[task, w, b]["mean"]) for b in ("all", "head", "none")))
        for task in dict.fromkeys(r["task"] for r in rows)
        for w in sorted({r["width"] for r in rows})
    ]
    header = ("task", "units", "with biases", "in the head alone", "without any")
    return Grid(header, body, (1, 2, 3, 4), _POINTS_NOTE.format(n=rows[0]["n"]))


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


def _tabulate_depth(found: Found) -> Grid:
    rows = [
        (
            f"{n['depth']}",
            f"{n['width']}",
            f"{n['n']}",
            format_percent(n["methods"]["original"]["accuracy"]["mean"]),
            *(
                cell
                for method in ("zero", "sequential")
                for lost in [n["methods"][method]["lost"]]
                for cell in (format_points(lost["mean"]), format_span(lost["low"], lost["high"], format_points))
            ),
        )
        for n in found["nets"]
    ]
    header = ("depth", "channels", "n", "as trained %", "lost, left out", "95 %", "lost, moved", "95 %")
    return Grid(header, rows, tuple(range(8)), _DEPTH_NOTE)


def _tabulate_deeper(found: Found) -> Grid:
    depths, widths = found["depths"], found["widths"]
    rows = [
        (
            said,
            f"{c['n']}",
            format_points(c["mean"]),
            format_span(c["low"], c["high"], format_points),
            format_p(c["p_holm"]),
            c["verdict"],
        )
        for said, c in [
            *((f"depth {depths[-1]} minus {depths[0]}, {c['width']} channels", c) for c in found["deeper"]),
            *((f"{widths[0]} minus {widths[-1]} channels, depth {c['depth']}", c) for c in found["fewer"]),
        ]
    ]
    return Grid(("", "n", "\u0394 lost", "95 % interval", "corrected p", "verdict"), rows, (1, 2, 3, 4), _DEEPER_NOTE)


def _tabulate_imitated(found: Found) -> Grid:
    rows = [
        (
            f"{n['width']}",
            "yes" if n["bias"] == "all" else "no",
            *(f"{layer[k]:.3f}" for layer in n["layers"] for k in ("bias", "r", "noise")),
        )
        for n in found["layers"]
    ]
    heads = [f"{head} {k + 1}" for k in range(2) for head in ("made", "r", "unsteady")]
    return Grid(("channels", "biases", *heads), rows, (0, *range(2, 8)), _IMITATED_NOTE)


def _tabulate_capacity(found: Found) -> Grid:
    rows = [
        (
            "yes" if g["weight_decay"] else "no",
            f"{found['needed'][format(g['weight_decay'], 'g')]}",
            f"{g['width']}",
            f"\u00d7{g['times']:g}",
            f"{g['n']}",
            format_points(g["mean"]),
            format_span(g["low"], g["high"], format_points),
            g["verdict"],
        )
        for g in found["gains"]
    ]
    header = ("weight decay", "needed", "channels", "parameters", "n", "\u0394 points", "95 % interval", "verdict")
    return Grid(header, rows, tuple(range(1, 7)), _CAPACITY_NOTE)


def _tabulate_accuracy(found: Found) -> Grid:
    widths = sorted({r["width"] for r in found["accuracy"]})
    at = {(r["weight_decay"], r["width"]): r["mean"] for r in found["accuracy"]}
    rows = [
        ("yes" if d else "no", *(format_percent(at[d, w]) for w in widths))
        for d in sorted({r["weight_decay"] for r in found["accuracy"]})
    ]
    return Grid(("weight decay", *(f"{w} channels" for w in widths)), rows, tuple(range(1, 1 + len(widths))))


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


_WIDTHS = (("input", "width"), ("input", "channels"))
_MORE = (("input", "filters", "width"), ("input", "filters", "channels"))
_RATES = (("width", "rate"), ("channels", "rate"))
_TABLES: dict[str, tuple[str, Callable[[Found], Grid]]] = {
    "widths": ("widths", _tabulate_comparisons(*_WIDTHS)),
    "widths, statistics": ("widths", _tabulate_statistics(*_WIDTHS)),
    "multiplier": ("widths", _tabulate_multiplier),
    "contrast": ("contrast", _tabulate_contrast),
    "points": ("points", _tabulate_points),
    "identity": ("identity", _tabulate_identity),
    "dead": ("exact", _tabulate_dead),
    "norms": ("norms", _tabulate_comparisons(("norm", "width"), ("norm", "channels"))),
    "first layer": ("exact", _tabulate_first_layer),
    "replaceability": ("exact", _tabulate_replaceability),
    "more": ("mechanism", _tabulate_changes("more", *_MORE, _MORE_NOTE)),
    "imitated": ("mechanism", _tabulate_imitated),
    "ablation": ("ablation", _tabulate_ablation),
    "layers": ("ablation", _tabulate_layers),
    "off the data": ("ablation", _tabulate_off_data),
    "recall": ("recall", _tabulate_recall),
    "depth": ("depth", _tabulate_depth),
    "deeper": ("depth", _tabulate_deeper),
    "depth, trained": ("depth", _tabulate_comparisons(("depth", "width"), ("depth", "channels"))),
    "capacity": ("capacity", _tabulate_capacity),
    "capacity, all": ("capacity", _tabulate_accuracy),
    "drift": ("drift", _tabulate_drift),
    "update": ("exact", _tabulate_update),
    "constant channel": ("exact", _tabulate_constant),
    "rates": ("rates", _tabulate_comparisons(*_RATES)),
    "rates, tested": ("rates", _tabulate_comparisons(*_RATES, "tested")),
}
