"""The usual measures of a difference, always reported, and gates only where a tolerance was given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from converter.dataclass import dataclass
from converter.errors import DataError
from converter.records import OutputCheck, Verdict
from converter.referee.inputs.stream import list_arrays

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """Distance of ``got`` from ``ref``: sums over the elements that are finite in both."""

    square: float = 0.0  # sum of |got - ref|^2
    scale: float = 0.0  # sum of |ref|^2
    max_abs: float = 0.0
    count: int = 0  # finite numbers compared
    discrete: int = 0  # integers, truth values and texts compared
    mismatches: int = 0  # of those, how many differ
    nonfinite: int = 0  # NaN or Inf at the same place in both
    problem: str = ""  # why the two cannot be equal at all

    def __add__(self, other: Difference) -> Difference:
        return Difference(
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


def measure_difference(ref: Any, got: Any) -> Difference:
    """Compare one output, which may be a tensor, a sequence, a map or nothing."""
    left, right = list_arrays(ref), list_arrays(got)
    if len(left) != len(right):
        return Difference(problem=f"{len(left)} parts became {len(right)}")
    return sum_differences(_measure_tensors(a, b) for a, b in zip(left, right, strict=True))


def measure_distance(ref: Any, got: Any) -> float:
    """The relative distance of two outputs, infinite where they cannot be equal at all."""
    between = measure_difference(ref, got)
    return math.inf if between.problem else between.relative


def sum_differences(gaps: Iterable[Difference]) -> Difference:
    """The sum of gaps."""
    return sum(gaps, Difference())


def is_number(array: Array) -> bool:
    """Whether rounding may change the array: floats of every width."""
    return array.dtype.kind in "fc" or array.dtype.kind == "V"  # ml_dtypes call themselves void


def _measure_tensors(ref: Array, got: Array) -> Difference:
    if ref.shape != got.shape:
        return Difference(problem=f"shape {list(ref.shape)} became {list(got.shape)}")
    if is_number(ref) != is_number(got):
        return Difference(problem=f"{ref.dtype} became {got.dtype}")
    if not is_number(ref):
        return Difference(discrete=ref.size, mismatches=int(np.count_nonzero(ref != got)))
    with np.errstate(all="ignore"):
        return _measure_floats(_widen(ref), _widen(got))


def _widen(x: Array) -> Array:
    return x if x.dtype.kind == "c" else np.asarray(x, dtype=np.float64)


def _measure_floats(ref: Array, got: Array) -> Difference:
    both = np.isfinite(ref) & np.isfinite(got)
    if both.all():
        inner_ref, inner_got, nonfinite = ref, got, 0
    else:
        same = both | (np.isnan(ref) & np.isnan(got)) | (ref == got)
        if not same.all():
            return Difference(problem=f"{int(np.count_nonzero(~same))} elements are not finite in one model only")
        inner_ref, inner_got, nonfinite = ref[both], got[both], int(np.count_nonzero(~both))
    delta = np.abs(inner_got - inner_ref)
    return Difference(
        square=float(np.sum(delta * delta)),
        scale=float(np.sum(np.abs(inner_ref) ** 2)),
        max_abs=float(delta.max(initial=0.0)),
        count=int(delta.size),
        nonfinite=nonfinite,
    )


_LARGE = 0.1  # of the largest |ref|: relative errors near zero crossings say nothing
_MOST = 1 << 22  # elements whose differences are kept for a percentile; of more, every n-th
_LOW, _HIGH, _STEP = -16.0, 4.0, 0.5  # of the histogram, in powers of ten
_SIZE_LOW, _SIZE_HIGH = -10.0, 6.0  # of the sizes beside it, in the same steps
_CELLS = 1 << 20  # elements that are sorted by size and difference; of more, every n-th

# Whether more is better.
METRICS = {
    "max_abs": False,
    "mean_abs": False,
    "p99_abs": False,
    "max_rel": False,
    "max_ulp": False,
    "cosine": True,
    "snr_db": True,
}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A gate on one measure of one output; an empty name is every output."""

    output: str
    metric: str
    value: float


def check_tolerances(tolerances: Sequence[Tolerance], names: Sequence[str]) -> None:
    """Raise DataError if a tolerance is of an output or a measure that there is not."""
    for each in tolerances:
        if each.metric not in METRICS:
            raise DataError(f"{each.metric!r} is no measure; there are {', '.join(METRICS)}")
        if each.output and each.output not in names:
            raise DataError(f"{each.output!r} is not an output of the model; its outputs are {', '.join(names)}")


def compute_metrics(pairs: Sequence[tuple[Any, Any]]) -> tuple[dict[str, float], dict[str, Any]]:
    """Measures of (reference, got) over all runs of one output, and the histogram of log10 |difference|.

    Elements that are not finite in either are left out; both are empty where nothing finite is a number.
    """
    parts = [
        _keep_finite(x, y)
        for a, b in pairs
        for x, y in zip(list_arrays(a), list_arrays(b), strict=True)
        if is_number(x)
    ]
    parts = [(x, y) for x, y in parts if x.size]
    if not parts:
        return {}, {}
    with np.errstate(all="ignore"):
        measures, histogram = _compute_metrics(parts)
    return measures | _count_first(pairs), histogram


def _count_first(pairs: Sequence[tuple[Any, Any]]) -> dict[str, float]:
    """Of floats [N, C], as classifiers give them: in how many rows the largest of C >= 2 is the same one."""
    tables = [(x, y) for x, y in pairs if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and is_number(x)]
    tables = [(x, y) for x, y in tables if x.ndim == 2 == y.ndim and x.dtype.kind == "f" and x.shape[1] > 1]
    same = [np.argmax(x, 1) == np.argmax(y, 1) for x, y in tables if x.shape == y.shape]
    rows = sum(found.size for found in same)
    return {"top1_rows": float(rows), "top1_same": float(sum(map(np.count_nonzero, same)))} if rows else {}


