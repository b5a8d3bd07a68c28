"""Operators that onnx.reference lacks, gets wrong, computes in float32 or computes too slowly.

Each takes a :class:`KernelCall` and returns the outputs. Found by running models against onnxruntime:
BatchNormalization before opset 14 runs as training or raises; DequantizeLinear is missing at opset 10-18; Erf is
rounded to float32; LRN loops over the batch axis; Softmax before opset 13 ignores that it flattens; binary
operators before opset 7 ignore ``axis`` and ``broadcast``; Upsample knows integer factors only.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

from converter.model.file.dtypes import decode, get_element_type
from converter.referee.proto.tensors import UNIT_ROUNDOFF
from converter.referee.reference.call import KernelCall, Op, Outputs, Unsupported, erf, gelu, softmax
from converter.referee.reference.conv import POOLS, Array, conv, conv_transpose
from converter.referee.reference.elementary import ELEMENTARY
from converter.referee.reference.fused import FUSED
from converter.referee.reference.quantized import QUANTIZED, dequantize
from converter.referee.reference.resize import Rule, resize, target

__all__ = [
    "KernelCall",
    "Op",
    "Unsupported",
    "bind_function",
    "find_function_body",
    "find_kernel",
    "is_training",
    "list_captures",
    "make_kernel",
    "read_attributes",
    "read_schema_defaults",
]


def _image_scaler(call: KernelCall) -> Outputs:
    bias = np.asarray(call.get("bias", ()), dtype=np.float64).reshape(1, -1, 1, 1)
    return (call.input(0) * call.get("scale", 1.0) + bias,)


def _crop(call: KernelCall) -> Outputs:
    x, (left, top, right, bottom) = call.input(0), call.get("border")
    size = call.get("scale")
    high, wide = size or (x.shape[2] - top - bottom, x.shape[3] - left - right)
    return (np.ascontiguousarray(x[:, :, top : top + high, left : left + wide]),)


EXTRAS: dict[tuple[str, str], Op] = {
    # Experimental operators of 2018 exporters, which onnxruntime still runs.
    ("", "ImageScaler"): _image_scaler,
    ("", "Crop"): _crop,
    ("", "Affine"): lambda c: (c.get("alpha", 1.0) * c.input(0) + c.get("beta", 0.0),),
    ("", "Identity"): lambda c: (c.inputs[0],),  # onnx's copies, which for tied weights is most of a run
    ("", "ScaledTanh"): lambda c: (c.get("alpha", 1.0) * np.tanh(c.get("beta", 1.0) * c.input(0)),),
    ("", "ParametricSoftplus"): lambda c: (c.get("alpha") * np.log1p(np.exp(c.get("beta") * c.input(0))),),
}


def _sliding(call: KernelCall) -> dict[str, Any]:
    return {k: call.get(k) for k in ("auto_pad", "strides", "dilations", "pads")}


def _conv(call: KernelCall) -> Outputs:
    x, weight, bias = call.input(0), call.input(1), call.input(2)
    return (conv(x, weight, bias, group=call.get("group", 1), **_sliding(call)),)


def _conv_transpose(call: KernelCall) -> Outputs:
    extra = {k: call.get(k) for k in ("output_padding", "output_shape")}
    x, weight, bias = call.input(0), call.input(1), call.input(2)
    return (conv_transpose(x, weight, bias, group=call.get("group", 1), **_sliding(call), **extra),)


def is_training(op_type: str, opset: int, attributes: dict[str, Any], n_outputs: int) -> bool:
    """Whether a BatchNormalization normalises with the statistics of its own batch."""
    if op_type != "BatchNormalization":
        return False
    if opset >= 14:
        return bool(attributes.get("training_mode", 0))
    return not attributes.get("is_test", 0) if opset < 7 else n_outputs > 1


def _batch_norm(call: KernelCall) -> Outputs:
    x, scale, bias, mean, var = call.inputs[:5]
    eps, momentum = call.get("epsilon", float(np.float32(1e-5))), call.get("momentum", float(np.float32(0.9)))
    shape = (1, -1) + (1,) * (x.ndim - 2) if scale.ndim == 1 else (1, *scale.shape)
    if not is_training("BatchNormalization", call.opset, call.attributes, call.n_outputs):
        return (_normalise(x, [p.reshape(shape) for p in (scale, bias, mean, var)], eps),)
    axes = (0, *range(2, x.ndim)) if scale.ndim == 1 else (0,)
    now_mean, now_var = x.mean(axis=axes), x.var(axis=axes)
    y = _normalise(x, [p.reshape(shape) for p in (scale, bias, now_mean, now_var)], eps)
    running = [old * momentum + new * (1 - momentum) for old, new in ((mean, now_mean), (var, now_var))]
    return (y, *running, now_mean, now_var)[: call.n_outputs]


def _instance_norm(call: KernelCall) -> Outputs:
    x, scale, bias = call.inputs[:3]
    axes, shape = tuple(range(2, x.ndim)), (1, -1) + (1,) * (x.ndim - 2)
    y = np.asarray(x - x.mean(axis=axes, keepdims=True))
    flat = y.reshape(*y.shape[:2], -1)
    var = np.einsum("nck,nck->nc", flat, flat) / max(flat.shape[2], 1)  # one pass, no copy
    eps = call.get("epsilon", float(np.float32(1e-5)))
    y *= scale.reshape(shape) / np.sqrt(var + eps).reshape(*var.shape, *shape[2:])
    y += bias.reshape(shape)
    return (y,)


def _normalise(x: Array, parameters: list[Array], eps: float) -> Array:
    scale, bias, mean, var = parameters
    y = np.asarray(x - mean)
    y *= scale / np.sqrt(var + eps)
    y += bias
    return y


def _lrn(call: KernelCall) -> Outputs:
    x, size = call.input(0), call.get("size")
    low, high = (size - 1) // 2, -(-(size - 1) // 2)
    squares = np.pad(x * x, [(0, 0), (low, high), *[(0, 0)] * (x.ndim - 2)])
    total = sum(squares[:, k : k + x.shape[1]] for k in range(size))
    alpha, beta, bias = (call.get(k, d) for k, d in (("alpha", float(np.float32(1e-4))), ("beta", 0.75), ("bias", 1.0)))
    return (x / (bias + alpha / size * total) ** beta,)


def _softmax_like(finish: Callable[[Array, int], Array]) -> Op:
    def op(call: KernelCall) -> Outputs:
        x = call.input(0)
        if x.size == 0:
            return (x,)
        axis = call.get("axis", -1 if call.opset >= 13 else 1)
        if call.opset >= 13:
            return (finish(x, axis),)
        # Before opset 13 all axes from `axis` on are normalised together.
        flat = x.reshape(math.prod(x.shape[: axis % x.ndim if axis < x.ndim else x.ndim]), -1)
        return (finish(flat, 1).reshape(x.shape),)

    return op


def _log_softmax(x: Array, axis: int) -> Array:
    shifted = x - x.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


def _hardmax(x: Array, axis: int) -> Array:
    result = np.zeros_like(x)
    np.put_along_axis(result, np.expand_dims(x.argmax(axis=axis), axis), 1, axis=axis)
    return result


def _resize(call: KernelCall) -> Outputs:
    x = call.input(0)
    if call.opset < 11:
        scales, sizes, roi = call.input(1), None, None
        rule = Rule(call.get("mode", "nearest"), "asymmetric", "floor")
    else:
        roi, scales, sizes = (call.input(i) for i in (1, 2, 3))
        rule = _resize_rule(call)
    lists = [None if v is None or v.size == 0 else v.tolist() for v in (scales, sizes, roi)]
    axes, policy = call.get("axes"), call.get("keep_aspect_ratio_policy", "stretch")
    full_scales, full_sizes = target(x.shape, lists[0], lists[1], axes, policy)
    return (resize(x, full_scales, full_sizes, rule, _full_roi(lists[2], axes, x.ndim)),)


def _resize_rule(call: KernelCall) -> Rule:
    return Rule(
        mode=call.get("mode", "nearest"),
        coordinates=call.get("coordinate_transformation_mode", "half_pixel"),
        nearest=call.get("nearest_mode", "round_prefer_floor"),
        cubic_a=call.get("cubic_coeff_a", -0.75),
        exclude_outside=bool(call.get("exclude_outside", 0)),
        extrapolation=call.get("extrapolation_value", 0.0),
        antialias=bool(call.get("antialias", 0)),
    )


def _full_roi(roi: list[float] | None, axes: list[int] | None, rank: int) -> list[float] | None:
    if roi is None or not axes:
        return roi
    full = [0.0] * rank + [1.0] * rank
    for k, axis in enumerate(axes):
        full[axis % rank], full[axis % rank + rank] = roi[k], roi[k + len(axes)]
    return full


def _upsample(call: KernelCall) -> Outputs:
    x = call.input(0)
    scales = call.get("scales") or call.input(1).tolist()
    mode = {"bilinear": "linear"}.get(call.get("mode", "nearest"), call.get("mode", "nearest"))
    full_scales, sizes = target(x.shape, scales, None, None)
    return (resize(x, full_scales, sizes, Rule(mode, "asymmetric", "floor"), None),)


_COMBINE = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _put(data: Array, where: tuple[Array, ...], updates: Array, reduction: str) -> Outputs:
    result = np.array(data)
    combine = _COMBINE.get(reduction)
    if combine is None:
        result[where] = updates
    else:
        combine.at(result, where, updates)
    return (result,)


def _scatter_nd(call: KernelCall) -> Outputs:
    data, indices, updates = call.inputs[:3]
    return _put(data, tuple(np.moveaxis(indices, -1, 0)), updates, call.get("reduction", ""))


def _scatter(call: KernelCall) -> Outputs:
    data, indices, updates = call.inputs[:3]
    where = list(np.indices(indices.shape))
    where[call.get("axis", 0)] = indices
    return _put(data, tuple(where), updates, call.get("reduction", ""))


def _gather_elements(call: KernelCall) -> Outputs:
    """onnx's own stops at 64 entries along the axis (numpy's ``choose``); ``indices`` may be smaller than the data."""
    data, indices = call.inputs[:2]
    where = list(np.indices(indices.shape, sparse=True))
    where[call.get("axis", 0)] = indices
    return (data[tuple(where)],)


def _unsqueeze(call: KernelCall) -> Outputs:
    """onnx's own puts the axes in one by one up to opset 12: negative ones are of the result, not of what is there."""
    axes = call.get("axes", ()) if call.opset < 13 else np.ravel(call.input(1)).tolist()
    return (np.expand_dims(call.inputs[0], tuple(int(a) for a in axes)),)


