"""What the models decide on the user's inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from converter.errors import DataError
from converter.records import Stage, Verdict
from converter.referee.verify import compare
from converter.referee.verify.decisions import AgreementCounts, classifies

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3200, 4)).astype(np.float32)

RUNS = [{"x": X[k : k + 16]} for k in range(0, len(X), 16)]


def classifier(rows: int = 3, bias: float = 0.0, op: str = "") -> onnx.ModelProto:
    """Scores [N, rows]; ``bias`` moves the first class."""
    model = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[n,4] x) => (float[n,{rows}] y) {{ h = MatMul(x, w) y = Add(h, b) }}
    """)
    weight = np.random.default_rng(1).standard_normal((4, rows)).astype(np.float32)
    shift = np.zeros(rows, np.float32)
    shift[0] = bias
    for name, value in (("w", weight), ("b", shift)):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def classes(x: np.ndarray, bias: float = 0.0) -> np.ndarray:
    weight = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    return (x @ weight + np.float32([bias, 0, 0])).argmax(axis=1)


def decided(a: onnx.ModelProto, b: onnx.ModelProto, **options: Any) -> Stage:
    options = {"inputs": {"x": X}, "stages": ["decision"], **options}
    return next(s for s in compare(a, b, **options).stages if s.id == "decision")


def test_no_disagreement_in_enough_inputs_passes() -> None:
    stage = decided(classifier(), classifier(bias=1e-7))
    (check,) = stage.outputs
    assert (stage.status, check.detail["n"], check.detail["k"]) == (Verdict.PASS, 3200, 0)
    assert check.detail["upper"] <= 0.001
    assert check.detail["certified"] > 0.99


def test_too_few_inputs_are_inconclusive_and_say_how_many_would_do() -> None:
    stage = decided(classifier(), classifier(bias=1e-7), inputs={"x": X[:500]})
    assert stage.status is Verdict.INCONCLUSIVE
    assert "need \u2265 2,995 inputs for 0.1 %" in stage.why
    assert stage.outputs[0].detail["needed_n"] == 2995
    assert decided(classifier(), classifier(bias=1e-7), inputs={"x": X[:500]}, margin=0.01).status is Verdict.PASS


def test_many_disagreements_fail() -> None:
    stage = decided(classifier(), classifier(bias=0.5))
    changed = int((classes(X) != classes(X, 0.5)).sum())
    assert (stage.status, stage.outputs[0].detail["k"]) == (Verdict.FAIL, changed)
    assert changed > 100


def test_a_few_disagreements_are_neither() -> None:
    stage = decided(classifier(), classifier(bias=0.5), inputs={"x": X[:40]}, margin=0.2)
    assert stage.status is Verdict.INCONCLUSIVE


def test_with_labels_a_change_that_costs_nothing_passes() -> None:
    """Right answers won and lost alike: disagreement alone would not pass."""
    labels = classes(X, 0.01)  # halfway: half of what changes is won, half lost
    stage = decided(classifier(), classifier(bias=0.02), labels=labels, margin=0.01)
    detail = stage.outputs[0].detail
    assert stage.status is Verdict.PASS
    assert detail["gained"] > 0 < detail["lost"]
    assert detail["metric"] == "top1"
    assert detail["accuracy_b"] - detail["accuracy_a"] == pytest.approx(detail["difference"])
    assert detail["lower"] < detail["difference"] < detail["upper"]
    assert 0 < detail["mcnemar_p"] <= 1


def test_with_labels_a_loss_fails_and_a_gain_passes() -> None:
    a, b = classifier(), classifier(bias=0.5)
    assert decided(a, b, labels=classes(X), margin=0.001).status is Verdict.FAIL
    assert decided(a, b, labels=classes(X, 0.5), margin=0.001).status is Verdict.PASS


