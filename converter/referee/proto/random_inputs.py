"""Random inputs that a model accepts: hints, shapes, values; and open sizes that it fixes inside, solved for.

Floats are normal, clipped to +-4; integers stay below what their first reader indexes; masks hold zeros and at
least one one. Sizes that a model leaves open are read off the weights of the first reader where those decide
(channels of a Conv, rows of a MatMul), otherwise guessed and tried: see :func:`guess_shapes`.

A file may leave a length open that a layer further down, whose weight has 4,096 rows, takes at one value only. How
many elements come to that layer is read off inferred shapes at two sizes, and the size at which they fit is found by
the secant method: convolutions and pools are linear in it, images quadratic.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from converter.dataclass import dataclass
from converter.errors import DataError
from converter.referee.proto.inference import infer_types
from converter.referee.proto.source import Port, list_free_inputs, read_constant_dims

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Array = np.ndarray[Any, Any]
Shapes = dict[str, tuple[int, ...]]

BATCHES = (1, 3)
_OPEN_SIZES = (64, 224, 32, 128, 16, 256, 8, 512, 1, 3, 4, 80, 100, 160)
_MAX_GUESSES = 24
MAX_ELEMENTS = 1 << 24  # of a tensor whose size is guessed
LARGEST_INPUT = 1 << 31  # elements; a model of a few bytes may ask for any number of them
_ELEMENTWISE = {"Mul", "Div", "Add", "Sub", "PRelu"}
_PASSED_THROUGH = {"Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten", "Transpose", "Expand", "Clip"}


# What normal values are made into where a model has no answer to them: a logarithm, a root or a power in front. The
# order is that of the trials.
DOMAINS: dict[str, Callable[[Array], Array]] = {
    "positive": lambda x: np.abs(x) + 0.05,
    "between 0 and 1": lambda x: np.clip(np.abs(x) / 4, 0.01, 0.99),
    "small": lambda x: x / 64,
    "small and positive": lambda x: np.abs(x) / 64 + 1e-3,
}


@dataclass(frozen=True, slots=True)
class Hints:
    """What the first readers say about each input: fixed sizes by axis, rank, exclusive bound of integers."""

    sizes: dict[str, dict[int, int]] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    bounds: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Guess:
    """One attempt at the open sizes: concrete dims per input, and the bound of integers nothing else bounds."""

    shapes: Shapes
    loose_bound: int


def find_hints(graph: GraphProto, names: set[str]) -> Hints:
    """Read sizes and bounds off the weights of the nodes that read ``names``."""
    dims = read_constant_dims(graph)
    found = Hints()
    alias = {name: name for name in names}  # tensor -> the input whose elements it still holds
    for node in graph.node:
        source = alias.get(node.input[0]) if node.input else None
        if source is not None and node.op_type in _PASSED_THROUGH and node.output:
            alias[node.output[0]] = source
        for slot, name in enumerate(node.input):
            if name in names:
                _note_sizes(found, name, node, slot, dims)
            if name in alias:
                _note_bound(found, alias[name], node, slot, dims)
    return found


def _note_sizes(found: Hints, name: str, node: NodeProto, slot: int, dims: Mapping[str, tuple[int, ...]]) -> None:
    if node.op_type in _ELEMENTWISE and len(node.input) == 2:
        other = dims.get(node.input[1 - slot], ())
        found.sizes.setdefault(name, {}).update({-1 - k: n for k, n in enumerate(reversed(other)) if n > 1})
    weight = dims.get(node.input[1], ()) if len(node.input) > 1 else ()
    if slot or not weight:
        return
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type in ("Conv", "FusedConv") and len(weight) > 2:
        found.ranks[name] = len(weight)
        found.sizes.setdefault(name, {})[1] = weight[1] * group
    elif node.op_type == "ConvTranspose" and len(weight) > 2:
        found.ranks[name] = len(weight)
        found.sizes.setdefault(name, {})[1] = weight[0]
    elif node.op_type in ("BatchNormalization", "InstanceNormalization"):
        found.sizes.setdefault(name, {})[1] = weight[0]
    elif node.op_type == "MatMul" and len(weight) >= 2:
        found.sizes.setdefault(name, {})[-1] = weight[-2]
    elif node.op_type == "Gemm" and len(weight) == 2:
        trans_a, trans_b = (next((a.i for a in node.attribute if a.name == n), 0) for n in ("transA", "transB"))
        found.ranks[name] = 2
        found.sizes.setdefault(name, {})[0 if trans_a else 1] = weight[1] if trans_b else weight[0]
    elif node.op_type in ("LSTM", "GRU", "RNN"):
        found.ranks[name] = 3
        found.sizes.setdefault(name, {})[2] = weight[-1]


def _note_bound(found: Hints, name: str, node: NodeProto, slot: int, dims: Mapping[str, tuple[int, ...]]) -> None:
    data = dims.get(node.input[0], ())
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    if node.op_type in ("Gather", "GatherElements") and slot == 1 and data:
        bound = data[axis]
    elif node.op_type == "GatherND" and slot == 1 and data:
        bound = min(data)
    else:
        return
    found.bounds[name] = min(bound, found.bounds.get(name, bound))


def guess_shapes(model: ModelProto, given: Mapping[str, tuple[int, ...]] | None, batch: int) -> Iterator[Guess]:
    """Concrete shapes for every input, likeliest first.

    An open first dim is the batch. Every other open dim gets the same size at a time (64, then 224, then others);
    dims with one symbol stay equal because they all do.
    """
    inputs = list_free_inputs(model)
    known = find_hints(model.graph, set(inputs))
    seen: set[tuple[tuple[str, tuple[int, ...]], ...]] = set()
    for count, size in enumerate(_OPEN_SIZES):
        for rank in (4, 2, 3, 1):
            shapes = {n: _guess_shape(p, known, batch, size, rank, (given or {}).get(n)) for n, p in inputs.items()}
            key = tuple(sorted(shapes.items()))
            if key in seen or len(seen) >= _MAX_GUESSES:
                continue
            seen.add(key)
            if count and max((math.prod(s) for s in shapes.values()), default=0) > MAX_ELEMENTS:
                continue
            yield Guess(shapes, 8 if count == 0 else 2)
    if any(p.dtype is not None and p.dtype.kind in "iu" for p in inputs.values()):
        first = {n: _guess_shape(p, known, batch, _OPEN_SIZES[0], 2, (given or {}).get(n)) for n, p in inputs.items()}
        yield from (Guess(first, bound) for bound in (2, 1))


def _guess_shape(
    port: Port, known: Hints, batch: int, size: int, rank: int, given: tuple[int, ...] | None
) -> tuple[int, ...]:
    if given is not None:
        return tuple(given)
    dims = port.dims if port.dims is not None else (None,) * known.ranks.get(port.name, rank)
    fixed = {
        axis % len(dims): n for axis, n in known.sizes.get(port.name, {}).items() if -len(dims) <= axis < len(dims)
    }
    result = []
    for axis, dim in enumerate(dims):
        if isinstance(dim, int) and dim >= 0:
            result.append(dim)
        elif axis in fixed:
            result.append(fixed[axis])
        else:
            result.append(batch if axis == 0 else size)
    return tuple(result)


def has_open_batch(model: ModelProto, given: Mapping[str, tuple[int, ...]] | None) -> bool:
    """Whether some input's first dim is open, so that a second batch size is worth trying."""
    ports = list_free_inputs(model).values()
    return any(p.name not in (given or {}) and (p.dims is None or (p.dims and not is_fixed(p.dims[0]))) for p in ports)


