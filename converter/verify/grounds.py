"""What the judgement of outputs rests on beside the outputs: noise, trust, and the types' own precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converter.protos.source import Source, dtype_of, free_inputs, ports
from converter.verify.measure import gap, is_number, leaves
from converter.verify.pair import Case
from converter.verify.side import Outputs

_TRUST = {"float16": 3e-2, "bfloat16": 0.25}
_TRUST_ELSE = 1e-3
_UNITS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float64": 2.0**-53}


@dataclass(frozen=True, slots=True)
class Ground:
    """What else the judgement of a stage rests on."""

    noise: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of the original against itself
    trusted: frozenset[str] = frozenset()  # outputs whose reference has earned its trust at strict precision
    strict: Sequence[Outputs] = ()  # what the original gave there
    extra: Sequence[Case] = ()  # of other sizes, without a float64 run: held to the errors of the others


def furthest(cases: Sequence[Case], after: Sequence[Outputs]) -> int:
    """Which input shows the difference best."""
    distances = []
    for case, got in zip(cases, after, strict=True):
        gaps = [gap(value, got.get(name)) for name, value in (case.runtime or {}).items()]
        distances.append(max((math.inf if g.problem or g.mismatches else g.relative for g in gaps), default=0.0))
    return max(range(len(cases)), key=distances.__getitem__, default=0)


def _lost(exact: Any, ran: Any) -> int:
    if not (is_number(exact) and is_number(ran)) or exact.shape != ran.shape:
        return 0
    with np.errstate(all="ignore"):
        return int(np.count_nonzero(np.isfinite(exact) & ~np.isfinite(ran.astype(exact.dtype))))


def of(values: Outputs | None, name: str) -> Any:
    return None if values is None else values.get(name)


def _low_types(source: Source) -> set[str]:
    """Narrow float types in the model's interface and weights: they widen what counts as agreement."""
    model = source.proto
    seen = {p.dtype for p in (*free_inputs(model).values(), *ports(model.graph.output).values())}
    seen |= {dtype_of(t.data_type) for t in model.graph.initializer}
    return {str(t) for t in seen if t is not None} & set(_TRUST)


def unit(values: Outputs | None, name: str) -> float:
    return _UNITS.get(str(getattr(of(values, name), "dtype", "")), 2.0**-24)


def trust(source: Source) -> float:
    """How far the reference may be from onnxruntime, as a part of the output, and still count."""
    return max([_TRUST.get(t, _TRUST_ELSE) for t in _low_types(source)], default=_TRUST_ELSE)


def overflow(cases: Sequence[Case], name: str) -> str:
    """Where the original is not finite although it should be, in float64; empty where it is nowhere."""
    count = 0
    for case in cases:
        if case.exact is not None and name in case.exact:
            count += sum(
                _lost(x, y) for x, y in zip(leaves(case.exact[name]), leaves(of(case.runtime, name)), strict=False)
            )
    return f"the original overflows: {count} elements are finite in float64 only" if count else ""
