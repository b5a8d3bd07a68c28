"""Seeded random inputs, as the benchmark uses them too."""

from __future__ import annotations

from converter.protos.feeds import (
    BATCHES,
    Guess,
    Hints,
    check_given,
    check_shapes,
    feed,
    guesses,
    has_open_batch,
    hints,
    random_tensor,
)
from converter.protos.other_sizes import larger

__all__ = [
    "BATCHES",
    "Guess",
    "Hints",
    "check_given",
    "check_shapes",
    "feed",
    "guesses",
    "has_open_batch",
    "hints",
    "larger",
    "random_tensor",
]
