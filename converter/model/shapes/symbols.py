"""Arithmetic on sizes of which some are symbols, `4*N`; and small tensors of such sizes, evaluated node by node.

An entry of a vector of sizes is a number, a truth value, a `Size` or None, of which nothing is known.

A value is an array of type object whose entries are as above. Source: the ONNX operator schemas.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from converter.dataclass import dataclass
from converter.model.file.dtypes import get_numpy_dtype

_LIMIT = 1 << 63  # of int64
_SYMBOL = r"(?:\?\d+|[^\W\d][\w.]*)"
_NAME = re.compile(rf"(?:(\d+)\*)?({_SYMBOL}(?:\*{_SYMBOL})*)")


@dataclass(frozen=True, slots=True)
class Size:
    """A product of a positive number and the sizes of axes: surely a whole number, zero or more."""

    factor: int
    symbols: tuple[str, ...]  # sorted

    def __str__(self) -> str:
        number = [str(self.factor)] if self.factor != 1 else []
        return "*".join([*number, *self.symbols])


Entry = int | bool | float | Size | None


def size(dim: int | str) -> int | Size:
    """A dim as an entry. ``4*N`` is four times ``N``, as exporters mean it; other text stands for itself."""
    if isinstance(dim, int):
        return dim
    match = _NAME.fullmatch(dim)
    if match is None:
        return Size(1, (dim,))
    return _build_size(int(match[1] or 1), sorted(match[2].split("*")))


def product(dims: Iterable[int | Size]) -> int | Size:
    """All of them multiplied."""
    factor = 1
    symbols: list[str] = []
    for d in dims:
        factor *= d.factor if isinstance(d, Size) else d
        symbols += list(d.symbols) if isinstance(d, Size) else []
    return _build_size(factor, sorted(symbols))


def quotient(a: int | Size, b: int | Size) -> int | Size | None:
    """a / b where it surely is whole; None otherwise."""
    (m, over), (n, under) = (_parts(x) for x in (a, b))
    left = Counter(over)
    left.subtract(under)
    if n == 0 or m % n or min(left.values(), default=0) < 0:
        return None
    return _build_size(m // n, sorted(left.elements()))


def _parts(x: int | Size) -> tuple[int, tuple[str, ...]]:
    return (x.factor, x.symbols) if isinstance(x, Size) else (x, ())


def _build_size(factor: int, symbols: Iterable[str]) -> int | Size:
    names = tuple(symbols)
    return Size(factor, names) if names and factor > 0 else factor


def _known(f: Callable[..., Any], symbolic: Callable[..., Any] | None = None) -> Callable[..., Entry]:
    """`f` on numbers, `symbolic` where a Size is among them; None where nothing is known."""

    def entry(*args: Entry) -> Entry:
        if any(a is None for a in args):
            return None
        if any(isinstance(a, Size) for a in args):
            return None if symbolic is None else symbolic(*args)
        out = f(*args)
        whole = isinstance(out, int) and not -_LIMIT <= out < _LIMIT
        return None if whole else out

    return entry


def _add_sizes(a: int | Size, b: int | Size) -> Entry:
    (m, left), (n, right) = (_parts(x) for x in (a, b))
    if m == 0 or n == 0:
        return b if m == 0 else a
    return _build_size(m + n, left) if left == right and m + n >= 0 else None


def _subtract_sizes(a: int | Size, b: int | Size) -> Entry:
    (m, left), (n, right) = (_parts(x) for x in (a, b))
    if n == 0:
        return a
    return _build_size(m - n, left) if left == right and m >= n else None


def _multiply_sizes(a: Any, b: Any) -> Entry:
    whole = all(isinstance(x, (int, Size)) and not isinstance(x, bool) for x in (a, b))
    return product((a, b)) if whole and all(_parts(x)[0] >= 0 for x in (a, b)) else None


def _divide(a: Any, b: Any) -> Any:
    if not isinstance(a, int):
        with np.errstate(all="ignore"):
            return a / b
    if b == 0:
        return None
    return a // b if (a < 0) == (b < 0) else -(-a // b)  # towards zero, as ONNX divides integers


def _divide_sizes(a: int | Size, b: int | Size) -> Entry:
    return quotient(a, b) if all(_parts(x)[0] > 0 for x in (a, b)) else None


def _remainder_of_sizes(a: int | Size, b: int | Size) -> Entry:
    return 0 if _divide_sizes(a, b) is not None else None


def _equal_sizes(a: int | Size, b: int | Size) -> Entry:
    if a == b:
        return True
    number, other = (a, b) if isinstance(a, int) else (b, a)
    never = isinstance(number, int) and isinstance(other, Size) and (number < 0 or number % other.factor != 0)
    return False if never else None


def _same(a: int | Size, b: int | Size) -> Entry:
    return a if a == b else None


def _choose(condition: Entry, a: Entry, b: Entry) -> Entry:
    if condition is None or isinstance(condition, Size):
        return a if a == b else None
    return a if condition else b


def _rounded_by(f: Callable[[float], int]) -> Callable[..., Entry]:
    return _known(lambda a: type(a)(f(a)) if math.isfinite(a) else None)


ELEMENTWISE: dict[str, Callable[..., Entry]] = {
    "Add": _known(lambda a, b: a + b, _add_sizes),
    "Sub": _known(lambda a, b: a - b, _subtract_sizes),
    "Mul": _known(lambda a, b: a * b, _multiply_sizes),
    "Div": _known(_divide, _divide_sizes),
    "Mod": _known(lambda a, b: a % b if b and isinstance(a, int) else None, _remainder_of_sizes),
    "Min": _known(min, _same),
    "Max": _known(max, _same),
    "Equal": _known(lambda a, b: bool(a == b), _equal_sizes),
    "Less": _known(lambda a, b: bool(a < b)),
    "LessOrEqual": _known(lambda a, b: bool(a <= b)),
    "Greater": _known(lambda a, b: bool(a > b)),
    "GreaterOrEqual": _known(lambda a, b: bool(a >= b)),
    "And": _known(lambda a, b: bool(a) and bool(b)),
    "Or": _known(lambda a, b: bool(a) or bool(b)),
    "Not": _known(lambda a: not a),
    "Neg": _known(lambda a: -a),
    "Abs": _known(abs, lambda a: a),
    "Floor": _rounded_by(math.floor),
    "Ceil": _rounded_by(math.ceil),
    "Where": _choose,
}

MOST_ELEMENTS = 1 << 10  # of a tensor of sizes; weights are no sizes
_MOST_FLOATS = 16  # scales of a Resize; biases are no sizes
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
Dims = Sequence[int | str | None]
Value = NDArray[np.object_]
MALFORMED = (ValueError, IndexError, TypeError, KeyError, OverflowError, ZeroDivisionError)


class Call:
    """One node, with the values of its inputs (None where nothing is known) and the dims of its first."""

    def __init__(self, node: NodeProto, values: Sequence[Value | None], dims: Dims | None) -> None:
        self.node = node
        self.values = values
        self.dims = dims

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or `default`."""
        found = next((a for a in self.node.attribute if a.name == name), None)
        return default if found is None else helper.get_attribute_value(found)

    def arg(self, slot: int) -> Value:
        """The value in an input slot, which must be known in part."""
        found = self.values[slot] if slot < len(self.values) else None
        if found is None:
            raise ValueError("not known")
        return found

    def has_input(self, slot: int) -> bool:
        """Whether there is something in an input slot."""
        return slot < len(self.node.input) and self.node.input[slot] != ""

    def numbers(self, slot: int, attribute: str = "") -> list[int] | None:
        """Whole numbers from an input, or from an attribute in older operator sets; None if there are none."""
        if self.has_input(slot):
            return as_integers(self.arg(slot))
        found = self.attr(attribute) if attribute else None
        return None if found is None else [int(v) for v in found]


