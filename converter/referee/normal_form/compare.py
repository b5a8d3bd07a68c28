"""Weights side by side: what one side stores against what the other side's scales make of it, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto

from converter.dataclass import dataclass
from converter.errors import BiasoptError
from converter.referee.normal_form.form import Form, Known, Leaf, Linear, NotExpressed, Other, Total, View
from converter.referee.normal_form.fused import ALL_RULES
from converter.referee.normal_form.interval import Interval, compute_half_ulp, is_float, make_exact
from converter.referee.normal_form.laws import Law, find_factor
from converter.referee.normal_form.reader import Reader
from converter.referee.proto.diff import Outline, Region
from converter.referee.proto.scopes import is_same_constant
from converter.referee.proto.source import LoadedModel
from converter.referee.reference.kernels import Unsupported

Array = np.ndarray[Any, Any]

# What is beyond half a unit in the last place by less than this share of it is a tie of another float64 formula.
SLACK = 2.0**-9
ERRORS = 4.0  # float64 errors of this formula and of the other one, twice over
_BLOCK = 1 << 18  # elements compared at once: 2 MB as float64
_NEAR = 1e-3  # of a number: what was moved is off by a factor, and is not as near to the recomputed one
_FINE = 2.0**-40  # relative error of a factor that no float32 weight depends on


@dataclass(frozen=True, slots=True)
class ComparedArray:
    """One array of numbers that was recomputed.

    ``score``: largest distance in units of the last place (for what is not stored as one number, of its
    error bound). ``beyond``: elements further off than one rounding, half a unit, explains.
    """

    layer: str
    op: str
    what: str  # weight | bias | scale | constant
    tensor: str
    count: int
    score: float
    beyond: int
    channel: int
    found: float = 0.0
    expected: float = 0.0
    inner: bool = False  # not at the place's output, but on the way to it


def find_nonfinite_changes(a: Array, b: Array) -> Array:
    """Where one is not finite and the other is not the same."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    result: Array = ~(np.isfinite(a) & np.isfinite(b)) & ~same
    return result


ROUNDED = 0.5 + SLACK / 2  # units in the last place: a number that was rounded once


def measure_distance(off: Array, error: Array, differ: Array) -> tuple[float, int, int]:
    """Largest distance in units of two errors, how many are beyond one error, and where the largest is."""
    if not off.size:
        return 0.0, 0, 0
    ratio = np.where(off == 0, 0.0, off / np.maximum(error, np.finfo(np.float64).tiny))
    ratio = np.where(differ, np.inf, np.where(np.isnan(ratio), 0.0, ratio))
    worst = int(np.argmax(ratio))
    return float(ratio.reshape(-1)[worst]) / 2, int(np.count_nonzero(ratio > 1 + SLACK)), worst


def compare_weights(a: Linear, b: Linear) -> ComparedArray:
    """The weight that one side has against the one that the other side has, a block at a time."""
    left, right = a.weight.array(), b.weight.array()
    stored = isinstance(a.weight.source, TensorProto) and isinstance(b.weight.source, TensorProto)
    if stored and b.weight.rounded and right.dtype.itemsize < left.dtype.itemsize:
        raise NotExpressed(f"the weight of {a.label!r} became {right.dtype}")
    same = stored and a.weight.name == b.weight.name and not b.weight.rounded
    n = int(left.size)
    if same and (_hash(a.scale_in), _hash(a.scale_out)) == (_hash(b.scale_in), _hash(b.scale_out)):
        return ComparedArray(a.label, a.kind, "weight", b.weight.name, n, 0.0, 0, 0)
    factor, error = _compute_factors(a), _compute_factor_error(a, b)
    other = _compute_factors(b) if b.scale_in is not None or b.scale_out is not None else None
    worst, beyond, place, found, expected = -1.0, 0, 0, 0.0, 0.0
    for x, f, y, g, start in _cut_blocks(_arrange(a, left), factor, _arrange(b, right), other):
        want = x * f
        got = y.astype(np.float64) if g is None else y * g
        if b.weight.rounded and g is None and error is None and np.array_equal(_round(want, y.dtype), y):
            worst = max(worst, 0.5)
            continue
        if np.array_equal(got, want):
            worst = max(worst, 0.0)
            continue
        bound = _compute_bound(b, y, g, x, f, error)
        score, count, at = measure_distance(np.abs(got - want), bound, find_nonfinite_changes(want, got))
        beyond += count
        if score > worst:
            worst, place = score, start(at)
            found, expected = float(got.reshape(-1)[at]), float(np.broadcast_to(want, got.shape).reshape(-1)[at])
    return ComparedArray(a.label, a.kind, "weight", b.weight.name, n, max(worst, 0.0), beyond, place, found, expected)