def is_fixed(dim: int | str | None) -> bool:
    return isinstance(dim, int) and dim >= 0


def make_feeds(model: ModelProto, guess: Guess, seed: int, known: Hints | None = None) -> dict[str, Array]:
    """One random value per input; the same seed gives the same values.

    Raises
    ------
    DataError
        An input is text, a sequence, a map or optional: there is no random value for it.
    """
    inputs = list_free_inputs(model)
    known = known or find_hints(model.graph, set(inputs))
    return {name: _make_value(port, guess, seed, known) for name, port in inputs.items()}


def _make_value(port: Port, guess: Guess, seed: int, known: Hints) -> Array:
    if port.kind != "tensor" or port.dtype is None:
        raise DataError(f"input {port.name!r} is no tensor of numbers; give its values with --inputs")
    if math.prod(guess.shapes[port.name]) > LARGEST_INPUT:
        raise DataError(
            f"input {port.name!r} has the shape {list(guess.shapes[port.name])}, too large to be fed; give --shape"
        )
    rng = np.random.default_rng([seed, zlib.crc32(port.name.encode())])
    return make_random_tensor(rng, port.name, port.dtype, guess.shapes[port.name], known.bounds.get(port.name), guess)


def make_random_tensor(
    rng: np.random.Generator, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], bound: int | None, guess: Guess
) -> Array:
    """Random values of one type; ``bound`` is exclusive and holds for integers."""
    if dtype.kind == "b":
        return _make_mask(rng, shape).astype(dtype)
    if dtype.kind not in "iu":
        return np.asarray(np.clip(rng.standard_normal(shape), -4, 4), dtype)
    if bound is not None:
        return np.asarray(rng.integers(0, max(1, bound), shape), dtype)
    if "mask" in name.lower():
        return _make_mask(rng, shape).astype(dtype)
    if "len" in name.lower():
        return _make_lengths(rng, shape, guess).astype(dtype)
    if dtype.itemsize == 1:  # quantised values use their whole range
        info = np.iinfo(dtype)
        return np.asarray(rng.integers(info.min, info.max + 1, shape), dtype)
    return np.asarray(rng.integers(0, guess.loose_bound, shape), dtype)


