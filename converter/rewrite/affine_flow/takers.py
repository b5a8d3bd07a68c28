"""What takes an affine map over for good: the layer or the constant behind it, or before it."""

from __future__ import annotations

import numpy as np

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Node, Tensor
from converter.records import Weight
from converter.rewrite.affine_flow.affine_map import AffineMap, Array
from converter.rewrite.affine_flow.passages import Decline
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import affine_at, scale_and_shift, stats_problem, training_problem
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import LINEAR, Linear, linear_at, linear_into
from converter.rewrite.analysis.quantized import quantized_at


@dataclass(frozen=True, slots=True, eq=False)
class LayerTaker:
    """A linear operator whose channels take a factor and a shift: [O] of its output, or [I] of its input.

    `axis`: where these lie, of a DequantizeLinear of data, which has none of its own.
    """

    linear: Linear
    scale: Array
    shift: Array
    axis: int = 0

    @property
    def node(self) -> Node:
        """The operator."""
        return self.linear.node


@dataclass(frozen=True, slots=True, eq=False)
class ConstantTaker:
    """A constant c in an input slot that becomes scale * c + shift; `like` gives the type where there is none yet."""

    node: Node
    slot: int
    scale: Array
    shift: Array
    role: str
    like: Tensor | None = None

    @property
    def tensor(self) -> Tensor | None:
        """The constant as it stands."""
        return self.node.tensor_in(self.slot)

    def value(self, facts: Facts) -> Weight:
        """The new constant."""
        tensor = self.tensor
        if tensor is None:
            assert self.like is not None
            return numerics.NewTensor(self.shift, facts.weight(self.like).dtype)
        weight = facts.weight(tensor)
        if not self.shift.any():
            shape = weight.shape or (1,)
            factor = self.scale.reshape((1,) * (len(shape) - self.scale.ndim) + self.scale.shape)
            if weight.shape:
                return numerics.scale_weight(weight, weight.shape, factor)
        return numerics.NewTensor(np.asarray(weight.float64() * self.scale + self.shift), weight.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class AttributeTaker:
    """A number in an attribute that becomes `value`; `slot`: negative, a number of its own among those of the node."""

    node: Node
    slot: int
    name: str
    value: float


WEIGHTED = (*LINEAR, "Einsum", "DeformConv", "LSTM", "GRU", "RNN", "Gather", "FusedMatMul")
Taker = LayerTaker | ConstantTaker | AttributeTaker
# Numbers of attributes that take a map over, as slots: what an attribute that is absent stands for, None for no number.
ALPHA, BETA, LOW, HIGH = -1, -2, -3, -4
_ATTRIBUTES: dict[int, tuple[str, float | None]] = {
    ALPHA: ("alpha", 1.0),
    BETA: ("beta", 1.0),
    LOW: ("min", None),
    HIGH: ("max", None),
}
Taken = list[Taker] | Decline | None  # None: the node takes nothing over, but may hand it on
_FRESH = 1 << 20  # elements of a constant that is written anew, not as a factor of the stored one


def take_constant(facts: Facts, node: Node, slot: int, m: AffineMap, role: str = "term") -> Taken:
    """A constant operand takes the map as it is, where that does not enlarge it."""
    tensor = node.tensor_in(slot)
    if tensor is None or (weight := facts.constants.weight(tensor)) is None:
        return None
    if (problem := facts.constants.problem(tensor)) is not None:
        return problem
    if not numerics.is_float(weight.dtype):
        return "not-float", f"{tensor.name!r} is {weight.dtype}"
    arrays = [_fit(a, weight.shape) for a in (m.scale, m.shift)]
    if arrays[0] is None or arrays[1] is None:
        return "not-per-channel", f"{tensor.name!r} of shape {list(weight.shape)} would grow"
    if m.has_shift and np.prod(weight.shape, dtype=np.int64) > _FRESH:
        return "too-large", f"{tensor.name!r} is too large to be written anew"
    return [ConstantTaker(node, slot, arrays[0], arrays[1], role)]


def take_attribute(facts: Facts, node: Node, slot: int, m: AffineMap) -> Taken:
    """An attribute, which is one number in float32, takes a map that is the same for all."""
    name, default = _ATTRIBUTES[slot]
    given = node.attr(name, default)
    if given is None:
        return []
    if not m.is_uniform:
        return "varies", f"{node.label} ({node.op}) has one {name} for all"
    exact = np.float64(given) * m.scale.item() + m.shift.item()
    with np.errstate(over="ignore"):
        value = np.float32(exact)
    result = node.tensor_out(0)
    if not np.isfinite(value) or (exact and not value):
        return "overflow", f"{name} of {node.label} would be {exact:g}"
    if result is None or (facts.graph.elem_type(result) not in _ROUNDED and value != exact):
        return "rounding", f"{name} of {node.label} is an attribute, in float32"
    return [AttributeTaker(node, slot, name, float(value))]


_ROUNDED = (1, 10, 16)  # float32, float16, bfloat16: an attribute holds all that they can tell apart


def _fit(a: Array, shape: tuple[int, ...]) -> Array | None:
    """The array beside a constant of this shape; None if the constant would have to grow."""
    lead = a.ndim - len(shape)
    if lead > 0:
        if any(d != 1 for d in a.shape[:lead]):
            return None
        a = a.reshape(a.shape[lead:])
    tail = shape[len(shape) - a.ndim :]
    return a if all(d in (1, s) for d, s in zip(a.shape, tail, strict=True)) else None


def make_vector(m: AffineMap, axis: int, size: int) -> tuple[Array, Array] | None:
    """Scale and shift as one number for each place of an axis, counted from the end; None if they are not that."""
    if not set(m.sizes) <= {axis} or m.sizes.get(axis, size) != size:
        return None
    return tuple(np.broadcast_to(a.reshape(-1), (size,)) for a in (m.scale, m.shift))  # type: ignore[return-value]


# -- what gives the tensor -------------------------------------------------------------------


def take_output(facts: Facts, node: Node, tensor: Tensor, m: AffineMap) -> Taken:
    """What takes over a map of the tensor that `node` gives."""
    for op in LINEAR:
        linear = linear_at(facts, node, op)
        weight = None if linear is None else facts.constants.weight(linear.weight)
        if linear is not None and weight is not None and (op != lin.MATMUL or len(weight.shape) == 2):
            return _take_layer_output(facts, linear, m)
    quantized = quantized_at(facts, node)
    if quantized is not None:
        return _take_layer_output(facts, quantized, m)
    if node.function_attrs:
        return None
    if node.is_microsoft("FusedMatMul"):
        return _take_product(facts, node, m)
    if node.is_microsoft(*lin.FUSED):
        return _take_fused(facts, node, m)
    match node.op if node.is_standard else "":
        case "MatMul" | "Einsum":
            return _take_product(facts, node, m)
        case "DeformConv":
            return _take_deformed(facts, node, m)
        case "Gather":
            return _take_table(facts, node, m)
        case "BatchNormalization":
            return _take_batch_norm(facts, node, tensor, m)
        case "InstanceNormalization":
            return _take_norm(facts, node, m, 1)
        case "LayerNormalization":
            return _take_norm(facts, node, m, None)
    return None


def _take_fused(facts: Facts, node: Node, m: AffineMap) -> Taken:
    """A layer that rectifies what it gives: a positive factor passes into its weight and bias."""
    linear = Linear(node, node, 2)
    weight = None if node.tensor_in(1) is None else facts.constants.weight(linear.weight)
    if weight is None or node.attr("activation") not in ("Relu", "LeakyRelu") or node.tensor_in(3) is not None:
        return None
    if m.has_shift:
        return "stops", f"{node.label} ({node.op}) lets no shift through"
    if not m.is_positive:
        return "negative-scale", f"{node.label} ({node.op}) lets no factor through that is not positive"
    return _take_layer_output(facts, linear, m)


def _list_problems(facts: Facts, *tensors: Tensor | None) -> Decline | None:
    found = (facts.constants.problem(t) for t in tensors if t is not None)
    return next((p for p in found if p is not None), None)


def _take_layer_output(facts: Facts, linear: Linear, m: AffineMap) -> Taken:
    problem = _list_layer_problems(facts, linear)
    if problem is not None:
        return problem
    axis, rank = lin.out_axis(facts, linear), lin.result_rank(facts, linear)
    size = lin.out_channels(facts, linear)
    if not size:
        return _take_dequantized(linear, m, rank)
    if isinstance(axis, str) or rank is None:
        if not m.is_uniform:
            return "channel-axis", axis if isinstance(axis, str) else f"{linear.node.label} has axes of unknown number"
        axis, rank = 0, 1
    found = make_vector(m, axis - rank, size)
    if found is None:
        return "not-per-channel", f"it is not one number per channel of {linear.node.label}"
    return [LayerTaker(linear, *found)]


def _take_dequantized(linear: Linear, m: AffineMap, rank: int | None) -> Taken:
    """DequantizeLinear of data: its scale takes a factor along any one axis."""
    if m.has_shift:
        return "no-bias-slot", f"{linear.node.label} has no bias"
    if m.is_uniform:
        return [LayerTaker(linear, m.scale.reshape(1), np.zeros(1))]
    if rank is None or len(m.sizes) != 1:
        return "not-per-channel", f"it is not one number per channel of {linear.node.label}"
    (axis,) = m.sizes
    return [LayerTaker(linear, m.scale.reshape(-1), np.zeros(m.scale.size), rank + axis)]


def _list_layer_problems(facts: Facts, linear: Linear) -> Decline | None:
    if linear.node.function_attrs:
        return "function-attribute", f"{linear.node.label} takes attributes from each call of its function"
    problem = _list_problems(facts, linear.weight)
    if problem is not None and problem[0] != "weight-quantized":  # then its scale may take the factor
        return problem
    if (why := lin.weight_rank_problem(facts, linear)) is not None:
        return "weight-rank", why
    return _list_problems(facts, linear.bias)


def _take_product(facts: Facts, node: Node, m: AffineMap) -> Taken:
    """A product whose weight is its left factor, has more than two axes, or is one operand of an Einsum."""
    slots = [k for k, t in enumerate(node.inputs) if t.name and facts.constants.weight(t) is not None]
    if len(slots) != 1 or len(node.inputs) != 2:
        return None
    (slot,) = slots
    weight = facts.weight(node.inputs[slot])
    if m.has_shift:
        return "no-bias-slot", f"{node.label} ({node.op}) has no bias"
    factor = _align_factor(node, slot, m, len(weight.shape))
    if isinstance(factor, str):
        return "not-per-channel", factor
    return take_constant(facts, node, slot, AffineMap(factor, np.zeros(())), "weight")


def _align_factor(node: Node, slot: int, m: AffineMap, rank: int) -> Array | str:
    """The factor of the output as it lies beside the weight, or why it cannot."""
    if m.scale.ndim == 0:
        return m.scale
    if node.op == "Einsum":
        return align_einsum(node, None, slot, m.scale, rank)
    summed = -2 if slot else -1  # the weight's axis that the product sums over
    if rank < 2 or m.scale.shape[summed] != 1:
        return f"it is not one number per channel of {node.label}"
    return _turn(node, slot, m.scale)


def _turn(node: Node, slot: int, scale: Array) -> Array:
    """A factor of a matrix's axes as the matrix is stored, where the operator takes it transposed."""
    stored_turned = node.attr("transB" if slot else "transA", 0)
    return scale.swapaxes(-1, -2) if stored_turned and scale.ndim > 1 else scale


def align_einsum(node: Node, origin: int | None, slot: int, scale: Array, rank: int) -> Array | str:
    """A factor of an Einsum's output (or of its operand `origin`) as it lies beside the operand in a slot.

    Returns
    -------
    array, or a clause that says why it cannot lie there
    """
    labels, right = _read_equation(node, origin, slot)
    labels, right = _spell(labels, rank), _spell(right, scale.ndim)
    if (
        len(right) != scale.ndim
        or len(labels) != rank
        or len(set(right)) < len(right)
        or len(set(labels)) < len(labels)
    ):
        return f"{node.label} has an equation whose axes are not told apart"
    if any(d != 1 and label not in labels for d, label in zip(scale.shape, right, strict=True)):
        return f"it varies along an axis that input {slot} of {node.label} has not"
    kept = [k for k, label in enumerate(right) if label in labels]
    order = sorted(kept, key=lambda k: labels.index(right[k]))
    moved = scale.reshape([d for k, d in enumerate(scale.shape) if k in kept])
    moved = moved.transpose([kept.index(k) for k in order])
    sizes = iter(moved.shape)
    return moved.reshape([next(sizes) if label in right else 1 for label in labels])


def _read_equation(node: Node, origin: int | None, slot: int) -> tuple[str, str]:
    """The labels of an Einsum's operand in a slot, and those of its output, or of its operand `origin`."""
    left, arrow, right = str(node.attr("equation", "")).replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:  # the letters that occur once, in alphabetical order, behind what an ellipsis stands for
        letters = left.replace(",", "").replace("...", "")
        right = "..." * ("..." in left) + "".join(sorted(c for c in letters if letters.count(c) == 1))
    if origin is not None:
        right = terms[origin] if origin < len(terms) else ""
    return terms[slot] if slot < len(terms) else "", right


def _spell(labels: str, rank: int) -> str:
    """Labels with a digit for each axis that an ellipsis stands for; they are aligned at the last, which is 0."""
    n = rank - len(labels.replace("...", ""))
    return labels.replace("...", "9876543210"[10 - n :]) if 0 <= n <= 10 else ""


def _take_deformed(facts: Facts, node: Node, m: AffineMap) -> Taken:
    weight, bias = node.tensor_in(1), node.tensor_in(3)
    if weight is None or (kernel := facts.constants.weight(weight)) is None:
        return None
    problem = _list_problems(facts, weight, bias)
    found = make_vector(m, 1 - len(kernel.shape), kernel.shape[0])
    if problem is not None or found is None:
        return problem or ("not-per-channel", f"it is not one number per channel of {node.label}")
    scale, shift = found
    parts: list[Taker] = [
        ConstantTaker(node, 1, scale.reshape(-1, *[1] * (len(kernel.shape) - 1)), np.zeros(()), "weight")
    ]
    if bias is not None or shift.any():
        parts.append(ConstantTaker(node, 3, scale, shift, "bias", weight))
    return parts


def _take_table(facts: Facts, node: Node, m: AffineMap) -> Taken:
    """Rows of a constant table: an embedding."""
    table, index = node.tensor_in(0), node.tensor_in(1)
    if table is None or index is None or (weight := facts.constants.weight(table)) is None:
        return None
    axis, n_index = int(node.attr("axis", 0)) % max(len(weight.shape), 1), facts.rank(index)
    if not m.is_uniform:
        if n_index is None:
            return "not-per-channel", f"the number of axes of {index.name!r} is not known"
        rank = len(weight.shape) - 1 + n_index
        rows = range(axis - rank, axis - rank + n_index)  # axes of the output that the index gives
        if any(k in rows for k in m.sizes):
            return "not-per-channel", f"it varies along the rows that {node.label} picks"
        arrays = [
            a if a.ndim == 0 else a.reshape((*a.shape[:axis], 1, *a.shape[axis + n_index :]))
            for a in (m.scale, m.shift)
        ]
        m = AffineMap(*arrays)
    return take_constant(facts, node, 0, m, "table")


def _take_batch_norm(facts: Facts, node: Node, tensor: Tensor, m: AffineMap) -> Taken:
    bn = affine_at(node, 0)
    if bn is None or bn.result is not tensor or training_problem(bn) or stats_problem(facts, bn):
        return None
    return _take_norm(facts, node, m, 1)


def _take_norm(facts: Facts, node: Node, m: AffineMap, axis: int | None) -> Taken:
    """Gamma and beta of a norm that stays; they lie on `axis`, or on the last axes."""
    gamma, beta = node.tensor_in(1), node.tensor_in(2)
    if gamma is None or (weight := facts.constants.weight(gamma)) is None:
        return None
    problem = _list_problems(facts, gamma, beta)
    if problem is not None:
        return problem
    if axis is None:
        arrays = [_fit(a, weight.shape) for a in (m.scale, m.shift)]
    else:
        rank = facts.rank(node.inputs[0])
        found = None if rank is None or len(weight.shape) != 1 else make_vector(m, axis - rank, weight.shape[0])
        arrays = [None, None] if found is None else list(found)
    scale, shift = arrays
    if scale is None or shift is None:
        return "not-per-channel", f"it is not one number per channel of {node.label}"
    parts: list[Taker] = [ConstantTaker(node, 1, scale, np.zeros(()), "scale")]
    if beta is not None or shift.any():
        parts.append(ConstantTaker(node, 2, scale, np.broadcast_to(shift, weight.shape), "bias", gamma))
    return parts


# -- what reads the tensor -------------------------------------------------------------------


def take_input(facts: Facts, node: Node, slot: int, m: AffineMap) -> Taken:
    """What takes over a map of the tensor that `node` reads in an input slot."""
    if node.is_microsoft("FusedMatMul") and not node.function_attrs and slot < 2:
        return _take_product_input(facts, node, slot, m)
    if not node.is_standard or node.function_attrs:
        return None
    if node.op in LINEAR and slot == 0:
        linear = linear_into(facts, node, str(node.op))
        weight = None if linear is None else facts.constants.weight(linear.weight)
        if linear is not None and weight is not None and (node.op != lin.MATMUL or len(weight.shape) == 2):
            return _take_layer_input(facts, linear, m)
    match node.op:
        case "MatMul" | "Gemm" if slot < 2:
            return _take_product_input(facts, node, slot, m)
        case "Einsum" if len(node.inputs) == 2:
            return _take_product_input(facts, node, slot, m)
        case "LSTM" | "GRU" | "RNN" if slot == 0:
            return _take_recurrent(facts, node, m)
        case "BatchNormalization" if slot == 0:
            return _take_before_norm(facts, node, m)
        case "Mul" | "Div" | "Add" | "Sub" | "Sum" if len(node.inputs) == 2:
            return _take_arithmetic(facts, node, slot, m)
    return None


def _take_layer_input(facts: Facts, linear: Linear, m: AffineMap) -> Taken:
    problem = _list_layer_problems(facts, linear)
    if problem is not None:
        return problem
    rank = lin.result_rank(facts, linear)
    turned = linear.op == lin.GEMM and linear.node.attr("transA", 0)
    axis = -2 if turned else -1 if linear.op in (lin.GEMM, lin.MATMUL) else 1 - (rank or 0)
    found = make_vector(m, axis, lin.in_channels(facts, linear))
    if found is None:
        return "not-per-channel", f"it is not one number per channel that {linear.node.label} reads"
    return [LayerTaker(linear, *found)]


def _take_product_input(facts: Facts, node: Node, slot: int, m: AffineMap) -> Taken:
    """The other factor of a product is the weight: it takes a factor of what it is summed with."""
    other = node.tensor_in(1 - slot)
    weight = None if other is None else facts.constants.weight(other)
    if weight is None:
        return None
    if m.has_shift:
        return "no-bias-slot", f"{node.label} ({node.op}) has no bias"
    if m.scale.ndim == 0:
        return take_constant(facts, node, 1 - slot, m, "weight")
    if node.op == "Einsum":
        aligned = align_einsum(node, slot, 1 - slot, m.scale, len(weight.shape))
        if isinstance(aligned, str):
            return "not-per-channel", aligned
        return take_constant(facts, node, 1 - slot, AffineMap(aligned, np.zeros(())), "weight")
    summed = -1 if slot == 0 else -2
    if node.attr("transB" if slot else "transA", 0):
        summed = -3 - summed
    if len(weight.shape) < 2 or set(m.sizes) != {summed}:
        return "not-per-channel", f"it is not one number per channel that {node.label} reads"
    vector = _turn(node, 1 - slot, m.scale.reshape(-1, 1) if slot == 0 else m.scale.reshape(1, -1))
    return take_constant(facts, node, 1 - slot, AffineMap(vector, np.zeros(())), "weight")


def _take_recurrent(facts: Facts, node: Node, m: AffineMap) -> Taken:
    """W' = W diag(s), Wb' = Wb + W t, for W [directions, gates H, I] and B [directions, 2 gates H]."""
    weight, bias = node.tensor_in(1), node.tensor_in(3)
    if weight is None or (w := facts.constants.weight(weight)) is None or len(w.shape) != 3:
        return None
    problem = _list_problems(facts, weight, bias)
    found = make_vector(m, -1, w.shape[2])
    if problem is not None or found is None:
        return problem or ("not-per-channel", f"it is not one number per feature that {node.label} reads")
    scale, shift = found
    parts: list[Taker] = [ConstantTaker(node, 1, scale, np.zeros(()), "weight")]
    if shift.any():
        added = w.float64() @ shift
        whole = np.concatenate([added, np.zeros_like(added)], axis=1)
        parts.append(ConstantTaker(node, 3, np.ones(()), whole, "bias", weight))
    return parts


def _take_before_norm(facts: Facts, node: Node, m: AffineMap) -> Taken:
    """gamma' = s gamma, beta' = beta + gamma / sqrt(var + eps) (t + (s - 1) mean)."""
    bn, rank = affine_at(node, 0), facts.rank(node.inputs[0])
    if bn is None or rank is None or training_problem(bn) or stats_problem(facts, bn):
        return None
    problem = _list_problems(facts, *bn.params)
    if problem is not None:
        return problem
    mean = facts.float64(bn.params[2])
    found = make_vector(m, 1 - rank, mean.size)
    if found is None:
        return "not-per-channel", f"it is not one number per channel of {node.label}"
    scale, shift = found
    with np.errstate(all="ignore"):
        added = scale_and_shift(facts, bn)[0] * (shift + (scale - 1) * mean)
    if not np.isfinite(added).all():
        return "not-finite", f"{node.label} has parameters that are not finite"
    zeros = np.zeros(())
    return [ConstantTaker(node, 1, scale, zeros, "scale"), ConstantTaker(node, 2, np.ones(()), added, "bias")]


def _take_arithmetic(facts: Facts, node: Node, slot: int, m: AffineMap) -> Taken:
    """A factor before a constant factor goes into it, a shift before a constant term into that."""
    other = node.tensor_in(1 - slot)
    if other is None or facts.constants.weight(other) is None or node.scope.opset < 7:
        return None
    if node.is_op("Mul") and not m.has_shift:
        return take_constant(facts, node, 1 - slot, m, "factor")
    if node.is_op("Add", "Sub", "Sum") and bool((m.scale == 1).all()):
        sign = -1.0 if node.is_op("Sub") else 1.0
        return take_constant(facts, node, 1 - slot, AffineMap(np.ones(()), sign * m.shift), "term")
    return None
