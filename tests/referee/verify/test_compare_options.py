"""What a caller may ask of the referee."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import converter
from converter.errors import DataError
from converter.records import Parity, Verdict
from converter.referee.verify import compare
from converter.referee.verify.models import ModelUnderTest, draw_within
from tests import tiny
from tests.referee.verify import nets
from tests.referee.verify.test_comparison import channel, copied, with_tail
from tests.referee.verify.test_foreign import foreign

MODEL = nets.plain()
FOLDED = nets.fold(MODEL)
RUN = ["algebra", "runtime"]  # what a proof leaves out


def ids(parity: Parity) -> list[str]:
    return [s.id for s in parity.stages]


def stage(parity: Parity, name: str) -> Any:
    return next(s for s in parity.stages if s.id == name)


def test_every_output_carries_the_usual_measures_and_the_noise() -> None:
    measured = compare(MODEL, FOLDED, stages=RUN)
    for parity, name in (
        (measured, "runtime"),
        (measured, "runtime-deployed"),
        (compare(MODEL, FOLDED), "runtime-deployed"),
    ):
        (check,) = stage(parity, name).outputs
        assert check.detail["classic"]["max_abs"] == pytest.approx(check.max_abs)
        assert sum(check.detail["hist_log10_abs"]["counts"]) > 0
    assert stage(measured, "runtime").outputs[0].detail["noise"] == {"rerun": 0.0, "resession": 0.0}


def test_facts_are_handed_over(tmp_path: Path) -> None:
    onnx.save(copied(MODEL), tmp_path / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0)
    onnx.save(FOLDED, tmp_path / "b.onnx")
    parity = compare(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert parity.a is not None
    assert parity.b is not None
    assert parity.a.nodes["BatchNormalization"] == 3
    assert "BatchNormalization" not in parity.b.nodes
    assert parity.a.size_bytes == sum((tmp_path / n).stat().st_size for n in ("a.onnx", "a.data"))
    before = parity.a.sha256
    data = bytearray((tmp_path / "a.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "a.data").write_bytes(data)
    assert compare(tmp_path / "a.onnx", tmp_path / "b.onnx").a.sha256 != before  # type: ignore[union-attr]
    assert parity.inputs is not None
    assert (parity.inputs.kind, parity.inputs.n, parity.inputs.real) == ("random", 1, False)


def test_stages_are_chosen() -> None:
    assert ids(compare(MODEL, FOLDED, stages=["structure"])) == ["environment", "structure"]
    only = compare(MODEL, FOLDED, stages=["structure"])
    assert (only.verdict, only.level) == (Verdict.PASS, "D")
    assert ids(compare(MODEL, FOLDED, stages=["algebra"])) == ["environment", "structure", "algebra"]
    run = compare(MODEL, FOLDED, stages=["runtime"])
    assert ids(run) == ["environment", "structure", "runtime", "runtime-deployed"]
    assert "error_before" in stage(run, "runtime").outputs[0].detail  # the reference is there all the same
    with pytest.raises(ValueError, match="none of structure"):
        compare(MODEL, FOLDED, stages=["typo"])


def test_a_level_may_be_required() -> None:
    for level in ("p", "B"):
        assert compare(MODEL, FOLDED, require_level=level).verdict is Verdict.PASS
    for level, stages, reached in (("a", None, "P"), ("P", RUN, "B")):
        parity = compare(MODEL, FOLDED, require_level=level, stages=stages)
        assert parity.verdict is Verdict.INCONCLUSIVE
        assert f"level {reached}" in parity.why
    assert compare(MODEL, FOLDED, stages=["structure"], require_level="D").verdict is Verdict.PASS
    assert compare(MODEL, FOLDED, stages=["structure"], require_level="C").verdict is Verdict.INCONCLUSIVE
    assert compare(MODEL, MODEL, require_level="A").verdict is Verdict.PASS  # nothing differs at all
    assert compare(MODEL, nets.fold(MODEL, bug=channel), require_level="A").verdict is Verdict.FAIL
    with pytest.raises(ValueError, match="require_level"):
        compare(MODEL, FOLDED, require_level="E")


def test_enough_real_inputs_make_level_a() -> None:
    x = np.random.default_rng(0).standard_normal((3000, 3, 16, 16)).astype(np.float32)
    runs = [{"x": x[k : k + 250]} for k in range(0, 3000, 250)]
    parity = converter.compare(MODEL, FOLDED, inputs=runs, max_time=120.0, require_level="A")
    assert (parity.verdict, parity.level) == (Verdict.PASS, "A")
    assert parity.inputs is not None
    assert (parity.inputs.n, parity.inputs.real) == (3000, True)


def test_ratios_are_the_callers() -> None:
    score = stage(compare(MODEL, FOLDED, stages=RUN), "runtime").outputs[0].score
    doubt = compare(MODEL, FOLDED, max_ratio=score / 2, fail_ratio=score * 4, stages=["algebra", "runtime"])
    bad = compare(MODEL, nets.fold(MODEL, bug=channel), max_ratio=1e9, stages=["runtime"])
    assert stage(bad, "runtime").status is Verdict.PASS
    # below 8 units of rounding an error passes whatever the ratio says
    assert doubt.verdict is Verdict.PASS


def test_tolerances_are_gates_on_top() -> None:
    assert compare(MODEL, FOLDED, tolerances=[("", "max_abs", 1e-3)]).verdict is Verdict.PASS
    parity = compare(MODEL, FOLDED, tolerances=[("y", "max_abs", 1e-12)])
    assert parity.verdict is Verdict.FAIL
    assert "max_abs" in parity.why
    with pytest.raises(DataError, match="'z'"):
        compare(MODEL, FOLDED, tolerances=[("z", "max_abs", 1.0)])


def test_random_values_lie_in_their_range() -> None:
    assert compare(MODEL, FOLDED, ranges={"x": (0.0, 1.0)}, samples=4, stages=RUN).inputs.n == 4  # type: ignore[union-attr]
    like = np.zeros(500, np.float32)
    values = draw_within("x", like, (-2.0, 3.0), 0)
    assert values.dtype == np.float32
    assert -2 <= values.min() < -1.9 < 2.9 < values.max() <= 3
    whole = draw_within("x", like.astype(np.int64), (2, 4), 0)
    assert set(whole) == {2, 3, 4}
    with pytest.raises(DataError, match="'z'"):
        compare(MODEL, FOLDED, ranges={"z": (0.0, 1.0)})


def test_names_are_mapped() -> None:
    other = copied(FOLDED)
    for node in other.graph.node:
        for field in (node.input, node.output):
            field[:] = [{"x": "data", "y": "scores"}.get(n, n) for n in field]
    other.graph.input[0].name, other.graph.output[0].name = "data", "scores"
    assert compare(MODEL, other).verdict is Verdict.FAIL
    assert compare(MODEL, other, names={"x": "data", "y": "scores"}).verdict is Verdict.PASS
    with pytest.raises(DataError, match="'nope'"):
        compare(MODEL, other, names={"x": "nope"})


def test_a_name_that_is_taken_makes_way() -> None:
    head = '<ir_version: 8, opset_import: ["" : 17]>'
    a = parser.parse_model(f"{head} g (float[4] x) => (float[4] y) {{ h = Abs(x) y = Sqrt(h) }}")
    b = parser.parse_model(f"{head} g (float[4] x) => (float[4] z) {{ y = Abs(x) q = Neg(y) r = Neg(q) z = Sqrt(r) }}")
    assert compare(a, b, names={"y": "z"}).verdict is Verdict.PASS


def test_the_originals_own_noise_counts_as_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that gives other numbers every time: what A shows beside itself is no error of B."""
    real = ModelUnderTest.run
    rng = np.random.default_rng(0)

    def noisy(self: ModelUnderTest, feeds: Any, n_bytes: int | None = None) -> Any:
        return {
            n: (v * (1 + 1e-4 * rng.standard_normal(v.shape))).astype(v.dtype) for n, v in real(self, feeds).items()
        }

    monkeypatch.setattr(ModelUnderTest, "run", noisy)
    parity = compare(MODEL, FOLDED, stages=["runtime"], precision_gate="strict")
    assert parity.verdict is Verdict.PASS
    assert stage(parity, "runtime").outputs[0].detail["noise"]["rerun"] > 1e-5
    assert any("run again" in w for w in parity.warnings)


