"""How far rounding may move the output of one rewritten place: |W| * |x| + |b|, as a second output of its model.

Times gamma_m = m u / (1 - m u) with u the unit roundoff: a bound on the error of every element, in whichever order the
sums are made (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). Of each operator m counts the n products of
a sum and the roundings beside it. In half precision onnxruntime sums in float32, where n products count for less.
"""

from __future__ import annotations

import math

from onnx import ModelProto, NodeProto, TensorProto, helper

from converter.dataclass import dataclass
from converter.referee.proto.inference import infer_types
from converter.referee.proto.source import Port, find_float_types
from converter.referee.proto.tensors import UNIT_ROUNDOFF
from converter.referee.reference.kernels import read_attributes

_BESIDE_SUM = 3  # roundings of a layer beside its sum: its weights as they are stored, the bias, what is added up
_OF_NORM = 8  # of a batch norm: epsilon, root, quotient, scale, mean, shift and what is stored of them
_SUMS_IN = 2.0**-24  # unit roundoff that sums have at the most
_PER_ROOT = 4.0  # of a half-precision sum at the least: some processors make it in half precision
_SUFFIX = "/biasopt/absolute"
_ALL = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sum", "Concat"}  # of every input the absolute value
_FIRST = {
    *("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Dropout"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "Relu"),
}
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class BoundedModel:
    """A model with a second output, ``bound``: |W| * |x| + |b|, to be multiplied by ``factor`` * u."""

    model: ModelProto
    bound: str
    factor: float  # gamma over u, all operators together
    n: int  # products of the largest sum
    op: str
    layer: str
    axis: int  # of the output channels


def find_unit(model: ModelProto) -> float:
    """The unit roundoff of a model's floats, of the least exact ones."""
    return max((UNIT_ROUNDOFF[t] for t in find_float_types(model)), default=2.0**-24)


def add_bound(model: ModelProto) -> BoundedModel | None:
    """The model with its bound; None where it holds an operator that is not linear."""
    writer = _BoundWriter(model)
    output = model.graph.output[0].name
    for node in model.graph.node:
        if not writer.add(node):
            return None
    if output not in writer.absolute or not writer.linear:
        return None
    copy = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    copy.graph.CopyFrom(model.graph)
    copy.graph.node.extend(writer.nodes)
    bound = writer.absolute[output]
    copy.graph.output.append(helper.make_tensor_value_info(bound, TensorProto.FLOAT, None))
    n, main = max(writer.linear, key=lambda pair: pair[0])
    spent = min(writer.factor * writer.unit, 0.5)
    label = main.name or f"{main.op_type}:{main.output[0]}"
    axis = -1 if main.op_type == "MatMul" else 1
    return BoundedModel(copy, bound, writer.factor / (1 - spent), n, main.op_type, label, axis)


