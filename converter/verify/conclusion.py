"""From stages to one verdict, one level and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.records import Parity, Stage, Verdict
from converter.verify.measure import leaves
from converter.verify.options import STAGES

if TYPE_CHECKING:
    from converter.verify.whole import Referee

_NO_NUMBERS = ("environment", "structure")


def conclude(referee: Referee, level: str, scope: str) -> Parity:
    """The parity that a referee's stages amount to."""
    stages = in_order(referee.stages)
    verdict = combined(stages)
    numbers = [s for s in stages if s.outputs and s.id not in _NO_NUMBERS]
    blamed = next((s for s in numbers if s.status is verdict), None)
    if verdict is Verdict.PASS:
        why = "; ".join(f"{s.id}: {s.why}" for s in numbers if s.status is Verdict.PASS)
    elif blamed is not None:
        why = f"{blamed.id}: {blamed.why}"
    else:
        failed = [s for s in stages if s.status is verdict]
        why = failed[0].why if failed else "nothing could be compared"
    if not numbers:
        level = "D"
    if scope == "per-rewrite":
        why = f"checked per rewrite: {why}"
    return Parity(verdict, level, stages, tuple(referee.warnings), scope, why)


def in_order(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages in the order in which they are told of, cheapest first."""
    return tuple(sorted(stages, key=lambda s: STAGES.index(s.id) if s.id in STAGES else len(STAGES)))


def combined(stages: Sequence[Stage]) -> Verdict:
    """FAIL if any stage fails, INCONCLUSIVE if any is or no numbers were compared, else PASS."""
    seen = [s.status for s in stages]
    if Verdict.FAIL in seen:
        return Verdict.FAIL
    compared = [s for s in stages if s.id not in _NO_NUMBERS and s.status is Verdict.PASS]
    return Verdict.INCONCLUSIVE if Verdict.INCONCLUSIVE in seen or not compared else Verdict.PASS


def look_at_outputs(referee: Referee) -> None:
    """Warn of outputs whose parity proves little: the same for every input, or not finite."""
    runs = [c.runtime or c.exact or {} for c in referee.cases.items]
    for name in runs[0]:
        if len(runs) > 1 and _same_for_all(runs[0][name], runs[1][name]):
            referee.warnings.append(f"output {name!r} does not depend on the inputs: its parity proves little")
    n_bad = sum(_nonfinite(value) for run in runs for value in run.values())
    if n_bad:
        hit = sum(any(_nonfinite(value) for value in run.values()) for run in runs)
        what = f"{hit} of {len(runs)} inputs, {n_bad} NaN or Inf elements"
        referee.warnings.append(f"the original's outputs are not finite for {what}; they count as equal where both are")
    for check in (c for s in referee.stages for c in s.outputs if "overflow" in c.detail):
        referee.warnings.append(f"output {check.name!r}: {check.detail['overflow']}")


def _same_for_all(first: Any, second: Any) -> bool:
    """Whether two different inputs gave the same output, row by row where the batch size differs."""
    left, right = leaves(first), leaves(second)
    if len(left) != len(right):
        return False
    return all(_equal_rows(x, y) for x, y in zip(left, right, strict=True))


def _equal_rows(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> bool:
    if x.dtype.kind == "V" or x.dtype != y.dtype:
        return False
    nan = x.dtype.kind == "f"
    if x.shape == y.shape:
        return bool(np.array_equal(x, y, equal_nan=nan))
    if x.shape[1:] != y.shape[1:] or not x.ndim or not len(x) or not len(y):
        return False
    return all(np.array_equal(x[0], row, equal_nan=nan) for row in (*x, *y))


def _nonfinite(value: Any) -> int:
    return sum(int(np.count_nonzero(~np.isfinite(x))) for x in leaves(value) if x.dtype.kind == "f")
