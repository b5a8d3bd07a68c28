"""What numpy computes is what onnx's library computes, value by value and type by type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx.reference.ops import load_op

from converter.referee.reference.elementary import ELEMENTARY
from converter.referee.reference.kernels import make_kernel

A = np.random.default_rng(0).normal(0, 2, (2, 3, 4))
B = np.random.default_rng(1).normal(0, 2, (3, 4))
N = np.random.default_rng(2).integers(-9, 9, (2, 3, 4))
D = np.where(N == 0, 1, N[::-1])
INDICES = np.asarray([[0, -1], [1, 0]])


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.asarray(values, np.int64)


CASES: list[tuple[str, int, list[Any], dict[str, Any]]] = [
    *((op, 14, [A, B], {}) for op in ("Add", "Sub", "Mul", "Div")),
    *((op, 14, [N, D], {}) for op in ("Add", "Sub", "Mul", "Div")),
    *((op, 13, [A], {}) for op in ("Relu", "Neg", "Abs", "Tanh", "Exp")),
    ("Relu", 14, [N], {}),
    ("Relu", 14, [np.asarray([np.nan, -0.0, np.inf, -np.inf])], {}),
    ("Sqrt", 13, [np.abs(A)], {}),
    ("MatMul", 13, [A, B.T], {}),
    ("MatMul", 13, [B[0], B[1]], {}),
    ("Transpose", 13, [A], {}),
    ("Transpose", 13, [A], {"perm": [2, 0, 1]}),
    ("Reshape", 13, [A, ints(0, -1)], {}),
    ("Reshape", 14, [A[:0], ints(0, 12)], {"allowzero": 1}),
    ("Flatten", 13, [A], {"axis": 2}),
    ("Flatten", 13, [A], {"axis": -2}),
    ("Flatten", 13, [A], {"axis": 0}),
    ("Squeeze", 13, [A[:, :1]], {}),
    ("Squeeze", 13, [A[:, :1], ints(-2)], {}),
    ("Squeeze", 11, [A[:, :1, :1]], {"axes": [1, 2]}),
    ("Shape", 15, [A], {"start": -2, "end": 3}),
    ("Shape", 15, [A], {}),
    ("Gather", 13, [A, INDICES], {"axis": 2}),
    ("Gather", 13, [A, np.asarray(1)], {"axis": -2}),
    ("Concat", 13, [A, A * 2, A - 1], {"axis": -1}),
    ("Slice", 13, [A, ints(1, -1), ints(100, -(2**63) + 1), ints(1, 2), ints(1, -2)], {}),
    ("Slice", 13, [A, ints(1), ints(2)], {}),
    ("Slice", 9, [A], {"starts": [1, 0], "ends": [2, -1], "axes": [2, 1]}),
    ("Cast", 13, [N], {"to": 6}),
    ("Cast", 13, [N], {"to": 9}),
    ("Cast", 13, [A], {"to": 7}),
]


@pytest.mark.parametrize(("op", "opset", "inputs", "attributes"), CASES)
def test_as_the_library(op: str, opset: int, inputs: list[Any], attributes: dict[str, Any]) -> None:
    node = helper.make_node(op, [f"i{k}" for k in range(len(inputs))], ["y"], **attributes)
    kernel = make_kernel(node, "", opset)
    assert kernel is not None
    (got,) = kernel(tuple(inputs))
    parameters = {"log": lambda *_: None, "opsets": {"": opset}, "verbose": 0, "new_ops": None}
    (expected,) = load_op("", op, opset)(node, parameters).run(*inputs)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert got.tobytes() == np.ascontiguousarray(expected).tobytes()


def test_each_has_a_case() -> None:
    assert {name for _, name in ELEMENTARY} <= {op for op, *_ in CASES}


@pytest.mark.parametrize(
    ("op", "inputs"),
    [("Add", [A, N]), ("Gather", [A, np.asarray(9)]), ("Reshape", [A, ints(5, 5)]), ("Concat", [A, A[0]])],
)
def test_what_does_not_fit_is_refused(op: str, inputs: list[Any]) -> None:
    kernel = make_kernel(helper.make_node(op, ["a", "b"], ["y"], **({"axis": 0} if op == "Concat" else {})), "", 13)
    assert kernel is not None
    with pytest.raises((TypeError, ValueError, IndexError)):
        kernel(tuple(inputs))