def as_integers(value: Value) -> list[int]:
    """The entries as integers; ValueError if one is not known."""
    entries = list(value.reshape(-1))
    if any(not isinstance(e, int) for e in entries):
        raise ValueError("not known")
    return [int(e) for e in entries]


def stored(tensor: TensorProto) -> Value | None:
    """A tensor of the model as a value; None if it is large, or its data is not here."""
    most = _MOST_FLOATS if tensor.data_type in _FLOATS else MOST_ELEMENTS
    if math.prod(tensor.dims) > most or tensor.data_location == TensorProto.EXTERNAL:
        return None
    try:
        array = numpy_helper.to_array(tensor)
    except MALFORMED:
        return None
    return entries_of(array) if array.dtype.kind in "biuf" else None


def entries_of(array: NDArray[Any]) -> Value:
    """An array as entries: Python's own integers and truth values; floats stay in their type, to round as it does."""
    out = np.empty(array.shape, object)
    for i, entry in enumerate(array.reshape(-1)):
        out.reshape(-1)[i] = entry if array.dtype.kind == "f" else entry.item()
    return out


def constant(node: NodeProto) -> Value | None:
    """The value of a Constant node."""
    call = Call(node, (), None)
    tensor = call.attr("value")
    if tensor is not None:
        return stored(tensor)
    for name, dtype in (("value_int", np.int64), ("value_ints", np.int64), ("value_float", np.float32)):
        if (found := call.attr(name)) is not None:
            return entries_of(np.asarray(found, dtype))
    return None


