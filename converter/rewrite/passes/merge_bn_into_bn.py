"""Two BatchNormalizations in a row become one.

Given:  x [N, C, *d]; BatchNormalization (s1, t1); BatchNormalization (gamma2, beta2, mean2, var2), both in
        inference form.
Result: gamma' = s1 gamma2, beta' = s2 (t1 + (s1 - 1) mean2) + beta2, mean2 and var2 kept; the first node is gone.
Source: composition of affine maps; ONNX BatchNormalization 6 to 15.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from converter.model.graph import Bypass, Edit, Node, Tensor
from converter.records import Safety
from converter.rewrite.analysis.affine import BATCH_NORM, Affine, affine_at, scale_and_shift
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.passes import _checks
from converter.rewrite.passes._norms import BETA, GAMMA, bn_guards, finite, reparametrised, set_parameter
from converter.rewrite.passes.base import Guard, Pass


@dataclass(frozen=True, slots=True)
class Match:
    """Two batch norms in the order of the data."""

    first: Affine
    second: Affine

    @property
    def tensors(self) -> list[tuple[Tensor, Node]]:
        """What lies between them."""
        return [(self.first.result, self.second.node)]


def find(facts: Facts, node: Node) -> Match | None:
    """A batch norm whose input another batch norm gives."""
    second = affine_at(node, 0)
    producer = facts.graph.producer(second.source) if second is not None else None
    if second is None or producer is None or not producer.is_op(*BATCH_NORM):
        return None
    first = affine_at(producer, 0)
    return None if first is None or first.result is not second.source else Match(first, second)


def _parameters(facts: Facts, m: Match) -> tuple[np.ndarray, np.ndarray]:
    ones = np.ones_like(scale_and_shift(facts, m.second)[0])
    return reparametrised(facts, m.second, scale_and_shift(facts, m.first), (ones, 0 * ones))


def plan(facts: Facts, m: Match) -> list[Edit]:
    """New gamma and beta for the second, the first out."""
    gamma, beta = _parameters(facts, m)
    return [
        set_parameter(facts, m.second.node, GAMMA, gamma, "scale"),
        set_parameter(facts, m.second.node, BETA, beta, "bias"),
        Bypass(m.first.node, 0, keep="input"),
    ]


PASS = Pass(
    name="merge-bn-into-bn",
    summary="Two BatchNormalizations in a row become one",
    safety=Safety.ROUNDING,
    ops=frozenset(BATCH_NORM),
    find=find,
    guards=(
        *bn_guards(lambda m: [m.first, m.second], lambda m: m.tensors),
        Guard(
            "overflow",
            lambda f, m: finite(f, m.second, _parameters(f, m)),
            "the result must be finite in the type of the parameters",
        ),
        Guard(
            "rounding",
            lambda f, m: _checks.underflow(_parameters(f, m)[0], f.weight(m.second.params[0]), "the scale"),
            "underflow must not silence a channel",
        ),
    ),
    plan=plan,
    output=lambda m: str(m.second.result.name),
    module=__name__,
    after=("fold-bn-into-conv", "fold-bn-into-next-conv"),
)
