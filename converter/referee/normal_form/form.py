"""The normal form of what a few nodes compute: scale * atom + shift, per channel, in float64.

An atom is an input, a linear operator with its weight, a sum, or any other operator on forms. Scales are pushed
into linear operators, shifts through what lets them pass, so that a rewritten place has the same form before and
after, and the numbers in it can be compared one by one. Written without a look at how a rewrite is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from converter.dataclass import dataclass
from converter.referee.normal_form.interval import Interval, is_float, make_exact, make_stored
from converter.referee.proto.tensors import UNIT_ROUNDOFF, read_tensor

Array = np.ndarray[Any, Any]
Dims = tuple[int | str | None, ...]

_LARGEST = 1 << 22  # elements that a vector may be spread over


def transpose(interval: Interval, perm: Sequence[int], rank: int) -> Interval | None:
    """The interval as a transposition of the tensor [rank] sees it."""
    if interval.value.size == 1:
        return interval.reshape()
    if interval.value.ndim > rank:
        return None
    return interval.map(lambda x: np.transpose(x.reshape((1,) * (rank - x.ndim) + x.shape), perm))


def invert_permutation(perm: Sequence[int]) -> list[int]:
    """The permutation that undoes ``perm``."""
    return [int(k) for k in np.argsort(perm)]


def reshape(interval: Interval, before: Dims | None, after: Dims | None) -> Interval | None:
    """The interval as a reshape of the tensor from ``before`` to ``after`` sees it; None if the sizes do not tell."""
    if interval.value.size == 1:
        return interval.reshape()
    if before is None or after is None or interval.value.ndim > len(before):
        return None
    full = (1,) * (len(before) - interval.value.ndim) + interval.value.shape
    first = next(k for k, d in enumerate(full) if d != 1)
    sizes = [f if f != 1 else d for f, d in zip(full, before, strict=True)]
    for start in range(first, -1, -1):
        tail = [d for d in sizes[start:] if isinstance(d, int)]
        if len(tail) < len(before) - start or math.prod(tail) > _LARGEST:
            return None
        cut = next((k for k in range(len(after), -1, -1) if _multiply_sizes(after[k:]) == math.prod(tail)), None)
        if cut is not None:
            target = [d for d in after[cut:] if isinstance(d, int)]
            return collapse(interval.map(lambda x: np.broadcast_to(x.reshape(full[start:]), tail).reshape(target)))  # noqa: B023
    return None


def solve_sizes(before: Dims, asked: Sequence[int | str | None]) -> Dims:
    """Sizes that a Reshape to ``asked`` gives: 0 copies a size, -1 is what is left over, if that is a number."""
    dims = [before[k] if d == 0 and k < len(before) else d for k, d in enumerate(asked)]
    if -1 not in dims:
        return tuple(dims)
    rest = [d for d in dims if d != -1]
    left = _find_left_over(before, rest)
    if left is None and dims[0] != -1:
        left = _find_left_over(before[1:], rest[1:])  # a batch that is named on one side and a number on the other
    return tuple(left if d == -1 else d for d in dims)


def _find_left_over(before: Sequence[int | str | None], rest: Sequence[int | str | None]) -> int | None:
    symbols = [sorted(d for d in side if isinstance(d, str)) for side in (before, rest)]
    numbers = [math.prod(d for d in side if isinstance(d, int)) for side in (before, rest)]
    if None in before or None in rest or symbols[0] != symbols[1] or not numbers[1] or numbers[0] % numbers[1]:
        return None
    return numbers[0] // numbers[1]


def _multiply_sizes(dims: Dims) -> int | None:
    sizes = [d for d in dims if isinstance(d, int)]
    return math.prod(sizes) if len(sizes) == len(dims) else None


def collapse(interval: Interval) -> Interval:
    """The interval with every axis along which it does not change at size 1."""
    for axis in range(interval.value.ndim):
        if interval.value.shape[axis] > 1:
            first = interval.map(lambda x, a=axis: x.take([0], a))
            if (interval.value == first.value).all() and (interval.radius == first.radius).all():
                interval = first
    return interval


def varies_along(interval: Interval, axes: Sequence[int], rank: int) -> bool:
    """Whether the interval changes along any of these axes of a tensor [rank]."""
    dims = (1,) * (rank - interval.value.ndim) + interval.value.shape
    return any(dims[a % rank] != 1 for a in axes)


def drop_axes(interval: Interval, axes: Sequence[int], rank: int) -> Interval:
    """The interval with axes of size 1 taken out."""
    gone = {a % rank for a in axes}
    dims = (1,) * (rank - interval.value.ndim) + interval.value.shape
    kept = [d for k, d in enumerate(dims) if k not in gone]
    return interval.map(lambda x: x.reshape(kept))


def insert_axes(interval: Interval, axes: Sequence[int], rank: int) -> Interval:
    """The interval with axes of size 1 put in, where a tensor of ``rank`` axes has them."""
    places = {a % rank for a in axes}
    rest = iter((1,) * (rank - len(places) - interval.value.ndim) + interval.value.shape)
    dims = [1 if k in places else next(rest) for k in range(rank)]
    return interval.map(lambda x: x.reshape(dims))


def spread(interval: Interval | None, axis: int, size: int, rank: int) -> Interval | None:
    """The interval at full size along ``axis``, as a part of a concatenation."""
    if interval is None:
        interval = Interval(np.zeros(()), np.zeros(()))
    if interval.value.ndim > rank:
        return None
    dims = [*(1,) * (rank - interval.value.ndim), *interval.value.shape]
    old = interval.map(lambda x: x.reshape(dims))
    dims[axis] = size
    return old.map(lambda x: np.broadcast_to(x, dims))


def concatenate(parts: list[Interval], axis: int) -> Interval:
    """Parts of the same rank one after the other along ``axis``."""
    rank = parts[0].value.ndim
    dims = [max(p.value.shape[k] for p in parts) for k in range(rank)]

    def full(x: Array) -> Array:
        return np.broadcast_to(x, [x.shape[k] if k == axis else d for k, d in enumerate(dims)])

    return Interval(
        np.concatenate([full(p.value) for p in parts], axis), np.concatenate([full(p.radius) for p in parts], axis)
    )


class NotExpressed(Exception):
    """The normal form has no word for this."""


@dataclass(eq=False)
class Known:
    """A constant. ``rounded``: not a tensor of the original, so it holds a number that was rounded.

    ``relative``: the relative error of a product that was not rounded itself, but by a factor of it.
    """

    name: str
    source: TensorProto | Array
    folder: Path | None = None
    rounded: bool = False
    relative: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dims."""
        return tuple(self.source.dims) if isinstance(self.source, TensorProto) else self.source.shape

    def array(self) -> Array:
        """The value as stored, read anew each time."""
        return read_tensor(self.source, self.folder) if isinstance(self.source, TensorProto) else self.source

    @cached_property
    def interval(self) -> Interval:
        """The value in float64."""
        array = self.array()
        if not is_float(array.dtype):
            raise NotExpressed(f"{self.name!r} holds {array.dtype}")
        if self.relative:
            return Interval(array, np.abs(array) * self.relative)
        return make_stored(array, rounded=self.rounded)

    @property
    def interval_or_none(self) -> Interval | None:
        """The same, or None where it holds no floats."""
        return self.interval if is_float(self.array().dtype) else None

    @property
    def unit(self) -> float:
        """Unit roundoff of what it was rounded to; 0 if it was not."""
        if not self.rounded or self.relative:
            return self.relative
        kind = self.source.data_type if isinstance(self.source, TensorProto) else TensorProto.FLOAT
        return UNIT_ROUNDOFF.get(kind, 0.0)


