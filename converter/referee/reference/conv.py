"""Convolution in float64, as matrix products and slices.

onnx.reference gathers every element by index; these are the same formulas, fast enough for a
ResNet-50 a second.
Shapes: N batch, C input channels, M output channels, g groups, *d input, *o output, *k kernel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.dataclass import dataclass

if TYPE_CHECKING:
    from converter.referee.reference.call import KernelCall, Op


Array = np.ndarray[Any, Any]

# Bytes of patches held at a time; small enough to stay in a cache, large enough to keep BLAS busy.
_PATCH_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Window:
    """How a kernel slides: everything per spatial axis, padding resolved."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    out: tuple[int, ...]

    def taps(self) -> Iterator[tuple[int, ...]]:
        """The kernel's positions, last axis fastest."""
        return itertools.product(*(range(k) for k in self.kernel))

    def at(self, tap: Sequence[int]) -> tuple[slice, ...]:
        """Where one tap reads (or, transposed, writes) in the padded spatial axes."""
        axes = zip(tap, self.dilations, self.strides, self.out, strict=True)
        return tuple(slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, s, o in axes)


def index(*lead: Any, spatial: Iterable[Any]) -> Any:
    """An index of leading axes followed by spatial ones."""
    return (*lead, *spatial)


def _same_padding(size: int, kernel: int, stride: int, dilation: int, upper: bool) -> tuple[int, int]:
    out = -(-size // stride)
    total = max(0, (out - 1) * stride + (kernel - 1) * dilation + 1 - size)
    small = total // 2
    return (small, total - small) if upper else (total - small, small)


def _out_size(size: int, span: int, stride: int, pads: tuple[int, int], ceil: bool) -> int:
    room = size + sum(pads) - span
    out = (math.ceil(room / stride) if ceil else room // stride) + 1
    # The last window must start inside the image or its left padding (as in the operator's text).
    if ceil and (out - 1) * stride >= size + pads[0]:
        out -= 1
    return out


def make_window(
    sizes: Sequence[int],
    kernel: Sequence[int],
    *,
    auto_pad: str | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    ceil_mode: int | None = 0,
) -> Window:
    """Resolve strides, dilations, padding and output size of a convolution or pooling."""
    n = len(sizes)
    step = tuple(strides or (1,) * n)
    spread = tuple(dilations or (1,) * n)
    both = [(p, q) for p, q in zip(pads[:n], pads[n:], strict=True)] if pads else [(0, 0)] * n
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        upper = auto_pad == "SAME_UPPER"
        both = [_same_padding(s, k, t, d, upper) for s, k, t, d in zip(sizes, kernel, step, spread, strict=True)]
    elif auto_pad == "VALID":
        both = [(0, 0)] * n
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, spread, strict=True)]
    out = [_out_size(s, w, t, p, bool(ceil_mode)) for s, w, t, p in zip(sizes, spans, step, both, strict=True)]
    if min(out, default=1) < 1:
        raise ValueError(f"kernel {tuple(kernel)} does not fit into the padded input {tuple(sizes)}")
    # In ceil mode the last window may stick out: pad the end so that slices stay inside.
    ends = [max(p[1], (o - 1) * t + w - s - p[0]) for s, w, t, p, o in zip(sizes, spans, step, both, out, strict=True)]
    return Window(tuple(kernel), step, spread, tuple(p[0] for p in both), tuple(ends), tuple(out))


def pad(x: Array, win: Window, value: float = 0.0) -> Array:
    if not any(win.begin) and not any(win.end):
        return x
    spatial = list(zip(win.begin, win.end, strict=True))
    lead = x.ndim - len(spatial)
    shape = x.shape[:lead] + tuple(s + b + e for s, (b, e) in zip(x.shape[lead:], spatial, strict=True))
    padded = np.full(shape, value, dtype=x.dtype)
    inner = (slice(b, b + s) for s, (b, _) in zip(x.shape[lead:], spatial, strict=True))
    padded[index(..., spatial=inner)] = x
    return padded


