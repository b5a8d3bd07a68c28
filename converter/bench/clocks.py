"""Blocks watched by the GPU's clock: unsteady ones are said to be so, and times can be read as cycles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from converter.bench.pairs import Samples
from converter.runtime.gpu import Reading

Read = Callable[[], Reading]

_DRIFT = 0.03  # of the clock between the halves of a block


def watched(take: Callable[[int], Samples], count: int, read: Read | None) -> tuple[Samples, dict[str, Any]]:
    """Time ``count`` pairs in two halves and read the clock after each; without a clock, in one go."""
    if read is None or count < 2:
        return take(count), {}
    first = take(count // 2)
    early = read()
    second = take(count - count // 2)
    late = read()
    return first + second, _detail((first, second), (early, late))


def _detail(halves: tuple[Samples, Samples], clocks: tuple[Reading, Reading]) -> dict[str, Any]:
    throttled = sorted({why for clock in clocks for why in clock.throttled})
    early, late = (clock.sm_mhz for clock in clocks)
    drift = abs(late - early) / max(early, late, 1.0)
    # Time times clock is work: a difference that is gone in cycles was a difference of clocks.
    both = tuple(zip(halves, clocks, strict=True))
    cycles = [
        np.concatenate([np.multiply(getattr(half, side), clock.sm_mhz) for half, clock in both]) for side in ("a", "b")
    ]
    return {
        "sm_clock_mhz": [early, late],
        "throttle": throttled,
        "unsteady": bool(throttled) or drift > _DRIFT,
        "cycles_log_ratio": math.log(float(np.median(cycles[1]) / np.median(cycles[0]))) if early and late else None,
    }