def _round(value: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(all="ignore"):
        return value.astype(dtype)


def _compute_bound(b: Linear, y: Array, g: Array | None, x: Array, f: Array, error: Array | None) -> Array:
    with np.errstate(all="ignore"):
        bound = compute_half_ulp(y) if b.weight.rounded and not b.weight.relative else np.abs(y) * b.weight.relative
        if g is not None:
            bound = bound * np.abs(g)
        fine = 2.0**-50 if error is None else error
        result: Array = bound + np.abs(x * f) * fine
        return result


def _compute_factors(atom: Linear) -> Array:
    """What the stored weight is multiplied by: broadcasts to [groups, outputs, inputs, taps]."""
    g = atom.groups
    factor = np.ones((g, 1, 1, 1))
    if atom.scale_out is not None:
        factor = factor * atom.scale_out.value.reshape(g, -1, 1, 1)
    if atom.scale_in is not None:
        factor = factor * atom.scale_in.value.reshape(g, 1, -1, 1)
    return factor


def _compute_factor_error(a: Linear, b: Linear) -> Array | None:
    """Relative error of the factors, one number for each side's worst; None where no weight would depend on it."""
    worst = 0.0
    for interval, times in ((a.scale_in, ERRORS), (a.scale_out, ERRORS), (b.scale_in, 1.0), (b.scale_out, 1.0)):
        if interval is not None and interval.value.size:
            with np.errstate(all="ignore"):
                ratio = interval.radius / np.abs(interval.value)
            finite = ratio[np.isfinite(ratio)]
            worst += times * float(finite.max(initial=0.0))
    narrow = b.weight.array().dtype.itemsize < 8 if b.weight.rounded else False
    return None if narrow and worst < _FINE else np.asarray(worst + 2.0**-50)


def _arrange(atom: Linear, array: Array) -> Array:
    """The weight as [groups, outputs, inputs, taps]."""
    view = array.reshape(atom.view)
    return view.swapaxes(1, 2) if atom.inputs_first else view


def _cut_blocks(
    x: Array, f: Array, y: Array, g: Array | None
) -> Iterator[tuple[Array, Array, Array, Array | None, Any]]:
    """Both weights and their factors, cut along the outputs; and where an element of a block lies."""
    groups, outputs = x.shape[:2]
    axis = 0 if groups > 1 else 1
    length = x.shape[axis]
    step = max(1, _BLOCK * length // max(x.size, 1))
    for k in range(0, length, step):
        cut = (slice(None),) * axis + (slice(k, k + step),)
        parts = [p[cut] if p is not None and p.shape[axis] > 1 else p for p in (x, f, y, g)]
        shape = parts[0].shape if parts[0] is not None else ()

        def channel(at: int, shape: tuple[int, ...] = shape, first: int = k) -> int:
            group, row = (int(i) for i in np.unravel_index(at, shape)[:2])
            return (group + first) * outputs + row if axis == 0 else first + row

        yield parts[0], parts[1], parts[2], parts[3], channel  # type: ignore[misc]


class Matcher:
    """Compares forms; calls ``seen`` with each weight that it is about to recompute."""

    def __init__(
        self,
        done: dict[Any, ComparedArray] | None = None,
        seen: Callable[[str], None] | None = None,
        scope: str = "",
    ) -> None:
        self.scope = scope  # where the names are those of what is compared
        self.done = {} if done is None else done  # weights recomputed already, in this place or another one
        self.seen = seen or (lambda name: None)
        self._pairs: set[tuple[int, int]] = set()

    def match(self, a: Form | Known, b: Form | Known, *, inner: bool = False) -> Iterator[ComparedArray]:
        """Every array of the two, compared.

        Raises
        ------
        NotExpressed
            The atoms differ, so that the numbers have no counterpart.
        """
        if isinstance(a, Known) and isinstance(b, Known):
            yield from _compare_constants(a, b)
            return
        if not isinstance(a, Form) or not isinstance(b, Form):
            raise NotExpressed("a constant on one side only")
        if (id(a), id(b)) in self._pairs:
            return
        self._pairs.add((id(a), id(b)))
        yield from self._atoms(a, b, inner)
        layer, op = _find_label(a)
        shifts = (a.shift, b.shift) if b.point is None else _compare_at(b.point, a, b)
        for what, left, right, neutral in (("scale", a.scale, b.scale, 1.0), ("bias", *shifts, 0.0)):
            if left is not None or right is not None:
                yield _compare_intervals(
                    layer, op, what, _fill_neutral(left, neutral), _fill_neutral(right, neutral), inner
                )

    def _atoms(self, one: Form, other: Form, inner: bool) -> Iterator[ComparedArray]:
        a, b = one.atom, other.atom
        match a, b:
            case Leaf(name), Leaf(same) if name == same:
                return
            case Linear(), Linear() if (a.kind, a.key, a.groups, a.sizes) == (b.kind, b.key, b.groups, b.sizes):
                for found in self.match(a.operand, b.operand, inner=True):
                    # Where a channel is multiplied by zero, factors before it may be anything.
                    yield replace(found, what="scale", inner=True) if _has_zero(a) else found
                yield self._weights(a, b)
            case Total(terms), Total(others) if len(terms) == len(others):
                for left, right in zip(terms, others, strict=True):
                    yield from self.match(left, right, inner=True)
            case View(), View() if a.key == b.key and (a.shape is None) == (b.shape is None):
                yield from self.match(a.operand, b.operand, inner=inner or not a.holds_shift)
                if a.shape is not None and b.shape is not None:
                    yield from self.match(a.shape, b.shape, inner=True)
            case Other(), Other() if (a.op, a.key, a.index, len(a.args)) == (b.op, b.key, b.index, len(b.args)):
                for k, (x, y) in enumerate(zip(a.args, b.args, strict=True)):
                    if (x is None) != (y is None):
                        raise NotExpressed(f"{a.op} ({a.label}) has other inputs")
                    if (a.op, k) in _READS_NO_NUMBERS:
                        if not have_same_shape(x, y):
                            raise NotExpressed(f"{a.op} ({a.label}) reads the shape of something else")
                    elif x is not None and y is not None:
                        yield from self.match(x, y, inner=a.op not in ("LSTM", "GRU", "RNN"))
            case _:
                raise NotExpressed(f"{_find_label(one)[1]} ({_find_label(one)[0]}) became {_find_label(other)[1]}")

    def _weights(self, a: Linear, b: Linear) -> ComparedArray:
        how = (a.view, a.inputs_first, b.view, b.inputs_first, b.weight.rounded, b.weight.relative)
        intervals = (a.scale_in, a.scale_out, b.scale_in, b.scale_out)
        scales = ((_hash(i), None if i is None else hash(i.radius.tobytes())) for i in intervals)
        key = (
            self.scope,
            a.weight.name,
            b.weight.name,
            a.kind,
            *how,
            *scales,
        )  # many layers may share a weight
        if key not in self.done:
            self.seen(a.label)
            self.done[key] = compare_weights(a, b)
        return replace(self.done[key], layer=a.label)


# Inputs of which an operator reads the shape or the type alone: a fold of the numbers behind them does not show.
_READS_NO_NUMBERS = {("Shape", 0), ("Size", 0), ("CastLike", 1)}
_SIZED_BY_FLOATS = {"Resize", "Upsample", "Range"}  # operators whose result's shape hangs on floats that they are given


def have_same_shape(a: Form | Known | None, b: Form | Known | None) -> bool:
    """Whether two values have the same shape whatever their numbers are: the same operators on the same sizes.

    False says only that it does not show. Integers count in full, since they may be sizes.
    """
    if isinstance(a, Known) and isinstance(b, Known):
        return a.shape == b.shape and (is_float(a.array().dtype) or np.array_equal(a.array(), b.array()))
    if not isinstance(a, Form) or not isinstance(b, Form):
        return a is None and b is None
    match a.atom, b.atom:
        case Leaf(name), Leaf(other):
            return name == other
        case Linear() as x, Linear() as y:
            alike = (x.kind, x.key, x.groups, x.sizes, x.rank) == (y.kind, y.key, y.groups, y.sizes, y.rank)
            return alike and have_same_shape(x.operand, y.operand)
        case Total(terms), Total(others):
            return len(terms) == len(others) and all(map(have_same_shape, terms, others))
        case View() as x, View() as y:
            return x.key == y.key and have_same_shape(x.operand, y.operand) and have_same_shape(x.shape, y.shape)
        case Other() as x, Other() as y:
            if (x.op, x.key, x.index, len(x.args)) != (y.op, y.key, y.index, len(y.args)):
                return False
            sized = x.op not in _SIZED_BY_FLOATS or all(map(_equal_floats, x.args, y.args))
            return sized and all(map(have_same_shape, x.args, y.args))
    return False


def _equal_floats(a: Form | Known | None, b: Form | Known | None) -> bool:
    return not isinstance(a, Known) or (isinstance(b, Known) and np.array_equal(a.array(), b.array()))


def _compare_at(point: tuple[Interval, Interval], a: Form, b: Form) -> tuple[Interval, Interval]:
    """What ``a`` is where ``b``, a batch norm, is at its mean; and what ``b`` is there, with the rounding of both."""
    mean, value = point
    at = make_exact(mean.value)
    left = at if a.scale is None else at * a.scale
    blur = mean.radius if b.scale is None else np.abs(b.scale.value) * mean.radius
    return (left if a.shift is None else left + a.shift), Interval(value.value, value.radius + blur)


def _has_zero(atom: Linear) -> bool:
    """Whether some channel of what a layer reads counts nowhere; of a dense one, all outputs would have to be zero."""
    scales = (atom.scale_in, atom.scale_out) if atom.groups > 1 else (atom.scale_in,)
    return any(s is not None and not s.value.all() for s in scales)


def _hash(interval: Interval | None) -> Any:
    return None if interval is None else hash(interval.value.tobytes())


def _find_label(form: Form) -> tuple[str, str]:
    match form.atom:
        case Linear() as found:
            return found.label, found.kind
        case Other() as other:
            return other.label, other.op
        case Leaf(name):
            return name, "input"
        case View(operand=operand):
            return _find_label(operand)
        case Total(terms):
            return _find_label(terms[-1])[0], "Add"


def _fill_neutral(interval: Interval | None, neutral: float) -> Interval:
    return Interval(np.asarray(neutral), np.zeros(())) if interval is None else interval


def _compare_intervals(layer: str, op: str, what: str, a: Interval, b: Interval, inner: bool) -> ComparedArray:
    with np.errstate(all="ignore"):
        try:
            off = np.asarray(np.abs(a.value - b.value))
        except ValueError as exc:
            raise NotExpressed(f"{what} of {layer}: {exc}") from exc
        error = np.asarray(a.radius * ERRORS + b.radius)
        error = np.maximum(np.broadcast_to(error, off.shape), 2.0**-50 * np.maximum(np.abs(a.value), np.abs(b.value)))
        score, beyond, worst = measure_distance(off, error, find_nonfinite_changes(a.value, b.value))
    channel = int(np.unravel_index(worst, off.shape)[_find_long_axis(off.shape)]) if off.ndim else 0
    left, right = (
        float(np.broadcast_to(x, off.shape).reshape(-1)[worst]) if off.size else 0.0 for x in (a.value, b.value)
    )
    return ComparedArray(layer, op, what, "", off.size, score, beyond, channel, right, left, inner)


def _find_long_axis(shape: tuple[int, ...]) -> int:
    return int(np.argmax(shape))


def _compare_constants(a: Known, b: Known) -> Iterator[ComparedArray]:
    """Constants that an operator outside the form reads: the same, to rounding."""
    left, right = a.array(), b.array()
    if left.shape != right.shape or left.dtype.kind != right.dtype.kind:
        raise NotExpressed(f"constant {a.name!r} became {b.name!r} of another shape or type")
    if left.dtype == right.dtype and left.tobytes() == right.tobytes():
        return
    if not a.interval_or_none or not b.interval_or_none:
        raise NotExpressed(f"constant {a.name!r} became {b.name!r}")
    yield _compare_intervals(a.name, "constant", "constant", a.interval, b.interval, inner=False)


@dataclass(frozen=True, slots=True)
class Place:
    """What came of recomputing one place; ``problem`` says why it could not be recomputed."""

    name: str
    compared: tuple[ComparedArray, ...] = ()
    problem: str = ""
    laws: frozenset[Law] = frozenset()  # that brought both sides to one form

    @property
    def factor(self) -> float | None:
        """How many times the original's rounding it may have, for all inputs; None where no law says."""
        return find_factor(self.laws)

    @property
    def worst(self) -> ComparedArray | None:
        """The array that is furthest off."""
        return max(self.compared, key=lambda c: c.score, default=None)

    def explain_moved(self, within: Callable[[ComparedArray], bool], *, ours: bool) -> str:
        """Why a number that is not ``within`` its bound says nothing: it may have been moved past what the form knows.

        A factor between two linear operators may be in either; a weight that is damaged is off alone. In a fold of this
        tool's own, whose arithmetic is float64, a number that is nearly right was not moved: it is damaged.
        """
        bad = [c for c in self.compared if not within(c)]
        if ours and any(0 < abs(c.found - c.expected) <= _NEAR * abs(c.expected) for c in bad):
            return ""
        weights = [c for c in bad if c.what == "weight"]
        # A factor that stays outside on one side, say of a Reshape whose sizes are not known, and is in a weight on the
        # other one: both are off, and neither says anything.
        moved = [c for c in bad if (c.inner and c.what in ("bias", "scale")) or (weights and c.what == "scale")]
        lost = weights or any(c.what == "constant" for c in bad)
        if len(weights) < 2 and not any(c.what == "scale" for c in moved) and (lost or not moved):
            return ""
        found = (moved or weights)[0]
        return f"{found.what} of {found.op} {found.layer!r} went where the normal form does not follow"


def recompute(
    region: Region,
    a: LoadedModel,
    b: LoadedModel,
    done: dict[Any, ComparedArray] | None = None,
    sides: tuple[Outline, Outline] | None = None,
) -> Place:
    """Recompute every number of a place; ``done`` remembers weights that several places share.

    ``sides``: the region's outlines, where they were made already.
    """
    sides = sides or region.outlines
    place = _recompute(region, sides, a, b, done, forward=False)
    if place.problem or (place.worst is not None and place.worst.score > ROUNDED):
        # A factor between two layers may be in either. Each way is an identity: what one of them finds equal is.
        other = _recompute(region, sides, a, b, None, forward=True)
        if not other.problem and (other.worst is None or other.worst.score <= ROUNDED):
            return other
    return place


def _recompute(
    region: Region,
    sides: tuple[Outline, Outline],
    a: LoadedModel,
    b: LoadedModel,
    done: dict[Any, ComparedArray] | None,
    *,
    forward: bool,
) -> Place:
    name, (before, after) = region.name, sides
    same = _find_unchanged(before, after, a, b)
    try:
        old, certain = {*_list_names(before)}, region.find_certain
        left = Reader(before, a.folder, old, ALL_RULES, certain, forward=forward)
        right = Reader(after, b.folder, same, ALL_RULES, certain, forward=forward)
        compared = tuple(Matcher(done, scope=region.scope).match(left.read(), right.read()))
        return Place(name, compared, laws=frozenset({*left.laws, *right.laws, *_find_plain_laws(after)}))
    except (NotExpressed, Unsupported, BiasoptError) as exc:
        return Place(name, (), str(exc))
    except (ValueError, IndexError, KeyError, TypeError, AssertionError, ArithmeticError) as exc:
        # Nodes that contradict themselves: that is for the stages that run them to say.
        return Place(name, (), f"cannot be read ({type(exc).__name__}: {' '.join(str(exc).split())[:120]})")


def _find_plain_laws(after: Outline) -> set[Law]:
    """What any rewrite may have done: a factor or a shift goes into constants, those of a batch norm among them."""
    keeps_norm = any(n.op_type == "BatchNormalization" for n in after.model.graph.node)
    return {Law.SCALE, Law.SHIFT, *({Law.NORM_KEPT} if keeps_norm else ())}


def _list_names(place: Outline) -> list[str]:
    made = [n.output[0] for n in place.model.graph.node if n.op_type == "Constant" and n.output]
    return [*place.tensors, *made]


def _find_unchanged(before: Outline, after: Outline, a: LoadedModel, b: LoadedModel) -> set[str]:
    """Constants of the rewritten side that are the original's, to the bit."""
    old, new = before.tensors, after.tensors
    kept = {n for n in old.keys() & new.keys() if is_same_constant(old[n], a, new[n], b)}
    nodes = {n.output[0]: n for n in before.model.graph.node if n.op_type == "Constant"}
    for node in after.model.graph.node:
        if node.op_type == "Constant" and node.output[0] in nodes:
            other = nodes[node.output[0]]
            if [x.SerializeToString() for x in node.attribute] == [x.SerializeToString() for x in other.attribute]:
                kept.add(node.output[0])
    return kept
