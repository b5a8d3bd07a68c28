"""What the models decide, as deployed, on the user's inputs: bounds on how often, and how much, it changes.

Without labels: |accuracy(A) - accuracy(B)| is at most the share of inputs that are decided differently, whatever
the labels are. With labels: Tango's score interval of the paired difference. For any other metric, a paired bootstrap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np

from converter.errors import DataError, ModelError
from converter.records import OutputCheck, Stage, Verdict
from converter.verify.algebra import worst
from converter.verify.decision_metric import Collected
from converter.verify.feeds import check_given
from converter.verify.judgement import judged
from converter.verify.measure import gap
from converter.verify.options import Options
from converter.verify.samples import Sample, Stream
from converter.verify.side import Outputs, Side
from converter.verify.votes import Votes, classifies

_KEPT = 16  # inputs that are decided differently, kept for a replay
_NONE = "no output is a classifier's (scores [N, C]); name one with --decision, or give a --metric"


@dataclass(slots=True)
class Decided:
    """The stage, and the inputs that show why it did not pass."""

    stage: Stage
    failing: list[dict[str, Any]] = field(default_factory=list)


def decision(a: Side, b: Side, options: Options) -> Decided:
    """Run both models over everything there is, one input after the other, keeping counts alone.

    Raises
    ------
    DataError
        Labels do not fit, or an output that was named decides nothing.
    """
    assert options.stream is not None
    made = _Count(a, b, options)
    try:
        made.run(options.stream)
    finally:
        a.close()
        b.close()
    return made.conclude()


class _Count:
    """One pass over the inputs."""

    def __init__(self, a: Side, b: Side, options: Options) -> None:
        self._a, self._b = a, b
        self._options, self._ask = options, options.deciding
        self._votes: dict[str, Votes] = {}
        self._problems: dict[str, str] = {}
        self._failing: list[dict[str, Any]] = []
        self._labels = _Labels(self._ask.labels)
        self._collected = None if self._ask.metric == "top1" else Collected(self._ask.metric, options)
        self._runs = 0
        self._stopped = False

    def run(self, stream: Stream) -> None:
        begun = monotonic()
        for sample in stream.all():
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
        self._labels.finish(self._runs, stopped=self._stopped)

    def _note(self, sample: Sample, left: Outputs, right: Outputs) -> None:
        if not self._runs:
            self._votes = {name: Votes() for name in self._watched(left)}
        self._runs += 1
        unlike = False
        for name, value in left.items():
            if problem := gap(value, right.get(name)).problem:
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

    def _watched(self, values: Outputs) -> list[str]:
        unknown = [n for n in self._ask.outputs if n not in values]
        if unknown:
            raise DataError(f"{unknown[0]!r} is not an output of the model; its outputs are {', '.join(values)}")
        found = list(self._ask.outputs)
        if not found and self._collected is None:
            found = [n for n, v in values.items() if classifies(v)]
        if len(found) > 1 and self._labels.given:
            raise DataError(f"labels are of one output, and {', '.join(found)} decide; name one with --decision")
        return found

    def conclude(self) -> Decided:
        checks = list(self._checks())
        detail = {"inputs": self._runs, "margin": self._ask.margin, "alpha": self._ask.alpha}
        if not checks:
            return Decided(Stage("decision", Verdict.SKIPPED, _NONE, (), detail))
        bad = [c for c in checks if c.status is not Verdict.PASS]
        first = (bad or checks)[0]
        more = "; stopped by --max-time" if self._stopped and bad else ""
        stage = Stage("decision", worst(checks), f"{_named(first.name)}{first.why}{more}", tuple(checks), detail)
        return Decided(stage, self._failing if stage.status is not Verdict.PASS else [])

    def _checks(self) -> Iterator[OutputCheck]:
        for name, why in self._problems.items():
            yield OutputCheck(name, Verdict.FAIL, why=why)
        for name, votes in self._votes.items():
            if name not in self._problems and votes.rows:
                yield judged(name, votes, self._ask)
        if self._collected is not None and not self._problems:
            yield self._collected.judged(self._ask, self._options.seed)


class _Labels:
    """Labels from a file, row after row, or from the samples themselves."""

    def __init__(self, rows: np.ndarray[Any, Any] | None) -> None:
        self._rows, self._at = rows, 0
        self.given = rows is not None

    def take(self, sample: Sample, value: Any) -> np.ndarray[Any, Any] | None:
        count = len(value) if np.ndim(value) else 1
        if self._rows is None:
            if sample.label is None:
                return None
            return np.asarray(sample.label).reshape(-1) if np.ndim(sample.label) == 0 else np.asarray(sample.label)
        part = self._rows[self._at : self._at + count]
        self._at += count
        if len(part) < count:
            raise DataError(f"there are {len(self._rows)} labels for more rows; give one per row of the inputs")
        return part

    def finish(self, runs: int, *, stopped: bool) -> None:
        if self._rows is not None and runs and not stopped and 0 < self._at < len(self._rows):
            raise DataError(f"there are {len(self._rows)} labels for {self._at} rows; give one per row of the inputs")


def _named(name: str) -> str:
    return f"{name!r}: " if name else ""
