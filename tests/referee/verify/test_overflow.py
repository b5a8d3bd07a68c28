"""An original that overflows, where the rewritten model does not: who is right is said by the reference."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.records import Verdict
from converter.referee.verify import compare


def scaled(*factors: float) -> onnx.ModelProto:
    """One multiplication after the other."""
    names = ["x", *(f"t{k}" for k in range(len(factors) - 1)), "y"]
    consts = [numpy_helper.from_array(np.array(f, np.float32), f"c{k}") for k, f in enumerate(factors)]
    nodes = [helper.make_node("Mul", [names[k], f"c{k}"], [names[k + 1]]) for k in range(len(factors))]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 50]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], consts)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


HALF = (2.0**100, 2.0**100, 2.0**-100)
OVERFLOWS = (*HALF, 2.0**-100)  # 1 in real arithmetic


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (OVERFLOWS, (1.0,), Verdict.PASS),
        ((1.0,), OVERFLOWS, Verdict.FAIL),
        (OVERFLOWS, (1.25,), Verdict.FAIL),
        (OVERFLOWS, (*HALF, 2.0**-99), Verdict.FAIL),  # both overflow; what is finite differs
    ],
)
def test_the_model_that_is_right_passes(before: tuple[float, ...], after: tuple[float, ...], verdict: Verdict) -> None:
    feeds = {"x": np.linspace(-2, 2, 100, dtype=np.float32).reshape(2, 50)}
    feeds["x"][:, ::2] = 1e-30  # these do not overflow
    parity = compare(scaled(*before), scaled(*after), inputs=feeds)
    assert parity.verdict is verdict
    told = any("the original overflows" in w and "is right there" in w for w in parity.warnings)
    assert told is (verdict is Verdict.PASS)