def test_labels_fit_the_rows(tmp_path: Path) -> None:
    a, b = classifier(), classifier(bias=1e-7)
    np.save(tmp_path / "l.npy", classes(X))
    assert decided(a, b, labels=tmp_path / "l.npy").status is Verdict.PASS
    for labels in (classes(X)[:-1], np.append(classes(X), 0)):
        with pytest.raises(DataError, match="one per row"):
            decided(a, b, labels=labels)
    with pytest.raises(DataError, match="labels are of inputs"):
        decided(a, b, inputs=None, labels=classes(X))


def test_too_few_labels_are_counted_beside_the_rows() -> None:
    a, b = classifier(), classifier(bias=1e-7)
    with pytest.raises(DataError, match=r"there are 3 labels for 3200 rows; give one per row"):
        decided(a, b, labels=np.arange(3), inputs={"x": X})


def test_labels_that_are_no_class_have_a_word() -> None:
    labels = classes(X[:200])
    labels[:7] = 99
    stage = decided(classifier(), classifier(bias=1e-7), inputs={"x": X[:200]}, labels=labels)
    assert "of 200 inputs, 7 labels being none of the 3 classes" in stage.why


def test_numbers_that_are_none_in_the_inputs_are_named() -> None:
    values = X[:8].copy()
    values[:] = np.nan
    found = compare(classifier(), classifier(bias=1e-7), inputs={"x": values})
    assert found.verdict is Verdict.INCONCLUSIVE
    assert any("NaN or Inf in the inputs, 32 in all" in warning for warning in found.warnings)


def test_labels_come_with_the_inputs() -> None:
    pairs = [({"x": X[k : k + 100]}, classes(X[k : k + 100])) for k in range(0, 3200, 100)]
    parity = compare(classifier(), classifier(bias=1e-7), inputs=pairs, stages=["decision"])
    assert parity.inputs is not None
    assert (parity.inputs.labelled, parity.inputs.n) == (True, 3200)
    assert parity.stages[-1].outputs[0].detail["accuracy_a"] == 1


def test_without_real_inputs_it_is_skipped_and_says_so() -> None:
    stage = decided(classifier(), classifier(bias=1e-7), inputs=None, stages=["runtime", "decision"])
    assert stage.status is Verdict.SKIPPED
    assert "real inputs" in stage.why


def test_what_is_no_classifier_is_left_to_the_ratio() -> None:
    stage = decided(classifier(rows=1), classifier(rows=1, bias=1e-7))
    assert stage.status is Verdict.SKIPPED
    assert "--decision" in stage.why
    with pytest.raises(DataError, match="'z'"):
        decided(classifier(), classifier(bias=1e-7), decision=["z"])


def test_nan_on_one_side_in_one_input_of_many_fails_and_is_kept(tmp_path: Path) -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[n,4] x) => (float[n,4] y) {{ h = Abs(x) {} }}
    """
    a = parser.parse_model(text.format("z = Relu(x) y = Add(z, h)"))
    b = parser.parse_model(text.format("q = Sqrt(x) s = Mul(q, q) z = Relu(s) y = Add(z, h)"))
    x = np.abs(X)
    x[2500, 1] = -1
    parity = compare(a, b, inputs={"x": x}, stages=["decision"], failing=tmp_path / "out")
    assert parity.verdict is Verdict.FAIL
    assert "not finite in one model only" in parity.why
    kept = np.load(parity.failing_inputs)["x"]
    assert kept.min() == -1
    again = compare(a, b, inputs=parity.failing_inputs, stages=["decision"])
    assert again.verdict is Verdict.FAIL


METRIC = """
import numpy as np
def hits(outputs, labels):
    return [float(np.mean(o["y"].argmax(1) == l)) for o, l in zip(outputs, labels)]
def rate(outputs, labels):
    found = np.concatenate([o["y"].argmax(1) for o in outputs]) == np.concatenate(labels)
    return float(found.mean())
def broken(outputs, labels):
    return "good"
