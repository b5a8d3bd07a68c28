"""Arithmetic of the folds: float64 in, one rounding at the end. numpy alone.

Notation: y = gamma * (x - mean) / sqrt(var + eps) + beta is y = scale * x + shift per channel.
Source: Ioffe and Szegedy 2015, section 3.1 (inference form); the rest is distribution of sums.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import field
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from converter.dataclass import dataclass
from converter.records import Weight

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A small constant that a fold made, kept in float64 until it is written.

    Parameters
    ----------
    value : ndarray, float64
    dtype : numpy dtype that it is stored in
    """

    value: Array
    dtype: np.dtype[Any]
    is_computed: ClassVar[bool] = True  # not rounded yet

    @property
    def shape(self) -> tuple[int, ...]:
        """The constant's dims."""
        return tuple(self.value.shape)

    def load(self) -> NDArray[Any]:
        """The value, rounded once."""
        return round_to(self.value, self.dtype)

    def float64(self) -> Array:
        """The value before rounding."""
        return self.value

    @property
    def recipe(self) -> Hashable:
        """Equal where the constants are."""
        return self.shape, self.dtype.str, self.value.tobytes()


@dataclass(frozen=True, slots=True)
class ScaledTensor:
    """A weight times factors per channel, computed when it is written.

    Parameters
    ----------
    base : Weight, shape [...]
    factors : pairs (view, factor); the weight, reshaped to `view`, is multiplied by `factor`, which broadcasts to it
    """

    base: Weight
    factors: tuple[tuple[tuple[int, ...], Array], ...] = field(default=())

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's dims."""
        return self.base.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The weight's own type."""
        return self.base.dtype

    @property
    def recipe(self) -> Hashable:
        """Equal for the same factors on the same weight."""
        base = self.base.recipe if isinstance(self.base, NewTensor) else id(self.base)
        return base, tuple((view, factor.shape, factor.tobytes()) for view, factor in self.factors)

    def float64(self) -> Array:
        """The product in float64."""
        value = self.base.float64().astype(np.float64, copy=False)
        for view, factor in self.factors:
            value = (value.reshape(view) * factor).reshape(self.shape)
        return value

    def load(self) -> NDArray[Any]:
        """The product, rounded once; a channel block at a time, so that float64 copies stay small."""
        if getattr(self.base, "is_computed", False):
            return round_to(self.float64(), self.dtype)
        stored = self.base.load()
        rows = self.shape[0] if self.shape else 0
        per_row = stored.size // max(rows, 1)
        step = max(1, _BLOCK // max(per_row, 1))
        if rows <= step:
            return round_to(self.float64(), self.dtype)
        spread = [_lead_with_first_axis(view, factor, self.shape) for view, factor in self.factors]
        out = np.empty(self.shape, self.dtype)
        for start in range(0, rows, step):
            block = stored[start : start + step].astype(np.float64)
            for view, factor in spread:
                part = factor[start : start + step] if factor.shape[0] > 1 else factor
                block = (block.reshape(block.shape[0], *view) * part).reshape(block.shape)
            out[start : start + step] = round_to(block, self.dtype)
        return out


_BLOCK = 1 << 17  # elements of a float64 block: 1 MB, stays in cache


def _lead_with_first_axis(
    view: tuple[int, ...], factor: Array, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], Array]:
    """The factor with the weight's first axis alone in front, and the view of the rest.

    `view` splits the first axis in leading axes (groups and channels of a group), so their sizes
    multiply to it after some number of axes.
    """
    n, used = 1, 0
    while n < shape[0] or used == 0:
        n *= view[used]
        used += 1
    lead, rest = view[:used], view[used:]
    f = np.broadcast_to(factor, (*lead, *factor.shape[used:])) if any(d > 1 for d in factor.shape[:used]) else factor
    first = shape[0] if f.shape[:used] == lead else 1
    return rest, np.ascontiguousarray(f).reshape(first, *f.shape[used:])


def scale_weight(weight: Weight, view: tuple[int, ...], factor: Array) -> Weight:
    """`weight` times one more factor; factors gather on the original, which is rounded once."""
    if isinstance(weight, ScaledTensor):
        *others, (last, before) = weight.factors or [((), np.ones(()))]
        if last == view and before.shape == factor.shape and (_is_exact(before, factor) or _is_exact(factor, before)):
            return ScaledTensor(weight.base, (*others, (view, before * factor)))
        return ScaledTensor(weight.base, (*weight.factors, (view, factor)))
    return ScaledTensor(weight, ((view, factor),))