def test_the_noise_of_one_input_alone_does_not_excuse_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.referee.verify.comparison.measure_distance", lambda first, second: 1e-5)
    bad = compare(MODEL, nets.fold(MODEL, bug=channel), stages=["runtime"], precision_gate="strict")
    assert bad.verdict is Verdict.FAIL


def test_an_overflow_of_the_original_is_called_one() -> None:
    def half(model: onnx.ModelProto) -> onnx.ModelProto:
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
        for end in (*model.graph.input, *model.graph.output):
            end.type.tensor_type.elem_type = TensorProto.FLOAT16
        return model

    big = {"c": np.full((1, 10), 60_000, np.float32)}
    times = [helper.make_node("Mul", ["before", "c"], ["t"]), helper.make_node("Mul", ["t", "c"], ["y"])]
    tail = with_tail(*times, **big)
    a, b = nets.plain(), nets.plain()
    for model in (a, b):
        tail(model)
    half(a)
    b = half(b)
    b.graph.node[-1].input[:] = ["c", "t"]
    parity = compare(a, b, stages=["runtime"])
    assert any("overflows" in w for w in parity.warnings)
    assert any("NaN or Inf" in w for w in parity.warnings)


def test_nothing_compared_is_no_pass() -> None:
    head = '<ir_version: 8, opset_import: ["" : 17]>'
    a = parser.parse_model(
        f"{head} g (float[4] x) => (float[0] y) {{ s = Constant<value_ints = [0]>() h = Abs(x) y = Slice(h, s, s) }}"
    )
    b = parser.parse_model(
        f"{head} g (float[4] x) => (float[0] y) {{ s = Constant<value_ints = [0]>() h = Neg(x) y = Slice(h, s, s) }}"
    )
    parity = compare(a, b)
    assert parity.verdict is Verdict.FAIL
    none = copied(MODEL)
    del none.graph.output[:]
    assert compare(none, none).verdict is Verdict.INCONCLUSIVE


