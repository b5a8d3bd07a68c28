"""The normal form of operators that a factor passes: parts, joins, rectifiers, tables, weights on the other side.

A part of a tensor is a part of the layer behind it: the channels that it leaves out count as multiplied by zero, so
that what becomes of them elsewhere does not show. A factor of a result goes into the arguments where all of it can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import NodeProto

from converter.referee.normal_form import form as views
from converter.referee.normal_form.form import (
    Atom,
    Form,
    Known,
    Linear,
    NotExpressed,
    Other,
    Total,
    View,
    build_linear,
    make_vector,
)
from converter.referee.normal_form.interval import Interval, is_float, make_exact, make_stored
from converter.referee.normal_form.laws import Law
from converter.referee.normal_form.reader import Reader, Rule, Value, get_interval, list_attributes
from converter.referee.reference.kernels import read_attributes

_LARGEST = 1 << 22  # elements of a constant that is compared as a vector
Back = Callable[[Interval], "Sequence[Interval | None] | None"]


def get_vector(value: Value) -> Form | None:
    """A float constant, not too large, as a form that factors go into."""
    if not isinstance(value, Known) or math.prod(value.shape) > _LARGEST or not is_float(value.array().dtype):
        return None
    interval = get_interval(value)
    return None if interval is None else make_vector(interval)


# -- parts -----------------------------------------------------------------------------------


def _take_part(
    r: Reader, node: NodeProto, form: Form, axis: int, indices: Sequence[int], key: Any, *, drops: bool = False
) -> Form | None:
    """Some places of a form along an axis; ``drops``: it is one place, and the axis goes."""
    rank, dims = r.rank(node.input[0]), r.dims(node.input[0])
    size = None if dims is None else dims[axis]
    if not isinstance(size, int) or any(not 0 <= k < size for k in indices):
        return None

    def there(interval: Interval) -> Interval | None:
        part = views.pick(interval, rank, axis, indices)
        return views.drop_axes(part, [axis], rank) if drops and part is not None else part

    def back(interval: Interval) -> Interval | None:
        wide = views.insert_axes(interval, [axis], rank) if drops else interval
        return views.put(wide, rank, axis, size, indices, 1.0)

    scale = None if form.scale is None else there(form.scale)
    shift = None if form.shift is None else there(form.shift)
    if (form.scale is None) != (scale is None) or (form.shift is None) != (shift is None):
        return None
    mask = views.put(make_exact(1.0), rank, axis, size, indices, 0.0)
    bare = Form(form.atom)
    masked = None if mask is None else bare.times(mask)
    if masked is not None and masked.scale is None:
        bare = masked
    elif _is_moved_layer(form.atom):  # a layer of which the other channels would show, though nobody reads them here
        raise NotExpressed(f"which channels of a layer {node.name or node.output[0]!r} takes is not known")
    return Form(View(key, bare, back), scale, shift)


_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split", "Gather")


def _is_moved_layer(atom: Atom) -> bool:
    """Whether it is a layer, or the elements of one in other places."""
    if isinstance(atom, View):
        return _is_moved_layer(atom.operand.atom)
    if isinstance(atom, Total):
        return any(_is_moved_layer(term.atom) for term in atom.terms)
    if isinstance(atom, Other) and atom.op in _MOVES:
        return isinstance(atom.args[0], Form) and _is_moved_layer(atom.args[0].atom)
    return isinstance(atom, Linear)


def _split(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    form = args[0]
    if not isinstance(form, Form) or any(isinstance(a, Form) for a in args[1:]):
        return None
    rank = r.rank(node.input[0])
    axis = int(read_attributes(node).get("axis", 0)) % rank
    sizes = [(r.dims(name) or (None,) * rank)[axis] for name in node.output]
    known = [s for s in sizes if isinstance(s, int)]
    if len(known) < len(sizes):
        return _split_outside(r, node, args, axis)
    stops = np.cumsum(known).tolist()
    cuts = [range(stop - size, stop) for stop, size in zip(stops, known, strict=True)]
    found = [_take_part(r, node, form, axis, cut, ("part", axis, cut.start, cut.stop, 1)) for cut in cuts]
    return _split_outside(r, node, args, axis) if None in found else list(found)


def _split_outside(r: Reader, node: NodeProto, args: list[Value], axis: int) -> list[Value] | None:
    """Parts of unknown sizes, each with the shift that is the same for all."""
    form = args[0]
    if not isinstance(form, Form) or form.shift is None:
        return None
    if views.varies_along(form.shift, [axis], r.rank(node.input[0])):
        return None
    bare = r.opaque(node, [form.settled, *args[1:]])
    return [part.plus(form.shift) if isinstance(part, Form) else part for part in bare]


def _gather(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """Rows of a constant table; or some places of a form, of which a scalar index takes the axis away."""
    form, index = args
    axis = int(read_attributes(node).get("axis", 0))
    if isinstance(index, Form):
        return _look_up(r, node, args, axis)
    if not isinstance(form, Form) or not isinstance(index, Known) or len(index.shape) > 1:
        return None
    axis %= r.rank(node.input[0])
    size = (r.dims(node.input[0]) or (None,) * (axis + 1))[axis]
    if not isinstance(size, int):
        return None
    at = [int(k) % size for k in index.array().reshape(-1)]
    drops = index.shape == ()
    part = _take_part(r, node, form, axis, at, ("places", axis, tuple(at), drops), drops=drops)
    return None if part is None else [part]


def _look_up(r: Reader, node: NodeProto, args: list[Value], axis: int) -> list[Value] | None:
    """Rows of a table: factor and shift may lie in it."""
    table, index = get_vector(args[0]), args[1]
    if table is None or not isinstance(args[0], Known) or not isinstance(index, Form):
        return None
    rank, n_index = len(args[0].shape), r.rank(node.input[1])
    axis %= rank

    def narrow(interval: Interval) -> Interval | None:
        if interval.value.ndim > rank - 1 + n_index:
            return None
        full = views.insert_axes(interval, [], rank - 1 + n_index)
        dims = full.value.shape
        if any(d != 1 for d in dims[axis : axis + n_index]):
            return None
        return full.map(lambda x: x.reshape((*dims[:axis], 1, *dims[axis + n_index :])))

    def back(interval: Interval) -> list[Interval | None] | None:
        found = narrow(interval)
        return None if found is None else [found, None]

    label = node.name or f"Gather:{node.output[0]}"
    return [Form(Other("Gather", ("table", axis), (table, index), 0, label, back, back))]


def _slices(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """A part along one axis that is known in full, or along axes where nothing varies."""
    form = args[0]
    sizes = [r.sizes(name) if name else None for name in node.input[1:]]  # constants, or made of sizes
    fields = [None if s is None else [k for k in s if isinstance(k, int)] for s in sizes]
    if not isinstance(form, Form) or any(
        name and (s is None or len(f or ()) < len(s)) for name, s, f in zip(node.input[1:], sizes, fields, strict=True)
    ):
        return None
    rank, dims = r.rank(node.input[0]), r.dims(node.input[0])
    given = read_attributes(node)
    starts, ends, axes, steps = (
        [given.get("starts"), given.get("ends"), given.get("axes"), None] if r.opset < 10 else [*fields, None, None][:4]
    )
    if starts is None or ends is None:
        return None
    cuts: list[tuple[int, range | None]] = []
    for k, a in enumerate(axes or range(len(starts))):
        size = None if dims is None else dims[a % rank]
        cut = slice(int(starts[k]), int(ends[k]), int(steps[k]) if steps else None)
        found = range(size)[cut] if isinstance(size, int) else None
        if found is None or found != range(len(found)) or len(found) != size:
            cuts.append((a % rank, found))
    if len(cuts) == 1 and (places := cuts[0][1]) is not None:
        key = ("part", cuts[0][0], places.start, places.stop, places.step)
        part = _take_part(r, node, form, cuts[0][0], places, key)
        return None if part is None else [part]
    if form.shift is None or views.varies_along(form.shift, [a for a, _ in cuts], rank):
        return None
    (bare,) = r.opaque(node, [form.settled, *args[1:]])
    assert isinstance(bare, Form)
    return [bare.plus(form.shift)]


# -- joins and rectifiers --------------------------------------------------------------------


def _concat(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """Shifts are joined outside, a factor goes into the parts."""
    if not any(isinstance(a, Form) for a in args):
        return None
    rank = r.rank(node.output[0])
    axis = int(read_attributes(node).get("axis", 1)) % rank
    sizes = [(r.dims(name) or (None,) * rank)[axis] for name in node.input]
    known = [s for s in sizes if isinstance(s, int)]
    stops = np.cumsum(known).tolist() if len(known) == len(sizes) else None
    forms = [a if isinstance(a, Form) else get_vector(a) for a in args]
    whole = [f for f in forms if f is not None]
    if len(whole) < len(forms):
        return None

    def back(interval: Interval) -> list[Interval | None] | None:
        if r.forward:
            return None
        if interval.value.size == 1:
            return [interval.reshape() for _ in sizes]
        if stops is None:
            return None
        cuts = (range(stop - size, stop) for stop, size in zip(stops, known, strict=True))
        parts = [views.pick(interval, rank, axis, cut) for cut in cuts]
        return None if None in parts else list(parts)

    key = ("Concat", axis)
    label = node.name or f"Concat:{node.output[0]}"
    computed = [f for f in whole if not views.is_vector(f)]
    shifts = None
    if stops is not None and any(f.shift is not None and not f.shift.is_zero for f in computed):
        spread = [
            views.spread(None if views.is_vector(f) else f.shift, axis, s, rank)
            for f, s in zip(whole, known, strict=True)
        ]
        shifts = [p for p in spread if p is not None]
    moves = shifts is not None and len(shifts) == len(whole)
    still = all(f.shift is None or f.shift.is_zero for f in computed)
    factor = None
    if r.forward and (moves or still) and any(f.scale is not None for f in computed):
        factor = _join_factors(whole, known if stops is not None else None, axis, rank)
    parts = [f if views.is_vector(f) else f.settled if moves else f for f in whole]
    if factor is not None:
        parts = [f if views.is_vector(f) else Form(f.atom) for f in whole]
    joined = Form(Other("Concat", key, tuple(parts), 0, label, back), factor)
    if shifts is None or not moves:
        return [joined]
    r.laws.add(Law.SHIFT)
    return [joined.plus(views.collapse(views.concatenate(shifts, axis)))]


def _join_factors(forms: list[Form], sizes: list[int] | None, axis: int, rank: int) -> Interval | None:
    """The factors of parts, one after the other; of parts of unknown sizes only if it is the same number for all."""
    scales = [make_exact(1.0) if f.scale is None else f.scale for f in forms]
    if sizes is None:
        first = scales[0].reshape() if scales[0].value.size == 1 else None
        alike = first is not None and all(
            x.value.size == 1 and x.reshape().value == first.value and x.reshape().radius == first.radius
            for x in scales
        )
        return first if alike else None
    spread = [views.spread(x, axis, size, rank) for x, size in zip(scales, sizes, strict=True)]
    found = [x for x in spread if x is not None]
    return views.collapse(views.concatenate(found, axis)) if len(found) == len(forms) else None


def _rectify(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """f(s x) = s f(x) for s > 0."""
    form = args[0]
    if r.forward and isinstance(form, Form) and form.scale is not None and _is_positive(form.scale):
        shift = None if form.shift is None or form.shift.is_zero else form.shift / form.scale
        (bare,) = r.opaque(node, [Form(form.atom, None, shift), *args[1:]])
        return [Form(bare.atom, form.scale)] if isinstance(bare, Form) and not any(node.output[1:]) else None

    def back(interval: Interval) -> list[Interval | None] | None:
        return [interval] if _is_positive(interval) and not r.forward else None

    return _on_first(r, node, args, back)


def _is_positive(interval: Interval) -> bool:
    return bool((interval.value - interval.radius > 0).all())


def _on_first(r: Reader, node: NodeProto, args: list[Value], back: Back) -> list[Value] | None:
    if not isinstance(args[0], Form) or any(node.output[1:]):
        return None
    (bare,) = r.opaque(node, args)
    assert isinstance(bare, Form)
    return [pass_back(bare, back)]


def pass_back(form: Form, back: Back) -> Form:
    """An operator of which a factor is one of its first arguments; the others, if there are more, take none."""
    atom = form.atom
    assert isinstance(atom, Other)
    n = len(atom.args)

    def padded(interval: Interval) -> Sequence[Interval | None] | None:
        found = back(interval)
        return None if found is None else [*found, *[None] * n][:n]

    return replace(form, atom=replace(atom, back=padded))


def _clip(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """The bounds take the factor too; of each channel its own where they are zero, or let everything through."""
    if not isinstance(args[0], Form):
        return None
    if r.opset < 11:
        given = read_attributes(node)
        stored = [np.float32(given[name]) if name in given else None for name in ("min", "max")]
        numbers = [None if b is None else make_stored(np.asarray(b), rounded=bool(b)) for b in stored]
    else:
        numbers = [None if a is None else get_interval(a) for a in [*args[1:], None, None][:2]]
        if any(a is not None and b is None for a, b in zip(args[1:], numbers, strict=False)):
            return None
    numbers = [None if b is None or (np.abs(b.value) >= _NO_BOUND).all() else b for b in numbers]
    bounds = [None if b is None else make_vector(b) for b in numbers]
    still = all(b is None or b.is_zero for b in numbers)

    def back(interval: Interval) -> list[Interval | None] | None:
        if not bool((interval.value - interval.radius > 0).all()) or (interval.value.size > 1 and not still):
            return None
        if still:
            return [interval, None, None]
        return [interval.reshape(), *(None if b is None else interval.reshape() for b in bounds)]

    (bare,) = r.opaque(node, [args[0], *bounds], "bounds")
    assert isinstance(bare, Form)
    return [pass_back(bare, back)]


_NO_BOUND = float(np.finfo(np.float32).max)


# -- weights ---------------------------------------------------------------------------------


def weigh(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """A product whose weight is on the left, or has more than two axes: a matrix on the left is a layer of rows."""
    left, right = args
    label = node.name or f"{node.op_type}:{node.output[0]}"
    if isinstance(left, Known) and isinstance(right, Form) and len(left.shape) == 2 and r.rank(node.input[1]) >= 2:
        if right.shift is not None and not right.shift.is_zero:
            r.laws.add(Law.THROUGH_WEIGHTS)
        return [build_linear(Linear("left MatMul", None, right, left, 1, False, 3, label), whole=True)]
    slot = 0 if isinstance(left, Known) else 1
    weight, data = get_vector(args[slot]), args[1 - slot]
    known = args[slot]
    if weight is None or not isinstance(data, Form) or not isinstance(known, Known):
        return None
    rank = len(known.shape)

    def back(interval: Interval) -> list[Interval | None] | None:
        dims = interval.value.shape
        summed = -2 if slot else -1
        if interval.value.size > 1 and (len(dims) > rank or (len(dims) >= -summed and dims[summed] != 1)):
            return None
        return [None, interval] if slot else [interval, None]

    pair = (weight, data) if slot == 0 else (data, weight)
    return [Form(Other("weighted", (node.op_type, list_attributes(node)), pair, 0, label, back))]


def _einsum(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """A product of a form and a weight by its equation."""
    slots = [k for k, a in enumerate(args) if isinstance(a, Known)]
    if len(args) != 2 or len(slots) != 1:
        return None
    (slot,) = slots
    weight = get_vector(args[slot])
    equation = read_attributes(node).get("equation", "")
    text = equation.decode() if isinstance(equation, bytes) else str(equation)
    known = args[slot]
    if weight is None or not isinstance(known, Known):
        return None
    labels, right = _name_axes(text.replace(" ", ""), slot, len(known.shape), r.rank(node.output[0]))
    if len(set(labels)) < len(labels) or len(labels) != len(known.shape):
        return None

    def back(interval: Interval) -> list[Interval | None] | None:
        share: Interval | None = interval.reshape() if interval.value.size == 1 else None
        if share is None and interval.value.ndim <= len(right):
            full = views.insert_axes(interval, [], len(right))
            if any(d != 1 and c not in labels for d, c in zip(full.value.shape, right, strict=True)):
                return None
            order = [right.index(c) for c in labels if c in right]
            rest = [k for k in range(len(right)) if k not in order]
            dims = [full.value.shape[right.index(c)] if c in right else 1 for c in labels]
            share = full.map(lambda x: x.transpose([*order, *rest]).reshape(dims))
        return None if share is None else [share if k == slot else None for k in (0, 1)]

    pair = [weight if k == slot else a for k, a in enumerate(args)]
    label = node.name or f"Einsum:{node.output[0]}"
    return [Form(Other("Einsum", text, (pair[0], pair[1]), 0, label, back))]


def _name_axes(equation: str, slot: int, rank: int, n_axes: int) -> tuple[str, str]:
    """The letters of an operand and of the result; those that three dots stand for are upper case Greek, from the end.

    Without an arrow the result has the letters that are there once, sorted, behind what the dots stand for.
    """
    operands, arrow, result = equation.partition("->")
    if not arrow:
        once = sorted(c for c in set(operands) - set(",.") if operands.count(c) == 1)
        result = ("..." if "..." in operands else "") + "".join(once)

    def expand(letters: str, axes: int) -> str:
        hidden = axes - len(letters) + 3
        return letters.replace("...", "".join(chr(0x391 + k) for k in reversed(range(hidden))))

    return expand([*operands.split(","), ""][slot], rank), expand(result, n_axes)


def _deform(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """A deformed convolution: channels as in any other."""
    weight = get_vector(args[1])
    if weight is None or not isinstance(args[1], Known) or not isinstance(args[0], Form):
        return None
    rank, bias = len(args[1].shape), args[3] if len(args) > 3 else None
    shift = None if bias is None else get_interval(bias)
    if bias is not None and shift is None:
        return None

    def back(interval: Interval) -> list[Interval | None] | None:
        dims = interval.value.shape
        if any(d != 1 for k, d in enumerate(dims) if k != len(dims) - rank + 1):
            return None
        return [None, interval.reshape(-1, *[1] * (rank - 1)), *[None] * (len(rest) - 2)]

    rest = [args[0], weight, args[2], None, *args[4:5]]
    label = node.name or f"DeformConv:{node.output[0]}"
    form = Form(Other("DeformConv", list_attributes(node), tuple(rest), 0, label, back))
    return [form if shift is None else form.plus(shift.reshape(-1, *[1] * (rank - 2)))]


def _recurrent(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """The two biases of a recurrent cell as the sum that it uses; what is done to its input, in its input weights."""
    weights, bias = args[1], args[3] if len(args) > 3 else None
    interval = None if bias is None else get_interval(bias)
    if not isinstance(weights, Known) or len(weights.shape) != 3 or not isinstance(args[0], Form):
        return None
    if bias is not None and (interval is None or interval.value.ndim != 2):
        return None
    n = weights.shape[1]
    if interval is None:
        interval = make_exact(np.zeros((weights.shape[0], 2 * n)))
    input_, state = interval.map(lambda x: x[:, :n]), interval.map(lambda x: x[:, n:])
    data, inner, added = _absorb_input(args[0], weights)
    input_ = input_ if added is None else input_ + added
    total = input_ + state
    r.laws.add(Law.SHIFT if added is None else Law.THROUGH_WEIGHTS)
    if node.op_type == "GRU" and read_attributes(node).get("linear_before_reset", 0):
        gates = 2 * n // 3  # the third gate multiplies the state's bias by the reset gate
        parts = [
            total.map(lambda x: x[:, :gates]),
            input_.map(lambda x: x[:, gates:]),
            state.map(lambda x: x[:, gates:]),
        ]
        total = views.concatenate(parts, 1)
    form = Form(Other("Biases", None, (), 0, node.name or f"{node.op_type}:{node.output[0]}"), None, total)
    return r.opaque(node, [data, inner, args[2], form, *args[4:]])


def _absorb_input(data: Form, weights: Known) -> tuple[Form, Value, Interval | None]:
    """The input without its factor and shift, W times the factor, and W times the shift."""
    vector = get_vector(weights)
    if vector is None or vector.shift is None:
        return data, weights, None
    size = weights.shape[2]
    for part in (data.scale, data.shift):
        if part is not None and (part.value.size not in (1, size) or part.value.shape[-1:] not in ((), (1,), (size,))):
            return data, vector, None
    inner = vector if data.scale is None else vector.times(data.scale.reshape(-1))
    if data.shift is None:
        return Form(data.atom), inner, None
    shift = data.shift.map(lambda x: np.broadcast_to(x.reshape(-1), (size,)))
    value, size_ = vector.shift.value, np.abs(vector.shift.value)
    error = size_ @ (shift.radius + (size + 2) * 2.0**-52 * np.abs(shift.value)) + vector.shift.radius @ np.abs(
        shift.value
    )
    return Form(data.atom), inner, Interval(value @ shift.value, error)


def _scaler(r: Reader, node: NodeProto, args: list[Value]) -> list[Value] | None:
    """(x - offset) * scale, in float32: one number, or one for each of the last axis."""
    port, given = r.types.get(node.input[0]), read_attributes(node)
    if not isinstance(args[0], Form) or port is None or port.dtype != np.float32:
        return None
    scale, offset = (np.asarray(given.get(name, [d]), np.float32) for name, d in (("scale", 1.0), ("offset", 0.0)))
    pair = [make_exact(x.reshape(()) if x.size == 1 else x) for x in (scale, offset)]
    return [args[0].plus(-pair[1]).times(pair[0])]


FACTOR_RULES: dict[str, Rule] = {
    "Split": _split,
    "Gather": _gather,
    "Slice": _slices,
    "Concat": _concat,
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Abs"), _rectify),
    "Clip": _clip,
    "Einsum": _einsum,
    "DeformConv": _deform,
    "ai.onnx.ml:Scaler": _scaler,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
}
