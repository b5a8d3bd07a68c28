"""What the models decide, as deployed, on the user's inputs: bounds on how often, and how much, it changes.

Without labels: |accuracy(A) - accuracy(B)| is at most the share of inputs that are decided differently, whatever
the labels are. With labels: Tango's score interval of the paired difference. For any other metric, a paired bootstrap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from time import monotonic
from typing import Any

import numpy as np

from converter.dataclass import dataclass
from converter.errors import DataError, ModelError
from converter.records import OutputCheck, Stage, Verdict
from converter.records.evidence import worst_verdict
from converter.referee.inputs.files import call_function, load_function
from converter.referee.inputs.stream import Sample, Stream, list_arrays
from converter.referee.proto.inference import format_size
from converter.referee.proto.random_inputs import check_given
from converter.referee.verify.metrics import Array, measure_difference
from converter.referee.verify.models import ModelUnderTest, Outputs
from converter.referee.verify.options import DecisionRequest, Options
from converter.stats import (
    RESAMPLES,
    bootstrap,
    bootstrap_mean,
    bounded_mean,
    clopper_pearson,
    mcnemar,
    needed_with_labels,
    needed_without_labels,
    tango,
)


def classifies(value: Any) -> bool:
    """Whether an output is taken for a decision unasked: scores [N, C], or an integer map of classes."""
    if not isinstance(value, np.ndarray):
        return False
    if value.dtype.kind in "fV":
        return value.ndim == 2 and value.shape[1] >= 2
    return value.dtype.kind in "iu" and value.ndim >= 3


def find_class_axis(value: Array) -> int | None:
    """The axis that holds scores: the second, of sequences [N, T, C] the last; integers are classes already."""
    if value.dtype.kind in "iub":
        return None
    if value.ndim < 2:
        raise DataError(f"an output of shape {list(value.shape)} decides nothing: it has no axis of classes")
    return value.ndim - 1 if value.ndim == 3 else 1


@dataclass(slots=True)
class AgreementCounts:
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
    classes: int = 0  # 0 where the output holds them itself
    strange: int = 0  # labels that are none of these

    def add(self, a: Array, b: Array, labels: Array | None) -> bool:
        """Count one run; whether any row of it decides differently."""
        axis = find_class_axis(a)
        first, second = (_find_classes(v, axis) for v in (a, b))
        unlike = first != second
        self.rows += len(unlike)
        self.maps |= unlike.ndim > 1
        self.differ += float(unlike.reshape(len(unlike), -1).mean(axis=1).sum())
        if axis is not None:
            self.scored += len(unlike)
            self.certified += int(_find_certified(a, b, axis).sum())
        if labels is not None:
            self.classes = a.shape[axis] if axis is not None else 0
            self._score(first, second, labels)
        return bool(unlike.any())

    def _score(self, first: Array, second: Array, labels: Array) -> None:
        labels = labels.reshape(first.shape) if labels.size == first.size else labels
        if labels.shape != first.shape:
            raise DataError(f"labels of shape {list(labels.shape)} do not fit decisions of shape {list(first.shape)}")
        hits_a, hits_b = first == labels, second == labels
        self.labelled += len(labels)
        if self.classes:
            self.strange += int(((labels < 0) | (labels >= self.classes)).sum())
        if first.ndim > 1:  # of a map, the share of its points
            self.right_a += float(hits_a.reshape(len(labels), -1).mean(axis=1).sum())
            self.right_b += float(hits_b.reshape(len(labels), -1).mean(axis=1).sum())
            return
        self.right_a += int(hits_a.sum())
        self.right_b += int(hits_b.sum())
        self.gained += int((hits_b & ~hits_a).sum())
        self.lost += int((hits_a & ~hits_b).sum())


def _find_classes(value: Array, axis: int | None) -> Array:
    if axis is not None:
        return np.asarray(np.argmax(value, axis=axis))
    return value.reshape(1) if value.ndim == 0 else value


def _find_certified(a: Array, b: Array, axis: int) -> Array:
    """Rows in which no decision can flip: |delta| <= d moves two scores by at most 2 d against each other."""
    wide_a, wide_b = (np.moveaxis(np.asarray(v, np.float64), axis, -1) for v in (a, b))
    top = np.partition(wide_a, -2, axis=-1)[..., -2:]
    with np.errstate(all="ignore"):
        safe = top[..., 1] - top[..., 0] > 2 * np.abs(wide_b - wide_a).max(axis=-1)
    return np.asarray(safe.reshape(len(safe), -1).all(axis=1))


def decide(name: str, votes: AgreementCounts, ask: DecisionRequest) -> OutputCheck:
    """One output: by labels where all rows have one (and decide one thing each), else by disagreement."""
    detail: dict[str, object] = {"n": votes.rows, "margin": ask.margin, "alpha": ask.alpha}
    if votes.scored:
        detail["certified"] = votes.certified / votes.scored
    if votes.labelled:
        detail |= {"accuracy_a": votes.right_a / votes.labelled, "accuracy_b": votes.right_b / votes.labelled}
    if votes.labelled == votes.rows and not votes.maps:
        return _decide_labelled(name, votes, ask, detail)
    return _decide_unlabelled(name, votes, ask, detail)


def _decide_unlabelled(
    name: str, votes: AgreementCounts, ask: DecisionRequest, detail: dict[str, object]
) -> OutputCheck:
    n, k = votes.rows, votes.differ
    rate = k / n
    low, high = bounded_mean(rate, n, ask.alpha) if votes.maps else clopper_pearson(k, n, ask.alpha)
    needed = needed_without_labels(k, n, ask.margin, ask.alpha)
    what = "pixel_disagreement" if votes.maps else "top1_disagreement"
    detail |= {"metric": what, "k": k, "rate": rate, "lower": low, "upper": high, "needed_n": needed}
    sure, margin = _format_confidence(ask), format_percent(ask.margin)
    seen = f"{format_percent(rate)} of the points" if votes.maps else f"{k:.0f} of {n:,} inputs"
    text = f"{seen} decided differently: at most {format_percent(high)} ({sure})"
    if high <= ask.margin:
        return OutputCheck(name, Verdict.PASS, rate, ask.margin, detail=detail, why=f"{text}, margin {margin}")
    if low > ask.margin:
        why = f"{seen} decided differently, at least {format_percent(low)} ({sure}), above {margin}"
        return OutputCheck(name, Verdict.FAIL, rate, ask.margin, detail=detail, why=why)
    hint = _format_needed(needed, ask) if needed else f"as many of more inputs would not meet the margin of {margin}"
    return OutputCheck(name, Verdict.INCONCLUSIVE, rate, ask.margin, detail=detail, why=f"{text}; {hint}")


def _decide_labelled(name: str, votes: AgreementCounts, ask: DecisionRequest, detail: dict[str, object]) -> OutputCheck:
    n, difference = votes.rows, (votes.gained - votes.lost) / votes.rows
    strange = f", {votes.strange:,} labels being none of the {votes.classes} classes" if votes.strange else ""
    low, high = tango(votes.gained, votes.lost, n, ask.alpha)
    needed = needed_with_labels(votes.gained, votes.lost, n, ask.margin, ask.alpha)
    detail |= {
        "metric": "top1",
        "k": votes.differ,
        "gained": votes.gained,
        "lost": votes.lost,
        "difference": difference,
        "lower": low,
        "upper": high,
        "mcnemar_p": mcnemar(votes.gained, votes.lost),
        "needed_n": needed,
    }
    text = (
        f"accuracy {format_percent(votes.right_a / n)} and {format_percent(votes.right_b / n)} "
        f"of {n:,} inputs{strange}, "
        f"difference at least {format_signed(low)} ({_format_confidence(ask)})"
    )
    return decide_by_interval(name, difference, (low, high), ask, detail, text, _format_needed(needed, ask))


def decide_by_interval(
    name: str,
    difference: float,
    bounds: tuple[float, float],
    ask: DecisionRequest,
    detail: dict[str, object],
    text: str,
    hint: str,
) -> OutputCheck:
    """Non-inferiority: the lower bound of B - A is above -margin; a failure is shown, not merely not excluded."""
    low, high = bounds
    if low > -ask.margin:
        verdict, why = Verdict.PASS, f"{text}, margin {format_percent(ask.margin)}"
    elif high < -ask.margin:
        verdict, why = (
            Verdict.FAIL,
            f"{text}, at most {format_signed(high)}: worse than the margin of {format_percent(ask.margin)}",
        )
    else:
        verdict, why = Verdict.INCONCLUSIVE, f"{text}; {hint}"
    return OutputCheck(name, verdict, difference, -ask.margin, detail=detail, why=why)


def _format_needed(needed: int | None, ask: DecisionRequest) -> str:
    return f"need \u2265 {needed:,} inputs for {format_percent(ask.margin)}"


def _format_confidence(ask: DecisionRequest) -> str:
    return f"{100 * (1 - ask.alpha):g} % sure"


def format_percent(share: float) -> str:
    """``0.1 %``."""
    return f"{100 * share:.3g} %"


def format_signed(share: float) -> str:
    """``-0.1 %``, in points."""
    return f"{100 * share:+.3g} %"


_SECONDS = 60.0  # that the resamples of a metric over the whole set may take
_FEWEST = 200  # resamples below which a 5 % quantile says little


class MetricSamples:
    """The outputs of both models over all inputs, for ``function(outputs, labels)``.

    ``outputs`` is a list of dictionaries, one per input, ``labels`` a list of the same length (of None without
    labels). The function returns one number per input, of which the mean is taken, or one number for the whole
    set; more is better.
    """

    def __init__(self, text: str, options: Options) -> None:
        self._text, self._function = text, load_function(text)
        self._limit, self._bytes = options.max_memory, 0
        self._a: list[Outputs] = []
        self._b: list[Outputs] = []
        self._labels: list[Any] = []
        self._changed = 0

    def add(self, a: Outputs, b: Outputs, label: Any) -> None:
        """Keep one run's outputs."""
        self._bytes += sum(part.nbytes for values in (a, b) for v in values.values() for part in list_arrays(v))
        if self._bytes > self._limit:
            size = format_size(self._limit)
            raise DataError(f"{self._text}: the outputs take more than {size}; give fewer --samples or --max-memory")
        self._a.append(a)
        self._b.append(b)
        self._labels.append(label)
        self._changed += any(
            not np.array_equal(x, y) for n in a for x, y in zip(list_arrays(a[n]), list_arrays(b[n]), strict=True)
        )

    def decide(self, ask: DecisionRequest, seed: int) -> OutputCheck:
        """The verdict on metric(B) - metric(A)."""
        n = len(self._a)
        before, after = self._scores(self._a, self._labels), self._scores(self._b, self._labels)
        name = self._text.rpartition(":")[2]
        detail: dict[str, object] = {"metric": self._text, "n": n, "margin": ask.margin, "alpha": ask.alpha}
        detail |= {"score_a": float(before.mean()), "score_b": float(after.mean())}
        if before.shape == (n,) and n > 1:
            found = bootstrap_mean(after - before, ask.alpha, seed)
        else:
            found = bootstrap(self._difference, n, ask.alpha, seed, self._affordable())
        detail |= {"lower": found.low, "upper": found.high, "resamples": found.resamples}
        told = f"{name} {float(before.mean()):.5g} and {float(after.mean()):.5g}"
        if found.degenerate:
            return self._degenerate(name, n, found.difference, ask, detail, told)
        text = f"{told} over {n:,} inputs, difference at least {format_signed(found.low)} (bootstrap)"
        bounds = (found.low, found.high)
        return decide_by_interval(name, found.difference, bounds, ask, detail, text, "give more inputs")

    def _degenerate(
        self, name: str, n: int, difference: float, ask: DecisionRequest, detail: dict[str, object], told: str
    ) -> OutputCheck:
        """Where nothing varies the bootstrap has no width: bounded by how many inputs may change at all."""
        high = clopper_pearson(0, n, ask.alpha)[1]
        needed = needed_without_labels(0, n, ask.margin, ask.alpha)
        detail |= {"upper": high, "needed_n": needed, "degenerate": True}
        text = (
            f"{told} over {n:,} inputs, the same in every resample: at most {format_percent(high)} of inputs can differ"
        )
        if difference < -ask.margin and n * ask.alpha >= 1:
            return OutputCheck(name, Verdict.FAIL, difference, -ask.margin, detail=detail, why=told)
        if high <= ask.margin:
            return OutputCheck(name, Verdict.PASS, difference, -ask.margin, detail=detail, why=text)
        why = f"{text}; need \u2265 {needed:,} inputs for {format_percent(ask.margin)}"
        return OutputCheck(name, Verdict.INCONCLUSIVE, difference, -ask.margin, detail=detail, why=why)

    def _scores(self, outputs: list[Outputs], labels: list[Any]) -> np.ndarray[Any, Any]:
        made = np.asarray(call_function(self._text, self._function, outputs, labels))
        if made.dtype.kind not in "fiub" or made.size not in (1, len(outputs)):
            raise DataError(f"{self._text}: gave {made.dtype} {list(made.shape)}; return a number, or one per input")
        if not np.isfinite(made.astype(np.float64)).all():
            raise DataError(f"{self._text}: gave a value that is not finite")
        return np.asarray(made, np.float64).reshape(-1)

    def _difference(self, index: np.ndarray[Any, Any]) -> float:
        labels = [self._labels[k] for k in index]
        a, b = ([side[k] for k in index] for side in (self._a, self._b))
        return float(self._scores(b, labels).mean() - self._scores(a, labels).mean())

    def _affordable(self) -> int:
        """As many resamples as a metric of this speed allows."""
        begun = monotonic()
        self._difference(np.arange(len(self._a)))
        return int(min(RESAMPLES, max(_FEWEST, _SECONDS / max(monotonic() - begun, 1e-9))))


