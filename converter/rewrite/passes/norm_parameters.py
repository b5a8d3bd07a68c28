"""New parameters for a batch norm that stays: what merging, absorbing and moving passes share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.model.graph import Edit, Node, SetConst
from converter.rewrite.analysis.affine import Affine, scale_and_shift
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.passes.checks import overflow_problem

Array = NDArray[np.float64]
GAMMA, BETA, MEAN = 1, 2, 3  # input slots


def compose(facts: Facts, bn: Affine, before: tuple[Array, Array], after: tuple[Array, Array]) -> tuple[Array, Array]:
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


def parameter_overflow(facts: Facts, bn: Affine, *vectors: Array) -> str | None:
    """New parameters must be finite in their type."""
    problems = (overflow_problem(v, facts.weight(bn.params[0]), "a parameter") for v in vectors)
    return next((p for p in problems if p is not None), None)