class _BoundWriter:
    """Writes the nodes on absolute values, in float32."""

    def __init__(self, model: ModelProto) -> None:
        self.nodes: list[NodeProto] = []
        self.absolute: dict[str, str] = {}
        self.linear: list[tuple[int, NodeProto]] = []
        self.factor = 1.0  # of the inputs, as they are stored
        self.unit = find_unit(model)
        self._types: dict[str, Port] = infer_types(model)
        self._fixed = {t.name for t in model.graph.initializer}

    def add(self, node: NodeProto) -> bool:
        """Write one node; False if it has no counterpart."""
        if node.op_type == "Constant" or not any(self._is_float(name) for name in (*node.input, *node.output)):
            self._fixed.update(node.output)
            return True
        if all(name in self._fixed for name in node.input if name):
            self._fixed.update(node.output)  # made of constants: its own value is what is read
            return True
        made = self._write_absolute(node)
        if made is None:
            return False
        self.factor += self._find_factor(node)
        self.nodes.append(made)
        self.absolute[node.output[0]] = made.output[0]
        return True

    def _write_absolute(self, node: NodeProto) -> NodeProto | None:
        op, given = node.op_type, read_attributes(node)
        if any(node.output[1:]) or node.domain not in ("", "ai.onnx"):
            return None
        inputs, attributes = list(node.input), list(node.attribute)
        match op:
            case _ if op in _ALL:
                inputs = [self.get_absolute(n) for n in inputs]
            case _ if op in _FIRST:
                inputs = [self.get_absolute(inputs[0]), *inputs[1:]]
            case "Sub":
                op, inputs = "Add", [self.get_absolute(n) for n in inputs]
            case "Neg":
                op, inputs = "Identity", [self.get_absolute(inputs[0])]
            case "Mul" if any(n in self._fixed for n in inputs):
                inputs = [self.get_absolute(n) for n in inputs]
            case "Div" if inputs[1] in self._fixed:
                inputs = [self.get_absolute(n) for n in inputs]
            case "BatchNormalization" if not given.get("training_mode", 0):
                x, gamma, beta, mean, var = inputs
                inputs = [
                    self.get_absolute(x),
                    self.get_absolute(gamma),
                    self.get_absolute(beta),
                    self._get_negative(mean),
                    self._get_wide(var),
                ]
            case _:
                return None
        made = NodeProto(op_type=op, input=inputs, output=[f"{node.output[0]}{_SUFFIX}"])
        if op == node.op_type:
            made.attribute.extend(attributes)
            for attribute in made.attribute:
                if node.op_type == "Gemm" and attribute.name in ("alpha", "beta"):
                    attribute.f = abs(attribute.f)
        return made

    def get_absolute(self, name: str) -> str:
        """The absolute value of a tensor."""
        if name and name not in self.absolute:
            self.absolute[name] = self._add_op("Abs", self._get_wide(name), f"{name}{_SUFFIX}")
        return self.absolute.get(name, "")

    def _get_negative(self, name: str) -> str:
        return self._add_op("Neg", self.get_absolute(name), f"{name}{_SUFFIX}/negative")

    def _get_wide(self, name: str) -> str:
        port = self._types.get(name)
        if port is not None and port.elem == TensorProto.FLOAT:
            return name
        made = self._add_op("Cast", name, f"{name}{_SUFFIX}/wide")
        self.nodes[-1].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
        return made

    def _add_op(self, op: str, name: str, output: str) -> str:
        self.nodes.append(NodeProto(op_type=op, input=[name], output=[output]))
        return output

    def _is_float(self, name: str) -> bool:
        port = self._types.get(name)
        return bool(name) and (port is None or port.dtype is None or port.dtype.kind in "fV")

    def _find_factor(self, node: NodeProto) -> float:
        """How many roundings an operator's error comes to; 0 of one that only moves elements."""
        n = self._count_products(node)
        if node.op_type == "BatchNormalization":
            return _OF_NORM
        if node.op_type in _LINEAR:
            self.linear.append((n, node))
        elif n <= 1:
            return float(n)
        sums = n if self.unit <= _SUMS_IN else max(n * _SUMS_IN / self.unit, _PER_ROOT * math.sqrt(n))
        return sums + _BESIDE_SUM

    def _count_products(self, node: NodeProto) -> int:
        """How many numbers the operator sums for one of its output."""
        op = node.op_type
        dims = [self._dims(name) for name in node.input[:2]]
        if op in _LINEAR and len(dims) > 1:
            w = [d if isinstance(d, int) else 1 for d in dims[1] or ()]
            given = read_attributes(node)
            if op == "Conv":
                return math.prod(w[1:])
            if op == "ConvTranspose":
                return int(w[0] // max(int(given.get("group", 1)), 1) * math.prod(w[2:])) if w else 1
            axis = -1 if op == "Gemm" and given.get("transB", 0) else -2
            return int(w[axis]) if len(w) >= 2 else 1
        if op in ("GlobalAveragePool", "AveragePool", "ReduceMean"):
            kernel = read_attributes(node).get("kernel_shape") or [d for d in (dims[0] or ())[2:] if isinstance(d, int)]
            return max(int(math.prod(kernel)), 1)
        if op == "Sum":
            return max(len(node.input) - 1, 1)
        return 1 if op in ("Add", "Sub", "Mul", "Div") else 0

    def _dims(self, name: str) -> tuple[int | str | None, ...] | None:
        port = self._types.get(name)
        return None if port is None else port.dims
