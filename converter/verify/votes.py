"""What one output decides, counted over all inputs: classes, or maps of classes, of both models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.errors import DataError
from converter.verify.measure import Array

_ROWS_SHOWN = 16  # inputs kept that decide differently


def classifies(value: Any) -> bool:
    """Whether an output is taken for a decision unasked: scores [N, C], or an integer map of classes."""
    if not isinstance(value, np.ndarray):
        return False
    if value.dtype.kind in "fV":
        return value.ndim == 2 and value.shape[1] >= 2
    return value.dtype.kind in "iu" and value.ndim >= 3


def class_axis(value: Array) -> int | None:
    """The axis that holds scores: the second, of sequences [N, T, C] the last; integers are classes already."""
    if value.dtype.kind in "iub":
        return None
    if value.ndim < 2:
        raise DataError(f"an output of shape {list(value.shape)} decides nothing: it has no axis of classes")
    return value.ndim - 1 if value.ndim == 3 else 1


@dataclass(slots=True)
class Votes:
    """Counts over all rows of one output; a row is one input of the batch."""

    rows: int = 0
    differ: float = 0.0  # rows that decide differently; of maps, the sum of the shares of their points
    maps: bool = False  # a row is many decisions
    certified: int = 0  # rows that cannot flip: the margin between the first two classes exceeds twice the error
    scored: int = 0  # rows of which that can be said
    right_a: float = 0.0
    right_b: float = 0.0
    gained: int = 0  # rows that only the rewritten model gets right
    lost: int = 0  # rows that only the original gets right
    labelled: int = 0

    def add(self, a: Array, b: Array, labels: Array | None) -> bool:
        """Count one run; whether any row of it decides differently."""
        axis = class_axis(a)
        first, second = (_classes(v, axis) for v in (a, b))
        unlike = first != second
        self.rows += len(unlike)
        self.maps |= unlike.ndim > 1
        self.differ += float(unlike.reshape(len(unlike), -1).mean(axis=1).sum())
        if axis is not None:
            self.scored += len(unlike)
            self.certified += int(_certified(a, b, axis).sum())
        if labels is not None:
            self._score(first, second, labels)
        return bool(unlike.any())

    def _score(self, first: Array, second: Array, labels: Array) -> None:
        labels = labels.reshape(first.shape) if labels.size == first.size else labels
        if labels.shape != first.shape:
            raise DataError(f"labels of shape {list(labels.shape)} do not fit decisions of shape {list(first.shape)}")
        hits_a, hits_b = first == labels, second == labels
        self.labelled += len(labels)
        if first.ndim > 1:  # of a map, the share of its points
            self.right_a += float(hits_a.reshape(len(labels), -1).mean(axis=1).sum())
            self.right_b += float(hits_b.reshape(len(labels), -1).mean(axis=1).sum())
            return
        self.right_a += int(hits_a.sum())
        self.right_b += int(hits_b.sum())
        self.gained += int((hits_b & ~hits_a).sum())
        self.lost += int((hits_a & ~hits_b).sum())


def _classes(value: Array, axis: int | None) -> Array:
    if axis is not None:
        return np.asarray(np.argmax(value, axis=axis))
    return value.reshape(1) if value.ndim == 0 else value


def _certified(a: Array, b: Array, axis: int) -> Array:
    """Rows in which no decision can flip: |delta| <= d moves two scores by at most 2 d against each other."""
    wide_a, wide_b = (np.moveaxis(np.asarray(v, np.float64), axis, -1) for v in (a, b))
    top = np.partition(wide_a, -2, axis=-1)[..., -2:]
    with np.errstate(all="ignore"):
        safe = top[..., 1] - top[..., 0] > 2 * np.abs(wide_b - wide_a).max(axis=-1)
    return np.asarray(safe.reshape(len(safe), -1).all(axis=1))
