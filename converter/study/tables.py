"""Rows of words, made from a document, that the terminal, Markdown and the page share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from converter.study import notes
from converter.study import tables_more as more
from converter.study.document import format_points
from converter.study.table import Found, Table, about, percent, small, span


def tables(document: Found) -> dict[str, Table]:
    """Every table for which there are results, by name."""
    found = document["results"]
    return {
        name: replace(make(found[block]), title=notes.TITLES[name])
        for name, (block, make) in _TABLES.items()
        if block in found
    }


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


def _compare(c: Found) -> tuple[str, ...]:
    return (
        f"{c['n']}",
        percent(c["with"]["mean"]),
        percent(c["without"]["mean"]),
        format_points(c["mean"]),
        format_points(c["median"]),
        span(c["low90"], c["high90"], format_points),
        span(c["low_new"], c["high_new"], format_points),
        about(c["p_flip"]),
        about(c["p_holm"]),
        c["verdict"],
        "" if c["needed"] is None else f"\u2248{c['needed']:,}",
    )


def _comparisons(keys: Sequence[str], heads: Sequence[str]) -> Callable[[Found], Table]:
    def make(found: Found) -> Table:
        rows = [(*(_key(c[k]) for k in keys), *_compare(c)) for c in found["comparisons"]]
        k = len(keys)
        right = tuple(j for j in range(1, k + len(_COMPARED)) if j != k + 9)
        return Table((*heads, *_COMPARED), rows, right, notes.COMPARED)

    return make


def _key(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _multiplier(found: Found) -> Table:
    rows = []
    for kind, made in found["multiplier"].items():
        if made is None:
            continue
        rows.append((kind, "all", f"\u00d7{made['factor']:.2f}", span(made["low"], made["high"], percent), "", ""))
        for w in made["widths"]:
            factor = _times(w["factor"])
            censored = f"{100 * w['censored']:.0f} %"
            interval = "at the ceiling" if w["at_ceiling"] else span(w["low"], w["high"], percent)
            rows.append((kind, f"{w['width']}", factor, interval, _times(w["parameters"]), censored))
    return Table(
        ("input", "channels", "factor", "95 % interval", "parameters", "censored"), rows, (1, 2, 4, 5), notes.MULTIPLIER
    )


def _times(factor: float | None) -> str:
    return "\u2013" if factor is None else f"\u00d7{factor:.2f}"


def _contrast(found: Found) -> Table:
    names = {"all": "everywhere", "head": "in the head alone", "none": "nowhere"}
    rows = [
        (f"{r['width']}", names[r["bias"]], f"{r['n']}", percent(r["mean"]), percent(r["worst"]))
        for r in found["accuracy"]
    ]
    return Table(("channels", "biases", "n", "right %", "worst %"), rows, (0, 2, 3, 4), notes.CONTRAST)


def _identity(found: Found) -> Table:
    rows = [(r["norm"], f"{r['n']}", small(r["apart"]), f"{r['difference']:g}") for r in found["checks"]]
    return Table(("norm", "n", "logits differ by", "accuracy by, points"), rows, (1, 2, 3), notes.IDENTITY)


def _dead(found: Found) -> Table:
    rows = [(r["followed_by"], "dead" if r["expected_dead"] else "live", small(r["change"])) for r in found["dead"]]
    return Table(("convolution followed by", "bias is", "change"), rows, (2,), notes.DEAD)


def _replaceability(found: Found) -> Table:
    rows = found["replaceability"]
    sizes = sorted({r["n"] for r in rows})
    body = []
    for rho in sorted({r["rho"] for r in rows}):
        for kind in ("measured", "theory"):
            at = {r["n"]: r[kind] for r in rows if r["rho"] == rho}
            body.append((f"{rho:g}", "formula" if kind == "theory" else "drawn", *(_two(at[n]) for n in sizes)))
    return Table(
        ("correlation", "", *(f"n = {n}" for n in sizes)), body, tuple(range(2, 2 + len(sizes))), notes.REPLACEABILITY
    )


def _two(value: float) -> str:
    """To two digits."""
    return f"{value:.2g}"


def _first_layer(found: Found) -> Table:
    rows = [(r["layer"], r["input"], f"{r['r']:.3f}", f"{100 * r['empty']:.1f}") for r in found["first layer"]]
    return Table(("first layer", "input", "r", "empty %"), rows, (2, 3), notes.FIRST)


def _update(found: Found) -> Table:
    rows = [(r["optimiser"], small(r["error"])) for r in found["update"]]
    return Table(("optimiser", "error of 'step = \u2212rate x delta'"), rows, (1,))


def _constant(found: Found) -> Table:
    rows = [(f"{r['padding']}", r["weight"], small(r["inside"]), small(r["border"])) for r in found["constant channel"]]
    return Table(("padding", "its weight", "inside", "at the border"), rows, (0, 2, 3), notes.CONSTANT)


_TABLES: dict[str, tuple[str, Callable[[Found], Table]]] = {
    "widths": ("widths", _comparisons(("input", "width"), ("input", "channels"))),
    "multiplier": ("widths", _multiplier),
    "contrast": ("contrast", _contrast),
    "identity": ("identity", _identity),
    "dead": ("exact", _dead),
    "norms": ("norms", _comparisons(("norm", "width"), ("norm", "channels"))),
    "first layer": ("exact", _first_layer),
    "replaceability": ("exact", _replaceability),
    "ablation": ("ablation", more.ablation),
    "layers": ("ablation", more.layers),
    "off the data": ("ablation", more.off),
    "recall": ("recall", more.recall),
    "depth": ("depth", _comparisons(("depth", "width"), ("depth", "channels"))),
    "capacity": ("capacity", more.capacity),
    "capacity, bias": ("capacity", _comparisons(("weight_decay", "width"), ("weight decay", "channels"))),
    "drift": ("drift", more.drift),
    "update": ("exact", _update),
    "constant channel": ("exact", _constant),
    "rates": ("rates", _comparisons(("width", "rate"), ("channels", "rate"))),
}
