"""Which rewrite, or which tensor, two models part at."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import cli
import converter
from converter import numerics
from converter.commands.bisect import Blame, bisect
from tests.referee.verify.nets import arrays, fold, mobile, plain, residual
from tests.referee.verify.test_parameters import changed, with_epsilon


def wrong_at(monkeypatch: pytest.MonkeyPatch, which: float) -> None:
    """The batch norm of one variance is folded without its epsilon, by a pass that is wrong from now on."""
    right = numerics.bn_affine

    def bn_affine(gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, var: np.ndarray, eps: float) -> object:
        return right(gamma, beta, mean, var, 0.0 if var[0] == which else eps)

    monkeypatch.setattr(numerics, "bn_affine", bn_affine)


@pytest.mark.parametrize("layer", [0, 1, 4, 7])
def test_the_first_rewrite_that_is_wrong(layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = residual()
    norms = [n for n in model.graph.node if n.op_type == "BatchNormalization"]
    wrong_at(monkeypatch, float(arrays(model)[norms[layer].input[4]][0]))
    result = converter.fold(model, verify=False)
    found = bisect(model, result.model)
    assert found.rewrite == f"fold-bn-into-conv@{norms[layer].name}"
    assert (found.node, found.tensor) == (norms[layer].name, norms[layer].output[0])
    assert found.text.startswith(found.rewrite)
    assert found.steps <= 2 + len(norms).bit_length()


@pytest.mark.parametrize(
    ("what", "how", "channel"),
    [
        ("weight", lambda w: w.__setitem__((3, 0, 0, 0), w[3, 0, 0, 0] * (1 + 1e-6)), 3),
        ("bias", lambda b: b.__setitem__(5, 0), 5),
        ("weight", lambda w: w.__setitem__(..., w.astype(np.float16)), 0),
    ],
)
def test_a_model_that_was_changed_after_the_fold(what: str, how: object, channel: int) -> None:
    model = plain()
    folded = converter.fold(model, verify=False).model
    name = f"conv3_node/biasopt/{what}"
    found = bisect(model, changed(folded, name, how))  # type: ignore[arg-type]
    assert (found.rewrite, found.tensor) == ("", name)
    assert "fold-bn-into-conv@batchnormalization4_node" in found.why
    assert f"channel {channel}" in found.why
    assert "conv3_node" in found.text


def test_an_attribute_that_was_changed_after_the_fold() -> None:
    model = plain()
    folded = converter.fold(model, verify=False).model
    next(a for a in folded.graph.node[2].attribute if a.name == "pads").ints[:] = [0, 2, 2, 0]
    found = bisect(model, folded)
    assert (found.tensor, found.node) == ("", "conv3_node")


def test_a_fold_with_other_options_is_made_again_the_same_way() -> None:
    model = plain()
    folded = converter.fold(model, verify=False, keep_bn=True, allow_growth=1.0).model
    assert any(n.op_type == "BatchNormalization" for n in folded.graph.node)
    assert not bisect(model, folded).text
    name = next(t.name for t in folded.graph.initializer if "/biasopt/mean" in t.name)
    assert bisect(model, changed(folded, name, lambda m: m.__setitem__(2, 9))).tensor == name


def test_a_fold_of_a_fold() -> None:
    first = converter.fold(plain(), verify=False, stop_after=1).model
    second = converter.fold(first, verify=False).model
    assert not bisect(first, second).text
    found = bisect(first, changed(second, "conv6_node/biasopt/weight", lambda w: w.__setitem__(0, 0)))
    assert found.tensor == "conv6_node/biasopt/weight"


def test_nothing_to_find() -> None:
    model = mobile()
    good = converter.fold(model, verify=False).model
    found = bisect(model, good)
    assert (found.text, found.steps) == ("", 1)
    assert "every rewrite of it passes" in found.why
    assert not bisect(model, theirs(fold(model))).text
    assert Blame().text == ""


def theirs(model: ModelProto) -> ModelProto:
    """The model as another tool would have named it."""
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("biasopt", "theirs")
    for node in model.graph.node:
        node.input[:] = [n.replace("biasopt", "theirs") for n in node.input]
    return model


@pytest.mark.parametrize("layer", [0, 2, 5])
def test_the_first_tensor_of_another_tools_fold(layer: int) -> None:
    model = residual()
    folded = fold(model, bug=lambda k, w, b: w.__setitem__(1, w[1] * 1.05) if k == layer else None)
    norms = [n.output[0] for n in model.graph.node if n.op_type == "BatchNormalization"]
    found = bisect(model, theirs(folded))
    assert (found.rewrite, found.tensor) == ("", norms[layer])
    assert "channel 1" in found.why
    assert found.node.startswith("conv")


def test_a_name_with_another_meaning_is_not_to_blame() -> None:
    """Another tool keeps the convolution's name for what the batch norm's was; the error is two layers down."""
    model = plain()
    folded = theirs(fold(model))
    conv, relu = folded.graph.node[0], folded.graph.node[1]
    conv.output[0] = relu.input[0] = "conv0"
    assert not bisect(model, folded).text
    wrong = changed(folded, "conv6_node/theirs/bias", lambda b: b.__setitem__(2, b[2] + 1))
    assert bisect(model, wrong).tensor == "batchnormalization7"


def test_what_a_command_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
    model = plain()
    a.write_bytes(model.SerializeToString())
    wrong = changed(converter.fold(model, verify=False).model, "conv0_node/biasopt/bias", lambda x: x.__setitem__(1, 3))
    b.write_bytes(wrong.SerializeToString())

    def verified(*argv: str) -> tuple[int, dict[str, Any]]:
        code = cli.run(["verify", str(a), *argv, "--quick", "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, document = verified(str(b), "--bisect")
    assert (code, document["verdict"]) == (1, "FAIL")
    assert "conv0_node/biasopt/bias" in document["blame"]
    assert not verified(str(b))[1]["blame"]
    code, document = verified(str(a), "--bisect")
    assert (code, document["blame"]) == (0, "")


def test_a_fold_with_another_epsilon_names_its_layer() -> None:
    model = mobile()
    norms = [n for n in model.graph.node if n.op_type == "BatchNormalization"]
    for k, norm in itertools.islice(enumerate(norms), 0, None, 3):
        found = bisect(model, converter.fold(with_epsilon(model, k, 1e-3), verify=False).model)
        assert found.tensor == f"{norm.input[0]}_node/biasopt/weight"
