"""Real models of several exporters: outputs stay the same, and no peer leaves fewer BatchNorms."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import converter
from converter.records import Verdict
from tests.outputs import assert_same_outputs

# BatchNormalizations left by the best of: onnxruntime 1.32.0 (ORT_ENABLE_BASIC, saved), onnxslim 0.1.98,
# onnxsim 0.8.1, onnxscript 0.7.2, onnxoptimizer 0.4.2. A model that is not here has none to begin with.
BEST_PEER = {"gtcrn_simple.onnx": 0, "mesonet.onnx": 4, "ultraface_slim320.onnx": 0}

NAMES = [
    "basic_pitch.onnx",
    "dtln_model_1.onnx",
    "gtcrn_simple.onnx",
    "mesonet.onnx",
    "micro_kws_fp32.onnx",
    "micro_kws_qdq.onnx",
    "openseeface_mnv3_det.onnx",
    "style_mosaic.onnx",
    "ultraface_slim320.onnx",
    "yunet_n_320.onnx",
]
pytestmark = pytest.mark.parametrize("name", NAMES)


@cache
def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    content = json.loads((folder / "MANIFEST.json").read_text())
    return {entry["file"]: entry for entry in content["models"]}


def fold(folder: Path, name: str, **options: Any) -> converter.FoldResult:
    """Fold as a user of this model would: weights that the exporter listed as inputs are frozen."""
    listed = manifest(folder)[name]["initializers_also_graph_inputs"]
    return converter.fold(folder / name, freeze_overridable=bool(listed), **options)


def feeds(folder: Path, name: str) -> list[dict[str, Any]]:
    shapes = manifest(folder)[name]["ort_input_shapes"]
    rng = np.random.default_rng(0)
    return [{key: rng.random(shape, np.float32) for key, shape in shapes.items()} for _ in range(2)]


def n_bn(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "BatchNormalization" for node in model.graph.node)


def test_outputs_stay_the_same(corpus: Path, name: str) -> None:
    result = fold(corpus, name, verify=False)
    assert_same_outputs(onnx.load(corpus / name), result.model, feeds(corpus, name))


def test_no_peer_leaves_fewer_batch_norms(corpus: Path, name: str) -> None:
    result = fold(corpus, name, verify=False)
    assert n_bn(result.model) <= BEST_PEER.get(name, 0)
    assert n_bn(result.model) == result.after.batch_norms


def test_the_checker_is_no_worse(corpus: Path, name: str) -> None:
    onnx.checker.check_model(fold(corpus, name, verify=False).model, full_check=True)


def test_without_freezing_the_interface_is_kept(corpus: Path, name: str) -> None:
    original = onnx.load(corpus / name)
    held = {t.name for t in original.graph.initializer} if original.ir_version < 4 else set()
    model = converter.fold(corpus / name, verify=False).model
    assert [v for v in model.graph.input if v.name not in held and "biasopt" not in v.name] == [
        v for v in original.graph.input if v.name not in held
    ]
    assert list(model.graph.output) == list(original.graph.output)


@pytest.mark.slow
def test_the_referee_passes_it(corpus: Path, name: str) -> None:
    result = fold(corpus, name)
    assert result.parity is None or result.parity.verdict is Verdict.PASS, result.parity


# The figures of the peers, measured again where a peer is installed -------------------------------


def by_onnxruntime(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx")


def by_onnxslim(model: onnx.ModelProto, folder: Path) -> Any:
    return pytest.importorskip("onnxslim").slim(model)


def by_onnxsim(model: onnx.ModelProto, folder: Path) -> Any:
    return pytest.importorskip("onnxsim").simplify(model)[0]


def by_onnxscript(model: onnx.ModelProto, folder: Path) -> Any:
    return pytest.importorskip("onnxscript.optimizer").optimize(model)


def by_onnxoptimizer(model: onnx.ModelProto, folder: Path) -> Any:
    passes = ["extract_constant_to_initializer", "fuse_bn_into_conv", "fuse_add_bias_into_conv"]
    return pytest.importorskip("onnxoptimizer").optimize(model, passes, fixed_point=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the peers' own code
@pytest.mark.parametrize("peer", [by_onnxruntime, by_onnxslim, by_onnxsim, by_onnxscript, by_onnxoptimizer])
def test_the_installed_peers_leave_no_fewer(
    corpus: Path, name: str, peer: Callable[[onnx.ModelProto, Path], onnx.ModelProto], tmp_path: Path
) -> None:
    left_by_peer = n_bn(peer(onnx.load(corpus / name), tmp_path))
    assert n_bn(fold(corpus, name, verify=False).model) <= left_by_peer
