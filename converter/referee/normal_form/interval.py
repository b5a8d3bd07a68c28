"""Numbers with their errors: float64 values, and how far rounding may have moved each."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from converter.dataclass import dataclass

Array = np.ndarray[Any, Any]

_U = 2.0**-53  # unit roundoff of float64
# Bits of the exponent and the significand's unit roundoff of the stored types.
_EXPONENT = {
    np.dtype(np.float16): (np.uint16, 0x7C00, 2.0**-11),
    np.dtype(ml_dtypes.bfloat16): (np.uint16, 0x7F80, 2.0**-8),
    np.dtype(np.float32): (np.uint32, 0x7F800000, 2.0**-24),
    np.dtype(np.float64): (np.uint64, 0x7FF0000000000000, 2.0**-53),
}


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """``value`` and ``radius`` float64 [same shape]: the true number is within the radius.

    Every operation adds its own rounding error (Higham, Accuracy and Stability, section 2.2: at most u times
    the result; twice that is added, so that the sum of the errors is covered too).
    """

    value: Array
    radius: Array

    def __add__(self, other: Interval) -> Interval:
        with np.errstate(all="ignore"):
            value = self.value + other.value
            return Interval(value, self.radius + other.radius + 2 * _U * np.abs(value))

    def __neg__(self) -> Interval:
        return Interval(-self.value, self.radius)

    def __sub__(self, other: Interval) -> Interval:
        return self + -other

    def __mul__(self, other: Interval) -> Interval:
        with np.errstate(all="ignore"):
            value = self.value * other.value
            radius = np.abs(self.value) * other.radius + np.abs(other.value) * self.radius
            return Interval(value, radius + self.radius * other.radius + 2 * _U * np.abs(value))

    def __truediv__(self, other: Interval) -> Interval:
        with np.errstate(all="ignore"):
            value = self.value / other.value
            slack = np.maximum(np.abs(other.value) - other.radius, 0)
            return Interval(value, (self.radius + np.abs(value) * other.radius) / slack + 2 * _U * np.abs(value))

    def root(self) -> Interval:
        """The square root."""
        with np.errstate(all="ignore"):
            value = np.sqrt(self.value)
            spread = np.where(self.radius > 0, np.sqrt(self.value + self.radius) - value, 0.0)
            return Interval(value, spread + 2 * _U * value)

    def reshape(self, *shape: int) -> Interval:
        """The same numbers in another shape."""
        return Interval(self.value.reshape(shape), self.radius.reshape(shape))

    def map(self, how: Any) -> Interval:
        """``how`` applied to values and radii alike: something that only moves elements."""
        return Interval(how(self.value), how(self.radius))

    @property
    def is_zero(self) -> bool:
        """Whether it is zero everywhere, without any doubt."""
        return not self.value.any() and not self.radius.any()

    @property
    def is_one(self) -> bool:
        """Whether it is one everywhere, without any doubt."""
        return bool((self.value == 1).all()) and not self.radius.any()


def make_exact(value: Any) -> Interval:
    """An interval of radius zero."""
    array = np.asarray(value, dtype=np.float64)
    return Interval(array, np.zeros_like(array))


def make_stored(array: Array, *, rounded: bool) -> Interval:
    """A stored tensor; ``rounded``: it stands for a number that was rounded to its type once."""
    value = array.astype(np.float64)
    return Interval(value, compute_half_ulp(array) if rounded else np.zeros_like(value))


def compute_half_ulp(array: Array) -> Array:
    """Half the distance to the next number of the array's own type (that away from zero): float64, same shape."""
    kind, mask, unit = _EXPONENT[array.dtype]
    bits = np.ascontiguousarray(array).reshape(array.shape).view(kind) & kind(mask)
    power = bits.view(array.dtype).astype(np.float64)  # 2^exponent; 0 for subnormal numbers, inf for inf and nan
    tiny = (_find_smallest(array.dtype)) / 2
    result: Array = np.maximum(power * unit, tiny)
    return result


def _find_smallest(dtype: np.dtype[Any]) -> float:
    """The smallest subnormal number: one in the last place."""
    return float(np.ones((), _EXPONENT[dtype][0]).view(dtype))


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether the type is one of those that are rounded to."""
    return dtype in _EXPONENT
