"""Operators that work element by element, and which shifts they carry, drop or depend on."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.rewrite.bias_flow.rules.one_node import Case
from tests.rewrite.bias_flow.rules.values import ALL3, X3

PLAIN = [
    Case("y = Identity(x)", X3, ALL3),
    Case("y = Dropout(x)", X3, ALL3),
    Case("y = Dropout<ratio = 0.3>(x)", X3, ALL3, opset=7),
    Case("y, z = Dropout(x)", X3, types=(11, 9)),
    Case("y = Neg(x)", X3, ALL3),
    Case("y = Cast<to = 11>(x)", X3, ALL3),
    Case("y = Cast<to = 1>(x)", X3, types=(TensorProto.FLOAT,)),
    Case("y = Cast<to = 7>(x)", X3, felt="- 1 012", types=(TensorProto.INT64,)),
    Case("y = CastLike(x, r)", {**X3, "r": (1,)}, ALL3),
    Case("y = CastLike(r, x)", {"r": (3,), **X3}, gone=ALL3, slots=(1,)),
    Case("y = CastLike(x, f)", {**X3, "f": np.float32([0])}, types=(TensorProto.FLOAT,)),
    Case("y = Shape(x)", X3, gone=ALL3, types=(TensorProto.INT64,)),
    Case("y = Shape<start = 1>(x)", X3, gone=ALL3, types=(TensorProto.INT64,)),
    Case("y = Size(x)", X3, gone=ALL3, types=(TensorProto.INT64,)),
    Case("y = Add(x, r)", {**X3, "r": (2, 3, 4)}, ALL3),
    Case("y = Add(x, r)", {**X3, "r": (4,)}, ALL3, name="add to more axes"),
    Case("y = Add(r, x)", {**X3, "r": (5, 1, 3, 1)}, ALL3, slots=(1,), name="broadcast by Add"),
    Case("y = Add(x, r)", {**X3, "r": (2, 3, 4)}, ALL3, slots=(0, 1), name="both of Add"),
    Case("y = Add(x, x)", X3, ALL3, slots=(0, 1), alike=True),
    Case("y = Add(x, r)", {"x": (2, 3, 4), "r": (3, 4)}, ALL3, slots=(0, 1), name="both of Add, two ranks"),
    Case("y = Sub(x, r)", {**X3, "r": (3, 1)}, ALL3),
    Case("y = Sub(r, x)", {**X3, "r": (3, 1)}, ALL3, slots=(1,)),
    Case("y = Sub(x, r)", {**X3, "r": (2, 3, 4)}, ALL3, slots=(0, 1), name="both of Sub"),
    Case("y = Sub(x, r)", {**X3, "r": (2, 3, 4)}, gone=ALL3, slots=(0, 1), alike=True, name="both of Sub alike"),
    Case("y = Sum(x, r, t)", {**X3, "r": (4,), "t": (2, 1, 1)}, ALL3),
    Case("y = Sum(x, r, t)", {**X3, "r": (2, 3, 4), "t": (2, 1, 1)}, ALL3, slots=(0, 1), name="two of Sum"),
    Case("y = Mean(x, r, t)", {**X3, "r": (4,), "t": (2, 1, 1)}, ALL3),
    Case("y = Mean(x, r)", {**X3, "r": (2, 3, 4)}, ALL3, slots=(0, 1), name="both of Mean"),
    Case("y = Mul(x, c)", {**X3, "c": np.arange(1.0, 5)}, ALL3),
    Case("y = Mul(c, x)", {**X3, "c": np.arange(1.0, 4)[:, None]}, ALL3, slots=(1,)),
    Case("y = Mul(x, c)", {**X3, "c": np.arange(1.0, 6).reshape(5, 1, 1, 1)}, ALL3, name="Mul to more axes"),
    Case("y = Mul(x, c)", {**X3, "c": np.array(0.5)}, ALL3, name="Mul by a number"),
    Case("y = Div(x, c)", {**X3, "c": np.arange(1.0, 5)}, ALL3),
    Case("y = Div(x, c)", {**X3, "c": np.arange(4.0)}, name="Div by zero"),
    Case("y = Div(c, x)", {**X3, "c": np.arange(1.0, 5)}, slots=(1,), name="Div by the shifted", felt="- 1 012"),
    Case("y = Mul(x, r)", {**X3, "r": (3, 1)}, ALL3, name="gate"),
    Case("y = Mul(x, r)", {**X3, "r": (5, 1, 3, 1)}, ALL3, name="gate of more axes"),
    Case("y = Div(x, r)", {**X3, "r": (2, 3, 4)}, ALL3, name="Div by data"),
    Case("y = Mul(x, r)", {**X3, "r": (2, 3, 4)}, slots=(0, 1), name="both of Mul", felt="- 1 012"),
    Case("y = Mul(x, x)", X3, slots=(0, 1), alike=True, felt="- 1 012"),
    Case("y = Max(x, r)", {**X3, "r": (2, 3, 4)}, name="Max with data", felt="- 1 012"),
    Case("y = Max(x, r)", {**X3, "r": (2, 3, 4)}, ALL3, slots=(0, 1), alike=True),
    Case("y = Min(x, r)", {**X3, "r": (2, 3, 4)}, ALL3, slots=(0, 1), alike=True),
    Case("y = Max(x, r)", {**X3, "r": (2, 3, 4)}, slots=(0, 1), name="Max of unequal shifts", felt="- 1 012"),
]

_OPEN = {"c": np.random.default_rng(0).random((2, 3, 4)) < 0.6}
CHOICE = [
    Case("y = Where(c, x, r)", {"c": (2, 3, 4), **X3, "r": (2, 3, 4)}, ALL3, slots=(1, 2), alike=True, feeds=_OPEN),
    Case(
        "y = Where(c, x, r)",
        {"c": (2, 3, 4), **X3, "r": (2, 3, 4)},
        slots=(1, 2),
        feeds=_OPEN,
        name="Where, unlike",
        felt="- 1",
    ),
    Case(
        "y = Where(c, x, r)",
        {"c": (2, 3, 4), **X3, "r": (2, 3, 4)},
        slots=(1,),
        feeds=_OPEN,
        name="Where, one branch",
        felt="- 1",
    ),
    Case(
        "y = Where(c, x, f)",
        {"c": (2, 3, 4), **X3, "f": np.array(-9.0)},
        slots=(1,),
        feeds=_OPEN,
        name="finite fill",
        felt="- 1",
    ),
    Case("y = Where(c, f, x)", {"c": (2, 3, 4), "f": np.array(-9.0), **X3}, slots=(2,), feeds=_OPEN),
]
