"""A metric of the user's own, on both models' outputs, judged by a paired bootstrap."""

from __future__ import annotations

from time import monotonic
from typing import Any

import numpy as np

from converter.errors import DataError
from converter.records import OutputCheck, Verdict
from converter.verify.judgement import by_interval, percent, signed
from converter.verify.measure import leaves
from converter.verify.options import Deciding, Options
from converter.verify.scripts import call, load_function
from converter.verify.side import Outputs
from converter.verify.statistics import RESAMPLES, bootstrap, bootstrap_mean, clopper_pearson, needed_without_labels

_SECONDS = 60.0  # that the resamples of a metric over the whole set may take
_FEWEST = 200  # resamples below which a 5 % quantile says little


class Collected:
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
        self._bytes += sum(part.nbytes for values in (a, b) for v in values.values() for part in leaves(v))
        if self._bytes > self._limit:
            size = f"{self._limit / 2**30:.1f} GiB"
            raise DataError(f"{self._text}: the outputs take more than {size}; give fewer --samples or --max-memory")
        self._a.append(a)
        self._b.append(b)
        self._labels.append(label)
        self._changed += any(
            not np.array_equal(x, y) for n in a for x, y in zip(leaves(a[n]), leaves(b[n]), strict=True)
        )

    def judged(self, ask: Deciding, seed: int) -> OutputCheck:
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
        text = f"{told} over {n:,} inputs, difference at least {signed(found.low)} (bootstrap)"
        bounds = (found.low, found.high)
        return by_interval(name, found.difference, bounds, ask, detail, text, "give more inputs")

    def _degenerate(
        self, name: str, n: int, difference: float, ask: Deciding, detail: dict[str, object], told: str
    ) -> OutputCheck:
        """Where nothing varies the bootstrap has no width: bounded by how many inputs may change at all."""
        high = clopper_pearson(0, n, ask.alpha)[1]
        needed = needed_without_labels(0, n, ask.margin, ask.alpha)
        detail |= {"upper": high, "needed_n": needed, "degenerate": True}
        text = f"{told} over {n:,} inputs, the same in every resample: at most {percent(high)} of inputs can differ"
        if difference < -ask.margin and n * ask.alpha >= 1:
            return OutputCheck(name, Verdict.FAIL, difference, -ask.margin, detail=detail, why=told)
        if high <= ask.margin:
            return OutputCheck(name, Verdict.PASS, difference, -ask.margin, detail=detail, why=text)
        why = f"{text}; need \u2265 {needed:,} inputs for {percent(ask.margin)}"
        return OutputCheck(name, Verdict.INCONCLUSIVE, difference, -ask.margin, detail=detail, why=why)

    def _scores(self, outputs: list[Outputs], labels: list[Any]) -> np.ndarray[Any, Any]:
        made = np.asarray(call(self._text, self._function, outputs, labels))
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
