"""onnx's own test models: fold never crashes on one, and never changes what one computes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import converter
from tests.outputs import assert_same_outputs, differences, run

pytestmark = pytest.mark.slow

DATA = Path(onnx.backend.test.__file__).parent / "data"
N_SHARDS = 8  # of the 1,900 node cases

# Ops that a pass matches, follows a channel through, or reads a constant behind.
OURS = (
    "Add AveragePool BatchNormalization Cast CastLike Constant ConstantOfShape Conv ConvTranspose Div Dropout Expand "
    "Flatten Gemm GlobalAveragePool GlobalMaxPool Identity If Loop MatMul MaxPool Mul Neg Reshape Scan Shape Slice "
    "Squeeze Sub Sum Transpose Unsqueeze"
)


@dataclass(frozen=True)
class NodeCase:
    """One of onnx's node tests: a model of one node, with inputs and expected outputs."""

    name: str
    model: ModelProto
    inputs: list[Any]
    expected: list[Any]
    rtol: float
    atol: float

    @property
    def feeds(self) -> dict[str, Any]:
        return {value.name: array for value, array in zip(self.model.graph.input, self.inputs, strict=False)}


@pytest.fixture(scope="session")
def node_cases() -> list[NodeCase]:
    """All node cases of the installed onnx; making them takes seconds, so once per session."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx's own casts overflow on purpose
        found = collect_testcases(None)
    return [
        NodeCase(case.name, case.model, list(inputs), list(outputs), case.rtol, case.atol)
        for case in found
        for inputs, outputs in list(case.data_sets)[:1]
    ]


def checks(model: ModelProto) -> bool:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True


def fold(model: ModelProto) -> converter.FoldResult:
    """Fold, and check what must hold whether or not anything was rewritten."""
    original = model.SerializeToString(deterministic=True)
    result = converter.fold(model, verify=False, allow_growth=math.inf)
    assert model.SerializeToString(deterministic=True) == original, "the caller's model was changed"
    if not result.rewrites:
        assert result.model.SerializeToString(deterministic=True) == original, "changed without a rewrite"
    assert checks(result.model) or not checks(model), "the checker passed the original only"
    return result


def outputs(model: ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """By onnxruntime, or by onnx's reference where that has no kernel."""
    try:
        return run(model, feeds)
    except Exception:
        names = [value.name for value in model.graph.output]
        wanted = {value.name for value in model.graph.input}
        values = ReferenceEvaluator(model).run(None, {k: v for k, v in feeds.items() if k in wanted})
        return dict(zip(names, values, strict=True))


