"""Factors and shifts through operators that move, pick or pool elements: arrays by their axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from converter.protos.balls import Ball

Array = np.ndarray[Any, Any]
Dims = tuple[int | str | None, ...]

_LARGEST = 1 << 22  # elements that a vector may be spread over


def transposed(ball: Ball, perm: Sequence[int], rank: int) -> Ball | None:
    """The ball as a transposition of the tensor [rank] sees it."""
    if ball.value.size == 1:
        return ball.reshape()
    if ball.value.ndim > rank:
        return None
    return ball.map(lambda x: np.transpose(x.reshape((1,) * (rank - x.ndim) + x.shape), perm))


def inverse(perm: Sequence[int]) -> list[int]:
    """The permutation that undoes ``perm``."""
    return [int(k) for k in np.argsort(perm)]


def reshaped(ball: Ball, before: Dims | None, after: Dims | None) -> Ball | None:
    """The ball as a reshape of the tensor from ``before`` to ``after`` sees it; None if the sizes do not tell."""
    if ball.value.size == 1:
        return ball.reshape()
    if before is None or after is None or ball.value.ndim > len(before):
        return None
    full = (1,) * (len(before) - ball.value.ndim) + ball.value.shape
    first = next(k for k, d in enumerate(full) if d != 1)
    sizes = [f if f != 1 else d for f, d in zip(full, before, strict=True)]
    for start in range(first, -1, -1):
        tail = [d for d in sizes[start:] if isinstance(d, int)]
        if len(tail) < len(before) - start or math.prod(tail) > _LARGEST:
            return None
        cut = next((k for k in range(len(after), -1, -1) if _product(after[k:]) == math.prod(tail)), None)
        if cut is not None:
            target = [d for d in after[cut:] if isinstance(d, int)]
            return collapsed(ball.map(lambda x: np.broadcast_to(x.reshape(full[start:]), tail).reshape(target)))  # noqa: B023
    return None


def solved(before: Dims, asked: Sequence[int | str | None]) -> Dims:
    """Sizes that a Reshape to ``asked`` gives: 0 copies a size, -1 is what is left over, if that is a number."""
    dims = [before[k] if d == 0 and k < len(before) else d for k, d in enumerate(asked)]
    if -1 not in dims:
        return tuple(dims)
    rest = [d for d in dims if d != -1]
    left = _left_over(before, rest)
    if left is None and dims[0] != -1:
        left = _left_over(before[1:], rest[1:])  # a batch that is named on one side and a number on the other
    return tuple(left if d == -1 else d for d in dims)


def _left_over(before: Sequence[int | str | None], rest: Sequence[int | str | None]) -> int | None:
    symbols = [sorted(d for d in side if isinstance(d, str)) for side in (before, rest)]
    numbers = [math.prod(d for d in side if isinstance(d, int)) for side in (before, rest)]
    if None in before or None in rest or symbols[0] != symbols[1] or not numbers[1] or numbers[0] % numbers[1]:
        return None
    return numbers[0] // numbers[1]


def _product(dims: Dims) -> int | None:
    sizes = [d for d in dims if isinstance(d, int)]
    return math.prod(sizes) if len(sizes) == len(dims) else None


def collapsed(ball: Ball) -> Ball:
    """The ball with every axis along which it does not change at size 1."""
    for axis in range(ball.value.ndim):
        if ball.value.shape[axis] > 1:
            first = ball.map(lambda x, a=axis: x.take([0], a))
            if (ball.value == first.value).all() and (ball.radius == first.radius).all():
                ball = first
    return ball


def varies(ball: Ball, axes: Sequence[int], rank: int) -> bool:
    """Whether the ball changes along any of these axes of a tensor [rank]."""
    dims = (1,) * (rank - ball.value.ndim) + ball.value.shape
    return any(dims[a % rank] != 1 for a in axes)


def without(ball: Ball, axes: Sequence[int], rank: int) -> Ball:
    """The ball with axes of size 1 taken out."""
    gone = {a % rank for a in axes}
    dims = (1,) * (rank - ball.value.ndim) + ball.value.shape
    kept = [d for k, d in enumerate(dims) if k not in gone]
    return ball.map(lambda x: x.reshape(kept))


def with_axes(ball: Ball, axes: Sequence[int], rank: int) -> Ball:
    """The ball with axes of size 1 put in, where a tensor of ``rank`` axes has them."""
    places = {a % rank for a in axes}
    rest = iter((1,) * (rank - len(places) - ball.value.ndim) + ball.value.shape)
    dims = [1 if k in places else next(rest) for k in range(rank)]
    return ball.map(lambda x: x.reshape(dims))


def spread(ball: Ball | None, axis: int, size: int, rank: int) -> Ball | None:
    """The ball at full size along ``axis``, as a part of a concatenation."""
    if ball is None:
        ball = Ball(np.zeros(()), np.zeros(()))
    if ball.value.ndim > rank:
        return None
    dims = [*(1,) * (rank - ball.value.ndim), *ball.value.shape]
    old = ball.map(lambda x: x.reshape(dims))
    dims[axis] = size
    return old.map(lambda x: np.broadcast_to(x, dims))


def joined(parts: list[Ball], axis: int) -> Ball:
    """Parts of the same rank one after the other along ``axis``."""
    rank = parts[0].value.ndim
    dims = [max(p.value.shape[k] for p in parts) for k in range(rank)]

    def full(x: Array) -> Array:
        return np.broadcast_to(x, [x.shape[k] if k == axis else d for k, d in enumerate(dims)])

    return Ball(
        np.concatenate([full(p.value) for p in parts], axis), np.concatenate([full(p.radius) for p in parts], axis)
    )
