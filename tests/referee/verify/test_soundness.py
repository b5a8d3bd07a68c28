"""Rewrites that look like a fold of this tool's own, by its mark and by most of their numbers, and are wrong.

Each has the mark of a fold, so that the short way, the proof, is taken: it must not say what is not so. Beside each
stands the right fold of the same kind, which is proved.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

import converter
from converter.records import Parity, Verdict
from converter.referee.proto.diff import find_changed_regions
from converter.referee.proto.source import LoadedModel

F, H = TensorProto.FLOAT, np.float16
RNG = np.random.default_rng(0)
W, W2 = (RNG.standard_normal((8, 8)).astype(np.float32) for _ in range(2))
B, G = (RNG.standard_normal(8).astype(np.float32) for _ in range(2))
OWN = [helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("custom", 1), helper.make_opsetid("my", 1)]
node, port = helper.make_node, helper.make_tensor_value_info


def net(
    nodes: Sequence[NodeProto],
    x: Sequence[Any],
    y: Sequence[Any],
    held: dict[str, Any],
    *,
    fold: bool,
    kind: int = F,
    stated: Sequence[Any] = (),
    more: Sequence[Any] = (),
    functions: Sequence[FunctionProto] = (),
) -> ModelProto:
    """A model with the input ``x`` and the output ``y``; with the mark of a fold where it is to pass for one."""
    tensors = [store(np.asarray(v), k) for k, v in held.items()]
    inputs = [port("x", kind, x), *more]
    graph = helper.make_graph(nodes, "net", inputs, [port("y", kind, y)], tensors, value_info=list(stated))
    opsets = [helper.make_opsetid("", 17), *OWN]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))
    if fold:
        helper.set_model_props(model, {"biasopt.rewrites": "[]"})
    return model


def store(value: np.ndarray, name: str) -> TensorProto:
    if value.dtype != ml_dtypes.bfloat16:
        return numpy_helper.from_array(value, name)
    bits = value.view(np.uint16).tobytes()  # which an older onnx does not write itself
    return helper.make_tensor(name, TensorProto.BFLOAT16, value.shape, bits, raw=True)


def judge(a: ModelProto, b: ModelProto, **options: Any) -> Parity:
    return converter.compare(a, b, **options)


def assert_proved(a: ModelProto, b: ModelProto) -> None:
    parity = judge(a, b)
    assert (parity.verdict, parity.level) == (Verdict.PASS, "P"), parity.why


def assert_failed(a: ModelProto, b: ModelProto, **options: Any) -> None:
    parity = judge(a, b, **options)
    assert parity.verdict is Verdict.FAIL, (parity.level, parity.why)


def assert_unproved(a: ModelProto, b: ModelProto, **options: Any) -> None:
    """Right on what was run, and not for all inputs."""
    parity = judge(a, b, **options)
    assert parity.level != "P", parity.why


# -- names that mean one thing here and another one there ------------------------------------


def function(name: str, weight: Any, *, fold: bool) -> FunctionProto:
    held = "v" if fold else "w"
    nodes = [node("Constant", [], [held], value=numpy_helper.from_array(weight, "w"))]
    nodes.append(node("MatMul", ["X", held], ["Y" if fold else "m"], name="mm"))
    if not fold:
        two = numpy_helper.from_array(np.float32(2), "two")
        nodes += [node("Constant", [], ["two"], value=two), node("Mul", ["m", "two"], ["Y"])]
    return helper.make_function("my", name, ["X"], ["Y"], nodes, [helper.make_opsetid("", 17)])


def two_functions(first: Any, second: Any, *, fold: bool) -> ModelProto:
    nodes = [node("F", ["x"], ["a"], domain="my"), node("Relu", ["a"], ["r"]), node("G", ["r"], ["y"], domain="my")]
    functions = [function("F", first, fold=fold), function("G", second, fold=fold)]
    return net(nodes, [1, 8], [1, 8], {}, fold=fold, functions=functions)


def test_tensors_of_one_name_in_two_functions() -> None:
    a = two_functions(W, W2, fold=False)
    assert_proved(a, two_functions(2 * W, 2 * W2, fold=True))
    off = (2 * W2).copy()
    off[3, 4] *= np.float32(1 + 2**-20)
    assert_failed(a, two_functions(2 * W, off, fold=True))


def branch(weight: Any, *, fold: bool) -> GraphProto:
    nodes = [node("MatMul", ["x", "w"], ["s" if fold else "m"], name="mm")]
    held = [numpy_helper.from_array(weight, "w")]
    if not fold:
        nodes.append(node("Mul", ["m", "two"], ["s"]))
        held.append(numpy_helper.from_array(np.float32(2), "two"))
    return helper.make_graph(nodes, "branch", [], [port("s", F, [1, 8])], held)


def branches(then: GraphProto, other: GraphProto, *, fold: bool) -> ModelProto:
    nodes = [node("Not", ["c"], ["n"]), node("If", ["n"], ["y"], then_branch=then, else_branch=other)]
    return net(nodes, [1, 8], [1, 8], {}, fold=fold, more=[port("c", TensorProto.BOOL, [])])


@pytest.mark.parametrize("wrong", ["then", "else"])
def test_tensors_of_one_name_in_two_branches(wrong: str) -> None:
    a = branches(branch(W, fold=False), branch(W2, fold=False), fold=False)
    assert_proved(a, branches(branch(2 * W, fold=True), branch(2 * W2, fold=True), fold=True))
    off = {"then": 2 * W, "else": 2 * W2}
    off[wrong] = off[wrong].copy()
    off[wrong][3, 4] *= np.float32(1.5)
    for seed in (0, 1):  # whichever of the two is run
        b = branches(branch(off["then"], fold=True), branch(off["else"], fold=True), fold=True)
        assert_failed(a, b, seed=seed)


def transposed(first: str, second: str, *, runs: bool, fold: bool) -> ModelProto:
    inner = "p_" if fold else "p"
    nodes = [] if runs else [node("Foo", ["x"], ["z"], domain="custom")]
    nodes += [node("Transpose", [name], [t], perm=[1, 0]) for name, t in ((first, "t1"), (second, "t2"))]
    nodes += [node("MatMul", ["x" if runs else "z", "t1"], [inner]), node("MatMul", [inner, "t2"], ["y"])]
    stated = [] if runs else [port("z", F, [1, 8])]
    return net(nodes, [1, 8], [1, 8], {"U": W, "V": W2}, fold=fold, stated=stated)


@pytest.mark.parametrize("runs", [True, False])
def test_computed_weights_that_changed_places(runs: bool) -> None:
    assert_failed(transposed("U", "V", runs=runs, fold=False), transposed("V", "U", runs=runs, fold=True))


def called_twice(*, fold: bool, ignores: bool = False) -> ModelProto:
    """A function of a weight, called with two of them; ``ignores``: it holds the first one, doubled, itself."""
    if ignores:
        held = numpy_helper.from_array(2 * W, "w")
        nodes = [node("Constant", [], ["w"], value=held), node("MatMul", ["X", "w"], ["Y"], name="mm")]
    else:
        two = numpy_helper.from_array(np.float32(2), "two")
        nodes = [node("Constant", [], ["two"], value=two), node("MatMul", ["X", "V"], ["m"], name="mm")]
        nodes.append(node("Mul", ["m", "two"], ["Y"]))
    double = helper.make_function("my", "F", ["X", "V"], ["Y"], nodes, [helper.make_opsetid("", 17)])
    # The second call counts for nothing in most inputs: a clip holds what comes to it far away from where it tells.
    main = [
        *(node("F", ["x", "U"], ["a"], domain="my"), node("Sub", ["x", "far"], ["d"]), node("Relu", ["d"], ["r"])),
        *(node("F", ["r", "V"], ["b"], domain="my"), node("Add", ["a", "b"], ["y"])),
    ]
    held_ = {"U": W, "V": W2, "far": np.float32(1e6)}
    return net(main, [1, 8], [1, 8], held_, fold=fold, functions=[double])


def test_a_function_that_holds_what_only_its_first_call_gave_it() -> None:
    parity = judge(called_twice(fold=False), called_twice(fold=True, ignores=True))
    assert parity.verdict is not Verdict.PASS, (parity.level, parity.why)


# -- casts -----------------------------------------------------------------------------------


def quantized(*, fold: bool, cast: int = 0, weights: Any = None, runs: bool = True, steps: bool = True) -> ModelProto:
    """A layer behind a quantiser; ``cast``: what it reads goes through a narrower type, ``weights``: all of it does."""
    nodes, held, x = [], {}, "x"
    if not runs:
        nodes, x = [node("Foo", [x], ["z"], domain="custom")], "z"
    if steps:
        held = {"s": np.float32(0.1), "o": np.int8(0)}
        nodes += [node("QuantizeLinear", [x, "s", "o"], ["q"]), node("DequantizeLinear", ["q", "s", "o"], ["d"])]
        x = "d"
    if cast:
        nodes.append(node("Cast", [x], ["h"], to=cast))
        x = "h"
        if weights is None:
            nodes.append(node("Cast", ["h"], ["hf"], to=F))
            x = "hf"
    if fold:
        nodes.append(node("MatMul", [x, "v"], ["y" if weights is None else "m"], name="mm"))
        held["v"] = 2 * W if weights is None else (2 * W).astype(weights)
        nodes += [] if weights is None else [node("Cast", ["m"], ["y"], to=F)]
    else:
        nodes += [node("MatMul", [x, "w"], ["m"], name="mm"), node("Mul", ["m", "two"], ["y"])]
        held |= {"w": W, "two": np.float32(2)}
    return net(nodes, [4, 8], [4, 8], held, fold=fold, stated=[] if runs else [port("z", F, [4, 8])])


@pytest.mark.parametrize("kind", [(TensorProto.FLOAT16, H), (TensorProto.BFLOAT16, ml_dtypes.bfloat16)])
@pytest.mark.parametrize("where", ["input", "layer", "layer-not-run"])
def test_a_cast_to_a_narrower_type(where: str, kind: tuple[int, Any]) -> None:
    given = {"runs": False, "steps": False} if where == "layer-not-run" else {}
    a = quantized(fold=False, **given)
    assert_proved(a, quantized(fold=True, **given))
    assert_failed(a, quantized(fold=True, cast=kind[0], weights=None if where == "input" else kind[1], **given))


def half(*, fold: bool, cast: int = 0) -> ModelProto:
    nodes, x = [], "x"
    if cast:
        nodes, x = [node("Cast", ["x"], ["h"], to=cast), node("Cast", ["h"], ["f"], to=TensorProto.FLOAT16)], "f"
    nodes += [node("MatMul", [x, "w"], ["y" if fold else "m"], name="mm")]
    nodes += [] if fold else [node("Mul", ["m", "two"], ["y"])]
    held = {"w": (W * (2 if fold else 1)).astype(H), "two": H(2)}
    return net(nodes, [4, 8], [4, 8], held, fold=fold, kind=TensorProto.FLOAT16)


def test_a_cast_to_bfloat16_in_a_half_precision_model() -> None:
    assert_proved(half(fold=False), half(fold=True))
    assert_unproved(half(fold=False), half(fold=True, cast=TensorProto.BFLOAT16))


# -- sizes that hold for the inputs that were run, or that the file states -------------------

KERNEL, SHIFT = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32), RNG.standard_normal(3).astype(np.float32)


def end_padded(side: Any, *, fold: bool, stated: Sequence[Any] = ()) -> ModelProto:
    """A shift before a convolution whose padding lies at the end: of an odd side no window reads it, of an even one."""
    conv = {"pads": [0, 0, 1, 1], "strides": [2, 2], "kernel_shape": [3, 3], "name": "cv"}
    nodes = [node("Relu", ["x"], ["z"])]
    if fold:
        bias = np.einsum("oikl,i->o", KERNEL.astype(np.float64), SHIFT).astype(np.float32)
        nodes.append(node("Conv", ["z", "w", "b"], ["y"], **conv))
        held = {"w": KERNEL, "b": bias}
    else:
        nodes += [node("Add", ["z", "a"], ["za"]), node("Conv", ["za", "w"], ["y"], **conv)]
        held = {"w": KERNEL, "a": SHIFT.reshape(1, 3, 1, 1)}
    return net(nodes, [1, 3, side, side], [1, 4, None, None], held, fold=fold, stated=stated)


def test_a_padding_that_some_sizes_read() -> None:
    assert_proved(end_padded(9, fold=False), end_padded(9, fold=True))
    assert_failed(end_padded(8, fold=False), end_padded(8, fold=True))
    assert_failed(end_padded("S", fold=False), end_padded("S", fold=True))
    assert_unproved(end_padded("S", fold=False), end_padded("S", fold=True), shapes={"x": (1, 3, 9, 9)})
    stated = [port("z", F, [1, 3, 9, 9])]
    assert_failed(end_padded("S", fold=False, stated=stated), end_padded("S", fold=True, stated=stated))


def many(factor: Any, *, fold: bool) -> ModelProto:
    nodes = [node("MatMul", ["x", "w"], ["y" if fold else "m"], name="mm")]
    nodes += [] if fold else [node("Mul", ["m", "f"], ["y"])]
    return net(nodes, ["N", 8], [None, 8], {"w": W * (2 if fold else 1), "f": factor}, fold=fold)


def test_a_factor_that_makes_a_row_three_rows() -> None:
    assert_proved(many(np.float32(2), fold=False), many(np.float32(2), fold=True))
    rows = np.full((3, 1), 2, np.float32)
    assert_unproved(many(rows, fold=False), many(rows, fold=True), shapes={"x": (3, 8)})
    assert_failed(many(rows, fold=False), many(rows, fold=True))


def test_an_output_that_is_stated_too_small() -> None:
    a, b = many(np.float32(2), fold=False), many(np.float32(2), fold=True)
    b.graph.output[0].CopyFrom(port("y", F, [5, 8]))
    assert_failed(a, b)


# -- what cancels, or sums to one, along one axis only; and what cancels at a cost -----------


def attended(axis: int, *, fold: bool) -> ModelProto:
    nodes = [node("Softmax", ["x"], ["s"], axis=axis)]
    if fold:
        nodes += [node("MatMul", ["s", "v"], ["p"]), node("Add", ["p", "b"], ["y"])]
    else:
        nodes += [node("Add", ["v", "b"], ["vb"]), node("MatMul", ["s", "vb"], ["y"])]
    return net(nodes, [1, 8, 8], [1, 8, 8], {"b": B}, fold=fold, more=[port("v", F, [1, 8, 8])])


def test_columns_that_sum_to_one() -> None:
    assert_proved(attended(-1, fold=False), attended(-1, fold=True))
    assert_failed(attended(-2, fold=False), attended(-2, fold=True))


def skip_norm(added: float, *, runs: bool = True, steps: bool = False, fold: bool) -> ModelProto:
    """A number before a norm, which cancels it; the fold is the side that has it, and has lost what it was added to."""
    nodes, held, x = [], {"g": W[0], "b": B}, "x"
    if not runs:
        nodes, x = [node("Foo", ["x"], ["z"], domain="custom")], "z"
    if steps:
        held |= {"s": np.float32(0.1), "o": np.int8(0)}
        nodes += [node("QuantizeLinear", [x, "s", "o"], ["q"]), node("DequantizeLinear", ["q", "s", "o"], ["d"])]
        x = "d"
    if fold:
        nodes.append(node("Add", [x, "f"], ["xf"]))
        held["f"], x = np.float32(added), "xf"
    given = {"domain": "com.microsoft", "name": "norm", "epsilon": 1e-5}
    nodes.append(node("SkipLayerNormalization", [x, "k", "g", "b"], ["y"], **given))
    stated = [] if runs else [port("z", F, [1, 4, 8])]
    return net(nodes, [1, 4, 8], [1, 4, 8], held, fold=fold, more=[port("k", F, [1, 4, 8])], stated=stated)


@pytest.mark.parametrize("way", [{}, {"steps": True}, {"runs": False}], ids=["run", "quantised", "not-run"])
def test_a_large_number_before_a_norm(way: dict[str, bool]) -> None:
    assert_proved(skip_norm(0.5, fold=False, **way), skip_norm(0.5, fold=True, **way))
    assert_failed(skip_norm(1e5, fold=False, **way), skip_norm(1e5, fold=True, **way))


def attention(key: float, *, runs: bool, fold: bool) -> ModelProto:
    bias = np.concatenate([B, np.full(8, key, np.float32), G])
    nodes, x = ([], "x") if runs else ([node("Foo", ["x"], ["z"], domain="custom")], "z")
    weights = np.concatenate([W, W2, W], axis=1)
    name = "b_" if fold else "b"
    nodes.append(node("Attention", [x, "w", name], ["y"], domain="com.microsoft", num_heads=2, name="at"))
    stated = [] if runs else [port("z", F, [1, 6, 8])]
    return net(nodes, [1, 6, 8], [1, 6, 8], {"w": weights, name: bias}, fold=fold, stated=stated)


@pytest.mark.parametrize("runs", [True, False])
def test_a_large_key_bias(runs: bool) -> None:
    assert_proved(attention(1.0, runs=runs, fold=False), attention(0.0, runs=runs, fold=True))
    assert_failed(attention(0.0, runs=runs, fold=False), attention(1e8, runs=runs, fold=True))


# -- a factor that went on, past a rectifier and a mean, to what reads them ------------------


def pooled(*, fold: bool, scale: Any) -> ModelProto:
    beta = np.concatenate([B[:4], [0, 0, 0, 0]]).astype(np.float32)
    exact = W.astype(np.float64) * np.asarray(scale, np.float64)[:, None]
    held = {"g": scale, "beta": beta, "m": np.zeros(8, np.float32), "v": np.full(8, 1 - 1e-5, np.float32)}
    held |= {"a": np.array([2, 3]), "to": np.array([-1, 8]), "w": exact.astype(np.float32) if fold else W}
    if fold:
        root = np.sqrt(held["v"].astype(np.float64) + np.float64(np.float32(1e-5)))
        held["t"] = (beta / (scale / root)).astype(np.float32).reshape(1, 8, 1, 1)
        held["w"] = (W.astype(np.float64) * (scale / root)[:, None]).astype(np.float32)
        nodes = [node("Add", ["x", "t"], ["n"])]
    else:
        nodes = [node("BatchNormalization", ["x", "g", "beta", "m", "v"], ["n"], name="bn")]
    nodes += [node("Relu", ["n"], ["r"]), node("ReduceMean", ["r"], ["p"], axes=[2, 3], keepdims=1)]
    nodes += [node("Reshape", ["p", "to"], ["f"]), node("MatMul", ["f", "w"], ["y"], name="mm")]
    for i in nodes if fold else ():  # what means something else has another name
        i.input[0], i.output[0] = (n if n in "xy" else f"{n}/scaled" for n in (i.input[0], i.output[0]))
    used = {name for n in nodes for name in n.input}
    return net(nodes, ["N", 8, 5, 5], ["N", 8], {k: v for k, v in held.items() if k in used}, fold=fold)


def test_a_factor_past_a_rectifier_and_a_mean() -> None:
    scale = (np.abs(G) + np.float32(0.1)).astype(np.float32)
    assert_proved(pooled(fold=False, scale=scale), pooled(fold=True, scale=scale))
    scale[2] *= -1
    assert_failed(pooled(fold=False, scale=scale), pooled(fold=True, scale=scale))


# -- sizes that are counted from the end -----------------------------------------------------


def cut(end: int, *, fold: bool) -> ModelProto:
    nodes = [node("MatMul", ["x", "w"], ["m2" if fold else "m"], name="mm")]
    nodes += [] if fold else [node("Mul", ["m", "two"], ["m2"])]
    nodes.append(node("Slice", ["m2", "from", "end", "along"], ["y"]))
    held = {"w": W * (2 if fold else 1), "two": np.float32(2)}
    held |= {"from": np.array([1]), "end": np.array([end]), "along": np.array([1])}
    return net(nodes, [1, "S", 8], [1, None, 8], held, fold=fold)


def test_an_end_that_only_long_inputs_reach() -> None:
    assert_proved(cut(2**63 - 1, fold=False), cut(2**63 - 1, fold=True))
    assert_failed(cut(2**63 - 1, fold=False), cut(64, fold=True))


# -- right folds that a proof has to follow --------------------------------------------------


def joined(*, fold: bool, sizes: Sequence[Any]) -> ModelProto:
    """Two factors before a concatenation, which went into the layer behind it."""
    six = np.float32(1 / 6)
    nodes = [] if fold else [node("Mul", ["x", "six"], ["xs"]), node("Mul", ["k", "six"], ["ks"])]
    parts = ["x", "k"] if fold else ["xs", "ks"]
    nodes += [node("Concat", parts, ["c_" if fold else "c"], axis=1)]
    nodes += [node("Conv", [nodes[-1].output[0], "v" if fold else "w"], ["y"], name="cv")]
    kernel = np.concatenate([KERNEL, KERNEL], axis=1)
    held = {"v": (kernel.astype(np.float64) * six).astype(np.float32)} if fold else {"w": kernel, "six": six}
    return net(nodes, sizes, [1, 4, None, None], held, fold=fold, more=[port("k", F, sizes)])


@pytest.mark.parametrize("sizes", [[1, 3, 6, 6], [1, 3, "H", "W"]])
def test_factors_past_a_concatenation(sizes: Sequence[Any]) -> None:
    a, b = joined(fold=False, sizes=sizes), joined(fold=True, sizes=sizes)
    assert_proved(a, b)
    value = numpy_helper.to_array(b.graph.initializer[0]).copy()
    value[1, 4, 0, 0] = -value[1, 4, 0, 0]
    b.graph.initializer[0].CopyFrom(numpy_helper.from_array(value, "v"))
    assert_failed(a, b)


@pytest.mark.parametrize("between", ["Identity", "Dropout"])
def test_rows_that_sum_to_one_past_a_node_that_does_nothing(between: str) -> None:
    pair = [attended(-1, fold=fold) for fold in (False, True)]
    for model in pair:
        model.graph.node[0].output[0] = "rows"
        model.graph.node.insert(1, node(between, ["rows"], ["s"]))
    assert_proved(*pair)


def packed(*, fold: bool) -> ModelProto:
    """The first third of a packed layer, cut out by bounds that the model computes of its own shape, twice as large."""
    weights = np.concatenate([W, W2, W], axis=1)
    nodes = [node("MatMul", ["x", "v" if fold else "w"], ["m_" if fold else "m"], name="mm")]
    m, cut_ = nodes[0].output[0], "y" if fold else "c"
    nodes += [node("Shape", [m], ["shape"]), node("Gather", ["shape", "last"], ["width"])]
    nodes += [node("Div", ["width", "three"], ["third"]), node("Slice", [m, "from", "third", "last"], [cut_])]
    nodes += [] if fold else [node("Mul", ["c", "two"], ["y"])]
    held = {"last": np.array([2]), "three": np.array([3]), "from": np.array([0]), "two": np.float32(2), "w": weights}
    held["v"] = weights * np.repeat(np.array([2, 1, 1], np.float32), 8)
    used = {name for n in nodes for name in n.input}
    return net(nodes, [1, "S", 8], [1, "S", 8], {k: v for k, v in held.items() if k in used}, fold=fold)


def test_a_part_whose_bounds_are_computed() -> None:
    assert_proved(packed(fold=False), packed(fold=True))


def trunk(*, fold: bool) -> ModelProto:
    """A long trunk; the fold made the last of its tensors again, and reads it in the old one's place."""
    names = ["x", *(f"t{k}" for k in range(450))]
    nodes = [node("Add", [a, "b"], [b]) for a, b in itertools.pairwise(names)]
    nodes += [node("Add", [names[-2], "b"], ["again"])] if fold else []
    nodes += [node("MatMul", ["again" if fold else names[-1], "w"], ["y" if fold else "m"], name="mm")]
    nodes += [node("Add", [names[-1], names[-1]], ["z"])]
    nodes += [] if fold else [node("Mul", ["m", "two"], ["y"])]
    held = {"w": W * (2 if fold else 1), "b": B, "two": np.float32(2)}
    model = net(nodes, [1, 8], [1, 8], held, fold=fold)
    model.graph.output.append(port("z", F, [1, 8]))
    return model