def with_constants(case: NodeCase) -> ModelProto:
    """The case with every array input but the first as an initializer, as a real model has its weights."""
    model = ModelProto()
    model.CopyFrom(case.model)
    later = {k: v for k, v in list(case.feeds.items())[1:] if isinstance(v, np.ndarray) and v.dtype.kind in "fiu"}
    kept = [value for value in model.graph.input if value.name not in later]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in later.items())
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def followed_by_bn(model: ModelProto) -> ModelProto | None:
    """The model with a BatchNormalization on its first output, if that is float32 of known rank >= 2."""
    kind = model.graph.output[0].type.tensor_type
    sizes = [d.dim_value for d in kind.shape.dim]
    opset = next((entry.version for entry in model.opset_import if entry.domain == ""), 0)
    if kind.elem_type != TensorProto.FLOAT or len(sizes) < 2 or not sizes[1] or opset < 7:
        return None
    rng = np.random.default_rng(sizes[1])
    last = model.graph.output[0].name
    names = ["added_gamma", "added_beta", "added_mean", "added_var"]
    for name in names:
        values = rng.uniform(0.5, 2, sizes[1]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    model.graph.node.append(helper.make_node("BatchNormalization", [last, *names], ["added_y"]))
    model.graph.output[0].name = "added_y"
    return model


def troubles(cases: Sequence[NodeCase]) -> Iterator[str]:
    """What goes wrong with any of the cases, one line each."""
    for case in cases:
        for name, trial in {"plain": plain, "constants": constant_inputs, "then BN": then_bn}.items():
            try:
                trial(case)
            except Exception as exc:
                yield f"{case.name} ({name}): {type(exc).__name__}: {exc}"


def plain(case: NodeCase) -> None:
    result = fold(case.model)
    if not result.rewrites:
        return
    got = outputs(result.model, case.feeds)
    for want, value in zip(case.expected, got.values(), strict=True):
        np.testing.assert_allclose(value, want, rtol=max(case.rtol, 1e-5), atol=max(case.atol, 1e-6))


def constant_inputs(case: NodeCase) -> None:
    model = with_constants(case)
    result = fold(model)
    if result.rewrites:
        wrong = differences(outputs(model, case.feeds), outputs(result.model, case.feeds))
        assert not wrong, wrong


def then_bn(case: NodeCase) -> None:
    model = followed_by_bn(with_constants(case))
    if model is None:
        return
    result = fold(model)
    if result.rewrites:
        wrong = differences(outputs(model, case.feeds), outputs(result.model, case.feeds))
        assert not wrong, wrong


def is_ours(case: NodeCase) -> bool:
    return any(node.op_type in OURS.split() for node in case.model.graph.node)


@pytest.mark.xdist_group("onnx node cases")
def test_node_cases_of_ops_that_fold_looks_at(node_cases: list[NodeCase]) -> None:
    cases = [case for case in node_cases if is_ours(case)]
    assert len(cases) > 250
    assert "\n".join(troubles(cases)) == ""


@pytest.mark.xdist_group("onnx node cases")
@pytest.mark.parametrize("shard", range(N_SHARDS))
def test_all_other_node_cases(node_cases: list[NodeCase], shard: int) -> None:
    cases = [case for case in node_cases if not is_ours(case)]
    assert len(cases) > 1000
    assert "\n".join(troubles(cases[shard::N_SHARDS])) == ""


@pytest.mark.xdist_group("onnx node cases")
def test_a_bn_after_every_conv_case_folds(node_cases: list[NodeCase]) -> None:
    """So that the tests above do not pass because nothing is ever rewritten."""
    for case in node_cases:
        model = followed_by_bn(with_constants(case))
        if model is not None and {node.op_type for node in model.graph.node[:-1]} in ({"Conv"}, {"ConvTranspose"}):
            assert fold(model).after.batch_norms == 0, case.name


# Whole models on disk ------------------------------------------------------------------------


def stored(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (DATA / folder).glob("*/model.onnx"))


def read_values(folder: Path, kind: str, types: Sequence[onnx.ValueInfoProto]) -> list[Any]:
    """Tensors and sequences stored beside a model."""
    values = []
    for i, value in enumerate(types):
        content = (folder / f"{kind}_{i}.pb").read_bytes()
        if value.type.HasField("sequence_type"):
            values.append(numpy_helper.to_list(onnx.SequenceProto.FromString(content)))
        else:
            values.append(numpy_helper.to_array(TensorProto.FromString(content)))
    return values


@pytest.mark.parametrize("path", stored("simple", "pytorch-converted", "pytorch-operator"), ids=lambda p: p.parent.name)
def test_stored_models_keep_their_outputs(path: Path) -> None:
    model = onnx.load(path)
    result = fold(model)
    if not result.rewrites:
        return
    for folder in sorted(path.parent.glob("test_data_set_*")):
        inputs = read_values(folder, "input", model.graph.input)
        feeds = {value.name: array for value, array in zip(model.graph.input, inputs, strict=True)}
        expected = read_values(folder, "output", model.graph.output)
        got = outputs(result.model, feeds)
        for want, value in zip(expected, got.values(), strict=True):
            np.testing.assert_allclose(value, want, rtol=1e-3, atol=1e-5)
        assert not differences(outputs(model, feeds), got)


@pytest.mark.parametrize("path", sorted((DATA / "light").glob("*.onnx")), ids=lambda path: path.stem)
def test_light_models_keep_their_outputs(path: Path) -> None:
    """Networks of the old zoo with constant weights; as their outputs are constant too, BN counts say more."""
    model = onnx.load(path)
    result = fold(model)
    value = next(v for v in model.graph.input if v.name not in {t.name for t in model.graph.initializer})
    shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    feeds = {value.name: np.random.default_rng(0).random(shape, np.float32)}
    if result.rewrites:
        assert_same_outputs(model, result.model, [feeds])


@pytest.mark.parametrize(
    ("name", "left"), [("resnet50", 0), ("inception_v2", 0), ("densenet121", 62), ("shufflenet", 0)]
)
def test_light_models_lose_their_batch_norms(name: str, left: int) -> None:
    result = fold(onnx.load(DATA / "light" / f"light_{name}.onnx"))
    assert result.before.batch_norms > 0
    assert result.after.batch_norms <= left
