"""Models with functions whose weights are arguments, or whose attributes the calls set: written out where that pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import pytest

import converter
from converter.records import Verdict
from tests.tiny import Draw, model

HEAD = '<domain: "loc", opset_import: ["" : 17]>'
BLOCK = f"{HEAD} CB (x,w,g,be,m,v) => (y) {{ c = Conv(x,w) y = BatchNormalization(c,g,be,m,v) }}"
PADDED = f"{HEAD} CB <p>(x,w,g,be,m,v) => (y) {{ c = Conv<pads:ints=@p>(x,w) y = BatchNormalization(c,g,be,m,v) }}"
LINEAR = f"{HEAD} Lin (x,w,b) => (y) {{ m = MatMul(x,w) y = Add(m,b) }}"
NESTED = (
    f'<domain: "loc", opset_import: ["" : 17, "loc" : 1]> Act (x,w,g,be,m,v) => (y) '
    f"{{ c = loc.CB(x,w,g,be,m,v) y = Relu(c) }}\n{BLOCK}"
)


def twice(draw: Draw) -> onnx.ModelProto:
    """One function called with two weights."""
    text = "(float[2,3,8,8] x) => (float[2,3,4,4] y) { a = loc.CB(x,w,g,be,m,v) y = loc.CB(a,w2,g,be,m,v) }"
    consts = draw.conv(3, 3, 3, 3) | draw.conv(3, 3, 3, 3, tag="2") | draw.bn(3)
    return model(text, consts, rest=BLOCK)


def rows() -> dict[str, tuple[onnx.ModelProto, list[str]]]:
    draw = Draw()
    bn, w = draw.bn(3), draw.conv(3, 3, 3, 3)
    image = "(float[2,3,8,8] x)"
    attention = {k: draw.normal(8, 8) for k in ("wq", "wk")} | {k: draw.normal(8) for k in ("bq", "bk")}
    scores = (
        "(float[2,5,8] x) => (float[2,5,5] y) { q = loc.Lin(x,wq,bq) k = loc.Lin(x,wk,bk) "
        "kt = Transpose<perm=[0,2,1]>(k) s = MatMul(q,kt) y = Softmax<axis=-1>(s) }"
    )
    return {
        "two weights": (twice(draw), ["Conv", "Conv"]),
        "an attribute of the call": (
            model(f"{image} => (float[2,3,8,8] y) {{ y = loc.CB<p=[1,1,1,1]>(x,w,g,be,m,v) }}", w | bn, rest=PADDED),
            ["Conv"],
        ),
        "a function in a function": (
            model(f"{image} => (float[2,3,6,6] y) {{ y = loc.Act(x,w,g,be,m,v) }}", w | bn, rest=NESTED),
            ["Conv", "Relu"],
        ),
        "a batch norm behind a call": (
            model(
                f"{image} => (float[2,3,6,6] y) {{ c = loc.Cv(x,w) y = BatchNormalization(c,g,be,m,v) }}",
                w | bn,
                rest=f"{HEAD} Cv (x,w) => (y) {{ y = Conv(x,w) }}",
            ),
            ["Conv"],
        ),
        "a key's bias": (
            model(scores, attention, rest=LINEAR),
            ["MatMul", "Add", "MatMul", "Transpose", "MatMul", "Softmax"],
        ),
    }


ROWS = rows()


@pytest.mark.parametrize("name", ROWS)
def test_is_written_out_and_proved(name: str) -> None:
    proto, left = ROWS[name]
    result = converter.fold(proto)
    assert result.parity is not None
    assert (result.parity.verdict, result.parity.level) == (Verdict.PASS, "P"), result.parity.why
    assert [n.op_type for n in result.model.graph.node] == left
    assert not result.model.functions
    assert result.was_written_out
    assert len(result.to_bytes()) <= proto.ByteSize()


def _grows() -> onnx.ModelProto:
    body = " ".join(f"r{k} = Relu({'n' if not k else f'r{k - 1}'})" for k in range(40))
    rest = (
        f"{HEAD} Long (x,w,g,be,m,v) => (y) {{ c = Conv(x,w) n = BatchNormalization(c,g,be,m,v) {body} y = Abs(r39) }}"
    )
    draw = Draw()
    calls = " ".join(
        f"{'y' if k == 3 else f'a{k}'} = loc.Long({'x' if not k else f'a{k - 1}'},w,g,be,m,v)" for k in range(4)
    )
    text = f"(float[2,3,6,6] x) => (float[2,3,6,6] y) {{ {calls} }}"
    return model(text, draw.conv(3, 3, 1, 1) | draw.bn(3), rest=rest)


def test_stays_where_the_file_would_grow_and_says_so() -> None:
    proto = _grows()
    result = converter.fold(proto)
    assert len(result.model.functions) == 1
    (left,) = (f for f in result.findings if f.code == "model-grows")
    assert "--allow-growth" in left.why
    assert len(result.to_bytes()) <= proto.ByteSize()


def test_is_written_out_where_growth_is_allowed() -> None:
    result = converter.fold(_grows(), allow_growth=float("inf"))
    assert result.was_written_out
    assert "BatchNormalization" not in {n.op_type for n in result.model.graph.node}
    assert result.parity is not None
    assert result.parity.verdict is Verdict.PASS


def _write(value: np.ndarray[Any, Any]) -> str:
    dims = ",".join(map(str, value.shape))
    return f"float[{dims}] {{{','.join(map(str, value.reshape(-1)))}}}"


def test_functions_that_fold_as_they_are_stay() -> None:
    """Constants of their own: nothing is won by another form."""
    draw = Draw()
    values = draw.conv(3, 3, 1, 1) | draw.bn(3)
    held = " ".join(f"{name} = Constant<value = {_write(value)}>()" for name, value in values.items())
    rest = f"{HEAD} CB (x) => (y) {{ {held} c = Conv(x,w) y = BatchNormalization(c,g,be,m,v) }}"
    proto = model("(float[2,3,6,6] x) => (float[2,3,6,6] y) { a = loc.CB(x) b = Relu(a) y = loc.CB(b) }", {}, rest=rest)
    result = converter.fold(proto)
    assert len(result.model.functions) == 1
    assert not result.was_written_out
    assert [n.op_type for n in result.model.functions[0].node if n.op_type != "Constant"] == ["Conv"]


def test_inspect_says_what_fold_does() -> None:
    proto, _ = ROWS["two weights"]
    assert [r.id for r in converter.inspect(proto).rewrites] == [r.id for r in converter.fold(proto).rewrites]


def test_stops_after_a_rewrite() -> None:
    proto, _ = ROWS["two weights"]
    whole = converter.fold(proto)
    part = converter.fold(proto, stop_after=1)
    assert [r.id for r in part.rewrites] == [whole.rewrites[0].id]
    assert part.parity is not None
    assert part.parity.verdict is Verdict.PASS


def test_a_certificate_is_of_the_model_as_it_is(tmp_path: Path) -> None:
    proto, _ = ROWS["two weights"]
    onnx.save(proto, tmp_path / "a.onnx")
    result = converter.fold(tmp_path / "a.onnx", tmp_path / "b.onnx", certificate=tmp_path / "c.json")
    assert result.exit_code == 0
    assert len(result.model.functions) == 1


def test_weights_in_another_file(tmp_path: Path) -> None:
    proto, left = rows()["two weights"]  # saving changes it
    path = tmp_path / "a.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="a.data", size_threshold=0)
    out = tmp_path / "b.onnx"
    result = converter.fold(path, out)
    assert result.exit_code == 0
    assert [n.op_type for n in onnx.load(out).graph.node] == left


# -- the referee: functions that somebody else wrote out -----------------------------------------


def _damage(proto: onnx.ModelProto, **how: Any) -> onnx.ModelProto:
    damaged = onnx.ModelProto()
    damaged.CopyFrom(proto)
    for tensor in damaged.graph.initializer:
        if tensor.name in how:
            value = onnx.numpy_helper.to_array(tensor) * np.float32(how[tensor.name])
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return damaged


@pytest.mark.parametrize("name", ["two weights", "an attribute of the call", "a function in a function"])
def test_functions_written_out_by_others_pass(name: str) -> None:
    proto, _ = ROWS[name]
    found = converter.compare(proto, onnx.inliner.inline_local_functions(proto))
    assert found.verdict is Verdict.PASS, found.why


def test_a_wrong_weight_of_functions_written_out_fails() -> None:
    proto, _ = ROWS["two weights"]
    other = _damage(onnx.inliner.inline_local_functions(proto), w2=1.001)
    assert converter.compare(proto, other).verdict is not Verdict.PASS


def test_a_call_written_out_with_the_weight_of_another_fails() -> None:
    proto, _ = ROWS["two weights"]
    other = onnx.inliner.inline_local_functions(proto)
    convs = [n for n in other.graph.node if n.op_type == "Conv"]
    convs[1].input[1] = convs[0].input[1]
    assert converter.compare(proto, other).verdict is Verdict.FAIL
