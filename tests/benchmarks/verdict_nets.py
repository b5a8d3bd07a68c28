"""Small seeded nets that the study of verdicts changes: one of each kind of operator, interface and type.

Every net is ONNX text with arrays: small enough that a verdict takes a second, with an open batch, and no two axes
of the same size unless that is the point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto

from tests import tiny

Array = np.ndarray[Any, Any]


class _Draws:
    """Seeded arrays by the name that the text gives them."""

    def __init__(self, seed: int, dtype: Any = np.float32) -> None:
        self._rng = np.random.default_rng(seed)
        self._dtype = dtype
        self.held: dict[str, Array] = {}

    def weight(self, name: str, *shape: int, fan: int = 0) -> None:
        """Normal values that keep the size of what they are multiplied with."""
        n = fan or int(np.prod(shape[1:]))
        self.held[name] = (self._rng.standard_normal(shape) * (2 / n) ** 0.5).astype(self._dtype)

    def vector(self, name: str, n: int, low: float = -0.5, high: float = 0.5) -> None:
        self.held[name] = self._rng.uniform(low, high, n).astype(self._dtype)

    def norm(self, tag: str, n: int) -> None:
        """Scale, shift, mean and variance of a batch norm."""
        for key, low, high in (("g", 0.5, 1.5), ("be", -0.3, 0.3), ("m", -0.3, 0.3), ("v", 0.5, 1.5)):
            self.vector(f"{key}{tag}", n, low, high)


def _cnn(seed: int, act: str = "Relu", dtype: Any = np.float32, elem: str = "float") -> ModelProto:
    d = _Draws(seed, dtype)
    d.weight("w1", 8, 3, 3, 3)
    d.vector("b1", 8)
    d.norm("1", 8)
    d.weight("w2", 12, 8, 3, 3)
    d.norm("2", 12)
    d.weight("wf", 5, 12)
    d.vector("bf", 5)
    text = f"""({elem}[N,3,14,14] x) => ({elem}[N,5] y) {{
        c1 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w1, b1)
        n1 = BatchNormalization(c1, g1, be1, m1, v1)
        r1 = {act}(n1)
        c2 = Conv<kernel_shape=[3,3], strides=[2,2]>(r1, w2)
        n2 = BatchNormalization(c2, g2, be2, m2, v2)
        r2 = {act}(n2)
        p = GlobalAveragePool(r2)
        f = Flatten(p)
        y = Gemm<transB=1>(f, wf, bf) }}"""
    return tiny.model(text, d.held)


def _mobile(seed: int) -> ModelProto:
    d = _Draws(seed)
    d.weight("w1", 12, 3, 1, 1)
    d.weight("w2", 12, 1, 3, 3)
    d.weight("w3", 6, 12, 1, 1)
    for tag, n in (("1", 12), ("2", 12), ("3", 6)):
        d.norm(tag, n)
    d.weight("wf", 7, 6)
    d.held |= {"low": np.float32(0), "high": np.float32(6)}
    text = """(float[N,3,10,10] x) => (float[N,7] y) {
        c1 = Conv<kernel_shape=[1,1]>(x, w1)
        n1 = BatchNormalization(c1, g1, be1, m1, v1)
        r1 = Clip(n1, low, high)
        c2 = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=12>(r1, w2)
        n2 = BatchNormalization(c2, g2, be2, m2, v2)
        r2 = Clip(n2, low, high)
        c3 = Conv<kernel_shape=[1,1]>(r2, w3)
        n3 = BatchNormalization(c3, g3, be3, m3, v3)
        p = GlobalAveragePool(n3)
        f = Flatten(p)
        z = Gemm<transB=1>(f, wf)
        y = Softmax<axis=1>(z) }"""
    return tiny.model(text, d.held)


def _hardswish(seed: int) -> ModelProto:
    """Hard swish in single operators, as PaddleOCR's exporter writes it."""
    d = _Draws(seed)
    d.weight("w1", 10, 3, 3, 3)
    d.vector("b1", 10)
    d.weight("w2", 10, 1, 3, 3)
    d.norm("2", 10)
    d.weight("w3", 4, 10, 1, 1)
    d.held |= {"k3": np.float32(3), "low": np.float32(0), "high": np.float32(6), "k6": np.float32(6)}
    text = """(float[N,3,12,12] x) => (float[N,4,H,W] y) {
        c1 = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x, w1, b1)
        a1 = Add(c1, k3)
        l1 = Clip(a1, low, high)
        m1_ = Mul(c1, l1)
        h1 = Div(m1_, k6)
        c2 = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=10>(h1, w2)
        n2 = BatchNormalization(c2, g2, be2, m2, v2)
        h2 = HardSwish(n2)
        s = HardSigmoid<alpha=0.2, beta=0.5>(h2)
        q = Mul(h2, s)
        z = Conv<kernel_shape=[1,1]>(q, w3)
        y = Sigmoid(z) }"""
    return tiny.model(text, d.held)


