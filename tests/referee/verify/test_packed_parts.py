"""Parts of a packed layer behind a reshape whose axes are not known: nothing is claimed of what nobody reads there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter import compare, fold
from converter.records import Verdict


def _attention(*, known: bool) -> onnx.ModelProto:
    """Queries, keys and values of one product; a number on the queries. Unknown: the product's rank is computed."""
    rng, node = np.random.default_rng(0), helper.make_node
    arrays = {
        "w": rng.normal(size=(8, 24)).astype(np.float32) / 3,
        "b": rng.normal(size=24).astype(np.float32),
        "heads": np.array([0, -1, 3, 2, 4]),
        "scale": np.float32(0.5),
        "axis": np.array([0]),
        **{f"at{k}": np.array([k]) for k in range(4)},
    }
    computed = [node("Shape", ["x"], ["dims"]), node("Mul", ["dims", "at1"], ["same"])]
    nodes = [
        *([node("Identity", ["x"], ["t"])] if known else [*computed, node("Reshape", ["x", "same"], ["t"])]),
        node("MatMul", ["t", "w"], ["qkv"], "packed"),
        node("Add", ["qkv", "b"], ["added"]),
        node("Reshape", ["added", "heads"], ["split"]),
        node("Transpose", ["split"], ["packed"], perm=[2, 0, 3, 1, 4]),
    ]
    for k, name in enumerate("qkv"):
        nodes.append(node("Slice", ["packed", f"at{k}", f"at{k + 1}", "axis"], [f"part_{name}"]))
        nodes.append(node("Squeeze", [f"part_{name}", "axis"], [name]))
    nodes += [
        node("Mul", ["q", "scale"], ["scaled"]),
        node("Transpose", ["k"], ["turned"], perm=[0, 1, 3, 2]),
        node("MatMul", ["scaled", "turned"], ["scores"]),
        node("Softmax", ["scores"], ["attention"], axis=-1),
        node("MatMul", ["attention", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "packed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("known", [True, False])
def test_a_number_on_the_queries_of_a_packed_layer(known: bool, tmp_path: Path) -> None:
    onnx.save(_attention(known=known), tmp_path / "m.onnx")
    result = fold(tmp_path / "m.onnx", tmp_path / "o.onnx")
    assert result.parity is not None
    assert result.parity.verdict == Verdict.PASS
    assert [n for n in onnx.load(tmp_path / "o.onnx").graph.node if "scale" in n.input] == []


def test_a_wrong_number_there_is_found(tmp_path: Path) -> None:
    onnx.save(_attention(known=False), tmp_path / "m.onnx")
    fold(tmp_path / "m.onnx", tmp_path / "o.onnx")
    wrong = onnx.load(tmp_path / "o.onnx")
    (weight,) = [i for i in wrong.graph.initializer if list(i.dims) == [8, 24]]
    array = numpy_helper.to_array(weight).copy()
    array[3, 5] *= 1.01
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(wrong, tmp_path / "b.onnx")
    assert compare(tmp_path / "m.onnx", tmp_path / "b.onnx").verdict == Verdict.FAIL


SIZED = """<ir_version: 8, opset_import: ["" : 17]>
packed (float[1,n,8] x) => (float[1,n,8] y)
<int64 three = {3}, int64[1] zero = {0}, int64[1] last = {2}, float half = {0.5}> {
 p = MatMul (x, w)
 s = Add (p, b)
 shape = Shape (s)
 size = Gather (shape, last)
 part = Div (size, three)
 twice = Add (part, part)
 q = Slice (s, zero, part, last)
 k = Slice (s, part, twice, last)
 v = Slice (s, twice, size, last)
 t = Transpose <perm = [0, 2, 1]> (k)
 m = MatMul (q, t)
 c = Mul (m, half)
 a = Softmax (c)
 r = MatMul (a, v)
 y = MatMul (r, o)
}"""


def test_parts_whose_sizes_the_model_computes(tmp_path: Path) -> None:
    model, rng = onnx.parser.parse_model(SIZED), np.random.default_rng(0)
    for name, shape in (("w", (8, 24)), ("b", (24,)), ("o", (8, 8))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    onnx.save(model, tmp_path / "m.onnx")
    result = fold(tmp_path / "m.onnx", tmp_path / "o.onnx")
    assert result.parity is not None
    assert (result.parity.verdict, result.parity.level) == (Verdict.PASS, "P")
    folded = onnx.load(tmp_path / "o.onnx")
    (weight,) = (t for t in folded.graph.initializer if t.dims == [8, 24])
    values = numpy_helper.to_array(weight).copy()
    values[3, 9] *= np.float32(1 + 2.0**-21)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(folded, tmp_path / "o.onnx")
    assert compare(tmp_path / "m.onnx", tmp_path / "o.onnx").verdict == Verdict.FAIL