@dataclass(frozen=True, eq=False)
class Leaf:
    """A tensor that is fed."""

    name: str


@dataclass(frozen=True, eq=False)
class Linear:
    """A convolution or matrix product; its weight is ``weight`` times the scales of its channels.

    ``inputs_first``: the weight is [groups, I/g, O/g, ...] rather than [groups, O/g, I/g, ...]. ``rank``: axes of
    the result of a convolution, 0 for a matrix product, whose channels lie last.
    """

    kind: str
    key: Any
    operand: Form
    weight: Known
    groups: int
    inputs_first: bool
    rank: int
    label: str
    scale_in: Interval | None = None  # [I]
    scale_out: Interval | None = None  # [O]

    @property
    def view(self) -> tuple[int, int, int, int]:
        """The weight's dims as groups, rows, columns, taps."""
        shape, g = self.weight.shape, self.groups
        rows = shape[0] // g
        return g, rows, shape[1], int(np.prod(shape[2:], dtype=np.int64))

    @property
    def sizes(self) -> tuple[int, int]:
        """Input and output channels."""
        g, rows, columns, _ = self.view
        return (g * rows, g * columns) if self.inputs_first else (g * columns, g * rows)

    def vector(self, interval: Interval, size: int) -> Interval | None:
        """``interval`` [broadcasts to a tensor] as one number per channel [size]; None if it is not that."""
        axis = interval.value.ndim - (self.rank - 1 if self.rank else 1)
        dims = interval.value.shape
        if any(d != 1 for k, d in enumerate(dims) if k != axis) or (axis >= 0 and dims[axis] not in (1, size)):
            return None
        return interval.map(lambda x: np.broadcast_to(x.reshape(-1), (size,)))

    def align_outputs(self, vector: Interval) -> Interval:
        """A vector of the output channels in a shape that broadcasts to the result."""
        return vector.reshape(-1, *[1] * max(self.rank - 2, 0))

    def apply_shift(self, shift: Interval) -> Interval:
        """What a shift [I] of every input channel, at every position, adds to the output channels [O]."""
        g, rows, columns, taps = self.view
        full = self.weight.array().reshape(g, rows, columns, taps)
        total, size = full.sum(axis=3, dtype=np.float64), np.abs(full).sum(axis=3, dtype=np.float64)
        if not self.inputs_first:
            total, size = total.swapaxes(1, 2), size.swapaxes(1, 2)
        # [g, I/g, O/g] against [g, I/g]
        value, moved = (np.asarray(x).reshape(g, -1) for x in (shift.value, shift.radius))
        error = self.weight.unit + (taps + value.shape[1] + 2) * 2.0**-52
        reach = np.einsum("gio,gi->go", size, np.abs(value) * error + moved * (1 + error))
        return Interval(np.einsum("gio,gi->go", total, value).reshape(-1), reach.reshape(-1))


