"""Seven architectures as ONNX files that hold every BatchNormalization, made without torch, at any batch size.

Weights are seeded and random, as are the statistics; the layers are those of the papers (ResNet-50 v1.5,
MobileNetV2, EfficientNet-B0, DenseNet-121, U-Net with either norm, ViT-S/16).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 1000


class Net:
    """A graph under construction: every method adds nodes and returns the name of their output."""

    def __init__(self, name: str, small: bool) -> None:
        self.name, self.small = name, small
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def weight(self, value: np.ndarray, dtype: type = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.weight(np.array(values), np.int64)

    def conv(
        self, x: str, n_in: int, n_out: int, size: int = 1, *, stride: int = 1, group: int = 1, bias: bool = False
    ) -> str:
        fan = n_in // group * size * size
        w = self.rng.normal(0, math.sqrt(2 / fan), (n_out, n_in // group, size, size))
        extra = [self.weight(self.rng.normal(0, 0.1, n_out))] if bias else []
        return self.op(
            "Conv", x, self.weight(w), *extra,
            kernel_shape=[size] * 2, strides=[stride] * 2, pads=[(size - 1) // 2] * 4, group=group,
        )  # fmt: skip

    def bn(self, x: str, n: int, gain: float = 1.0) -> str:
        rng = self.rng
        parts = rng.uniform(0.5, 1.5, n) * gain, rng.normal(0, 0.2, n), rng.normal(0, 0.2, n), rng.uniform(0.5, 2, n)
        return self.op("BatchNormalization", x, *(self.weight(p) for p in parts))

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def relu6(self, x: str) -> str:
        return self.op("Clip", x, self.weight(np.array(0.0)), self.weight(np.array(6.0)))

    def silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def unit(self, x: str, n_in: int, n_out: int, size: int, act: Callable[[str], str] | None, **more: int) -> str:
        """Conv, BatchNormalization, activation; half the gain where a sum follows."""
        y = self.bn(self.conv(x, n_in, n_out, size, **more), n_out, 1.0 if act else 0.5)
        return act(y) if act else y

    def dense(self, x: str, n_in: int, n_out: int) -> str:
        w = self.weight(self.rng.normal(0, 1 / math.sqrt(n_in), (n_in, n_out)))
        return self.op("Add", self.op("MatMul", x, w), self.weight(self.rng.normal(0, 0.1, n_out)))

    def head(self, x: str, n: int) -> str:
        return self.dense(self.op("Flatten", self.op("GlobalAveragePool", x)), n, CLASSES)

    def pool(self, x: str, kind: str = "MaxPool", size: int = 2, pad: int = 0) -> str:
        return self.op(kind, x, kernel_shape=[size] * 2, strides=[2, 2], pads=[pad] * 4)


def resnet50(net: Net) -> str:
    x = net.pool(net.unit("x", 3, 64, 7, net.relu, stride=2), size=3, pad=1)
    n = 64
    for stage, depth in enumerate((1, 1, 1, 1) if net.small else (3, 4, 6, 3)):
        width = 64 << stage
        for k in range(depth):
            stride = 2 if k == 0 and stage else 1
            y = net.unit(x, n, width, 1, net.relu)
            y = net.unit(y, width, width, 3, net.relu, stride=stride)
            y = net.unit(y, width, 4 * width, 1, None)
            skip = x if k else net.unit(x, n, 4 * width, 1, None, stride=stride)
            x, n = net.relu(net.op("Add", y, skip)), 4 * width
    return net.head(x, n)


_MOBILE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(net: Net) -> str:
    x, n = net.unit("x", 3, 32, 3, net.relu6, stride=2), 32
    for widen, n_out, depth, stride in _MOBILE:
        for k in range(1 if net.small else depth):
            step = stride if k == 0 else 1
            y = net.unit(x, n, n * widen, 1, net.relu6) if widen > 1 else x
            y = net.unit(y, n * widen, n * widen, 3, net.relu6, stride=step, group=n * widen)
            y = net.unit(y, n * widen, n_out, 1, None)
            x, n = (net.op("Add", x, y) if n == n_out and step == 1 else y), n_out
    return net.head(net.unit(x, n, 1280, 1, net.relu6), 1280)


_EFFICIENT = (
    (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1),
)  # fmt: skip


def efficientnet_b0(net: Net) -> str:
    x, n = net.unit("x", 3, 32, 3, net.silu, stride=2), 32
    for widen, size, n_out, depth, stride in _EFFICIENT:
        for k in range(1 if net.small else depth):
            step, inner = (stride if k == 0 else 1), n * widen
            y = net.unit(x, n, inner, 1, net.silu) if widen > 1 else x
            y = net.unit(y, inner, inner, size, net.silu, stride=step, group=inner)
            squeezed = net.silu(net.conv(net.op("GlobalAveragePool", y), inner, max(1, n // 4), bias=True))
            y = net.op("Mul", y, net.op("Sigmoid", net.conv(squeezed, max(1, n // 4), inner, bias=True)))
            y = net.unit(y, inner, n_out, 1, None)
            x, n = (net.op("Add", x, y) if n == n_out and step == 1 else y), n_out
    return net.head(net.unit(x, n, 1280, 1, net.silu), 1280)


def densenet121(net: Net) -> str:
    x, n, growth = net.pool(net.unit("x", 3, 64, 7, net.relu, stride=2), size=3, pad=1), 64, 32
    depths = (2, 2, 2, 2) if net.small else (6, 12, 24, 16)
    for stage, depth in enumerate(depths):
        for _ in range(depth):
            y = net.conv(net.relu(net.bn(x, n)), n, 4 * growth)
            y = net.conv(net.relu(net.bn(y, 4 * growth)), 4 * growth, growth, 3)
            x, n = net.op("Concat", x, y, axis=1), n + growth
        if stage < 3:
            x, n = net.pool(net.conv(net.relu(net.bn(x, n)), n, n // 2), "AveragePool"), n // 2
    return net.head(net.relu(net.bn(x, n)), n)


def unet(net: Net, norm: Callable[[str, int, int], str] | None = None) -> str:
    unit = norm or (lambda x, n, width: net.unit(x, n, width, 3, net.relu))
    widths = (16, 32, 64) if net.small else (64, 128, 256, 512, 1024)
    x, n, skips = "x", 3, []
    for k, width in enumerate(widths):
        x = net.pool(x) if k else x
        x, n = unit(unit(x, n, width), width, width), width
        skips.append(x)
    for width, skip in zip(widths[-2::-1], skips[-2::-1], strict=True):
        w = net.weight(net.rng.normal(0, math.sqrt(1 / n), (n, width, 2, 2)))
        x = net.op(
            "ConvTranspose", x, w, net.weight(net.rng.normal(0, 0.1, width)), kernel_shape=[2, 2], strides=[2, 2]
        )
        x = net.op("Concat", skip, x, axis=1)
        x, n = unit(unit(x, 2 * width, width), width, width), width
    return net.conv(x, n, 2, bias=True)


def unet_instance(net: Net) -> str:
    """nnU-Net's unit: a convolution with a bias, which the InstanceNormalization after it cancels."""

    def unit(x: str, n: int, width: int) -> str:
        parts = net.weight(net.rng.uniform(0.5, 1.5, width)), net.weight(net.rng.normal(0, 0.2, width))
        return net.relu(net.op("InstanceNormalization", net.conv(x, n, width, 3, bias=True), *parts))

    return unet(net, unit)


