"""Open sizes that two models treat differently are tried, and those that they treat alike say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from converter.records import Verdict
from converter.referee.proto.source import LoadedModel
from converter.referee.unreached.places import find_own_sizes, list_sizes
from converter.referee.verify import compare
from tests import tiny
from tests.benchmarks.verdict_traps import TRAPS

TEXT = "(float[N,L,4] x) => (float[N,M,4] y) { y = Slice(x, s, e, ax) }"


def made(end: int, text: str = TEXT) -> LoadedModel:
    held = {"s": np.array([0]), "e": np.array([end]), "ax": np.array([1])}
    return LoadedModel.open(tiny.model(text, held), None, "model")


def test_numbers_that_the_models_hold_are_gone_beyond() -> None:
    a, b = made(2**40), made(300)
    assert find_own_sizes(a, b) == ["Slice", "Slice"]
    assert not find_own_sizes(a, made(2**62)), "both are the end"
    tried = list(list_sizes(a, b, {"x": np.zeros((1, 64, 4), np.float32)}, None, ()))
    assert {"x": (1, 301, 4)} in tried
    assert {"x": (1, 1, 4)} in tried
    assert all(s["x"][2] == 4 for s in tried)
    assert not list(list_sizes(a, b, {"x": np.zeros((1, 64, 4), np.float32)}, {"x": (1, 64, 4)}, ()))


def test_a_constant_that_is_not_finite_is_no_size() -> None:
    text = "(float[N,L,4] x) => (float[N,M,4] y) { y = Pad(x, p, v) }"
    for value in (-np.inf, np.inf, np.nan):
        held = {"p": np.array([0, 1, 0, 0, 1, 0]), "v": np.array(value, np.float32)}
        padded = LoadedModel.open(tiny.model(text, held), None, "model")
        assert not find_own_sizes(padded, padded)
        assert find_own_sizes(padded, made(300)) == ["Pad", "Slice"]


@pytest.mark.parametrize("trap", ["rows cut", "pool's ceil_mode", "Resize of one pixel"])
def test_other_sizes_tell_two_apart(trap: str) -> None:
    parity = compare(*TRAPS[trap].make())
    assert parity.verdict is Verdict.FAIL, parity.why


def test_a_shape_that_another_tool_resolved_is_the_same() -> None:
    first = "(float[N,3,L] x) => (float[N,K] y) { s = Shape(x)\n n = Slice(s, z, o)\n c = Concat<axis=0>(n, m)\n "
    first += "r = Reshape(x, c)\n y = Neg(r) }"
    second = "(float[N,3,L] x) => (float[N,K] y) { r = Reshape(x, zm)\n y = Neg(r) }"
    held = {"z": np.array([0]), "o": np.array([1]), "m": np.array([-1])}
    assert compare(tiny.model(first, held), tiny.model(second, {"zm": np.array([0, -1])})).verdict is Verdict.PASS
