"""Arithmetic with a constant beside a BatchNormalization becomes part of it.

Given:  x [N, C, *d]; Mul, Div, Add, Sub or Neg by one number or one per channel, before or after a
        BatchNormalization in inference form.
Result: before it (a1, c1): gamma' = a1 gamma, beta' = s (c1 + (a1 - 1) mean) + beta;
        after it (a2, c2): gamma' = a2 gamma, beta' = a2 beta + c2. The arithmetic is gone.
Source: composition of affine maps; ONNX BatchNormalization 6 to 15.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.model.graph import Bypass, Edit, Node, Tensor
from converter.records import Safety
from converter.rewrite.analysis.affine import ARITHMETIC, BATCH_NORM, Affine, affine_at, keeps_shape, per_channel
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.passes import _checks
from converter.rewrite.passes._norms import BETA, GAMMA, bn_guards, finite, reparametrised, set_parameter
from converter.rewrite.passes.base import Guard, Pass

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Match:
    """Arithmetic and a batch norm; ``before``: the arithmetic comes first."""

    affine: Affine
    bn: Affine
    before: bool

    @property
    def tensors(self) -> list[tuple[Tensor, Node]]:
        """What lies between them."""
        if self.before:
            return [(self.affine.result, self.bn.node)]
        return [(self.bn.result, self.affine.node)]


def find(facts: Facts, node: Node) -> Match | None:
    """Arithmetic with a constant that feeds a batch norm or is fed by one."""
    for data in (0, 1):
        affine = affine_at(node, data)
        if affine is None or any(facts.constants.weight(t) is None for t in affine.params):
            continue
        producer = facts.graph.producer(affine.source)
        if producer is not None and producer.is_op(*BATCH_NORM):
            bn = affine_at(producer, 0)
            if bn is not None and bn.result is affine.source:
                return Match(affine, bn, before=False)
        for reader in facts.graph.readers(affine.result):
            bn = affine_at(reader, 0) if reader.is_op(*BATCH_NORM) else None
            if bn is not None and bn.source is affine.result:
                return Match(affine, bn, before=True)
    return None


def _vectors(facts: Facts, m: Match) -> tuple[Array, Array] | str:
    channels = facts.weight(m.bn.params[0]).shape[0]
    rank = facts.rank(m.affine.source)
    if m.before and m.affine.params and not keeps_shape(facts, m.affine):
        return "the constant may enlarge the value"  # then the batch norm's channels are not the value's
    return per_channel(facts, m.affine, 1, rank, channels)


def _not_per_channel(facts: Facts, m: Match) -> str | None:
    found = _vectors(facts, m)
    return found if isinstance(found, str) else None


def _parameters(facts: Facts, m: Match) -> tuple[Array, Array]:
    found = _vectors(facts, m)
    assert not isinstance(found, str)
    nothing = np.ones_like(found[0]), np.zeros_like(found[0])
    return reparametrised(facts, m.bn, *((found, nothing) if m.before else (nothing, found)))


def plan(facts: Facts, m: Match) -> list[Edit]:
    """New gamma and beta, the arithmetic out."""
    gamma, beta = _parameters(facts, m)
    return [
        set_parameter(facts, m.bn.node, GAMMA, gamma, "scale"),
        set_parameter(facts, m.bn.node, BETA, beta, "bias"),
        Bypass(m.affine.node, m.affine.data, keep="input" if m.before else "output"),
    ]


PASS = Pass(
    name="merge-affine-into-bn",
    summary="Arithmetic with a constant beside a BatchNormalization becomes part of it",
    safety=Safety.ROUNDING,
    ops=frozenset(ARITHMETIC),
    find=find,
    guards=(
        *bn_guards(lambda m: [m.affine, m.bn], lambda m: m.tensors),
        Guard("not-per-channel", _not_per_channel, "scale and shift must be one number per channel, or one number"),
        Guard(
            "overflow",
            lambda f, m: finite(f, m.bn, _parameters(f, m)),
            "the result must be finite in the type of the parameters",
        ),
        Guard(
            "rounding",
            lambda f, m: _checks.underflow(_parameters(f, m)[0], f.weight(m.bn.params[0]), "the scale"),
            "underflow must not silence a channel",
        ),
    ),
    plan=plan,
    output=lambda m: str(m.bn.result.name if m.before else m.affine.result.name),
    module=__name__,
    after=("merge-bn-into-bn", "fold-affine-into-conv", "fold-affine-into-next-conv"),
)
