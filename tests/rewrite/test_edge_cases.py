"""What holds for all rows of ``tests/cases``, rows that are no one pass's, and what a fold leaves as it was."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import converter
from tests import harness
from tests.cases import judge, through_layers
from tests.cases.case import Case, Want
from tests.cases.constants_and_opsets import ONE_BN
from tests.cases.conv_batch_norm import CONV
from tests.cases.rows import CORE, ROWS, SOUND
from tests.cases.sharing import PLAIN, in_function
from tests.tiny import Draw, X, Y, model, node_named, only_op

REFUSE = [c for c in ROWS if c.want is Want.REFUSE]
LATER = [c for c in ROWS if c.want is Want.LATER]


def test_every_refusal_of_the_core_names_its_code_and_has_a_twin() -> None:
    assert not [c.id for c in CORE if c.want is Want.REFUSE and not (c.code and c.twin and c.keep)]


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({c.id for c in (*ROWS, *SOUND)}) == len((*ROWS, *SOUND))


@pytest.mark.parametrize("case", [*SOUND, *LATER], ids=str)
def test_outputs_stay(case: Case) -> None:
    judge.stays_equal(case)


@pytest.mark.parametrize("case", through_layers.LIVE, ids=str)
def test_live_bias_stays(case: Case) -> None:
    judge.reaches_goal(case)


@pytest.mark.parametrize("case", [c for c in LATER if c.code], ids=str)
@pytest.mark.xfail(raises=AssertionError, reason="not folded yet")
def test_folds_later(case: Case) -> None:
    judge.reaches_goal(case)


@pytest.mark.parametrize("case", [c for c in LATER if c.code], ids=str)
def test_what_folds_later_declines_today(case: Case) -> None:
    harness.assert_declines(case.build(), case.passes[0], case.code)


# ---- growth is reported --------------------------------------------------------------------


def test_copying_a_shared_weight_reports_its_bytes() -> None:
    result = harness.run_fold(ONE_BN())
    (rewrite,) = [r for r in result.rewrites if r.pass_name == CONV]
    # New weight 5*3*3*2 and bias 5, less the four BatchNormalization vectors; float32.
    assert rewrite.delta.bytes_added == 4 * (90 + 5 - 20)


def test_an_unshared_fold_shrinks_the_model() -> None:
    result = harness.run_fold(PLAIN())
    (rewrite,) = result.rewrites
    assert rewrite.delta.bytes_added == -4 * 20
    assert rewrite.output == "y"
    assert (result.before.batch_norms, result.after.batch_norms) == (1, 0)


# ---- metadata ----------------------------------------------------------------------------------


def documented() -> onnx.ModelProto:
    """A Conv+BN and a bystander in a model that carries every kind of annotation."""
    draw = Draw()
    text = f"""{X} => (float[2,5,9,12] y, float[2,3,11,13] z) {{ h = Conv (x, w, b)
        k = BatchNormalization <epsilon = 1e-3> (h, g, be, m, v) y = Relu (k) s = Sigmoid (x) z = loc.f (s) }}"""
    rest = '<domain: "loc", opset_import: ["" : 17]> f (a) => (r) { r = Abs (a) }'
    consts = draw.conv(5, 3, 3, 2, bias=5) | draw.bn(5) | {"nobody": draw.normal(7)}
    proto = model(text, consts, rest=rest, ir=10)
    proto.producer_name, proto.producer_version, proto.domain = "someone", "1.2", "org.example"
    proto.model_version, proto.doc_string = 42, "a model"
    proto.opset_import.append(helper.make_opsetid("com.example", 3))
    onnx.helper.set_model_props(proto, {"author": "someone", "classes": "a,b"})
    graph = proto.graph
    graph.doc_string = "a graph"
    graph.input[0].doc_string, graph.output[0].doc_string = "an image", "features"
    _annotate(graph, "graph")
    for node in graph.node:
        node.doc_string = f"doc of {node.name}"
        _annotate(node, node.name)
    for name, shape in {"h": (2, 5, 9, 12), "k": (2, 5, 9, 12), "s": (2, 3, 11, 13)}.items():
        graph.value_info.append(helper.make_tensor_value_info(name, 1, shape, doc_string=f"value {name}"))
    graph.initializer[0].doc_string = "kernel"
    for name in ("s", "k"):
        note = graph.quantization_annotation.add(tensor_name=name)
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="nobody")
    _annotate(proto.functions[0], "function")
    return proto


def _annotate(thing: Any, value: str) -> None:
    thing.metadata_props.add(key="note", value=value)


@pytest.fixture(scope="module")
def kept() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    before = documented()
    result = harness.assert_folds(before, CONV, ops="Conv Relu Sigmoid f Abs")
    return before, result.model


def test_model_fields(kept: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    before, after = kept
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version"):
        assert getattr(after, name) == getattr(before, name), name
    assert {(p.key, p.value) for p in before.metadata_props} <= {(p.key, p.value) for p in after.metadata_props}
    assert list(after.opset_import) == list(before.opset_import)
    assert list(after.functions) == list(before.functions)


def test_graph_fields(kept: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    before, after = (p.graph for p in kept)
    assert (after.name, after.doc_string) == (before.name, before.doc_string)
    assert list(after.metadata_props) == list(before.metadata_props)
    assert list(after.input) == list(before.input)
    assert list(after.output) == list(before.output)


def test_nodes_keep_name_doc_and_metadata(kept: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    before, after = kept
    for op in ("Conv", "Relu", "Sigmoid", "f"):
        a, b = only_op(before, op), only_op(after, op)
        assert (b.name, b.doc_string, list(b.metadata_props)) == (a.name, a.doc_string, list(a.metadata_props))


def test_value_info_of_live_tensors(kept: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    before, after = kept
    live = {o for n in after.graph.node for o in n.output}
    old = {v.name: v for v in before.graph.value_info}
    new = {v.name: v for v in after.graph.value_info}
    assert set(new) == set(old) & live, "value_info must follow the tensors that are left"
    assert new["s"] == old["s"]


def test_quantization_annotation(kept: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    before, after = kept
    live = {o for n in after.graph.node for o in n.output}
    wanted = [q for q in before.graph.quantization_annotation if q.tensor_name in live]
    assert [q for q in after.graph.quantization_annotation if q.tensor_name in live] == wanted
    assert wanted


def test_unused_initializer_and_new_names(kept: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    before, after = kept
    old = {t.name: t for t in before.graph.initializer}
    new = {t.name: t for t in after.graph.initializer}
    assert new["nobody"] == old["nobody"]
    changed = set(only_op(after, "Conv").input[1:])
    assert set(new) == {"nobody"} | changed
    assert not changed & set(old), "a changed tensor must have a new name"


def test_new_names_do_not_collide() -> None:
    first = harness.run_fold(PLAIN()).model
    taken = [t.name for t in first.graph.initializer]
    proto = PLAIN()
    for i, name in enumerate(taken):
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(i + 1, np.float32), name))
    harness.assert_folds(proto, CONV, ops="Conv")


def test_nodes_without_names_stay_so() -> None:
    proto = PLAIN()
    for node in proto.graph.node:
        node.name = ""
    result = harness.assert_folds(proto, CONV, ops="Conv")
    assert only_op(result.model, "Conv").name == ""
    assert result.rewrites[0].node


def test_two_nodes_of_one_name() -> None:
    draw = Draw()
    text = f"""{X} => (float[2,5,9,12] y, float[2,5,9,12] z) {{ h = Conv (x, w, b) k = Conv (x, w2, b2)
        y = BatchNormalization <epsilon = 1e-3> (h, g, be, m, v)
        z = BatchNormalization <epsilon = 1e-3> (k, g2, be2, m2, v2) }}"""
    convs = draw.conv(5, 3, 3, 2, bias=5) | draw.conv(5, 3, 3, 2, bias=5, tag="2")
    proto = model(text, convs | draw.bn(5) | draw.bn(5, "2"))
    for node in proto.graph.node:
        node.name = node.op_type
    result = harness.run_fold(proto)
    harness.assert_ops(result.model, "Conv Conv")
    assert len({r.id for r in result.rewrites}) == 2, "two rewrites with one id"
    harness.assert_same_values(proto, result.model, use_ort=False)  # onnxruntime wants unique names


def external(path: Path) -> onnx.ModelProto:
    """Save a model with large and small tensors beside a data file; return it with its data inside."""
    draw = Draw()
    text = """(float[1,31,6,5] x) => (float[1,61,4,3] y, float[1,61,4,3] z) { h = Conv (x, w, b)
        y = BatchNormalization <epsilon = 1e-3> (h, g, be, m, v) z = Conv (x, kept) }"""
    consts = draw.conv(61, 31, 3, 3, bias=61) | draw.bn(61) | {"kept": draw.normal(61, 31, 3, 3)}
    proto = model(text, consts)
    outside = onnx.ModelProto()
    outside.CopyFrom(proto)  # saving moves the data out of the proto that is saved
    onnx.save(outside, path, save_as_external_data=True, location="m.data", size_threshold=0)
    return proto


def test_external_data_stays_external(tmp_path: Path) -> None:
    source, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    proto = external(source)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    converter.fold(str(source), out=str(out))
    assert {name: (tmp_path / name).read_bytes() for name in before} == before, "the input's files changed"
    flat = onnx.load(out, load_external_data=False)
    outside = [t for t in flat.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert {"kept", node_named(flat, "conv_h").input[1]} <= {t.name for t in outside}
    places = {e.value for t in outside for e in t.external_data if e.key == "location"}
    assert places == {"o.onnx.data"}
    folded = onnx.load(out)
    harness.assert_ops(folded, "Conv Conv")
    harness.assert_same_values(proto, folded)


def test_external_data_of_a_proto(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    proto = external(source)
    result = converter.fold(onnx.load(source, load_external_data=False), data=str(tmp_path))
    result.save(str(tmp_path / "o.onnx"))
    folded = onnx.load(tmp_path / "o.onnx")
    harness.assert_ops(folded, "Conv Conv")
    harness.assert_same_values(proto, folded)


def test_no_rewrite_is_a_byte_copy(tmp_path: Path) -> None:
    source, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(model(f"{X} => (float[2,3,11,13] y) {{ y = Relu (x) }}"), source)
    converter.fold(str(source), out=str(out))
    assert out.read_bytes() == source.read_bytes()


# ---- the reasons that a reader sees -------------------------------------------------------------------


def test_every_reason_is_a_plain_clause() -> None:
    for case in REFUSE:
        findings = harness.run_fold(case.build(), only=case.passes, **case.options).findings
        assert any(finding.code for finding in findings), case.id
        for finding in findings:
            assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", finding.code or "act"), finding
            assert finding.why == finding.why.strip(), finding
            assert "\n" not in finding.why, finding


def test_inspect_says_what_fold_says() -> None:
    for case in CORE:
        found = [f for f in converter.inspect(case.build(), **case.options).findings if f.status == "declined"]
        if case.want is Want.REFUSE:
            passes = (*case.passes, "hoist-bn") if case.id == "conv-relu-bn" else case.passes  # through the Relu
            assert any(harness.speaks_for(f, name) for f in found for name in passes), case.id


# ---- models that are nearly nothing ---------------------------------------------------------------------


def test_identity_bn_between_graph_input_and_output() -> None:
    stats = {"g": np.ones(3), "be": np.zeros(3), "m": np.zeros(3), "v": np.ones(3)}
    text = f"{X} => (float[2,3,11,13] y) {{ y = BatchNormalization <epsilon = 0.0> (x, g, be, m, v) }}"
    proto = model(text, {k: v.astype(np.float32) for k, v in stats.items()})
    harness.assert_sound(proto, harness.run_fold(proto))


def test_function_is_still_called() -> None:
    proto = in_function(2)
    result = harness.run_fold(proto)
    assert [n.op_type for n in result.model.graph.node] == ["f", "f"]
    assert [f.name for f in result.model.functions] == ["f"]
    assert node_named(result.model, "conv_h").op_type == "Conv"


def test_a_bn_output_that_is_the_graph_output_keeps_its_name() -> None:
    proto = model(
        f"{X} => {Y} {{ h = Conv (x, w, b) y = Mul (h, k) }}",
        Draw().conv(5, 3, 3, 2, bias=5) | {"k": np.array(2, np.float32)},
    )
    result = harness.assert_folds(proto, "fold-affine-into-conv", ops="Conv")
    assert only_op(result.model, "Conv").output == ["y"]


def test_verify_accepts_what_the_rows_fold() -> None:
    for case in CORE:
        if case.want is Want.FOLD and case.ort and case.valid:
            result = converter.fold(case.build(), **{"allow_growth": math.inf} | case.options)
            assert result.rewrites, case.id
            assert result.parity is not None, case.id
            assert result.parity.verdict == "PASS", f"{case.id}: {result.parity.verdict} {result.parity.why}"
