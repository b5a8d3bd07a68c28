"""Rows of words, made from a document, that the terminal, Markdown and the page share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converter.report import wording

MINUS = "\u2212"
SHOWN = 6  # findings in a report for people
_NOTHING = 1e-9  # what is less is rounding
_NOISE = 5e-6  # of a float32 model without any change
NAMES = {
    "original": "original",
    "zero-all": "all left out",
    "zero-inner": "inner left out",
    "head-corrected": "head corrected",
    "compensate-inner": "inner imitated",
    "compensate-all": "all imitated",
}
CHANGES = {
    "zero-all": "all left out: every bias is zero",
    "zero-inner": "inner left out: those of layers that are neither first nor head nor depthwise",
    "head-corrected": "head corrected: all but the head's left out, and the mean of the outputs put right there",
    "compensate-inner": "inner imitated: left out, and weights fitted to make up for them, layer after layer",
    "compensate-all": "all imitated: the same for all but the head's",
}
MEANING = (
    "|b|/sd: size of the bias beside the deviation of its layer's result, mean over channels. r: what the best "
    "imitation of it by its layer's other weights leaves, in mean square (0: superfluous, 1: irreplaceable), on rows "
    "that it was not fitted on. error: change of the outputs without it, relative. imitated: the same where weights "
    "W + b v imitate it, on rows that v was not fitted on."
)


@dataclass(frozen=True, slots=True)
class Table:
    """A heading for each column, rows, and which columns are numbers."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    right: tuple[int, ...]


def headline(document: Mapping[str, Any]) -> str:
    """One sentence: how many biases matter."""
    counts = {name: c["biases"] for name, c in document["classes"].items()}
    total = len(document["biases"])
    if not total:
        return "There is no bias to look at."
    needless = sum(counts.get(n, 0) for n in ("DEAD", "REDUNDANT", "SMALL", "COMPENSABLE"))
    said = ", ".join(f"{n} {name.lower()}" for name, n in counts.items())
    if needless == total:
        return f"None of {wording.count(total, 'bias', 'biases')} is essential on this data: {said}."
    return f"{needless} of {wording.count(total, 'bias', 'biases')} can be done without on this data: {said}."


def about(document: Mapping[str, Any]) -> str:
    """What was looked at."""
    rows, model = document["rows"], document["model"]
    folded = document["folded_batch_norms"]
    first = f"opset {model['opset']}, {wording.count(len(document['biases']), 'bias', 'biases')}"
    if folded:
        first += f"; {wording.count(folded, 'batch norm')} folded first, in memory"
    labelled = "with labels" if document["labelled"] else "no labels"
    output = wording.plain(document["output"]["name"])
    return f"{first}; {wording.count(rows['all'], 'row')} of data, {labelled}; output {output}"


def biases(document: Mapping[str, Any], top: int | None = None) -> Table:
    """The ranking."""
    decides, labelled = document["output"]["decides"], document["labelled"]
    tested = any(b["p_holm"] is not None for b in document["biases"])
    header = ["class", "layer", "|b|/sd", "r"]
    if decides:
        header.append("accuracy" if tested and labelled else "agree")
    header += ["error", "imitated"]
    rows = [_bias(b, decides=decides, tested=tested and labelled) for b in document["biases"][:top]]
    return Table(tuple(header), rows, tuple(range(2, len(header))))


def _bias(bias: Mapping[str, Any], *, decides: bool, tested: bool) -> tuple[str, ...]:
    role = "" if bias["role"] == "inner" else f" ({bias['role']})"
    effect = bias["effect"] or {}
    bound = "\u2264" if bias["r_is_bound"] else ""
    held = bias["r_held_out"] if bias["r_held_out"] is not None else bias["r"]
    row = [bias["class"], wording.plain(bias["node"]) + role, number(bias["ratio"]), bound + number(held)]
    if decides and tested:
        star = "*" if bias["p_holm"] is not None and bias["p_holm"] < 0.05 else ""
        row.append(points(effect.get("difference")) + star)
    elif decides:
        row.append(share(effect.get("agreement")))
    error = effect.get("relative_error", bias["predicted_error"])
    return (*row, share(error), share(imitated(bias)))


def imitated(bias: Mapping[str, Any]) -> float | None:
    """Error with weights in place of the bias, measured, else foretold; none of a bias that is dead."""
    if bias["imitated"] is not None:
        return float(bias["imitated"]["relative_error"])
    return None if bias["class"] == "DEAD" else bias["predicted_error_compensated"]


