"""Conditions that passes share, as values; they ask the match for what it reads and changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.model.graph import Node, Tensor
from converter.records import Weight
from converter.rewrite.analysis.affine import Affine, stats_problem, training_problem
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.passes.base import Check, Decline, Match

# -- what a match is made of -----------------------------------------------------------------


def _attribute_problem(_: Facts, match: Match) -> str | None:
    for node in match.nodes:
        if node.function_attrs:
            return f"{node.label} takes {', '.join(node.function_attrs)} from each call of its function"
    return None


def _use_problem(facts: Facts, match: Match) -> Decline | None:
    problems = (facts.use_problem(tensor, reader) for tensor, reader in match.path)
    return next((p for p in problems if p is not None), None)


_RUN_TIME = ("overridable", "function-input", "not-constant")


def _read_problem(facts: Facts, match: Match) -> Decline | None:
    found = [facts.constants.problem(t) for t in (*match.constants_read, *match.constants_replaced)]
    return next((p for code in _RUN_TIME for p in found if p is not None and p[0] == code), None)


def _constant_problem(facts: Facts, match: Match) -> Decline | None:
    problem = _read_problem(facts, match)
    if problem is not None:
        return problem
    found = [facts.constants.problem(t) for t in match.constants_replaced]
    return next((p for p in found if p is not None), None)  # quantized: nothing else is left


def _type_problem(facts: Facts, match: Match) -> str | None:
    for tensor in match.constants_replaced or match.constants_read:
        dtype = facts.weight(tensor).dtype
        if not numerics.is_float(dtype):
            return f"{tensor.name!r} is {dtype}"
    return None


def shared_problem(facts: Facts, tensors: Sequence[Tensor]) -> str | None:
    """With --no-growth nothing is copied, unless what it is copied from goes."""
    if not facts.options.no_growth:
        return None
    for tensor in tensors:
        if facts.graph.n_uses(tensor) > 1 and not facts.may_copy(tensor):
            return f"{tensor.name!r} has other uses, so a copy would be needed"
    return None


ATTRIBUTES_KNOWN = Check("function-attribute", _attribute_problem)
ONE_READER = Check(("output-is-graph-output", "captured-by-subgraph", "several-readers"), _use_problem)
READABLE = Check(_RUN_TIME, _read_problem)  # of constants that stay; they may be quantized
CONSTANT = Check((*_RUN_TIME, "weight-quantized"), _constant_problem)
FLOAT = Check("not-float", _type_problem)
NOT_SHARED = Check("weight-shared", lambda f, m: shared_problem(f, m.constants_replaced))

# -- what batch norms and arithmetic compute --------------------------------------------------


def _each(problem: Callable[[Facts, Affine], str | None]) -> Callable[[Facts, Match], str | None]:
    """The first problem of any of a match's affines."""
    return lambda facts, match: next((p for a in match.affines if (p := problem(facts, a)) is not None), None)


def channel_problem(facts: Facts, match: Any) -> str | None:
    """Why scale and shift are no vectors: what the match's own ``vectors`` says."""
    found = match.vectors(facts)
    return found if isinstance(found, str) else None


def _division_problem(_: Facts, affine: Affine) -> str | None:
    """constant / x is not affine."""
    return "it divides a constant by the value" if affine.node.is_op("Div") and affine.data == 1 else None


def _rounding_add(facts: Facts, affine: Affine) -> str | None:
    """Adding a number so large that the sum has no fraction left is rounding, most likely on purpose."""
    if not affine.node.is_op("Add", "Sub", "Sum") or not affine.params:
        return None
    weight = facts.weight(affine.params[0])
    largest = float(np.abs(weight.float64()).max(initial=0.0))
    # With p bits of precision, numbers from 2^(p-2) on are at least 1/2 apart.
    if numerics.is_float(weight.dtype) and largest >= 0.25 / numerics.unit_roundoff(weight.dtype):
        return f"it adds {largest:.3g}, which rounds {weight.dtype} to whole numbers"
    return None