def test_inputs_that_fail_are_kept(tmp_path: Path) -> None:
    bad = nets.fold(MODEL, bug=channel)
    parity = compare(MODEL, bad, failing=tmp_path / "deep" / "folder")
    assert Path(parity.failing_inputs).is_file()
    assert compare(MODEL, bad, inputs=parity.failing_inputs).verdict is Verdict.FAIL
    assert compare(MODEL, FOLDED, failing=tmp_path / "none").failing_inputs == ""


def test_what_is_undecided_without_an_input_that_differs_saves_none(tmp_path: Path) -> None:
    texts = (f"(float[4] x) => (float[4] y) {{ h = Sigmoid (x) y = Clip (h, l, {high}) }}" for high in ("u", "v"))
    consts = {name: np.array(value, np.float32) for name, value in (("l", -1), ("u", 2), ("v", 3))}
    a, b = (tiny.model(text, {k: v for k, v in consts.items() if k in text.split("Clip")[1]}) for text in texts)
    parity = compare(a, b, failing=tmp_path / "moved")
    assert parity.verdict is Verdict.INCONCLUSIVE, parity.why
    assert (parity.failing_inputs, list(tmp_path.iterdir())) == ("", [])
    assert not (tmp_path / "none").exists()


def test_precision_gates() -> None:
    assert "runtime-deployed" not in ids(compare(MODEL, FOLDED, precision_gate="strict"))
    bad = compare(MODEL, nets.fold(MODEL, bug=channel), precision_gate="as-deployed", stages=["runtime"])
    assert [s.status for s in bad.stages[-2:]] == [Verdict.SKIPPED, Verdict.FAIL]


