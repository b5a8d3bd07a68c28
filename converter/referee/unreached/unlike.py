"""Operators that turn in ways for which there is no bound: a loop, a selection, a code, an operator of somebody's own.

Two analytic functions that agree on random values agree everywhere; so operators that are analytic, that only move
elements about, or that turn where any random values are on both sides need no words. Of every other operator that
only one of two models has, nobody knows what would have come out where no input led.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import NodeProto

from converter.referee.reference.kernels import read_attributes

Array = np.ndarray[Any, Any]
Key = tuple[Any, ...]

_ANALYTIC = {
    *("Add", "Sub", "Mul", "Div", "Neg", "Sum", "Mean", "Exp", "Log", "Sqrt", "Pow", "Reciprocal", "Tanh", "Sigmoid"),
    *("Softmax", "LogSoftmax", "Softplus", "Softsign", "Erf", "Gelu", "Mish", "Swish", "Sin", "Cos", "Tan", "Asin"),
    *("Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"),
    *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"),
    *("LpNormalization", "LRN", "MeanVarianceNormalization", "ReduceMean", "ReduceSum", "ReduceProd", "ReduceL2"),
    *("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "GlobalAveragePool", "AveragePool", "LpPool", "STFT"),
    *("DFT", "Det", "CumSum", "Attention", "RotaryEmbedding", "DeformConv", "GlobalLpPool", "MelWeightMatrix"),
}
_MOVING = {
    *("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat", "Expand"),
    *("Gather", "GatherElements", "GatherND", "Pad", "Tile", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth"),
    *("ScatterElements", "ScatterND", "Scatter", "Constant", "ConstantOfShape", "Shape", "Size", "Range", "EyeLike"),
    *("Dropout", "OneHot", "Trilu", "ReverseSequence", "Col2Im", "CenterCropPad", "CastLike", "SequenceConstruct"),
    *("SequenceAt", "SequenceEmpty", "SequenceInsert", "SequenceLength", "ConcatFromSequence", "SplitToSequence"),
    *("Optional", "OptionalGetElement", "OptionalHasElement", "HannWindow", "HammingWindow", "BlackmanWindow"),
}
# Random values are on all sides of these at once; what they select by, a comparison or a mask, has a bound of its own.
_SEEN = {
    *("MaxPool", "GlobalMaxPool", "MaxRoiPool", "ReduceMax", "ReduceMin", "ReduceL1", "TopK", "Where", "And", "Or"),
    *("Xor", "Not", "Max", "Min", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"),
    *("ConvInteger", "MatMulInteger", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"),
    *("Bernoulli", "Multinomial", "Cast", "QuantizeLinear", "BitCast"),
}
# What three inputs say as much of as thirty: sums and products of what is given.
POLYNOMIAL = _MOVING | {
    *("Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "Sub", "Neg", "Sum", "Mean", "Mul", "BatchNormalization"),
    *("ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool", "DequantizeLinear", "Einsum"),
}
QUIET = _ANALYTIC | _MOVING | _SEEN
_RECURRENT = {"LSTM": ("Sigmoid", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_SMOOTH_GATES = {"sigmoid", "tanh", "softsign", "softplus", "affine"}
_FLOAT8 = range(17, 21)
FUSED = ("com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")  # made of known operators by onnxruntime


class Numbers(Protocol):
    """Where the values of constants are."""

    def get(self, name: str) -> Array | None:
        """The value, None where the name is not a constant's."""


def make_key(node: NodeProto, held: Numbers, inner: Iterable[Key] = ()) -> Key | None:
    """What two of such operators have to have in common; None for an operator that needs no words.

    ``inner`` are the keys of what is in the node's bodies.
    """
    op, given = node.op_type, read_attributes(node)
    if node.domain in FUSED:
        return None
    if node.domain in ("", "ai.onnx"):
        if op in QUIET:
            coded = op in ("Cast", "QuantizeLinear") and (given.get("to") in _FLOAT8 or "saturate" in given)
            return (f"unlike {op}", (("saturate", str(given.get("saturate", 1))),), ()) if coded else None
        if op in _RECURRENT:
            gates = {str(g).lower() for g in given.get("activations", _RECURRENT[op])}
            if "clip" not in given and not given.get("input_forget") and gates <= _SMOOTH_GATES:
                return None
    attributes = tuple(sorted((k, repr(v)) for k, v in {**_read_defaults(node), **given}.items()))
    constants = tuple((k, _describe(held.get(n))) for k, n in enumerate(node.input) if n and _is_small(held.get(n)))
    if op in _RECURRENT:
        attributes, constants = tuple(a for a in attributes if a[0] in ("clip", "input_forget", "activations")), ()
    return (f"unlike {op}", attributes, constants, *sorted(map(repr, inner)))


def _read_defaults(node: NodeProto) -> Mapping[str, Any]:
    try:
        schema = onnx.defs.get_schema(node.op_type, node.domain)
    except onnx.defs.SchemaError:
        return {}
    given = (a.default_value for a in schema.attributes.values() if a.default_value.name)
    return {a.name: _decode(onnx.helper.get_attribute_value(a)) for a in given}


def _decode(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _is_small(value: Array | None) -> bool:
    return value is not None and value.size <= 16


def _describe(value: Array | None) -> tuple[str, ...]:
    """Numbers to six digits: another tool may have written them in another type."""
    return () if value is None else tuple(_name(v) for v in value.reshape(-1).tolist())


def _name(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def describe_key(old: Key | None, new: Key | None) -> str:
    """What became of an operator, after its name: ``clip changed from 20 to 30``."""
    if old is None or new is None:
        return "is new" if old is None else "was left out"
    before, after = dict(old[1]), dict(new[1])
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            return f"{name} changed from {before.get(name, 'none')} to {after.get(name, 'none')}"
    before, after = dict(old[2]), dict(new[2])
    for slot in sorted(before.keys() | after.keys()):
        if before.get(slot) != after.get(slot):
            values = (", ".join(x.get(slot, ("none",))) for x in (before, after))
            return "input {} changed from {} to {}".format(slot + 1, *values)
    return "body changed"