def _make_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Zeros and ones, at least one one in every row of the last axis."""
    mask = np.asarray(rng.integers(0, 2, shape))
    if mask.size and mask.ndim:
        mask[..., 0] = 1
    return mask


def _make_lengths(rng: np.random.Generator, shape: tuple[int, ...], guess: Guess) -> Array:
    longest = max((max(s[1:], default=1) for s in guess.shapes.values() if len(s) > 1), default=1)
    return np.asarray(rng.integers(max(1, longest // 2), longest + 1, shape))


def confine(feeds: Mapping[str, Any], domain: str, but: Collection[str]) -> dict[str, Any]:
    """The float inputs within one of `DOMAINS`, without those that somebody has said the range of."""
    change = DOMAINS[domain]
    return {
        n: change(np.asarray(v, np.float64)).astype(v.dtype) if n not in but and v.dtype.kind in "fV" else v
        for n, v in feeds.items()
    }


def check_shapes(model: ModelProto, given: Mapping[str, tuple[int, ...]] | None) -> None:
    """Raise DataError unless shapes from the user are of inputs, and of the rank and fixed sizes that those have."""
    expected = list_free_inputs(model)
    for name, shape in (given or {}).items():
        if name not in expected:
            inputs = ", ".join(sorted(expected)) or "none"
            raise DataError(f"{name!r} is not an input of the model; its inputs are {inputs}")
        dims = expected[name].dims
        dims = (None,) * len(shape) if dims is None else dims
        if len(dims) != len(shape) or any(n < 0 or (is_fixed(d) and d != n) for d, n in zip(dims, shape, strict=True)):
            wanted = ", ".join("?" if d is None else str(d) for d in dims)
            raise DataError(f"input {name!r} has the shape [{wanted}], which {list(shape)} contradicts")


def check_given(model: ModelProto, feeds: Mapping[str, Any]) -> None:
    """Whether inputs from the user name the model's inputs.

    Raises
    ------
    DataError
        One is missing, or is not an input of the model.
    """
    expected = list_free_inputs(model)
    allowed = set(expected) | {i.name for i in model.graph.input}
    missing, unknown = [n for n in expected if n not in feeds], [n for n in feeds if n not in allowed]
    if missing:
        there = ", ".join(sorted(map(str, feeds))) or "nothing"
        wanted = ", ".join(sorted(expected))
        raise DataError(f"input {missing[0]!r} has no value: the data have {there}; the model takes {wanted}")
    if unknown:
        raise DataError(f"{unknown[0]!r} is not an input of the model; its inputs are {', '.join(sorted(expected))}")


def grow_shapes(
    model: ModelProto, given: Mapping[str, tuple[int, ...]] | None, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Shapes]:
    """Shapes with every open size beyond the batch made larger, likeliest first; none where there is no such size."""
    known = find_hints(model.graph, set(list_free_inputs(model)))
    for step in (lambda n: n + 32, lambda n: 2 * n, lambda n: n + 1):
        found = {n: _stretch(p, known, shapes[n], step) for n, p in list_free_inputs(model).items() if n in shapes}
        found |= {n: tuple(s) for n, s in (given or {}).items()}
        if found == {n: tuple(s) for n, s in shapes.items()}:
            return
        if max(math.prod(s) for s in found.values()) <= MAX_ELEMENTS:
            yield found


def resize_shapes(
    model: ModelProto,
    given: Mapping[str, tuple[int, ...]] | None,
    shapes: Mapping[str, tuple[int, ...]],
    known: Hints,
    size: int | None,
    batch: int | None,
) -> Shapes:
    """The shapes with every open size beyond the batch set to ``size``, and an open batch to ``batch``."""
    ports = list_free_inputs(model)
    found = {n: _stretch(ports[n], known, s, lambda k: size or k, batch) for n, s in shapes.items()}
    return found | {n: tuple(s) for n, s in (given or {}).items() if n in shapes}


def _stretch(
    port: Port, known: Hints, shape: tuple[int, ...], step: Callable[[int], int], batch: int | None = None
) -> tuple[int, ...]:
    if port.dims is None or len(port.dims) != len(shape):
        return tuple(shape)
    fixed = {axis % len(shape) for axis in known.sizes.get(port.name, {}) if -len(shape) <= axis < len(shape)}
    held = [k == 0 or is_fixed(d) or k in fixed for k, d in enumerate(port.dims)]
    found = [n if stays else step(n) for n, stays in zip(shape, held, strict=True)]
    if batch is not None and shape and not is_fixed(port.dims[0]):
        found[0] = batch
    return tuple(found)


Given = Mapping[str, tuple[int, ...]] | None
Measure = Callable[[Mapping[str, Port]], int | None]

_STARTS = (64, 96)
_STEPS = 12
_LARGEST = 1 << 20
_MOST = 4  # sizes that are proposed
_CONSTRAINTS = 24


def solve_sizes(model: ModelProto, given: Given, shapes: Shapes) -> Iterator[Shapes]:
    """Input shapes at which one of the model's inner sizes fits, likeliest first; none where nothing is open."""
    known = find_hints(model.graph, set(list_free_inputs(model)))
    if resize_shapes(model, given, shapes, known, _STARTS[0], None) == resize_shapes(
        model, given, shapes, known, _STARTS[1], None
    ):
        return
    sizer = _Sizer(model, given, shapes, known)
    found: list[int] = []
    for measure, wanted, divides in list(_list_constraints(model))[:_CONSTRAINTS]:
        size = sizer.solve(measure, wanted, divides=divides)
        if size is not None and size not in found:
            found.append(size)
            yield sizer.make_shapes(size)
        if len(found) >= _MOST:
            return