@dataclass(frozen=True, eq=False)
class Total:
    """A sum of forms without shifts."""

    terms: tuple[Form, ...]


@dataclass(frozen=True, eq=False)
class View:
    """An operator that only moves elements. ``back`` takes a factor of its output to one of its input, or None.

    ``holds_shift``: what is added behind it is added before it: not every shift of its input is one of its output.
    """

    key: Any
    operand: Form
    back: Callable[[Interval], Interval | None]
    shape: Form | None = None  # of a Reshape, where it is computed
    holds_shift: bool = False


@dataclass(frozen=True, eq=False)
class Other:
    """Any other operator. ``back`` takes a factor of its output to those of its arguments (None: nothing), or None."""

    op: str
    key: Any
    args: tuple[Form | Known | None, ...]
    index: int
    label: str
    back: Callable[[Interval], Sequence[Interval | None] | None] | None = None
    add: Callable[[Interval], Sequence[Interval | None] | None] | None = None  # the same for a shift


Atom = Leaf | Linear | Total | View | Other


@dataclass(frozen=True, eq=False)
class Form:
    """``scale * atom + shift``; both broadcast as ONNX does.

    ``point``: where the atom is the first, the form is the second. What a batch norm stores is its mean and its value
    there: compared at that point, the rounding of its scale does not blur its shift.
    """

    atom: Atom
    scale: Interval | None = None
    shift: Interval | None = None
    point: tuple[Interval, Interval] | None = None

    def plus(self, interval: Interval) -> Form:
        """The form with something added."""
        if isinstance(self.atom, View) and self.scale is None and self.shift is None:
            holds = self.atom.holds_shift
            inside = self.atom.back(interval) if holds or moves_table(self.atom) else None
            moved = None if inside is None else self.atom.operand.plus(inside)
            if moved is not None and (holds or moved.shift is None):
                return Form(replace(self.atom, operand=moved))
        if self.scale is None and self.shift is None and isinstance(self.atom, Other) and self.atom.add is not None:
            shares = self.atom.add(interval)
            if shares is not None:
                pairs = zip(self.atom.args, shares, strict=True)
                args = tuple(a.plus(s) if isinstance(a, Form) and s is not None else a for a, s in pairs)
                return Form(replace(self.atom, args=args))
        return Form(self.atom, self.scale, interval if self.shift is None else self.shift + interval)

    def times(self, interval: Interval) -> Form:
        """The form with something multiplied to it."""
        if interval.is_one:
            return self
        shift = None if self.shift is None else self.shift * interval
        if self.scale is None:
            atom = scale_atom(self.atom, interval)
            if atom is not None:
                return Form(atom, None, shift)
        return Form(self.atom, interval if self.scale is None else self.scale * interval, shift)

    @property
    def settled(self) -> Form:
        """The same without its shift."""
        return Form(self.atom, self.scale)


_MOVED = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def moves_table(view: View) -> bool:
    """Whether the elements that it moves, one for one, are what an operator gives that takes a shift in itself."""
    operand = view.operand
    plain = isinstance(view.key, tuple) and view.key[0] in _MOVED and operand.scale is None and operand.shift is None
    atom = operand.atom
    return plain and (moves_table(atom) if isinstance(atom, View) else isinstance(atom, Other) and atom.add is not None)


