"""Models that somebody wrote by hand to hurt: each is a small valid net with one thing that no exporter writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx.parser
from onnx import ModelProto, TensorProto, helper, numpy_helper

_HUGE = 2**62
_LONE = b"\xed\xa0\x80"  # half a surrogate pair, which no UTF-8 text holds
Change = Callable[[ModelProto], None]


def net() -> ModelProto:
    """Conv and BatchNormalization, the weight ``w`` first."""
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[1,3,8,8] x) => (float[1,4,6,6] y) {
          [conv] c = Conv(x, w, b)
          [norm] y = BatchNormalization<epsilon = 0.001>(c, s, o, m, v)
        }"""
    )
    rng = np.random.default_rng(3)
    for name, shape in ({"w": (4, 3, 3, 3)} | dict.fromkeys("bsomv", (4,))).items():
        model.graph.initializer.append(numpy_helper.from_array(rng.uniform(0.5, 2, shape).astype(np.float32), name))
    return model


def make_crafted() -> dict[str, bytes]:
    """The bytes of each, by what is wrong with it."""
    found = {}
    for name, change in _CHANGES.items():
        model = net()
        change(model)
        found[name] = model.SerializeToString()
    found["name-lone-surrogate"] = net().SerializeToString().replace(b"conv", _LONE + b"x")
    model = net()
    model.producer_version = "xxxx"
    found["producer-lone-surrogate"] = model.SerializeToString().replace(b"xxxx", _LONE + b"y")
    model = net()
    model.graph.input[0].name = model.graph.node[0].input[0] = "xxx"
    found["input-lone-surrogate"] = model.SerializeToString().replace(b"xxx", _LONE)
    return found


def _external(**entries: object) -> Change:
    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key.rstrip("_"), value=str(value))

    return change


def _sparse(dims: Sequence[int], indices: object, n_values: int) -> Change:
    def change(model: ModelProto) -> None:
        values = numpy_helper.from_array(np.ones(n_values, np.float32), "w")
        places = numpy_helper.from_array(np.asarray(indices, np.int64), "i")
        del model.graph.initializer[0]
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, dims))

    return change


def _also(*nodes: onnx.NodeProto, **values: np.ndarray) -> Change:
    """The net with nodes more; the last one's output is one of the graph's."""

    def change(model: ModelProto) -> None:
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
        model.graph.node.extend(nodes)
        model.graph.output.append(helper.make_empty_tensor_value_info(nodes[-1].output[0]))

    return change


def _import_again(version: int) -> Change:
    def change(model: ModelProto) -> None:
        model.opset_import.add(domain="ai.onnx", version=version)

    return change


def _if(depth: int, captured: str) -> Change:
    def branch(k: int) -> onnx.GraphProto:
        inner = helper.make_node("Identity", [captured], [f"t{k}"])
        if k:
            inner = helper.make_node("If", ["f"], [f"t{k}"], then_branch=branch(k - 1), else_branch=branch(0))
        return helper.make_graph([inner], f"g{k}", [], [helper.make_empty_tensor_value_info(f"t{k}")])

    node = helper.make_node("If", ["f"], ["z"], then_branch=branch(depth), else_branch=branch(0))
    return _also(node, f=np.array(True))


def _functions(*functions: onnx.FunctionProto) -> Change:
    def change(model: ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("d", 1))
        model.functions.extend(functions)
        _also(helper.make_node("F", ["y"], ["z"], domain="d"))(model)

    return change


def _function(nodes: Sequence[onnx.NodeProto], inputs: str = "a", outputs: str = "r") -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    return helper.make_function("d", "F", list(inputs), list(outputs), list(nodes), opsets)


