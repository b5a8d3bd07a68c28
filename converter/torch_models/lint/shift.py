"""What a change of one bias does to a tensor, seen only as *where that change may vary*.

A bias ``b`` becomes ``b + d`` for an arbitrary ``d``. At a tensor the change ``D`` is nothing (``None``), a
`Shift`, the same all along every axis that it does not name, or `Live`: it depends on data, or went where
nobody follows. A norm over axes on which a shift does not vary takes it away exactly, whatever its values.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

_origins = itertools.count()


@dataclass(frozen=True, slots=True)
class Support:
    """The one axis of which only a range is not zero: the keys' part of a packed bias, say."""

    axis: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Shift:
    """A change that is the same along every axis but those in ``axes``.

    ``axes`` gives each axis on which it may vary a label. Two shifts of one ``origin`` with the same labels at
    the same axes are equal in every element: that is how ``x - x.mean(...)`` is seen to be without it.
    """

    axes: tuple[tuple[int, int], ...]
    origin: int
    support: Support | None = None
    masked: bool = False  # elsewhere than at entries which are minus infinity for a softmax to come

    @property
    def varies(self) -> frozenset[int]:
        """The axes on which it may vary."""
        return frozenset(axis for axis, _ in self.axes)

    def touches(self, axes: Iterable[int]) -> bool:
        """Whether it may vary on one of `axes`."""
        return not self.varies.isdisjoint(axes)

    def moved(self, where: Callable[[int], int | None]) -> Shift:
        """The same values, each axis at its new place; an axis at None is gone, and did not vary."""
        axes = tuple(sorted((place, label) for axis, label in self.axes if (place := where(axis)) is not None))
        support = self.support
        if support is not None:
            place = where(support.axis)
            support = None if place is None else replace(support, axis=place)
        return replace(self, axes=axes, support=support)

    def changed(self, varies: Iterable[int]) -> Shift:
        """Other values, which may vary on these axes; zeros are no longer known."""
        return replace(shift(varies), masked=self.masked)

    def equals(self, other: Shift) -> bool:
        """Whether every element is the same, with axes aligned already."""
        return (self.origin, self.axes, self.masked) == (other.origin, other.axes, other.masked)


@dataclass(frozen=True, slots=True)
class Live:
    """A change that nothing is known to take away: the operator that made it so, and why."""

    op: str
    why: str = ""


Change = Shift | Live | None


def shift(varies: Iterable[int], support: Support | None = None) -> Shift:
    """A shift of a new origin."""
    return Shift(tuple((axis, axis) for axis in sorted(set(varies))), next(_origins), support)


def joined(*changes: Change) -> Change:
    """The sum of changes whose axes are aligned."""
    present = [change for change in changes if change is not None]
    for change in present:
        if isinstance(change, Live):
            return change
    shifts = [change for change in present if isinstance(change, Shift)]
    if len(shifts) <= 1:
        return shifts[0] if shifts else None
    if any(s.masked for s in shifts):
        return Live("add", "two changes meet behind a mask")
    return shift(frozenset[int]().union(*(s.varies for s in shifts)))
