"""Biases whose shift is lost, or taken over, further down the graph: the passes on bias trace.

The passes differ in where the shift ends; the match, the checks and the plan are one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Edit, Node, Rename, SetConst, Tensor
from converter.records import EffectKind, FateKind, Safety
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import Affine
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.fused import ATTENTION, BIAS_REQUIRED, CLOSED
from converter.rewrite.analysis.linear import LINEAR, Linear
from converter.rewrite.analysis.quantized import FUSED_WEIGHTS
from converter.rewrite.bias_flow.absorb import Absorb, Bias, TraceOptions, bias_at
from converter.rewrite.bias_flow.fates import BiasChange
from converter.rewrite.bias_flow.trace import Trace, trace_bias, trace_parts
from converter.rewrite.passes import checks
from converter.rewrite.passes.base import Check, Match, Pass
from converter.rewrite.passes.folding import MEAN, set_parameter

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MovableBias(Match):
    """A bias, or a part of it (a fused query, key and value bias), and the path of its shift."""

    bias: Bias
    trace: Trace
    part: NDArray[np.bool_] | None = None

    @property
    def nodes(self) -> Sequence[Node]:
        """The operator that bears the bias."""
        return [self.bias.node]

    @property
    def constants_replaced(self) -> Sequence[Tensor]:
        """The bias, and what takes it over."""
        return [self.bias.tensor, *self.targets]

    @property
    def targets(self) -> Sequence[Tensor]:
        """Biases, means and constants that take the shift over."""
        found = []
        for a in self.trace.absorbs:
            match a.target:
                case Linear() as linear:
                    found += [linear.bias] if linear.bias is not None else []
                case Affine() as affine:
                    found.append(affine.params[2] if a.kind is EffectKind.MEAN else affine.params[0])
        return found

    @property
    def is_complete(self) -> bool:
        """Whether all of the bias goes."""
        return self.part is None

    @property
    def n_removed(self) -> int:
        """Elements of the bias that go."""
        return self.bias.value.size if self.part is None else int(self.part.sum())

    @property
    def ends(self) -> Sequence[Node]:
        """Where the shift ends; readers of the shape alone, which exports are full of, only if there is no other."""
        ends = self.trace.ends
        return [n for n in ends if not n.is_op("Shape", "Size", "CastLike")] or ends

    @property
    def where(self) -> str:
        """Names of the nodes where the shift ends."""
        siblings = [a.target.node.label for a in self.trace.absorbs if a.kind is EffectKind.SIBLING]
        return ", ".join(dict.fromkeys(siblings or [n.label for n in self.ends]))


Ending = Callable[[Trace], bool]
_NORM_ENDS = (EffectKind.NORM, EffectKind.SUM, EffectKind.SHAPE)


def _ends_in_norm(trace: Trace) -> bool:
    """Every path ends where a mean is subtracted, or where the shifts cancel."""
    return bool(trace.cancels) and not trace.absorbs and all(g.kind in _NORM_ENDS for g in trace.cancels)


def _ends_in_softmax(trace: Trace) -> bool:
    """Every path ends in a softmax that does not see it."""
    return bool(trace.cancels) and not trace.absorbs and not _ends_in_norm(trace)


def _sinks_through_softmax(trace: Trace) -> bool:
    """It goes on through attention weights that sum to one."""
    return bool(trace.absorbs) and trace.softmax_rows


def _sinks(trace: Trace) -> bool:
    """It is taken over further down."""
    return bool(trace.absorbs) and not trace.softmax_rows


def _meets_sibling(trace: Trace) -> bool:
    """Another layer's bias, added to it, takes it over."""
    return any(a.kind is EffectKind.SIBLING for a in trace.absorbs)


Find = Callable[[Facts, Node], MovableBias | None]


def _finder(ending: Ending, options: tuple[TraceOptions, ...] = (TraceOptions(),), *, parts: bool = False) -> Find:
    """A find for biases whose shift ends in the given way; with `parts`, for parts of fused biases too."""

    def find(facts: Facts, node: Node) -> MovableBias | None:
        bias = bias_at(facts, node)
        if bias is None or not bias.value.any() or not numerics.is_float(facts.weight(bias.tensor).dtype):
            return None
        trace: Trace | None = None
        for option in options:
            if trace is not None and not _may_differ(trace, option):
                continue
            trace = trace_bias(facts, node, option)
            assert trace is not None
            if trace.is_free:
                return MovableBias(bias, trace) if ending(trace) else None
        for part, trace in trace_parts(facts, node) if parts else ():
            if trace.is_free and ending(trace):
                return MovableBias(bias, trace, part)
        return None

    return find


def _may_differ(trace: Trace, options: TraceOptions) -> bool:
    """Whether the shift could end elsewhere than in `trace` if more may take it over."""
    return (options.siblings and trace.meets_sum) or (options.new_bias and trace.meets_bias_free)


