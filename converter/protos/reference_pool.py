"""The pooling operators in float64, a slice per kernel position instead of a loop over windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.protos.reference_conv import Array, Window, index, pad, window

if TYPE_CHECKING:
    from converter.protos.reference_call import Call, Op


def max_pool(x: Array, win: Window) -> Array:
    """The largest element of each window: [N, C, *o]."""
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    padded = pad(x, win, lowest)
    return _reduce_taps(padded, win, np.maximum)


def max_pool_indices(x: Array, win: Window, storage_order: int = 0) -> Array:
    """Flat index into ``x`` of each window's first largest element: int64 [N, C, *o]."""
    order = "F" if storage_order else "C"
    sizes = x.shape[2:]
    inner = np.arange(math.prod(sizes), dtype=np.int64).reshape(sizes, order=order)  # type: ignore[call-overload]
    planes = np.arange(x.shape[0] * x.shape[1], dtype=np.int64).reshape(*x.shape[:2], *(1,) * len(sizes))
    places = pad(np.broadcast_to(inner + planes * math.prod(sizes), x.shape), win, -1)
    padded = pad(x, win, -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min)
    best: Array | None = None
    where: Array | None = None
    for tap in win.taps():
        where_at = index(..., spatial=win.at(tap))
        value, place = padded[where_at], places[where_at]
        if best is None or where is None:
            best, where = value.copy(), place.copy()
            continue
        better = (value > best) | ((where < 0) & (place >= 0))
        best, where = np.where(better, value, best), np.where(better, place, where)
    assert where is not None
    return where


def average_pool(x: Array, win: Window, count_include_pad: int = 0, ends: Sequence[int] | None = None) -> Array:
    """The mean of each window: [N, C, *o].

    ``ends`` is the padding that was asked for at the end of each axis: what ceil mode adds beyond it never counts.
    """
    total = _reduce_taps(pad(x, win), win, np.add)
    if not any(win.begin) and not any(win.end):
        return total / math.prod(win.kernel)
    ones = np.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    if count_include_pad:
        asked = tuple(ends) if ends is not None else win.end
        inside = Window(win.kernel, win.strides, win.dilations, win.begin, asked, win.out)
        ones = pad(ones, inside, 1.0)
        rest = tuple(e - a for e, a in zip(win.end, asked, strict=True))
        beyond = Window(win.kernel, win.strides, win.dilations, (0,) * len(rest), rest, win.out)
        return total / _reduce_taps(pad(ones, beyond), win, np.add)
    return total / _reduce_taps(pad(ones, win), win, np.add)


def lp_pool(x: Array, win: Window, p: int) -> Array:
    """The p-norm of each window: [N, C, *o]."""
    total = _reduce_taps(pad(np.abs(x) ** p, win), win, np.add)
    return np.asarray(total ** (1.0 / p))


def _reduce_taps(padded: Array, win: Window, combine: Callable[[Array, Array], Array]) -> Array:
    parts: Iterator[Array] = (padded[index(..., spatial=win.at(tap))] for tap in win.taps())
    result = next(parts).copy()
    for part in parts:
        result = combine(result, part)
    return result


def _window(call: Call, x: Array) -> Window:
    given: dict[str, Any] = {k: call.get(k) for k in ("auto_pad", "strides", "dilations", "pads", "ceil_mode")}
    return window(x.shape[2:], call.get("kernel_shape"), **given)


def _max_pool(call: Call) -> tuple[Any, ...]:
    x = call.input(0)
    win = _window(call, x)
    if call.n_outputs == 1:
        return (max_pool(x, win),)
    return max_pool(x, win), max_pool_indices(x, win, call.get("storage_order", 0))


def _average_pool(call: Call) -> tuple[Any, ...]:
    x = call.input(0)
    pads, n = call.get("pads"), x.ndim - 2
    explicit = call.get("auto_pad") in (None, "", "NOTSET")
    ends = (pads[n:] if pads else [0] * n) if explicit else None
    return (average_pool(x, _window(call, x), call.get("count_include_pad", 0), ends),)


def _lp_pool(call: Call) -> tuple[Any, ...]:
    x = call.input(0)
    return (lp_pool(x, _window(call, x), int(call.get("p", 2))),)


def _global(reduce: Any) -> Op:
    def op(call: Call) -> tuple[Any, ...]:
        x = call.input(0)
        return (reduce(x, tuple(range(2, x.ndim)), call),)

    return op


def _global_lp(x: Array, axes: tuple[int, ...], call: Call) -> Array:
    p = int(call.get("p", 2))
    return np.asarray(np.sum(np.abs(x) ** p, axis=axes, keepdims=True) ** (1 / p))


def _mean(x: Array, axes: tuple[int, ...], _: Call) -> Array:
    return np.asarray(x.sum(axis=axes, keepdims=True) / math.prod(x.shape[a] for a in axes))


POOLS: dict[str, Op] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "GlobalAveragePool": _global(_mean),
    "GlobalMaxPool": _global(lambda x, axes, _: x.max(axis=axes, keepdims=True)),
    "GlobalLpPool": _global(_global_lp),
}
