"""An affine map moves over several operators into all the layers and constants that it can become part of.

Upstream (`hoist`), it goes into what its input is made of: each part of a Concat or Split, both terms of a sum, a
factor of a product. Downstream (`sink`), into everything that reads its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Bypass, DropInput, Edit, Node, Rename, SetAttr, SetConst, SetOp, Tensor
from converter.records import Safety, Weight
from converter.rewrite.affine_flow.affine_map import AffineMap, trim
from converter.rewrite.affine_flow.takers import AttributeTaker, ConstantTaker, LayerTaker, Taker
from converter.rewrite.affine_flow.upstream import take_back
from converter.rewrite.affine_flow.walk import Walk, is_near_layer, take_on
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import (
    Affine,
    affines_at,
    aligned_shape,
    keeps_shape,
    read_scaler,
    scale_and_shift,
    scaler_at,
)
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.quantized import Rescaled, quantized_at, rescale
from converter.rewrite.passes import checks
from converter.rewrite.passes.base import Check, Decline, Match, Pass
from converter.rewrite.passes.fold_into_consumer import PASSES as INTO_CONSUMER
from converter.rewrite.passes.fold_into_producer import PASSES as INTO_PRODUCER
from converter.rewrite.passes.folding import BN, KINDS, RESULT, SCALED, Fold, Kind

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Share(Fold):
    """What one layer takes over; `is_input`: of its input channels; `axis`: see `LayerTaker`."""

    scale: Array = field(default_factory=lambda: np.ones(()))
    shift: Array = field(default_factory=lambda: np.zeros(()))
    is_input: bool = False
    axis: int = 0

    def channel_problem(self, facts: Facts) -> str | None:
        """Found out on the way."""
        return None

    def spread(self, facts: Facts) -> tuple[Array, Array] | str:
        """As it arrived here."""
        return self.scale, self.shift

    def rescale(self, facts: Facts) -> Rescaled | Decline | None:
        """The scale of a quantized weight takes the factors."""
        return rescale(facts, self.linear, self.scale, inputs=self.is_input, axis=self.axis)

    def scale_weight(self, weight: Weight, scale: Array) -> Weight:
        """The weight with its channels scaled."""
        return (lin.scale_inputs if self.is_input else lin.scale_outputs)(self.linear, weight, scale)

    def fold_bias(self, facts: Facts) -> Array | None:
        """s b + t, or b + W t."""
        if not self.is_input:
            return lin.scale_bias(facts, self.linear, self.scale, self.shift)
        added = lin.input_sum(facts, self.linear, self.shift) if self.shift.any() else None
        return None if added is None else lin.scale_bias(facts, self.linear, None, added)

    def list_edits(self, facts: Facts) -> list[Edit]:
        """New weight and bias."""
        return self.set_weight(facts) + lin.set_bias(facts, self.linear, self.bias(facts))


@dataclass(frozen=True, slots=True)
class Moved(Match):
    """An affine node and where its map goes.

    `stays`: its shift stays behind as one Add; `term`: it is but the constant in that slot of a sum, which stays.
    """

    affine: Affine
    map: AffineMap
    walk: Walk
    is_down: bool = False
    stays: bool = False
    term: int | None = None
    memo: dict[str, list[Share]] = field(default_factory=dict, compare=False)

    @property
    def is_norm(self) -> bool:
        """Whether it is but the bias of a norm, which stays."""
        return self.affine.node.is_op("LayerNormalization")

    @property
    def affines(self) -> Sequence[Affine]:
        """The affine node."""
        return (self.affine,)

    @property
    def shares(self) -> list[Share]:
        """What the layers take over."""
        if "shares" not in self.memo:  # each remembers its weight
            layers = [t for t in self.walk.takers if isinstance(t, LayerTaker)]
            made = [Share(self.affine, (), t.linear, {}, t.scale, t.shift, self.is_down, t.axis) for t in layers]
            self.memo["shares"] = made
        return self.memo["shares"]

    @property
    def constants(self) -> list[ConstantTaker]:
        """What constants take over."""
        return [t for t in self.walk.takers if isinstance(t, ConstantTaker)]

    @property
    def attributes(self) -> list[AttributeTaker]:
        """What numbers in attributes take over."""
        return [t for t in self.walk.takers if isinstance(t, AttributeTaker)]

    @property
    def constants_replaced(self) -> Sequence[Tensor]:
        """Weights, biases and other constants."""
        layers = [t for s in self.shares for t in s.constants_replaced]
        return layers + [c.tensor for c in self.constants if c.tensor is not None]


def _read_map(facts: Facts, affine: Affine) -> AffineMap | None:
    """What an affine node computes, where a pass may read its constants; None if it is nothing to move."""
    if facts.constants.weight(affine.source) is not None:
        return None
    if any(facts.constants.problem(t) is not None for t in affine.params):
        return None
    probe = _Probe(affine)
    if any(c.decline(facts, probe) is not None for c in checks.AFFINE):
        return None
    scale, shift = scale_and_shift(facts, affine)
    if affine.node.scope.opset < 7 and not affine.is_bn and scale.size > 1:
        return None  # where it lies is said by attributes
    if affine.is_bn:
        rank = facts.rank(affine.source)
        if rank is None:
            return None
        full = (1, -1, *[1] * (rank - 2))
        return AffineMap(trim(scale.reshape(full)), trim(shift.reshape(full)))
    if not affine.params:
        return AffineMap(scale, shift)
    if scale.size == 1:
        rank = facts.rank(affine.source)
        ok = not scale.ndim or (rank is not None and scale.ndim <= rank)
        return AffineMap(scale.reshape(()), shift.reshape(())) if ok else None
    rank = facts.rank(affine.source)
    if rank is None or not keeps_shape(facts, affine):
        return None
    full_shape = aligned_shape(facts, affine, rank)
    return AffineMap(*(trim(np.broadcast_to(v, scale.shape).reshape(full_shape)) for v in (scale, shift)))


@dataclass(frozen=True, slots=True)
class _Probe(Match):
    affine: Affine

    @property
    def affines(self) -> Sequence[Affine]:
        return (self.affine,)


# With these a fold into one layer leaves a node, which may yet go another way; with others it would be left there too.
_RETRIED = {"channel-axis", "not-per-channel", "several-readers", "weight-rank", "not-constant", "no-bias-slot"}


def _find_up(facts: Facts, node: Node) -> Moved | None:
    """An affine node that no single layer takes, with what its input is made of."""
    if node.is_op("Sum") and len(node.inputs) > 2:
        return _find_term(facts, node)
    codes = _list_declines(facts, node, INTO_PRODUCER)
    integer = quantized_at(facts, node) if node.is_op("Add") else None
    if integer is not None and integer.bias_node is node:
        return None
    for affine in affines_at(node) if codes <= _RETRIED else ():
        m = _read_map(facts, affine)
        if m is None or m.is_identity or lin.is_its_bias(facts, affine.node, affine.data):
            continue
        walk = take_back(facts, node, affine.data, m)
        if walk.problem is None:
            return Moved(affine, m, walk)
        if walk.problem[0] == "no-bias-slot" and node.scope.opset >= 7 and not bool((m.scale == 1).all()):
            bare = take_back(facts, node, affine.data, m.without_shift)
            if bare.problem is None:
                return Moved(affine, m, bare, stays=True)
        if _is_worth_a_line(walk, codes) and is_near_layer(facts, affine.source, up=True):
            return Moved(affine, m, walk)
    return None


def _find_down(facts: Facts, node: Node) -> Moved | None:
    """An affine node that no single layer takes, with all that reads its output."""
    codes = _list_declines(facts, node, INTO_CONSUMER)
    for affine in affines_at(node) if codes <= _RETRIED else ():
        m = _read_map(facts, affine)
        if m is None or m.is_identity:
            continue
        walk = take_on(facts, affine.result, m)
        if walk.problem is None or (_is_worth_a_line(walk, codes) and is_near_layer(facts, affine.result, up=False)):
            return Moved(affine, m, walk, is_down=True)
    return None


def _find_scaler_or_down(facts: Facts, node: Node) -> Moved | None:
    """The same, and a Scaler of ai.onnx.ml, as scikit-learn's converter writes them."""
    scaler = scaler_at(facts, node)
    if scaler is None:
        return None if node.op == "Scaler" else _find_down(facts, node)
    rank = facts.rank(scaler.source)
    arrays = [v.reshape((1,) * ((rank or 1) - 1) + (-1,)) if v.size > 1 else v.reshape(()) for v in read_scaler(node)]
    m = AffineMap(*arrays)
    if m.is_identity or (rank is None and not m.is_uniform) or not all(np.isfinite(a).all() for a in arrays):
        return None
    walk = take_on(facts, scaler.result, m)
    return (
        Moved(scaler, m, walk, is_down=True)
        if walk.problem is None or is_near_layer(facts, scaler.result, up=False)
        else None
    )


