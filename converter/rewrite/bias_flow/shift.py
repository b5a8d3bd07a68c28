"""A constant shift of a tensor, which is what a bias looks like further down the graph, and what a node does with it.

A tensor x + D has the shift D, a small array that broadcasts to x: size 1 on every axis along
which it does not vary. Where its value depends on the data, only the axes are known.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from functools import reduce, wraps

import numpy as np
from numpy.typing import NDArray

from converter.dataclass import dataclass
from converter.model.graph import Node, Tensor
from converter.records import EffectKind
from converter.rewrite.analysis.facts import Facts

Array = NDArray[np.float64]

MOST_ELEMENTS = 1 << 20  # a larger D is no bias any more


@dataclass(frozen=True, slots=True)
class Shift:
    """D.

    Attributes
    ----------
    rank : int
        Axes of the tensor.
    invariant : frozenset of int
        Axes along which D does not vary.
    value : ndarray, float64, with `rank` axes, size 1 on each invariant axis; None if it depends on the data
    masked : bool
        Some entries are minus infinity whatever is added to them: only a softmax may follow.
    tiled : frozenset of int
        Axes along which D repeats: of a tensor that is a whole number of times as long there as the value.
    tag : hashable, optional
        What a value that depends on the data is: equal tags are equal values.
    """

    rank: int
    invariant: frozenset[int]
    value: Array | None = None
    masked: bool = False
    tiled: frozenset[int] = frozenset()
    tag: Hashable = None

    @classmethod
    def of_value(cls, value: Array, masked: bool = False, tiled: Iterable[int] = ()) -> Shift:
        """The shift of this value; axes along which it is the same everywhere shrink to size 1."""
        for axis in range(value.ndim):
            if value.shape[axis] > 1:
                first = value.take([0], axis)
                if (value == first).all():
                    value = first
        invariant = frozenset(i for i, d in enumerate(value.shape) if d == 1)
        return cls(value.ndim, invariant, value, masked, frozenset(tiled) - invariant)

    @classmethod
    def of_axes(cls, rank: int, invariant: Iterable[int], masked: bool = False) -> Shift:
        """A shift of which only the axes are known."""
        return cls(rank, frozenset(invariant), None, masked)

    def move_axes(self, move: Callable[[Array], Array]) -> Shift:
        """After an operator that only moves axes: it is applied to D itself, or to a stand-in of its shape."""
        stand_in = np.zeros([1 if i in self.invariant else 2 for i in range(self.rank)])
        array = move(stand_in if self.value is None else self.value)
        invariant = frozenset(i for i, d in enumerate(array.shape) if d == 1)
        return Shift(array.ndim, invariant, None if self.value is None else array, self.masked)

    @property
    def varying(self) -> tuple[int, ...]:
        """Axes along which D may vary."""
        return tuple(i for i in range(self.rank) if i not in self.invariant)

    def constant_on(self, axes: Iterable[int]) -> bool:
        """Whether D is the same along all of `axes`."""
        return set(axes) <= self.invariant

    def of_rank(self, rank: int) -> Shift:
        """The same beside a tensor of more axes: new axes come first, as in broadcasting."""
        more = rank - self.rank
        if more <= 0:
            return self
        kept = frozenset(range(more)) | frozenset(i + more for i in self.invariant)
        value = None if self.value is None else self.value.reshape((1,) * more + self.value.shape)
        return Shift(rank, kept, value, self.masked, frozenset(i + more for i in self.tiled))

    @property
    def without_value(self) -> Shift:
        """Of which only the axes are known."""
        return Shift(self.rank, self.invariant, None, self.masked)

    @property
    def is_zero(self) -> bool:
        """Whether there is surely no shift."""
        return self.value is not None and not self.value.any()

    def tagged(self, tag: Hashable) -> Shift:
        """The same, known to be this value."""
        return replace(self, tag=tag)


def add_shifts(shifts: Iterable[Shift]) -> Shift:
    """Several shifts of one tensor together."""
    parts = list(shifts)
    rank = max(s.rank for s in parts)
    parts = [s.of_rank(rank) for s in parts]
    masked = any(s.masked for s in parts)
    if len(parts) == 1:
        return parts[0]
    values = [s.value for s in parts if s.value is not None]
    if len(values) == len(parts):
        return Shift.of_value(reduce(np.add, values), masked)
    return Shift.of_axes(rank, frozenset.intersection(*(s.invariant for s in parts)), masked)


def are_equal(a: Shift, b: Shift) -> bool:
    """Whether both are surely equal."""
    if a.tag is not None and a.tag == b.tag:
        return a.rank == b.rank
    if a.value is None or b.value is None or a.rank != b.rank:
        return False
    return a.value.shape == b.value.shape and bool((a.value == b.value).all())


# -- what a node does with it ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Propagate:
    """The outputs have shifts of their own."""

    shifts: Mapping[int, Shift]  # output slot -> shift
    kind: EffectKind = EffectKind.PLAIN
    detail: str = ""

    @property
    def how(self) -> str:
        """A clause; empty where the operator says it all."""
        return self.detail or _PROPAGATED.get(self.kind, "")


@dataclass(frozen=True, slots=True)
class Cancel:
    """The outputs do not depend on the shift."""

    kind: EffectKind
    how: str


@dataclass(frozen=True, slots=True)
class Block:
    """The outputs change in another way; the shift cannot be taken out."""

    code: str
    why: str
    kind: EffectKind = EffectKind.PLAIN


Effect = Propagate | Cancel | Block
Shifts = Mapping[int, Shift]

_PROPAGATED = {
    EffectKind.WEIGHTS: "through its weights",
    EffectKind.SOFTMAX_ROWS: "rows of weights that sum to one hand it on",
    EffectKind.DATA: "multiplied by data",
    EffectKind.FACTOR: "by a factor that depends on the data",
    EffectKind.MASKED: "masked entries stay minus infinity",
}
NOT_LINEAR = "it is not linear, so it depends on the shift"  # said wherever the kind is NONLINEAR


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table of operators.

    Attributes
    ----------
    effect : callable
        (facts, node, shifts by input slot) -> what becomes of them.
    masked : bool
        It may meet entries that are minus infinity.
    tiled : bool
        It knows what to do with a value that repeats: attention in which batch and heads are one axis.
    trunk : bool
        Of such operators long trunks are made: `first_blocker` walks through them.
    since : int
        The opset before which the operator means something else.
    """

    effect: Callable[[Facts, Node, Shifts], Effect]
    masked: bool = False
    tiled: bool = False
    trunk: bool = False
    since: int = 1


def one_shift(effect: Callable[[Facts, Node, Shift], Shift | Effect]) -> Callable[[Facts, Node, Shifts], Effect]:
    """The effect of an operator on a shift of its first input, if that is the only input that is shifted.

    Where `effect` gives a shift, it is that of the first output.
    """

    @wraps(effect)
    def checked(facts: Facts, node: Node, shifts: Shifts) -> Effect:
        if set(shifts) != {0}:
            return Block("stops", "it depends on a shift of its parameters")
        result = effect(facts, node, shifts[0])
        return Propagate({0: result}) if isinstance(result, Shift) else result

    return checked


def tensor_at(node: Node, slot: int) -> Tensor:
    """The tensor in an input slot that the operator demands."""
    found = node.tensor_in(slot)
    assert found is not None
    return found
