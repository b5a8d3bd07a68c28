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
    "random_tensor",
]