def _keep_finite(x: Array, y: Array) -> tuple[Array, Array]:
    x, y = x.reshape(-1), y.reshape(-1)
    good = np.isfinite(x.astype(np.complex128 if x.dtype.kind == "c" else np.float64))
    good &= np.isfinite(y.astype(np.complex128 if y.dtype.kind == "c" else np.float64))
    return x[good], y[good]


def _compute_metrics(parts: Sequence[tuple[Array, Array]]) -> tuple[dict[str, float], dict[str, Any]]:
    kind = np.complex128 if parts[0][0].dtype.kind == "c" else np.float64
    wide = [(x.astype(kind), y.astype(kind)) for x, y in parts]
    deltas = [np.abs(y - x) for x, y in wide]
    count = sum(d.size for d in deltas)
    dot = sum(float(np.vdot(x, y).real) for x, y in wide)
    norm_x, norm_y = (math.sqrt(sum(float(np.vdot(v[k], v[k]).real) for v in wide)) for k in (0, 1))
    noise = sum(float(np.vdot(d, d)) for d in deltas)
    kept = np.concatenate([d[:: max(1, count // _MOST)] for d in deltas])
    largest = max(float(np.abs(x).max()) for x, _ in wide)
    relative = [
        float((d[m] / np.abs(x[m])).max())
        for (x, _), d in zip(wide, deltas, strict=True)
        if (m := np.abs(x) > _LARGE * largest).any()
    ]
    measures = {
        "max_abs": max(float(d.max()) for d in deltas),
        "mean_abs": sum(float(d.sum()) for d in deltas) / count,
        "p99_abs": float(np.quantile(kept, 0.99)),
        "max_rel": max(relative, default=0.0),
        "cosine": 1.0 if noise == 0 else dot / (norm_x * norm_y) if norm_x and norm_y else 0.0,
        "snr_db": math.inf if noise == 0 else 20 * math.log10(norm_x / math.sqrt(noise)) if norm_x else -math.inf,
        "max_ulp": max(_count_ulps(x, y) for x, y in parts),
    }
    return measures, _count_by_distance(deltas) | {"by_size": _count_by_size(wide, deltas, count)}


def _count_ulps(x: Array, y: Array) -> float:
    """The largest distance in steps between neighbouring values of the elements' own type."""
    if x.dtype != y.dtype or x.dtype.kind == "c" or x.dtype.itemsize not in (1, 2, 4, 8):
        return math.nan
    return float(np.abs(_order_bits(x) - _order_bits(y)).max())


def _order_bits(x: Array) -> Array:
    """Bit patterns as numbers in the order of the values; exact up to 2**53."""
    bits = x.view(np.dtype(f"i{x.dtype.itemsize}")).astype(np.int64)
    sign = np.int64(-1) << np.int64(8 * x.dtype.itemsize - 1)
    return np.asarray(np.where(bits < 0, sign - bits, bits).astype(np.float64))


def _count_by_distance(deltas: Sequence[Array]) -> dict[str, Any]:
    edges = np.arange(_LOW, _HIGH + _STEP / 2, _STEP)
    counts = np.zeros(len(edges) - 1, np.int64)
    zeros = 0
    for delta in deltas:
        zeros += int(np.count_nonzero(delta == 0))
        logs = np.clip(np.log10(delta[delta > 0]), _LOW, _HIGH)
        counts += np.histogram(logs, edges)[0]
    return {"low": _LOW, "step": _STEP, "counts": counts.tolist(), "zeros": zeros}


def _count_by_size(wide: Sequence[tuple[Array, Array]], deltas: Sequence[Array], count: int) -> dict[str, Any]:
    """How many elements of which size differ by how much: ``[size, difference, elements]`` of each filled cell.

    Both are places of a column, in steps as of `_count_by_distance`: of log10 |reference| from ``low``, and of its own.
    """
    stride = max(1, -(-count // _CELLS))
    columns, rows = round((_SIZE_HIGH - _SIZE_LOW) / _STEP), round((_HIGH - _LOW) / _STEP)
    cells = np.zeros(columns * rows, np.int64)
    for (reference, _), delta in zip(wide, deltas, strict=True):
        size, apart = np.abs(reference[::stride]), delta[::stride]
        size, apart = size[apart > 0], apart[apart > 0]
        column, row = _find_column(size, _SIZE_LOW, columns), _find_column(apart, _LOW, rows)
        cells += np.bincount(column * rows + row, minlength=columns * rows)
    filled = np.flatnonzero(cells)
    return {"low": _SIZE_LOW, "cells": [[int(k) // rows, int(k) % rows, int(cells[k])] for k in filled]}


def _find_column(values: Array, low: float, most: int) -> Array:
    """The column of each value; what lies beyond is in the last one on its side."""
    logs = np.log10(np.maximum(values, 10.0**low))
    return np.asarray(np.clip(((logs - low) / _STEP).astype(np.int64), 0, most - 1))


def apply_tolerances(check: OutputCheck, measures: Mapping[str, float], tolerances: Sequence[Tolerance]) -> OutputCheck:
    """The check, failed if a tolerance on its output does not hold."""
    for each in tolerances:
        if each.output not in ("", check.name) or check.status is Verdict.FAIL or not measures:
            continue
        value = measures[each.metric]
        if not (value >= each.value if METRICS[each.metric] else value <= each.value):
            side = "below" if METRICS[each.metric] else "above"
            why = f"{each.metric} is {value:.3g}, {side} the tolerance {each.value:g}"
            check = replace(check, status=Verdict.FAIL, why=why)
    return check