def test_a_place_ends_where_both_sides_meet_first() -> None:
    a, b = trunk(fold=False), trunk(fold=True)
    found = find_changed_regions(LoadedModel.open(a), LoadedModel.open(b))
    assert not found.unmatched
    assert max(len(m.graph.node) for r in found.regions for m in (r.before, r.after)) < 5


def overridable(how: str = "") -> ModelProto:
    """A layer and a batch norm whose numbers the caller may give, too."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Mul", ["h", "g"], ["k"]), node("Add", ["k", "b"], ["l"])]
    nodes += [node("Relu", ["l"], ["r"]), node("MatMul", ["r", "w2"], ["y"])]
    given = {"w": [8, 8], "g": [8], "b": [8], "w2": [8, 8]}
    more = [port(name, F, shape) for name, shape in given.items()]
    model = net(nodes, ["n", 8], ["n", 8], {"w": W, "g": G, "b": B, "w2": W2}, fold=False, more=more)
    if how:
        folded = converter.fold(model, verify=False, freeze_overridable=True).model
        (changed,) = (t for t in folded.graph.initializer if t.name == "w2")
        if how == "another default":
            changed.CopyFrom(numpy_helper.from_array(np.nextafter(W2, np.float32(9)), "w2"))
        return folded
    return model


@pytest.mark.parametrize(("how", "level"), [("frozen", "P"), ("another default", None)])
def test_a_fold_of_defaults_is_proved_and_only_with_them(how: str, level: str | None) -> None:
    parity = converter.compare(overridable(), overridable(how))
    if level is None:
        assert parity.level != "P" and parity.verdict is not Verdict.PASS
    else:
        assert (parity.verdict, parity.level) == (Verdict.PASS, level)
        assert any("no longer be overridden" in str(warning) for warning in parity.warnings)