# -- checks ----------------------------------------------------------------------------------


def _model_grows(_: Facts, m: MovableBias) -> str | None:
    new = [a for a in m.trace.absorbs if a.kind is EffectKind.NEW_BIAS]
    if not new or (len(new) == 1 and m.is_complete and new[0].n_elements < m.bias.value.size):
        return None
    given = "a bias vector to a layer" if len(new) == 1 else f"{len(new)} bias vectors to layers"
    return f"it would give {given} without one ({', '.join(a.node.label for a in new)})"


def _overflow(facts: Facts, m: MovableBias) -> str | None:
    for value, like, _ in _new_values(facts, m):
        problem = checks.overflow_problem(value, facts.weight(like), "what takes it over")
        if problem is not None:
            return problem
    return None


def _not_finite(facts: Facts, m: MovableBias) -> str | None:
    for tensor in (m.bias.tensor, m.bias.linear.weight):
        if facts.constants.weight(tensor) is None:
            continue  # what attention is given
        bad = numerics.first_bad(~np.isfinite(facts.weight(tensor).load().reshape(-1)))
        if bad is not None:
            return f"{tensor.name!r} is not finite at element {bad}"
    return None


_CHECKS = (
    checks.ATTRIBUTES_KNOWN,
    checks.READABLE,
    Check("input-required", lambda _, m: checks.bias_required(m.bias.node) if m.is_complete else None),
    Check("not-finite", _not_finite),
    Check("model-grows", _model_grows),
    Check("overflow", _overflow),
    Check("weight-shared", lambda f, m: checks.shared_problem(f, m.targets)),
)


# -- plan ------------------------------------------------------------------------------------


def _new_values(facts: Facts, m: MovableBias) -> list[tuple[Array, Tensor, list[Edit]]]:
    """New value, a tensor of its type, and the edits, for each node that takes some of the shift over."""
    groups: dict[int, list[Absorb]] = {}
    for a in m.trace.absorbs:
        owner = (a.target.bias_node or a.target.node) if isinstance(a.target, Linear) else a.target.node
        groups.setdefault(id(owner), []).append(a)
    return [_absorb_group(facts, group) for group in groups.values()]


def _absorb_group(facts: Facts, group: list[Absorb]) -> tuple[Array, Tensor, list[Edit]]:
    first = group[0]
    added = np.asarray(sum(a.make() for a in group))
    match first.target:
        case Linear() as linear:
            bias = lin.bias_value(facts, linear)
            value = added if bias is None else np.asarray(bias + added)
            like = linear.bias if linear.bias is not None else linear.weight
            return value, like, lin.set_bias(facts, linear, value)
        case Affine() as affine if first.kind is EffectKind.MEAN:
            value = np.asarray(facts.float64(affine.params[2]) - added)
            return value, affine.params[2], [set_parameter(facts, affine.node, MEAN, value, "mean")]
        case affine:
            like = affine.params[0]
            value = np.asarray(facts.float64(like) + added)
            weight = numerics.NewTensor(value, facts.weight(like).dtype)
            return value, like, [SetConst(affine.node, 1 - affine.data, weight, "term")]


def _plan(facts: Facts, m: MovableBias) -> list[Edit]:
    """The bias (or its part) out, what takes it over changed, fresh names for what changed its meaning."""
    edits = [e for _, _, part in _new_values(facts, m) for e in part]
    linear = m.bias.linear
    if m.part is not None or linear.node.is_microsoft(*BIAS_REQUIRED):
        part = np.ones(m.bias.value.shape, bool) if m.part is None else m.part
        edits += lin.set_bias(facts, linear, np.where(part, 0.0, m.bias.value))
    else:
        edits += lin.drop_bias(linear)
    return edits + [Rename(t) for t in (*m.trace.shifted, *_changed_off_path(m))]


def _changed_off_path(m: MovableBias) -> list[Tensor]:
    """Tensors off the shift's path whose value changes: a sibling's output, a product before its bias."""
    found: dict[int, Tensor] = {}
    for a in m.trace.absorbs:
        if isinstance(a.target, Linear):
            inner = a.target.inner
            outer = [a.target.result] if a.kind is EffectKind.SIBLING else []
            found |= {id(t): t for t in (*inner, *outer)}
    return [t for t in found.values() if not any(t is c for c in m.trace.shifted)]


def _last_output(m: MovableBias) -> Tensor | None:
    """The output of the last node that the shift reaches: its value is the same before and after."""
    absorbs = [a for a in m.trace.absorbs if a.kind is not EffectKind.SIBLING]
    absorbed = [a.target.last for a in absorbs if isinstance(a.target, Linear)]
    return (absorbed or m.ends)[-1].tensor_out(0)


