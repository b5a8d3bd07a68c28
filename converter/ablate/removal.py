"""Remove biases under an accuracy budget: fit, select and judge on separate rows; and how much of each output is gone.

*calibrate*: the closed form is fitted there. *select*: which biases go is decided there. *confirm*: what was decided
is judged there, once, by the referee's statistics; nothing before that sees a row of it.

A budget counts decisions of one output. They say little of an output that is a quantity, and nothing of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.ablate.ablate import FEW_ROWS
from converter.ablate.compensate import DENSE_MOST, RIDGE, Compensated, Fit, FitOptions, compensate
from converter.ablate.measure import (
    changes_off_data,
    disagreement,
    make_probes,
    measure_deviation,
    measure_effects,
    measure_zeroed,
)
from converter.ablate.samples import Data, Part, split_rows
from converter.ablate.scoring import Score
from converter.ablate.session import Net, SessionOptions
from converter.ablate.sites import Site
from converter.ablate.statistics import SurveyLimits, survey_layers
from converter.dataclass import dataclass
from converter.errors import DataError
from converter.records import Stage, Verdict
from converter.records.ablate import KeptBias, OffDataChange, Role
from converter.referee.inputs.stream import Sample, Stream
from converter.referee.proto.source import LoadedModel
from converter.referee.verify.decisions import run_decisions
from converter.referee.verify.models import ModelUnderTest
from converter.referee.verify.options import DecisionRequest, Options
from converter.stats import needed_with_labels, needed_without_labels

_ALL = 1e6
MOST_GONE = 0.1  # of an output's variance, that may be gone whatever the budget
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
    most, shares = max(MOST_GONE, budget), {name: change.share for name, change in found.items()}
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
        self._how = FitOptions(budget.ridge, budget.dense_most, budget.max_bytes // 4, budget.seed)
        self._deadline = monotonic() + budget.max_time
        self._scores: dict[str, Score] = {}
        self.output = ""
        self.tried = 0

    def select_greedily(self, sites: Sequence[Site]) -> tuple[Compensated, float]:
        """The most biases, cheapest first, that stay within the budget on select; the disagreement there."""
        ranking = self._rank(sites)
        best, at_best = Compensated(dict(self._net.original), ()), 0.0
        low, high = 0, len(ranking)  # `low` stays within the budget
        count = high
        while low < high and (count == len(ranking) or monotonic() < self._deadline):
            done = self._fit_on(ranking[:count])
            share = self._measure_difference(done)
            self.tried += 1
            if share <= SLACK * self._budget.share:
                best, at_best, low = done, share, count
            else:
                high = count - 1
            count = (low + high + 1) // 2
        return best, at_best

    def explain(self, site: Site) -> str:
        """Why a bias stayed."""
        score = self._scores[site.label]
        if score.problem:
            return score.problem
        return f"imitated up to {100 * math.sqrt(min(score.held, 1.0)):.2g} %: with it the budget would be exceeded"

    def _rank(self, sites: Sequence[Site]) -> list[Site]:
        budget = self._budget
        rows = self._fitting.rows
        assert rows is not None
        sketch = self._fitting.data.part(rows[: max(1, _SKETCH_ROWS)])
        limits = SurveyLimits(budget.max_bytes, monotonic() + budget.max_time / 3, budget.seed, budget.dense_most)
        scores, _ = survey_layers(self._net, sites, sketch, limits, budget.progress)
        zeroed = measure_zeroed(
            self._net, sites, sketch, budget.output, monotonic() + budget.max_time / 6, budget.progress
        )
        if not zeroed.decides or zeroed.threshold is not None:  # the verdict's bounds are of the largest of scores
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

    def _fit_on(self, sites: Sequence[Site]) -> Compensated:
        done = compensate(self._net, sites, self._fitting, self._how, self._budget.progress)
        assert done is not None  # it was given no deadline
        return done

    def _measure_difference(self, done: Compensated) -> float:
        """On select: the loss of accuracy where there are labels, else the share of rows decided differently."""
        effects, _ = measure_effects(self._net, {"": done.state}, self._selecting, self.output, decides=True)
        effect = effects[""]
        if effect.counts is not None:
            return max(0.0, (effect.votes.lost - effect.votes.gained) / effect.rows)
        return disagreement(effect)


SHARES = (0.2, 0.2)  # of the rows, to calibrate and to select on; the rest confirms
MOST = (1024, 2048)  # rows of each: more moved no figure on digits
KEPT = {
    Role.FIRST: "the first layer's: how well it can be imitated depends on the inputs alone",
    Role.HEAD: "a head's: it holds how frequent each answer is",
    Role.DEPTHWISE: "a depthwise layer's: it has few inputs to average over",
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """What could go, before it was judged.

    Attributes
    ----------
    fits : the new weights of the layers whose biases go
    stage : why there is nothing to judge; None where there is
    select : what is lost on *select*
    rows : of calibrate, select and confirm
    needed : rows of data in all with which the budget can be shown, where there were too few
    confirm : the rows that nothing has seen yet
    """

    fits: tuple[Fit, ...] = ()
    kept: tuple[KeptBias, ...] = ()
    stage: Stage | None = None
    output: str = ""
    select: float = math.nan
    rows: tuple[int, int, int] = (0, 0, 0)
    needed: int | None = None
    off: tuple[OffDataChange, ...] = ()
    warnings: tuple[str, ...] = ()
    tried: int = 0
    confirm: Part | None = field(default=None, repr=False, compare=False)


def list_candidates(
    sites: Sequence[Site], keep: Sequence[Site], also: Sequence[Site | Role]
) -> tuple[list[Site], list[KeptBias]]:
    """Which biases may go, and why the others may not."""
    may, kept = [], []
    for site in sites:
        wanted = site in also or site.role in also
        if site in keep:
            kept.append(KeptBias(site.label, site.op, "asked-to-keep", "it was asked to be kept"))
        elif site.role in KEPT and not wanted:
            kept.append(KeptBias(site.label, site.op, f"{site.role.value}-layer", KEPT[site.role]))
        else:
            may.append(site)
    return may, kept


def propose(net: Net, sites: Sequence[Site], kept: Sequence[KeptBias], data: Data, budget: Budget) -> Proposal:
    """Choose as many biases of ``sites`` as the budget allows on *select*, and fit what makes up for them.

    Raises
    ------
    DataError
        The data does not fit the model, or the model decides nothing that could be counted.
    """
    parts = split_rows(data.rows, data.unit, budget.seed, SHARES, MOST, data.twins)
    rows = (len(parts.calibrate), len(parts.select), len(parts.confirm))
    few = _explain_too_few(rows, data, budget)
    if few is not None:
        return Proposal(kept=tuple(kept), stage=few[0], rows=rows, needed=few[1])
    if not sites:
        return Proposal(
            kept=tuple(kept), stage=_skip_stage("no bias may go: those there are stay by default"), rows=rows
        )
    fitting, selecting = data.part(parts.calibrate), data.part(parts.select)
    chosen = Selection(net, budget, fitting, selecting)
    done, at_select = chosen.select_greedily(sites)
    gone = {f.site.label for f in done.fits}
    every = (*kept, *(KeptBias(s.label, s.op, "over-budget", chosen.explain(s)) for s in sites if s.label not in gone))
    if not done.fits:
        stage = _skip_stage("no bias can go within the budget")
        return Proposal(kept=every, stage=stage, output=chosen.output, rows=rows, tried=chosen.tried)
    off = tuple(_measure_off_data(net, done, selecting, chosen.output, budget))
    warnings = tuple(_warnings(rows, off))
    confirm = data.part(parts.confirm)
    return Proposal(done.fits, every, None, chosen.output, at_select, rows, None, off, warnings, chosen.tried, confirm)


def _skip_stage(why: str) -> Stage:
    return Stage("decision", Verdict.SKIPPED, f"{why}; nothing was changed")


def confirm(
    before: LoadedModel, after: LoadedModel, proposal: Proposal, budget: Budget, where: SessionOptions
) -> Stage:
    """The verdict: the referee's decision stage on the one look at the rows that nothing has seen.

    Parameters
    ----------
    before : the model as it came
    after : the model as it would be written
    """
    assert proposal.confirm is not None
    budget.progress(f"confirming on {len(proposal.confirm):,} rows")
    samples = (Sample(b.feeds, b.labels) for b in proposal.confirm.batches())
    options = Options(
        stream=Stream(samples, "confirm"),
        provider=where.provider,
        custom_ops=where.custom_ops,
        seed=budget.seed,
        deciding=DecisionRequest(outputs=(proposal.output,), margin=budget.share, alpha=budget.alpha),
    )
    original, changed = (ModelUnderTest(source, options, deployed=True) for source in (before, after))
    stage = run_decisions(original, changed, options).stage
    pairs = ((original.run(b.feeds), changed.run(b.feeds)) for b in proposal.confirm.batches())
    return judge_changes(stage, measure_changes(pairs), budget.share)


def _explain_too_few(rows: tuple[int, int, int], data: Data, budget: Budget) -> tuple[Stage, int] | None:
    """What is missing where not even a model that never differs could be shown to stay within the budget."""
    if data.labelled:
        least = needed_with_labels(0, 0, max(rows[2], 1), budget.share, budget.alpha)
    else:
        least = needed_without_labels(0, 0, budget.share, budget.alpha) or 1
    if rows[2] >= least:
        return None
    share = 1 - sum(SHARES)
    whole = min(math.ceil(least / share), least + sum(MOST))
    whole += -whole % data.unit
    why = (
        f"{rows[2]:,} rows are left to confirm on, and a budget of {100 * budget.share:.3g} % needs \u2265 {least:,}: "
        f"give about {whole:,} rows of data in all, or a larger budget"
    )
    detail = {"n": rows[2], "needed_n": least, "needed_rows": whole, "margin": budget.share, "alpha": budget.alpha}
    return Stage("decision", Verdict.INCONCLUSIVE, why, (), detail), whole


def _measure_off_data(net: Net, done: Compensated, part: Part, output: str, budget: Budget) -> list[OffDataChange]:
    on_data = measure_effects(net, {"": done.state}, part, output, decides=True)[0][""]
    found = []
    for probe in make_probes(("contrast", "offset"), measure_deviation(part), budget.seed):
        budget.progress(f"off the data: {probe.said}")
        effects, _ = measure_effects(net, {"": done.state}, part, output, decides=True, shift=probe.shift)
        found.append(OffDataChange(probe.said, disagreement(effects[""]), changes_off_data(on_data, effects[""])))
    return found


def _warnings(rows: tuple[int, int, int], off: Sequence[OffDataChange]) -> list[str]:
    found = []
    worst = max((o for o in off if o.changes), key=lambda o: o.differ, default=None)
    if worst is not None:
        found.append(
            f"the function changes off the data: under {worst.said} {100 * worst.differ:.3g} % of the rows are decided "
            "differently from the original. Biases carried what the level of the inputs means"
        )
    if rows[0] < FEW_ROWS:
        found.append(f"fitted on {rows[0]} rows: below {FEW_ROWS} the fit is chance; give more data")
    return found