def scale_atom(atom: Atom, interval: Interval) -> Atom | None:
    """The atom that is ``interval`` times ``atom``, where the factor can go inside; None where it cannot."""
    match atom:
        case Linear():
            vector = atom.vector(interval, atom.sizes[1])
            if vector is None:
                return None
            return replace(atom, scale_out=vector if atom.scale_out is None else atom.scale_out * vector)
        case Total(terms):
            return Total(tuple(t.times(interval) for t in terms))
        case View(operand=operand, back=back):
            inside = back(interval)
            inner = None if inside is None else operand.times(inside)
            return None if inner is None or inner.scale is not None else replace(atom, operand=inner)
        case Other(op="Vector"):
            return atom  # its numbers are a shift
        case Other(op="MatMul", args=(Form() as left, Form() as right)) if interval.value.size == 1 and (
            left.shift is None or is_vector(left)
        ):
            return replace(atom, args=(left.times(interval.reshape()), right))
        case Other(args=args, back=back) if back is not None:
            shares = back(interval)
            return None if shares is None else _scale_arguments(atom, args, shares)
    return None


def _scale_arguments(
    atom: Other, args: tuple[Form | Known | None, ...], shares: Sequence[Interval | None]
) -> Atom | None:
    """The operator on arguments that took their factors in; None if one cannot."""
    scaled: list[Form | Known | None] = []
    for arg, share in zip(args, shares, strict=True):
        if share is not None:
            if not isinstance(arg, Form) or arg.scale is not None:
                return None
            arg = arg.times(share)
            if arg.scale is not None:
                return None
        scaled.append(arg)
    return replace(atom, args=tuple(scaled))


def make_vector(interval: Interval) -> Form:
    """Numbers as a form of its own: an argument that is compared number by number."""
    return Form(Other("Vector", None, (), 0, "vector"), None, interval)


def is_vector(form: Form) -> bool:
    """Whether the form is but numbers."""
    return isinstance(form.atom, Other) and form.atom.op == "Vector"


def put(interval: Interval, rank: int, axis: int, size: int, indices: Sequence[int], neutral: float) -> Interval | None:
    """The interval of some places along an axis as one of the whole, ``neutral`` elsewhere."""
    if interval.value.ndim > rank or size > _LARGEST:
        return None
    full = insert_axes(interval, [], rank)
    dims = [len(indices) if k == axis else d for k, d in enumerate(full.value.shape)]
    if full.value.shape[axis] not in (1, len(indices)):
        return None
    part = full.map(lambda x: np.broadcast_to(x, dims))
    whole = [size if k == axis else d for k, d in enumerate(dims)]
    value, radius = np.full(whole, neutral), np.zeros(whole)
    for target, source in ((value, part.value), (radius, part.radius)):
        np.moveaxis(target, axis, 0)[list(indices)] = np.moveaxis(source, axis, 0)
    return Interval(value, radius)


def pick(interval: Interval, rank: int, axis: int, indices: Sequence[int]) -> Interval | None:
    """The interval at some places along an axis."""
    if interval.value.ndim > rank:
        return None
    full = insert_axes(interval, [], rank)
    return full if full.value.shape[axis] == 1 else full.map(lambda x: x.take(list(indices), axis))


def add_forms(forms: list[Form]) -> Form:
    """The sum of forms."""
    terms: list[Form] = []
    shift: Interval | None = None
    for form in forms:
        if form.shift is not None:
            shift = form.shift if shift is None else shift + form.shift
        bare = form.settled
        terms.extend(bare.atom.terms if isinstance(bare.atom, Total) and bare.scale is None else [bare])
    return Form(Total(tuple(terms)), None, shift)


def build_linear(atom: Linear, *, whole: bool) -> Form:
    """A linear operator on any form; ``whole``: every tap of it reads the operand, never a border of zeros."""
    scale, shift = atom.operand.scale, atom.operand.shift
    per_input = None if scale is None else atom.vector(scale, atom.sizes[0])
    if scale is not None and per_input is None:
        return Form(atom)
    moved = None
    if shift is not None and not shift.is_zero:
        at = atom.vector(shift, atom.sizes[0]) if whole else None
        if at is None:
            return Form(atom)
        moved = atom.align_outputs(atom.apply_shift(at))
    return Form(replace(atom, operand=Form(atom.operand.atom), scale_in=per_input), None, moved)


def make_scalar(value: float) -> Interval:
    """A single exact number."""
    return make_exact(np.float64(value))
