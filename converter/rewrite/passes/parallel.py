"""Branches of one input that are added become one convolution; biases that a difference cancels go away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Bypass, Edit, Node, Rename, SetConst, Tensor
from converter.records import Safety
from converter.rewrite.affine_flow.affine_map import AffineMap
from converter.rewrite.affine_flow.passages import Passage, find_passage
from converter.rewrite.affine_flow.takers import LayerTaker
from converter.rewrite.affine_flow.upstream import take_back
from converter.rewrite.affine_flow.walk import Walk
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import ARITHMETIC, BATCH_NORM, Affine, affines_at, per_channel
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import Linear, linear_at
from converter.rewrite.passes import checks
from converter.rewrite.passes.base import Check, Decline, Match, Pass
from converter.rewrite.passes.hoist import WAY

Array = NDArray[np.float64]
_LARGEST = 1 << 24  # elements of a kernel that is added up in float64

# -- parallel convolutions -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Branches(Match):
    """An Add of a convolution and of another one, or an affine node, with the same input."""

    add: Node
    slot: int  # of the convolution that stays
    conv: Linear
    other: Linear | Affine

    @property
    def affines(self) -> Sequence[Affine]:
        """The affine node, where one branch is no more than that."""
        return () if isinstance(self.other, Linear) else (self.other,)

    @property
    def nodes(self) -> Sequence[Node]:
        """All of them."""
        return [self.conv.node, self.other.node, self.add]

    @property
    def path(self) -> Sequence[tuple[Tensor, Node]]:
        """Both outputs, with the Add that reads them."""
        return [(self.conv.result, self.add), (self.other.result, self.add)]

    @property
    def constants_read(self) -> Sequence[Tensor]:
        """The other branch's."""
        if isinstance(self.other, Linear):
            return [t for t in (self.other.weight, self.other.bias) if t is not None]
        return self.other.params

    @property
    def constants_replaced(self) -> Sequence[Tensor]:
        """Weight and bias of the convolution that stays."""
        return [t for t in (self.conv.weight, self.conv.bias) if t is not None]


def _find_branches(facts: Facts, node: Node) -> Branches | None:
    """An Add of two branches of one tensor."""
    if len(node.inputs) != 2 or node.scope.opset < 7:
        return None
    makers = [facts.graph.producer(t) for t in node.inputs]
    if makers[0] is None or makers[1] is None or makers[0] is makers[1]:
        return None
    convs = [linear_at(facts, m, lin.CONV) for m in makers]
    sizes = [_count_taps(facts, c) for c in convs]
    for slot in sorted((0, 1), key=lambda k: -sizes[k]):
        conv, maker = convs[slot], makers[1 - slot]
        if conv is None or maker is None or sizes[slot] < 0:
            continue
        source = conv.node.inputs[0]
        other = convs[1 - slot]
        if other is not None and other.node.inputs[0] is source:
            return Branches(node, slot, conv, other)
        if maker.is_op(*BATCH_NORM, *ARITHMETIC):
            affine = next((a for a in affines_at(maker) if a.source is source), None)
            if affine is not None and all(facts.constants.weight(t) is not None for t in affine.params):
                return Branches(node, slot, conv, affine)
    return None


def _count_taps(facts: Facts, conv: Linear | None) -> int:
    weight = None if conv is None else facts.constants.weight(conv.weight)
    return -1 if weight is None or len(weight.shape) < 3 else int(np.prod(weight.shape[2:]))


@dataclass(frozen=True, slots=True)
class _Window:
    """A convolution's geometry along each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]


def _read_window(facts: Facts, conv: Linear) -> _Window | None:
    """The geometry; None where padding depends on the size."""
    kernel = tuple(facts.weight(conv.weight).shape[2:])
    n, node = len(kernel), conv.node
    auto = node.attr("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID"):
        return None
    pads = [0] * (2 * n) if auto == "VALID" else list(node.attr("pads", [0] * (2 * n)))
    strides, dilations = (tuple(node.attr(name, [1] * n)) for name in ("strides", "dilations"))
    return _Window(kernel, strides, dilations, tuple(pads[:n]), tuple(pads[n:]))


def _find_offset(facts: Facts, m: Branches) -> tuple[int, ...] | str:
    """Where the other branch's taps lie in the kernel that stays, or why they do not."""
    one = _read_window(facts, m.conv)
    n = len(facts.weight(m.conv.weight).shape) - 2
    point = _Window(*((1,) * n, (1,) * n, (1,) * n, (0,) * n, (0,) * n))
    two = _read_window(facts, m.other) if isinstance(m.other, Linear) else point
    if one is None or two is None:
        return "padding that depends on the size tells no place for the taps"
    if one.strides != two.strides:
        return f"strides {list(one.strides)} and {list(two.strides)} differ"
    offsets = []
    for k in range(n):
        dilation = one.dilations[k]
        if two.kernel[k] > 1 and two.dilations[k] != dilation:
            return "their dilations differ"
        offset, rest = divmod(one.begins[k] - two.begins[k], dilation)
        behind = one.kernel[k] - offset - two.kernel[k]
        if rest or offset < 0 or behind < 0 or two.ends[k] != one.ends[k] - behind * dilation:
            return "their windows lie differently, or their outputs differ in size"
        offsets.append(offset)
    return tuple(offsets)