def _dropout(call: KernelCall) -> Outputs:
    x, ratio, training = call.input(0), call.input(1), call.input(2)
    mask = np.ones(x.shape, dtype=bool)
    if call.opset >= 12 and training is not None and bool(training):
        p = 0.5 if ratio is None else float(ratio)
        mask = np.random.default_rng(zlib.crc32(call.name.encode())).random(x.shape) >= p
        x = np.where(mask, x / (1 - p), 0.0)
    return (x, mask if call.opset >= 10 else mask.astype(np.float64))[: call.n_outputs]


def _legacy_binary(function: Callable[[Array, Array], Array]) -> Op:
    """Arithmetic with the one-sided broadcasting of opset 6 and before."""

    def op(call: KernelCall) -> Outputs:
        a, b = call.input(0), call.input(1)
        if call.get("broadcast", 0) and call.get("axis") is not None and b.ndim:
            b = b.reshape(b.shape + (1,) * (a.ndim - call.get("axis") % a.ndim - b.ndim))
        return (function(a, b),)

    return op


def _sigmoid(call: KernelCall) -> Outputs:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-call.input(0))),)


OPS: dict[tuple[str, str], Op] = {
    ("", "Conv"): _conv,
    ("", "ConvTranspose"): _conv_transpose,
    ("", "BatchNormalization"): _batch_norm,
    ("", "InstanceNormalization"): _instance_norm,
    ("", "LRN"): _lrn,
    ("", "Softmax"): _softmax_like(softmax),
    ("", "LogSoftmax"): _softmax_like(_log_softmax),
    ("", "Hardmax"): _softmax_like(_hardmax),
    ("", "Erf"): lambda c: (erf(c.input(0)),),
    ("", "Sigmoid"): _sigmoid,
    ("", "Gelu"): lambda c: (gelu(c.input(0), c.get("approximate", "none") == "tanh"),),
    ("", "DequantizeLinear"): dequantize,
    ("", "Resize"): _resize,
    ("", "Upsample"): _upsample,
    ("", "GatherElements"): _gather_elements,
    ("", "Unsqueeze"): _unsqueeze,
    ("", "ScatterND"): _scatter_nd,
    ("", "ScatterElements"): _scatter,
    ("", "Scatter"): _scatter,
    ("", "Dropout"): _dropout,
}
OPS.update({("", name): op for name, op in POOLS.items()})
OPS.update(ELEMENTARY)
OPS.update(EXTRAS)
OPS.update(QUANTIZED)
OPS.update(FUSED)

