"""Branches of one input that are added become one convolution or product; biases that a difference cancels go away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Bypass, DropInput, Edit, Node, Rename, Tensor
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
    """A sum of a convolution and of another one, an affine node (None: the input as it is), with the same input.

    Of a Sub, the second operand counts with the sign turned.

    `slot`: of the convolution that stays; `gone`: of the other branch.
    """

    add: Node
    slot: int
    gone: int
    conv: Linear
    other: Linear | Affine | None

    @property
    def signs(self) -> tuple[float, float]:
        """Of the convolution that stays, and of the other branch."""
        one, two = (-1.0 if self.add.is_op("Sub") and k == 1 else 1.0 for k in (self.slot, self.gone))
        return one, two

    @property
    def affines(self) -> Sequence[Affine]:
        """The affine node, where one branch is no more than that."""
        return (self.other,) if isinstance(self.other, Affine) else ()

    @property
    def nodes(self) -> Sequence[Node]:
        """All of them."""
        return [self.conv.node, *([] if self.other is None else [self.other.node]), self.add]

    @property
    def path(self) -> Sequence[tuple[Tensor, Node]]:
        """Both outputs, with the Add that reads them."""
        return [(b.result, self.add) for b in (self.conv, self.other) if b is not None]

    @property
    def constants_read(self) -> Sequence[Tensor]:
        """The other branch's."""
        if isinstance(self.other, Linear):
            return [t for t in (self.other.weight, self.other.bias) if t is not None]
        return () if self.other is None else self.other.params

    @property
    def constants_replaced(self) -> Sequence[Tensor]:
        """Weight and bias of the convolution that stays."""
        return [t for t in (self.conv.weight, self.conv.bias) if t is not None]


def _find_branches(facts: Facts, node: Node) -> Branches | None:
    """A sum of two branches of one tensor, and perhaps of more."""
    n = len(node.inputs)
    if not 2 <= n <= _MOST_TERMS or node.scope.opset < 7:
        return None
    makers = [facts.graph.producer(t) for t in node.inputs]
    convs = [_find_product(facts, m) for m in makers]
    sizes = [_count_taps(facts, c) for c in convs]
    pairs = ((slot, gone) for slot in range(n) for gone in range(n) if slot != gone and sizes[slot] >= 0)
    for slot, gone in sorted(pairs, key=lambda pair: -sizes[pair[0]]):
        conv, other, maker = convs[slot], convs[gone], makers[gone]
        if conv is None or maker is makers[slot]:
            continue
        source = conv.node.inputs[0]
        if node.inputs[gone] is source:
            return Branches(node, slot, gone, conv, None)
        if other is not None and other.node.inputs[0] is source and _is_conv(other) == _is_conv(conv):
            return Branches(node, slot, gone, conv, other)
        if maker is not None and maker.is_op(*BATCH_NORM, *ARITHMETIC):
            affine = next((a for a in affines_at(maker) if a.source is source), None)
            if affine is not None and all(facts.constants.weight(t) is not None for t in affine.params):
                return Branches(node, slot, gone, conv, affine)
    return None


_MOST_TERMS = 16


def _find_product(facts: Facts, node: Node | None) -> Linear | None:
    """A convolution, or a product with a matrix on the right."""
    found = (linear_at(facts, node, op) for op in (lin.CONV, lin.MATMUL, lin.GEMM))
    return next((f for f in found if f is not None), None)


def _is_conv(linear: Linear) -> bool:
    return linear.op == lin.CONV


def _count_taps(facts: Facts, conv: Linear | None) -> int:
    weight = None if conv is None else facts.constants.weight(conv.weight)
    if conv is None or weight is None:
        return -1
    if not _is_conv(conv):
        return 1 if len(weight.shape) == 2 else -1
    return -1 if len(weight.shape) < 3 else int(np.prod(weight.shape[2:]))


def _read_matrix(facts: Facts, linear: Linear) -> Array:
    """The weight of a product as [I, O]."""
    matrix = facts.float64(linear.weight)
    if linear.op != lin.GEMM:
        return matrix
    return float(linear.node.attr("alpha", 1.0)) * (matrix.T if linear.node.attr("transB", 0) else matrix)


def _matrix_problem(facts: Facts, m: Branches) -> str | None:
    """Why the other branch is no matrix that could be added; a bias that is not there yet needs a place."""
    if any(b.node.attr("transA", 0) for b in (m.conv, m.other) if isinstance(b, Linear)):
        return "their input is transposed"
    channels, adds = lin.out_channels(facts, m.conv), False
    if isinstance(m.other, Linear):
        if facts.weight(m.other.weight).shape != facts.weight(m.conv.weight).shape or m.other.op != m.conv.op:
            return "their matrices differ in shape"
        bias = m.other.bias
        adds = bias is not None
        if bias is not None and facts.weight(bias).shape != (channels,):
            return "the bias is not a vector of the channels"
    elif lin.in_channels(facts, m.conv) != channels:
        return f"the product makes {channels} channels of {lin.in_channels(facts, m.conv)}"
    elif m.other is not None:
        rank = lin.result_rank(facts, m.conv)
        vectors = "the number of axes is not known" if rank is None else _read_last_axis(facts, m.other, rank, channels)
        if isinstance(vectors, str):
            return vectors
        adds = bool(vectors[1].any())
    if adds and m.conv.op == lin.MATMUL and m.conv.bias is None:
        return "the product has no place for a bias"
    return None


