"""Tables of trained nets: LSTMs, biases taken out, capacity, dead biases."""

from __future__ import annotations

from converter.study import notes
from converter.study.document import format_points
from converter.study.table import Found, Table, about, percent, small, span


def recall(found: Found) -> Table:
    p = {t["forget_bias"]: about(t["p_holm"]) for t in found["tests"]}
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
    header = ("forget bias", "\u03c4", "solved", "95 % interval, %", "median steps", "right %", "p")
    return Table(header, rows, (1, 2, 4, 5, 6), notes.RECALL.format(**found))


_METHODS = {
    "original": "as trained",
    "zero": "left out",
    "head": "head corrected",
    "independent": "each alone",
    "sequential": "in sequence",
}


def ablation(found: Found) -> Table:
    rows = []
    for net in found["nets"]:
        made = net["methods"]
        accuracy = (percent(made[m]["accuracy"]["mean"]) for m in _METHODS)
        more = (percent(made["sequential"]["agreement"]["mean"]), small(made["sequential"]["error"]["mean"]))
        rows.append(
            ("folded" if net["norm"] == "batch" else "none", f"{net['width']}", f"{net['n']}", *accuracy, *more)
        )
    header = ("norm", "channels", "n", *_METHODS.values(), "agree %", "error")
    return Table(header, rows, tuple(range(1, 10)), notes.ABLATION)


def layers(found: Found) -> Table:
    rows = []
    for net in found["nets"]:
        norm = "folded" if net["norm"] == "batch" else "none"
        cells = [f"{layer[k]:.3f}" for k in ("r", "size") for layer in net["layers"]]
        rows.append((norm, f"{net['width']}", *cells))
    header = ("norm", "channels", "r 1", "r 2", "r 3", "|b|/sd 1", "|b|/sd 2", "|b|/sd 3")
    return Table(header, rows, tuple(range(1, 8)), notes.LAYERS)


def off(found: Found) -> Table:
    nets = [n for n in found["nets"] if n["norm"] == "batch"]
    contrasts = list(nets[0]["methods"]["original"]["contrast"]) if nets else []
    rows = [
        (f"{n['width']}", _METHODS[m], *(f"{n['methods'][m]['contrast'][c]:.1f}" for c in contrasts))
        for n in nets
        for m in ("original", "sequential")
    ]
    return Table(
        ("channels", "biases", *(f"\u00d7{c}" for c in contrasts)), rows, (0, *range(2, 2 + len(contrasts))), notes.OFF
    )


def capacity(found: Found) -> Table:
    rows = [
        (
            f"\u00d7{g['times']:g}",
            f"{g['weight_decay']:g}",
            "yes" if g["bias"] == "all" else "no",
            f"{g['n']}",
            format_points(g["mean"]),
            span(g["low"], g["high"], format_points),
            g["verdict"],
        )
        for g in found["gains"]
    ]
    header = ("channels", "weight decay", "biases", "n", f"\u0394 to {found['base']}", "95 % interval", "verdict")
    return Table(header, rows, (0, 1, 3, 4, 5), notes.CAPACITY.format(**found))


def drift(found: Found) -> Table:
    rows = [
        (
            o["optimiser"],
            f"{o['rate']:g}",
            f"{o['n']}",
            small(o["gradient_bias"]),
            small(o["gradient_weight"]),
            small(o["rms"]),
            small(o["largest"]),
            format_points(o["difference"]["mean"]),
        )
        for o in found["optimisers"]
    ]
    header = ("optimiser", "rate", "n", "gradient", "of weights", "bias rms", "largest", "\u0394 points")
    return Table(header, rows, tuple(range(1, 8)), notes.DRIFT)
