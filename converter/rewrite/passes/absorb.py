"""A bias that a norm after it makes needless: put into a batch norm's mean, or computed at run time, and dropped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from converter.dataclass import dataclass
from converter.model.graph import Bypass, Edit, Node, Rename, Tensor
from converter.records import EffectKind, FateKind, Safety
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import BATCH_NORM, Affine, affine_at
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import LINEAR, Linear, linear_at
from converter.rewrite.bias_flow.fates import BiasChange
from converter.rewrite.bias_flow.trace import Trace, trace_run_time_bias
from converter.rewrite.passes import checks
from converter.rewrite.passes.base import Check, Match, Pass
from converter.rewrite.passes.folding import MEAN, parameter_overflow, set_parameter

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

_LAYERS = (*LINEAR, "ConvInteger", "MatMulInteger")
_ENDS = (EffectKind.NORM, EffectKind.SUM, EffectKind.SHAPE)


@dataclass(frozen=True, slots=True)
class RunTimeBias(Match):
    """An Add of a layer's output (input `data`) and of a bias that nodes compute, and the path of its shift."""

    add: Node
    data: int
    trace: Trace

    @property
    def nodes(self) -> Sequence[Node]:
        """The Add."""
        return [self.add]


def _find(facts: Facts, node: Node) -> RunTimeBias | None:
    """An Add behind a layer whose other operand is computed, has size 1 where the layer has positions, and cancels."""
    if node.scope.opset < 7:
        return None
    for data in (0, 1):
        source, bias = node.tensor_in(data), node.tensor_in(1 - data)
        layer = None if source is None else facts.graph.producer(source)
        if source is None or bias is None or layer is None or not layer.is_op(*_LAYERS):
            continue
        if facts.graph.producer(bias) is None or facts.constants.weight(bias) is not None or source is bias:
            continue
        rank, own = facts.rank(source), facts.shape(bias)
        if rank is None or own is None or len(own) > rank or facts.rank(node.outputs[0]) != rank:
            continue
        lead = rank - len(own)
        invariant = [k for k in range(rank) if k < lead or own[k - lead] == 1]
        if not any(k > 0 for k in invariant):
            continue  # a residual
        trace = trace_run_time_bias(facts, node, 1 - data, invariant)
        if trace.is_free and not trace.absorbs and all(c.kind in _ENDS for c in trace.cancels):
            return RunTimeBias(node, data, trace)
    return None


def _enlarges(facts: Facts, m: RunTimeBias) -> str | None:
    """Without the Add, what follows must have the shape that it had."""
    dims, own = (facts.shape(m.add.inputs[k]) for k in (m.data, 1 - m.data))
    if dims is not None and own is not None:
        behind = dims[len(dims) - len(own) :]
        if all(b == 1 or (b is not None and b == d) for b, d in zip(own, behind, strict=True)):
            return None
    return f"what {m.add.label} adds may enlarge the value"


def _plan(facts: Facts, m: RunTimeBias) -> list[Edit]:
    """The Add out, and with it what computes the bias; fresh names for what changed its meaning."""
    return [Bypass(m.add, m.data), *(Rename(t) for t in m.trace.shifted)]


RUN_TIME = Pass(
    """A bias that is computed as the model runs goes away where a norm subtracts it again.

    Given:  Conv, ConvTranspose, Gemm, MatMul, ConvInteger or MatMulInteger; an Add of something that nodes compute,
            with one number for each channel; every path from it ends where the mean over the positions is subtracted:
            InstanceNormalization, or x - ReduceMean(x). A bias that is quantized at run time is one.
    Result: the Add is gone, and with it the nodes that only it needed.
    Source: norm(x + D) = norm(x) for D constant over each set that is normalised.""",
    Safety.ROUNDING,
    ops=("Add",),
    find=_find,
    checks=(checks.ATTRIBUTES_KNOWN, Check("enlarges", _enlarges)),
    plan=_plan,
    output=lambda m: m.trace.ends[-1].tensor_out(0),
    name="drop-run-time-bias",
    after=("drop-bias-before-instance-norm",),
    changes_batch_norm=False,
)
