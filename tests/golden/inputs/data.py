"""Inputs for `ablate` and for `fold --allow remove-biases`: the same everywhere, for they are whole sixteenths."""

import numpy as np


def images() -> list[dict[str, np.ndarray]]:
    drawn = np.random.Generator(np.random.PCG64(7)).integers(0, 17, (64, 1, 8, 8))
    return [{"image": drawn.astype(np.float32) / 16}]
