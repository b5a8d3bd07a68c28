"""Who reads only a shape or a type of what was folded does not make the parameter stage doubt the fold."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import converter
from converter.records import Verdict
from tests.referee.verify.test_parameters import changed, judge

NORM = "c = BatchNormalization(a, g, be, m, v)"
READERS = {
    "shape": f"s = Shape(a) {NORM} f = ConstantOfShape(s) y = Add(c, f)",
    "one size": f"s = Shape<start=0, end=1>(a) {NORM} t = Cast<to=1>(s) y = Add(c, t)",
    "number of elements": f"s = Size(a) {NORM} t = Cast<to=1>(s) y = Add(c, t)",
    "type": f"q = CastLike(n, a) {NORM} y = Add(c, q)",
    "size to resize to": f's = Shape(a) {NORM} y = Resize<mode="nearest">(c, , , s)',
    "reshape to a computed shape": "s = Shape(a) b = Gather(s, zero) t = Concat<axis=0>(b, rest) d = Reshape(a, t) "
    "y = Mul(d, k)",
    "reshape, four axes": "s = Shape(a) b = Gather(s, zero) t = Concat<axis=0>(b, rest4) d = Reshape(a, t) "
    "y = Mul(d, k4)",
}


def net(body: str) -> ModelProto:
    """A convolution [5, 3, 3, 3] whose result ``a`` is read twice."""
    draw = np.random.default_rng(4)
    values = {
        "w": draw.normal(size=(5, 3, 3, 3)),
        "bias": draw.normal(size=5),
        "g": draw.uniform(0.5, 2, 5),
        "be": draw.normal(size=5),
        "m": draw.normal(size=5),
        "v": draw.uniform(0.5, 2, 5),
        "k": draw.uniform(0.5, 2, (5, 1)),
        "k4": draw.uniform(0.5, 2, (5, 1, 1)),
    }
    text = f"""<ir_version: 9, opset_import: ["" : 18]>
    g (float[N, 3, 8, 9] x, int32[1] n) => (y) {{ a = Conv(x, w, bias) {body} }}"""
    model = onnx.parser.parse_model(text)
    read = {name for node in model.graph.node for name in node.input}
    constants = {k: v.astype(np.float32) for k, v in values.items()}
    constants |= {"zero": np.array([0]), "rest": np.array([5, 42]), "rest4": np.array([5, 7, 6])}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in constants.items() if k in read)
    if "n" not in read:
        del model.graph.input[1]
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


@pytest.mark.parametrize("name", READERS)
def test_the_fold_is_recomputed_and_passes(name: str) -> None:
    model = net(READERS[name])
    folded = converter.fold(model, verify=False)
    assert folded.rewrites
    stage = judge(model, folded.model)
    assert stage.status is Verdict.PASS
    assert not stage.detail["not_recomputed"]
    assert converter.fold(model).parity.verdict is Verdict.PASS


@pytest.mark.parametrize("name", READERS)
def test_a_wrong_weight_is_still_found(name: str) -> None:
    model = net(READERS[name])
    folded = converter.fold(model, verify=False).model
    (weight,) = (t.name for t in folded.graph.initializer if len(t.dims) == 4)

    def damage(array: np.ndarray) -> None:
        array[3] *= np.float32(1 + 1e-5)

    assert judge(model, changed(folded, weight, damage)).status is Verdict.FAIL


def test_the_shape_of_something_else_is_no_word_of_the_form() -> None:
    model = net(READERS["shape"])
    folded = converter.fold(model, verify=False).model
    shape = next(n for n in folded.graph.node if n.op_type == "Shape")
    shape.input[0] = "x"
    stage = judge(model, folded)
    assert stage.detail["recomputed"] < stage.detail["places"] or stage.status is not Verdict.PASS
