"""Two normal forms side by side: the same atoms, and every number within its rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from converter.protos.balls import Ball
from converter.protos.form_weights import ERRORS, Compared, compared, differ, judged
from converter.protos.forms import Form, Known, Leaf, Linear, NotExpressed, Other, Total, View

Array = np.ndarray[Any, Any]


class Matcher:
    """Compares forms; calls ``seen`` with each weight that it is about to recompute."""

    def __init__(self, done: dict[Any, Compared] | None = None, seen: Callable[[str], None] | None = None) -> None:
        self.done = {} if done is None else done  # weights recomputed already, in this place or another one
        self.seen = seen or (lambda name: None)
        self._pairs: set[tuple[int, int]] = set()

    def match(self, a: Form | Known, b: Form | Known, *, inner: bool = False) -> Iterator[Compared]:
        """Every array of the two, compared.

        Raises
        ------
        NotExpressed
            The atoms differ, so that the numbers have no counterpart.
        """
        if isinstance(a, Known) and isinstance(b, Known):
            yield from _constants(a, b)
            return
        if not isinstance(a, Form) or not isinstance(b, Form):
            raise NotExpressed("a constant on one side only")
        if (id(a), id(b)) in self._pairs:
            return
        self._pairs.add((id(a), id(b)))
        yield from self._atoms(a, b)
        layer, op = _named(a)
        for what, left, right, neutral in (("scale", a.scale, b.scale, 1.0), ("bias", a.shift, b.shift, 0.0)):
            if left is not None or right is not None:
                yield _balls(layer, op, what, _full(left, neutral), _full(right, neutral), inner)

    def _atoms(self, one: Form, other: Form) -> Iterator[Compared]:
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
                yield from self.match(a.operand, b.operand, inner=True)
                if a.shape is not None and b.shape is not None:
                    yield from self.match(a.shape, b.shape, inner=True)
            case Other(), Other() if (a.op, a.key, a.index, len(a.args)) == (b.op, b.key, b.index, len(b.args)):
                for x, y in zip(a.args, b.args, strict=True):
                    if (x is None) != (y is None):
                        raise NotExpressed(f"{a.op} ({a.label}) has other inputs")
                    if x is not None and y is not None:
                        yield from self.match(x, y, inner=a.op not in ("LSTM", "GRU", "RNN"))
            case _:
                raise NotExpressed(f"{_named(one)[1]} ({_named(one)[0]}) became {_named(other)[1]}")

    def _weights(self, a: Linear, b: Linear) -> Compared:
        key = (a.weight.name, b.weight.name, a.label, *map(_digest, (a.scale_in, a.scale_out, b.scale_in, b.scale_out)))
        if key not in self.done:
            self.seen(a.label)
            self.done[key] = compared(a, b)
        return self.done[key]


def _has_zero(atom: Linear) -> bool:
    return any(s is not None and not s.value.all() for s in (atom.scale_in, atom.scale_out))


def _digest(ball: Ball | None) -> Any:
    return None if ball is None else hash(ball.value.tobytes())


def _named(form: Form) -> tuple[str, str]:
    match form.atom:
        case Linear() as found:
            return found.label, found.kind
        case Other() as other:
            return other.label, other.op
        case Leaf(name):
            return name, "input"
        case View(operand=operand):
            return _named(operand)
        case Total(terms):
            return _named(terms[-1])[0], "Add"


def _full(ball: Ball | None, neutral: float) -> Ball:
    return Ball(np.asarray(neutral), np.zeros(())) if ball is None else ball


def _balls(layer: str, op: str, what: str, a: Ball, b: Ball, inner: bool) -> Compared:
    with np.errstate(all="ignore"):
        try:
            off = np.asarray(np.abs(a.value - b.value))
        except ValueError as exc:
            raise NotExpressed(f"{what} of {layer}: {exc}") from exc
        error = np.asarray(a.radius * ERRORS + b.radius)
        error = np.maximum(np.broadcast_to(error, off.shape), 2.0**-50 * np.maximum(np.abs(a.value), np.abs(b.value)))
        score, beyond, worst = judged(off, error, differ(a.value, b.value))
    channel = int(np.unravel_index(worst, off.shape)[_long_axis(off.shape)]) if off.ndim else 0
    left, right = (
        float(np.broadcast_to(x, off.shape).reshape(-1)[worst]) if off.size else 0.0 for x in (a.value, b.value)
    )
    return Compared(layer, op, what, "", off.size, score, beyond, channel, right, left, inner)


def _long_axis(shape: tuple[int, ...]) -> int:
    return int(np.argmax(shape))


def _constants(a: Known, b: Known) -> Iterator[Compared]:
    """Constants that an operator outside the form reads: the same, to rounding."""
    left, right = a.array(), b.array()
    if left.shape != right.shape or left.dtype.kind != right.dtype.kind:
        raise NotExpressed(f"constant {a.name!r} became {b.name!r} of another shape or type")
    if left.dtype == right.dtype and left.tobytes() == right.tobytes():
        return
    if not a.ball_or_none or not b.ball_or_none:
        raise NotExpressed(f"constant {a.name!r} became {b.name!r}")
    yield _balls(a.name, "constant", "constant", a.ball, b.ball, inner=False)