_ENDING = {"npz", "npy", "polygraphy", "ort-test-data", "given"}  # kinds of inputs whose end is soon read
_KEPT = 16  # inputs that are decided differently, kept for a replay
_NONE = "no output is a classifier's (scores [N, C]); name one with --decision, or give a --metric"


@dataclass(slots=True)
class DecisionResult:
    """The stage, and the inputs that show why it did not pass."""

    stage: Stage
    failing: list[dict[str, Any]] = field(default_factory=list)


def run_decisions(a: ModelUnderTest, b: ModelUnderTest, options: Options) -> DecisionResult:
    """Run both models over everything there is, one input after the other, keeping counts alone.

    Raises
    ------
    DataError
        Labels do not fit, or an output that was named decides nothing.
    """
    assert options.stream is not None
    made = _DecisionRun(a, b, options)
    try:
        made.run(options.stream)
    finally:
        a.close()
        b.close()
    return made.conclude()


class _DecisionRun:
    """One pass over the inputs."""

    def __init__(self, a: ModelUnderTest, b: ModelUnderTest, options: Options) -> None:
        self._a, self._b = a, b
        self._options, self._ask = options, options.deciding
        self._votes: dict[str, AgreementCounts] = {}
        self._problems: dict[str, str] = {}
        self._failing: list[dict[str, Any]] = []
        self._labels = _Labels(self._ask.labels)
        self._collected = None if self._ask.metric == "top1" else MetricSamples(self._ask.metric, options)
        self._runs = 0
        self._stopped = False

    def run(self, stream: Stream) -> None:
        begun, samples = monotonic(), stream.all()
        for sample in samples:
            if self._ask.max_time is not None and self._runs and monotonic() - begun > self._ask.max_time:
                self._stopped = True
                break
            if self._runs % 50 == 0:
                self._options.progress(f"decisions: input {self._runs + 1}")
            check_given(self._a.source.proto, sample.feeds)
            left = self._a.run(sample.feeds)
            try:
                right = self._b.run(sample.feeds)
            except (DataError, ModelError) as exc:
                self._problems[""] = f"the original runs, the rewritten model does not: {exc}"
                self._failing.append(sample.feeds)
                break
            self._note(sample, left, right)
            if self._labels.missing:
                more = sum(s.rows for s in samples) if stream.kind in _ENDING else None
                raise self._labels.count_rows(more)
        self._labels.finish(self._runs, stopped=self._stopped)

    def _note(self, sample: Sample, left: Outputs, right: Outputs) -> None:
        if not self._runs:
            self._votes = {name: AgreementCounts() for name in self._list_watched(left)}
        self._runs += 1
        unlike = False
        for name, value in left.items():
            if problem := measure_difference(value, right.get(name)).problem:
                self._problems.setdefault(name, f"input {self._runs}: {problem}")
                unlike = True
        if not unlike:
            labels = self._labels.take(sample, left[next(iter(self._votes or left))])
            for name, votes in self._votes.items():
                unlike |= votes.add(left[name], right[name], labels)
            if self._collected is not None:
                self._collected.add(left, right, labels)
        if unlike and len(self._failing) < _KEPT:
            self._failing.append(sample.feeds)

    def _list_watched(self, values: Outputs) -> list[str]:
        unknown = [n for n in self._ask.outputs if n not in values]
        if unknown:
            raise DataError(f"{unknown[0]!r} is not an output of the model; its outputs are {', '.join(values)}")
        found = list(self._ask.outputs)
        if not found and self._collected is None:
            found = [n for n, v in values.items() if classifies(v)]
        if len(found) > 1 and self._labels.given:
            raise DataError(f"labels are of one output, and {', '.join(found)} decide; name one with --decision")
        return found

    def conclude(self) -> DecisionResult:
        checks = list(self._checks())
        detail = {"inputs": self._runs, "margin": self._ask.margin, "alpha": self._ask.alpha}
        if not checks:
            return DecisionResult(Stage("decision", Verdict.SKIPPED, _NONE, (), detail))
        bad = [c for c in checks if c.status is not Verdict.PASS]
        first = (bad or checks)[0]
        more = "; stopped by --max-time" if self._stopped and bad else ""
        stage = Stage(
            "decision",
            worst_verdict(c.status for c in checks),
            f"{_format_prefix(first.name)}{first.why}{more}",
            tuple(checks),
            detail,
        )
        return DecisionResult(stage, self._failing if stage.status is not Verdict.PASS else [])

    def _checks(self) -> Iterator[OutputCheck]:
        for name, why in self._problems.items():
            yield OutputCheck(name, Verdict.FAIL, why=why)
        for name, votes in self._votes.items():
            if name not in self._problems and votes.rows:
                yield decide(name, votes, self._ask)
        if self._collected is not None and not self._problems:
            yield self._collected.decide(self._ask, self._options.seed)


