"""Ways to write one net differently: what other tools make of it, other names, orders, channels, operators, interfaces.

Each function takes a model that is its own to change and gives the other one, or None where the net has nothing of
the kind. Every result computes what the original computes, up to rounding.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Change = Callable[[ModelProto], ModelProto | None]


# -- small tools -------------------------------------------------------------------------------------


class Held:
    """The initializers of a model as arrays, written back when they are set."""

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._at = {t.name: k for k, t in enumerate(model.graph.initializer)}

    def __contains__(self, name: str) -> bool:
        return name in self._at

    def __getitem__(self, name: str) -> Array:
        return numpy_helper.to_array(self._graph.initializer[self._at[name]])

    def __setitem__(self, name: str, value: Array) -> None:
        tensor = numpy_helper.from_array(np.asarray(value, order="C"), name)
        if name in self._at:
            self._graph.initializer[self._at[name]].CopyFrom(tensor)
        else:
            self._at[name] = len(self._graph.initializer)
            self._graph.initializer.append(tensor)


def get(node: NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def readers(model: ModelProto, name: str) -> list[NodeProto]:
    """The nodes of the main graph that read a tensor; an output of the graph counts as one that nobody knows."""
    found = [n for n in model.graph.node if name in n.input]
    inner = [n for n in model.graph.node for a in n.attribute if a.HasField("g") for m in a.g.node if name in m.input]
    return found + inner + [NodeProto() for o in model.graph.output if o.name == name]


def put(model: ModelProto, node: NodeProto, new: list[NodeProto]) -> ModelProto:
    """The model with other nodes in one's place."""
    at = list(model.graph.node).index(node)
    nodes = [*model.graph.node[:at], *new, *model.graph.node[at + 1 :]]
    nodes = [copy.deepcopy(n) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def prune(model: ModelProto) -> ModelProto:
    """The model without initializers that nothing reads."""
    read = {n for node in model.graph.node for n in node.input} | {o.name for o in model.graph.output}
    read |= {
        n for node in model.graph.node for a in node.attribute if a.HasField("g") for m in a.g.node for n in m.input
    }
    kept = [copy.deepcopy(t) for t in model.graph.initializer if t.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def rename(model: ModelProto, names: dict[str, str], *, ports: bool = False) -> ModelProto:
    """The model with other names for its tensors; inputs and outputs keep theirs."""
    fixed = set() if ports else {v.name for v in (*model.graph.input, *model.graph.output)}
    names = {k: v for k, v in names.items() if k not in fixed}
    _rename(model.graph, names)
    return model


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for value in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names)


# -- other tools -------------------------------------------------------------------------------------


def fold_by_biasopt(model: ModelProto) -> ModelProto | None:
    import converter

    return onnx.load_from_string(converter.fold(model, verify=False).to_bytes())


def _by_onnxruntime(model: ModelProto, level: str) -> ModelProto:
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 4
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(target)


def optimize_basic(model: ModelProto) -> ModelProto | None:
    return _by_onnxruntime(model, "ORT_ENABLE_BASIC")


def optimize_extended(model: ModelProto) -> ModelProto | None:
    return _by_onnxruntime(model, "ORT_ENABLE_EXTENDED")


def slim(model: ModelProto) -> ModelProto | None:
    import onnxslim

    made = onnxslim.slim(model)
    return made if isinstance(made, ModelProto) else None


def simplify(model: ModelProto) -> ModelProto | None:
    import onnxsim

    return onnxsim.simplify(model)[0]  # type: ignore[no-any-return]


def optimize_by_onnx(model: ModelProto) -> ModelProto | None:
    import onnxoptimizer

    return onnxoptimizer.optimize(model)  # type: ignore[no-any-return]


def optimize_by_onnxscript(model: ModelProto) -> ModelProto | None:
    from onnxscript import optimizer

    return optimizer.optimize(model)  # type: ignore[no-any-return]


def convert_version(model: ModelProto) -> ModelProto | None:
    from onnx import version_converter

    return version_converter.convert_version(model, 21)


# -- names and order ---------------------------------------------------------------------------------


def name_anew(model: ModelProto) -> ModelProto | None:
    made = [n for node in model.graph.node for n in node.output] + [t.name for t in model.graph.initializer]
    return rename(model, {n: f"net/part/{k * 7919 % 1000}_{k}" for k, n in enumerate(made)})


def number(model: ModelProto) -> ModelProto:
    """The names that older exporters of torch give: numbers in the order of the nodes."""
    made = [t.name for t in model.graph.initializer] + [n for node in model.graph.node for n in node.output]
    return rename(model, {n: str(k) for k, n in enumerate(made) if n})


def number_fold(model: ModelProto) -> ModelProto | None:
    """Folded, and numbered again: most numbers mean another tensor now."""
    made = fold_in_float32(rename(model, {}))
    return None if made is None else number(made)


def number_basic(model: ModelProto) -> ModelProto | None:
    return number(optimize_basic(model) or model)


def reorder(model: ModelProto) -> ModelProto | None:
    """Another topological order, and the initializers backwards."""
    left, done, order = list(model.graph.node), {i.name for i in model.graph.input}, []
    done |= {t.name for t in model.graph.initializer} | {""}
    while left:
        ready = [n for n in left if set(n.input) <= done and _captures(n) <= done]
        node = ready[-1]
        left.remove(node)
        order.append(copy.deepcopy(node))
        done |= set(node.output)
    held = [copy.deepcopy(t) for t in reversed(model.graph.initializer)]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(order)
    model.graph.initializer.extend(held)
    return model


def _captures(node: NodeProto) -> set[str]:
    bodies = [a.g for a in node.attribute if a.HasField("g")]
    return {n for g in bodies for m in g.node for n in m.input} - {n for g in bodies for m in g.node for n in m.output}


# -- channels ----------------------------------------------------------------------------------------


class Chain:
    """A linear operator, what lies behind it channel by channel, and the linear operator that reads that."""

    def __init__(self, producer: NodeProto, between: list[NodeProto], consumer: NodeProto) -> None:
        self.producer, self.between, self.consumer = producer, between, consumer


_THROUGH = {"BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Add", "Clip", "Elu", "MaxPool", "GlobalAveragePool"}
_HOMOGENEOUS = {"BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Add", "MaxPool", "GlobalAveragePool", "Flatten"}


def chains(model: ModelProto) -> Iterator[Chain]:
    """Every chain whose hidden channels nobody else sees."""
    held = Held(model)
    for start in model.graph.node:
        if not _is_linear(start, held):
            continue
        between, at, pooled = [], start, False
        while True:
            found = readers(model, at.output[0])
            if len(found) != 1 or not found[0].op_type:
                break
            at = found[0]
            if _is_linear(at, held) and at.input[0] in {n for m in [start, *between] for n in m.output}:
                yield Chain(start, between, at)
                break
            depthwise = at.op_type == "Conv" and get(at, "group", 1) == held[at.input[1]].shape[0] > 1
            flat = at.op_type == "Flatten" and pooled
            if not (at.op_type in _THROUGH or depthwise or flat) or any(
                n not in held for n in at.input if n and n not in {m for b in [start, *between] for m in b.output}
            ):
                break
            pooled = pooled or at.op_type == "GlobalAveragePool"
            between.append(at)


def _is_linear(node: NodeProto, held: Held) -> bool:
    if node.op_type == "Conv":
        return node.input[1] in held and get(node, "group", 1) == 1
    return node.op_type in ("Gemm", "MatMul") and len(node.input) > 1 and node.input[1] in held


def out_axis(node: NodeProto) -> int:
    return 0 if node.op_type == "Conv" or get(node, "transB", 0) else 1


def _scale(held: Held, name: str, factors: Array, axis: int) -> None:
    value = held[name]
    shape = [1] * value.ndim
    shape[axis] = -1
    held[name] = (value.astype(np.float64) * factors.reshape(shape)).astype(value.dtype)


def permute_channels(model: ModelProto) -> ModelProto | None:
    held, found = Held(model), False
    for k, chain in enumerate(chains(model)):
        axis = out_axis(chain.producer)
        n = held[chain.producer.input[1]].shape[axis]
        order = np.random.default_rng(k).permutation(n)
        held[chain.producer.input[1]] = np.take(held[chain.producer.input[1]], order, axis)
        for node in [chain.producer, *chain.between]:
            for slot, name in enumerate(node.input):
                if name in held and not (node is chain.producer and slot < 2) and n in held[name].shape:
                    held[name] = np.take(held[name], order, held[name].shape.index(n))
        held[chain.consumer.input[1]] = np.take(held[chain.consumer.input[1]], order, 1 - out_axis(chain.consumer))
        found = True
    return model if found else None


def equalise_channels(model: ModelProto) -> ModelProto | None:
    return _move_scales(model, lambda rng, n: rng.uniform(0.2, 5.0, n))


def move_scale(model: ModelProto) -> ModelProto | None:
    """One number taken from a layer and given to the next, through the activation between them."""
    return _move_scales(model, lambda rng, n: np.full(n, 3.0))


def _move_scales(model: ModelProto, draw: Callable[[np.random.Generator, int], Array]) -> ModelProto | None:
    held, found = Held(model), False
    for k, chain in enumerate(chains(model)):
        if any(b.op_type not in _HOMOGENEOUS for b in chain.between):
            continue
        axis = out_axis(chain.producer)
        n = held[chain.producer.input[1]].shape[axis]
        s = draw(np.random.default_rng(k), n)
        norm = next((b for b in chain.between if b.op_type == "BatchNormalization"), None)
        if norm is not None:
            for name in norm.input[1:3]:
                _scale(held, name, s, 0)
        else:
            _scale(held, chain.producer.input[1], s, axis)
            biases = [*chain.producer.input[2:], *(m for b in chain.between if b.op_type == "Add" for m in b.input)]
            for name in (b for b in biases if b in held):
                _scale(held, name, s, -1)
        _scale(held, chain.consumer.input[1], 1 / s, 1 - out_axis(chain.consumer))
        found = True
    return model if found else None


# -- batch norms -------------------------------------------------------------------------------------


def norms(model: ModelProto) -> Iterator[tuple[NodeProto, NodeProto]]:
    """Each convolution that only a batch norm reads, with it."""
    for norm in [n for n in model.graph.node if n.op_type == "BatchNormalization"]:
        conv = next((n for n in model.graph.node if norm.input[0] in n.output), None)
        if conv is not None and conv.op_type == "Conv" and len(readers(model, norm.input[0])) == 1:
            yield conv, norm


def _factors(held: Held, norm: NodeProto, kind: Any = np.float64) -> tuple[Array, Array]:
    gamma, beta, mean, var = (held[n].astype(kind) for n in norm.input[1:5])
    scale = gamma / np.sqrt(var + kind(get(norm, "epsilon", 1e-5)))
    return scale, beta - mean * scale


def _fold(model: ModelProto, conv: NodeProto, norm: NodeProto, kind: Any = np.float64) -> None:
    held = Held(model)
    scale, shift = _factors(held, norm, kind)
    weight = held[conv.input[1]]
    held[conv.input[1]] = (weight.astype(kind) * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(weight.dtype)
    bias = held[conv.input[2]].astype(kind) * scale + shift if len(conv.input) > 2 else shift
    if len(conv.input) < 3:
        conv.input.append(f"{conv.output[0]}_bias")
    held[conv.input[2]] = bias.astype(weight.dtype)


def fold_in_float32(model: ModelProto) -> ModelProto | None:
    """Conv and batch norm as one, in the weights' own arithmetic; the convolution's names stay."""
    pairs = list(norms(model))
    for conv, norm in pairs:
        kind = Held(model)[conv.input[1]].dtype.type
        _fold(model, conv, norm, np.float32 if kind == np.float16 else kind)
        old, new = norm.output[0], conv.output[0]
        for node in model.graph.node:
            node.input[:] = [new if n == old else n for n in node.input]
    gone = [norm.output[0] for _, norm in pairs]
    for name in gone:
        put(model, next(n for n in model.graph.node if name in n.output), [])
    return prune(model) if gone else None


def make_norms_neutral(model: ModelProto) -> ModelProto | None:
    pairs = list(norms(model))
    for conv, norm in pairs:
        _fold(model, conv, norm)
        held, eps = Held(model), get(norm, "epsilon", 1e-5)
        for name, value in zip(norm.input[1:5], (1, 0, 0, 1 - eps), strict=True):
            held[name] = np.full_like(held[name], value)
    return model if pairs else None


def write_norms_as_arithmetic(model: ModelProto) -> ModelProto | None:
    names = [n.output[0] for n in model.graph.node if n.op_type == "BatchNormalization"]
    for name in names:
        node = next(n for n in model.graph.node if name in n.output)
        held = Held(model)
        scale, shift = _factors(held, node)
        kind = held[node.input[1]].dtype
        conv = next(n for n in model.graph.node if node.input[0] in n.output)
        axes = [1] * (held[conv.input[1]].ndim - 2)
        for key, value in (("scale", scale), ("shift", shift)):
            held[f"{name}_{key}"] = value.astype(kind).reshape(-1, *axes)
        first = helper.make_node("Mul", [node.input[0], f"{name}_scale"], [f"{name}_scaled"])
        put(model, node, [first, helper.make_node("Add", [f"{name}_scaled", f"{name}_shift"], [name])])
    return prune(model) if names else None


# -- other operators ---------------------------------------------------------------------------------


def _replace(
    model: ModelProto, op: str, make: Callable[[NodeProto, Held], list[NodeProto] | None]
) -> ModelProto | None:
    changed = False
    for name in [n.output[0] for n in model.graph.node if n.op_type == op]:
        node = next(n for n in model.graph.node if name in n.output)
        new = make(node, Held(model))
        if new is not None:
            put(model, node, new)
            changed = True
    return prune(model) if changed else None


def split_gemm(model: ModelProto) -> ModelProto | None:
    def make(node: NodeProto, held: Held) -> list[NodeProto]:
        weight, y = held[node.input[1]], node.output[0]
        held[f"{y}_w"] = weight.T if get(node, "transB", 0) else weight
        if len(node.input) < 3:
            return [helper.make_node("MatMul", [node.input[0], f"{y}_w"], [y])]
        first = helper.make_node("MatMul", [node.input[0], f"{y}_w"], [f"{y}_product"])
        return [first, helper.make_node("Add", [f"{y}_product", node.input[2]], [y])]

    return _replace(model, "Gemm", make)


def write_relu_as_max(model: ModelProto) -> ModelProto | None:
    def make(node: NodeProto, held: Held) -> list[NodeProto]:
        kind = next(held[t.name].dtype for t in model.graph.initializer if held[t.name].dtype.kind == "f")
        held["nought"] = np.zeros((), kind)
        return [helper.make_node("Max", [node.input[0], "nought"], [node.output[0]])]

    return _replace(model, "Relu", make)


def write_clip_as_min_max(model: ModelProto) -> ModelProto | None:
    def make(node: NodeProto, held: Held) -> list[NodeProto]:
        y = node.output[0]
        first = helper.make_node("Min", [node.input[0], node.input[2]], [f"{y}_capped"])
        return [first, helper.make_node("Max", [f"{y}_capped", node.input[1]], [y])]

    return _replace(model, "Clip", make)


def divide_by_multiplying(model: ModelProto) -> ModelProto | None:
    def make(node: NodeProto, held: Held) -> list[NodeProto] | None:
        if node.input[1] not in held:
            return None
        value = held[node.input[1]]
        held[f"{node.output[0]}_inverse"] = (1 / value.astype(np.float64)).astype(value.dtype)
        return [helper.make_node("Mul", [node.input[0], f"{node.output[0]}_inverse"], list(node.output))]

    return _replace(model, "Div", make)


def pool_by_mean(model: ModelProto) -> ModelProto | None:
    return _replace(
        model,
        "GlobalAveragePool",
        lambda node, held: [helper.make_node("ReduceMean", list(node.input), list(node.output), axes=[2, 3])],
    )


def square_by_product(model: ModelProto) -> ModelProto | None:
    return _replace(model, "Pow", lambda node, held: [helper.make_node("Mul", [node.input[0]] * 2, list(node.output))])


def swap_operands(model: ModelProto) -> ModelProto | None:
    found = [n for n in model.graph.node if n.op_type in ("Add", "Mul")]
    for node in found:
        node.input[:] = node.input[::-1]
    return model if found else None


def insert_identities(model: ModelProto) -> ModelProto | None:
    for node in list(model.graph.node):
        inner = f"{node.output[0]}_inner"
        outer = helper.make_node("Identity", [inner], [node.output[0]])
        new = copy.deepcopy(node)
        new.output[0] = inner
        put(model, next(n for n in model.graph.node if n.output[0] == node.output[0]), [new, outer])
    return model


def hold_as_constants(model: ModelProto) -> ModelProto | None:
    from tests import tiny

    return tiny.as_constants(model)


def compute_more_exactly(model: ModelProto) -> ModelProto | None:
    """The products in float64, between two casts: fewer roundings than the original's."""

    def make(node: NodeProto, held: Held) -> list[NodeProto] | None:
        if any(n in held and held[n].dtype != np.float32 for n in node.input) or node.input[1] not in held:
            return None
        y, wide = node.output[0], []
        nodes = []
        for k, name in enumerate(node.input):
            wide.append(f"{y}_wide{k}")
            nodes.append(helper.make_node("Cast", [name], [wide[-1]], to=11))
        middle = copy.deepcopy(node)
        middle.input[:], middle.output[:] = wide, [f"{y}_exact"]
        return [*nodes, middle, helper.make_node("Cast", [f"{y}_exact"], [y], to=1)]

    first = _replace(model, "MatMul", make)
    return _replace(model, "Gemm", make) or first


# -- interfaces --------------------------------------------------------------------------------------


def _dims(model: ModelProto) -> Iterator[Any]:
    for value in (*model.graph.input, *model.graph.output):
        yield from value.type.tensor_type.shape.dim


def rename_dims(model: ModelProto) -> ModelProto | None:
    found = [d for d in _dims(model) if d.dim_param]
    for dim in found:
        dim.dim_param = f"dynamic_{dim.dim_param}"
    return model if found else None


def name_output_dims_anew(model: ModelProto) -> ModelProto | None:
    """What onnx's inference leaves: symbols of its own where the input has another."""
    for k, value in enumerate(model.graph.output):
        for j, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_param = f"unk__{k * 10 + j}"
    return model


def resolve_dims(model: ModelProto) -> ModelProto | None:
    """Symbols that only an output has, as the numbers that they stand for."""
    import onnxruntime as ort

    from converter.referee.proto.random_inputs import guess_shapes, make_feeds

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(None, make_feeds(model, next(guess_shapes(model, None, 2)), 0))
    open_ones = {d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim}
    changed = False
    for value, got in zip(model.graph.output, values, strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, got.shape, strict=True):
            if dim.dim_param and dim.dim_param not in open_ones:
                dim.dim_value = size
                changed = True
    return model if changed else None


def leave_out_shapes(model: ModelProto) -> ModelProto | None:
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return model


PEERS = {"onnxslim": slim, "onnxsim": simplify, "onnxoptimizer": optimize_by_onnx, "onnxscript": optimize_by_onnxscript}
OWN: dict[str, Change] = {
    "biasopt": fold_by_biasopt,
    "onnxruntime basic": optimize_basic,
    "onnxruntime extended": optimize_extended,
    "version converter": convert_version,
    "renamed": name_anew,
    "reordered": reorder,
    "numbered, folded": number_fold,
    "numbered, onnxruntime": number_basic,
    "channels permuted": permute_channels,
    "channels equalised": equalise_channels,
    "scale moved through": move_scale,
    "folded in float32": fold_in_float32,
    "batch norm neutral": make_norms_neutral,
    "batch norm as Mul, Add": write_norms_as_arithmetic,
    "Gemm as MatMul, Add": split_gemm,
    "Relu as Max": write_relu_as_max,
    "Clip as Min, Max": write_clip_as_min_max,
    "Div as Mul": divide_by_multiplying,
    "pool as mean": pool_by_mean,
    "square as product": square_by_product,
    "operands swapped": swap_operands,
    "Identity inserted": insert_identities,
    "Constant nodes": hold_as_constants,
    "more exact": compute_more_exactly,
    "open dims renamed": rename_dims,
    "output dims renamed": name_output_dims_anew,
    "output dims resolved": resolve_dims,
    "output shape left out": leave_out_shapes,
}


def list_changes() -> tuple[dict[str, Change], list[str]]:
    """The changes that can be made here, and the tools that are missing."""
    there = {name: change for name, change in PEERS.items() if find_spec(name) is not None}
    return OWN | there, sorted(PEERS.keys() - there.keys())
