"""Open sizes that two models may treat differently: odd ones, one alone, and ones beyond the numbers that they hold.

A pool that rounds its size up, a slice that ends at 128, a branch on the length: at the sizes that are usually tried
such models agree. Where two models differ in an operator whose meaning hangs on sizes, both run on these too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from converter.referee.proto.random_inputs import (
    Guess,
    find_hints,
    has_open_batch,
    make_feeds,
    resize_shapes,
)
from converter.referee.proto.source import LoadedModel, list_free_inputs
from converter.referee.reference.kernels import read_attributes
from converter.referee.unreached.thresholds import Constants, walk_live_nodes

Shapes = dict[str, tuple[int, ...]]
Key = tuple[Any, ...]

_SIZED = {
    *("MaxPool", "AveragePool", "LpPool", "Resize", "Upsample", "Slice", "Reshape", "Expand", "Pad", "Tile", "Range"),
    *("Split", "ConstantOfShape", "Trilu", "EyeLike", "CenterCropPad", "GridSample", "RoiAlign", "If", "Loop", "Conv"),
    *("ConvTranspose", "CumSum", "TopK", "OneHot", "Flatten", "Squeeze", "Unsqueeze", "ReduceMean", "ReduceSum"),
}
_BY_WINDOW = {"auto_pad", "ceil_mode", "pads", "strides", "dilations", "kernel_shape", "output_padding"}
_END = 1 << 31  # of a slice: beyond any size
_LONGEST = 1 << 12
_MOST_SIZES = 4
_ELEMENTS = 1 << 17  # of the inputs, or four times those that were taken


def find_own_sizes(a: LoadedModel, b: LoadedModel) -> list[str]:
    """The operators whose meaning hangs on sizes and that only one of the two has, each said in a few words."""
    left, right = (
        {_describe(n, h): n.op_type for n in walk_live_nodes(s)} for s, h in ((a, Constants(a)), (b, Constants(b)))
    )
    own = [*(k for k in left if k and k not in right), *(k for k in right if k and k not in left)]
    return [str(k[0]) for k in own]


def _describe(node: Any, held: Constants) -> Key:
    if node.op_type not in _SIZED or node.domain not in ("", "ai.onnx"):
        return ()
    given = {k: repr(v) for k, v in read_attributes(node).items()}
    if node.op_type in ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"):
        given = {k: v for k, v in given.items() if k in _BY_WINDOW}
    fixed = (held.get(n) if n else None for n in node.input[1:])
    numbers = tuple(
        tuple(int(min(max(x, -_END), _END)) if x == x else None for x in v.reshape(-1).tolist())
        if v is not None and v.size <= 16 and v.dtype.kind in "iuf"
        else ()
        for v in fixed
    )
    return node.op_type, tuple(sorted(given.items())), () if node.op_type in ("Conv", "ConvTranspose") else numbers


def list_sizes(
    a: LoadedModel, b: LoadedModel, base: Mapping[str, Any], given: Mapping[str, Any] | None, rows: Collection[int]
) -> Iterator[Shapes]:
    """Other shapes of the inputs, none larger than may be run quickly; ``rows`` are numbers to go beyond, too."""
    model = a.proto
    shapes = {n: tuple(np.shape(v)) for n, v in base.items() if n in list_free_inputs(model)}
    known = find_hints(model.graph, set(list_free_inputs(model)))
    largest = max((max(s, default=1) for s in shapes.values()), default=1)
    beyond = sorted({n + 1 for n in (*_list_numbers(a), *_list_numbers(b), *rows) if largest <= n < _LONGEST})
    chosen = beyond if len(beyond) <= _MOST_SIZES else [*beyond[: _MOST_SIZES - 1], beyond[-1]]
    most = max(_ELEMENTS, 4 * sum(math.prod(s) for s in shapes.values()))
    batches: list[int | None] = [None]
    if has_open_batch(model, given):
        batches += [2]
    seen = [shapes]
    for size in (1, largest + 1, 7, 12, *chosen):
        for batch in batches:
            found = resize_shapes(model, given, shapes, known, size, batch)
            if found not in seen and sum(math.prod(s) for s in found.values()) <= most:
                seen.append(found)
                yield found
                break
    for batch in chosen if len(batches) > 1 else ():
        found = resize_shapes(model, given, shapes, known, None, batch)
        if found not in seen and sum(math.prod(s) for s in found.values()) <= most:
            seen.append(found)
            yield found


def _list_numbers(source: LoadedModel) -> set[int]:
    """The whole numbers that a model's graph holds in constants of a few elements."""
    held, found = Constants(source), set[int]()
    for node in walk_live_nodes(source):
        for value in (held.get(n) for n in node.input if held.counts_few(n)):
            if value is not None and value.dtype.kind in "iu":
                found |= {int(x) for x in value.reshape(-1)}
    return found


def make_sized_feeds(a: LoadedModel, shapes: Shapes, base: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Random inputs of these shapes."""
    names = set(list_free_inputs(a.proto))
    found: dict[str, Any] = make_feeds(a.proto, Guess(shapes, 2), seed, find_hints(a.proto.graph, names))
    return {n: found.get(n, v) for n, v in base.items()}