def _read_last_axis(facts: Facts, affine: Affine, rank: int, channels: int) -> tuple[Array, Array] | str:
    return per_channel(facts, affine, rank - 1, rank, channels)


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
    if not _is_conv(m.conv):
        too_large = np.prod(facts.weight(m.conv.weight).shape, dtype=np.int64) > _LARGEST
        return "the matrix is too large to be added up" if too_large else _matrix_problem(facts, m)
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
    if m.other is None:
        return None
    vectors = per_channel(facts, m.other, 1, len(weight.shape), weight.shape[0])
    return vectors if isinstance(vectors, str) else None


def _add_up(facts: Facts, m: Branches) -> tuple[Array, Array | None]:
    """The kernel and the bias of both branches together."""
    if not _is_conv(m.conv):
        return _add_up_matrices(facts, m)
    offset = _find_offset(facts, m)
    assert not isinstance(offset, str)
    one, two = m.signs
    weight, bias = one * facts.float64(m.conv.weight), lin.bias_value(facts, m.conv)
    more: Array | None = None
    if isinstance(m.other, Linear):
        added, more = facts.float64(m.other.weight), lin.bias_value(facts, m.other)
        places = tuple(slice(o, o + d) for o, d in zip(offset, added.shape[2:], strict=True))
        weight[(slice(None), slice(None), *places)] += two * added
    else:
        vectors = (1.0, None) if m.other is None else per_channel(facts, m.other, 1, weight.ndim, weight.shape[0])
        assert not isinstance(vectors, str)
        scale, more = vectors
        rows = np.arange(weight.shape[0])
        weight[(rows, rows % weight.shape[1], *offset)] += two * scale
        more = more if more is not None and more.any() else None
    return weight, _add_biases(m, bias, more)


def _add_biases(m: Branches, bias: Array | None, more: Array | None) -> Array | None:
    parts = [s * p for s, p in zip(m.signs, (bias, more), strict=True) if p is not None and (p is bias or p.any())]
    return np.asarray(sum(parts)) if parts else None


def _add_up_matrices(facts: Facts, m: Branches) -> tuple[Array, Array | None]:
    """The matrix, as the product that stays stores it (without alpha), and the bias of both branches together."""
    one, two = m.signs
    matrix, bias = one * _read_matrix(facts, m.conv), lin.bias_value(facts, m.conv)
    more: Array | None = None
    if isinstance(m.other, Linear):
        matrix += two * _read_matrix(facts, m.other)
        more = lin.bias_value(facts, m.other)
    else:
        scale: Array | float = 1.0
        if m.other is not None:
            rank = lin.result_rank(facts, m.conv)
            vectors = _read_last_axis(facts, m.other, rank or 2, matrix.shape[1])
            assert not isinstance(vectors, str)
            scale, more = vectors
        rows = np.arange(matrix.shape[0])
        matrix[rows, rows] += two * scale
    stored = matrix.T if m.conv.op == lin.GEMM and m.conv.node.attr("transB", 0) else matrix
    return stored, _add_biases(m, bias, more)


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
    changed = list(m.conv.inner)  # a product before its bias
    if len(m.add.inputs) > 2:
        end: Edit = DropInput(m.add, m.gone)
        changed.append(m.conv.result)
    else:
        end = Bypass(m.add, m.slot)
    return [*lin.set_weight(m.conv, new), *lin.set_bias(facts, m.conv, bias), end, *(Rename(t) for t in changed)]


CONVS = Pass(
    """Two branches of one input that are added become one convolution, or one product.

    Given:  x [N, I, *d]; Conv (W1, b1) and another Conv (W2, b2), a BatchNormalization or arithmetic per channel
            (s, t) of the same x, or x itself (s = 1, t = 0); an Add or Sub of both. MatMul or Gemm for Conv.
    Result: W' = W1 + W2, its taps where they lie in the larger kernel, b' = b1 + b2; for (s, t) the centre of
            W'[c, c] gets s[c], and b' = b1 + t. The second branch and the Add are gone.
    Source: distribution of sums; Ding et al. 2021 (RepVGG), arXiv 2101.03697, section 3.3.""",
    Safety.ROUNDING,
    ops=("Add", "Sum", "Sub"),
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
