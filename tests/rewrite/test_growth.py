"""A fold makes no file larger unless that is allowed: shared weights, tied ones, constants that nodes compute."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import converter
from tests.harness import feeds_of, run_ort
from tests.tiny import Draw, model

SIDE = 64


def tied(factors: tuple[float, ...], *, more: str = "", outputs: str = "") -> onnx.ModelProto:
    """Products with one matrix, each behind a factor of its own."""
    steps = " ".join(f"s{k} = Mul (x, f{k}) m{k} = MatMul (s{k}, w) y{k} = Relu (m{k})" for k in range(len(factors)))
    named = ", ".join(f"float[3,{SIDE}] y{k}" for k in range(len(factors)))
    constants: dict[str, Any] = {f"f{k}": np.float32(f) for k, f in enumerate(factors)}
    constants["w"] = Draw(seed=3).normal(SIDE, SIDE)
    return model(f"(float[3,{SIDE}] x) => ({named}{outputs}) {{ {steps} {more} }}", constants)


def fold(proto: onnx.ModelProto, **options: Any) -> converter.FoldResult:
    result = converter.fold(proto, verify=False, **options)
    feeds = feeds_of(proto)[0]
    for want, got in zip(run_ort(proto, feeds), run_ort(result.model, feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    return result


def size(proto: onnx.ModelProto) -> int:
    return len(proto.SerializeToString())


@pytest.mark.parametrize("options", [{}, {"no_growth": True}, {"allow_growth": math.inf}])
def test_one_new_weight_serves_all_that_take_the_same_factor(options: dict[str, Any]) -> None:
    proto = tied((0.5,) * 6)
    result = fold(proto, **options)
    assert [n.op_type for n in result.model.graph.node].count("Mul") == 0
    assert result.after.parameter_bytes < result.before.parameter_bytes
    assert size(result.model) <= size(proto) or "allow_growth" in options  # what it says of itself


@pytest.mark.parametrize("options", [{}, {"no_growth": True}])
def test_nothing_is_folded_that_would_copy_a_weight(options: dict[str, Any]) -> None:
    proto = tied((0.5, 0.25, 2.0))
    result = fold(proto, **options)
    assert not result.rewrites
    codes = {f.code for f in result.findings}
    assert codes == ({"weight-shared"} if options else {"model-grows"})
    why = next(f.why for f in result.findings)
    assert options or "--allow-growth" in why
    assert result.to_bytes() == proto.SerializeToString()


@pytest.mark.parametrize("options", [{}, {"no_growth": True}])
def test_other_names_of_one_weight_are_one_weight(options: dict[str, Any]) -> None:
    """As torch's exporter writes tied weights: Identity nodes."""
    text = """v = Identity (w) u = Identity (w) a = Mul (x, f) b = Mul (x, f) c = Mul (x, f)
        p = MatMul (a, w) q = MatMul (b, v) r = MatMul (c, u) s = Mul (p, q) y = Mul (s, r)"""
    constants = {"w": Draw(seed=3).normal(SIDE, SIDE), "f": np.float32(0.5)}
    proto = model(f"(float[3,{SIDE}] x) => (float[3,{SIDE}] y) {{ {text} }}", constants)
    result = fold(proto, **options)
    assert [n.op_type for n in result.model.graph.node] == ["MatMul"] * 3 + ["Mul"] * 2
    assert len(result.model.graph.initializer) == 1


def test_a_reader_that_needs_it_as_it_was_keeps_all_from_folding() -> None:
    proto = tied((0.5, 0.5), more="k = MatMul (x, w)", outputs=f", float[3,{SIDE}] k")
    assert not fold(proto).rewrites
    assert len(fold(proto, allow_growth=1.0).rewrites) == 2


@pytest.mark.parametrize(("share", "n_folds"), [(0.5, 0), (1.1, 0), (2.5, 3)])
def test_as_much_as_is_allowed(share: float, n_folds: int) -> None:
    proto = tied((0.5, 0.25, 2.0))
    result = fold(proto, allow_growth=share)
    assert size(result.model) <= (1 + share) * size(proto)
    assert len(result.rewrites) == n_folds  # all that read one weight, or none


def test_a_weight_that_a_node_computes_is_not_written_out() -> None:
    text = "t = Transpose (w) m = MatMul (x, t) y = Mul (m, f) z = Gather (w, x2)"
    proto = model(
        f"(float[3,{SIDE}] x, int64[2] x2) => (float[3,{SIDE}] y, float[2,{SIDE}] z) {{ {text} }}",
        {"w": Draw(seed=3).normal(SIDE, SIDE), "f": np.float32(0.5)},
    )
    assert not fold(proto).rewrites
    assert fold(proto, allow_growth=2.0).rewrites


def test_prefixes_stop_where_the_whole_fold_would_pass() -> None:
    proto = tied((0.5,) * 4)
    assert [len(fold(proto, stop_after=n).rewrites) for n in (0, 1, 3, 9)] == [0, 1, 3, 4]


def test_a_certificate_of_a_weight_that_several_share(tmp_path: Path) -> None:
    proto = tied((0.5,) * 3)
    onnx.save(proto, tmp_path / "a.onnx")
    result = converter.fold(tmp_path / "a.onnx", tmp_path / "b.onnx", verify=False, certificate=tmp_path / "c.json")
    assert len(result.rewrites) == 3
    replayed = converter.replay_certificate(tmp_path / "a.onnx", tmp_path / "c.json", out=tmp_path / "again.onnx")
    assert not replayed.why
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_certificate_that_gives_one_name_two_values_is_refused(tmp_path: Path) -> None:
    import json

    proto = tied((0.5,) * 3)
    onnx.save(proto, tmp_path / "a.onnx")
    converter.fold(tmp_path / "a.onnx", tmp_path / "b.onnx", verify=False, certificate=tmp_path / "c.json")
    document = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    second = document["steps"][1]["edits"][0]
    assert second["edit"] == "set-const"
    second["value"] = {**second["value"], "factors": second["value"]["factors"] * 2}
    from tests.referee.certificate.certified import resealed

    (tmp_path / "c.json").write_text(json.dumps(resealed(document)), encoding="utf-8")
    assert converter.replay_certificate(tmp_path / "a.onnx", tmp_path / "c.json").why


def test_the_trained_recurrent_net_is_no_larger(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "models" / "digits_lstm.onnx"
    result = converter.fold(source, tmp_path / "folded.onnx", verify=False)
    assert result.rewrites
    assert (tmp_path / "folded.onnx").stat().st_size <= source.stat().st_size
