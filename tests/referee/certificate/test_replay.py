"""Certificates replay to the folded model, byte for byte, by code of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import converter
from converter import numerics
from converter.commands.certificate import Recorder
from converter.errors import DataError, InvariantViolation, ModelError
from converter.referee.certificate import check_certificate
from converter.referee.proto.source import LoadedModel
from tests import tiny
from tests.cases.case import Case, Want
from tests.cases.rows import CORE
from tests.files import externalise, small_model
from tests.referee.certificate.certified import certified, certify
from tests.referee.verify.nets import ARCHITECTURES, plain
from tests.referee.verify.test_shape_readers import READERS, net

SMALL = Path(__file__).parents[3] / "models"
CASES = [c for c in CORE if c.want is Want.FOLD and not c.options]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_holds_and_rebuilds_the_file(name: str, tmp_path: Path) -> None:
    original, folded, said = certified(ARCHITECTURES[name](), tmp_path)
    result = converter.replay_certificate(original, said, out=tmp_path / "again.onnx")
    assert (result.exit_code, result.why) == (0, "")
    assert result.steps == result.replayed == result.recomputed > 0
    assert (tmp_path / "again.onnx").read_bytes() == folded.read_bytes()
    assert result.same_bytes


@pytest.mark.parametrize("name", ["digits_vit", "digits_lstm", "digits_autoencoder", "digits_cnn_plain_bn"])
def test_trained_models(name: str, tmp_path: Path) -> None:
    folded = tmp_path / "folded.onnx"
    document = certify(SMALL / f"{name}.onnx", folded)
    found = check_certificate(LoadedModel.open(SMALL / f"{name}.onnx"), document)
    assert (found.failure, found.open_steps) == ("", ())
    assert found.write is not None
    found.write(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == folded.read_bytes()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_kind_of_fold(case: Case, tmp_path: Path) -> None:
    """Functions, branches, old IR versions, shared weights, every float type: the same bytes."""
    original, folded, said = certified(case.build(), tmp_path)
    result = converter.replay_certificate(original, said, out=tmp_path / "again.onnx")
    assert not result.why
    assert (tmp_path / "again.onnx").read_bytes() == folded.read_bytes()
    assert result.recomputed + len(result.open_steps) == result.steps


def test_nearly_all_folds_are_recomputed() -> None:
    steps = [s for c in CASES for s in certify(c.build())["steps"]]
    left = [s["id"] for s in steps if not s["check"]["recomputed"]]
    assert len(left) <= 2, left


def test_external_data(tmp_path: Path) -> None:
    model = externalise(small_model(), tmp_path, "weights.bin", gap=3)
    original, folded, said = certified(model, tmp_path)
    (tmp_path / "there").mkdir()
    out = tmp_path / "there" / folded.name  # data files are called after the model
    result = converter.replay_certificate(original, said, out=out)
    assert (result.why, result.same_bytes) == ("", True)
    assert (tmp_path / "there" / f"{out.name}.data").read_bytes() == (tmp_path / f"{folded.name}.data").read_bytes()
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[5] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    damaged = converter.replay_certificate(original, said, out=tmp_path / "no.onnx")
    assert (damaged.exit_code, damaged.where) == (1, "input.digest")
    assert not (tmp_path / "no.onnx").exists()


def test_frozen_inputs() -> None:
    model = small_model()
    model.graph.input.append(onnx.helper.make_tensor_value_info("gamma", onnx.TensorProto.FLOAT, [5]))
    assert not certify(model)["frozen"]
    document = certify(model, freeze_overridable=True)
    assert document["frozen"] == ["gamma"]
    assert check_certificate(LoadedModel.open(model), document).holds


def test_a_model_with_nothing_to_fold(tmp_path: Path) -> None:
    model = small_model()
    del model.graph.node[1]
    model.graph.node[1].input[0] = "c"
    original, folded, said = certified(model, tmp_path)
    result = converter.replay_certificate(original, said, out=tmp_path / "again.onnx")
    assert (result.steps, result.exit_code) == (0, 0)
    assert (tmp_path / "again.onnx").read_bytes() == original.read_bytes() == folded.read_bytes()


def test_what_a_step_says() -> None:
    """What the page on certificates promises of each step."""
    document = certify(plain())
    step = document["steps"][0]
    assert (step["pass"], step["version"], step["safety"]) == ("fold-bn-into-conv", 1, "rounding")
    assert {"training-mode", "overflow", "not-finite"} <= set(step["guards"])
    before = {o["name"]: o for o in step["before"]}
    weights = {t.name: t for t in plain().graph.initializer}
    assert before.keys() == {"w0", "b0", "gamma1", "beta1", "mean1", "var1"}
    assert before["w0"]["shape"] == [8, 3, 3, 3]
    assert before["w0"]["sha256"] == __import__("hashlib").sha256(weights["w0"].raw_data).hexdigest()
    assert [o["name"] for o in step["after"]] == ["conv0_node/biasopt/bias", "conv0_node/biasopt/weight"]
    assert len(json.dumps(step["edits"])) < weights["w0"].ByteSize() * 3
    rounding = step["rounding"]["conv0_node/biasopt/weight"]
    assert rounding["residual"]["shape"] == rounding["bound"]["shape"] == [8]
    assert 0 < rounding["worst"] <= 1
    found = {"recomputed": True, "tensors": ["batchnormalization1"], "numbers": 224, "arrays": 2}
    assert step["check"] == found | {"laws": ["scale-into-weights", "shift-into-bias"], "rounding": 2.0}


def test_a_fold_that_is_wrong_gets_no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    right = numerics.bn_affine
    monkeypatch.setattr(numerics, "bn_affine", lambda g, b, m, v, eps: right(g, b, m, v, 0.0))
    with pytest.raises(InvariantViolation, match=r"step 1 .*weight of Conv 'conv0_node'"):
        certify(plain())


def test_another_result_than_the_folds_gets_no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Recorder.__call__

    def without_the_last(self: Recorder, p: object, edits: list) -> object:
        return right(self, p, edits if len(self.steps) < 2 else edits[:-1])  # type: ignore[arg-type]

    monkeypatch.setattr(Recorder, "__call__", without_the_last)
    with pytest.raises(InvariantViolation):
        certify(plain())


def test_an_output_that_exists_or_is_the_original(tmp_path: Path) -> None:
    original, folded, said = certified(plain(), tmp_path)
    with pytest.raises(ModelError, match="exists already"):
        converter.replay_certificate(original, said, out=folded)
    for path in (original, said):
        with pytest.raises(ModelError, match="is the input itself"):
            converter.replay_certificate(original, said, out=path, force=True)
    assert converter.replay_certificate(original, said, out=folded, force=True).same_bytes
    with pytest.raises(ModelError, match="directory does not exist"):
        converter.replay_certificate(original, said, out=tmp_path / "no" / "x.onnx")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"schema": "biasopt.fold/1"}', '{"schema": 3}'])
def test_what_is_no_certificate(content: str, tmp_path: Path) -> None:
    original, _, said = certified(plain(), tmp_path)
    said.write_text(content)
    with pytest.raises(DataError, match=r"a\.json"):
        converter.replay_certificate(original, said)
    said.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        converter.replay_certificate(original, said)


def test_bfloat16_is_rounded_once() -> None:
    from converter.referee.certificate.constants import DTYPES, round_to

    rng = np.random.default_rng(0)
    values = np.concatenate([rng.standard_normal(2000) * 2.0 ** rng.integers(-140, 128, 2000), [0.0, -0.0, 3.39e38]])
    values = np.concatenate([values, 1 + 2.0**-8 + np.array([0, 2.0**-40, -(2.0**-40)])])  # a tie, and beside it
    ours, theirs = round_to(values, DTYPES["bfloat16"]), numerics.round_to(values, DTYPES["bfloat16"])
    assert np.array_equal(ours.view(np.uint16), theirs.view(np.uint16))


def test_a_fold_writes_one_for_external_data_too(tmp_path: Path) -> None:
    original = tmp_path / "a.onnx"
    original.write_bytes(externalise(small_model(), tmp_path, "weights.bin").SerializeToString())
    out, said = tmp_path / "there" / "f.onnx", tmp_path / "c.json"
    out.parent.mkdir()
    assert converter.fold(original, out=out, certificate=said, quick=True).certificate == said
    (tmp_path / "again").mkdir()
    result = converter.replay_certificate(original, said, out=tmp_path / "again" / "f.onnx")
    assert (result.why, result.same_bytes) == ("", True)
    assert (tmp_path / "again" / "f.onnx.data").read_bytes() == (out.parent / "f.onnx.data").read_bytes()


def test_numbers_that_json_has_not(tmp_path: Path) -> None:
    original, _, said = certified(plain(), tmp_path)
    said.write_text(said.read_text().replace('"version": 1', '"version": NaN', 1))
    with pytest.raises(DataError, match="NaN is no number"):
        converter.replay_certificate(original, said)


def test_the_folded_model_is_told_from_a_stranger(tmp_path: Path) -> None:
    """After a fold in place it is the file under the original's name."""
    original, folded, said = certified(plain(), tmp_path)
    assert "this is the folded model" in converter.replay_certificate(folded, said).why
    onnx.save(plain(seed=1), original)
    assert "another file" in converter.replay_certificate(original, said).why