def _mlp(seed: int, dtype: Any = np.float32, elem: str = "float") -> ModelProto:
    d = _Draws(seed, dtype)
    d.weight("w1", 9, 24, fan=9)
    d.vector("b1", 24)
    d.weight("w2", 24, 16, fan=24)
    d.vector("b2", 16)
    d.weight("w3", 16, 3, fan=16)
    d.vector("b3", 3)
    text = f"""({elem}[N,9] x) => ({elem}[N,3] y) {{
        m1 = MatMul(x, w1)
        a1 = Add(m1, b1)
        r1 = Relu(a1)
        m2 = MatMul(r1, w2)
        a2 = Add(m2, b2)
        r2 = LeakyRelu<alpha=0.1>(a2)
        m3 = MatMul(r2, w3)
        a3 = Add(m3, b3)
        y = Softmax<axis=-1>(a3) }}"""
    return tiny.model(text, d.held)


def _detector(seed: int) -> ModelProto:
    """A large map of pixels beside small class scores."""
    d = _Draws(seed)
    d.weight("w1", 8, 3, 3, 3)
    d.norm("1", 8)
    d.weight("wp", 3, 8, 3, 3)
    d.vector("bp", 3)
    d.weight("wc", 6, 8)
    d.vector("bc", 6, -9, -7)
    d.held["k255"] = np.float32(255)
    text = """(float[N,3,16,16] x) => (float[N,3,16,16] pixels, float[N,6] scores) {
        c1 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w1)
        n1 = BatchNormalization(c1, g1, be1, m1, v1)
        r1 = Relu(n1)
        c2 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r1, wp, bp)
        pixels = Mul(c2, k255)
        p = GlobalAveragePool(r1)
        f = Flatten(p)
        g = Gemm<transB=1>(f, wc, bc)
        scores = Sigmoid(g) }"""
    return tiny.model(text, d.held)


def _lstm(seed: int) -> ModelProto:
    d = _Draws(seed)
    d.weight("W", 1, 32, 5, fan=5)
    d.weight("R", 1, 32, 8, fan=8)
    d.held["B"] = np.random.default_rng(seed + 1).uniform(-0.3, 0.3, (1, 64)).astype(np.float32)
    d.weight("wf", 8, 4, fan=8)
    d.vector("bf", 4)
    d.held["axis"] = np.array([1])
    text = """(float[6,N,5] x) => (float[6,N,4] y) {
        h, hl, cl = LSTM<hidden_size=8>(x, W, R, B)
        s = Squeeze(h, axis)
        m = MatMul(s, wf)
        y = Add(m, bf) }"""
    return tiny.model(text, d.held)


def _transformer(seed: int) -> ModelProto:
    """Tokens to logits: embedding, one head, layer norm in single operators, GELU by Erf."""
    d = _Draws(seed)
    d.weight("table", 300, 16, fan=2)
    for name in ("wq", "wk", "wv", "wo"):
        d.weight(name, 16, 16)
    d.vector("bq", 16)
    d.vector("lg", 16, 0.5, 1.5)
    d.vector("lb", 16)
    d.weight("w1", 16, 40, fan=16)
    d.vector("b1", 40)
    d.weight("w2", 40, 16, fan=40)
    d.weight("head", 16, 11, fan=16)
    numbers = {"k4": 4, "two": 2, "eps": 1e-5, "half": 0.5, "one": 1, "r2": 2**0.5}
    d.held |= {name: np.float32(value) for name, value in numbers.items()}
    text = """(int64[N,7] ids) => (float[N,7,11] y) {
        e = Gather(table, ids)
        q0 = MatMul(e, wq)
        q = Add(q0, bq)
        k = MatMul(e, wk)
        v = MatMul(e, wv)
        kt = Transpose<perm=[0,2,1]>(k)
        qk = MatMul(q, kt)
        sc = Div(qk, k4)
        at = Softmax<axis=-1>(sc)
        av = MatMul(at, v)
        o = MatMul(av, wo)
        x1 = Add(e, o)
        mu = ReduceMean<axes=[-1]>(x1)
        xc = Sub(x1, mu)
        sq = Pow(xc, two)
        va = ReduceMean<axes=[-1]>(sq)
        ve = Add(va, eps)
        sd = Sqrt(ve)
        xn = Div(xc, sd)
        xs = Mul(xn, lg)
        ln = Add(xs, lb)
        f0 = MatMul(ln, w1)
        f1 = Add(f0, b1)
        fr = Div(f1, r2)
        fe = Erf(fr)
        fo = Add(fe, one)
        fm = Mul(f1, fo)
        ge = Mul(fm, half)
        f2 = MatMul(ge, w2)
        x2 = Add(ln, f2)
        y = MatMul(x2, head) }"""
    return tiny.model(text, d.held)


