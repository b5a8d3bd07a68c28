"""How much of what each output says is gone: of a model with biases removed, beside the model as it came.

A budget counts decisions of one output. They say little of an output that is a quantity, and nothing of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.dataclass import dataclass
from converter.records import Stage, Verdict

_ALL = 1e6
MOST = 0.1  # of an output's variance, that may be gone whatever the budget
Array = NDArray[np.float64]


@dataclass(slots=True)
class OutputChange:
    """Sums over the rows, element by element of one output: so that what all rows share does not count as said."""

    rows: int = 0
    total: Array | float = field(default=0.0)
    squares: Array | float = field(default=0.0)
    error: float = 0.0

    def add(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        """One batch of an output, rows first."""
        a, b = (np.atleast_1d(np.asarray(v, np.float64)) for v in (before, after))
        self.rows += len(a)
        self.total = self.total + a.sum(axis=0)
        self.squares = self.squares + (a * a).sum(axis=0)
        self.error += float(((b - a) ** 2).sum())

    @property
    def share(self) -> float:
        """Squared error over the variance, both over all elements; 0 where nothing changed, a million at most."""
        spread = float(np.sum(self.squares - np.square(self.total) / max(self.rows, 1)))
        return 0.0 if self.error == 0 else min(self.error / spread if spread > 0 else _ALL, _ALL)


def add_batch(found: dict[str, OutputChange], before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Count one batch of all outputs; those that are no numbers of one shape count as gone where they differ."""
    for name, a in before.items():
        b, change = after.get(name), found.setdefault(name, OutputChange())
        plain = all(isinstance(v, np.ndarray) and v.dtype.kind in "fiub" for v in (a, b))
        if plain and b is not None and np.shape(a) == np.shape(b):
            change.add(a, b)
        else:
            change.error = 0.0 if not plain and repr(a) == repr(b) else _ALL


def judge_changes(stage: Stage, found: Mapping[str, OutputChange], budget: float) -> Stage:
    """The verdict on the decisions, with what is gone of every output; more than may be is no pass."""
    most, shares = max(MOST, budget), {name: change.share for name, change in found.items()}
    said = ", ".join(f"{100 * share:.2g} % of {name!r}" for name, share in shares.items())
    worst = max(shares, key=lambda name: shares[name], default="")
    detail = stage.detail | {"variance_gone": shares, "most_variance_gone": most}
    if stage.status is Verdict.PASS and worst and not shares[worst] <= most:
        why = f"{100 * shares[worst]:.3g} % of what {worst!r} says (its variance) is gone, limit {100 * most:.3g} %"
        return replace(stage, status=Verdict.FAIL, why=f"{why}; {stage.why}", detail=detail)
    return replace(stage, why=f"{stage.why}; of the variance is gone: {said}" if said else stage.why, detail=detail)


def measure_changes(pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, OutputChange]:
    """What is gone of each output over pairs of batches."""
    found: dict[str, OutputChange] = {}
    for before, after in pairs:
        add_batch(found, before, after)
    return found