def _find_norm_bias(facts: Facts, node: Node) -> Moved | None:
    """The bias of a LayerNormalization, with all that reads its result."""
    beta, out = node.tensor_in(2), node.tensor_out(0)
    if beta is None or out is None or node.function_attrs or facts.constants.problem(beta) is not None:
        return None
    value, rank = facts.float64(beta), facts.rank(node.inputs[0])
    if rank is None or value.ndim > rank or not value.any() or not np.isfinite(value).all():
        return None
    m = AffineMap(np.ones(()), trim(value.reshape((1,) * (rank - value.ndim) + value.shape)))
    walk = take_on(facts, out, m)
    if walk.problem is None and (bare := next((t for t in walk.takers if _has_no_bias(t)), None)) is not None:
        walk.stop(("model-grows", f"{bare.node.label} would get a bias for it"))
    near = walk.problem is None or is_near_layer(facts, out, up=False)
    return Moved(Affine(node, 0, (beta,)), m, walk, is_down=True) if near else None


def _has_no_bias(taker: Taker) -> bool:
    if isinstance(taker, LayerTaker):
        return taker.linear.bias is None
    return isinstance(taker, ConstantTaker) and taker.tensor is None


def _find_term(facts: Facts, node: Node) -> Moved | None:
    """The constant of a sum of more than two, with what makes one of the other terms."""
    slots = [k for k, t in enumerate(node.inputs) if facts.constants.weight(t) is not None]
    data = [k for k in range(len(node.inputs)) if k not in slots]
    if len(slots) != 1 or len(data) < 2 or node.tensor_out(0) is None or node.scope.opset < 8 or node.function_attrs:
        return None
    found = None
    for slot in data:
        affine = Affine(node, slot, (node.inputs[slots[0]],))
        m = _read_map(facts, affine)
        if m is None or m.is_identity:
            continue
        walk = take_back(facts, node, slot, m)
        if walk.problem is None:
            return Moved(affine, m, walk, term=slots[0])
        if found is None and is_near_layer(facts, affine.source, up=True):
            found = Moved(affine, m, walk, term=slots[0])
    return found


