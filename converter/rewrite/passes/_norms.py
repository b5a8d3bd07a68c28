"""Rewrites of a batch norm's own parameters: what the merging and absorbing passes share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.model.graph import Edit, Node, SetConst, Tensor
from converter.rewrite.analysis.affine import Affine, scale_and_shift
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.passes import _checks
from converter.rewrite.passes.base import Guard

Array = NDArray[np.float64]
GAMMA, BETA, MEAN, VAR = 1, 2, 3, 4


def reparametrised(
    facts: Facts, bn: Affine, before: tuple[Array, Array], after: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Gamma and beta of the batch norm that computes after(bn(before(x))), mean and var as they are.

    With s = gamma / sqrt(var + eps): a2 (s (a1 x + c1 - mean) + beta) + c2 =
    s' (x - mean) + beta', where gamma' = a1 a2 gamma and beta' = a2 (s (c1 + (a1 - 1) mean) + beta) + c2.
    """
    gamma, beta, mean, _ = (facts.float64(t) for t in bn.params)
    (a1, c1), (a2, c2) = before, after
    scale, _ = scale_and_shift(facts, bn)
    return a1 * a2 * gamma, a2 * (scale * (c1 + (a1 - 1) * mean) + beta) + c2


def set_parameter(facts: Facts, bn: Node, slot: int, value: Array, role: str) -> Edit:
    """The edit that gives a batch norm a new parameter vector, in the old one's type."""
    tensor = bn.tensor_in(slot)
    assert tensor is not None
    return SetConst(bn, slot, numerics.NewTensor(value, facts.weight(tensor).dtype), role)


def finite(facts: Facts, bn: Affine, vectors: tuple[Array, ...]) -> str | None:
    """New parameters must be finite in their type."""
    for vector in vectors:
        problem = _checks.finite_result(vector, facts.weight(bn.params[0]), "a parameter")
        if problem is not None:
            return problem
    return None


def bn_guards(bn_of: Any, others: Any) -> tuple[Guard, ...]:
    """Guards that a match's batch norms are in inference form with constant, sound vectors.

    Parameters
    ----------
    bn_of : callable
        match -> affines whose parameters are read (batch norms and arithmetic)
    others : callable
        match -> path of (tensor, reader) whose values change
    """

    def each(check: Any) -> Any:
        return lambda f, m: next((p for p in (check(f, a) for a in bn_of(m)) if p is not None), None)

    return (
        Guard(
            "function-attribute",
            lambda f, m: _checks.function_attributes([a.node for a in bn_of(m)]),
            "an attribute that each call of a function sets is not known in it",
        ),
        Guard("training-mode", each(_checks.training), "only running statistics are constants"),
        *_checks.use_guards(others),
        Guard("divides-by-result", each(lambda f, a: _checks.divides(a)), "constant / x is not affine"),
        *_checks.constant_guards(_parameters(bn_of), lambda m: []),
        Guard("rounds", each(_checks.swamps), "a sum that rounds on purpose must stay as it is"),
        Guard("spatial-stats", each(_checks.spatial), "statistics must be one vector of the channels"),
        Guard("not-float", lambda f, m: _checks.floats(f, _parameters(bn_of)(m)), "folds are made in floating point"),
        Guard("non-positive-variance", each(_checks.variance), "its square root must exist"),
        Guard("not-finite", each(_checks.finite_params), "NaN and infinity must stay visible where they are"),
    )


def _parameters(bn_of: Any) -> Any:
    def read(m: Any) -> list[Tensor]:
        return [t for a in bn_of(m) for t in a.params]

    return read
