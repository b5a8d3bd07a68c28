"""Seeded convolutional nets with BatchNormalization, their folds in plain numpy, and bugs to inject."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


class Net:
    """Builds a model layer by layer."""

    def __init__(self, seed: int = 0, channels: int = 3, size: int = 16, batch: str | int = "N") -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.shape = [batch, channels, size, size]
        self.at = "x"
        self.channels = channels

    def add(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{name}_node", **attributes))
        self.at = name
        return name

    def hold(self, name: str, value: np.ndarray) -> str:
        self.weights[name] = np.asarray(value, dtype=np.float32)
        return name

    def conv(self, out: int, kernel: int, stride: int = 1, group: int = 1, bias: bool = False) -> Net:
        k = len(self.nodes)
        n = self.channels // group * kernel * kernel
        inputs = [
            self.at,
            self.hold(
                f"w{k}", self.rng.standard_normal((out, self.channels // group, kernel, kernel)) * (2 / n) ** 0.5
            ),
        ]
        if bias:
            inputs.append(self.hold(f"b{k}", self.rng.standard_normal(out) * 0.1))
        pad = kernel // 2
        self.add("Conv", inputs, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, group=group)
        self.channels = out
        return self

    def bn(self, epsilon: float = 1e-5) -> Net:
        k, c = len(self.nodes), self.channels
        stats = {
            "gamma": self.rng.uniform(0.5, 1.5, c),
            "beta": self.rng.standard_normal(c) * 0.2,
            "mean": self.rng.standard_normal(c) * 0.2,
            "var": self.rng.uniform(0.5, 1.5, c),
        }
        names = [self.hold(f"{key}{k}", value) for key, value in stats.items()]
        self.add("BatchNormalization", [self.at, *names], epsilon=epsilon)
        return self

    def relu(self) -> Net:
        self.add("Relu", [self.at])
        return self

    def model(self, outputs: int = 10, opset: int = 17) -> ModelProto:
        self.add("GlobalAveragePool", [self.at])
        self.add("Flatten", [self.at])
        weight = self.hold("fc", self.rng.standard_normal((outputs, self.channels)) * 0.1)
        self.add("Gemm", [self.at, weight], transB=1)
        self.nodes[-1].output[0] = "y"
        return helper.make_model(
            helper.make_graph(
                self.nodes,
                "net",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, [self.shape[0], outputs])],
                [numpy_helper.from_array(v, n) for n, v in self.weights.items()],
            ),
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=8,
        )


def plain(seed: int = 0, opset: int = 17) -> ModelProto:
    """A chain of convolutions."""
    net = Net(seed)
    for out, stride in ((8, 1), (16, 2), (16, 1)):
        net.conv(out, 3, stride, bias=True).bn().relu()
    return net.model(opset=opset)


def mobile(seed: int = 0) -> ModelProto:
    """Inverted bottlenecks with depthwise convolutions and linear ends."""
    net = Net(seed).conv(8, 3, 2).bn().relu()
    for _ in range(2):
        start, width = net.at, net.channels
        net.conv(24, 1).bn().relu().conv(24, 3, group=24).bn().relu().conv(width, 1).bn()
        net.add("Add", [net.at, start])
    return net.model()


def residual(
    seed: int = 0, widths: tuple[int, ...] = (8, 16), blocks: tuple[int, ...] = (1, 1), size: int = 16
) -> ModelProto:
    """Bottleneck blocks as in ResNet-50."""
    net = Net(seed, size=size).conv(widths[0], 7, 2).bn().relu()
    net.add("MaxPool", [net.at], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(count):
            stride = 2 if block == 0 and stage else 1
            start, before = net.at, net.channels
            net.conv(width, 1).bn().relu().conv(width, 3, stride).bn().relu().conv(4 * width, 1).bn()
            branch, after = net.at, net.channels
            if block == 0:
                net.at, net.channels = start, before
                net.conv(4 * width, 1, stride).bn()
                start = net.at
            net.channels = after
            net.add("Add", [branch, start])
            net.relu()
    return net.model(outputs=1000 if size > 64 else 10)


ARCHITECTURES: dict[str, Callable[[], ModelProto]] = {"plain": plain, "mobile": mobile, "residual": residual}


def arrays(model: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t).copy() for t in model.graph.initializer}


def fold(
    model: ModelProto, epsilon: float | None = None, bug: Callable[[int, np.ndarray, np.ndarray], None] | None = None
) -> ModelProto:
    """Every Conv -> BatchNormalization as one Conv, in float64, rounded once.

    ``epsilon`` replaces the nodes' own; ``bug(layer, weight, bias)`` spoils the new parameters in place.
    """
    folded = ModelProto()
    folded.CopyFrom(model)
    values = {n: v.astype(np.float64) for n, v in arrays(model).items()}
    makers = {n.output[0]: n for n in folded.graph.node}
    kept, layer = [], 0
    for node in folded.graph.node:
        conv = makers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv":
            kept.append(node)
            continue
        gamma, beta, mean, var = (values[n] for n in node.input[1:5])
        eps = next(a.f for a in node.attribute if a.name == "epsilon") if epsilon is None else epsilon
        scale = gamma / np.sqrt(var + eps)
        weight = values[conv.input[1]] * scale.reshape(-1, 1, 1, 1)
        bias = ((values[conv.input[2]] if len(conv.input) > 2 else 0.0) - mean) * scale + beta
        if bug is not None:
            bug(layer, weight, bias)
        names = [f"{conv.name}/biasopt/weight", f"{conv.name}/biasopt/bias"]
        for name, value in zip(names, (weight, bias), strict=True):
            folded.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        del conv.input[1:]
        conv.input.extend(names)
        conv.output[0] = node.output[0]
        layer += 1
    del folded.graph.node[:]
    folded.graph.node.extend(kept)
    read = {i for n in folded.graph.node for i in n.input}
    used = [t for t in folded.graph.initializer if t.name in read]
    del folded.graph.initializer[:]
    folded.graph.initializer.extend(used)
    return folded
