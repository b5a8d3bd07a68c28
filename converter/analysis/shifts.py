"""A constant shift of a tensor: what a bias looks like further down the graph.

A tensor x + D has the shift D, a small array that broadcasts to x: size 1 on every axis along
which it does not vary. Where its value depends on the data, only the axes are known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST_ELEMENTS = 1 << 20  # a larger D is no bias any more


@dataclass(frozen=True, slots=True)
class Shift:
    """D.

    Attributes
    ----------
    rank : int
        Axes of the tensor.
    invariant : frozenset of int
        Axes along which D does not vary.
    value : ndarray, float64, with `rank` axes, size 1 on each invariant axis; None if it depends on the data
    masked : bool
        Some entries are minus infinity whatever is added to them: only a softmax may follow.
    tiled : frozenset of int
        Axes along which D repeats: of a tensor that is a whole number of times as long there as the value.
    """

    rank: int
    invariant: frozenset[int]
    value: Array | None = None
    masked: bool = False
    tiled: frozenset[int] = frozenset()

    @property
    def varying(self) -> tuple[int, ...]:
        """Axes along which D may vary."""
        return tuple(i for i in range(self.rank) if i not in self.invariant)

    def constant_on(self, axes: Iterable[int]) -> bool:
        """Whether D is the same along all of `axes`."""
        return set(axes) <= self.invariant

    def of_rank(self, rank: int) -> Shift:
        """The same beside a tensor of more axes: new axes come first, as in broadcasting."""
        more = rank - self.rank
        if more <= 0:
            return self
        kept = frozenset(range(more)) | frozenset(i + more for i in self.invariant)
        value = None if self.value is None else self.value.reshape((1,) * more + self.value.shape)
        return Shift(rank, kept, value, self.masked, frozenset(i + more for i in self.tiled))

    @property
    def by_axes(self) -> Shift:
        """Without the value."""
        return Shift(self.rank, self.invariant, None, self.masked)

    @property
    def is_zero(self) -> bool:
        """Whether there is surely no shift."""
        return self.value is not None and not self.value.any()


def known(value: Array, masked: bool = False, tiled: Iterable[int] = ()) -> Shift:
    """The shift of this value; axes along which it is the same everywhere shrink to size 1."""
    for axis in range(value.ndim):
        if value.shape[axis] > 1:
            first = value.take([0], axis)
            if (value == first).all():
                value = first
    invariant = frozenset(i for i, d in enumerate(value.shape) if d == 1)
    return Shift(value.ndim, invariant, value, masked, frozenset(tiled) - invariant)


def unknown(rank: int, invariant: Iterable[int], masked: bool = False) -> Shift:
    """A shift of which only the axes are known."""
    return Shift(rank, frozenset(invariant), None, masked)


def total(shifts: Iterable[Shift]) -> Shift:
    """Several shifts of one tensor together."""
    parts = list(shifts)
    rank = max(s.rank for s in parts)
    parts = [s.of_rank(rank) for s in parts]
    masked = any(s.masked for s in parts)
    if len(parts) == 1:
        return parts[0]
    if all(s.value is not None for s in parts):
        value = parts[0].value
        for s in parts[1:]:
            assert value is not None and s.value is not None
            value = value + s.value
        assert value is not None
        return known(value, masked)
    invariant = frozenset.intersection(*(s.invariant for s in parts))
    return unknown(rank, invariant, masked)


def same(a: Shift, b: Shift) -> bool:
    """Whether both are surely equal."""
    if a.value is None or b.value is None or a.rank != b.rank:
        return False
    return a.value.shape == b.value.shape and bool((a.value == b.value).all())
