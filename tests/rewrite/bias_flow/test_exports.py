"""Biases that leave real exports of torch: before instance norm, and in attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import converter
from tests.rewrite.bias_flow.judge import assert_same, biases

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from tests.rewrite.bias_flow import torch_exports as nets
from tests.rewrite.bias_flow.torch_nets import HEADS, WIDTH

pytestmark = pytest.mark.slow

SCALE = (WIDTH / HEADS) ** -0.5

exporters = pytest.mark.parametrize("exporter", nets.EXPORTERS)


def folded(
    name: str, exporter: str, mask: str = "", dynamic: bool = False
) -> tuple[onnx.ModelProto, converter.FoldResult]:
    """Export and fold; the outputs stay the same, with two batch sizes where the batch is symbolic."""
    proto = nets.exported(name, exporter, mask, dynamic)
    result = converter.fold(proto, verify=False, allow_growth=math.inf, skip=("sink-norm-bias",))
    sizes = (2, 3) if dynamic else (2,)
    for n in sizes:
        assert_same(proto, result.model, nets.feeds(proto, name, mask, n), tol=1e-5)  # constants are of type float
    return proto, result


ONE = (1.0,)
OF_QUERIES = (1.0, SCALE, SCALE**0.5)  # the scale of attention goes into q, in one exporter's words half of it


def held(proto: onnx.ModelProto, values: list[NDArray[Any]], factors: tuple[float, ...] = ()) -> int:
    """How many of these vectors are a bias of the model, times one of the factors; without any, times any number."""
    have = [b.reshape(-1) for b in biases(proto).values()]
    return sum(any(is_multiple(v, b, factors) for b in have) for v in values)


def is_multiple(v: NDArray[Any], b: NDArray[Any], factors: tuple[float, ...]) -> bool:
    if v.shape != b.shape:
        return False
    factor = float(v @ b) / float(v @ v)
    meant = any(math.isclose(factor, f, rel_tol=1e-6) for f in factors) if factors else factor != 0
    return meant and np.allclose(factor * v, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("exporter", ["torchscript 17", "dynamo 18"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["", "any batch"])
@pytest.mark.parametrize(("name", "total", "left"), [("unet", 9, 2), ("generator", 6, 1)])
def test_every_normed_convolution_loses_its_bias(
    name: str, total: int, left: int, exporter: str, dynamic: bool
) -> None:
    """What is left: the head, and the transposed convolution of the U-Net, which no norm follows."""
    _, result = folded(name, exporter, dynamic=dynamic)
    assert (result.before.biases, result.after.biases) == (total, left)


@exporters
@pytest.mark.parametrize("name", ["bert", "bert causal", "bert sdpa", "bert sdpa causal", "vit", "vit sdpa"])
def test_keys_and_values_lose_their_biases(name: str, exporter: str) -> None:
    proto, result = folded(name, exporter)
    assert held(proto, nets.parameters(name, "q.bias", "k.bias", "v.bias"), ONE) == 3 * nets.N_LAYERS
    assert held(result.model, nets.parameters(name, "k.bias", "v.bias")) == 0
    assert held(result.model, nets.parameters(name, "q.bias"), OF_QUERIES) == nets.N_LAYERS
    patches = name.startswith("vit")  # goes into the positions
    assert result.after.biases == result.before.biases - 2 * nets.N_LAYERS - patches


@exporters
@pytest.mark.parametrize(("name", "mask"), [("bert", "added"), ("bert sdpa", "added"), ("bert sdpa", "bool")])
def test_under_a_mask_at_run_time_keys_lose_theirs(name: str, mask: str, exporter: str) -> None:
    """Values too where softmax stands bare; a guard for closed rows, or the operator's own, keeps theirs."""
    proto, result = folded(name, exporter, mask)
    assert held(result.model, nets.parameters(name, "k.bias")) == 0
    assert held(result.model, nets.parameters(name, "q.bias"), OF_QUERIES) == nets.N_LAYERS
    guarded = "IsNaN" in {n.op_type for n in proto.graph.node} or (exporter == "dynamo 23" and name == "bert sdpa")
    assert held(result.model, nets.parameters(name, "v.bias"), ONE) == guarded * nets.N_LAYERS


@exporters
@pytest.mark.parametrize("name", ["bert", "bert sdpa", "bert sdpa causal", "vit sdpa"])
def test_with_any_batch_keys_and_values_lose_theirs(name: str, exporter: str) -> None:
    _, result = folded(name, exporter, dynamic=True)
    assert held(result.model, nets.parameters(name, "k.bias", "v.bias")) == 0
    assert held(result.model, nets.parameters(name, "q.bias"), OF_QUERIES) == nets.N_LAYERS


@exporters
@pytest.mark.parametrize(
    ("name", "mask", "dynamic"),
    [
        ("encoder", "", False),
        ("encoder", "padding", False),
        ("encoder", "", True),
        ("bert fused", "", False),
        ("vit fused", "", False),
    ],
)
def test_joint_projections_keep_the_query_part(name: str, mask: str, dynamic: bool, exporter: str) -> None:
    _, result = folded(name, exporter, mask, dynamic)
    joint = nets.parameters(name, "in_proj_bias", "qkv.bias")
    assert len(joint) == nets.N_LAYERS
    left = [b.reshape(-1) for b in biases(result.model).values()]
    for bias in joint:
        query, _, value = np.split(bias, 3)
        (found,) = (b for b in left if b.size == bias.size and is_multiple(query, b[: query.size], OF_QUERIES))
        assert not np.split(found, 3)[1].any(), "the key's part"
        kept = bool(mask) and exporter == "dynamo 23"  # the operator gives zero where a row is closed
        assert np.array_equal(np.split(found, 3)[2], value if kept else 0 * value), "the value's part"
