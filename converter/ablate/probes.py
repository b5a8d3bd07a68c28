"""What happens off the data: a model without biases may agree on the data and differ beside it.

A net of layers without biases, ReLU and pooling is positively homogeneous: f(a x) = a f(x) for a > 0. It cannot tell
a bright image from a dark one, whatever its width. Where a level means something, biases carry it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.ablate.measure import Shift
from converter.ablate.samples import Part

KINDS = ("contrast", "offset", "noise")
_FACTORS = (2.0, 0.7, 0.5, 0.25)
_OFFSETS = (0.5, -0.5)  # in deviations of the inputs
_NOISE = (0.5,)


@dataclass(frozen=True, slots=True)
class Probe:
    """One way to move the inputs away from the data."""

    kind: str
    amount: float
    said: str
    shift: Shift


def deviation(part: Part) -> float:
    """Standard deviation of all floating-point inputs together."""
    count, total, squares = 0, 0.0, 0.0
    for batch in part.batches():
        for value in batch.feeds.values():
            if _is_float(value):
                wide = value.astype(np.float64)
                count, total, squares = count + wide.size, total + wide.sum(), squares + (wide**2).sum()
    return float(np.sqrt(max(squares / count - (total / count) ** 2, 0.0))) if count else 0.0


def probes(kinds: tuple[str, ...], scale: float, seed: int) -> Iterator[Probe]:
    """The probes of these kinds; ``scale`` is the deviation of the inputs."""
    if "contrast" in kinds:
        for factor in _FACTORS:
            yield Probe("contrast", factor, f"contrast \u00d7{factor:g}", _each(lambda v, _, f=factor: v * f))
    if "offset" in kinds:
        for offset in _OFFSETS:
            said = f"offset {offset:+g} sd".replace("-", "\u2212")
            yield Probe("offset", offset, said, _each(lambda v, _, o=offset: v + o * scale))
    if "noise" in kinds:
        for size in _NOISE:
            yield Probe("noise", size, f"noise {size:g} sd", _each(_noisy(size * scale, seed)))


def _noisy(size: float, seed: int) -> Any:
    return lambda v, first: v + size * np.random.default_rng([seed, 0x4015E, first]).standard_normal(v.shape)


def _each(change: Any) -> Shift:
    def shift(feeds: dict[str, Any], first: int) -> dict[str, Any]:
        return {
            n: np.asarray(change(v.astype(np.float64), first)).astype(v.dtype) if _is_float(v) else v
            for n, v in feeds.items()
        }

    return shift


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fV"
