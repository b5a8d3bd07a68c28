"""Shifts: what is known of them, together and after their axes moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from converter.rewrite.bias_flow.shift import Shift, add_shifts, are_equal

PER_CHANNEL = np.arange(3.0).reshape(1, 3, 1)


def test_axes_along_which_a_value_is_the_same_shrink() -> None:
    shift = Shift.of_value(np.broadcast_to(PER_CHANNEL, (2, 3, 4)))
    assert (shift.rank, shift.invariant, shift.varying) == (3, {0, 2}, (1,))
    assert np.array_equal(shift.value, PER_CHANNEL)  # type: ignore[arg-type]


def test_a_shift_beside_a_tensor_of_more_axes_gets_them_in_front() -> None:
    assert Shift.of_axes(2, [0]).of_rank(4) == Shift.of_axes(4, [0, 1, 2])


def test_shifts_of_known_value_add_up() -> None:
    total = add_shifts([Shift.of_value(PER_CHANNEL), Shift.of_value(np.full((1, 1), 2.0))])
    assert are_equal(total, Shift.of_value(PER_CHANNEL + 2))
    assert add_shifts([total, Shift.of_value(-PER_CHANNEL - 2)]).is_zero


def test_beside_an_unknown_one_only_the_axes_are_known() -> None:
    total = add_shifts([Shift.of_value(PER_CHANNEL), Shift.of_axes(3, [0, 1])])
    assert total == Shift.of_axes(3, [0])
    assert not are_equal(total, total)


MOVES: list[Callable[[Any], Any]] = [
    lambda d: d.transpose(2, 1, 0),
    lambda d: np.expand_dims(d, (0, 4)),
    lambda d: np.squeeze(d, 0),
]


@pytest.mark.parametrize("move", MOVES)
def test_a_move_of_axes_is_the_same_for_a_value_and_for_axes_only(move: Callable[[Any], Any]) -> None:
    shift = Shift.of_value(PER_CHANNEL, masked=True)
    moved, blind = shift.move_axes(move), shift.without_value.move_axes(move)
    assert np.array_equal(moved.value, move(PER_CHANNEL))  # type: ignore[arg-type]
    assert (blind.rank, blind.invariant, blind.masked, blind.value) == (moved.rank, moved.invariant, True, None)
