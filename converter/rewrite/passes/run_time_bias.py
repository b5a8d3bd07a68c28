"""A bias that the model computes as it runs goes away where a norm subtracts it again."""

from __future__ import annotations

from collections.abc import Sequence

from converter.dataclass import dataclass
from converter.model.graph import Bypass, Edit, Node, Rename
from converter.records import EffectKind, Safety
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import LINEAR
from converter.rewrite.bias_flow.trace import Trace, trace_run_time_bias
from converter.rewrite.passes import checks
from converter.rewrite.passes.base import Check, Match, Pass

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


PASS = Pass(
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