def _calls_itself_in_a_branch() -> onnx.FunctionProto:
    def branch(node: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph([node], "b", [], [helper.make_empty_tensor_value_info(node.output[0])])

    there = branch(helper.make_node("F", ["a"], ["t"], domain="d"))
    here = branch(helper.make_node("Identity", ["a"], ["e"]))
    flag = helper.make_node("Constant", [], ["f"], value=numpy_helper.from_array(np.array(False)))
    return _function([flag, helper.make_node("If", ["f"], ["r"], then_branch=there, else_branch=here)])


def _set(path: str, value: object) -> Change:
    """Set a field, whose place is written as Python writes it."""

    def change(model: ModelProto) -> None:
        *steps, last = path.replace("[", ".").replace("]", "").split(".")
        at: object = model
        for step in steps:
            at = at[int(step)] if step.isdigit() else getattr(at, step)  # type: ignore[index]
        if last.isdigit():
            at[int(last)] = value  # type: ignore[index]
        else:
            setattr(at, last, value)

    return change


def _again(field: str) -> Change:
    def change(model: ModelProto) -> None:
        rows = getattr(model.graph, field)
        rows.append(rows[0])

    return change


def _train(model: ModelProto) -> None:
    training = model.training_info.add()
    training.algorithm.CopyFrom(model.graph)
    training.initialization.CopyFrom(model.graph)
    training.update_binding.add(key="w", value="nothing")


def _describe_much(model: ModelProto) -> None:
    for k in range(5_000):
        model.metadata_props.add(key=f"k{k % 10}", value="\x1b[2J")


def _annotate(model: ModelProto) -> None:
    for name in ("w", "w", "none\x1b"):
        row = model.graph.quantization_annotation.add(tensor_name=name)
        row.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="gone")


def _shadow(model: ModelProto) -> None:
    _if(1, "c")(model)
    model.graph.node[-1].attribute[0].g.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "c"))


def _type(write: Callable[[onnx.TypeProto], object]) -> Change:
    def change(model: ModelProto) -> None:
        added = model.graph.input.add(name="more")
        write(added.type)

    return change


