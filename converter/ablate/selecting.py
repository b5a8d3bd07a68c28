"""Which biases go: greedy selection, given the rows to fit and to select on and no others.

Biases are ranked by what their removal is expected to move. As many go, the least first, as leave what is lost on
*select* within half the budget; the number is found by halving, beginning with all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from converter.ablate.compensate import Compensated, How, compensate
from converter.ablate.effects import disagreement
from converter.ablate.measure import effects_of, zeroing
from converter.ablate.net import Net
from converter.ablate.samples import Part
from converter.ablate.scoring import Score
from converter.ablate.sites import Site
from converter.ablate.solve import DENSE_MOST, RIDGE
from converter.ablate.survey import Survey, survey
from converter.errors import DataError

SLACK = 0.5  # of the budget may be used up on select, so that confirm's bound has room
_SKETCH_ROWS = 256  # rows that biases are ranked on


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be lost, how sure that has to be, and how biases are moved.

    Attributes
    ----------
    share : the accuracy that may be lost, as a share; without labels, of rows that may be decided differently
    """

    share: float = 1e-3
    alpha: float = 0.05
    output: str | None = None
    ridge: float = RIDGE
    dense_most: int = DENSE_MOST
    seed: int = 0
    max_time: float = 300.0
    max_bytes: int = 1 << 30
    progress: Callable[[str], None] = field(default=lambda text: None)


class Selection:
    """Greedy selection; it is given the rows to fit and to select on, and no others."""

    def __init__(self, net: Net, budget: Budget, fitting: Part, selecting: Part) -> None:
        self._net, self._budget, self._fitting, self._selecting = net, budget, fitting, selecting
        self._how = How(budget.ridge, budget.dense_most, budget.max_bytes // 4, budget.seed)
        self._deadline = monotonic() + budget.max_time
        self._scores: dict[str, Score] = {}
        self.output = ""
        self.tried = 0

    def greedy(self, sites: Sequence[Site]) -> tuple[Compensated, float]:
        """The most biases, cheapest first, that stay within the budget on select; the disagreement there."""
        ranking = self._ranked(sites)
        best, at_best = Compensated(dict(self._net.original), ()), 0.0
        low, high = 0, len(ranking)  # `low` stays within the budget
        count = high
        while low < high and (count == len(ranking) or monotonic() < self._deadline):
            done = self._fitted(ranking[:count])
            share = self._differs(done)
            self.tried += 1
            if share <= SLACK * self._budget.share:
                best, at_best, low = done, share, count
            else:
                high = count - 1
            count = (low + high + 1) // 2
        return best, at_best

    def told(self, site: Site) -> str:
        """Why a bias stayed."""
        score = self._scores[site.label]
        if score.problem:
            return score.problem
        return f"imitated up to {100 * math.sqrt(min(score.held, 1.0)):.2g} %: with it the budget would be exceeded"

    def _ranked(self, sites: Sequence[Site]) -> list[Site]:
        budget = self._budget
        rows = self._fitting.rows
        assert rows is not None
        sketch = self._fitting.data.part(rows[: max(1, _SKETCH_ROWS)])
        limits = Survey(budget.max_bytes, monotonic() + budget.max_time / 3, budget.seed, budget.dense_most)
        scores, _ = survey(self._net, sites, sketch, limits, budget.progress)
        zeroed = zeroing(self._net, sites, sketch, budget.output, monotonic() + budget.max_time / 6, budget.progress)
        if not zeroed.decides:
            raise DataError(
                f"output {zeroed.output!r} decides between no classes, and a budget counts decisions; name an output "
                "that does with --output"
            )
        self.output = zeroed.output
        self._scores = {
            label: replace(score, predicted=zeroed.predicted[label], effect=zeroed.effects[label])
            for label, score in scores.items()
        }
        sound = [s for s in sites if not self._scores[s.label].problem]
        return sorted(sound, key=lambda s: self._scores[s.label].compensated)

    def _fitted(self, sites: Sequence[Site]) -> Compensated:
        done = compensate(self._net, sites, self._fitting, self._how, self._budget.progress)
        assert done is not None  # it was given no deadline
        return done

    def _differs(self, done: Compensated) -> float:
        """On select: the loss of accuracy where there are labels, else the share of rows decided differently."""
        effects, _ = effects_of(self._net, {"": done.state}, self._selecting, self.output, decides=True)
        effect = effects[""]
        if effect.counts is not None:
            return max(0.0, (effect.votes.lost - effect.votes.gained) / effect.rows)
        return disagreement(effect)