# -- the passes ------------------------------------------------------------------------------


def _flow_pass(page: str, find: Find, fate: FateKind, name: str, after: str, *, changes_batch_norm: bool) -> Pass:
    """The row of a pass on bias trace."""

    def bias_change(m: MovableBias) -> BiasChange:
        part = "" if m.part is None else m.trace.name_part(m.part)
        of_part = FateKind.ABSORBED if m.trace.absorbs else FateKind.DEAD
        kind = of_part if part else fate
        return BiasChange(m.bias.node.label, kind, m.where, m.n_removed, part, m.trace.list_steps(part))

    return Pass(
        page,
        Safety.ROUNDING,
        ops=(*LINEAR, "Add"),
        microsoft=(*FUSED_WEIGHTS, *ATTENTION, *CLOSED),
        find=find,
        checks=_CHECKS,
        plan=_plan,
        output=_last_output,
        name=name,
        after=tuple(after.split()),
        changes_batch_norm=changes_batch_norm,
        bias_change=bias_change,
    )


DROP_BEFORE_NORM = _flow_pass(
    """A bias that InstanceNormalization or another norm subtracts again goes away.

    Given:  Conv, ConvTranspose, Gemm or MatMul + Add with bias b; every path from it ends in InstanceNormalization, or
            another operator that subtracts the mean over axes along which the shift does not vary
            (GroupNormalization of one channel a group, LayerNormalization and MeanVarianceNormalization over such axes,
            BatchNormalization in training, x - ReduceMean(x)).
    Result: the bias is gone, nothing takes its place.
    Source: norm(x + D) = norm(x) for D constant over each set that is normalised; Ioffe and Szegedy 2015, section 3.2.
    """,
    _finder(_ends_in_norm),
    FateKind.DEAD,
    "drop-bias-before-instance-norm",
    after="fold-bn-into-conv",
    changes_batch_norm=False,
)

DROP_ATTENTION_KEY = _flow_pass(
    """A bias that softmax does not depend on goes away: the key bias of attention.

    Given:  a bias b whose shift D reaches softmax(q (k + D)^T) only: q D^T is one number per query.
    Result: the bias is gone; of a fused query, key and value bias the key part becomes zero.
            Not with rotary embeddings, norms on keys, a softcap, or a key cache: there the keys are told apart.
    Source: softmax(s + c) = softmax(s) for c constant along its axis; Namazifar et al. 2023, arXiv 2302.08626.""",
    _finder(_ends_in_softmax, parts=True),
    FateKind.DEAD,
    "drop-attention-key-bias",
    after="drop-bias-before-instance-norm",
    changes_batch_norm=False,
)

SINK_ATTENTION_VALUE = _flow_pass(
    """The value bias of attention moves into the bias of the projection after it.

    Given:  a bias b_v whose shift passes softmax rows that sum to one: P (V + D) = P V + D; then a projection W_o, b_o.
    Result: b_o' = b_o + b_v W_o; b_v is gone, or its part of a fused bias is zero.
            Not under a run-time mask that may close a whole row, nor where the rows do not sum to one.
    Source: rows of a softmax sum to one; distribution of sums.""",
    _finder(_sinks_through_softmax, parts=True),
    FateKind.ABSORBED,
    "sink-attention-value-bias",
    after="drop-attention-key-bias",
    changes_batch_norm=True,
)

SINK = _flow_pass(
    """A bias moves into biases, means or constants that exist further down.

    Given:  Conv, ConvTranspose, Gemm or MatMul + Add with bias b; every path from it carries the shift on to a
            Conv without effective padding, a Gemm, a MatMul + Add, a BatchNormalization or a constant Add, or loses it.
    Result: each of them takes its share over (b' = b + W D, mean' = mean - D, c' = c + D); the bias is gone.
            Only where the model shrinks: fewer bias vectors, or as many with fewer elements. No node is added.
    Source: distribution of sums; linear bottlenecks of Sandler et al. 2018 (MobileNetV2), section 3.2.""",
    _finder(_sinks, (TraceOptions(), TraceOptions(new_bias=True))),
    FateKind.ABSORBED,
    "sink-bias",
    after="sink-attention-value-bias drop-zero-bias",
    changes_batch_norm=True,
)

MERGE_PARALLEL = _flow_pass(
    """The biases of two layers that are added become one.

    Given:  two layers with biases b1, b2 whose outputs meet in an Add, the second read by nobody else.
    Result: b2' = b2 + b1 (as it arrives there); b1 is gone.
    Source: associativity of sums in real arithmetic.""",
    _finder(_meets_sibling, (TraceOptions(), TraceOptions(siblings=True))),
    FateKind.MERGED,
    "merge-parallel-biases",
    after="sink-bias",
    changes_batch_norm=True,
)
