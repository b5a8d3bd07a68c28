"""A factor and a shift of a tensor, as arrays that broadcast to it, and what moving its elements makes of them.

An array has either all the axes of its tensor, those along which it does not vary at size 1, or none: then it is
one number, and the rank of its tensor does not matter. The functions on arrays return None where sizes that would
have to be known are not, or where the move tears apart what varies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from converter.dataclass import dataclass
from converter.rewrite.analysis.channel_axis import Dims, have_same_product

Array = NDArray[np.float64]
_LARGEST = 1 << 20  # elements that an array may be spread over


@dataclass(frozen=True, slots=True)
class AffineMap:
    """scale * x + shift."""

    scale: Array
    shift: Array

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return not self.shift.any() and bool((self.scale == 1).all())

    @property
    def is_uniform(self) -> bool:
        """Whether it is the same for every element."""
        return self.scale.ndim == 0 and self.shift.ndim == 0

    @property
    def has_shift(self) -> bool:
        """Whether it adds something."""
        return bool(self.shift.any())

    @property
    def is_positive(self) -> bool:
        """Whether every factor is above zero."""
        return bool((self.scale > 0).all())

    @property
    def without_shift(self) -> AffineMap:
        """The factor alone."""
        return AffineMap(self.scale, np.zeros(()))

    @property
    def sizes(self) -> dict[int, int]:
        """Axes along which it varies, counted from the end (-1 is the last), and their sizes."""
        found: dict[int, int] = {}
        for a in (self.scale, self.shift):
            found |= {k - a.ndim: d for k, d in enumerate(a.shape) if d != 1}
        return found

    def each(self, move: Callable[[Array, float], Array | None]) -> AffineMap | None:
        """Both arrays moved by move(array, neutral number); None if one cannot be."""
        scale, shift = move(self.scale, 1.0), move(self.shift, 0.0)
        return None if scale is None or shift is None else AffineMap(trim(scale), trim(shift))


def trim(a: Array) -> Array:
    """The array without the axes along which it does not vary: at size 1, or none at all."""
    for axis in range(a.ndim):
        if a.shape[axis] > 1 and (a == a.take([0], axis)).all():
            a = a.take([0], axis)
    return a.reshape(()) if a.size == 1 else a


def transpose(a: Array, perm: Sequence[int]) -> Array:
    """As the tensor is transposed."""
    return a if a.ndim == 0 else np.transpose(a, perm)


def untranspose(a: Array, perm: Sequence[int]) -> Array:
    """As the tensor was before it was transposed."""
    return transpose(a, [int(k) for k in np.argsort(perm)])


def drop_axes(a: Array, axes: Sequence[int]) -> Array | None:
    """Without axes of size 1."""
    if a.ndim == 0:
        return a
    if any(a.shape[k] != 1 for k in axes):
        return None
    return a.reshape([d for k, d in enumerate(a.shape) if k not in axes])


def insert_axes(a: Array, axes: Sequence[int]) -> Array:
    """With axes of size 1 where the result has them."""
    if a.ndim == 0:
        return a
    rest = iter(a.shape)
    return a.reshape([1 if k in axes else next(rest) for k in range(a.ndim + len(axes))])


def reshape(a: Array, before: Dims | None, after: Dims | None) -> Array | None:
    """As a reshape of the tensor from `before` to `after` leaves it.

    The axes along which it varies, with as many around them as it takes until both sides hold the same elements
    behind and before, are written out in full.
    """
    if a.ndim == 0:
        return a
    if before is None or after is None or len(before) != a.ndim:
        return None
    varying = [k for k, d in enumerate(a.shape) if d != 1]
    starts = ((i, j) for i in range(varying[0], -1, -1) if (j := _find_cut(before, after, i)) is not None)
    stops = ((i, j) for i in range(varying[-1] + 1, a.ndim + 1) if (j := _find_cut(before, after, i)) is not None)
    start, stop = next(starts, None), next(stops, None)
    if start is None or stop is None or start[1] > stop[1]:
        return None
    block, target = before[start[0] : stop[0]], after[start[1] : stop[1]]
    sizes, wanted = ([d for d in dims if isinstance(d, int)] for dims in (block, target))
    if len(sizes) < len(block) or len(wanted) < len(target) or math.prod(sizes) > _LARGEST:
        return None
    inner = a.shape[start[0] : stop[0]]
    if math.prod(sizes) != math.prod(wanted) or any(d not in (1, s) for d, s in zip(inner, sizes, strict=True)):
        return None
    full = np.broadcast_to(a.reshape(inner), sizes).reshape(wanted)
    return trim(full.reshape([*[1] * start[1], *wanted, *[1] * (len(after) - stop[1])]))


def _find_cut(before: Dims, after: Dims, i: int) -> int | None:
    """Where in `after` as many elements lie before, or behind, as before or behind axis i of `before`."""
    for j in range(len(after), -1, -1):
        if have_same_product(before[i:], after[j:]) or have_same_product(before[:i], after[:j]):
            return j
    return None


def pick(a: Array, axis: int, indices: Sequence[int]) -> Array:
    """Of some places along an axis."""
    return a if a.ndim == 0 or a.shape[axis] == 1 else a.take(indices, axis)


def put(a: Array, rank: int, axis: int, size: int, indices: Sequence[int], neutral: float) -> Array | None:
    """Of a whole of which `a` is some places along an axis; the others are left alone."""
    if size > _LARGEST:
        return None
    part = a.reshape((1,) * rank) if a.ndim == 0 else a
    part = np.broadcast_to(part, [len(indices) if k == axis else d for k, d in enumerate(part.shape)])
    whole = np.full([size if k == axis else d for k, d in enumerate(part.shape)], neutral)
    np.moveaxis(whole, axis, 0)[list(indices)] = np.moveaxis(part, axis, 0)
    same = (whole.take(list(indices), axis) == part).all()  # a place that is picked twice, in two ways
    return whole if same else None
