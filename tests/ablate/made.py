"""Small nets with seeded weights, and what ablation opens of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from converter.ablate.ablate import OpenedModel, open_model
from converter.ablate.samples import Data, DataSource
from converter.ablate.session import Net
from converter.ablate.sites import Site
from converter.referee.proto.source import LoadedModel, list_free_inputs
from tests.tiny import model

Array = np.ndarray[Any, Any]


def draw(*shape: int, seed: int = 0, shift: float = 0.0) -> Array:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) + shift).astype(np.float32)


def layer(op: str, attributes: str, x: tuple[int, ...], weight: tuple[int, ...], bias: int, **kinds: Any) -> Any:
    """A model of one layer with a bias; the batch is open."""
    dims = ",".join(map(str, x[1:]))
    text = f"(float[N,{dims}] x) => (float[] y) {{ y = {op}<{attributes}>(x, w, b) }}".replace("<>", "")
    proto = model(text, {"w": draw(*weight, seed=1), "b": draw(bias, seed=2)}, **kinds)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


CHAIN = """(float[N,1,8,8] x) => (float[N,10] z) {
 a = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>(x, w1, b1)
 r = Relu(a)
 c = Conv<kernel_shape=[3,3],pads=[1,1,1,1],strides=[2,2]>(r, w2, b2)
 s = Relu(c)
 e = Conv<kernel_shape=[1,1]>(s, w3, b3)
 t = Relu(e)
 p = GlobalAveragePool(t)
 f = Flatten(p)
 z = Gemm<transB=1>(f, w4, b4)
}"""


def chain(width: int = 12, biases: float = 0.5) -> onnx.ModelProto:
    """Three convolutions with biases and a head."""
    consts = {
        "w1": draw(width, 1, 3, 3, seed=1) / 3,
        "w2": draw(width, width, 3, 3, seed=2) / (3 * width**0.5),
        "w3": draw(width, width, 1, 1, seed=3) / width**0.5,
        "w4": draw(10, width, seed=4) / width**0.5,
    }
    consts |= {f"b{k}": biases * draw(width, seed=10 + k) for k in (1, 2, 3)} | {"b4": biases * draw(10, seed=14)}
    return model(CHAIN, consts)


def images(rows: int = 96, seed: int = 5) -> Array:
    return np.abs(draw(rows, 1, 8, 8, seed=seed))


def net_of(proto: onnx.ModelProto | bytes, **asked: Any) -> tuple[Net, OpenedModel]:
    found = open_model(proto, **asked)
    return Net(found.source, found.found.sites), found


def data_of(source: LoadedModel, inputs: dict[str, Array], labels: Any = None, max_bytes: int = 1 << 28) -> Data:
    return Data(DataSource(inputs=inputs, labels=labels), source.proto, list_free_inputs(source.proto), max_bytes)


def named(net: Net, label: str) -> Site:
    return next(s for s in net.sites if label in (s.label, s.y))
