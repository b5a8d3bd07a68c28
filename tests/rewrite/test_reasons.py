"""Whatever affine node stands next to a layer and stays has a line that says why, in every model that was reported."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import converter
from converter.model.graph import Graph, Node
from converter.model.graph.graph import load
from converter.rewrite.analysis.constants import Constants
from tests.tiny import Draw, model

KEPT = sorted(Path(__file__).with_name("reports").glob("*.onnx"))
_CORPUS = os.environ.get("BIASOPT_CORPUS", "")
_OUTSIDE = Path(os.environ.get("BIASOPT_REPORTS") or (Path(_CORPUS).parent / "reports" if _CORPUS else ""))
OUTSIDE = sorted(_OUTSIDE.glob("*.onnx")) if _OUTSIDE.name else []
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@pytest.mark.parametrize("path", KEPT, ids=lambda p: p.stem)
def test_what_stays_beside_a_layer_has_a_line(path: Path) -> None:
    assert list_untold(converter.fold(path, verify=False)) == []


@pytest.mark.skipif(not OUTSIDE, reason="no other models: set BIASOPT_REPORTS, or BIASOPT_CORPUS beside them")
@pytest.mark.parametrize("path", OUTSIDE, ids=lambda p: p.stem)
def test_what_stays_in_other_models_has_a_line(path: Path) -> None:
    try:
        result = converter.fold(path, verify=False)
    except converter.BiasoptError:
        pytest.skip("refused, with a message")
    assert list_untold(result) == []


def list_untold(result: converter.FoldResult) -> list[str]:
    """The nodes that are left beside a layer, and of which no finding and no fate speaks."""
    told = {finding.node for finding in result.findings if finding.code}
    told |= {fate.node for fate in result.fates}  # the bias of a layer has its own
    graph = load(result.model)
    return [n.label for n in graph.nodes() if is_left(graph, n) and n.label not in told]


def is_left(graph: Graph, node: Node) -> bool:
    """Whether it is a batch norm, or arithmetic with a float constant, right beside a layer with a constant weight."""
    constants = Constants(graph)
    if node.is_op("BatchNormalization"):
        data = node.inputs[0]
    elif node.is_op("Mul", "Add", "Sub", "Div") and len(node.inputs) == 2:
        values = [constants.weight(t) for t in node.inputs]
        if sum(v is not None for v in values) != 1 or (node.is_op("Div") and values[0] is not None):
            return False
        value = next(v for v in values if v is not None)
        data = node.inputs[0 if values[0] is None else 1]
        if value.dtype not in (np.float32, np.float16, np.float64):
            return False
    else:
        return False
    makers = [graph.producer(data)]
    if node.is_op("Add") and makers[0] is not None and makers[0].is_op("MatMul"):
        return False  # that is its bias
    beside = [n for n in (*makers, *graph.readers(node.outputs[0])) if n is not None and n.is_op(*LAYERS)]
    return any(constants.weight(n.inputs[1]) is not None for n in beside)


def test_a_dense_block_keeps_its_norms_and_says_why() -> None:
    """Each reads a Concat of parts that other norms read with other numbers, and a Relu lets no shift through."""
    draw = Draw()
    norms = [
        f"n{k} = BatchNormalization ({x}, g{k}, be{k}, m{k}, v{k}) r{k} = Relu (n{k})" for k, x in enumerate("adf")
    ]
    body = f"""a = Conv (x, w) {norms[0]} c = Conv (r0, u) d = Concat <axis = 1> (a, c) {norms[1]} e = Conv (r1, t)
        f = Concat <axis = 1> (a, c, e) {norms[2]} y = GlobalAveragePool (r2)"""
    consts = {"w": draw.normal(4, 3, 3, 3), "u": draw.normal(4, 4, 1, 1), "t": draw.normal(4, 8, 1, 1)}
    for k, channels in enumerate((4, 8, 12)):
        consts |= draw.bn(channels, str(k))
    result = converter.fold(model(f"(float[1,3,8,8] x) => (float[1,12,1,1] y) {{ {body} }}", consts), verify=False)
    assert result.after.batch_norms == 3
    codes = {f.node: f.code for f in result.findings if f.node.startswith("batchnormalization_")}
    assert len(codes) == 3
    assert set(codes.values()) == {"several-readers", "stops"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("c = Conv (x, w) r = Relu (c) d = Conv (x, w) z = Abs (d) y = Sum (r, a, z)", "stops"),
        ('p = Einsum <equation = "nchw,oc->nohw"> (x, k) y = Add (p, a)', "no-bias-slot"),
    ],
)
def test_arithmetic_that_no_rule_knows_has_a_line(body: str, code: str) -> None:
    draw = Draw()
    consts = {
        "w": draw.normal(5, 3, 1, 1),
        "a": draw.normal(5, 1, 1),
        "b": draw.normal(1, 5, 1, 1),
        "k": draw.normal(5, 3),
    }
    read = {name: value for name, value in consts.items() if f"{name})" in body or f"{name}," in body}
    result = converter.fold(model(f"(float[2,3,8,8] x) => (float[2,5,8,8] y) {{ {body} }}", read), verify=False)
    assert [f.code for f in result.findings] == [code]


def test_layers_laid_out_for_one_processor_have_a_line() -> None:
    """onnxruntime writes them where it optimises in full: blocks of 8 or 16 channels, by the machine."""
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft.nchwc" : 1]>
        g (float[1,16,9,9] x) => (float[1,16,7,7] y) { r = com.microsoft.nchwc.ReorderInput (x)
        c = com.microsoft.nchwc.Conv <activation = "Relu"> (r, w, b)
        y = com.microsoft.nchwc.ReorderOutput <channels = 16> (c) }"""
    proto = onnx.parser.parse_model(text)
    held = {"w": Draw().normal(16, 16, 3, 3), "b": Draw().normal(16)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in held.items())
    result = converter.fold(proto, verify=False)
    assert not result.rewrites
    (left,) = result.findings
    assert (left.code, left.node) == ("unknown-operator", "Conv:c")
