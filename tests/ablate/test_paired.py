"""Intervals and corrections for pairs, against published figures."""

from __future__ import annotations

import pytest

from converter.stats import holm, newcombe, wilson


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        # Newcombe 1998 (Stat. Med. 17, 2635), method 10: e, f, g, h of n = 50
        ((36, 2, 12, 0), 0.0569, 0.3404),
        ((20, 2, 12, 16), 0.0562, 0.3292),
    ],
)
def test_newcombe_as_published(cells: tuple[int, int, int, int], low: float, high: float) -> None:
    found = newcombe(*cells)
    assert found[0] == pytest.approx(0.2)
    assert found[1:] == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_newcombe_is_antisymmetric_and_never_empty() -> None:
    there, back = newcombe(30, 7, 3, 10), newcombe(30, 3, 7, 10)
    assert there[0] == -back[0]
    assert there[1] == pytest.approx(-back[2])
    assert there[2] == pytest.approx(-back[1])
    difference, low, high = newcombe(50, 0, 0, 0)
    assert low < difference == 0 < high
    assert newcombe(0, 0, 0, 0) == (0.0, -1.0, 1.0)


def test_wilson_at_its_ends() -> None:
    assert wilson(8, 10) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_holm_keeps_the_order_and_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
