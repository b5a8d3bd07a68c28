"""A float64 oracle for tiny models that owes nothing to biasopt: onnx.reference with the old operators corrected.

onnx.reference runs BatchNormalization of opset 7-13 as training, and knows neither ``spatial``,
``is_test`` nor the ``axis``/``broadcast`` attributes of opset 6 arithmetic.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes  # noqa: F401  (numpy learns bfloat16)
import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from tests.tiny import all_nodes, graphs

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}


class BatchNormalization(OpRun):  # type: ignore[misc]
    """Every version; training by ``training_mode`` or, before opset 14, by more than one output."""

    def _run(self, x: Any, g: Any, b: Any, m: Any, v: Any, **attributes: Any) -> tuple[Any, ...]:
        training = bool(attributes.get("training_mode")) or len(self.onnx_node.output) > 1
        axes = tuple(i for i in range(x.ndim) if i != 1)
        mean, var = (x.mean(axis=axes), x.var(axis=axes)) if training else (m, v)
        shape = (1, -1) + (1,) * (x.ndim - 2) if g.ndim == 1 else (1, *g.shape)
        eps = attributes.get("epsilon")
        factor = g.reshape(shape) / np.sqrt(var.reshape(shape) + (1e-5 if eps is None else eps))
        y = (x - mean.reshape(shape)) * factor + b.reshape(shape)
        momentum = attributes.get("momentum") or 0.9
        running = [old * momentum + new * (1 - momentum) for old, new in ((m, mean), (v, var))]
        return (y, *running, mean, var)[: len(self.onnx_node.output)]


class ConvTranspose(OpRun):  # type: ignore[misc]
    """With groups, which onnx.reference gets wrong; a scatter, straight from the definition."""

    def _run(self, x: Any, w: Any, b: Any = None, **attributes: Any) -> tuple[Any, ...]:
        assert (attributes.get("auto_pad") or "NOTSET") == "NOTSET"
        assert not attributes.get("output_shape")
        rank = x.ndim - 2
        group = attributes.get("group") or 1
        strides = attributes.get("strides") or [1] * rank
        dilations = attributes.get("dilations") or [1] * rank
        pads = attributes.get("pads") or [0] * (2 * rank)
        extra = attributes.get("output_padding") or [0] * rank
        kernel = w.shape[2:]
        full = [(x.shape[i + 2] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + extra[i] for i in range(rank)]
        n, i_per, o_per = x.shape[0], w.shape[0] // group, w.shape[1]
        parts = [
            np.tensordot(x[:, k * i_per : (k + 1) * i_per], w[k * i_per : (k + 1) * i_per], axes=(1, 0))
            for k in range(group)
        ]  # each [N, *in, O/group, *kernel]
        y = np.zeros((n, o_per * group, *full), x.dtype)
        for k, part in enumerate(parts):
            for tap in np.ndindex(*kernel):
                at = tuple(
                    slice(
                        tap[i] * dilations[i], tap[i] * dilations[i] + (x.shape[i + 2] - 1) * strides[i] + 1, strides[i]
                    )
                    for i in range(rank)
                )
                y[(slice(None), slice(k * o_per, (k + 1) * o_per), *at)] += np.moveaxis(part[(..., *tap)], -1, 1)
        y = y[(..., *(slice(pads[i], full[i] - pads[i + rank]) for i in range(rank)))]
        return (y if b is None else y + b.reshape(1, -1, *[1] * rank),)


class DequantizeLinear(OpRun):  # type: ignore[misc]
    """Per tensor or per axis, in float64."""

    def _run(self, x: Any, scale: Any, zero: Any = None, **attributes: Any) -> tuple[Any, ...]:
        axis = attributes.get("axis")
        if attributes.get("block_size"):
            assert zero is None
            return (x.astype(np.float64) * np.repeat(scale, attributes["block_size"], axis),)
        shape = [1] * x.ndim
        if scale.ndim:
            shape[1 if axis is None else axis] = -1
        offset = 0 if zero is None else zero.astype(np.float64).reshape(shape if zero.ndim else ())
        return ((x.astype(np.float64) - offset) * (scale.reshape(shape) if scale.ndim else scale),)


class _Binary(OpRun):  # type: ignore[misc]
    """Opset 6 arithmetic: numpy broadcasting is off, ``broadcast = 1`` aligns B at ``axis`` or at the end."""

    function: Any = None

    def _run(self, a: Any, b: Any, **attributes: Any) -> tuple[Any, ...]:
        axis = attributes.get("axis")
        if attributes.get("broadcast") and axis is not None:
            b = b.reshape(b.shape + (1,) * (a.ndim - axis - b.ndim))
        return (type(self).function(a, b),)


class Add(_Binary):
    """Add before opset 7."""

    function = np.add


class Mul(_Binary):
    """Mul before opset 7."""

    function = np.multiply


class Sub(_Binary):
    """Sub before opset 7."""

    function = np.subtract


class Div(_Binary):
    """Div before opset 7."""

    function = np.divide


def upcast(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every float type replaced by float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    for graph in graphs(wide.graph):
        for tensor in graph.initializer:
            _widen(tensor)
        graph.initializer.extend(_dense(s) for s in graph.sparse_initializer)
        del graph.sparse_initializer[:]
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in FLOATS:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for named in (*wide.opset_import, *all_nodes(wide)):
        named.domain = "" if named.domain == "ai.onnx" else named.domain
    for node in all_nodes(wide):
        for attribute in node.attribute:
            _widen_attribute(node, attribute)
    return wide


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    full = np.zeros(int(np.prod(sparse.dims)))
    full[numpy_helper.to_array(sparse.indices)] = numpy_helper.to_array(sparse.values)
    return numpy_helper.from_array(full.reshape(tuple(sparse.dims)), sparse.values.name)


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in FLOATS:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def _widen_attribute(node: onnx.NodeProto, attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _widen(attribute.t)
    elif node.op_type == "Cast" and attribute.name == "to" and attribute.i in FLOATS:
        attribute.i = TensorProto.DOUBLE
    elif node.op_type == "Constant" and attribute.name in {"value_float", "value_floats"}:
        values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        tensor = numpy_helper.from_array(np.array(values, np.float64))
        attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))


def run(proto: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """Outputs in float64."""
    opset = next(o.version for o in proto.opset_import if o.domain in {"", "ai.onnx"})
    ops: list[Any] = [BatchNormalization, ConvTranspose, DequantizeLinear]
    ops += [Add, Mul, Sub, Div] if opset < 7 else []
    wide = {k: v.astype(np.float64) if _is_float(v) else v for k, v in feeds.items()}
    return list(ReferenceEvaluator(upcast(proto), new_ops=ops).run(None, wide))


def _is_float(value: Any) -> bool:
    return value.dtype.name in {"float16", "bfloat16", "float32"}