def _is_exact(powers: Array, factor: Array) -> bool:
    """Whether the product is exact: the first ones are powers of two, with a sign, and none leaves the normal range.

    So that a chain of negations is one factor, not one for each of them.
    """
    if not (np.abs(np.frexp(powers)[0]) == 0.5).all():
        return False
    with np.errstate(all="ignore"):
        size = np.abs(powers * factor)
    return bool(((size >= _FLOAT64_LEAST) & (size < np.inf) | (factor == 0)).all())


_FLOAT64_LEAST = 2.0**-1022  # that float64 holds in full precision


def round_to(value: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """`value` in `dtype`, to nearest even; overflow becomes infinite without a warning."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dtype == ml_dtypes.bfloat16:
            return _to_bfloat16(np.asarray(value, np.float64))
        return np.asarray(value).astype(dtype)


def _to_bfloat16(value: Array) -> NDArray[Any]:
    """Round float64 to bfloat16 once; through float32 alone, ties could be rounded twice."""
    single = value.astype(np.float32)
    # Make the float32 step round to odd: a later rounding to fewer bits is then right (Boldo and Melquiond 2008).
    bits = single.view(np.uint32)
    inexact = np.isfinite(value) & (single.astype(np.float64) != value)
    toward_zero = np.where(np.abs(single.astype(np.float64)) > np.abs(value), bits - 1, bits)
    odd = np.where(inexact, toward_zero | 1, bits).astype(np.uint32)
    rounded: NDArray[Any] = odd.view(np.float32).astype(ml_dtypes.bfloat16)
    return rounded


def _finfo(dtype: np.dtype[Any]) -> Any:
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]  # ml_dtypes is partly typed


def unit_roundoff(dtype: np.dtype[Any]) -> float:
    """Half the distance from 1 to the next number: 2**-24 for float32."""
    return float(_finfo(dtype).eps) / 2


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether folds are made in this type: float16, bfloat16, float32, float64."""
    return dtype in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)


def bn_affine(gamma: Array, beta: Array, mean: Array, var: Array, eps: float) -> tuple[Array, Array]:
    """Batch normalization in inference as scale and shift.

    Parameters
    ----------
    gamma, beta, mean, var : ndarray, shape [C]
    eps : float

    Returns
    -------
    scale, shift : ndarray, shape [C]
    """
    scale = gamma / np.sqrt(var + eps)
    return scale, beta - mean * scale


def first_bad(mask: NDArray[np.bool_] | np.bool_) -> int | None:
    """Index of the first True, flattened; None if there is none."""
    found = np.flatnonzero(mask)
    return int(found[0]) if found.size else None


def channel_peaks(weight: NDArray[Any], axes: Sequence[int]) -> Array:
    """Largest magnitude along `axes`; NaN where one is NaN. Two passes, no copy of the weight.

    Returns
    -------
    ndarray, shape of `weight` without `axes`
    """
    where = tuple(axes)
    if weight.size == 0:
        return np.zeros([d for i, d in enumerate(weight.shape) if i not in where])
    high = weight.max(axis=where).astype(np.float64)
    low = weight.min(axis=where).astype(np.float64)
    peaks: Array = np.maximum(high, -low)
    return peaks


def rounding_problem(weight: Weight) -> tuple[str, int] | None:
    """Why the weight should not be stored in its type, with the offending channel (first axis).

    ``not-finite``: the stored weight is not finite already. ``overflow``: not finite after rounding.
    ``rounding``: rounding moves an element by more than 2 u max|W| of its channel, which only
    gradual underflow can do.
    """
    dtype = weight.dtype
    if not isinstance(weight, ScaledTensor):
        return _rounded_problem(weight.float64().reshape(weight.shape[0] if weight.shape else 1, -1), dtype)
    stored, peaks = _scaled_peaks(weight)
    bad = first_bad(~np.isfinite(stored))
    if bad is not None:
        return "not-finite", bad
    with np.errstate(over="ignore"):
        bad = first_bad(~np.isfinite(peaks.astype(dtype).astype(np.float64)))
    if bad is not None:
        return "overflow", bad
    # Half the spacing of subnormals is the most that rounding can move a small element.
    tiny = float(_finfo(dtype).smallest_subnormal) / 2
    if not ((peaks > 0) & (peaks * 2 * unit_roundoff(dtype) < tiny)).any():
        return None
    return _rounded_problem(weight.float64().reshape(weight.shape[0] if weight.shape else 1, -1), dtype)