def _branches(seed: int) -> ModelProto:
    """A branch that only inputs with a large mean take."""
    d = _Draws(seed)
    d.weight("w1", 6, 10, fan=6)
    d.vector("b1", 10)
    d.weight("w2", 10, 4, fan=10)
    d.vector("rare", 4)
    d.vector("usual", 4)
    d.held["limit"] = np.float32(40)
    text = """(float[N,6] x) => (float[N,4] y) {
        m = MatMul(x, w1)
        a = Add(m, b1)
        r = Relu(a)
        z = MatMul(r, w2)
        mean = ReduceMean<keepdims=0>(a)
        c = Greater(mean, limit)
        t = If(c) <then_branch = then_g () => (u) { u = Add(z, rare) },
                   else_branch = else_g () => (w) { w = Add(z, usual) }>
        y = Tanh(t) }"""
    return tiny.model(text, d.held)


def _unet(seed: int) -> ModelProto:
    d = _Draws(seed)
    d.weight("w1", 6, 1, 3, 3)
    d.vector("b1", 6)
    d.weight("w2", 10, 6, 3, 3)
    d.norm("2", 10)
    d.weight("wt", 10, 6, 2, 2, fan=10)
    d.vector("bt", 6)
    d.weight("w3", 2, 12, 1, 1)
    d.vector("si", 10, 0.5, 1.5)
    d.vector("bi", 10)
    text = """(float[N,1,16,16] x) => (float[N,2,16,16] y) {
        c1 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w1, b1)
        r1 = Elu(c1)
        p1 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r1)
        c2 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(p1, w2)
        n2 = BatchNormalization(c2, g2, be2, m2, v2)
        i2 = InstanceNormalization(n2, si, bi)
        r2 = Relu(i2)
        t = ConvTranspose<kernel_shape=[2,2], strides=[2,2]>(r2, wt, bt)
        cat = Concat<axis=1>(r1, t)
        y = Conv<kernel_shape=[1,1]>(cat, w3) }"""
    return tiny.model(text, d.held)


def _audio(seed: int) -> ModelProto:
    """A filter bank on the absolute value of frames, a logarithm, and one-dimensional convolutions."""
    d = _Draws(seed)
    d.weight("win", 16, 1, 20)
    d.weight("w1", 12, 16, 5)
    d.norm("1", 12)
    d.weight("w2", 3, 12, 1)
    d.vector("b2", 3)
    d.held |= {"floor": np.float32(1e-3), "slope": np.linspace(0.1, 0.4, 12, dtype=np.float32).reshape(12, 1)}
    text = """(float[N,1,400] x) => (float[N,3,L] y) {
        f = Conv<kernel_shape=[20], strides=[10]>(x, win)
        a = Abs(f)
        c = Max(a, floor)
        l = Log(c)
        c1 = Conv<kernel_shape=[5]>(l, w1)
        n1 = BatchNormalization(c1, g1, be1, m1, v1)
        p1 = PRelu(n1, slope)
        y = Conv<kernel_shape=[1]>(p1, w2, b2) }"""
    return tiny.model(text, d.held)


def _integers(seed: int) -> ModelProto:
    """Counts in, clipped, cast and classified; a class index out."""
    d = _Draws(seed)
    d.weight("w", 8, 5, fan=8)
    d.vector("b", 5)
    d.held |= {"low": np.array(-50, np.int32), "high": np.array(50, np.int32), "k10": np.float32(10)}
    d.held["seven"] = np.array(7, np.int32)
    text = """(int32[N,8] x) => (float[N,5] y, int64[N] best) {
        c = Clip(x, low, high)
        rest = Mod<fmod=0>(c, seven)
        sum = Add(c, rest)
        f = Cast<to=1>(sum)
        s = Div(f, k10)
        m = MatMul(s, w)
        y = Add(m, b)
        best = ArgMax<axis=1, keepdims=0>(y) }"""
    return tiny.model(text, d.held)


def _logic(seed: int) -> ModelProto:
    """Remainders, thresholds, ties and selections."""
    d = _Draws(seed)
    d.weight("w", 7, 12, fan=7)
    d.vector("b", 12)
    d.weight("w2", 12, 4, fan=12)
    d.held |= {"three": np.float32(3), "thr": np.float32(4), "k": np.array([3])}
    text = """(float[N,7] x) => (float[N,4] y, int64[N] first, float[N,3] top) {
        m = MatMul(x, w)
        a = Add(m, b)
        r = Mod<fmod=1>(a, three)
        big = Greater(a, thr)
        s = Where(big, r, a)
        y = MatMul(s, w2)
        fl = Floor(a)
        first = ArgMax<axis=1, keepdims=0, select_last_index=0>(fl)
        top, at = TopK<axis=1, largest=1, sorted=1>(a, k) }"""
    return tiny.model(text, d.held)


