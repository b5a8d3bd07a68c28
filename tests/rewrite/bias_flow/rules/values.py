"""Shapes and values that the cases of operators share."""

from __future__ import annotations

import numpy as np

X4 = {"x": (2, 3, 4, 5)}
X3 = {"x": (2, 3, 4)}
X2 = {"x": (3, 4)}
ALL4 = "- 0 1 2 3 01 02 03 12 13 23 012 013 023 123 0123"
ALL3 = "- 0 1 2 01 02 12 012"
ALL2 = "- 0 1 01"

_RNG = np.random.default_rng(5)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def some(*shape: int) -> np.ndarray:
    return _RNG.normal(0.2, 1, shape)
