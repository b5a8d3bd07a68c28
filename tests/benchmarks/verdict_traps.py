"""Pairs that usual inputs hardly tell apart: one attribute, bound, row, branch or size of one operator is another.

Each trap is a small net as text and the two things that are written in its one place; or constants that differ. All
of them are different for some input, and many only for inputs that nobody draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto

from tests import tiny

Array = np.ndarray[Any, Any]
F = np.float32
PLACE = "@"


@dataclass(frozen=True, slots=True)
class Trap:
    """A net with a place in it, what stands there in the original and in the other one, and the constants of both."""

    text: str
    first: str = ""
    second: str = ""
    held: Mapping[str, Any] = field(default_factory=dict)
    other: Mapping[str, Any] = field(default_factory=dict)  # constants that the other one has instead
    opset: int = 17

    def make(self) -> tuple[ModelProto, ModelProto]:
        """Both models."""
        held = {**_draw(), **self.held}
        return self._write(self.first, held), self._write(self.second, {**held, **self.other})

    def _write(self, what: str, held: Mapping[str, Any]) -> ModelProto:
        text = self.text.replace(PLACE, what)
        words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
        return tiny.model(text, {k: np.asarray(v) for k, v in held.items() if k in words}, opset=self.opset)


def _draw() -> dict[str, Array]:
    rng = np.random.default_rng(11)
    made = {
        "w": rng.standard_normal((7, 6)) * 0.5,
        "b": rng.uniform(-0.5, 0.5, 6),
        "w2": rng.standard_normal((6, 4)) * 0.5,
        "k": rng.standard_normal((5, 3, 3, 3)) * 0.25,
        "kb": rng.uniform(-0.5, 0.5, 5),
        "k2": rng.standard_normal((4, 5, 1, 1)) * 0.5,
        "emb": rng.standard_normal((500, 6)),
        "pos": rng.standard_normal((512, 6)),
        "W": rng.standard_normal((1, 24, 7)) * 0.3,
        "R": rng.standard_normal((1, 24, 6)) * 0.3,
        "B": rng.uniform(-0.3, 0.3, (1, 48)),
        "W3": rng.standard_normal((1, 18, 7)) * 0.3,
        "R3": rng.standard_normal((1, 18, 6)) * 0.3,
        "B3": rng.uniform(-0.3, 0.3, (1, 36)),
    }
    numbers = {"one": 1, "half": 0.5, "nought": 0, "two": 2, "three": 3, "six": 6, "big": 60, "tiny": 1e-6, "far": 100}
    return {k: v.astype(F) for k, v in made.items()} | {k: F(v) for k, v in numbers.items()}


def rows(place: str, head: str = "m = MatMul(x, w)\n h = Add(m, b)", tail: str = "y = MatMul(r, w2)") -> str:
    """Rows of numbers: a layer, the place that makes r of h, and another layer."""
    return f"(float[N,7] x) => (float[N,4] y) {{ {head}\n {place}\n {tail} }}"


def maps(place: str, tail: str = "y = Conv(r, k2)") -> str:
    """Maps: a convolution, the place, and another one."""
    return f"(float[N,3,10,10] x) => (float[N,4,P,Q] y) {{ h = Conv(x, k, kb)\n {place}\n {tail} }}"


def _with(value: Array, at: Any, new: float) -> Array:
    made = value.copy()
    made[at] = made[at] * F(new)
    return made


def _rows(n: int, m: int = 6) -> Array:
    return np.random.default_rng(n).standard_normal((n, m)).astype(F)


_D = _draw()
_R = "r = @"
_IF = """g = ReduceMax<keepdims=0>(h)
 c = Greater(g, far)
 r = If(c) <then_branch = t () => (u) { u = @ }, else_branch = e () => (v) { v = Tanh(h) }>"""
_LOOP = """(float[N,7] x) => (float[N,6] r) { m = MatMul(x, w)
 h = Add(m, b)
 r = Loop(trips, go, h) <body = g (int64 i, bool on, float[N,6] a) => (bool again, float[N,6] z) {
  z = Mul(a, half)
  s = ReduceMax<keepdims=0>(z)
  again = Greater(s, tiny) }> }"""
_WHOLE = "(int64[N,6] x) => (int64[N,6] y) { y = @ }"
_COMMON = """(float[N,7] x) => (float[N,6] r) { m = MatMul(x, w)
 h = Add(m, b)
 g = ReduceMean<keepdims=0>(h)
 c = Greater(g, nought)
 r = If(c) <then_branch = t () => (u) { u = @ }, else_branch = e () => (v) { v = Tanh(h) }> }"""
_ROW_IN_BRANCH = """(int64[N,3] ids, float[N,3,6] x) => (float[N,3,6] r) { g = ReduceMax<keepdims=0>(x)
 c = Greater(g, far)
 r = If(c) <then_branch = t () => (u) { u = Gather(emb, ids) }, else_branch = e () => (v) { v = Tanh(x) }> }"""
_TIMES = """(float[N,7] x) => (float[N,6] r) { m = MatMul(x, w)
 h = Add(m, b)
 r = Loop(trips, go, h) <body = g (int64 i, bool on, float[N,6] a) => (bool again, float[N,6] z) {
  z = @
  again = Identity(on) }> }"""
_SCAN = """(float[4,6] x) => (float[6] f, float[4,6] y) { i = ConstantOfShape(s6)
 f, y = Scan<num_scan_inputs=1, body = g (float[6] a, float[6] d) => (float[6] c, float[6] e) { c = Add(a, d)
  @ }>(i, x) }"""
_THREE = {"trips": np.array(3), "go": np.array(True)}
_NMS = """(float[1,20,4] boxes, float[1,3,20] scores) => (int64[M,3] y) {
 y = NonMaxSuppression(boxes, scores, most, iou, least) }"""
_NMS_HELD = {"most": np.array([20]), "iou": np.array([0.5], F), "least": np.array([0.05], F)}
_LSTM = """(float[5,N,7] x) => (float[5,1,N,6] y, float[1,N,6] yh) {
 y, yh = @ }"""
_IDS = """(int64[N,7] ids) => (float[N,7,4] y) {
 @
 y = MatMul(e, w2) }"""
_TOKENS = """(int64[N,L] ids) => (float[N,L,4] y) {
 e = Gather(emb, ids)
 s = Shape(ids)
 n = Slice(s, i1, i2)
 p = @
 h = Add(e, p)
 y = MatMul(h, w2) }"""
_PADDED = """q = Equal(ids, pad)
 f = Cast<to=1>(q)
 u = Unsqueeze(f, last)
 g = Gather(emb, ids)
 e = Sub(g, u)"""
_SIZES = {"i0": np.array([0]), "i1": np.array([1]), "i2": np.array([2]), "z0": np.array(0), "z1": np.array(1)}


def _open_rows(place: str) -> str:
    return f"(float[N,L,7] x) => (float[N,P,4] y) {{ m = MatMul(x, w)\n h = Add(m, b)\n {place}\n y = MatMul(r, w2) }}"


def _open_maps(place: str, tail: str = "y = Conv(r, k2)") -> str:
    return f"(float[N,3,V,U] x) => (float[N,4,P,Q] y) {{ h = Conv(x, k, kb)\n {place}\n {tail} }}"


TRAPS: dict[str, Trap] = {
    # bounds
    "Clip 60 to 90": Trap(rows("r = Clip(h, nought, hi)"), held={"hi": F(60)}, other={"hi": F(90)}),
    "Clip left out": Trap(rows(_R), "Clip(h, low, hi)", "Identity(h)", {"low": F(-500), "hi": F(500)}),
    "bound of one channel": Trap(
        rows("r = Min(h, hi)"), held={"hi": np.full(6, 60, F)}, other={"hi": _with(np.full(6, 60, F), 3, 2)}
    ),
    "Clip of a second layer": Trap(
        rows("g = MatMul(h, q)\n t = Tanh(g)\n r = Clip(t, low, hi)"),
        held={"q": _rows(6), "low": F(-2), "hi": F(2)},
        other={"hi": F(0.9999)},
    ),
    "HardSigmoid's slope far off": Trap(
        rows("g = Add(h, big)\n r = @"), "HardSigmoid<alpha=0.2>(g)", "HardSigmoid<alpha=0.25>(g)"
    ),
    "ThresholdedRelu 60 to 70": Trap(rows(_R), "ThresholdedRelu<alpha=60.0>(h)", "ThresholdedRelu<alpha=70.0>(h)"),
    "Shrink's threshold": Trap(rows(_R), "Shrink<lambd=60.0, bias=1.0>(h)", "Shrink<lambd=80.0, bias=1.0>(h)"),
    "Shrink's bias": Trap(rows(_R), "Shrink<lambd=60.0, bias=1.0>(h)", "Shrink<lambd=60.0, bias=2.0>(h)"),
    "Elu's alpha where positive": Trap(rows("p = Add(h, big)\n r = @"), "Elu<alpha=1.0>(p)", "Elu<alpha=2.0>(p)"),
    "Selu as Identity where positive": Trap(
        rows("p = Add(h, big)\n r = @"), "LeakyRelu<alpha=0.1>(p)", "LeakyRelu<alpha=0.3>(p)"
    ),
    "Abs left out where positive": Trap(rows("p = Add(h, big)\n r = @"), "Abs(p)", "Identity(p)"),
    "Relu left out where positive": Trap(rows("p = Add(h, big)\n r = @"), "Relu(p)", "Identity(p)"),
    "Sqrt of square as Identity": Trap(rows("p = Add(h, big)\n q = Mul(p, p)\n r = @"), "Sqrt(q)", "Identity(p)"),
    "PRelu of a positive channel": Trap(
        rows("p = Add(h, up)\n r = PRelu(p, slope)"),
        held={"up": np.array([0, 0, 80, 0, 0, 0], F), "slope": np.full(6, 0.1, F)},
        other={"slope": np.array([0.1, 0.1, 0.5, 0.1, 0.1, 0.1], F)},
    ),
    "softplus with a threshold": Trap(
        rows("g = Greater(h, hi)\n s = Softplus(h)\n r = Where(g, @, s)"), "h", "far", {"hi": F(40)}
    ),
    "Where's rare side": Trap(
        rows("g = Greater(h, far)\n s = Tanh(h)\n o = Mul(h, c)\n r = Where(g, o, s)"),
        held={"c": F(2)},
        other={"c": F(3)},
    ),
    "masks: Or as Xor": Trap(
        rows("g = Greater(h, far)\n l = Less(h, hi)\n o = @\n s = Tanh(h)\n r = Where(o, h, s)"),
        "Or(g, l)",
        "Xor(g, l)",
        {"hi": F(200)},
    ),
    "NaN guard left out": Trap(rows("l = Log(h)\n n = IsNaN(l)\n r = Where(n, nought, @)"), "l", "h", {}),
    "guard against infinity": Trap(rows("n = IsInf(h)\n r = Where(n, nought, h)"), "", "", {}, {"nought": F(1)}),
    "guard against NaN": Trap(rows("n = IsNaN(h)\n r = Where(n, nought, h)"), "", "", {}, {"nought": F(1)}),
    "guard against NaN left out": Trap(rows("n = IsNaN(h)\n r = @"), "Where(n, nought, h)", "Identity(h)"),
    # epsilons
    "floor of a norm": Trap(
        rows("q = ReduceL2<axes=[1]>(h)\n n = Max(q, eps)\n r = Div(h, n)"),
        held={"eps": F(1e-12)},
        other={"eps": F(1e-4)},
    ),
    "epsilon beside a variance": Trap(
        rows("q = Mul(h, h)\n a = ReduceMean<axes=[1]>(q)\n e = Add(a, eps)\n s = Sqrt(e)\n r = Div(h, s)"),
        held={"eps": F(1e-6)},
        other={"eps": F(1e-9)},
    ),
    "layer norm 1e-5 to 1e-6": Trap(
        rows(_R),
        "LayerNormalization<epsilon=1e-6>(h, g)",
        "LayerNormalization<epsilon=1e-8>(h, g)",
        {"g": np.ones(6, F)},
    ),
    "instance norm's epsilon": Trap(
        maps(_R),
        "InstanceNormalization<epsilon=1e-6>(h, g, b5)",
        "InstanceNormalization<epsilon=1e-9>(h, g, b5)",
        {"g": np.ones(5, F), "b5": np.zeros(5, F)},
    ),
    "epsilon in a logarithm": Trap(
        rows("q = Abs(h)\n e = Add(q, eps)\n r = Log(e)"), held={"eps": F(1e-7)}, other={"eps": F(1e-12)}
    ),
    "floor under a logarithm": Trap(
        rows("s = Sigmoid(h)\n c = Clip(s, eps, one)\n r = Log(c)"), held={"eps": F(1e-12)}, other={"eps": F(1e-9)}
    ),
    "epsilon beside probabilities": Trap(
        rows("s = Softmax(h)\n e = Add(s, eps)\n r = Log(e)"), held={"eps": F(1e-12)}, other={"eps": F(1e-8)}
    ),
    # integers
    "integer divisor": Trap(_WHOLE, "Div(x, c)", "Div(x, c)", {"c": np.array(10**5)}, {"c": np.array(2 * 10**5)}),
    "integer product that wraps": Trap(
        "(int32[N,6] x) => (float[N,6] y) { @ }",
        "a = Mul(x, k32)\n y = Cast<to=1>(a)",
        "i = Cast<to=7>(x)\n a = Mul(i, k64)\n y = Cast<to=1>(a)",
        {"k32": np.array(1000, np.int32), "k64": np.array(1000)},
    ),
    "what a division leaves": Trap(
        "(int64[N,6] x) => (int64[N,6] y) { a = Div(x, c)\n p = Mul(a, c)\n y = Sub(x, p) }",
        held={"c": np.array(10**6)},
        other={"c": np.array(10**5)},
    ),
    "bits that are masked": Trap(_WHOLE, "BitwiseAnd(x, c)", "Identity(x)", {"c": np.array(0xFFFFFF)}, opset=18),
    "an element that is ignored": Trap(
        "(float[3,5] x, int64[3] t) => (float l) { l = NegativeLogLikelihoodLoss<ignore_index=@>(x, t) }", "10", "9"
    ),
    "no axes is all axes": Trap(
        "(float[3,2,2] x, int64[0] a) => (float[P,Q,S] y) { y = ReduceSum<noop_with_empty_axes=@>(x, a) }", "0", "1"
    ),
    # steps, ties, remainders
    "Round as Floor of half": Trap(rows("s = Mul(h, three)\n @"), "r = Round(s)", "a = Add(s, half)\n r = Floor(a)"),
    "Floor as Cast to int": Trap(rows("p = Add(h, big)\n @"), "r = Floor(p)", "i = Cast<to=6>(p)\n r = Cast<to=1>(i)"),
    "ArgMax's last": Trap(
        rows("r = ArgMax<axis=1, select_last_index=@>(h)", tail="y = Identity(r)").replace("float[N,4]", "int64[N,1]"),
        "0",
        "1",
    ),
    "ArgMax's last of rectified": Trap(
        rows("q = Relu(h)\n r = ArgMin<axis=1, select_last_index=@>(q)", tail="y = Identity(r)").replace(
            "float[N,4]", "int64[N,1]"
        ),
        "0",
        "1",
    ),
    "TopK's largest of absolute": Trap(
        rows("q = Abs(h)\n r, j = TopK<largest=@>(q, k6)", tail="y = MatMul(r, w2)"), "1", "0", {"k6": np.array([6])}
    ),
    "fmod of floats to a positive": Trap(
        rows("p = Add(h, big)\n i = Cast<to=6>(p)\n j = Mod<fmod=@>(i, seven)\n r = Cast<to=1>(j)"),
        "0",
        "1",
        {"seven": np.array(7, np.int32)},
    ),
    "integer division of negatives": Trap(
        rows("p = Add(h, big)\n @"),
        "i = Cast<to=6>(p)\n j = Div(i, seven)\n r = Cast<to=1>(j)",
        "d = Div(p, s7)\n r = Floor(d)",
        {"seven": np.array(7, np.int32), "s7": F(7)},
    ),
    "Equal to another number": Trap(
        rows("e = Equal(h, c)\n s = Tanh(h)\n r = Where(e, far, s)"), held={"c": F(5)}, other={"c": F(7)}
    ),
    "Sign's zero": Trap(
        rows("@"),
        "r = Sign(h)",
        "g = GreaterOrEqual(h, nought)\n f = Cast<to=1>(g)\n t = Mul(f, two)\n r = Sub(t, one)",
    ),
    # branches and loops
    "rare branch's operator": Trap(rows(_IF), "Sigmoid(h)", "Softsign(h)"),
    "rare branch's constant": Trap(rows(_IF), "Mul(h, two)", "Mul(h, three)"),
    "rare branch's weight": Trap(
        rows(_IF), "MatMul(h, q)", "MatMul(h, q)", {"q": _rows(6)}, {"q": _with(_rows(6), (2, 3), 1.5)}
    ),
    "threshold of a branch": Trap(rows(_IF), "Relu(h)", "Relu(h)", {}, {"far": F(200)}),
    "branch by length": Trap(
        _open_rows("""s = Shape(h)
 n = Gather(s, z1)
 c = Greater(n, lim)
 r = If(c) <then_branch = t () => (u) { u = @ }, else_branch = e () => (v) { v = Tanh(h) }>"""),
        "Sigmoid(h)",
        "Relu(h)",
        {**_SIZES, "lim": np.array(400)},
    ),
    "trips of a Loop": Trap(_LOOP, "", "", {"trips": np.array(200), "go": np.array(True)}, {"trips": np.array(60)}),
    "limit in a Loop": Trap(
        _LOOP, "", "", {"trips": np.array(200), "go": np.array(True), "tiny": F(-1e30)}, {"tiny": F(-1e20)}
    ),
    "bound in a branch that often runs": Trap(
        _COMMON, "Clip(h, nought, hi)", "Clip(h, nought, hi)", {"hi": F(60)}, {"hi": F(90)}
    ),
    "row of a table in a rare branch": Trap(_ROW_IN_BRANCH, other={"emb": _with(_D["emb"], (480, 2), 1.5)}),
    "row of a table in a branch that often runs": Trap(
        _ROW_IN_BRANCH.replace("ReduceMax", "ReduceMean").replace("far", "nought"),
        other={"emb": _with(_D["emb"], (480, 2), 1.5)},
    ),
    "bound in a Loop": Trap(
        _TIMES, "Clip(a, low, hi)", "Clip(a, low, hi)", {**_THREE, "low": F(-60), "hi": F(60)}, {"hi": F(90)}
    ),
    "slope in a Loop": Trap(_TIMES, "LeakyRelu<alpha=0.1>(a)", "LeakyRelu<alpha=0.2>(a)", _THREE),
    "bound in a Scan": Trap(
        _SCAN,
        "e = Clip(c, low, hi)",
        "e = Clip(c, low, hi)",
        {"s6": np.array([6]), "low": F(-60), "hi": F(60)},
        {"hi": F(90)},
    ),
    "rare side in a Scan": Trap(
        _SCAN, "o = Greater(c, far)\n e = Where(o, far, c)", "e = Identity(c)", {"s6": np.array([6])}
    ),
    # recurrent
    "LSTM's clip": Trap(
        _LSTM,
        "LSTM<hidden_size=6, clip=50.0>(x, W, R, B)",
        "LSTM<hidden_size=6>(x, W, R, B)",
    ),
    "LSTM's clip 20 to 30": Trap(
        _LSTM,
        "LSTM<hidden_size=6, clip=20.0>(x, W, R, B)",
        "LSTM<hidden_size=6, clip=30.0>(x, W, R, B)",
    ),
    "GRU's clip": Trap(
        _LSTM, "GRU<hidden_size=6, clip=20.0>(x, W3, R3, B3)", "GRU<hidden_size=6, clip=40.0>(x, W3, R3, B3)"
    ),
    # tables and sizes
    "row of a table behind arithmetic": Trap(
        _IDS,
        "p = Add(ids, o)\n e = Gather(emb, p)",
        "p = Add(ids, o)\n e = Gather(emb, p)",
        {"o": np.array(2)},
        {"emb": _with(_D["emb"], 477, 1.5)},
    ),
    "row of a table behind a Clip": Trap(
        _IDS,
        "p = Clip(ids, a, z)\n e = Gather(emb, p)",
        "p = Clip(ids, a, z)\n e = Gather(emb, p)",
        {"a": np.array(0), "z": np.array(499)},
        {"emb": _with(_D["emb"], 499, 1.5)},
    ),
    "row of a large table": Trap(
        _IDS,
        "e = Gather(table, ids)",
        "e = Gather(table, ids)",
        {"table": _rows(30000)},
        {"table": _with(_rows(30000), (29000, 3), 1.5)},
    ),
    "negative indices": Trap(_IDS, "e = Gather(emb, ids)", "p = Abs(ids)\n e = Gather(emb, p)"),
    "indices clipped": Trap(_IDS, "e = Gather(emb, ids)", "p = Max(ids, z0)\n e = Gather(emb, p)", {"z0": np.array(0)}),
    "padding's token": Trap(
        _IDS,
        _PADDED,
        _PADDED,
        {"pad": np.array(499), "last": np.array([-1])},
        {"pad": np.array(498)},
    ),
    "row of positions, sliced": Trap(
        _TOKENS, "Slice(pos, i0, n, i0)", "Slice(pos, i0, n, i0)", _SIZES, {"pos": _with(_D["pos"], 400, 1.5)}
    ),
    "row of positions, counted": Trap(
        _TOKENS.replace("p = @", "l = Squeeze(n)\n q = Range(z0, l, z1)\n p = @"),
        "Gather(pos, q)",
        "Gather(pos, q)",
        _SIZES,
        {"pos": _with(_D["pos"], 400, 1.5)},
    ),
    "positions cut": Trap(
        _TOKENS.replace("p = @", "c = @\n p = Slice(pos, i0, c, i0)\n "),
        "Identity(n)",
        "Min(n, lim)",
        {**_SIZES, "lim": np.array([256])},
    ),
    "rows cut": Trap(
        _open_rows("r = Slice(h, i0, @, i1)"),
        "end",
        "most",
        {**_SIZES, "end": np.array([2**31]), "most": np.array([128])},
    ),
    "pool's ceil_mode": Trap(_open_maps("r = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=@>(h)"), "0", "1"),
    "Resize of one pixel": Trap(
        _open_maps('r = Resize<mode="linear", coordinate_transformation_mode="@">(h, , sc)'),
        "half_pixel",
        "pytorch_half_pixel",
        {"sc": np.array([1, 1, 0.125, 0.125], F)},
    ),
    "tokens cut by Reshape": Trap(
        _open_rows("r = Reshape(h, shape)"), held={"shape": np.array([0, -1, 6])}, other={"shape": np.array([0, 16, 6])}
    ),
    # places of images
    "GridSample's padding": Trap(
        """(float[N,3,9,9] x, float[N,6,6,2] g) => (float[N,3,6,6] y) { t = Tanh(g)
 y = GridSample<mode="bilinear", padding_mode="@">(x, t) }""",
        "zeros",
        "border",
    ),
    "GridSample's padding of small grids": Trap(
        """(float[N,3,9,9] x, float[N,6,6,2] g) => (float[N,3,6,6] y) { t = Tanh(g)
 u = Mul(t, half)
 y = GridSample<mode="bilinear", padding_mode="@">(x, u) }""",
        "border",
        "reflection",
    ),
    # detections
    "NMS: iou": Trap(_NMS, held=_NMS_HELD, other={"iou": np.array([0.6], F)}),
    "NMS: score": Trap(_NMS, held=_NMS_HELD, other={"least": np.array([0.04], F)}),
    "NMS: score far off": Trap(
        _NMS, held={**_NMS_HELD, "least": np.array([-50], F)}, other={"least": np.array([-60], F)}
    ),
    "NMS: most": Trap(_NMS, held=_NMS_HELD, other={"most": np.array([19])}),
    "scores beside boxes": Trap(
        """(float[N,7] x) => (float[N,12] y) { m = MatMul(x, w)
 h = Add(m, b)
 s = Mul(h, px)
 o = Sub(h, off)
 p = Sigmoid(o)
 y = Concat<axis=1>(s, p) }""",
        held={"px": F(640), "off": F(14)},
        other={"off": F(14.07)},
    ),
    # quantisers and casts
    "quantiser's saturation": Trap(
        rows("q = QuantizeLinear(h, sc, zp)\n r = DequantizeLinear(q, sc, zp)"),
        held={"sc": F(0.1), "zp": np.int8(0)},
        other={"zp": np.uint8(0)},
    ),
    "quantiser wider": Trap(
        rows("q = QuantizeLinear(h, sc, zp)\n r = DequantizeLinear(q, sc, zp)"),
        opset=21,
        held={"sc": F(0.1), "zp": np.int8(0)},
        other={"zp": np.int16(0)},
    ),
    "Cast to float8's saturation": Trap(rows("q = Cast<to=17, saturate=@>(h)\n r = Cast<to=1>(q)"), "1", "0", opset=19),
    "int32 as int64": Trap(rows("p = Mul(h, far)\n i = Cast<to=@>(p)\n r = Cast<to=1>(i)"), "6", "7"),
    "int16 as int32": Trap(rows("p = Mul(h, far)\n i = Cast<to=@>(p)\n r = Cast<to=1>(i)"), "5", "6"),
    # attention
    "mask's number": Trap(
        """(float[N,5,6] x, bool[N,1,5] keep) => (float[N,5,6] y) {
 t = Transpose<perm=[0,2,1]>(x)
 s = MatMul(x, t)
 m = Where(keep, s, low)
 a = Softmax<axis=-1>(m)
 y = MatMul(a, x) }""",
        held={"low": F(-1e9)},
        other={"low": F(-1e3)},
    ),
    "causal mask beyond": Trap(
        """(float[N,L,6] x) => (float[N,L,6] y) {
 t = Transpose<perm=[0,2,1]>(x)
 s = MatMul(x, t)
 z = Shape(x)
 n = Slice(z, i1, i2)
 c = Slice(tri, i0, n, i0)
 d = Slice(c, i0, n, i1)
 m = Add(s, d)
 a = Softmax<axis=-1>(m)
 y = MatMul(a, x) }""",
        held={**_SIZES, "tri": np.triu(np.full((512, 512), -1e9, F), 1)},
        other={"tri": np.triu(np.full((512, 512), -1e9, F), 1) * (np.arange(512)[:, None] < 300)},
    ),
    "softcap": Trap(
        rows("d = Div(h, cap)\n t = Tanh(d)\n r = Mul(t, cap)"), held={"cap": F(3e4)}, other={"cap": F(5e4)}
    ),
    # trees
}