def test_an_error_that_only_shows_as_deployed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ModelUnderTest.run

    def worse(self: ModelUnderTest, feeds: Any, n_bytes: int | None = None) -> Any:
        found = real(self, feeds)
        if self._deployed and not any(n.op_type == "BatchNormalization" for n in self.source.proto.graph.node):
            found = {n: v * np.float32(1.001) for n, v in found.items()}
        return found

    monkeypatch.setattr(ModelUnderTest, "run", worse)
    parity = compare(MODEL, FOLDED, stages=["runtime"])
    assert (parity.verdict, stage(parity, "runtime").status) == (Verdict.FAIL, Verdict.PASS)
    assert stage(parity, "runtime-deployed").status is Verdict.FAIL


def test_sizes_that_cannot_be_guessed_are_named() -> None:
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[n,t,6] x) => (float[p,q] y) { s = Constant<value_ints = [7, 13]>() h = Abs(x) y = Reshape(h, s) }
    """)
    other = copied(model)
    other.graph.node[1].op_type = "Relu"
    warned = " ".join(compare(model, other).warnings)
    assert "--shape x=n,t,6" in warned


def test_seconds_are_told_where_they_are_asked_for() -> None:
    assert all(s.seconds is None for s in compare(MODEL, FOLDED).stages)
    assert any(s.seconds is not None for s in converter.compare(MODEL, FOLDED).stages)


def test_an_epsilon_dropped_in_one_layer_of_a_fold_of_ours_fails() -> None:
    """No output shows it: the variance is large there."""
    model = nets.residual()
    for tensor in model.graph.initializer:
        if tensor.name.startswith("var"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(30), tensor.name))
    right, wrong = nets.fold(model), nets.fold(model, epsilon=0.0)
    assert compare(model, right).verdict is Verdict.PASS
    mixed = copied(right)
    chosen = [t.name for t in mixed.graph.initializer if t.name.endswith("/biasopt/weight")][4]
    values = {t.name: t for t in wrong.graph.initializer}
    for tensor in mixed.graph.initializer:
        if tensor.name in (chosen, chosen.replace("weight", "bias")):
            tensor.CopyFrom(values[tensor.name])
    parity = compare(model, mixed)
    assert parity.verdict is Verdict.FAIL
    assert stage(parity, "parameters").status is Verdict.FAIL


def test_what_a_level_lacks_is_said() -> None:
    assert "decision: needs real inputs" in converter.compare(MODEL, FOLDED, require_level="A").why
    weaker = compare(MODEL, foreign(copied(FOLDED)), require_level="B", max_memory=60_000)
    assert "level C" in weaker.why
    assert "not run whole" in weaker.why


@pytest.mark.parametrize(("provider", "warned"), [("cpu", False), ("cuda", True)])
def test_an_override_of_tf32_is_a_warning(provider: str, warned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.referee.verify import request as asked

    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setattr(asked, "check_provider", lambda provider, options: "")
    monkeypatch.setattr(asked, "probe_provider", lambda provider, options: None)
    parity = compare(MODEL, MODEL, provider=provider)
    assert any("NVIDIA_TF32_OVERRIDE" in w for w in parity.warnings) is warned


def test_inputs_of_narrow_types_are_kept_without_pickling(tmp_path: Path) -> None:
    import ml_dtypes

    from converter.referee.verify.verdict import save_failing

    value = np.array([1.5, 3.0], ml_dtypes.bfloat16)
    saved = np.load(save_failing([{"x": value}, {"x": value[:1]}, {"x": value}], tmp_path), allow_pickle=False)["x"]
    assert saved.tolist() == [[1.5, 3.0]] * 2
    assert save_failing([{"x": [value]}], tmp_path / "sequence") == ""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        save_failing([{"x": value}], tmp_path / "file")