def _window_problem(facts: Facts, m: Branches) -> str | None:
    found = _find_offset(facts, m)
    if isinstance(found, str):
        return found
    weight = facts.weight(m.conv.weight)
    if np.prod(weight.shape, dtype=np.int64) > _LARGEST:
        return "the kernel is too large to be added up"
    if isinstance(m.other, Linear):
        same = m.other.groups == m.conv.groups and facts.weight(m.other.weight).shape[:2] == weight.shape[:2]
        return None if same else "their channels or groups differ"
    if lin.in_channels(facts, m.conv) != weight.shape[0]:
        return f"the convolution makes {weight.shape[0]} channels of {lin.in_channels(facts, m.conv)}"
    vectors = per_channel(facts, m.other, 1, len(weight.shape), weight.shape[0])
    return vectors if isinstance(vectors, str) else None


def _add_up(facts: Facts, m: Branches) -> tuple[Array, Array | None]:
    """The kernel and the bias of both branches together."""
    offset = _find_offset(facts, m)
    assert not isinstance(offset, str)
    weight, bias = facts.float64(m.conv.weight).copy(), lin.bias_value(facts, m.conv)
    if isinstance(m.other, Linear):
        added, more = facts.float64(m.other.weight), lin.bias_value(facts, m.other)
        places = tuple(slice(o, o + d) for o, d in zip(offset, added.shape[2:], strict=True))
        weight[(slice(None), slice(None), *places)] += added
    else:
        vectors = per_channel(facts, m.other, 1, weight.ndim, weight.shape[0])
        assert not isinstance(vectors, str)
        scale, more = vectors
        rows = np.arange(weight.shape[0])
        weight[(rows, rows % weight.shape[1], *offset)] += scale
        more = more if more.any() else None
    parts = [p for p in (bias, more) if p is not None]
    return weight, np.asarray(sum(parts)) if parts else None


def _sum_problem(facts: Facts, m: Branches) -> Decline | None:
    weight, bias = _add_up(facts, m)
    for value, what in ((weight.reshape(-1), "the kernel"), (bias, "the bias")):
        problem = checks.overflow_problem(value, facts.weight(m.conv.weight), what)
        if problem is not None:
            return "overflow", problem
    return None


def _plan_branches(facts: Facts, m: Branches) -> list[Edit]:
    """New kernel and bias, the Add out; the other branch is read by nobody then."""
    weight, bias = _add_up(facts, m)
    new = numerics.NewTensor(weight, facts.weight(m.conv.weight).dtype)
    return [SetConst(m.conv.node, 1, new, "weight"), *lin.set_bias(facts, m.conv, bias), Bypass(m.add, m.slot)]


CONVS = Pass(
    """Two branches of one input that are added become one convolution.

    Given:  x [N, I, *d]; Conv (W1, b1) and another Conv (W2, b2), a BatchNormalization or arithmetic per channel
            (s, t) of the same x; an Add of both.
    Result: W' = W1 + W2, its taps where they lie in the larger kernel, b' = b1 + b2; for (s, t) the centre of
            W'[c, c] gets s[c], and b' = b1 + t. The second branch and the Add are gone.
    Source: distribution of sums; Ding et al. 2021 (RepVGG), arXiv 2101.03697, section 3.3.""",
    Safety.ROUNDING,
    ops=("Add", "Sum"),
    find=_find_branches,
    checks=(
        *checks.AFFINE,
        Check("not-per-channel", _window_problem),
        Check("overflow", _sum_problem),
        checks.NOT_SHARED,
    ),
    plan=_plan_branches,
    output=lambda m: m.add.tensor_out(0),
    name="merge-parallel-convs",
    after=("fold-bn-into-conv", "fold-affine-into-conv", "hoist-affine"),
)