def evaluate(call: Call) -> Value | None:
    """The node's value; None if nothing of it is known, or the operator is not one that exporters size with."""
    op = call.node.op_type
    try:
        out = _elementwise(call, ELEMENTWISE[op]) if op in ELEMENTWISE else _OPERATORS[op](call)
    except MALFORMED:
        return None
    return out if out.size <= MOST_ELEMENTS and any(e is not None for e in out.flat) else None


def _elementwise(call: Call, f: Callable[..., Entry]) -> Value:
    if call.node.op_type == "Mod" and call.attr("fmod", 0):
        raise ValueError("the sign follows the dividend")
    args = [call.arg(slot) for slot in range(len(call.node.input))]
    if call.node.op_type in ("Min", "Max") and len(args) != 2:
        raise ValueError("not of two")
    return np.asarray(np.frompyfunc(f, len(args), 1)(*args), object)


def _shape(call: Call) -> Value:
    if call.dims is None:
        raise ValueError("not known")
    out = np.array([None if d is None else size(d) for d in call.dims], object)
    return out[call.attr("start", 0) : call.attr("end", len(call.dims))]


def _size(call: Call) -> Value:
    if call.dims is None or None in call.dims:
        raise ValueError("not known")
    return np.array(product(size(d) for d in call.dims if d is not None), object)


def _cast(call: Call) -> Value:
    to = get_numpy_dtype(call.attr("to"))

    def entry(v: Entry) -> Entry:
        if isinstance(v, Size):
            return v if to in (np.int32, np.int64) else None
        if v is None or (isinstance(v, float | np.floating) and not math.isfinite(v)):
            return None
        if to.kind == "b":
            return bool(v)
        if to.kind in "iu":
            n = int(v)
            return n if np.iinfo(to).min <= n <= np.iinfo(to).max else None
        return to.type(v) if to.kind == "f" else None

    return np.asarray(np.frompyfunc(entry, 1, 1)(call.arg(0)), object)


def _move(call: Call) -> Value:
    """What only moves or repeats entries does so with symbols as with numbers: its other inputs are numbers."""
    given = [call.arg(k) if call.has_input(k) else None for k in range(1, len(call.node.input))]
    more = [None if v is None else np.array(as_integers(v), np.int64).reshape(v.shape) for v in given]
    from converter.model.shapes.constant_ops import EVALUATORS

    return np.asarray(EVALUATORS[call.node.op_type](call.attr, [call.arg(0), *more]), object)


def _concat(call: Call) -> Value:
    return np.concatenate([call.arg(i) for i in range(len(call.node.input))], call.attr("axis", 1))


def _fill(x: Any, shape: tuple[int, ...]) -> Value:
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError("no sizes")
    return np.broadcast_to(x, shape)


def _constant_of_shape(call: Call) -> Value:
    tensor = call.attr("value")
    fill = np.zeros(1, np.float32) if tensor is None else numpy_helper.to_array(tensor)
    return _fill(entries_of(fill.reshape(-1)[0:1]).reshape(()), tuple(as_integers(call.arg(0))))


def _range(call: Call) -> Value:
    start, limit, delta = (as_integers(call.arg(i))[0] for i in range(3))
    if len(range(start, limit, delta)) > MOST_ELEMENTS:
        raise ValueError("no sizes")
    return np.array(range(start, limit, delta), object)


def _reduce_prod(call: Call) -> Value:
    x = call.arg(0)
    axes = call.numbers(1, "axes")
    if axes not in (None, [0], [-1]) or x.ndim != 1 or any(not isinstance(e, (int, Size)) for e in x):
        raise ValueError("not a vector of sizes")
    return np.full((1,) if call.attr("keepdims", 1) else (), product(x), object)


_OPERATORS: Mapping[str, Callable[[Call], Value]] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": lambda call: call.arg(0),
    "Cast": _cast,
    "Concat": _concat,
    **dict.fromkeys(("Gather", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Expand", "Slice"), _move),
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "ReduceProd": _reduce_prod,
}
OPERATORS = frozenset({*ELEMENTWISE, *_OPERATORS})