_RELU, _NEG = helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Neg", ["a"], ["r"])
_CONTROLS = "a\u202e\u2066\x9b31m\r\n\x1b]0;x\x07conv"
_CHANGES: dict[str, Change] = {
    "external-itself": _external(location="model.onnx", offset=0, length=432),
    "external-circle-of-links": _external(location="link.data"),
    "external-negative-offset": _external(location="d.bin", offset=-5),
    "external-numbers-of-other-scripts": _external(location="d.bin", offset="+1_0", length="\u0664\u0663\u0662"),
    "external-key-twice": _external(location="d.bin", location_="/etc/passwd"),
    "external-escape-in-checksum": _external(location="d.bin", checksum="zz\x1b[31m"),
    "sparse-index-beyond": _sparse([4, 3, 3, 3], [999_999], 1),
    "sparse-index-negative": _sparse([4, 3, 3, 3], [-1, 5], 2),
    "sparse-indices-unsorted": _sparse([4, 3, 3, 3], [5, 3, 5], 3),
    "sparse-terabytes": _sparse([2**20, 2**20, 3, 3], [5], 1),
    "sparse-indices-of-too-few-axes": _sparse([4, 3, 3, 3], [[1, 2], [3, 4]], 2),
    "sparse-more-indices-than-values": _sparse([4, 3, 3, 3], [1, 2, 3], 1),
    "attribute-long": lambda m: m.graph.node[0].attribute.append(helper.make_attribute("auto_pad", "S" * 2_000_000)),
    "attribute-many-strings": lambda m: m.graph.node[0].attribute.append(
        helper.make_attribute("zz", ["\x1b"] * 50_000)
    ),
    "attribute-twice": lambda m: m.graph.node[1].attribute.append(m.graph.node[1].attribute[0]),
    "attribute-of-a-function": _set("graph.node[1].attribute[0].ref_attr_name", "eps"),
    "attribute-infinite": _set("graph.node[1].attribute[0].f", float("inf")),
    "strings-that-are-no-text": lambda m: m.graph.initializer.append(
        helper.make_tensor("t", TensorProto.STRING, [50_000], [b"a\xff"] * 50_000)
    ),
    "weight-negative-dim": _set("graph.initializer[0].dims[0]", -4),
    "weight-segment": _set("graph.initializer[0].segment.end", _HUGE),
    "weight-in-two-fields": lambda m: m.graph.initializer[0].float_data.extend([1.0] * 108),
    "weight-no-number": _set("graph.initializer[0].raw_data", b"\xff" * 432),
    "weight-twice": _again("initializer"),
    "input-twice": _again("input"),
    "input-negative-dim": _set("graph.input[0].type.tensor_type.shape.dim[0].dim_value", -7),
    "input-huge-dim": _set("graph.input[0].type.tensor_type.shape.dim[2].dim_value", _HUGE),
    "input-empty": _set("graph.input[0].type.tensor_type.shape.dim[0].dim_value", 0),
    "input-optional-of-optional": _type(
        lambda t: t.optional_type.elem_type.sequence_type.elem_type.optional_type.elem_type.tensor_type.SetInParent()
    ),
    "input-map": _type(lambda t: setattr(t.map_type, "key_type", 8)),
    "output-twice": _again("output"),
    "output-is-the-input": lambda m: m.graph.output.append(m.graph.input[0]),
    "output-is-a-weight": lambda m: m.graph.output.append(
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3])
    ),
    "opset-huge": _set("opset_import[0].version", 2**63 - 1),
    "opset-negative": _set("opset_import[0].version", -(2**63)),
    "opset-twice": lambda m: m.opset_import.append(helper.make_opsetid("", 7)),
    "opset-by-both-names": lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 9)),
    "opset-none": lambda m: m.ClearField("opset_import"),
    "ir-zero": _set("ir_version", 0),
    "ir-huge": _set("ir_version", _HUGE),
    "ir-old": _set("ir_version", 3),
    "graph-none": lambda m: m.ClearField("graph"),
    "graph-circle": _set("graph.node[0].input[0]", "y"),
    "training": _train,
    "metadata-many": _describe_much,
    "metadata-deep": lambda m: helper.set_model_props(m, {"biasopt": "[" * 100_000}),
    "annotations-of-nothing": _annotate,
    "if-25-deep": _if(25, "c"),
    "if-captures-nothing": _if(2, "ghost"),
    "if-shadows": _shadow,
    "function-calls-itself-in-a-branch": _functions(_calls_itself_in_a_branch()),
    "function-twice": _functions(_function([_RELU]), _function([_NEG])),
    "function-inputs-twice-outputs-missing": _functions(_function([_RELU], "aa", "rq")),
    "function-of-onnx-itself": lambda m: m.functions.append(
        helper.make_function("", "Conv", list("abc"), ["r"], [_RELU], [helper.make_opsetid("", 17)])
    ),
    "expand-terabytes": _also(helper.make_node("Expand", ["b", "e"], ["z"]), e=np.array([2**20, 2**20, 4], np.int64)),
    "range-for-ever": _also(
        helper.make_node("Range", ["r0", "r1", "r2"], ["z"]),
        r0=np.array(0, np.int64),
        r1=np.array(_HUGE, np.int64),
        r2=np.array(1, np.int64),
    ),
    "range-for-ever-read": _also(
        helper.make_node("Range", ["r0", "r1", "r2"], ["z0"]),
        helper.make_node("Cast", ["z0"], ["z"], to=1),
        r0=np.array(0, np.int64),
        r1=np.array(_HUGE, np.int64),
        r2=np.array(1, np.int64),
    ),
    "filled-for-ever-read": _also(
        helper.make_node("ConstantOfShape", ["e"], ["z0"]),
        helper.make_node("Add", ["z0", "z0"], ["z"]),
        e=np.array([_HUGE], np.int64),
    ),
    "filled-for-a-product": _also(
        helper.make_node("Mul", ["e", "f"], ["n"]),
        helper.make_node("ConstantOfShape", ["n"], ["z0"]),
        helper.make_node("Add", ["z0", "z0"], ["z"]),
        e=np.array([2**20], np.int64),
        f=np.array([2**18], np.int64),
    ),
    "filled-and-flattened": _also(
        helper.make_node("Add", ["e", "e"], ["n"]),
        helper.make_node("ConstantOfShape", ["n"], ["z0"], value=numpy_helper.from_array(np.array([1], np.int64))),
        helper.make_node("Reshape", ["z0", "f"], ["z1"]),
        helper.make_node("Add", ["z1", "z1"], ["z"]),
        e=np.array([2**13] * 3, np.int64),
        f=np.array([-1], np.int64),
    ),
    "two-versions": _import_again(11),
    "names-with-controls": _set("graph.node[0].name", _CONTROLS),
    "bias-of-four-axes": _set("graph.node[0].input[2]", "w"),
    "producer-with-controls": _set("producer_name", _CONTROLS),
}
