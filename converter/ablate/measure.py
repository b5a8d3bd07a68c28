"""The effect of leaving biases out, measured: every change on the same rows, one batch after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.ablate.im2col import Array
from converter.ablate.samples import Batch, Labels, Part
from converter.ablate.session import Net, State
from converter.ablate.sites import Site
from converter.dataclass import dataclass
from converter.errors import DataError
from converter.records.ablate import EffectSummary
from converter.referee.verify.decisions import AgreementCounts, classifies, find_class_axis
from converter.stats import clopper_pearson, mcnemar, newcombe

_TINY = 1e-30


def find_decision(outputs: dict[str, NDArray[Any]], asked: str | None) -> tuple[str, bool]:
    """The output that is looked at, and whether it decides between classes.

    Without being asked: the first that is a classifier's, else the first of floating-point numbers.
    """
    if asked is not None:
        if asked not in outputs:
            raise DataError(f"{asked!r} is not an output of the model; its outputs are {', '.join(outputs)}")
        value = outputs[asked]
        return asked, value.ndim >= 2 and (value.dtype.kind in "iu" or value.shape[find_class_axis(value) or 0] >= 2)
    for name, value in outputs.items():
        if classifies(value) and value.dtype.kind in "fV":
            return name, True
    for name, value in outputs.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fV":
            return name, value.ndim == 4 and value.shape[1] >= 2
    raise DataError("the model has no output of floating-point numbers; name one with --output")


def find_threshold(output: NDArray[Any], labels: Labels | None) -> float | None:
    """Above what a single score says yes: 0 of a logit, 0.5 of a probability; None where it is no such score.

    One number a row, or a point, may be anything: that it is a score is known by labels that are 0 or 1.
    """
    single = output.ndim == 1 or (output.ndim >= 2 and output.shape[find_class_axis(output) or 0] == 1)
    if labels is None or output.dtype.kind not in "fV" or not single:
        return None
    if labels.dtype.kind not in "iub" or not np.isin(labels, (0, 1)).all() or labels.size != output.size:
        return None
    wide = output.astype(np.float64)
    return 0.5 if wide.size and wide.min() >= 0 and wide.max() <= 1 else 0.0


def split_score(output: NDArray[Any], threshold: float | None) -> NDArray[Any]:
    """The scores of no and yes, in place of a single one; else what it is."""
    if threshold is None:
        return output
    yes = output[:, None] if output.ndim == 1 else output
    no = 1 - yes if threshold else np.zeros_like(yes)
    return np.concatenate([no, yes], axis=find_class_axis(yes) or 1)


_ROUNDING = 1e-12  # of the size: below it all rows are one


@dataclass(slots=True)
class Effect:
    """Sums over rows. ``votes`` count decisions, where there are any."""

    decides: bool
    threshold: float | None = None  # of a single score
    votes: AgreementCounts = field(default_factory=AgreementCounts)
    rows: int = 0
    error: float = 0.0  # sum of squares of z' - z
    size: float = 0.0  # of z
    sums: dict[tuple[int, ...], tuple[int, NDArray[Any]]] = field(default_factory=dict)  # of rows of one shape, of z
    divergence: float = 0.0  # sum over rows of KL(p || p')

    def add(self, before: NDArray[Any], after: NDArray[Any], labels: Labels | None) -> None:
        """Count one run."""
        with np.errstate(all="ignore"):  # scores of minus infinity are an answer too
            self._add(before, after, labels)

    def _add(self, before: NDArray[Any], after: NDArray[Any], labels: Labels | None) -> None:
        wide, other = before.astype(np.float64), after.astype(np.float64)
        rows = len(before) if before.ndim else 1
        self.rows += rows
        count, total = self.sums.get(before.shape[1:], (0, np.zeros(before.shape[1:])))
        self.sums[before.shape[1:]] = count + rows, total + (wide.sum(axis=0) if before.ndim else wide)
        self.error += float(((other - wide) ** 2).sum())
        self.size += float((wide**2).sum())
        if not self.decides:
            return
        before, after = (split_score(scores, self.threshold) for scores in (before, after))
        self.votes.add(before, after, labels)
        axis = find_class_axis(before)
        if axis is not None:
            wide, other = (split_score(scores, self.threshold) for scores in (wide, other))
            self.divergence += float(_divergence(wide, other, axis).sum())

    @property
    def relative_error(self) -> float:
        """||z' - z|| / ||z - mean z|| over all rows: what all rows share says nothing of any. Of one row, / ||z||."""
        shared = sum(float((total**2).sum()) / count for count, total in self.sums.values() if count > 1)
        spread = self.size - shared
        return float(np.sqrt(self.error / spread)) if spread > _ROUNDING * self.size else self.share_of_size

    @property
    def share_of_size(self) -> float:
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

    def summarize(self) -> EffectSummary:
        """Everything that a report shows of it."""
        labelled = self.votes.labelled
        counts = self.counts
        difference, low, high = newcombe(*counts) if counts is not None else (None, None, None)
        return EffectSummary(
            rows=self.rows,
            relative_error=self.relative_error,
            agreement=self.agreement,
            kl=self.kl,
            accuracy_before=self.votes.right_a / labelled if labelled else None,
            accuracy_after=self.votes.right_b / labelled if labelled else None,
            gained=None if counts is None else counts[2],
            lost=None if counts is None else counts[1],
            difference=difference,
            low=low,
            high=high,
            mcnemar_p=None if counts is None else mcnemar(counts[2], counts[1]),
        )