def _list_declines(facts: Facts, node: Node, passes: Sequence[Pass]) -> set[str]:
    """The codes with which folds into one layer leave the node."""
    found = ((p, p.find(facts, node)) for p in passes if node.op in p.ops)
    declined = (p.decline(facts, match) for p, match in found if match is not None)
    return {problem[0] for problem in declined if problem is not None}


def _is_worth_a_line(walk: Walk, codes: set[str]) -> bool:
    """Whether why it stays is not said already."""
    return walk.problem is not None and codes <= {"several-readers", "not-constant"} and walk.problem[0] not in codes


# -- checks ----------------------------------------------------------------------------------


def _share_problem(facts: Facts, m: Moved) -> Decline | None:
    found = (check.decline(facts, share) for share in m.shares for check in (SCALED, *RESULT))
    return next((p for p in found if p is not None), None)


def _not_finite(facts: Facts, m: Moved) -> str | None:
    for tensor in m.constants_replaced:
        bad = numerics.first_bad(~np.isfinite(facts.weight(tensor).load().reshape(-1)))
        if bad is not None:
            return f"{tensor.name!r} is not finite at element {bad}"
    return None


def _constant_problem(facts: Facts, m: Moved) -> Decline | None:
    """A constant that takes the map over must stay finite, and keep its small values."""
    for taker in m.constants:
        value = taker.value(facts)
        problem = checks.overflow_problem(value.float64(), value, f"{taker.role} of {taker.node.label}")
        if problem is not None:
            return "overflow", problem
        problem = checks.underflow_problem(value.float64(), value, f"{taker.role} of {taker.node.label}", taker.shift)
        if problem is not None:
            return "rounding", problem
    return None


def _name_problem(facts: Facts, m: Moved) -> str | None:
    return (
        None if m.is_down or m.stays or m.term is not None else checks.name_problem(facts, m.affine.node, m.affine.data)
    )


# Whatever may stand in the way of a map.
WAY = tuple(
    """stops varies bilinear branches extrapolation too-large no-linear-op several-readers output-is-graph-output
captured-by-subgraph negative-scale padded-shift transposed-shift no-bias-slot not-per-channel weight-rank not-float
overridable function-input not-constant weight-quantized function-attribute not-finite model-grows overflow
rounding""".split()
)
_CHECKS = (
    Check(WAY, lambda _, m: m.walk.problem),
    Check("output-is-graph-output", _name_problem),
    checks.FLOAT,
    Check("not-finite", _not_finite),
    Check(tuple(dict.fromkeys(code for c in (SCALED, *RESULT) for code in c.codes)), _share_problem),
    Check(("overflow", "rounding"), _constant_problem),
    Check("weight-shared", lambda f, m: checks.shared_problem(f, m.constants_replaced)),
)


# -- plan ------------------------------------------------------------------------------------


