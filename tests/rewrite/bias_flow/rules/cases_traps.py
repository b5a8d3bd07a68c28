"""Operators whose outputs have other axes than one expects, or that count a shift more than once."""

from __future__ import annotations

import numpy as np

from tests.rewrite.bias_flow.rules.cases_attention import SUM_ONE, einsum
from tests.rewrite.bias_flow.rules.one_node import Case
from tests.rewrite.bias_flow.rules.values import ALL2, ALL3, X2, X3, some

# Their outputs have another number of axes than one expects, or count the shift more than once.
TRAPS = [
    Case(
        "y = Where(c, x, r)",
        {"c": (5, 2, 3, 4), "x": (3, 4), "r": (3, 4)},
        ALL2,
        slots=(1, 2),
        alike=True,
        feeds={"c": np.random.default_rng(0).random((5, 2, 3, 4)) < 0.6},
        name="Where, condition of more axes",
    ),
    Case("y = MatMul(x, r)", {**X3, "r": (4,)}, name="MatMul by a vector"),
    Case("y = MatMul(r, x)", {"r": (3,), **X3}, slots=(1,), name="vector by MatMul"),
    Case("y = MatMul(x, W)", {**X3, "W": some(4)}, name="MatMul by a constant vector"),
    Case("y = MatMul(x, r)", {"x": (4,), "r": (2, 4, 5)}, name="MatMul of a vector"),
    Case(
        "y = MatMul(w, x)",
        {"r": (3,), **X2},
        slots=(1,),
        before="w = Softmax<axis = -1>(r)",
        name="weighed by one row of softmax",
    ),
    einsum("bqk,bkd->bd", (2, 5, 3), (2, 3, 4), **SUM_ONE, carry=ALL3),
]
