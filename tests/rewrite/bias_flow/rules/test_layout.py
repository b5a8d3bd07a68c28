"""A shift through Reshape, with sizes that are symbols: what comes out is what reshaping the whole of it gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converter.model.graph import load
from converter.model.shapes.symbols import Size, size
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.bias_flow.rules import propagate
from converter.rewrite.bias_flow.rules.layout import reshape_shift
from converter.rewrite.bias_flow.shift import Block, Propagate, Shift
from tests.rewrite.bias_flow.judge import model
from tests.rewrite.bias_flow.rules.one_node import Case
from tests.rewrite.bias_flow.rules.values import ints

Dims = Sequence[int | str | None]
NUMBERS = ({"N": 1, "L": 3}, {"N": 2, "L": 5}, {"N": 3, "L": 2})


def concrete(dims: Dims, numbers: dict[str, int], n_elements: int = 0) -> list[int]:
    """The dims with numbers in place of symbols; one that is not known follows from the count of elements."""
    out = []
    for d in dims:
        found = -1 if d is None else size(d)
        out.append(
            found.factor * math.prod(numbers[s] for s in found.symbols) if isinstance(found, Size) else int(found)
        )
    if -1 in out:
        out[out.index(-1)] = n_elements // -math.prod(out)
    return out


def whole(shift: Shift, shape: Sequence[int]) -> NDArray[Any]:
    """The shift of every element."""
    assert shift.value is not None
    times = [d // v if i in shift.tiled else 1 for i, (d, v) in enumerate(zip(shape, shift.value.shape, strict=True))]
    assert all(d % v == 0 for d, v in zip(shape, shift.value.shape, strict=True))
    return np.broadcast_to(np.tile(shift.value, times), shape)


# Dims before, the axis along which the shift varies, dims after, and the axes that repeat; None: no shift comes out.
CASES: list[tuple[Dims, int, Dims, set[int] | None]] = [
    ([7, "N", 16], 2, [7, "4*N", 4], {1}),
    (["L", "N", 16], 2, ["L", "4*N", 4], {1}),
    (["L", "N", 16], 2, ["4*L*N", 4], {0}),
    (["L", "N", 16], 2, ["L", "16*N"], {1}),
    (["L", "N", 16], 2, ["L", "2*N", 4, 2], {1}),
    (["L", "N", 16], 2, ["L", "2*N", 8], {1}),
    (["L", "N", 16], 2, ["4*L", "N", 4], None),
    (["L", "N", 16], 2, ["L", "2*N", 4, None], None),
    (["L", "N", 16], 2, ["L", None, 4], None),
    (["L", "N", 12], 2, ["L", "2*N", 6], {1}),
    (["L", "N", 12], 2, ["2*L", "N", 6], None),
    (["L", "N", 12], 2, ["3*L*N", 4], {0}),
    (["L", "N", 12], 2, ["L", "3*N", 4], {1}),
    (["L", "N", 4, 3], 2, ["L", "2*N", 6], {1}),
    (["N", 4, "L"], 1, ["2*N", "2*L"], None),
    (["L", "N", 16], 2, ["L", "N", 4, 4], set()),
    (["L", "N", 16], 2, ["L*N", 16], set()),
    ([2, 3, 4], 2, [6, 4], set()),
    ([2, 3, 4], 2, [3, 8], set()),
    ([2, 3, 4], 2, [24], set()),
    (["N", 3, 4], 1, ["N", 12], set()),
    (["N", 3, 4], 1, ["3*N", 4], {0}),
    (["N", 3, 4], 1, ["4*N", 3], {0}),
    (["N", "L", 4], 0, ["N", "4*L"], None),
    # Last axes that stay may be of any length, and D may vary along them.
    (["N", 4, "L"], 1, ["4*N", "L"], {0}),
    (["N", 4, "L", 3], 1, ["4*N", "L", 3], {0}),
    (["N", 4, "L", 3], 3, ["4*N", "L", 3], set()),
    (["N", 6, "L"], 1, ["N", 2, 3, "L"], set()),
    (["N", 6, "L"], 1, ["2*N", 3, "L"], {0}),
    (["N", 6, "L"], 1, ["L", 6, "N"], None),
    ([2, 4, 4], 1, [8, 4], set()),
    ([2, 4, 4], 2, [8, 4], set()),
    ([4, 4], 0, [2, 2, 4], set()),
]


@pytest.mark.parametrize(("before", "axis", "after", "tiled"), CASES)
def test_what_comes_out_is_the_reshape_of_all_of_it(
    before: Dims, axis: int, after: Dims, tiled: set[int] | None
) -> None:
    extent = before[axis]
    n = extent if isinstance(extent, int) else 2
    value = np.arange(1.0, n + 1).reshape([n if i == axis else 1 for i in range(len(before))])
    out = reshape_shift(Shift.of_value(value), before, after)
    assert (None if out is None else set(out.tiled)) == tiled
    if out is None:
        return
    for numbers in NUMBERS:
        shape = concrete(before, numbers)
        full = np.broadcast_to(value, shape)
        there = concrete(after, numbers, full.size)
        assert np.array_equal(whole(out, there), full.reshape(there)), numbers


BACK: list[tuple[Dims, Dims, set[int] | None]] = [
    ([7, "4*N", 4], [7, "N", 16], set()),
    ([7, "4*N", 4], ["7*N", 16], set()),
    (["L", "4*N", 4], ["L", "2*N", 8], {1}),
    (["L", "4*N", 4], ["4*L*N", 4], {0}),
    (["L", "4*N", 4], ["L", "N", 2, 2, 4], set()),
    (["L", "4*N", 4], ["L", "N", 4, 4], set()),
    (["L", "4*N", 4], ["L", "2*N", 2, 4], {1}),
    (["L", "4*N", 4], ["2*L", "2*N", 4], None),
    (["L", "8*N", 4], ["L", "2*N", 4, 4], set()),
]


@pytest.mark.parametrize(("before", "after", "tiled"), BACK)
def test_a_shift_that_repeats_comes_back(before: Dims, after: Dims, tiled: set[int] | None) -> None:
    value = np.arange(1.0, 17).reshape(1, 4, 4)
    out = reshape_shift(Shift.of_value(value, tiled=[1]), before, after)
    assert (None if out is None else set(out.tiled)) == tiled
    if out is None:
        return
    for numbers in NUMBERS:
        shape = concrete(before, numbers)
        full = whole(Shift.of_value(value, tiled=[1]), shape)
        there = concrete(after, numbers)
        assert np.array_equal(whole(out, there), full.reshape(there)), numbers


def test_behind_an_axis_that_repeats_others_may_be_of_any_length() -> None:
    """As values lie once torch's encoder is done with one axis for batch and heads."""
    value = np.arange(1.0, 17).reshape(4, 1, 4)
    out = reshape_shift(Shift.of_value(value, tiled=[0]), ["4*N", "L", 4], ["N", 4, "L", 4])
    assert out is not None
    assert out.tiled == frozenset()
    assert out.value is not None
    assert np.array_equal(out.value, value[None])
    stays = reshape_shift(Shift.of_value(value, tiled=[0]), ["4*N", "L", 4], [1, "4*N", "L", 4])
    assert stays is None or stays.tiled == {1}


