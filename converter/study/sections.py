"""The order of the report: what each part asks, and which pictures and tables answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converter.study.draw import Figure
from converter.study.figures import figures
from converter.study.table import Table
from converter.study.tables import tables


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report; ``id`` is its block's name."""

    id: str
    title: str
    lead: str
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]


_ORDER: tuple[tuple[str, str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "widths",
        "Does it make a difference?",
        (
            "The same nets trained twice, with biases in their convolutions and without: same split, weights, batches. "
            "The head keeps its bias."
        ),
        ("accuracy-raw", "accuracy-centred", "differences", "multiplier"),
        ("widths", "multiplier"),
    ),
    (
        "contrast",
        "Where a level is the answer",
        "A control that must come out so: a net without biases is the same function at every brightness, however wide.",
        ("contrast",),
        ("contrast",),
    ),
    (
        "identity",
        "Before batch norm",
        "The other control: what a norm subtracts again cannot matter. Where it does not subtract it, it does.",
        ("norms",),
        ("dead", "identity", "norms"),
    ),
    (
        "exact",
        "Why: other weights make the bias",
        (
            "Inputs with positive means imitate a bias: the more, the better, if they vary independently. "
            "What is left is r."
        ),
        ("replaceability", "centring"),
        ("replaceability", "first layer"),
    ),
    (
        "ablation",
        "Out of trained nets",
        (
            "Batch norm, once folded, leaves large biases behind. Left out, they are missed; moved into the weights, "
            "they are not, and that works better the wider the net."
        ),
        ("removal", "error"),
        ("ablation", "layers", "off the data"),
    ),
    (
        "recall",
        "The forget gate",
        "An LSTM that is to recall what it saw first: its forget gate must be open at the start.",
        ("recall",),
        ("recall",),
    ),
    ("depth", "Deeper nets", "Four convolutions in place of two.", ("depth",), ("depth",)),
    (
        "capacity",
        "More channels than needed",
        "Twice and four times the channels, with and without weight decay, with and without biases.",
        ("capacity",),
        ("capacity", "capacity, bias"),
    ),
    (
        "drift",
        "How a bias learns",
        "Its step is its delta times the rate, for plain SGD. A dead bias has no gradient but rounding.",
        (),
        ("update", "drift"),
    ),
    (
        "constant",
        "A neuron that is always 1",
        "A bias is the weight of one more channel that is constant, but for what padding does to that channel.",
        (),
        ("constant channel",),
    ),
    (
        "rates",
        "Is the learning rate fair?",
        (
            "If one arm liked another rate better, an effect of the bias could be one of the rate. "
            "Accuracy on a third of the training images."
        ),
        (),
        ("rates",),
    ),
)


def sections(document: Mapping[str, Any]) -> list[Section]:
    """The parts for which there are results."""
    drawn, laid = figures(document), tables(document)
    made = [
        Section(
            key, title, lead, tuple(drawn[f] for f in wanted if f in drawn), tuple(laid[t] for t in rows if t in laid)
        )
        for key, title, lead, wanted, rows in _ORDER
    ]
    return [section for section in made if section.figures or section.tables]


_SHOWN = {"1": ("drift",), "3": ("exact",), "6": ("identity",), "7c": ("depth", "ablation"), "9": ("constant",)}


def where(claim: Mapping[str, Any], made: list[Section]) -> list[Section]:
    """The sections that a claim's stamp is read from."""
    return [section for section in made if section.id in _SHOWN.get(claim["id"], claim["blocks"])]


def spent(document: Mapping[str, Any]) -> str:
    """How many models, on what, in which time."""
    run, facts = document["run"], document["facts"]
    minutes, cpu = run["seconds"] / 60, run["cpu_seconds"] / 60
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{run['models']:,} models, {minutes:.1f} minutes on the clock, {cpu:.1f} of processor time; "
        f"seed {facts['seed']}; {versions}"
    )
