"""Names of another tool's model that no longer mean what they meant in the original.

Optimizers that fold a batch norm leave its output under the name of the convolution's. Held against the original's
tensor of that name the place is wrong; held against the tensor that followed, it is right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from converter.protos.source import Source
from converter.records import OutputCheck, Verdict

Array = np.ndarray[Any, Any]

# Other tools fold in float32, operation by operation: where a bias nearly cancels, that is 26 in a correct fold.
FOREIGN_LIMIT = 100.0
_PENDING = 8  # tensors that are held until they are recognised


@dataclass(eq=False, slots=True)
class _Pending:
    """A place that seems wrong, whose tensor may be another one of the original's that is still to come."""

    number: int  # of its check
    found: Array
    bound: Array


class Names:
    """Which tensors of the original the names of the rewritten model stand for."""

    def __init__(self, a: Source, b: Source, *, ours: bool) -> None:
        kept = {n for node in b.proto.graph.node for n in node.output}
        gone = {n for node in a.proto.graph.node for n in node.output} - kept
        self._gone = set() if ours else gone  # this tool keeps a name only where its value stays
        self._pending: list[_Pending] = []
        self.meant: dict[str, Any] = {}  # by name, the value of the tensor that it stands for

    def wait(self, number: int, found: Array, bound: Array) -> None:
        """The check of this number failed; its tensor may be one that is still to come."""
        if self._gone and len(self._pending) < _PENDING:
            self._pending.append(_Pending(number, found, bound))

    def made(self, name: str, value: Any, checks: list[OutputCheck]) -> None:
        """A tensor of the original was made: one that the rewritten model lacks may be one that is waited for."""
        for waiting in self._pending if name in self._gone else ():
            score = _apart(waiting.found, np.asarray(value), waiting.bound)
            if score <= FOREIGN_LIMIT:
                check = checks[waiting.number]
                detail = check.detail | {"score": score, "means": name}
                found = {"score": score, "limit": FOREIGN_LIMIT, "detail": detail, "why": ""}
                checks[waiting.number] = replace(check, status=Verdict.PASS, **found)  # type: ignore[arg-type]
                self.meant[check.name] = value
                self._pending.remove(waiting)
                return


def _apart(found: Array, value: Array, bound: Array) -> float:
    if found.shape != value.shape or value.dtype.kind != "f":
        return math.inf
    return float(ratios(found, value, bound).max(initial=0.0))


def ratios(found: Array, expected: Array, bound: Array) -> Array:
    """Every element's distance in units of its bound; infinite where it is not a number."""
    with np.errstate(all="ignore"):
        ratio = np.abs(found - expected) / bound
    return np.where(np.isfinite(ratio), ratio, np.inf)