def vit(net: Net) -> str:
    width, heads, depth = (96, 3, 2) if net.small else (384, 6, 12)
    w = net.rng.normal(0, math.sqrt(1 / (3 * 256)), (width, 3, 16, 16))
    b = net.weight(net.rng.normal(0, 0.1, width))
    x = net.op("Conv", "x", net.weight(w), b, kernel_shape=[16, 16], strides=[16, 16])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(0, width, -1)), perm=[0, 2, 1])
    for _ in range(depth):
        y = _norm(net, x, width)
        q, k, v = (_heads(net, net.dense(y, width, width), heads, width) for _ in range(3))
        scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
        scale = net.weight(np.array(1 / math.sqrt(width // heads)))
        y = net.op("MatMul", net.op("Softmax", net.op("Mul", scores, scale), axis=-1), v)
        y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, -1, width))
        x = net.op("Add", x, net.dense(y, width, width))
        y = net.op("Gelu", net.dense(_norm(net, x, width), width, 4 * width))
        x = net.op("Add", x, net.dense(y, 4 * width, width))
    x = net.op("ReduceMean", _norm(net, x, width), net.ints(1), keepdims=0)
    return net.dense(x, width, CLASSES)


def _norm(net: Net, x: str, n: int) -> str:
    return net.op(
        "LayerNormalization", x, net.weight(net.rng.uniform(0.5, 1.5, n)), net.weight(net.rng.normal(0, 0.1, n))
    )


def _heads(net: Net, x: str, heads: int, width: int) -> str:
    return net.op("Transpose", net.op("Reshape", x, net.ints(0, -1, heads, width // heads)), perm=[0, 2, 1, 3])


NETS: dict[str, Callable[[Net], str]] = {  # in the order in which they are measured
    "ResNet-50": resnet50,
    "MobileNetV2": mobilenet_v2,
    "U-Net, InstanceNorm": unet_instance,
    "EfficientNet-B0": efficientnet_b0,
    "ViT-S/16": vit,
    "DenseNet-121": densenet121,
    "U-Net": unet,
}


def build(name: str, batch: int, *, small: bool = False) -> onnx.ModelProto:
    """One net; ``small`` keeps its kinds of layers and leaves out most of them."""
    net, side = Net(name, small), 64 if small else 224
    last = NETS[name](net)
    net.nodes[-1].output[0] = "y"
    assert last == net.nodes[-1].name
    shape = [batch, 2, side, side] if name.startswith("U-Net") else [batch, CLASSES]
    graph = helper.make_graph(
        net.nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        net.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