_LEGACY = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power}


def find_kernel(domain: str, op_type: str, opset: int) -> Op | None:
    """Our own implementation of an operator, if there is one."""
    if domain == "" and opset < 7 and op_type in _LEGACY:
        return _legacy_binary(_LEGACY[op_type])
    return OPS.get((domain, op_type))


Kernel = Callable[[tuple[Any, ...]], Sequence[Any]]
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"}
_RECURRENT = {"LSTM", "GRU", "RNN"}
_WHOLE = {TensorProto.INT64: np.int64, TensorProto.INT32: np.int32, TensorProto.BOOL: np.bool_}
_USUAL_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def list_captures(node: NodeProto) -> set[str]:
    """Names that the node's subgraphs read from outside."""
    found: set[str] = set()
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
            found |= _free_names(graph)
    return found


def _free_names(graph: GraphProto) -> set[str]:
    made = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    made |= {t.values.name for t in graph.sparse_initializer} | {o for n in graph.node for o in n.output}
    read = {i for n in graph.node for i in n.input if i} | {o.name for o in graph.output}
    for node in graph.node:
        read |= list_captures(node)
    return read - made


def read_attributes(node: NodeProto) -> dict[str, Any]:
    """Attributes as Python values, text decoded, subgraphs left out."""
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) or attribute.ref_attr_name:
            continue
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif attribute.type == AttributeProto.STRINGS:
            value = [v.decode("utf-8", "replace") for v in value]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = list(value)
        values[attribute.name] = value
    return values