class _Sizer:
    """Inferred types at one open size after the other."""

    def __init__(self, model: ModelProto, given: Given, shapes: Shapes, known: Hints) -> None:
        self._model, self._given, self._shapes, self._known = model, given, shapes, known
        self._types: dict[int, Mapping[str, Port]] = {}

    def make_shapes(self, size: int) -> Shapes:
        return resize_shapes(self._model, self._given, self._shapes, self._known, size, None)

    def _measure(self, measure: Measure, size: int) -> int | None:
        if size not in self._types:
            self._types[size] = infer_types(self._model, self.make_shapes(size))
        return measure(self._types[size])

    def solve(self, measure: Measure, wanted: int, *, divides: bool) -> int | None:
        """The size at which what is measured is ``wanted``, or a multiple of it."""
        x, y = _STARTS
        at, there = self._measure(measure, x), self._measure(measure, y)
        if at is None or there is None or at == there:
            return None
        if divides:
            wanted *= max(1, -(-at // wanted))
        for _ in range(_STEPS):
            if there == wanted:
                return y
            if at == there:
                return None
            step = round((wanted - there) * (y - x) / (there - at)) or (1 if wanted > there else -1)
            x, at, y = y, there, min(max(1, y + step), _LARGEST)
            found = self._measure(measure, y)
            if found is None:
                return None
            there = found
        return None


def _list_constraints(model: ModelProto) -> Iterator[tuple[Measure, int, bool]]:
    """What is measured, what it has to be, and whether a multiple will do."""
    dims = read_constant_dims(model.graph)
    held = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm") and len(node.input) > 1 and len(dims.get(node.input[1], ())) == 2:
            rows, columns = dims[node.input[1]]
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            yield _count_last(node), columns if turned else rows, False
        elif node.op_type in ("Add", "Mul", "Sub", "Div") and any(len(dims.get(n, ())) > 1 for n in node.input):
            yield from _fit_beside(node, dims)
        elif node.op_type == "Reshape" and len(node.input) > 1 and node.input[1] in held:
            target = [int(n) for n in numpy_helper.to_array(held[node.input[1]]).reshape(-1)]
            fixed = math.prod(n for n in target if n > 0)
            if fixed > 1:
                yield _count_all(node), fixed, any(n <= 0 for n in target)


def _count_last(node: NodeProto) -> Measure:
    return lambda types: _read_dim(types, node.input[0], -1)


def _count_all(node: NodeProto) -> Measure:
    def count(types: Mapping[str, Port]) -> int | None:
        port = types.get(node.input[0])
        sizes = None if port is None or port.dims is None else [d for d in port.dims if isinstance(d, int)]
        return None if sizes is None or port is None or len(sizes) < len(port.dims or ()) else math.prod(sizes)

    return count


def _fit_beside(node: NodeProto, dims: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[Measure, int, bool]]:
    """A constant beside the data: each of its axes that is longer than one."""
    constant = next(n for n in node.input if len(dims.get(n, ())) > 1)
    data = next((n for n in node.input if n != constant), "")
    for k, size in enumerate(reversed(dims[constant])):
        if size > 1:
            yield (lambda types, axis=-1 - k: _read_dim(types, data, axis)), size, False  # type: ignore[misc]


def _read_dim(types: Mapping[str, Port], name: str, axis: int) -> int | None:
    port = types.get(name)
    if port is None or port.dims is None or len(port.dims) < -axis:
        return None
    found = port.dims[axis]
    return found if isinstance(found, int) else None