def _scaled_peaks(weight: ScaledTensor) -> tuple[Array, Array]:
    """Largest |W| as stored and largest |W'|, per scaled channel, from one look at the stored weight."""
    stored = weight.base.load()
    if len(weight.factors) == 1 and all(d == 1 for d in weight.factors[0][1].shape[len(weight.factors[0][0]) :]):
        view, factor = weight.factors[0]
        axes = tuple(i for i, d in enumerate(factor.shape) if d == 1)
        peaks = channel_peaks(stored.reshape(view), axes)
        kept = np.abs(factor).reshape(peaks.shape)
        return peaks.reshape(-1), np.asarray(peaks * kept, np.float64).reshape(-1)
    rows = weight.shape[0] if weight.shape else 1
    base = channel_peaks(stored.reshape(rows, -1), (1,)) if stored.size else np.zeros(rows)
    with np.errstate(all="ignore"):
        full = np.abs(weight.float64()).reshape(rows, -1)
    return base, full.max(axis=1) if full.size else np.zeros(rows)


def _rounded_problem(value: Array, dtype: np.dtype[Any]) -> tuple[str, int] | None:
    stored = round_to(value, dtype).astype(np.float64)
    bad = first_bad(~np.isfinite(stored).all(axis=1))
    if bad is not None:
        return "overflow", bad
    if not value.size:
        return None
    limit = 2 * unit_roundoff(dtype) * np.abs(value).max(axis=1, keepdims=True)
    bad = first_bad((np.abs(stored - value) > limit).any(axis=1))
    return None if bad is None else ("rounding", bad)


def find_underflow(value: Array, dtype: np.dtype[Any]) -> Array:
    """How far rounding to `dtype` moves each element that loses relative precision by it; 0 for the others."""
    moved = np.abs(round_to(value, dtype).astype(np.float64) - value)
    return np.where(moved > 2 * unit_roundoff(dtype) * np.abs(value), moved, 0.0)


def is_hidden(lost: Array, shift: Array, value: Array, dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """Where what underflow takes from a channel does not show beside the channel's own shift, or its neighbours.

    Adding the shift rounds by half a unit, u |shift|; what is lost must be below that for inputs as large as 1 / u.
    In types with the exponents of float32, where all that underflows is below 1e-37, it may also be so beside the
    largest number of the whole constant: a channel that training has switched off. In float16 an input may lift it.

    Parameters
    ----------
    lost : ndarray, shape [C]
        Sum of what underflow moved, over the elements of each channel.
    shift : ndarray, broadcasts to [C]
    value : ndarray
        The constant before rounding.
    dtype : numpy dtype that it is stored in
    """
    beside = np.abs(shift)
    if float(_finfo(dtype).smallest_normal) <= _LEAST_FLOAT32:
        beside = np.maximum(beside, np.abs(value).max(initial=0.0))
    return np.asarray(lost <= unit_roundoff(dtype) ** 2 * beside)


_LEAST_FLOAT32 = 2.0**-126  # the smallest number that float32 holds in full precision


def conv_input_sum(weight: Array, groups: int, shift: Array) -> Array:
    """What a shift of the input channels adds to each output channel of an unpadded convolution.

    Parameters
    ----------
    weight : ndarray, shape [O, I/groups, *kernel]
    shift : ndarray, shape [I]

    Returns
    -------
    ndarray, shape [O]
    """
    o, per_group = weight.shape[:2]
    taps = weight.reshape(groups, o // groups, per_group, -1).sum(axis=3)
    return np.asarray(np.einsum("goi,gi->go", taps, shift.reshape(groups, per_group)).reshape(o))


def conv_transpose_input_sum(weight: Array, groups: int, shift: Array) -> Array:
    """The same for a transposed convolution of kernel 1.

    Parameters
    ----------
    weight : ndarray, shape [I, O/groups, 1, ...]
    shift : ndarray, shape [I]

    Returns
    -------
    ndarray, shape [O]
    """
    i, per_group = weight.shape[:2]
    taps = weight.reshape(groups, i // groups, per_group, -1).sum(axis=3)
    return np.asarray(np.einsum("gio,gi->go", taps, shift.reshape(groups, i // groups)).reshape(-1))
