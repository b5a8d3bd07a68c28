"""Two arms compared, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from converter.study import statistics as stats
from converter.study.statistics import Judged

Row = Mapping[str, Any]
Result = dict[str, Any]


def mean_interval(values: Sequence[float]) -> Result:
    """Mean with its 95 % interval over seeds."""
    low, high = stats.t_interval(values, 0.95)
    return {"n": len(values), "mean": float(np.mean(values)), "low": low, "high": high, "median": median(values)}


def arms(rows: Iterable[Row], where: Mapping[str, Any]) -> dict[int, float]:
    """Accuracy by seed of the models that have these values."""
    return {r["seed"]: r["accuracy"] for r in rows if all(r[k] == v for k, v in where.items())}


def differences(first: Mapping[int, float], second: Mapping[int, float]) -> list[float]:
    """First minus second, of the seeds that both have."""
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def values(rows: Iterable[Row], key: str) -> list[Any]:
    return sorted({row[key] for row in rows})


def compared(rows: Sequence[Row], keys: Sequence[str], margin: float, share: float) -> list[Result]:
    """With biases against without, for every combination of ``keys``, judged as one family."""
    places = sorted({tuple(row[k] for k in keys) for row in rows}, key=_rank)
    pairs = []
    for place in places:
        at = dict(zip(keys, place, strict=True))
        pairs.append((at, arms(rows, at | {"bias": "all"}), arms(rows, at | {"bias": "head"})))
    family = [differences(a, b) for _, a, b in pairs]
    judged = stats.judge(family, margin, share)
    return [_comparison(at, a, b, j) for (at, a, b), j in zip(pairs, judged, strict=True)]


_FIRST = {"raw": 0, "centred": 1, "batch": 0, "instance": 1, "layer": 2}


def _rank(place: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_FIRST.get(v, v) if isinstance(v, str) else v for v in place)


def _comparison(at: Result, a: Mapping[int, float], b: Mapping[int, float], judged: Judged) -> Result:
    wrong = [100 - float(np.mean(list(arm.values()))) for arm in (a, b)]
    ratio = wrong[1] / wrong[0] if wrong[0] > 0 else math.nan
    both = {"with": mean_interval(list(a.values())), "without": mean_interval(list(b.values()))}
    return at | both | {"error_ratio": ratio} | asdict(judged)