def bind_function(
    function: FunctionProto, node: NodeProto, defaults: Mapping[str, AttributeProto] = {}
) -> FunctionProto:
    """The function with its attribute references replaced by what ``node`` says (or by the defaults)."""
    given = {**defaults, **{a.name: a for a in function.attribute_proto}, **{a.name: a for a in node.attribute}}
    bound = FunctionProto()
    bound.CopyFrom(function)
    for inner in bound.node:
        _bind_node(inner, given)
    return bound


def _bind_node(node: NodeProto, given: dict[str, AttributeProto]) -> None:
    attributes = []
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            attributes.append(attribute)
            graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
            for inner in (n for g in graphs for n in g.node):
                _bind_node(inner, given)
        elif attribute.ref_attr_name in given:
            value = AttributeProto()
            value.CopyFrom(given[attribute.ref_attr_name])
            value.name = attribute.name
            attributes.append(value)
    kept = [_copy_value(a) for a in attributes]
    del node.attribute[:]
    node.attribute.extend(kept)


def _copy_value(attribute: AttributeProto) -> AttributeProto:
    copy = AttributeProto()
    copy.CopyFrom(attribute)
    return copy


def make_kernel(node: NodeProto, domain: str, version: int) -> Kernel | None:
    """What computes ``node``, or None when only a function body may."""
    attributes = read_attributes(node)
    n_outputs = max((k for k, name in enumerate(node.output, 1) if name), default=1)  # names that are empty ask nothing
    own = find_kernel(domain, node.op_type, version)
    if own is not None:
        name = node.output[0]
        return lambda inputs: own(KernelCall(inputs, attributes, version, n_outputs, name))
    if domain == "" and node.op_type in ("Cast", "CastLike"):
        return _cast(node, version, attributes)
    if domain == "" and node.op_type == "ConstantOfShape":
        return _constant_of_shape(attributes)
    if domain == "" and node.op_type in _RANDOM and "seed" not in attributes:
        node = _seeded(node)
    if domain == "" and node.op_type in _RECURRENT:
        _refuse_unusual(node.op_type, attributes)
        return _recurrent(_library(node, domain, version), node.op_type)
    return _library(node, domain, version)


def _library(node: NodeProto, domain: str, version: int) -> Kernel | None:
    """onnx.reference's implementation for one node."""
    loader = _loader(domain)
    if loader is None:
        raise Unsupported(f"operator {domain}.{node.op_type} has no reference")
    try:
        implementation = loader(domain, node.op_type, version)
        params = {"log": lambda *_: None, "opsets": {domain: version}, "verbose": 0, "new_ops": None}
        op = implementation(node, params)
    except Exception:  # no implementation, or one that refuses these attributes: perhaps a function body
        return None
    if domain == "" and node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
        # Ties are decided in the precision that runtimes divide in.
        return lambda inputs: op.run(*(_narrow(v) for v in inputs))
    return lambda inputs: op.run(*inputs)