class _Labels:
    """Labels from a file, row after row, or from the samples themselves."""

    def __init__(self, rows: np.ndarray[Any, Any] | None) -> None:
        self._rows, self._at = rows, 0
        self.given = rows is not None
        self.missing = False  # there were fewer than rows

    def take(self, sample: Sample, value: Any) -> np.ndarray[Any, Any] | None:
        count = len(value) if np.ndim(value) else 1
        if self._rows is None:
            if sample.label is None:
                return None
            return np.asarray(sample.label).reshape(-1) if np.ndim(sample.label) == 0 else np.asarray(sample.label)
        part = self._rows[self._at : self._at + count]
        self._at += count
        self.missing = len(part) < count
        return None if self.missing else part

    def count_rows(self, more: int | None) -> DataError:
        """The error of labels that are too few for the rows so far, and ``more`` where it is known how many."""
        least, rows = ("at least ", self._at) if more is None else ("", self._at + more)
        n = 0 if self._rows is None else len(self._rows)
        return DataError(f"there are {n} labels for {least}{rows} rows; give one per row of the inputs")

    def finish(self, runs: int, *, stopped: bool) -> None:
        if self._rows is not None and runs and not stopped and 0 < self._at < len(self._rows):
            raise DataError(f"there are {len(self._rows)} labels for {self._at} rows; give one per row of the inputs")


def _format_prefix(name: str) -> str:
    return f"{name!r}: " if name else ""