DEAD_ENDS = {
    "the norm": "y = Relu(x) c = Conv(x, w) d = BatchNormalization(c, g, be, m, v)",
    "the norm behind others": "c = Conv(x, w) y = Relu(c) e = Conv(y, w5) d = BatchNormalization(e, g, be, m, v)",
    "two norms": "y = Relu(x) c = Conv(x, w) d = BatchNormalization(c, g, be, m, v) "
    "e = BatchNormalization(d, g, be, m, v)",
}


@pytest.mark.parametrize("name", DEAD_ENDS)
def test_branches_that_nothing_reads(name: str) -> None:
    draw = tiny.Draw()
    constants = draw.conv(5, 3, 3, 3) | draw.bn(5) | {"w5": draw.conv(5, 5, 3, 3)["w"]}
    model = tiny.model(f"{tiny.X} => (float[N,C,H,W] y) {{ {DEAD_ENDS[name]} }}", constants)
    said = certify(model)
    assert said["steps"]
    assert said["output"]["digest"]


@pytest.mark.parametrize("factor", [(5, 1), (5, 1, 1)])
def test_a_factor_behind_a_computed_reshape(factor: tuple[int, ...]) -> None:
    """The normal form cannot take the factor back through sizes it does not know; that is no contradiction."""
    model = net(READERS["reshape to a computed shape" if len(factor) == 2 else "reshape, four axes"])
    said = certify(model)
    assert len(said["steps"]) == 1


