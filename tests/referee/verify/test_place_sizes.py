"""Places of a proof are measured on a part of large maps where they take it, and on all of them where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import converter
from converter.referee.verify import proof
from tests.tiny import Draw, model

SIDE = 160


def normed(end: str) -> onnx.ModelProto:
    """A bias that an instance norm cancels, on maps of 160 x 160."""
    text = f"p = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w, b) n = InstanceNormalization (p, g, t) {end}"
    draw = Draw(seed=5)
    constants = {"w": draw.normal(4, 3, 3, 3), "b": draw.normal(4), "g": draw.positive(4), "t": draw.normal(4)}
    return model(f"(float[1,3,{SIDE},{SIDE}] x) => (float[1,4,{SIDE},{SIDE}] y) {{ {text} }}", constants)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The sizes that places were measured on."""
    sizes: list[tuple[int, ...]] = []
    measure = proof._measure_region

    def watched(region: Any, a: Any, b: Any, values: Any, *more: Any) -> Any:
        sizes.append(np.shape(values["x"])[2:])
        return measure(region, a, b, values, *more)

    monkeypatch.setattr(proof, "_measure_region", watched)
    return sizes


def test_a_part_is_enough_for_a_layer_that_takes_any_size(measured: list[tuple[int, ...]]) -> None:
    result = converter.fold(normed("y = Relu (n)"))
    assert result.rewrites
    assert result.parity is not None
    assert (result.parity.verdict, result.parity.level) == ("PASS", "P")
    assert set(measured) <= {(proof._SIDE, proof._SIDE)}


def test_what_does_not_pass_on_a_part_is_measured_on_all(
    measured: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "_open_sizes", lambda proto, names: proto)  # onnxruntime refuses the part then
    result = converter.fold(normed("y = Relu (n)"))
    assert result.parity is not None
    assert result.parity.verdict == "PASS"
    if measured:
        assert measured[-1] == (SIDE, SIDE)
