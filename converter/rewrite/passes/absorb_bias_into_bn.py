"""The bias of a linear operator moves into the mean of the BatchNormalization after it.

Given:  y [N, O, *d] = Conv, ConvTranspose or Gemm with bias b [O]; then BatchNormalization in inference form.
Result: mean' = mean - b; the bias is gone, the batch norm stays.
        Acts only where batch norms are to be kept, or where the weight cannot be changed.
Source: (y + b) - mean = y - (mean - b); Ioffe and Szegedy 2015, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.model.graph import Edit, Node, Rename, Tensor
from converter.records import FateKind, Safety
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import BATCH_NORM, Affine, affine_at
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import Linear, linear_at
from converter.rewrite.passes import _checks
from converter.rewrite.passes._norms import MEAN, bn_guards, finite, set_parameter
from converter.rewrite.passes.base import Guard, Pass

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Match:
    """A linear operator with a bias and a batch norm."""

    linear: Linear
    bn: Affine
    elements: int  # of the bias

    @property
    def tensors(self) -> list[tuple[Tensor, Node]]:
        """What lies between them."""
        return [(self.linear.result, self.bn.node)]


def find(facts: Facts, node: Node) -> Match | None:
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
            return Match(linear, bn, elements) if stuck else None
    return None


def _bias(facts: Facts, m: Match) -> Array:
    bias = lin.bias_value(facts, m.linear)
    assert bias is not None
    return bias


def _not_per_channel(facts: Facts, m: Match) -> str | None:
    shape, channels = _bias(facts, m).shape, facts.weight(m.bn.params[0]).shape[0]
    if int(np.prod(shape)) == 1 or (shape and shape[-1] == channels and int(np.prod(shape)) == channels):
        return None
    return f"the bias of shape {list(shape)} is not one value per channel"


def _mean(facts: Facts, m: Match) -> Array:
    return np.asarray(facts.float64(m.bn.params[2]) - _bias(facts, m).reshape(-1))


def plan(facts: Facts, m: Match) -> list[Edit]:
    """New mean, bias out, a fresh name for what the bias was part of."""
    return [
        set_parameter(facts, m.bn.node, MEAN, _mean(facts, m), "mean"),
        *lin.drop_bias(m.linear),
        Rename(m.linear.result),
    ]


PASS = Pass(
    name="absorb-bias-into-bn",
    summary="The bias of a Conv, ConvTranspose or Gemm moves into the mean of the BatchNormalization after it",
    safety=Safety.ROUNDING,
    ops=frozenset(BATCH_NORM),
    find=find,
    guards=(
        *bn_guards(lambda m: [m.bn], lambda m: m.tensors),
        Guard(
            "function-attribute",
            lambda f, m: _checks.function_attributes([m.linear.node]),
            "an attribute that each call of a function sets is not known in it",
        ),
        *_checks.constant_guards(lambda m: [m.linear.bias], lambda m: []),
        Guard("input-required", lambda _, m: _checks.input_required(m.linear.node), "the bias must be optional"),
        Guard("not-per-channel", _not_per_channel, "the mean is one number per channel"),
        Guard("overflow", lambda f, m: finite(f, m.bn, (_mean(f, m),)), "the mean must be finite in its type"),
    ),
    plan=plan,
    output=lambda m: str(m.bn.result.name),
    module=__name__,
    after=("fold-bn-into-conv",),
    touches_bn=False,
    fate=lambda m: (m.linear.node.label, FateKind.ABSORBED, m.bn.node.label, m.elements),
)
