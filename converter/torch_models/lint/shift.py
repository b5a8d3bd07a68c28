"""What a change of one bias does to a tensor, seen only as *where that change may vary*; and an operator's call.

A bias ``b`` becomes ``b + d`` for an arbitrary ``d``. At a tensor its `Effect` is nothing (``None``), a `Shift`, the
same all along every axis that it does not name, or a `Block`: it depends on data, or went where nobody follows. A norm
over axes on which a shift does not vary cancels it exactly, whatever its values. A rule is given a `Call`: the
operator's arguments by name, their shapes, and the effect at each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from converter.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Support:
    """The one axis of which only a range is not zero: the keys' part of a packed bias, say."""

    axis: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Factor:
    """One of the axes that an axis was made of."""

    size: int
    varies: bool


@dataclass(frozen=True, slots=True)
class Shift:
    """A change that is the same along every axis but those in ``axes``.

    ``axes`` gives each axis on which it may vary a label. Two shifts of one ``origin`` with the same labels at
    the same axes are equal in every element: that is how ``x - x.mean(...)`` is seen to be without it.
    ``merged`` says of the label of an axis what a reshape made it of, the slowest first: of channels and a batch, say,
    so that a later reshape can tell the two apart again.
    """

    axes: tuple[tuple[int, int], ...]
    origin: object  # an identity, and nothing else
    support: Support | None = None
    masked: bool = False  # elsewhere than at entries which are minus infinity for a softmax to come
    merged: tuple[tuple[int, tuple[Factor, ...]], ...] = ()

    @property
    def varies(self) -> frozenset[int]:
        """The axes on which it may vary."""
        return frozenset(axis for axis, _ in self.axes)

    def touches(self, axes: Iterable[int]) -> bool:
        """Whether it may vary on one of `axes`."""
        return not self.varies.isdisjoint(axes)

    def move_axes(self, where: Callable[[int], int | None]) -> Shift:
        """The same values, each axis at its new place; an axis at None is gone, and did not vary."""
        axes = tuple(sorted((place, label) for axis, label in self.axes if (place := where(axis)) is not None))
        support = self.support
        if support is not None:
            place = where(support.axis)
            support = None if place is None else replace(support, axis=place)
        return replace(self, axes=axes, support=support)

    def factors(self, axis: int, size: int) -> tuple[Factor, ...]:
        """What an axis of `size` was made of: of more than one where it was merged."""
        label = dict(self.axes).get(axis)
        plain = (Factor(size, label is not None),)
        return plain if label is None else dict(self.merged).get(label, plain)

    def with_new_values(self, varies: Iterable[int], alike: Iterable[int] = ()) -> Shift:
        """Other values, which may vary on these axes; zeros are no longer known.

        Along the axes `alike` they are multiples of what they were, so what those were merged of is still known.
        """
        made = new_shift(varies)
        kept, labels = set(alike) & made.varies, dict(self.axes)
        merged = tuple((axis, parts) for label, parts in self.merged for axis in kept if labels.get(axis) == label)
        return replace(made, masked=self.masked, merged=merged)

    def equals(self, other: Shift) -> bool:
        """Whether every element is the same, with axes aligned already."""
        return (self.origin, self.axes, self.masked) == (other.origin, other.axes, other.masked)


@dataclass(frozen=True, slots=True)
class Block:
    """A change that nothing is known to take away: the operator that made it so, and why."""

    op: str
    why: str = ""


Effect = Shift | Block | None


def new_shift(varies: Iterable[int], support: Support | None = None) -> Shift:
    """A shift of a new origin."""
    return Shift(tuple((axis, axis) for axis in sorted(set(varies))), object(), support)


def add_effects(*changes: Effect) -> Effect:
    """The sum of changes whose axes are aligned."""
    present = [change for change in changes if change is not None]
    for change in present:
        if isinstance(change, Block):
            return change
    shifts = [change for change in present if isinstance(change, Shift)]
    if len(shifts) <= 1:
        return shifts[0] if shifts else None
    if any(s.masked for s in shifts):
        return Block("add", "two changes meet behind a mask")
    return new_shift(frozenset[int]().union(*(s.varies for s in shifts)))


def op_name(node: Any) -> str:
    """``conv2d`` of ``aten.conv2d.padding``; of an operator that is no aten operator its whole name."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(getattr(node.target, "__name__", node.target))
    return str(schema.name).removeprefix("aten::")


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape that a node had while it was traced; a number has none."""
    meta = getattr(value, "meta", {}).get("val")
    return tuple(int(size) for size in getattr(meta, "shape", ()))


def bind_arguments(node: Any) -> dict[str, Any]:
    """The arguments by their schema's names, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(index): value for index, value in enumerate(node.args)} | dict(node.kwargs)
    given: dict[str, Any] = {}
    for index, argument in enumerate(schema.arguments):
        if index < len(node.args):
            given[argument.name] = node.args[index]
        else:
            given[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return given


@dataclass(slots=True)
class Call:
    """What a rule is given."""

    node: Any
    op: str
    args: dict[str, Any]
    change_of: Callable[[Any], Any]  # of a node; a sequence has a tuple of them
    is_data: Callable[[Any], bool]  # whether a tensor comes from the inputs or from chance
    cancel: Callable[[str, tuple[Any, ...]], None]  # told what took a change away: the kind, and what it was asked with
    absorb_frozen: bool  # whether a norm with fixed statistics counts as a place where a change ends

    @property
    def rank(self) -> int:
        """The number of axes of the result."""
        return len(self.out_shape)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of the result; of several, of the first."""
        meta = self.node.meta.get("val")
        first = meta[0] if isinstance(meta, list | tuple) else meta
        return tuple(int(size) for size in getattr(first, "shape", ()))

    def change(self, *names: str) -> Any:
        """The change of the first of these arguments that the operator has."""
        return next((self.change_of(self.args[name]) for name in names if name in self.args), None)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an operand."""
        return shape_of(self.args[name])

    def block(self, why: str = "") -> Block:
        """The change becomes one that nobody follows."""
        return Block(self.op, why)

    def others_changed(self, *allowed: str) -> bool:
        """Whether an operand but those named is changed."""
        return any(bool(self.change_of(value)) for name, value in self.args.items() if name not in allowed)

    def align(self, change: Effect, shape: Sequence[int]) -> Effect:
        """A change of an operand of `shape` as it is after broadcasting to the result."""
        if not isinstance(change, Shift):
            return change
        offset, out = self.rank - len(shape), self.out_shape
        grown = {axis for axis, size in enumerate(shape) if size == 1 and out[axis + offset] != 1}
        return change.move_axes(lambda axis: None if axis in grown else axis + offset)

    def varying_axes(self, value: Any) -> frozenset[int]:
        """The axes of the result on which an operand without a change may vary."""
        shape, out = shape_of(value), self.out_shape
        offset, data = self.rank - len(shape), self.is_data(value)
        return frozenset(
            axis + offset
            for axis, size in enumerate(shape)
            if size != 1 or (data and out[axis + offset] == 1)  # one here, perhaps more with other inputs
        )


def normalize_axis(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis + rank if axis < 0 else axis


def normalize_axes(axes: Any, rank: int) -> tuple[int, ...]:
    """Axes counted from the front; none given means all."""
    if axes is None or axes == []:
        return tuple(range(rank))
    return tuple(normalize_axis(axis, rank) for axis in ([axes] if isinstance(axes, int) else axes))
