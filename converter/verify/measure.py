"""How far two outputs are apart, in numbers that add up over inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Gap:
    """Distance of ``got`` from ``ref``: sums over the elements that are finite in both."""

    square: float = 0.0  # sum of |got - ref|^2
    scale: float = 0.0  # sum of |ref|^2
    max_abs: float = 0.0
    count: int = 0  # finite numbers compared
    discrete: int = 0  # integers, truth values and texts compared
    mismatches: int = 0  # of those, how many differ
    nonfinite: int = 0  # NaN or Inf at the same place in both
    problem: str = ""  # why the two cannot be equal at all

    def __add__(self, other: Gap) -> Gap:
        return Gap(
            self.square + other.square,
            self.scale + other.scale,
            max(self.max_abs, other.max_abs),
            self.count + other.count,
            self.discrete + other.discrete,
            self.mismatches + other.mismatches,
            self.nonfinite + other.nonfinite,
            self.problem or other.problem,
        )

    @property
    def relative(self) -> float:
        """||got - ref|| / ||ref||; 0 where both vanish."""
        if self.square == 0:
            return 0.0
        return math.sqrt(self.square / self.scale) if self.scale else math.inf

    @property
    def rms(self) -> float:
        """Root mean square of got - ref."""
        return math.sqrt(self.square / self.count) if self.count else 0.0

    @property
    def size(self) -> float:
        """Root mean square of ref."""
        return math.sqrt(self.scale / self.count) if self.count else 0.0

    @property
    def compared(self) -> int:
        """How many elements were compared."""
        return self.count + self.discrete


def gap(ref: Any, got: Any) -> Gap:
    """Compare one output, which may be a tensor, a sequence, a map or nothing."""
    left, right = leaves(ref), leaves(got)
    if len(left) != len(right):
        return Gap(problem=f"{len(left)} parts became {len(right)}")
    return total(_tensor_gap(a, b) for a, b in zip(left, right, strict=True))


def apart(ref: Any, got: Any) -> float:
    """The relative distance of two outputs, infinite where they cannot be equal at all."""
    between = gap(ref, got)
    return math.inf if between.problem else between.relative


def total(gaps: Iterable[Gap]) -> Gap:
    """The sum of gaps."""
    return sum(gaps, Gap())


def leaves(value: Any) -> list[Array]:
    """The arrays inside a value, in a fixed order."""
    if value is None:
        return []
    if isinstance(value, dict):
        keys = sorted(value, key=str)
        return [np.asarray(keys), *(leaf for k in keys for leaf in leaves(value[k]))]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [np.asarray(value)]


def is_number(array: Array) -> bool:
    """Whether rounding may change the array: floats of every width."""
    return array.dtype.kind in "fc" or array.dtype.kind == "V"  # ml_dtypes call themselves void


def _tensor_gap(ref: Array, got: Array) -> Gap:
    if ref.shape != got.shape:
        return Gap(problem=f"shape {list(ref.shape)} became {list(got.shape)}")
    if is_number(ref) != is_number(got):
        return Gap(problem=f"{ref.dtype} became {got.dtype}")
    if not is_number(ref):
        return Gap(discrete=ref.size, mismatches=int(np.count_nonzero(ref != got)))
    with np.errstate(all="ignore"):
        return _float_gap(_wide(ref), _wide(got))


def _wide(x: Array) -> Array:
    return x if x.dtype.kind == "c" else np.asarray(x, dtype=np.float64)


def _float_gap(ref: Array, got: Array) -> Gap:
    both = np.isfinite(ref) & np.isfinite(got)
    if both.all():
        inner_ref, inner_got, nonfinite = ref, got, 0
    else:
        same = both | (np.isnan(ref) & np.isnan(got)) | (ref == got)
        if not same.all():
            return Gap(problem=f"{int(np.count_nonzero(~same))} elements are not finite in one model only")
        inner_ref, inner_got, nonfinite = ref[both], got[both], int(np.count_nonzero(~both))
    delta = np.abs(inner_got - inner_ref)
    return Gap(
        square=float(np.sum(delta * delta)),
        scale=float(np.sum(np.abs(inner_ref) ** 2)),
        max_abs=float(delta.max(initial=0.0)),
        count=int(delta.size),
        nonfinite=nonfinite,
    )
