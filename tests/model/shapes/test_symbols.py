"""What is said of a product of symbols holds for every number that they may stand for."""

from __future__ import annotations

import math
from itertools import product as pairs
from typing import Any

import pytest

from converter.model.shapes.symbols import ELEMENTWISE, Entry, Size, product, quotient, size

ENTRIES: list[Any] = [-3, -1, 0, 1, 2, 3, 4, 6, 12]
ENTRIES += [
    Size(1, ("M",)),
    Size(1, ("N",)),
    Size(2, ("N",)),
    Size(4, ("N",)),
    Size(6, ("M", "N")),
    Size(2, ("N", "N")),
]
NUMBERS = [{"N": n, "M": m} for n, m in pairs(range(1, 5), range(1, 4))]
TRUTH = {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"}
BINARY = ["Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", *sorted(TRUTH)]


def stands_for(entry: Entry, numbers: dict[str, int]) -> Any:
    return entry.factor * math.prod(numbers[s] for s in entry.symbols) if isinstance(entry, Size) else entry


@pytest.mark.parametrize("op", BINARY)
def test_what_is_said_holds_for_every_number(op: str) -> None:
    f = ELEMENTWISE[op]
    said = 0
    for a, b in pairs(ENTRIES, ENTRIES):
        out = f(a, b)
        if out is None:
            continue
        said += isinstance(a, Size) or isinstance(b, Size)
        for numbers in NUMBERS:
            assert stands_for(out, numbers) == f(stands_for(a, numbers), stands_for(b, numbers)), (op, a, b)
    assert (said > 0) == (op not in TRUTH - {"Equal"})


@pytest.mark.parametrize("op", BINARY)
def test_of_nothing_follows_nothing(op: str) -> None:
    assert ELEMENTWISE[op](None, 1) is None
    assert ELEMENTWISE[op](1, None) is None


@pytest.mark.parametrize(
    ("op", "args", "wanted"),
    [
        ("Div", (-7, 2), -3),
        ("Div", (7, -2), -3),
        ("Div", (-7, -2), 3),
        ("Div", (7, 0), None),
        ("Mod", (-7, 3), 2),
        ("Mod", (7, -3), -2),
        ("Mod", (7, 0), None),
        ("Mul", (1 << 40, 1 << 40), None),
        ("Add", ((1 << 63) - 1, 1), None),
        ("Mul", (Size(1, ("N",)), -1), None),
        ("Mul", (Size(1, ("N",)), 0), 0),
        ("Mul", (2, Size(3, ("N",))), Size(6, ("N",))),
        ("Add", (Size(1, ("N",)), Size(2, ("N",))), Size(3, ("N",))),
        ("Sub", (Size(3, ("N",)), Size(1, ("N",))), Size(2, ("N",))),
        ("Sub", (Size(1, ("N",)), Size(3, ("N",))), None),
        ("Sub", (Size(3, ("N",)), Size(3, ("N",))), 0),
        ("Div", (Size(6, ("N",)), Size(2, ("N",))), 3),
        ("Div", (Size(6, ("M", "N")), 4), None),
        ("Mod", (Size(6, ("N",)), 3), 0),
        ("Mod", (Size(1, ("N",)), 2), None),
        ("Equal", (Size(1, ("N",)), -1), False),
        ("Equal", (Size(2, ("N",)), 3), False),
        ("Equal", (Size(2, ("N",)), 4), None),
        ("Equal", (Size(1, ("N",)), 0), None),
        ("Equal", (Size(2, ("N",)), Size(2, ("N",))), True),
        ("Equal", (Size(2, ("N",)), Size(3, ("N",))), None),
        ("Where", (None, 3, 3), 3),
        ("Where", (None, 3, 4), None),
        ("Where", (True, 3, None), 3),
        ("Where", (False, 3, None), None),
        ("Floor", (float("nan"),), None),
        ("Abs", (Size(2, ("N",)),), Size(2, ("N",))),
    ],
)
def test_single_results(op: str, args: tuple[Entry, ...], wanted: Entry) -> None:
    assert ELEMENTWISE[op](*args) == wanted


@pytest.mark.parametrize(
    ("dim", "wanted"),
    [
        (7, 7),
        ("N", Size(1, ("N",))),
        ("4*N", Size(4, ("N",))),
        ("4*s0*?3", Size(4, ("?3", "s0"))),
        ("N*M", Size(1, ("M", "N"))),
        ("N + 1", Size(1, ("N + 1",))),
        ("2*N + 1", Size(1, ("2*N + 1",))),
        ("N**2", Size(1, ("N**2",))),
        ("2*(N - 1)", Size(1, ("2*(N - 1)",))),
    ],
)
def test_names_of_sizes(dim: int | str, wanted: int | Size) -> None:
    assert size(dim) == wanted
    if isinstance(wanted, Size):
        assert size(str(wanted)) == wanted


def test_products_and_quotients() -> None:
    n = Size(1, ("N",))
    assert product([4, n, 3]) == Size(12, ("N",))
    assert product([]) == 1
    assert product([0, n]) == 0
    assert quotient(Size(12, ("N",)), Size(4, ("N",))) == 3
    assert quotient(Size(12, ("N",)), 5) is None
    assert quotient(12, n) is None
    assert quotient(12, 0) is None
