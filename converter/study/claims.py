"""The claims of the question's answers, each with a stamp that is derived from the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from converter.study import stamps
from converter.study.stamps import CONDITION, CONFIRMED, FALSE, MISSING, OPEN, UNSUPPORTED, Results, Stamp

__all__ = ["CONDITION", "CONFIRMED", "FALSE", "OPEN", "UNSUPPORTED", "Claim", "claims"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What was claimed, what became of it, why, and which blocks say so."""

    id: str
    said: str
    stamp: str
    because: str
    blocks: tuple[str, ...]


def claims(found: Results, margin: float) -> list[Claim]:
    """A stamp on every claim."""
    made = []
    for key, said, blocks, judge in _CLAIMS:
        stamp, because = judge(found, margin) if all(b in found for b in blocks[:1]) else MISSING
        made.append(Claim(key, said, stamp, because, blocks))
    return made


_CLAIMS: tuple[tuple[str, str, tuple[str, ...], Callable[[Results, float], Stamp]], ...] = (
    ("1", "The update of a bias is its delta times the learning rate.", ("exact", "drift"), stamps.update),
    (
        "2",
        "In a large model removing the bias makes little difference: each node can make one from its inputs' average.",
        ("widths", "contrast", "ablation"),
        stamps.large,
    ),
    ("3", "In the first layer it depends on the distribution of the input.", ("exact", "widths"), stamps.first),
    ("4", "On a small network you need the bias.", ("widths", "contrast"), stamps.small),
    ("5", "In an LSTM the forget gate needs a bias, of 1.", ("recall",), stamps.forget),
    ("6", "With batch norm after the convolution a bias gains nothing.", ("exact", "identity", "norms"), stamps.batch),
    ("7a", "Without biases you learn a different function.", ("ablation",), stamps.other),
    ("7b", "Nearly the same comes out with 2 to 4 times the parameters.", ("widths", "contrast"), stamps.more),
    ("7c", "Channels matter for that, not depth.", ("depth", "ablation", "exact"), stamps.channels),
    ("8", "2 to 4 times more parameters than needed rarely hurt, if you regularise.", ("capacity",), stamps.capacity),
    ("9", "A bias is a neuron whose activation is always 1.", ("exact",), stamps.constant),
)