def _dead_unit(seed: int) -> ModelProto:
    """A hidden unit that no usual input turns on."""
    model = _mlp(seed)
    held = {t.name: t for t in model.graph.initializer}
    bias = np.frombuffer(held["b1"].raw_data, np.float32).copy()
    bias[5] = -60.0
    return tiny.sub(model, b1=bias)


def _quantised(seed: int) -> ModelProto:
    """Weights and activations behind QuantizeLinear and DequantizeLinear."""
    rng = np.random.default_rng(seed)
    held = {
        "q1": rng.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8),
        "s1": rng.uniform(0.002, 0.004, 8).astype(np.float32),
        "z1": np.zeros(8, np.int8),
        "b1": rng.uniform(-0.5, 0.5, 8).astype(np.float32),
        "sx": np.float32(0.03),
        "zx": np.int8(0),
        "wf": rng.standard_normal((4, 8)).astype(np.float32),
    }
    text = """(float[N,3,10,10] x) => (float[N,4] y) {
        xq = QuantizeLinear(x, sx, zx)
        xd = DequantizeLinear(xq, sx, zx)
        w = DequantizeLinear<axis=0>(q1, s1, z1)
        c = Conv<kernel_shape=[3,3]>(xd, w, b1)
        r = Relu(c)
        p = GlobalAveragePool(r)
        f = Flatten(p)
        y = Gemm<transB=1>(f, wf) }"""
    return tiny.model(text, held)


def _squeeze(seed: int) -> ModelProto:
    """Squeeze and excitation with a residual, and a pool that counts its padding."""
    d = _Draws(seed)
    d.weight("w1", 8, 4, 3, 3)
    d.norm("1", 8)
    d.weight("ws", 3, 8, 1, 1)
    d.vector("bs", 3)
    d.weight("we", 8, 3, 1, 1)
    d.weight("w2", 4, 8, 1, 1)
    d.norm("2", 4)
    text = """(float[N,4,9,9] x) => (float[N,4,5,5] y) {
        c1 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w1)
        n1 = BatchNormalization(c1, g1, be1, m1, v1)
        r1 = Relu(n1)
        p = GlobalAveragePool(r1)
        s0 = Conv<kernel_shape=[1,1]>(p, ws, bs)
        s1 = Relu(s0)
        e0 = Conv<kernel_shape=[1,1]>(s1, we)
        e1 = Sigmoid(e0)
        k = Mul(r1, e1)
        c2 = Conv<kernel_shape=[1,1]>(k, w2)
        n2 = BatchNormalization(c2, g2, be2, m2, v2)
        a = Add(n2, x)
        y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1>(a) }"""
    return tiny.model(text, d.held)


def _gru(seed: int) -> ModelProto:
    d = _Draws(seed)
    d.weight("W", 2, 18, 4, fan=4)
    d.weight("R", 2, 18, 6, fan=6)
    d.held["B"] = np.random.default_rng(seed + 1).uniform(-0.3, 0.3, (2, 36)).astype(np.float32)
    d.weight("wf", 12, 3, fan=12)
    d.held["shape"] = np.array([0, 0, -1])
    text = """(float[5,N,4] x) => (float[5,N,3] y) {
        h, hl = GRU<hidden_size=6, direction="bidirectional", linear_before_reset=1>(x, W, R, B)
        t = Transpose<perm=[0,2,1,3]>(h)
        s = Reshape(t, shape)
        y = MatMul(s, wf) }"""
    return tiny.model(text, d.held)


NETS: dict[str, Callable[[int], ModelProto]] = {
    "cnn": _cnn,
    "cnn-elu": lambda seed: _cnn(seed, "Elu"),
    "cnn-half": lambda seed: _cnn(seed, "Relu", np.float16, "float16"),
    "mobile": _mobile,
    "hardswish": _hardswish,
    "mlp": _mlp,
    "mlp-double": lambda seed: _mlp(seed, np.float64, "double"),
    "detector": _detector,
    "lstm": _lstm,
    "gru": _gru,
    "transformer": _transformer,
    "branches": _branches,
    "unet": _unet,
    "audio": _audio,
    "integers": _integers,
    "logic": _logic,
    "dead-unit": _dead_unit,
    "quantised": _quantised,
    "squeeze": _squeeze,
}