# -- a bias on both sides of a difference ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference(Match):
    """A Sub whose operands hold the same bias, and the two ways back to it."""

    sub: Node
    walks: tuple[Walk, Walk]
    memo: dict[str, object] = field(default_factory=dict, compare=False)

    @property
    def layers(self) -> list[LayerTaker]:
        """The layers whose biases go."""
        return [t for w in self.walks for t in w.takers if isinstance(t, LayerTaker)]

    @property
    def nodes(self) -> Sequence[Node]:
        """The Sub and the layers."""
        return [self.sub, *(t.node for t in self.layers)]

    @property
    def constants_replaced(self) -> Sequence[Tensor]:
        """The biases."""
        return [t.linear.bias for t in self.layers if t.linear.bias is not None]


def _find_difference(facts: Facts, node: Node) -> Difference | None:
    """A difference of two layers that shift what it subtracts alike."""
    if len(node.inputs) != 2 or node.inputs[0] is node.inputs[1]:
        return None
    one, two = (_find_shift(facts, t) for t in node.inputs)
    if one is None or two is None:
        return None
    if one.shape != two.shape or not np.array_equal(one, two) or not one.any():
        return None
    m = AffineMap(np.ones(()), -one)
    walks = take_back(facts, node, 0, m), take_back(facts, node, 1, m)
    if any(w.problem is None and not (len(w.takers) == 1 and isinstance(w.takers[0], LayerTaker)) for w in walks):
        return None
    return Difference(node, walks)


def _find_shift(facts: Facts, tensor: Tensor) -> Array | None:
    """What the bias of the layer that makes a tensor, perhaps behind moves and averages, adds to it."""
    way: list[Passage] = []
    node = facts.graph.producer(tensor)
    while node is not None and (linear := _find_layer(facts, node)) is None:
        if node.scope.opset < 7 or len(way) > 8:
            return None
        passage = find_passage(facts, node, next(k for k, t in enumerate(node.outputs) if t is tensor))
        if isinstance(passage, tuple) or passage.unshifted:
            return None
        way.append(passage)
        tensor = node.inputs[0]
        node = facts.graph.producer(tensor)
    bias = None if node is None or linear is None else lin.bias_value(facts, linear)
    rank = None if node is None or linear is None else lin.result_rank(facts, linear)
    axis = None if node is None or linear is None else lin.out_axis(facts, linear)
    if bias is None or bias.ndim != 1 or rank is None or not isinstance(axis, int):
        return None
    shift: Array | None = bias.reshape([-1 if k == axis else 1 for k in range(rank)])
    for passage in reversed(way):
        shift = None if shift is None else passage.there(shift, 0.0)
    return shift


def _find_layer(facts: Facts, node: Node) -> Linear | None:
    found = (linear_at(facts, node, op) for op in lin.LINEAR)
    return next((f for f in found if f is not None and f.bias is not None and _has_numbers(facts, f)), None)


def _has_numbers(facts: Facts, linear: Linear) -> bool:
    bias = linear.bias
    return (
        facts.constants.weight(linear.weight) is not None
        and bias is not None
        and facts.constants.problem(bias) is None
        and numerics.is_float(facts.weight(bias).dtype)
    )


def _way_problem(_: Facts, m: Difference) -> Decline | None:
    return next((w.problem for w in m.walks if w.problem is not None), None)


def _plan_difference(facts: Facts, m: Difference) -> list[Edit]:
    """Zeros for both biases, which drop-zero-bias and drop-identity-affine take away."""
    edits: list[Edit] = []
    for taker in m.layers:
        value = lin.bias_value(facts, taker.linear)
        assert value is not None
        edits += lin.set_bias(facts, taker.linear, np.zeros_like(value))
    changed = {id(t): t for w in m.walks for t in w.changed}
    return edits + [Rename(t) for t in changed.values()]


DIFFERENCE = Pass(
    """A bias on both sides of a difference goes away.

    Given:  two layers with equal biases b (the branches of a siamese net), read by a Sub alone, perhaps behind
            operators that hand a shift on.
    Result: (f(a) + b) - (f(c) + b) = f(a) - f(c): both biases become zero, and are dropped.
    Source: cancellation in real arithmetic.""",
    Safety.ROUNDING,
    ops=("Sub",),
    find=_find_difference,
    checks=(Check(WAY, _way_problem), checks.ATTRIBUTES_KNOWN, checks.CONSTANT),
    plan=_plan_difference,
    output=lambda m: m.sub.tensor_out(0),
    name="cancel-bias-in-difference",
    changes_batch_norm=False,
)