def test_along_two_axes_or_behind_others_it_is_not_followed() -> None:
    value = np.arange(1.0, 17).reshape(4, 4)
    assert reshape_shift(Shift.of_value(value, tiled=[1]), [4, "4*N"], [4, "N", 4]) is None
    assert reshape_shift(Shift.of_value(value, tiled=[0, 1]), ["4*L", "4*N"], ["L", 4, "4*N"]) is None


def test_what_does_not_vary_does_not_repeat() -> None:
    assert Shift.of_value(np.ones((1, 4, 1)), tiled=[1]).tiled == frozenset()
    shift = Shift.of_value(np.arange(4.0).reshape(1, 4, 1), tiled=[1])
    assert shift.tiled == {1}
    assert shift.of_rank(4).tiled == {2}
    assert shift.without_value.tiled == frozenset()


@pytest.mark.parametrize(
    "node",
    [
        "y = Add(x, c)",
        "y = Mul(x, c)",
        "y = Neg(x)",
        "y = Concat<axis = 1>(x, x)",
        "y = Slice(x, b, e, a)",
        "y = Gather<axis = 1>(x, b)",
        "y = MatMul(x, W)",
        "y = ReduceMean<axes = [2]>(x)",
        "y = Tile(x, t)",
    ],
)
def test_elsewhere_only_the_axes_of_a_shift_that_repeats_are_known(node: str) -> None:
    """The value has not the size of the axis: nothing may index or broadcast it."""
    given = {"x": (2, 8, 3), "c": np.ones(3), "W": np.ones((3, 2)), "b": ints(1), "e": ints(3), "a": ints(1)}
    case = Case(node, given | {"t": ints(1, 1, 2)})
    shift = Shift.of_value(np.arange(4.0).reshape(1, 4, 1), tiled=[1])
    outcome = propagate(case.facts, case.node, {i: shift for i, n in enumerate(case.node_proto.input) if n == "x"})
    carried = outcome.shifts.values() if isinstance(outcome, Propagate) else ()
    assert isinstance(outcome, Propagate | Block)
    assert all(s.value is None for s in carried)
    plain = propagate(case.facts, case.node, {0: Shift.of_value(np.arange(8.0).reshape(1, 8, 1))})
    assert isinstance(plain, Propagate) or node.startswith("y = Concat")


@pytest.mark.parametrize(("axis", "there"), [(0, set()), (1, set()), (2, {1}), (3, {2})])
def test_of_axes_that_are_symbols_it_is_known_where_they_go(axis: int, there: set[int]) -> None:
    """[N, 4, L, 4] to [4*N, L, 4]: the axis L is still one, and the last."""
    text = """
        (double[N,4,L,4] x) => (double[?,?,?] y) {
            s = Shape(x) l = Slice(s, two, three) to = Concat<axis=0>(open, l, four) y = Reshape(x, to)
        }
    """
    sizes = {"two": ints(2), "three": ints(3), "open": ints(-1), "four": ints(4)}
    facts = Facts(load(model(text, **sizes)))
    node = list(facts.graph.nodes())[-1]
    outcome = propagate(facts, node, {0: Shift.of_axes(4, [axis])})
    assert isinstance(outcome, Propagate)
    assert outcome.shifts[0].invariant == there
