"""Operators that an affine map passes, up or down: one table of how its arrays move, and what must hold of them.

f(s x + t) = s' f(x) + t' for what moves, picks or repeats elements, averages, or fills in between them; for maxima
and rectifiers only where s > 0, for rectifiers only where t = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from converter.dataclass import dataclass
from converter.model.graph import Node
from converter.rewrite.affine_flow.affine_map import (
    AffineMap,
    Array,
    drop_axes,
    insert_axes,
    pick,
    put,
    reshape,
    transpose,
    untranspose,
)
from converter.rewrite.analysis.channel_axis import (
    VIEWS,
    average_counts_padding,
    is_maximum,
    is_pool,
    is_view,
    reshape_dims,
    squeezed_axes,
    unsqueezed_axes,
)
from converter.rewrite.analysis.facts import Facts

Move = Callable[[Array, float], Array | None]
Decline = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Passage:
    """How an operator hands an affine map of its first input on.

    Attributes
    ----------
    there, back : callable
        An array of the input, as it lies in the output, and the other way round; with the number that changes nothing.
    positive : bool
        Factors must be above zero.
    unshifted : str
        The code with which it declines a shift; empty where a shift passes.
    """

    there: Move
    back: Move
    positive: bool = False
    unshifted: str = ""

    def problem(self, node: Node, m: AffineMap) -> Decline | None:
        """Why the map does not pass; None if it does."""
        if self.positive and not m.is_positive:
            return "negative-scale", f"{node.label} ({node.op}) lets no factor through that is not positive"
        if self.unshifted and m.has_shift:
            return self.unshifted, f"{node.label} ({node.op}) lets no shift through"
        return None


def find_passage(facts: Facts, node: Node, index: int) -> Passage | Decline:
    """How the node hands a map of its first input on to its output `index`, or why it does not."""
    if not node.is_standard or node.function_attrs or node.tensor_in(0) is None:
        return "stops", f"{node.label} ({node.op}) does not hand it on"
    if is_view(facts, node):
        return _view(facts, node)
    rule = _RULES.get(node.op)
    found = None if rule is None else rule(facts, node, index)
    return ("stops", f"{node.label} ({node.op}) does not hand it on") if found is None else found


def _same(a: Array, _: float) -> Array:
    return a


def _view(facts: Facts, node: Node) -> Passage | Decline:
    match node.op:
        case "Identity" | "Dropout" | "Cast" | "CastLike":
            return Passage(_same, _same)
        case "Transpose":
            perm = node.attr("perm") or list(range(facts.rank(node.inputs[0]) or 0))[::-1]
            return Passage(
                lambda a, _: transpose(a, perm) if a.ndim in (0, len(perm)) else None,
                lambda a, _: untranspose(a, perm) if a.ndim in (0, len(perm)) else None,
            )
        case "Squeeze" | "Unsqueeze":
            grows = node.op == "Unsqueeze"
            axes = (unsqueezed_axes if grows else squeezed_axes)(facts, node)
            if isinstance(axes, str):
                return Passage(_uniform, _uniform)
            more, less = lambda a, _: insert_axes(a, axes), lambda a, _: drop_axes(a, axes)
            return Passage(more, less) if grows else Passage(less, more)
        case _:
            before, after = facts.shape(node.inputs[0]), reshape_dims(facts, node)
            return Passage(lambda a, _: reshape(a, before, after), lambda a, _: reshape(a, after, before))


def _uniform(a: Array, _: float) -> Array | None:
    return a if a.ndim == 0 else None


def _still(axes: Sequence[int] | None) -> Move:
    """For what does not vary along the axes on which the operator works; None for any axis."""
    if axes is None:
        return _uniform
    return lambda a, _: a if a.ndim == 0 or all(a.shape[k] == 1 for k in axes if k < a.ndim) else None


# -- what works on positions -----------------------------------------------------------------


def _pool(facts: Facts, node: Node, _: int) -> Passage | None:
    if not is_pool(node):
        return None
    still = _still(range(2, 16))
    counted = "padded-shift" if node.is_op("AveragePool") and average_counts_padding(node) else ""
    return Passage(still, still, is_maximum(node), counted)


def _depth_to_space(facts: Facts, node: Node, _: int) -> Passage:
    times, inner = int(node.attr("blocksize", 1)) ** 2, node.attr("mode", "DCR") == "CRD"
    still = _still([0, 2, 3])

    def back(a: Array, neutral: float) -> Array | None:
        if a.ndim == 0 or still(a, neutral) is None:
            return a if a.ndim == 0 else None
        vector = a.reshape(-1)
        return (np.repeat(vector, times) if inner else np.tile(vector, times)).reshape(1, -1, 1, 1)

    def there(a: Array, neutral: float) -> Array | None:
        if a.ndim == 0 or still(a, neutral) is None or a.shape[1] % times:
            return a if a.ndim == 0 else None
        blocks = a.reshape(-1, times).T if inner else a.reshape(times, -1)
        return blocks[0].reshape(1, -1, 1, 1) if (blocks == blocks[0]).all() else None

    return Passage(there, back)


def _space_to_depth(facts: Facts, node: Node, _: int) -> Passage:
    times, still = int(node.attr("blocksize", 1)) ** 2, _still([0, 2, 3])

    def there(a: Array, neutral: float) -> Array | None:
        if a.ndim == 0 or still(a, neutral) is None:
            return a if a.ndim == 0 else None
        return np.tile(a.reshape(-1), times).reshape(1, -1, 1, 1)

    def back(a: Array, neutral: float) -> Array | None:
        if a.ndim == 0 or still(a, neutral) is None or a.shape[1] % times:
            return a if a.ndim == 0 else None
        blocks = a.reshape(times, -1)
        return blocks[0].reshape(1, -1, 1, 1) if (blocks == blocks[0]).all() else None

    return Passage(there, back)


def _resize(facts: Facts, node: Node, _: int) -> Passage | Decline | None:
    """Interpolation weights sum to one; values from outside of the image do not move with it."""
    if node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        if float(node.attr("extrapolation_value", 0.0)):
            return "extrapolation", f"{node.label} fills in {node.attr('extrapolation_value'):g} from outside"
        return Passage(_kept_sizes(facts, node), _kept_sizes(facts, node), unshifted="extrapolation")
    return Passage(_kept_sizes(facts, node), _kept_sizes(facts, node))


def _kept_sizes(facts: Facts, node: Node) -> Move:
    """For what varies only along axes that have the same size before and after."""
    before, after = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    source = node.tensor_in(2 if node.op == "Resize" and node.scope.opset >= 11 else 1)
    scales = facts.constants.evaluate(source) if source is not None else node.attr("scales")
    if node.attr("axes") is None and scales is not None and len(scales):
        return _still([k for k, s in enumerate(scales) if s != 1])
    if before is None or after is None or len(before) != len(after):
        return _uniform
    return _still([k for k, (b, a) in enumerate(zip(before, after, strict=True)) if b is None or b != a])


def _pad(facts: Facts, node: Node, _: int) -> Passage | Decline | None:
    mode, slots = node.attr("mode", "constant"), node.tensor_in(1)
    given = node.attr("pads", node.attr("paddings"))
    pads = facts.constants.evaluate(slots) if slots is not None else None if given is None else np.asarray(given)
    if node.tensor_in(3) is not None:
        axes = facts.constants.evaluate(node.inputs[3])
        rank = facts.rank(node.inputs[0])
        if pads is None or axes is None or rank is None:
            still = _still(None)
        else:
            half = pads.size // 2
            still = _still([int(a) % rank for k, a in enumerate(axes) if pads[k] or pads[k + half]])
    else:
        half = 0 if pads is None else pads.size // 2
        still = _still(None if pads is None else [k for k in range(half) if pads[k] or pads[k + half]])
    if mode != "constant":
        return Passage(still, still)
    fill = node.tensor_in(2)
    value = float(node.attr("value", 0.0)) if fill is None else facts.constants.evaluate(fill)
    if value is None or np.asarray(value).any():
        return "stops", f"{node.label} (Pad) fills in a number that would have to move too"
    cuts = pads is not None and bool((pads <= 0).all())
    return Passage(still, still, unshifted="" if cuts else "padded-shift")


def _reduce(facts: Facts, node: Node, _: int) -> Passage | Decline | None:
    rank = facts.rank(node.inputs[0])
    source, axes = node.tensor_in(1), node.attr("axes")
    if source is not None:
        found = facts.constants.evaluate(source)
        axes = None if found is None else found.reshape(-1).tolist()
    if not axes or rank is None:
        return Passage(_uniform, _uniform, node.op in _MAXIMA, "varies" if node.op == "ReduceSum" else "")
    where = sorted(int(a) % rank for a in axes)
    still, keep = _still(where), node.attr("keepdims", 1)

    def there(a: Array, neutral: float) -> Array | None:
        return None if still(a, neutral) is None else a if keep else drop_axes(a, where)

    def back(a: Array, neutral: float) -> Array | None:
        wide = a if keep else insert_axes(a, where)
        return still(wide, neutral)

    return Passage(there, back, node.op in _MAXIMA, "varies" if node.op == "ReduceSum" else "")


_MAXIMA = ("ReduceMax", "ReduceMin")

# -- what repeats and picks ------------------------------------------------------------------


def _repeat(facts: Facts, node: Node, _: int) -> Passage:
    """Tile and Expand: what varies only along axes that are not repeated."""
    before, after = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    if before is None or after is None:
        return Passage(_uniform, _uniform)
    lead = len(after) - len(before)
    free = [k for k, d in enumerate(before) if isinstance(d, int) and d == after[k + lead]]
    narrow = _still([k for k in range(len(before)) if k not in free])
    wide = _still([k for k in range(len(after)) if k - lead not in free])

    def there(a: Array, neutral: float) -> Array | None:
        return None if narrow(a, neutral) is None else a if a.ndim == 0 else a.reshape((1,) * lead + a.shape)

    def back(a: Array, neutral: float) -> Array | None:
        return None if wide(a, neutral) is None else a if a.ndim == 0 else a.reshape(a.shape[lead:])

    return Passage(there, back)


def _part(facts: Facts, node: Node, axis: int, indices: Sequence[int], *, drops: bool = False) -> Passage | None:
    """Some places along one axis; `drops`: it is one place, and the axis goes."""
    shape = facts.shape(node.inputs[0])
    size = None if shape is None else shape[axis]
    if shape is None or not isinstance(size, int) or any(not 0 <= i < size for i in indices):
        return None
    rank = len(shape)

    def there(a: Array, _: float) -> Array | None:
        part = pick(a, axis, indices)
        return drop_axes(part, [axis]) if drops else part

    def back(a: Array, neutral: float) -> Array | None:
        wide = insert_axes(a, [axis]) if drops else a
        return None if wide.ndim not in (0, rank) else put(wide, rank, axis, size, indices, neutral)

    return Passage(there, back)


def _split(facts: Facts, node: Node, index: int) -> Passage | None:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return None
    axis = int(node.attr("axis", 0)) % len(shape)
    sizes = [None if (s := facts.shape(t)) is None else s[axis] for t in node.outputs[: index + 1]]
    known = [s for s in sizes if isinstance(s, int)]
    if len(known) < len(sizes):
        return None
    return _part(facts, node, axis, range(sum(known[:-1]), sum(known)))


def _slice(facts: Facts, node: Node, _: int) -> Passage | None:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return None
    fields = [node.tensor_in(k) for k in range(1, 5)]
    values = [None if t is None else facts.constants.evaluate(t) for t in fields]
    if node.scope.opset < 10:
        values = [None if (v := node.attr(n)) is None else np.asarray(v) for n in ("starts", "ends", "axes")] + [None]
    elif any(t is not None and v is None for t, v in zip(fields, values, strict=True)):
        return None
    starts, ends, axes, steps = values
    if starts is None or ends is None:
        return None
    where = list(range(starts.size)) if axes is None else [int(a) % len(shape) for a in axes]
    cuts: list[tuple[int, range | None]] = []
    for k, axis in enumerate(where):
        size = shape[axis]
        step = 1 if steps is None else int(steps[k])
        if not isinstance(size, int):
            cuts.append((axis, None))
        elif (indices := range(size)[int(starts[k]) : int(ends[k]) : step]) != range(size):
            cuts.append((axis, indices))
    if len(cuts) == 1 and (found := cuts[0][1]) is not None:
        return _part(facts, node, cuts[0][0], found)
    still = _still([axis for axis, _ in cuts])
    return Passage(still, still)


def _gather(facts: Facts, node: Node, _: int) -> Passage | None:
    shape, index = facts.shape(node.inputs[0]), node.tensor_in(1)
    at = None if index is None else facts.constants.evaluate(index)
    if shape is None or at is None or at.ndim > 1:
        return None
    axis = int(node.attr("axis", 0)) % len(shape)
    size = shape[axis]
    if not isinstance(size, int) or (at < -size).any():
        return None
    return _part(facts, node, axis, [int(i) % size for i in at.reshape(-1)], drops=at.ndim == 0)


# -- what is alike on both sides of zero, or above it ----------------------------------------


def _rectifier(facts: Facts, node: Node, _: int) -> Passage:
    return Passage(_same, _same, positive=True, unshifted="stops")


_RULES: dict[str, Callable[[Facts, Node, int], Passage | Decline | None]] = {
    **dict.fromkeys(("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduce),
    **dict.fromkeys(("Tile", "Expand"), _repeat),
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Abs"), _rectifier),
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Pad": _pad,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
}
# Operators that look at some of their first input alone: others may read the rest of it.
PARTS = ("Split", "Slice", "Gather")
# What stands between an affine map and a layer without making something else of it: the map may be a near miss.
HANDED_ON = frozenset(
    {*_RULES, *VIEWS, "Concat", "Add", "Sub", "Sum", "Mul", "MatMul", "Gemm", "Einsum", "Clip", "Max", "Min"}
)
