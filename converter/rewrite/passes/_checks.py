"""Conditions that several passes share, each as one clause or None."""

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
from converter.rewrite.passes.base import Guard

# code -> what the condition is for
USES = {
    "output-is-graph-output": "the value before the fold would change, and the caller sees it",
    "captured-by-subgraph": "a control-flow body reads the value that would change",
    "several-readers": "another node reads the value that would change",
}
CONSTANTS = {
    "overridable": "an initializer that is also a graph input (IR 4 and later) can be replaced by the caller",
    "function-input": "a function's input differs from call to call",
    "not-constant": "only constants can be folded",
}
QUANTIZED = "weight-quantized"


def use_guards(path: Callable[[Any], list[tuple[Tensor, Node]]]) -> tuple[Guard, ...]:
    """Guards that each tensor of the path has one reader, the next node, and no other use."""

    def broken(code: str) -> Callable[[Facts, Any], str | None]:
        def check(facts: Facts, match: Any) -> str | None:
            for tensor, reader in path(match):
                problem = facts.use_problem(tensor, reader)
                if problem is not None:
                    return problem[1] if problem[0] == code else None
            return None

        return check

    return tuple(Guard(code, broken(code), why) for code, why in USES.items())


def constant_guards(read: Callable[[Any], list[Tensor]], replaced: Callable[[Any], list[Tensor]]) -> tuple[Guard, ...]:
    """Guards that what a fold reads is constant, and that what it replaces is not quantized."""

    def broken(code: str) -> Callable[[Facts, Any], str | None]:
        def check(facts: Facts, match: Any) -> str | None:
            for tensor in (*read(match), *replaced(match)):
                problem = facts.constants.problem(tensor)
                if problem is not None and problem[0] == code:
                    return problem[1]
            return None

        return check

    def quantized(facts: Facts, match: Any) -> str | None:
        for tensor in replaced(match):
            problem = facts.constants.problem(tensor)
            if problem is not None and problem[0] == QUANTIZED:
                return problem[1]
        return None

    guards = [Guard(code, broken(code), why) for code, why in CONSTANTS.items()]
    guards.append(Guard(QUANTIZED, quantized, "integers behind DequantizeLinear cannot take a float factor"))
    return tuple(guards)


def training(_: Facts, affine: Affine) -> str | None:
    """Inference form only."""
    return training_problem(affine)


def function_attributes(nodes: list[Node]) -> str | None:
    """An attribute that a function's caller sets is not known here."""
    for node in nodes:
        if node.function_attrs:
            return f"{node.label} takes {', '.join(node.function_attrs)} from each call of its function"
    return None


def spatial(facts: Facts, affine: Affine) -> str | None:
    """One statistic per channel only."""
    return stats_problem(facts, affine)


def divides(affine: Affine) -> str | None:
    """constant / x is not affine."""
    if affine.node.is_op("Div") and affine.data == 1:
        return "it divides a constant by the value"
    return None


def swamps(facts: Facts, affine: Affine) -> str | None:
    """Adding a number so large that the sum has no fraction left is rounding, most likely on purpose."""
    if not affine.node.is_op("Add", "Sub"):
        return None
    weight = facts.weight(affine.params[0])
    largest = float(np.abs(weight.float64()).max(initial=0.0))
    # With p bits of precision, numbers from 2^(p-2) on are at least 1/2 apart.
    if numerics.is_float(weight.dtype) and largest >= 0.25 / numerics.unit_roundoff(weight.dtype):
        return f"it adds {largest:.3g}, which rounds {weight.dtype} to whole numbers"
    return None


def variance(facts: Facts, affine: Affine) -> str | None:
    """var + eps must be positive in every channel."""
    if not affine.is_bn:
        return None
    var = facts.float64(affine.params[3])
    if not np.isfinite(var).all():
        return None  # not-finite says so
    bad = numerics.first_bad(var + float(np.float32(affine.node.attr("epsilon", 1e-5))) <= 0)
    return None if bad is None else f"variance plus epsilon is not positive in channel {bad} ({var[bad]:.3g})"


def finite_params(facts: Facts, affine: Affine, more: Sequence[Tensor] = ()) -> str | None:
    """Every parameter must be finite, and no divisor zero."""
    for tensor in (*affine.params, *more):
        bad = numerics.first_bad(~np.isfinite(facts.float64(tensor)).reshape(-1))
        if bad is not None:
            return f"{tensor.name!r} is not finite at element {bad}"
    if affine.node.is_op("Div"):
        bad = numerics.first_bad(facts.float64(affine.params[0]).reshape(-1) == 0)
        return None if bad is None else f"it divides by zero at element {bad}"
    return None


def finite_result(value: NDArray[np.float64] | None, weight: Weight, what: str) -> str | None:
    """A vector must stay finite in the weight's type."""
    if value is None:
        return None
    stored = numerics.round_to(value, weight.dtype).astype(np.float64).reshape(-1)
    bad = numerics.first_bad(~np.isfinite(stored))
    return None if bad is None else f"{what} would not be finite in {weight.dtype} (channel {bad % value.shape[-1]})"


def underflow(value: NDArray[np.float64], weight: Weight, what: str) -> str | None:
    """A factor must keep its relative precision: a factor lost to underflow would silence what it multiplies."""
    stored = numerics.round_to(value, weight.dtype).astype(np.float64)
    lost = np.abs(stored - value) > 2 * numerics.unit_roundoff(weight.dtype) * np.abs(value)
    bad = numerics.first_bad(lost.reshape(-1))
    return None if bad is None else f"{what} would lose its small values in {weight.dtype} (element {bad})"


def floats(facts: Facts, tensors: list[Tensor]) -> str | None:
    """Folds are made in floating point."""
    for tensor in tensors:
        dtype = facts.weight(tensor).dtype
        if not numerics.is_float(dtype):
            return f"{tensor.name!r} is {dtype}"
    return None


def shared(facts: Facts, tensors: list[Tensor]) -> str | None:
    """With --no-growth nothing is copied."""
    if not facts.options.no_growth:
        return None
    for tensor in tensors:
        if facts.graph.n_uses(tensor) > 1:
            return f"{tensor.name!r} has other uses, so a copy would be needed"
    return None


def no_name(facts: Facts, node: Node, slot: int) -> str | None:
    """An input that is its graph's output, or input, cannot take over the name of an output."""
    source, result = node.tensor_in(slot), node.tensor_out(0)
    if source is None or result is None or not result.external_uses:
        return None
    producer = facts.graph.producer(source)
    if producer is None or source.external_uses or source.scope is not node.scope:
        return f"{result.name!r} is an output of its graph, and {source.name!r} has a name to keep too"
    return None


def input_required(node: Node) -> str | None:
    """Gemm's C may be left out from opset 11 on."""
    if node.is_op("Gemm") and node.scope.opset < 11:
        return f"before opset 11 {node.label} must have a C"
    return None