def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    group: int = 1,
    auto_pad: str | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
) -> Array:
    """Convolution of ``x`` [N, C, *d] with ``weight`` [M, C/g, *k] and ``bias`` [M]: [N, M, *o]."""
    if x.shape[1] != weight.shape[1] * group or weight.shape[0] % group:
        raise ValueError(f"input {x.shape} does not fit weight {weight.shape} with {group} groups")
    win = make_window(x.shape[2:], weight.shape[2:], auto_pad=auto_pad, strides=strides, dilations=dilations, pads=pads)
    padded = pad(x, win)
    out = np.empty((x.shape[0], weight.shape[0], *win.out), dtype=np.result_type(x, weight))
    if weight.shape[1] == 1 and weight.shape[0] == group:
        _depthwise(padded, weight, win, out)
    elif 2 * weight.shape[0] < x.shape[1] and math.prod(win.strides) == 1 < math.prod(win.kernel):
        _by_projection(padded, weight, win, group, out)
    else:
        _by_patches(padded, weight, win, group, out)
    if bias is not None:
        out += bias.reshape(-1, *(1,) * len(win.out))
    return out


def _depthwise(padded: Array, weight: Array, win: Window, out: Array) -> None:
    """One filter per channel: a sum of scaled slices, no matrix product."""
    ones = (1,) * len(win.out)
    for n in range(out.shape[0]):
        out[n] = 0
        for tap in win.taps():
            filters = weight[index(slice(None), 0, spatial=tap)].reshape(-1, *ones)
            out[n] += padded[index(n, slice(None), spatial=win.at(tap))] * filters