def variants(document: Mapping[str, Any]) -> Table:
    """All at once."""
    decides = document["output"]["decides"]
    tested = any("difference" in v["effect"] for v in document["variants"])
    header = ["", "biases", *(["agree", "KL"] if decides else []), "error"]
    header += ["accuracy", "change, 95 %"] if tested else []
    rows = []
    for variant in document["variants"]:
        effect = variant["effect"]
        row = [NAMES[variant["name"]], f"{variant['biases']}"]
        row += [share(effect.get("agreement")), number(effect.get("kl"))] if decides else []
        row.append(share(effect["relative_error"]))
        if tested:
            row += [share(effect.get("accuracy_after")), interval(effect)]
        rows.append(tuple(row))
    return Table(tuple(header), rows, tuple(range(1, len(header))))


def variants_mean(document: Mapping[str, Any]) -> str:
    """What was done in each row of `variants`, and on what."""
    rows = document["rows"]
    listed = "; ".join(CHANGES[v["name"]] for v in document["variants"])
    measured, fitted = rows["all"] - rows["fitted_on"], rows["fitted_on"]
    return f"On {measured:,} rows; what is fitted is fitted on {fitted:,} others. {listed}."


def probes(document: Mapping[str, Any]) -> Table | None:
    """Off the data; None where that was not asked for."""
    if not document["probes"]:
        return None
    names = list(document["probes"][0]["effects"])
    decides = document["output"]["decides"]
    names = names if decides else [n for n in names if n != "original"]
    rows = []
    for probe in document["probes"]:
        cells = [_probed(probe, name, decides=decides) for name in names]
        rows.append((probe["said"], *cells))
    return Table(("inputs", *(NAMES[n] for n in names)), rows, tuple(range(1, len(names) + 1)))


def _probed(probe: Mapping[str, Any], name: str, *, decides: bool) -> str:
    effect = probe["effects"][name]
    mark = "!" if name in probe["changes"] else ""
    return share(effect.get("accuracy_after") if decides else effect["relative_error"]) + mark


def probes_mean(document: Mapping[str, Any]) -> str:
    """What the figures of `probes` are."""
    if not document["output"]["decides"]:
        return "relative error against the original on the same inputs; ! where it grows off the data"
    right = "labels" if document["labelled"] else "the original's answers to the inputs as they were"
    return f"accuracy against {right}; ! where a changed model decides otherwise than the original there, and not here"


def findings(document: Mapping[str, Any], most: int = SHOWN) -> list[str]:
    """Findings in words, absorptions first, then the largest shifts; and how many more there are."""
    order = sorted(document["findings"], key=lambda f: (f["code"] != "high-bias", -f.get("largest_in_deviations", 0.0)))
    rest = len(order) - most
    more = [f"... and {wording.count(rest, 'more finding')}, in the JSON report"] if rest > 0 else []
    return [finding(f) for f in order[:most]] + more


def finding(found: Mapping[str, Any]) -> str:
    """A finding in words."""
    if found["code"] == "high-bias":
        return (
            f"{wording.plain(found['node'])}: {found['channels']} of {found['of']} channels before the ReLU never fall "
            f"to 0; absorbing that into the next layer would shrink the range from {number(found['range_before'])} "
            f"to {number(found['range_after'])}"
        )
    return (
        f"{wording.plain(found['node'])}: 8-bit weights would shift the mean of {found['channels']} of {found['of']} "
        f"channels by up to {number(found['largest_in_deviations'])} of their deviation"
    )


def number(value: float | None) -> str:
    """Two digits; a dash where there is none."""
    if value is None:
        return "\u2014"
    if abs(value) < _NOTHING:
        return "0"
    if abs(value) >= 99.5:
        return wording.number(value)
    if abs(value) < 0.00095:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.2g}" if abs(value) >= 0.1 else f"{value:.3f}"


def share(value: float | None) -> str:
    """In per cent; a dash where there is none."""
    if value is None:
        return "\u2014"
    if value < _NOISE:
        return "0 %"
    return f"{100 * value:.1f} %" if value >= 0.0095 or not value else f"{100 * value:.2g} %"


def points(value: float | None) -> str:
    """A difference in percentage points, signed."""
    return "\u2014" if value is None else f"{100 * value:+.1f}".replace("-", MINUS)


def interval(effect: Mapping[str, Any]) -> str:
    """A difference of accuracies with Newcombe's interval, in points."""
    if "difference" not in effect:
        return "\u2014"
    return f"{points(effect['difference'])} [{points(effect['low'])}, {points(effect['high'])}]"