def _variance_problem(facts: Facts, affine: Affine) -> str | None:
    """var + eps must be positive in every channel."""
    if not affine.is_bn:
        return None
    var = facts.float64(affine.params[3])
    if not np.isfinite(var).all():
        return None  # not-finite says so
    bad = numerics.first_bad(var + float(np.float32(affine.node.attr("epsilon", 1e-5))) <= 0)
    return None if bad is None else f"variance plus epsilon is not positive in channel {bad} ({var[bad]:.3g})"


def finite_problem(facts: Facts, affine: Affine, more: Sequence[Tensor] = ()) -> str | None:
    """Every parameter must be finite, those in `more` too, and no divisor zero."""
    for tensor in (*affine.params, *more):
        bad = numerics.first_bad(~np.isfinite(facts.float64(tensor)).reshape(-1))
        if bad is not None:
            return f"{tensor.name!r} is not finite at element {bad}"
    if affine.node.is_op("Div"):
        bad = numerics.first_bad(facts.float64(affine.params[0]).reshape(-1) == 0)
        return None if bad is None else f"it divides by zero at element {bad}"
    return None


INFERENCE_FORM = Check("training-mode", _each(lambda _, a: training_problem(a)))
NOT_DIVIDED = Check("divides-by-result", _each(_division_problem))
NOT_FOR_ROUNDING = Check("rounding-add", _each(_rounding_add))
VECTOR_STATISTICS = Check("spatial-stats", _each(stats_problem))
POSITIVE_VARIANCE = Check("non-positive-variance", _each(_variance_problem))
PER_CHANNEL = Check("not-per-channel", channel_problem)
FINITE = Check("not-finite", _each(finite_problem))

# Batch norms and arithmetic whose constants a pass reads, with what lies between them.
AFFINE = (
    ATTRIBUTES_KNOWN,
    INFERENCE_FORM,
    ONE_READER,
    NOT_DIVIDED,
    CONSTANT,
    NOT_FOR_ROUNDING,
    VECTOR_STATISTICS,
    FLOAT,
    POSITIVE_VARIANCE,
    FINITE,
)

# -- what a pass would write ------------------------------------------------------------------


def overflow_problem(value: NDArray[np.float64] | None, weight: Weight, what: str) -> str | None:
    """A vector must stay finite in the weight's type."""
    if value is None:
        return None
    stored = numerics.round_to(value, weight.dtype).astype(np.float64).reshape(-1)
    bad = numerics.first_bad(~np.isfinite(stored))
    return None if bad is None else f"{what} would not be finite in {weight.dtype} (channel {bad % value.shape[-1]})"


def underflow_problem(
    value: NDArray[np.float64], weight: Weight, what: str, shift: NDArray[np.float64] | float = 0.0
) -> str | None:
    """A factor must keep its relative precision: one lost to underflow would silence what it multiplies.

    Not where the channel's shift, or its neighbours, hide all that it multiplies.
    """
    lost = numerics.find_underflow(value, weight.dtype)
    bad = numerics.first_bad(~numerics.is_hidden(lost, np.asarray(shift), value, weight.dtype).reshape(-1))
    return None if bad is None else f"{what} would lose its small values in {weight.dtype} (element {bad})"


def name_problem(facts: Facts, node: Node, slot: int) -> str | None:
    """An input that is its graph's output, or input, cannot take over the name of an output."""
    source, result = node.tensor_in(slot), node.tensor_out(0)
    if source is None or result is None or not result.external_uses:
        return None
    producer = facts.graph.producer(source)
    if producer is None or source.external_uses or source.scope is not node.scope:
        return f"{result.name!r} is an output of its graph, and {source.name!r} has a name to keep too"
    return None


def bias_required(node: Node) -> str | None:
    """Gemm's C may be left out from opset 11 on."""
    if node.is_op("Gemm") and node.scope.opset < 11:
        return f"before opset 11 {node.label} must have a C"
    return None