def _loader(domain: str) -> Any:
    if domain == "":
        from onnx.reference.ops import load_op

        return load_op
    if domain == "ai.onnx.ml":
        from onnx.reference.ops.aionnxml import load_op as load_ml

        return load_ml
    return None


def _narrow(value: Any) -> Any:
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value


def _cast(node: NodeProto, version: int, attributes: dict[str, Any]) -> Kernel | None:
    """Casts to a float type stop at float64; all others are the library's."""
    to = attributes.get("to")
    if isinstance(to, str):  # opset 1-5 spell the type out
        to = TensorProto.DataType.Value(to)
    if to in UNIT_ROUNDOFF:
        return lambda inputs: [inputs[0].astype(np.float64)]
    if to in _WHOLE:  # of a float the library decides what is out of range, or no number
        dtype = _WHOLE[to]
        made: Callable[[], Kernel | None] = functools.cache(lambda: _library(node, "", version))
        return lambda inputs: [inputs[0].astype(dtype)] if inputs[0].dtype.kind in "iub" else _run(made(), inputs)
    library = _library(node, "", version)
    if node.op_type == "CastLike":
        return lambda inputs: [inputs[0].astype(inputs[1].dtype)] if _is_float(inputs[1]) else _run(library, inputs)
    return library


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float64


def _run(library: Kernel | None, inputs: tuple[Any, ...]) -> Sequence[Any]:
    if library is None:
        raise Unsupported("no implementation")
    return library(inputs)


def _constant_of_shape(attributes: dict[str, Any]) -> Kernel:
    tensor = attributes.get("value")
    value = np.zeros(1) if tensor is None else decode(tensor)
    return lambda inputs: [np.full(tuple(int(d) for d in inputs[0]), value.reshape(-1)[0], dtype=value.dtype)]


def _seeded(node: NodeProto) -> NodeProto:
    """A copy whose seed follows from the name of its output: the same in both models of a pair."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.attribute.append(onnx.helper.make_attribute("seed", float(zlib.crc32(node.output[0].encode()) % 2**20)))
    return copy


def _refuse_unusual(op_type: str, attributes: dict[str, Any]) -> None:
    """onnx.reference ignores these attributes of recurrent operators."""
    usual = _USUAL_ACTIVATIONS[op_type]
    given = attributes.get("activations") or usual
    if given not in (usual, usual * 2) or attributes.get("clip") or attributes.get("input_forget"):
        raise Unsupported(f"{op_type} with activations {given}, clip or input_forget")


def _recurrent(library: Kernel | None, op_type: str) -> Kernel:
    def run(inputs: tuple[Any, ...]) -> Sequence[Any]:
        lengths = inputs[4] if len(inputs) > 4 else None
        if lengths is not None and len(lengths) and int(np.min(lengths)) < max(inputs[0].shape[0], 1):
            raise Unsupported(f"{op_type} with sequences of different lengths")
        return _run(library, inputs)

    return run


def read_schema_defaults(node: NodeProto, domain: str, version: int) -> dict[str, AttributeProto]:
    """The attributes that the standard fills in for a node that leaves them out."""
    schema = onnx.defs.get_schema(node.op_type, version, domain)
    return {n: a.default_value for n, a in schema.attributes.items() if a.default_value.type}


def find_function_body(
    node: NodeProto, domain: str, version: int, inputs: tuple[Any, ...] | None
) -> FunctionProto | None:
    """The function that defines an operator; without ``inputs`` only checks that there is one."""
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError as exc:
        raise Unsupported(f"operator {domain or 'ai.onnx'}.{node.op_type}-{version} is unknown") from exc
    if schema.has_function:
        return _function(schema.function_body.SerializeToString())
    if not schema.has_context_dependent_function:
        raise Unsupported(f"operator {domain or 'ai.onnx'}.{node.op_type}-{version} has no reference")
    if inputs is None:
        return None
    types = [_type_of(value) for value in inputs]
    body = schema.get_context_dependent_function(node.SerializeToString(), types)
    return _function(body)


def _function(data: bytes) -> FunctionProto:
    function = FunctionProto()
    function.ParseFromString(data)
    return function


def _type_of(value: Any) -> bytes:
    if value is None:
        return b""
    kind = get_element_type(value.dtype)
    return bytes(onnx.helper.make_tensor_type_proto(kind, value.shape).SerializeToString())
