"""One bias by any of its names, and the tree that the command line draws of its way."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import cli
import converter
from models import zoo
from tests.rewrite.bias_flow.test_fates import DRAW, conv, net

VIT = str(zoo.HERE / "digits_vit.onnx")


def folded_pair() -> onnx.ModelProto:
    body = """c = Conv(x, w, b) n = BatchNormalization(c, g, be, m, v) r = Relu(n)
              p = MatMul(r, u) a = Add(p, k) y = Relu(a)"""
    consts = conv("") | DRAW.bn(3) | {"u": DRAW.normal(13, 5), "k": DRAW.normal(5)}
    return net(body, consts, out="(float[2,3,11,5] y)")


@pytest.mark.parametrize("name", ["conv_c", "b", "c", "n", "batchnormalization_n"])
def test_a_bias_is_found_by_any_of_its_names(name: str) -> None:
    assert converter.explain(folded_pair(), name).node == "conv_c"


@pytest.mark.parametrize("name", ["matmul_p", "add_a", "a", "p", "k"])
def test_the_bias_of_a_matmul_is_found_by_the_names_of_its_add(name: str) -> None:
    assert converter.explain(folded_pair(), name).node == "matmul_p"


def test_an_unknown_name_is_answered_by_the_nearest() -> None:
    with pytest.raises(LookupError, match="no bias is called 'conv_d'; did you mean conv_c"):
        converter.explain(folded_pair(), "conv_d")
    with pytest.raises(LookupError, match="no bias is called 'Q'; `inspect --fates` lists them"):
        converter.explain(folded_pair(), "Q")
    with pytest.raises(LookupError, match="did you mean matmul_p"):
        converter.explain(folded_pair(), "MatMul")


def test_a_node_without_a_bias_is_told_from_no_node() -> None:
    with pytest.raises(LookupError, match="'relu_r' is a Relu without a bias; it meets that of conv_c"):
        converter.explain(folded_pair(), "relu_r")


# ---- on the command line ---------------------------------------------------------------------------

VALUE_BIAS = """\
Absorbed: this bias goes, and node_MatMul_37 takes it over.

◆ MatMul node_MatMul_23       its bias: 32 elements
○ Reshape node_view_3         lays it out anew
○ Transpose node_transpose_3  carries it, its axes moved
○ MatMul node_matmul_1        hands it on unchanged: its weights sum to one
○ Transpose node_transpose_5  carries it, its axes moved
○ Identity node_clone         carries it unchanged
○ Reshape node__unsafe_view   lays it out anew
● MatMul node_MatMul_37       takes it over into its bias
"""


def test_the_way_of_an_attentions_value_bias(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", VIT, "--explain", "node_MatMul_23"]) == 0
    assert capsys.readouterr() == (VALUE_BIAS, "")


def test_the_way_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", VIT, "--explain", "node_MatMul_15", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["fate"], document["input"]) == ("biasopt.explain/1", "dead", VIT)
    end = document["path"][-1]
    assert (end["op"], end["verb"], end["from"]) == (
        "Softmax",
        "annihilates",
        ["node_matmul"],
    )  # the number on the scores is in the queries' weights
    assert end["says"].startswith("cancels it: ")


def test_options_of_inspect_hold_for_an_explanation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(folded_pair(), tmp_path / "m.onnx")
    assert cli.run(["inspect", str(tmp_path / "m.onnx"), "--keep-bn", "--explain", "conv_c"]) == 0
    assert "takes it over into its mean" in capsys.readouterr().out


def test_what_nobody_is_called_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", VIT, "--explain", "node_MatMul_1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: biasopt inspect")
    assert "'--explain': no bias is called 'node_MatMul_1'; did you mean node_MatMul_15?" in err
    assert cli.run(["inspect", VIT, "--explain", "node_gelu"]) == 2
    assert "is a Gelu without a bias; it meets that of node_MatMul_39." in capsys.readouterr().err


def test_an_explanation_is_no_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", VIT, "--explain", "node_MatMul_15", "--check"]) == 2
    assert "exclude each other" in capsys.readouterr().err