"""


@pytest.mark.parametrize("name", ["hits", "rate"])
def test_a_metric_of_the_users_own(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.referee.verify.decisions._SECONDS", 0.5)
    (tmp_path / "m.py").write_text(METRIC)
    ask: dict[str, Any] = {"metric": f"{tmp_path}/m.py:{name}", "labels": classes(X), "margin": 0.01, "inputs": RUNS}
    worse = decided(classifier(), classifier(bias=0.5), **ask)
    assert worse.status is Verdict.FAIL
    assert worse.outputs[0].detail["score_a"] == pytest.approx(1.0)
    slightly = decided(classifier(), classifier(bias=0.005), **ask)
    assert slightly.status is Verdict.PASS
    assert slightly.outputs[0].detail["lower"] > -0.01


def test_a_metric_that_never_varies_falls_back_to_how_many_may_change(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(METRIC)
    ask: dict[str, Any] = {"metric": f"{tmp_path}/m.py:hits", "labels": classes(X), "inputs": RUNS}
    stage = decided(classifier(), classifier(bias=1e-7), **ask)  # 200 runs of 16
    assert stage.status is Verdict.INCONCLUSIVE
    assert stage.outputs[0].detail["degenerate"] is True
    assert decided(classifier(), classifier(bias=1e-7), margin=0.05, **ask).status is Verdict.PASS


def test_a_metric_that_gives_no_number_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(METRIC)
    with pytest.raises(DataError, match="return a number"):
        decided(classifier(), classifier(bias=1e-7), metric=f"{tmp_path}/m.py:broken", labels=classes(X))
    ask: dict[str, Any] = {"metric": f"{tmp_path}/m.py:hits", "labels": classes(X), "max_memory": 10_000}
    with pytest.raises(DataError, match="more than"):
        decided(classifier(), classifier(bias=1e-7), **ask)


def test_maps_count_points() -> None:
    votes = AgreementCounts()
    a = np.zeros((2, 3, 4, 4), np.float32)
    a[:, 1] = 1
    b = a.copy()
    b[0, 2, 0, :2] = 5
    votes.add(a, b, None)
    assert (votes.rows, votes.maps, votes.differ) == (2, True, 2 / 16)
    assert votes.certified == 1
    whole = AgreementCounts()
    whole.add(a.argmax(1), b.argmax(1), np.ones((2, 4, 4), int))
    assert (whole.differ, whole.right_a, whole.right_b) == (2 / 16, 2, 2 - 2 / 16)


def test_the_margin_certificate_never_certifies_a_flip() -> None:
    a = RNG.standard_normal((500, 5))
    b = a + 0.3 * RNG.standard_normal((500, 5))
    votes = AgreementCounts()
    votes.add(a, b, None)
    assert 0 < votes.certified <= 500 - votes.differ
    flips = a.argmax(1) != b.argmax(1)
    for k in np.flatnonzero(flips):
        one = AgreementCounts()
        one.add(a[k : k + 1], b[k : k + 1], None)
        assert one.certified == 0


def test_what_decides_unasked() -> None:
    for value, expected in (
        (np.zeros((2, 3), np.float32), True),
        (np.zeros((2, 1), np.float32), False),
        (np.zeros((2, 3, 4, 4), np.float32), False),
        (np.zeros((2, 4, 4), np.int64), True),
        (np.zeros(2, np.int64), False),
        ([np.zeros((2, 3))], False),
    ):
        assert classifies(value) is expected


def test_labels_are_of_one_output() -> None:
    def twice(model: onnx.ModelProto) -> onnx.ModelProto:
        model.graph.node.append(onnx.helper.make_node("Neg", ["y"], ["z"]))
        model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, ["n", 3]))
        return model

    a, b = twice(classifier()), twice(classifier(bias=1e-7))
    assert len(decided(a, b).outputs) == 2
    with pytest.raises(DataError, match="name one with --decision"):
        decided(a, b, labels=classes(X))
    assert decided(a, b, labels=classes(X), decision=["y"]).status is Verdict.PASS