def _plan(facts: Facts, m: Moved) -> list[Edit]:
    """New weights, biases and constants, the affine node out, fresh names for what changed its meaning."""
    edits = [edit for share in m.shares for edit in share.list_edits(facts)]
    moved = (t for t in m.constants if t.tensor is None or (t.scale != 1).any() or t.shift.any())
    edits += [SetConst(t.node, t.slot, t.value(facts), t.role) for t in moved]
    edits += [SetAttr(t.node, t.name, t.value) for t in m.attributes]
    changed = list({id(t): t for t in m.walk.changed}.values())
    if m.stays:
        edits += _as_add(facts, m)
    elif m.is_norm:
        edits.append(DropInput(m.affine.node, 2))
        changed.append(m.affine.result)
    elif m.term is not None:
        edits.append(DropInput(m.affine.node, m.term))
    elif m.is_down:
        edits.append(Bypass(m.affine.node, m.affine.data, keep="input"))
    else:
        edits.append(Bypass(m.affine.node, m.affine.data))
        changed = [t for t in changed if t is not m.affine.source]  # it takes the name of the affine node's output
    return edits + [Rename(t) for t in changed]


def _as_add(facts: Facts, m: Moved) -> list[Edit]:
    """The affine node turned into an Add of the shift."""
    node = m.affine.node
    like = facts.weight(m.affine.params[0])
    shift = m.map.shift
    lead = next((k for k, d in enumerate(shift.shape) if d != 1), shift.ndim)
    drops = [DropInput(node, i) for i in range(len(node.inputs) - 1, 1, -1)]
    value = numerics.NewTensor(shift.reshape(shift.shape[lead:]), like.dtype)
    return [*drops, SetOp(node, "Add"), SetConst(node, 1 - m.affine.data, value, "bias")]


def _last_output(m: Moved) -> Tensor | None:
    """The output of the last node that the map reaches: its value is the same before and after."""
    if not m.is_down or not m.walk.takers:  # all that read it is dead: nothing takes the map, and nothing misses it
        return m.affine.result
    taker = m.walk.takers[-1]
    return taker.linear.result if isinstance(taker, LayerTaker) else taker.node.tensor_out(0)


def _row(kind: Kind, *, down: bool) -> Pass:
    title = kind.title[0].upper() + kind.title[1:]
    up_page = f"""{title} moves upstream into all that makes its input.

Given:  {kind.given};
        its input made by layers and constants, joined, cut, moved, summed, averaged or interpolated on the way.
Result: a Concat gives each part its part of s and t, a sum gives s to all terms and t to one, a product (also q k^T)
        gives s to one factor, a Split or Slice changes its part of the layer, Relu and maxima pass s > 0;
        layers become s W, s b + t, constants and embedding tables s c + t. The node is gone, or only its t is left.
Source: distribution of sums; {kind.source}."""
    down_page = f"""{title} moves downstream into all that reads it.

Given:  {kind.given};
        every reader a layer, or an operator that hands the map on to layers (reflecting pads, Concat, Slice, pools).
Result: each layer becomes W s, b + W t (a shift only where no padded zero is read); an LSTM, GRU or RNN takes them in
        its input weights and bias. The node is gone.
Source: distribution of sums; {kind.source}."""
    name = f"{'sink' if down else 'hoist'}-{kind.name}"
    family = "fold-{}-into-next-{}" if down else "fold-{}-into-{}"
    return Pass(
        down_page if down else up_page,
        Safety.ROUNDING,
        ops=(*kind.ops, "Scaler") if down and kind is not BN else kind.ops,
        domains=("ai.onnx.ml",) if down and kind is not BN else (),
        find=(_find_down if kind is BN else _find_scaler_or_down) if down else _find_up,
        checks=_CHECKS,
        plan=_plan,
        output=_last_output,
        name=name,
        after=tuple(family.format(kind.name, op) for op in ("conv", "gemm", "matmul"))
        + (() if kind is BN else (f"{'sink' if down else 'hoist'}-bn",)),
    )


NORM_BIAS = Pass(
    """The bias of a LayerNormalization moves into the biases of all layers that read it.

    Given:  LayerNormalization with bias t; every reader a layer with a bias (query, key and value; the first of a
            feed-forward block), or an operator that hands a shift on to some.
    Result: b' = b + W t for each; the norm has no bias. Only where no layer would get one for it.
    Source: distribution of sums; ONNX LayerNormalization 17, whose bias is optional.""",
    Safety.ROUNDING,
    ops=("LayerNormalization",),
    find=_find_norm_bias,
    checks=_CHECKS,
    plan=_plan,
    output=_last_output,
    name="sink-norm-bias",
    after=("sink-affine",),
    changes_batch_norm=False,
)

PASSES = (*(_row(kind, down=down) for down in (False, True) for kind in KINDS), NORM_BIAS)