def _negations(n: int, kind: str) -> onnx.ModelProto:
    """A product and ``n`` negations: behind it, before it, or of its weight."""
    lines = [f"t{k + 1} = Neg({f't{k}' if k else '@'})" for k in range(n)]
    first, last = {
        "behind": (["p = MatMul(x, w)"], [f"y = Add(t{n}, b)"]),
        "before": ([], [f"m = MatMul(t{n}, w)", "y = Add(m, b)"]),
        "weight": ([], [f"m = MatMul(x, t{n})", "s = Add(m, b)", "y = Mul(s, b)"]),
    }[kind]
    text = "\n".join([*first, *lines, *last]).replace("@", {"behind": "p", "before": "x", "weight": "w"}[kind])
    rng = np.random.default_rng(3)
    held = {"w": rng.normal(size=(4, 4)).astype(np.float32), "b": rng.uniform(0.5, 1, 4).astype(np.float32)}
    return tiny.model(f"(float[N,4] x) => (float[N,4] y) {{ {text} }}", held)


@pytest.mark.parametrize("kind", ["behind", "before"])
def test_a_chain_of_negations_is_one_factor(kind: str) -> None:
    said = [certify(_negations(n, kind)) for n in (20, 80)]
    sizes = [len(json.dumps(each["steps"])) for each in said]
    assert sizes[1] < 5 * sizes[0], "the certificate is as long as the chain, not as its square"
    assert [len(each["steps"]) for each in said] == [21, 81]


def test_a_weight_that_a_long_chain_makes() -> None:
    model = _negations(200, "weight")
    assert check_certificate(LoadedModel.open(model), certify(model)).holds


def test_factors_gather_exactly_or_one_by_one() -> None:
    base = numerics.NewTensor(np.ones((3, 2)), np.dtype(np.float32))
    weight = numerics.scale_weight(base, (3, 2), np.array([[3.0], [0.1], [-5.0]]))
    for power, together in ((-1.0, True), (0.25, True), (3.0, False), (2.0**-1074, False), (2.0**1023, False)):
        scaled = numerics.scale_weight(weight, (3, 2), np.full((3, 1), power))
        assert isinstance(scaled, numerics.ScaledTensor)
        assert (len(scaled.factors) == 1) is together, power
        with np.errstate(over="ignore"):
            assert np.array_equal(scaled.float64(), weight.float64() * power)
    turned = numerics.scale_weight(weight, (6,), np.full((1,), -1.0))
    assert isinstance(turned, numerics.ScaledTensor)
    assert len(turned.factors) == 2, "in another view"
