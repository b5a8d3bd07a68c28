"""What a change of the model did to its answers, over all rows: decisions, probabilities, numbers, accuracy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.ablate.patches import Array
from converter.ablate.samples import Labels
from converter.errors import DataError
from converter.verify.paired import mcnemar, newcombe
from converter.verify.statistics import clopper_pearson
from converter.verify.votes import Votes, class_axis, classifies

_TINY = 1e-30


def deciding(outputs: dict[str, NDArray[Any]], asked: str | None) -> tuple[str, bool]:
    """The output that is looked at, and whether it decides between classes.

    Without being asked: the first that is a classifier's, else the first of floating-point numbers.
    """
    if asked is not None:
        if asked not in outputs:
            raise DataError(f"{asked!r} is not an output of the model; its outputs are {', '.join(outputs)}")
        value = outputs[asked]
        return asked, value.ndim >= 2 and (value.dtype.kind in "iu" or value.shape[class_axis(value) or 0] >= 2)
    for name, value in outputs.items():
        if classifies(value) and value.dtype.kind in "fV":
            return name, True
    for name, value in outputs.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fV":
            return name, value.ndim == 4 and value.shape[1] >= 2
    raise DataError("the model has no output of floating-point numbers; name one with --output")


@dataclass(slots=True)
class Effect:
    """Sums over rows. ``votes`` count decisions, where there are any."""

    decides: bool
    votes: Votes = field(default_factory=Votes)
    rows: int = 0
    error: float = 0.0  # sum of squares of z' - z
    size: float = 0.0  # of z
    divergence: float = 0.0  # sum over rows of KL(p || p')

    def add(self, before: NDArray[Any], after: NDArray[Any], labels: Labels | None) -> None:
        """Count one run."""
        with np.errstate(all="ignore"):  # scores of minus infinity are an answer too
            self._add(before, after, labels)

    def _add(self, before: NDArray[Any], after: NDArray[Any], labels: Labels | None) -> None:
        wide, other = before.astype(np.float64), after.astype(np.float64)
        self.rows += len(before) if before.ndim else 1
        self.error += float(((other - wide) ** 2).sum())
        self.size += float((wide**2).sum())
        if not self.decides:
            return
        self.votes.add(before, after, labels)
        axis = class_axis(before)
        if axis is not None:
            self.divergence += float(_divergence(wide, other, axis).sum())

    @property
    def relative_error(self) -> float:
        """||z' - z|| / ||z|| over all rows."""
        return float(np.sqrt(self.error / self.size)) if self.size > 0 else float(self.error > 0)

    @property
    def agreement(self) -> float | None:
        """Share of rows (of maps: of points) that are decided as before."""
        return 1 - self.votes.differ / self.votes.rows if self.votes.rows else None

    @property
    def kl(self) -> float | None:
        """Mean of KL(p || p') in nats."""
        return self.divergence / self.rows if self.decides and self.rows else None

    @property
    def counts(self) -> tuple[int, int, int, int] | None:
        """Rows that both, only the original, only the changed, neither got right; None without labels or of maps."""
        v = self.votes
        if not v.labelled or v.labelled != v.rows or v.maps:
            return None
        both = round(v.right_a) - v.lost
        return both, v.lost, v.gained, v.rows - both - v.lost - v.gained

    def to_json(self) -> dict[str, Any]:
        """Everything that a report shows of it."""
        found: dict[str, Any] = {"rows": self.rows, "relative_error": self.relative_error}
        if self.decides:
            found |= {"agreement": self.agreement, "kl": self.kl}
        if self.votes.labelled:
            found |= {
                "accuracy_before": self.votes.right_a / self.votes.labelled,
                "accuracy_after": self.votes.right_b / self.votes.labelled,
            }
        if (counts := self.counts) is not None:
            difference, low, high = newcombe(*counts)
            found |= {"gained": counts[2], "lost": counts[1], "difference": difference, "low": low, "high": high}
            found["mcnemar_p"] = mcnemar(counts[2], counts[1])
        return found


def disagreement(effect: Effect) -> float:
    """Share of rows decided differently; of numbers, their relative error."""
    return effect.relative_error if effect.agreement is None else 1 - effect.agreement


def changes(on_data: Effect, off_data: Effect) -> bool:
    """Whether a function changes off the data more than on it.

    Decisions: by more than a point, and 95 % sure of that; numbers: by twice the error.
    """
    here = disagreement(on_data)
    if off_data.agreement is None:
        return disagreement(off_data) > max(0.01, 2 * here)
    votes = off_data.votes
    return clopper_pearson(votes.differ, votes.rows, 0.05)[0] > 0.01 + here


def _divergence(before: Array, after: Array, axis: int) -> Array:
    """KL(p || p') of each row, points of maps averaged; an output that is probabilities already stays as it is."""
    p, q = (_log_probabilities(np.moveaxis(v, axis, -1)) for v in (before, after))
    each = np.maximum((np.exp(p) * (p - q)).sum(axis=-1), 0.0)
    return np.asarray(each.reshape(len(each), -1).mean(axis=1))


def _log_probabilities(scores: Array) -> Array:
    sums = scores.sum(axis=-1)
    if scores.size and scores.min() >= 0 and np.abs(sums - 1).max() < 1e-3:
        return np.log(np.maximum(scores, _TINY))
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
