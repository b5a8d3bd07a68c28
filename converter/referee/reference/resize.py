"""Resize and Upsample in float64: one small interpolation matrix per resized axis.

onnx.reference calls a Python function per output element; all modes of the operator are separable, so a
matrix [out, in] per axis gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from converter.dataclass import dataclass

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """The attributes of Resize that say where an output element looks, and how it weighs what it finds."""

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    extrapolation: float = 0.0
    antialias: bool = False


def resize(x: Array, scales: Sequence[float], sizes: Sequence[int], rule: Rule, roi: Sequence[float] | None) -> Array:
    """Resize ``x`` to ``sizes``; ``scales`` [rank] map coordinates, ``roi`` [2 * rank] crops."""
    rank = x.ndim
    outside = np.zeros(tuple(sizes), dtype=bool)
    result = x
    for axis, (scale, out) in enumerate(zip(scales, sizes, strict=True)):
        crop = (roi[axis], roi[axis + rank]) if roi is not None and len(roi) == 2 * rank else (0.0, 1.0)
        if scale == 1 and out == x.shape[axis] and (rule.coordinates != "tf_crop_and_resize" or crop == (0.0, 1.0)):
            continue
        where = _coordinates(x.shape[axis], out, scale, rule.coordinates, crop)
        result = _apply(result, _matrix(x.shape[axis], where, scale, rule), axis, rule)
        if rule.coordinates == "tf_crop_and_resize":
            beyond = (where < 0) | (where > x.shape[axis] - 1)
            outside |= beyond.reshape([-1 if a == axis else 1 for a in range(rank)])
    return np.where(outside, rule.extrapolation, result) if outside.any() else result


def _apply(x: Array, matrix: Array, axis: int, rule: Rule) -> Array:
    if rule.mode == "nearest":
        return np.take(x, matrix, axis=axis)
    return np.ascontiguousarray(np.moveaxis(np.tensordot(matrix, x, axes=(1, axis)), 0, axis))


def _coordinates(size: int, out: int, scale: float, mode: str, crop: tuple[float, float]) -> Array:
    """The position in the input of each output element: float64 [out]."""
    at = np.arange(out, dtype=np.float64)
    match mode:
        case "asymmetric":
            return at / scale
        case "align_corners":
            return at * (size - 1) / (out - 1) if out > 1 else np.zeros(out)
        case "pytorch_half_pixel":
            return (at + 0.5) / scale - 0.5 if out > 1 else np.zeros(out)
        case "tf_half_pixel_for_nn":
            return (at + 0.5) / scale
        case "tf_crop_and_resize":
            start, end = crop
            if out > 1:
                return start * (size - 1) + at * (end - start) * (size - 1) / (out - 1)
            return np.full(out, 0.5 * (start + end) * (size - 1))
        case "half_pixel_symmetric":
            offset = size / 2 * (1 - out / (scale * size))
            return offset + (at + 0.5) / scale - 0.5
    return (at + 0.5) / scale - 0.5


def _matrix(size: int, where: Array, scale: float, rule: Rule) -> Array:
    """The weights float64 [out, in] (for nearest: the index of each output element, int64 [out])."""
    if rule.mode == "nearest":
        return np.clip(_nearest(where, rule.nearest), 0, size - 1)
    # Down-sampling with antialias stretches the kernel by the factor.
    stretch = min(scale, 1.0) if rule.antialias else 1.0
    kernel, reach = _kernel(rule)
    half = math.ceil(reach / stretch)
    first = np.floor(where).astype(np.int64) - half + 1
    taps = first[:, None] + np.arange(2 * half)  # [out, taps]
    weights = kernel((where[:, None] - taps) * stretch)
    if rule.exclude_outside:
        weights = np.where((taps >= 0) & (taps < size), weights, 0.0)
    if rule.exclude_outside or rule.antialias:
        weights = weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((len(where), size))
    np.add.at(matrix, (np.arange(len(where))[:, None], np.clip(taps, 0, size - 1)), weights)
    return matrix


def _nearest(where: Array, mode: str) -> Array:
    match mode:
        case "round_prefer_ceil":
            return np.floor(where + 0.5).astype(np.int64)
        case "floor":
            return np.floor(where).astype(np.int64)
        case "ceil":
            return np.ceil(where).astype(np.int64)
    return np.ceil(where - 0.5).astype(np.int64)  # round_prefer_floor


def _kernel(rule: Rule) -> tuple[Callable[[Array], Array], int]:
    """The interpolation kernel as a function of distance, and its reach."""
    if rule.mode == "linear":
        return lambda d: np.maximum(0.0, 1.0 - np.abs(d)), 1
    a = rule.cubic_a

    def cubic(d: Array) -> Array:
        t = np.abs(d)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((t - 5) * t + 8) * t * a - 4 * a
        return np.where(t <= 1, near, np.where(t < 2, far, 0.0))

    return cubic, 2


def target(
    shape: Sequence[int],
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    axes: Sequence[int] | None,
    policy: str = "stretch",
) -> tuple[list[float], list[int]]:
    """Scale and output size of every axis, from whichever of ``scales`` and ``sizes`` is given."""
    rank = len(shape)
    which = [a % rank for a in axes] if axes else list(range(rank))
    full_scales, full_sizes = [1.0] * rank, list(shape)
    if sizes is None:
        for axis, scale in zip(which, scales or (), strict=True):
            full_scales[axis], full_sizes[axis] = float(scale), math.floor(shape[axis] * float(scale))
        return full_scales, full_sizes
    ratios = [size / shape[axis] for axis, size in zip(which, sizes, strict=True)]
    if policy in ("not_larger", "not_smaller"):
        common = min(ratios) if policy == "not_larger" else max(ratios)
        for axis in which:
            full_scales[axis], full_sizes[axis] = common, math.floor(common * shape[axis] + 0.5)
        return full_scales, full_sizes
    for axis, ratio, size in zip(which, ratios, sizes, strict=True):
        full_scales[axis], full_sizes[axis] = ratio, int(size)
    return full_scales, full_sizes
