"""The bias of a linear operator moves into the mean of the batch norm after it, which stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from converter.dataclass import dataclass
from converter.model.graph import Edit, Node, Rename, Tensor
from converter.records import FateKind, Safety
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import BATCH_NORM, Affine, affine_at
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import Linear, linear_at
from converter.rewrite.bias_flow.fates import BiasChange
from converter.rewrite.passes import checks
from converter.rewrite.passes.base import Check, Match, Pass
from converter.rewrite.passes.norm_parameters import MEAN, parameter_overflow, set_parameter

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BiasAndNorm(Match):
    """A linear operator with a bias and a batch norm."""

    linear: Linear
    bias: Tensor
    bn: Affine
    elements: int  # of the bias

    @property
    def affines(self) -> Sequence[Affine]:
        """The batch norm."""
        return (self.bn,)

    @property
    def nodes(self) -> Sequence[Node]:
        """Both."""
        return [self.bn.node, self.linear.node]

    @property
    def path(self) -> Sequence[tuple[Tensor, Node]]:
        """What lies between them."""
        return [(self.linear.result, self.bn.node)]

    @property
    def constants_read(self) -> Sequence[Tensor]:
        """The parameters and the bias."""
        return [*self.bn.params, self.bias]

    def value(self, facts: Facts) -> Array:
        """The bias, in its own shape."""
        value = lin.bias_value(facts, self.linear)
        assert value is not None
        return value

    def mean(self, facts: Facts) -> Array:
        """The new mean."""
        return np.asarray(facts.float64(self.bn.params[2]) - self.value(facts).reshape(-1))


def find(facts: Facts, node: Node) -> BiasAndNorm | None:
    """A batch norm on a biased Conv, ConvTranspose or Gemm that cannot or shall not be folded."""
    bn = affine_at(node, 0)
    if bn is None:
        return None
    for op in (lin.CONV, lin.CONV_TRANSPOSE, lin.GEMM):
        linear = linear_at(facts, facts.graph.producer(bn.source), op)
        if linear is not None and linear.bias is not None:
            stuck = facts.options.keep_bn or facts.constants.problem(linear.weight) is not None
            weight = facts.constants.weight(linear.bias)
            elements = 0 if weight is None else int(np.prod(weight.shape))
            return BiasAndNorm(linear, linear.bias, bn, elements) if stuck else None
    return None


def _not_per_channel(facts: Facts, m: BiasAndNorm) -> str | None:
    shape, channels = m.value(facts).shape, facts.weight(m.bn.params[0]).shape[0]
    if int(np.prod(shape)) == 1 or (shape and shape[-1] == channels and int(np.prod(shape)) == channels):
        return None
    return f"the bias of shape {list(shape)} is not one value per channel"


def plan(facts: Facts, m: BiasAndNorm) -> list[Edit]:
    """New mean, bias out, a fresh name for what the bias was part of."""
    return [
        set_parameter(facts, m.bn.node, MEAN, m.mean(facts), "mean"),
        *lin.drop_bias(m.linear),
        Rename(m.linear.result),
    ]


PASS = Pass(
    """The bias of a Conv, ConvTranspose or Gemm moves into the mean of the BatchNormalization after it.

    Given:  y [N, O, *d] = Conv, ConvTranspose or Gemm with bias b [O]; then BatchNormalization in inference form.
    Result: mean' = mean - b; the bias is gone, the batch norm stays.
            Acts only where batch norms are to be kept, or where the weight cannot be changed.
    Source: (y + b) - mean = y - (mean - b); Ioffe and Szegedy 2015, section 3.2.""",
    Safety.ROUNDING,
    ops=BATCH_NORM,
    find=find,
    checks=(
        *checks.AFFINE,
        Check("input-required", lambda _, m: checks.bias_required(m.linear.node)),
        Check("not-per-channel", _not_per_channel),
        Check("overflow", lambda f, m: parameter_overflow(f, m.bn, m.mean(f))),
    ),
    plan=plan,
    output=lambda m: m.bn.result,
    name="absorb-bias-into-bn",
    after=("fold-bn-into-conv",),
    changes_batch_norm=False,
    bias_change=lambda m: BiasChange(m.linear.node.label, FateKind.ABSORBED, m.bn.node.label, m.elements),
)
