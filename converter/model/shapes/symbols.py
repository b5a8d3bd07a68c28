"""Arithmetic on sizes of which some are symbols: what is sure of `4*N`, whatever `N` is.

An entry of a vector of sizes is a number, a truth value, a `Size` or None, of which nothing is known.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from converter.dataclass import dataclass

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
