"""Random models fold with equal outputs; BIASOPT_FUZZ=1000 looks at that many of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import converter
from converter.records import Status, Verdict
from tests.outputs import assert_same_outputs, differences, drift, run
from tests.rewrite.random_graphs import Case, cases, newest_ir_version, newest_opset

pytestmark = pytest.mark.slow

SPREADING = {"hoist-bn", "hoist-affine", "sink-bn", "sink-affine"}  # to all layers that feed, or read, one step
N_EXAMPLES = int(os.environ.get("BIASOPT_FUZZ", "100"))
fuzz = settings(
    max_examples=N_EXAMPLES,
    deadline=None,
    derandomize="BIASOPT_FUZZ" not in os.environ,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def fold(case: Case, **options: Any) -> converter.FoldResult:
    return converter.fold(case.model, verify=False, **options)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def n_ops(model: onnx.ModelProto, *op_types: str) -> int:
    return sum(node.op_type in op_types for node in nodes(model.graph))


def n_biases(model: onnx.ModelProto) -> int:
    """Third inputs of linear layers."""
    linear = ("Conv", "ConvTranspose", "Gemm")
    return sum(len(n.input) > 2 and bool(n.input[2]) for n in nodes(model.graph) if n.op_type in linear)


def n_shifted_products(model: onnx.ModelProto) -> int:
    """MatMuls whose bias is an Add behind them."""
    all_nodes = list(nodes(model.graph))
    added = {name for node in all_nodes if node.op_type == "Add" for name in node.input}
    return sum(node.op_type == "MatMul" and node.output[0] in added for node in all_nodes)


def n_shifts(model: onnx.ModelProto) -> int:
    """Everything that may hold a shift: BNs, Adds and Subs, third inputs."""
    return n_biases(model) + n_ops(model, "BatchNormalization", "Add", "Sub")


def n_bytes(model: onnx.ModelProto) -> int:
    """Of initializers and of what Constant nodes hold, in every graph."""
    held = [node.attribute[0].t for node in nodes(model.graph) if node.op_type == "Constant"]
    bodies = [a.g for node in nodes(model.graph) for a in node.attribute if a.HasField("g")]
    held += [t for graph in (model.graph, *bodies) for t in graph.initializer]
    return sum(numpy_helper.to_array(t).nbytes for t in held)


def n_computing(model: onnx.ModelProto) -> int:
    """Nodes that are not merely the home of a constant."""
    homes = ("Constant", "ConstantOfShape", "Expand", "Identity", "Reshape", "Transpose")
    return sum(node.op_type not in homes for node in nodes(model.graph))


def interface(model: onnx.ModelProto) -> tuple[list[bytes], list[bytes]]:
    """Inputs and outputs with their types; below IR 4 the inputs that carry constants are no part of it."""
    held = {t.name for t in model.graph.initializer} if model.ir_version < 4 else set()
    inputs = [v.SerializeToString() for v in model.graph.input if v.name not in held]
    return inputs, [v.SerializeToString() for v in model.graph.output]


def checks(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


@fuzz
@given(cases())
def test_outputs_stay_the_same(case: Case) -> None:
    assert_same_outputs(case.model, fold(case).model, case.feeds)


@fuzz
@given(cases())
def test_forms_stay_sound(case: Case) -> None:
    """Valid as before, same interface, the caller's model untouched, findings explained; and nothing grows.

    Except that one batch norm or affine step that moves to several layers becomes a bias of each.
    """
    original = case.model.SerializeToString(deterministic=True)
    result = fold(case)
    assert case.model.SerializeToString(deterministic=True) == original
    assert checks(result.model) or not checks(case.model)
    assert interface(result.model) == interface(case.model)
    assert result.model.ir_version == case.model.ir_version
    assert result.model.opset_import == case.model.opset_import
    assert n_ops(result.model, "BatchNormalization") <= n_ops(case.model, "BatchNormalization")
    more = n_shifts(result.model) - n_shifts(case.model)
    if {rewrite.pass_name for rewrite in result.rewrites} & SPREADING:
        gained = n_biases(result.model) - n_biases(case.model)
        gained += n_shifted_products(result.model) - n_shifted_products(case.model)
        assert more <= max(gained, 0)
    else:
        assert more <= 0
    assert n_computing(result.model) <= n_computing(case.model)
    if case.model.ir_version >= 4:
        assert result.after.nodes <= result.before.nodes
    declined = [finding for finding in result.findings if finding.status is Status.DECLINED]
    assert all(finding.code and finding.why for finding in declined)


@fuzz
@given(cases())
def test_counts_are_those_of_the_models(case: Case) -> None:
    result = fold(case)
    for counts, model in ((result.before, case.model), (result.after, result.model)):
        assert counts.batch_norms == n_ops(model, "BatchNormalization")
        if model.ir_version >= 4:  # before, new constants of bodies are written as nodes
            assert counts.nodes == sum(1 for _ in nodes(model.graph))
        assert counts.parameter_bytes == n_bytes(model)
    added = sum(rewrite.delta.bytes_added for rewrite in result.rewrites)
    assert added == result.after.parameter_bytes - result.before.parameter_bytes


@fuzz
@given(cases())
def test_folding_again_changes_nothing(case: Case) -> None:
    once = fold(case).model
    assert once.ByteSize() <= case.model.ByteSize()
    again = converter.fold(once, verify=False)
    assert [rewrite.id for rewrite in again.rewrites] == []
    assert again.model.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


@fuzz
@given(cases())
def test_no_rewrite_means_no_change(case: Case) -> None:
    result = fold(case)
    same = result.model.SerializeToString(deterministic=True) == case.model.SerializeToString(deterministic=True)
    assert same == (not result.rewrites)


@fuzz
@given(cases())
def test_stopping_early_keeps_outputs(case: Case) -> None:
    """Every prefix of the rewrites is a correct model: what bisection stands on."""
    n_rewrites = len(fold(case).rewrites)
    half = fold(case, stop_after=n_rewrites // 2)
    assert len(half.rewrites) == n_rewrites // 2
    assert_same_outputs(case.model, half.model, case.feeds)


@fuzz
@given(cases(), st.sampled_from(["keep_bn", "no_growth", "freeze_overridable"]))
def test_options_keep_outputs(case: Case, option: str) -> None:
    result = fold(case, **{option: True})
    if option == "no_growth":
        assert result.after.parameter_bytes <= result.before.parameter_bytes
    held = {name: value for name, value in case.feeds[0].items() if name in ("x", "condition")}
    assert_same_outputs(case.model, result.model, [held] if option == "freeze_overridable" else case.feeds)


@settings(fuzz, max_examples=max(10, N_EXAMPLES // 5))
@given(cases(max_motifs=2))
def test_the_referee_raises_no_false_alarm(case: Case) -> None:
    parity = converter.fold(case.model).parity
    assert parity is None or parity.verdict is Verdict.PASS


# The generator and the judge themselves ------------------------------------------------------


@fuzz
@given(cases())
def test_random_models_are_valid_and_run(case: Case) -> None:
    onnx.checker.check_model(case.model, full_check=True)
    for feed in case.feeds:
        assert all(np.isfinite(value).all() for value in run(case.model, feed).values())


def test_random_models_cover_what_they_promise() -> None:
    seen: set[str] = set()
    passes: Counter[str] = Counter()

    @settings(fuzz, max_examples=500, derandomize=True)
    @given(cases())
    def collect(case: Case) -> None:
        seen.update(f"opset {entry.version}" for entry in case.model.opset_import)
        seen.add(f"IR {case.model.ir_version}")
        seen.update(node.op_type for node in nodes(case.model.graph))
        passes.update(rewrite.pass_name for rewrite in fold(case).rewrites)

    collect()
    assert sum(name.startswith("opset") for name in seen) >= (newest_opset() - 7) * 3 // 4
    assert sum(name.startswith("IR") for name in seen) >= (newest_ir_version() - 3) * 3 // 4
    demanded = "Conv ConvTranspose Gemm MatMul BatchNormalization If Concat Div Neg Split"
    demanded += " Slice Tile Pad Resize Clip Max Abs DequantizeLinear"  # no Gather: in 2 % of the models, by luck
    assert not {*demanded.split()} - seen
    assert min(passes[name] for name in SPREADING) > 0, passes


def conv_bn() -> onnx.ModelProto:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,6,7] x) => (float[1,5,4,5] y)
    { c = Conv(x, W) y = BatchNormalization<epsilon: float = 1e-3>(c, gamma, beta, mean, var) }"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in {"W": (5, 3, 3, 3), "gamma": (5,), "beta": (5,), "mean": (5,), "var": (5,)}.items():
        values = rng.uniform(0.5, 2, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


@pytest.mark.parametrize(
    ("tensor", "factor"), [("W", 1.001), ("gamma", 1.001), ("beta", 1.001), ("mean", 1.001), ("var", 1.001)]
)
def test_the_judge_sees_one_wrong_channel(tensor: str, factor: float) -> None:
    model, feeds = conv_bn(), {"x": np.random.default_rng(1).standard_normal((1, 3, 6, 7)).astype(np.float32)}
    want = run(model, feeds)
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    held = next(t for t in wrong.graph.initializer if t.name == tensor)
    values = numpy_helper.to_array(held).copy()
    values[2] *= factor
    held.CopyFrom(numpy_helper.from_array(values, tensor))
    moved = drift(model, feeds, want)
    assert differences(want, run(wrong, feeds), moved)
    assert not differences(want, run(model, feeds), moved)


def test_the_judge_sees_a_forgotten_epsilon() -> None:
    model, feeds = conv_bn(), {"x": np.random.default_rng(1).standard_normal((1, 3, 6, 7)).astype(np.float32)}
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    wrong.graph.node[1].attribute[0].f = 1e-5
    want = run(model, feeds)
    assert differences(want, run(wrong, feeds), drift(model, feeds, want))
