"""Models that nobody plans for: each once went wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

import converter
from converter.errors import ModelError

RNG = np.random.default_rng(0)


def build(text: str, opset: int = 17, ir: int = 8, imports: str = "", **values: np.ndarray) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}{imports}]>\n{text}')
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in values.items()
    )
    return proto


def bn(channels: int) -> dict[str, np.ndarray]:
    return {
        "g": RNG.uniform(0.5, 2, channels),
        "b": RNG.normal(size=channels),
        "m": RNG.normal(size=channels),
        "v": RNG.uniform(0.5, 2, channels),
    }


def codes(result: converter.FoldResult) -> set[str]:
    return {f.code for f in result.findings if f.code}


@pytest.mark.parametrize("last", ["y = Sub (a, k)", "y = Add (nk, a)"])
def test_rounding_by_a_large_sum_stays(last: str) -> None:
    magic = np.float32(12582912)
    model = build(
        f"g (float[1, 3, 5, 7] x) => (float[1, 2, 5, 7] y) {{ z = Conv (x, w) a = Add (z, k) {last} }}",
        w=RNG.normal(size=(2, 3, 1, 1)),
        k=magic,
        nk=-magic,
    )
    result = converter.fold(model)
    assert not result.rewrites
    assert "rounding-add" in codes(result)


def test_an_add_with_an_axis_is_no_bias_of_a_matmul() -> None:
    model = build(
        "g (float[4, 3] x) => (float[4, 4] y) { q = Mul <broadcast=1> (x, s) a = MatMul (q, w) "
        "y = Add <axis=0, broadcast=1> (a, c) }",
        opset=6,
        ir=4,
        s=2.0,
        w=RNG.normal(size=(3, 4)),
        c=RNG.normal(size=4),
    )
    result = converter.fold(model)
    assert result.parity is not None
    assert result.parity.verdict == "PASS"
    assert [n.op_type for n in result.model.graph.node][-2:] == ["MatMul", "Add"]


def test_a_branch_inside_a_function_is_read() -> None:
    branch = helper.make_graph([helper.make_node("Neg", ["fx"], ["o"])], "t", [], [_info("o")])
    other = helper.make_graph([helper.make_node("Identity", ["fx"], ["p"])], "e", [], [_info("p")])
    body = [helper.make_node("If", ["fc"], ["fy"], then_branch=branch, else_branch=other)]
    function = helper.make_function("loc", "F", ["fx", "fc"], ["fy"], body, [helper.make_opsetid("", 17)])
    model = build(
        "g (float[1, 3, 5, 7] x, bool c) => (float[1, 2, 5, 7] y) { h = Conv (x, w) "
        "n = BatchNormalization (h, g, b, m, v) y = loc.F (n, c) }",
        imports=', "loc" : 1',
        w=RNG.normal(size=(2, 3, 1, 1)),
        **bn(2),
    )
    model.functions.append(function)
    result = converter.fold(model)
    assert result.after.batch_norms == 0
    assert result.parity is not None
    assert result.parity.verdict == "PASS"


def _info(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def test_a_circle_is_an_error() -> None:
    model = build("g (float[1, 3] x) => (float[1, 3] y) { a = Identity (q) q = Identity (a) y = Add (x, q) }")
    with pytest.raises(ModelError, match="hangs on what it makes itself"):
        converter.fold(model)


def test_an_initializer_twice_is_an_error() -> None:
    model = build("g (float[1, 3] x) => (float[1, 3] y) { y = Add (x, k) }", k=np.ones(3))
    model.graph.initializer.append(model.graph.initializer[0])
    with pytest.raises(ModelError, match="twice"):
        converter.fold(model)


def test_absent_outputs_of_a_batch_norm_do_not_become_those_of_an_add() -> None:
    model = build(
        "g (float[2, 5, 3] x) => (float[2, 4, 5] y) { a = MatMul (x, w) t = Transpose <perm = [0, 2, 1]> (a) "
        "y = BatchNormalization (t, g, b, m, v) }",
        opset=9,
        w=RNG.normal(size=(3, 4)),
        **bn(4),
    )
    model.graph.node[-1].output.extend(["", "", "", ""])
    result = converter.fold(model, verify=False)
    assert result.model.graph.node[-1].op_type == "Add"
    assert list(result.model.graph.node[-1].output) == ["y"]
    onnx.checker.check_model(result.model, full_check=True)


def test_a_gemm_whose_beta_comes_from_the_call_keeps_its_bias() -> None:
    gemm = helper.make_node("Gemm", ["fx", "fw", "fb"], ["h"])
    gemm.attribute.append(onnx.AttributeProto(name="beta", type=onnx.AttributeProto.FLOAT, ref_attr_name="beta"))
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value, np.float32)))
        for name, value in {"fw": RNG.normal(size=(3, 4)), "fb": RNG.normal(size=4), **bn(4)}.items()
    ]
    norm = helper.make_node("BatchNormalization", ["h", "g", "b", "m", "v"], ["fy"])
    function = helper.make_function(
        "loc",
        "F",
        ["fx"],
        ["fy"],
        [*constants, gemm, norm],
        [helper.make_opsetid("", 16)],
        ["beta"],  # stays one
    )
    model = build("g (float[2, 3] x) => (float[2, 4] y) { y = loc.F <beta = 0.5> (x) }", imports=', "loc" : 1')
    model.functions.append(function)
    result = converter.fold(model, keep_bn=True, verify=False)
    assert not result.rewrites
    assert "function-attribute" in codes(result)


def test_a_function_that_takes_an_operators_name_is_not_the_operator() -> None:
    body = [helper.make_node("Relu", ["fx"], ["fy"])]
    function = helper.make_function("", "Neg", ["fx"], ["fy"], body, [helper.make_opsetid("", 17)])
    model = build(
        "g (float[1, 3, 5, 7] x) => (float[1, 2, 5, 7] y) { h = Conv (x, w) y = Neg (h) }",
        w=RNG.normal(size=(2, 3, 1, 1)),
    )
    model.functions.append(function)
    assert not converter.fold(model, verify=False).rewrites


@pytest.mark.parametrize("other", ["m.onnx.bak", "copy.ONNX", "notes.txt"])
def test_in_place_keeps_data_that_another_file_names(tmp_path: Path, other: str) -> None:
    text = "g (float[1, 3, 5, 7] x) => (float[1, 9, 5, 7] y) { h = Conv (x, w) y = BatchNormalization (h, g, b, m, v) }"
    model = build(text, w=RNG.normal(size=(9, 3, 5, 5)).reshape(9, 3, 5, 5), **bn(9))
    model.graph.node[0].attribute.append(helper.make_attribute("pads", [2, 2, 2, 2]))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / other).write_bytes(path.read_bytes())
    result = converter.fold(path, in_place=True)
    assert result.exit_code == 0
    assert (tmp_path / "w.bin").exists()
    (tmp_path / other).unlink()


def test_an_empty_external_tensor_has_its_file(tmp_path: Path) -> None:
    model = build(
        "g (float[1, 3, 5, 7] x) => (float[1, 2, 5, 7] y, float[105] z) "
        "{ h = Conv (x, w) y = BatchNormalization (h, g, b, m, v) "
        "f = Flatten <axis = 0> (x) q = Squeeze (f) z = Concat <axis = 0> (e, q) }",
        w=RNG.normal(size=(2, 3, 1, 1)),
        **bn(2),
    )
    empty = onnx.TensorProto(name="e", dims=[0], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", "e.bin"), ("offset", "0"), ("length", "0")):
        empty.external_data.add(key=key, value=value)
    model.graph.initializer.append(empty)
    (tmp_path / "e.bin").write_bytes(b"")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    result = converter.fold(tmp_path / "m.onnx", out=tmp_path / "o.onnx")
    assert result.exit_code == 0, result.parity
    assert result.after.batch_norms == 0
    onnx.checker.check_model(str(tmp_path / "o.onnx"))


def test_a_fold_does_not_rest_on_a_stale_shape() -> None:
    """By the file's word `c` keeps the channels of `a` apart; of more than one picture it does not."""
    model = build(
        "g (float[N, 4, 5] x) => (float[6, ?] y) <float[1, 6, 5] a, float[6, 5] c> {"
        " a = Conv (x, w) c = Reshape (a, sh) y = Mul (c, s) }",
        w=np.linspace(-1, 1, 24).reshape(6, 4, 1), s=np.linspace(1, 2, 6).reshape(6, 1),
    )  # fmt: skip
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([6, -1]), "sh"))
    result = converter.fold(model)
    assert result.rewrites == ()
    assert result.stale_shapes == ("a",)