def disagreement(effect: Effect) -> float:
    """Share of rows decided differently; of numbers, their relative error."""
    return effect.relative_error if effect.agreement is None else 1 - effect.agreement


def changes_off_data(on_data: Effect, off_data: Effect) -> bool:
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


_STEP = 1 / 32  # share of a bias that is taken away to see the first-order effect: float32 still resolves it
_RESPONSE_ROWS = 64  # rows that the first-order effect is measured on


@dataclass(frozen=True, slots=True)
class ZeroedBiases:
    """What leaving out each bias does, by label; and whether time ran out before the data did."""

    output: str
    decides: bool
    effects: dict[str, Effect]
    predicted: dict[str, float]
    rows: int
    stopped: bool
    threshold: float | None = None  # of an output that is a single score
    varies: float = math.inf  # how far outputs are from that of the first row, relative: 0 if all are the same


def measure_zeroed(
    net: Net,
    sites: Sequence[Site],
    part: Part,
    output: str | None,
    deadline: float,
    progress: Callable[[str], None] = lambda text: None,
) -> ZeroedBiases:
    """Leave out each bias in turn, on every row, or until the time is over: then all on the same rows."""
    tap = net.answers()
    name, decides, threshold = "", False, None
    effects = {s.label: Effect(False) for s in sites}
    responses = {s.label: Effect(False) for s in sites}
    rows, stopped, slowest = 0, False, 0.0
    first: list[NDArray[Any]] = []
    away = Effect(False)
    for k, batch in enumerate(part.batches()):
        begun = monotonic()
        if k and begun + slowest > deadline:
            stopped = True
            break
        progress(f"leaving out each of {len(sites)} biases: row {rows + 1:,} of {len(part):,}")
        before = tap.run(batch.feeds, net.original)
        if not name:
            name, decides = find_decision(before, output)
            threshold = None if decides else find_threshold(before[name], batch.labels)
            decides = decides or threshold is not None
            effects = {s.label: Effect(decides, threshold) for s in sites}
        for site in sites:
            after = tap.run(batch.feeds, net.original | net.without(site))[name]
            effects[site.label].add(before[name], after, batch.labels)
            if rows < _RESPONSE_ROWS:
                nudged = tap.run(batch.feeds, net.original | net.without(site, 1 - _STEP))[name]
                responses[site.label].add(before[name], nudged, None)
        away.add(np.broadcast_to(_first_row(first, before[name]), before[name].shape), before[name], None)
        rows += batch.rows
        slowest = max(slowest, monotonic() - begun)
    predicted = {label: r.relative_error / _STEP if r.rows else math.nan for label, r in responses.items()}
    varies = away.share_of_size if rows > 1 else math.inf
    return ZeroedBiases(name, decides, effects, predicted, rows, stopped, threshold, varies)


def measure_imitations(
    net: Net,
    imitations: Mapping[str, Array],
    part: Part,
    zeroed: ZeroedBiases,
    deadline: float,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Effect]:
    """Put weights W + b v in the place of each bias in turn; ``imitations`` are v, [G, n], by label."""
    tap = net.answers()
    sites = [s for s in net.sites if s.label in imitations]
    effects = {s.label: Effect(zeroed.decides, zeroed.threshold) for s in sites}
    rows, slowest = 0, 0.0
    for k, batch in enumerate(part.batches()):
        begun = monotonic()
        if k and begun + slowest > deadline:
            break
        progress(f"imitating each of {len(sites)} biases: row {rows + 1:,} of {len(part):,}")
        before = tap.run(batch.feeds, net.original)[zeroed.output]
        for site in sites:
            state = net.original | imitate_bias(net, site, imitations[site.label])
            effects[site.label].add(before, tap.run(batch.feeds, state)[zeroed.output], batch.labels)
        rows += batch.rows
        slowest = max(slowest, monotonic() - begun)
    return effects


def imitate_bias(net: Net, site: Site, v: Array) -> State:
    """W + b v in place of W and b."""
    flat = site.form.flat(site.weight)
    shift = site.shift.reshape(*flat.shape[:2], 1)
    return net.weights(site, site.form.stored(flat + shift * v[:, None, :]), np.zeros_like(site.bias))


