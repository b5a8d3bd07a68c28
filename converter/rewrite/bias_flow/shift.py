"""A constant shift of a tensor: what a bias looks like further down the graph.

A tensor x + D has the shift D, a small array that broadcasts to x: size 1 on every axis along
which it does not vary. Where its value depends on the data, only the axes are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """

    rank: int
    invariant: frozenset[int]
    value: Array | None = None
    masked: bool = False
    tiled: frozenset[int] = frozenset()

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
    def by_axes(self) -> Shift:
        """Without the value."""
        return Shift(self.rank, self.invariant, None, self.masked)

    @property
    def is_zero(self) -> bool:
        """Whether there is surely no shift."""
        return self.value is not None and not self.value.any()


def known(value: Array, masked: bool = False, tiled: Iterable[int] = ()) -> Shift:
    """The shift of this value; axes along which it is the same everywhere shrink to size 1."""
    for axis in range(value.ndim):
        if value.shape[axis] > 1:
            first = value.take([0], axis)
            if (value == first).all():
                value = first
    invariant = frozenset(i for i, d in enumerate(value.shape) if d == 1)
    return Shift(value.ndim, invariant, value, masked, frozenset(tiled) - invariant)


def unknown(rank: int, invariant: Iterable[int], masked: bool = False) -> Shift:
    """A shift of which only the axes are known."""
    return Shift(rank, frozenset(invariant), None, masked)


def total(shifts: Iterable[Shift]) -> Shift:
    """Several shifts of one tensor together."""
    parts = list(shifts)
    rank = max(s.rank for s in parts)
    parts = [s.of_rank(rank) for s in parts]
    masked = any(s.masked for s in parts)
    if len(parts) == 1:
        return parts[0]
    if all(s.value is not None for s in parts):
        value = parts[0].value
        for s in parts[1:]:
            assert value is not None and s.value is not None
            value = value + s.value
        assert value is not None
        return known(value, masked)
    invariant = frozenset.intersection(*(s.invariant for s in parts))
    return unknown(rank, invariant, masked)


def same(a: Shift, b: Shift) -> bool:
    """Whether both are surely equal."""
    if a.value is None or b.value is None or a.rank != b.rank:
        return False
    return a.value.shape == b.value.shape and bool((a.value == b.value).all())


@dataclass(frozen=True, slots=True)
class Carry:
    """The outputs have shifts of their own."""

    shifts: Mapping[int, Shift]  # output slot -> shift
    kind: EffectKind = EffectKind.PLAIN
    detail: str = ""

    @property
    def how(self) -> str:
        """A clause; empty where the operator says it all."""
        return self.detail or _CARRIED.get(self.kind, "")


_CARRIED = {
    EffectKind.WEIGHTS: "through its weights",
    EffectKind.SOFTMAX_ROWS: "rows of weights that sum to one hand it on",
    EffectKind.DATA: "multiplied by data",
    EffectKind.FACTOR: "by a factor that depends on the data",
    EffectKind.MASKED: "masked entries stay minus infinity",
}


@dataclass(frozen=True, slots=True)
class Gone:
    """The outputs do not depend on the shift."""

    how: str
    kind: EffectKind


@dataclass(frozen=True, slots=True)
class Stop:
    """The shift is felt here; it cannot be taken out by this path."""

    code: str
    why: str
    kind: EffectKind = EffectKind.PLAIN


Outcome = Carry | Gone | Stop
Shifts = Mapping[int, Shift]
Rule = Callable[[Facts, Node, Shifts], Outcome]

LINEARITY = "it is not linear, so it feels the shift"  # said wherever the kind is NONLINEAR

NOT_LINEAR = frozenset(
    "Relu LeakyRelu PRelu Elu Selu Celu Gelu ThresholdedRelu Clip Sigmoid HardSigmoid HardSwish Mish Swish Tanh "
    "Softplus Softsign Exp Log Sqrt Reciprocal Pow Abs Sign Erf Floor Ceil Round Sin Cos Not Equal Greater Less LSTM "
    "GRU RNN RMSNormalization LpNormalization LRN ReduceL2 ReduceProd QuantizeLinear DynamicQuantizeLinear TopK".split()
)


def tensor_at(node: Node, slot: int) -> Tensor:
    """The tensor in an input slot that the operator demands."""
    found = node.tensor_in(slot)
    assert found is not None
    return found


def only(shifts: Shifts, slot: int = 0) -> Shift | Stop:
    """The one shift, if it is at `slot`."""
    if set(shifts) != {slot}:
        return Stop("stops", "it feels a shift of its parameters")
    return shifts[slot]
