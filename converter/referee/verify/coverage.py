"""What a whole run leaves unseen: outputs that prove little, and branches that no input led into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from converter.records import Stage
from converter.records.evidence import Warning, WarningCode
from converter.referee.inputs.stream import count_nonfinite, list_arrays
from converter.referee.proto.diff import ChangedRegions
from converter.referee.proto.source import LoadedModel, list_bodies, make_body_key, walk_nodes
from converter.referee.verify.models import Outputs

_BODIES = (".then_branch", ".else_branch", ".body")


def find_constant_outputs(runs: Sequence[Outputs]) -> list[str]:
    """The outputs that were the same for two different inputs."""
    if len(runs) < 2:
        return []
    return [name for name in runs[0] if _is_same(runs[0][name], runs[1][name])]


def describe_outputs(runs: Sequence[Outputs], constant: Sequence[str], stages: Sequence[Stage]) -> list[Warning]:
    """Warnings of outputs whose parity proves little: the same for every input, or not finite."""
    said = "does not depend on the inputs: its parity proves little"
    warnings = [Warning(WarningCode.CONSTANT_OUTPUT, f"output {name!r} {said}") for name in constant]
    n_bad = sum(count_nonfinite(value) for run in runs for value in run.values())
    if n_bad:
        hit = sum(any(count_nonfinite(value) for value in run.values()) for run in runs)
        what = f"{hit} of {len(runs)} inputs, {n_bad} NaN or Inf elements"
        said = f"the original's outputs are not finite for {what}; they count as equal where both are"
        warnings.append(Warning(WarningCode.NOT_FINITE, said))
    overflown = [check for stage in stages for check in stage.outputs if "overflow" in check.detail]
    return warnings + [Warning(WarningCode.OVERFLOW, f"output {c.name!r}: {c.detail['overflow']}") for c in overflown]


def _is_same(first: Any, second: Any) -> bool:
    """Whether two different inputs gave the same output, row by row where the batch size differs."""
    left, right = list_arrays(first), list_arrays(second)
    if len(left) != len(right):
        return False
    return all(_equal_rows(x, y) for x, y in zip(left, right, strict=True))


def _equal_rows(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> bool:
    if x.dtype.kind == "V" or x.dtype != y.dtype:
        return False
    if x.dtype.kind == "f" and not np.isfinite(x).any():
        return False  # what is no number says nothing of the inputs
    nan = x.dtype.kind == "f"
    if x.shape == y.shape:
        return bool(np.array_equal(x, y, equal_nan=nan))
    if x.shape[1:] != y.shape[1:] or not x.ndim or not len(x) or not len(y):
        return False
    return all(np.array_equal(x[0], row, equal_nan=nan) for row in (*x, *y))


def _count_nonfinite(value: Any) -> int:
    return sum(int(np.count_nonzero(~np.isfinite(x))) for x in list_arrays(value) if x.dtype.kind == "f")


def find_unexecuted(difference: ChangedRegions, ran: frozenset[str]) -> ChangedRegions:
    """The rewritten places in branches that are not among those that ``ran``."""
    places = tuple(s for s in difference.regions if s.scope.endswith(_BODIES) and not s.scope.endswith(tuple(ran)))
    inner = [n for n in difference.unmatched if any(f"{body}/" in n for body in _BODIES)]
    return ChangedRegions(places, tuple(n for n in inner if not any(f"{body}/" in n for body in ran)))


def describe_unexecuted(source: LoadedModel, ran: frozenset[str]) -> list[Warning]:
    """A warning of the branches of the original that no input led into, where a float64 run has shown it."""
    bodies = {make_body_key("", n, name) for n in walk_nodes(source.proto) for name, _ in list_bodies(n)}
    missed = sorted(bodies - ran)
    if not ran or not missed:
        return []
    some = ", ".join(key.removeprefix("/") for key in missed[:3])
    count = f"{len(missed)} branches" if len(missed) > 1 else "1 branch"
    said = f"{count} ran on no input, so that no output says anything of them: {some}"
    return [Warning(WarningCode.BRANCH_NOT_RUN, said)]