def _first_row(seen: list[NDArray[Any]], value: NDArray[Any]) -> NDArray[Any]:
    """The first row that there ever was, where later ones have its shape."""
    if not seen:
        seen.append(value[:1] if value.ndim else value)
    return seen[0] if seen[0].shape[1:] == value.shape[1:] else value[:1]


Shift = Callable[[dict[str, Any], int], dict[str, Any]]  # feeds, number of the first row -> feeds


def measure_effects(
    net: Net,
    states: Mapping[str, State],
    part: Part,
    output: str,
    *,
    decides: bool,
    threshold: float | None = None,
    corrections: Mapping[str, NDArray[Any]] | None = None,
    shift: Shift | None = None,
    references: Mapping[int, NDArray[Any]] | None = None,
    deadline: float = math.inf,
) -> tuple[dict[str, Effect], dict[int, NDArray[Any]]]:
    """The effect of several changes of the parameters beside the original, on the same rows.

    Parameters
    ----------
    threshold : of an output that is a single score
    corrections : added to the output under a change's name
    shift : what is done to the inputs first
    references : the right answers by number of a batch's first row, in place of labels

    Returns
    -------
    effects by name, and the original's decisions by number of a batch's first row
    """
    tap = net.answers()
    effects = {name: Effect(decides, threshold) for name in states}
    said: dict[int, NDArray[Any]] = {}
    for k, batch in enumerate(part.batches()):
        if k and monotonic() > deadline:
            break
        feeds = batch.feeds if shift is None else shift(batch.feeds, batch.first)
        before = tap.run(feeds, net.original)[output]
        labels = _choose_labels(batch, references)
        if decides:
            scores = split_score(before, threshold)
            said[batch.first] = scores.argmax(axis=1) if scores.dtype.kind in "fV" and scores.ndim != 3 else scores
        for name, state in states.items():
            after = before if state is net.original else tap.run(feeds, state)[output]
            if corrections and name in corrections:
                after = after + corrections[name]
            effects[name].add(before, after, labels)
    return effects, said


def _choose_labels(batch: Batch, references: Mapping[int, NDArray[Any]] | None) -> NDArray[Any] | None:
    if batch.labels is not None or references is None:
        return batch.labels
    return references.get(batch.first)


def measure_mean_gap(net: Net, state: State, part: Part, output: str) -> NDArray[Any]:
    """What has to be added to a changed model's output for its mean to be the original's, per channel."""
    tap = net.answers()
    total: NDArray[Any] = np.zeros(0)
    rows = 0
    for batch in part.batches():
        gap = tap.run(batch.feeds, net.original)[output].astype(np.float64) - tap.run(batch.feeds, state)[output]
        axes = tuple(range(2, gap.ndim))
        gap = gap.mean(axis=axes, keepdims=True) if axes else gap
        total = gap.sum(axis=0, keepdims=True) + (total if total.size else 0.0)
        rows += len(gap)
    return total / max(rows, 1)


_FACTORS = (2.0, 0.7, 0.5, 0.25)
_OFFSETS = (0.5, -0.5)  # in deviations of the inputs
_NOISE = (0.5,)


@dataclass(frozen=True, slots=True)
class Probe:
    """One way to move the inputs away from the data."""

    kind: str
    amount: float
    said: str
    shift: Shift


def measure_deviation(part: Part) -> float:
    """Standard deviation of all floating-point inputs together."""
    count, total, squares = 0, 0.0, 0.0
    for batch in part.batches():
        for value in batch.feeds.values():
            if _is_float(value):
                wide = value.astype(np.float64)
                count, total, squares = count + wide.size, total + wide.sum(), squares + (wide**2).sum()
    return float(np.sqrt(max(squares / count - (total / count) ** 2, 0.0))) if count else 0.0


def make_probes(kinds: tuple[str, ...], scale: float, seed: int) -> Iterator[Probe]:
    """The probes of these kinds; ``scale`` is the deviation of the inputs."""
    if "contrast" in kinds:
        for factor in _FACTORS:
            yield Probe("contrast", factor, f"contrast \u00d7{factor:g}", _shift_each(lambda v, _, f=factor: v * f))
    if "offset" in kinds:
        for offset in _OFFSETS:
            said = f"offset {offset:+g} sd".replace("-", "\u2212")
            yield Probe("offset", offset, said, _shift_each(lambda v, _, o=offset: v + o * scale))
    if "noise" in kinds:
        for size in _NOISE:
            yield Probe("noise", size, f"noise {size:g} sd", _shift_each(_add_noise(size * scale, seed)))


def _add_noise(size: float, seed: int) -> Any:
    return lambda v, first: v + size * np.random.default_rng([seed, 0x4015E, first]).standard_normal(v.shape)


def _shift_each(change: Any) -> Shift:
    def shift(feeds: dict[str, Any], first: int) -> dict[str, Any]:
        return {
            n: np.asarray(change(v.astype(np.float64), first)).astype(v.dtype) if _is_float(v) else v
            for n, v in feeds.items()
        }

    return shift


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fV"