def _by_patches(padded: Array, weight: Array, win: Window, group: int, out: Array) -> None:
    """Patches as columns times filters as rows, a band of the first spatial axis at a time."""
    rows = weight.reshape(group, weight.shape[0] // group, -1)  # [g, M/g, C/g * prod(k)]
    plain = math.prod(win.kernel) == 1 and math.prod(win.strides) == 1
    per_line = padded.shape[1] * math.prod(win.kernel) * math.prod(win.out[1:]) * padded.itemsize
    band = win.out[0] if plain else max(1, _PATCH_BYTES // max(1, per_line))
    for n in range(out.shape[0]):
        for first in range(0, win.out[0], band):
            size = min(band, win.out[0] - first)
            cols = (
                padded[n].reshape(group, rows.shape[2], -1) if plain else _patches(padded[n], win, group, first, size)
            )
            part = np.matmul(rows, cols)
            out[n, :, first : first + size] = part.reshape(out.shape[1], size, *win.out[1:])


def _by_projection(padded: Array, weight: Array, win: Window, group: int, out: Array) -> None:
    """Few filters, many channels, stride 1: product with every tap's filters first, then shifted sums."""
    per_tap = np.moveaxis(weight.reshape(group, -1, *weight.shape[1:]), 2, -1)  # [g, M/g, *k, C/g]
    rows = np.ascontiguousarray(per_tap).reshape(group, -1, weight.shape[1])
    lines, rest = padded.shape[2], padded.shape[3:]
    band = max(1, 4 * _PATCH_BYTES // max(1, rows.shape[0] * rows.shape[1] * math.prod(rest) * padded.itemsize))
    out[...] = 0
    for n, first in itertools.product(range(out.shape[0]), range(0, lines, band)):
        size = min(band, lines - first)
        flat = padded[n, :, first : first + size].reshape(group, weight.shape[1], -1)
        made = np.matmul(rows, flat).reshape(out.shape[1], *win.kernel, size, *rest)
        for tap in win.taps():
            shift = first - tap[0] * win.dilations[0]
            low, high = max(0, shift), min(win.out[0], shift + size)
            if low < high:
                inner = win.at(tap)[1:]
                out[n, :, low:high] += made[index(slice(None), *tap, slice(low - shift, high - shift), spatial=inner)]


def _patches(image: Array, win: Window, group: int, first: int, size: int) -> Array:
    """The patches [g, C/g * prod(k), size * prod(o[1:])] of ``size`` output lines from ``first`` on."""
    c_step, *steps = image.strides
    origin = image[:, first * win.strides[0] :]
    shape = (image.shape[0], *win.kernel, size, *win.out[1:])
    strides = (
        c_step,
        *(s * d for s, d in zip(steps, win.dilations, strict=True)),
        *(s * t for s, t in zip(steps, win.strides, strict=True)),
    )
    view = np.lib.stride_tricks.as_strided(origin, shape, strides, writeable=False)
    lines = math.prod(shape[: 1 + len(win.kernel)])
    return np.ascontiguousarray(view).reshape(group, lines // group, -1)


def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    group: int = 1,
    auto_pad: str | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
) -> Array:
    """Transposed convolution of ``x`` [N, C, *d] with ``weight`` [C, M/g, *k] and ``bias`` [M]."""
    n = x.ndim - 2
    step, spread, extra = strides or (1,) * n, dilations or (1,) * n, output_padding or (0,) * n
    kernel = weight.shape[2:]
    full = [(s - 1) * t + (k - 1) * d + 1 for s, t, k, d in zip(x.shape[2:], step, kernel, spread, strict=True)]
    begin, out = _transposed_frame(x.shape[2:], full, step, extra, pads, auto_pad, output_shape)
    frame = [max(f, b + o) for f, b, o in zip(full, begin, out, strict=True)]
    canvas = np.zeros((x.shape[0], weight.shape[1] * group, *frame), dtype=np.result_type(x, weight))
    win = Window(tuple(kernel), tuple(step), tuple(spread), (0,) * n, (0,) * n, x.shape[2:])
    flat = x.reshape(x.shape[0], group, x.shape[1] // group, -1)
    by_group = weight.reshape(group, -1, *weight.shape[1:])  # [g, C/g, M/g, *k]
    for tap in win.taps():
        rows = by_group[index(..., spatial=tap)].swapaxes(1, 2)
        canvas[index(..., spatial=win.at(tap))] += np.matmul(rows, flat).reshape(*canvas.shape[:2], *x.shape[2:])
    inside = index(..., spatial=(slice(b, b + o) for b, o in zip(begin, out, strict=True)))
    result = np.ascontiguousarray(canvas[inside])
    if bias is not None:
        result += bias.reshape(-1, *(1,) * n)
    return result


def _transposed_frame(
    sizes: Sequence[int],
    full: Sequence[int],
    step: Sequence[int],
    extra: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str | None,
    output_shape: Sequence[int] | None,
) -> tuple[list[int], list[int]]:
    """Where the output begins in the full canvas, and its size."""
    n = len(sizes)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER") and not output_shape:
        output_shape = [s * t for s, t in zip(sizes, step, strict=True)]
    if output_shape:
        wanted = list(output_shape[-n:])
        total = [max(0, f + e - o) for f, e, o in zip(full, extra, wanted, strict=True)]
        upper = auto_pad == "SAME_UPPER"
        return [t // 2 if upper else t - t // 2 for t in total], wanted
    both = list(pads or (0,) * 2 * n) if auto_pad in (None, "", "NOTSET") else [0] * 2 * n
    return both[:n], [f + e - p - q for f, e, p, q in zip(full, extra, both[:n], both[n:], strict=True)]


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


def _window(call: KernelCall, x: Array) -> Window:
    given: dict[str, Any] = {k: call.get(k) for k in ("auto_pad", "strides", "dilations", "pads", "ceil_mode")}
    return make_window(x.shape[2:], call.get("kernel_shape"), **given)


def _max_pool(call: KernelCall) -> tuple[Any, ...]:
    x = call.input(0)
    win = _window(call, x)
    if call.n_outputs == 1:
        return (max_pool(x, win),)
    return max_pool(x, win), max_pool_indices(x, win, call.get("storage_order", 0))


def average_pool_of(call: KernelCall) -> tuple[Any, ...]:
    """AveragePool of the call's first input."""
    x = call.input(0)
    pads, n = call.get("pads"), x.ndim - 2
    explicit = call.get("auto_pad") in (None, "", "NOTSET")
    ends = (pads[n:] if pads else [0] * n) if explicit else None
    return (average_pool(x, _window(call, x), call.get("count_include_pad", 0), ends),)


def _lp_pool(call: KernelCall) -> tuple[Any, ...]:
    x = call.input(0)
    return (lp_pool(x, _window(call, x), int(call.get("p", 2))),)


def _global(reduce: Any) -> Op:
    def op(call: KernelCall) -> tuple[Any, ...]:
        x = call.input(0)
        return (reduce(x, tuple(range(2, x.ndim)), call),)

    return op


def _global_lp(x: Array, axes: tuple[int, ...], call: KernelCall) -> Array:
    p = int(call.get("p", 2))
    return np.asarray(np.sum(np.abs(x) ** p, axis=axes, keepdims=True) ** (1 / p))


def _mean(x: Array, axes: tuple[int, ...], _: KernelCall) -> Array:
    return np.asarray(x.sum(axis=axes, keepdims=True) / math.prod(x.shape[a] for a in axes))


POOLS: dict[str, Op] = {
    "MaxPool": _max_pool,
    "AveragePool": average_pool_of,
    "LpPool": _lp_pool,
    "GlobalAveragePool": _global(_mean),
    "GlobalMaxPool": _global(lambda x, axes, _: x.max(axis=axes, keepdims=True)),
    "GlobalLpPool": _global(_global_lp),
}
