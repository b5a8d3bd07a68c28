"""``biasopt verify``: what it prints, and with which code it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import cli
import converter
from converter.records import Verdict
from tests.referee.verify import nets
from tests.referee.verify.test_comparison import BUGS, missing, other_dtype, other_shape, rename, with_tail

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "100")

    def call(*argv: Any) -> tuple[int, str, str]:
        code = cli.run(["verify", *map(str, argv)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    onnx.save(nets.plain(), tmp_path / "a.onnx")
    onnx.save(nets.fold(nets.plain()), tmp_path / "b.onnx")
    return tmp_path / "a.onnx", tmp_path / "b.onnx"


def test_a_correct_pair(run: Run, pair: tuple[Path, Path]) -> None:
    for stages, expected in (
        ((), ("structure", "parameters", "local", "runtime-deployed", "decision")),
        (
            ("--stages", "algebra,parameters,runtime"),
            ("structure", "algebra", "parameters", "runtime", "runtime-deployed"),
        ),
    ):
        code, out, err = run(*pair, *stages)
        assert (code, err) == (0, "")
        assert out.startswith("PASS")
        for stage in expected:
            assert stage in out
    assert run(*pair, "--quiet") == (0, "", "")


def test_the_same_model(run: Run, pair: tuple[Path, Path]) -> None:
    assert run(pair[0], pair[0])[0] == 0


NAN = np.full((1, 10), np.nan, np.float32)
NAN[0, 1:] = 0
DIFFERENT = {
    "missing output": missing,
    "renamed output": rename,
    "other type": other_dtype,
    "other shape": other_shape,
    "NaN on one side": with_tail(helper.make_node("Add", ["before", "c"], ["y"]), c=NAN),
    "one element 1e-4 off": with_tail(helper.make_node("Add", ["before", "c"], ["y"]), c=np.float32([1e-4] + [0] * 9)),
}


@pytest.mark.parametrize("change", DIFFERENT.values(), ids=DIFFERENT)
def test_what_differs_exits_1(run: Run, pair: tuple[Path, Path], change: Callable[[onnx.ModelProto], None]) -> None:
    spoiled = nets.fold(nets.plain())
    change(spoiled)
    onnx.save(spoiled, pair[1])
    code, out, _ = run(*pair)
    assert code == 1
    assert out.startswith("FAIL")


def test_nothing_compared_exits_4(run: Run, pair: tuple[Path, Path]) -> None:
    for path in pair:
        model = onnx.load(path)
        del model.graph.output[:]
        onnx.save(model, path)
    assert run(*pair)[0] == 4


@pytest.mark.parametrize("bug", BUGS)
def test_injected_bugs_exit_1(run: Run, pair: tuple[Path, Path], bug: str) -> None:
    onnx.save(nets.fold(nets.plain(), **BUGS[bug]), pair[1])  # type: ignore[arg-type]
    assert run(*pair, "--quick")[0] == 1


def test_json_is_the_document(run: Run, pair: tuple[Path, Path]) -> None:
    code, out, _ = run(*pair, "--json")
    found = json.loads(out)
    assert code == found["exit_code"] == 0
    assert (found["schema"], found["verdict"], found["claim_level"]) == ("biasopt.verify/1", "PASS", "P")
    assert [s["id"] for s in found["stages"]][:3] == ["environment", "structure", "parameters"]


def test_undecided_exits_4_or_as_told(run: Run, pair: tuple[Path, Path]) -> None:
    code, out, _ = run(*pair, "--require-level", "A")
    assert code == 4
    assert out.startswith("INCONCLUSIVE")
    assert run(*pair, "--require-level", "A", "--on-inconclusive", "pass")[0] == 0
    code, out, err = run(*pair, "--require-level", "A", "-q")
    assert (code, out) == (4, "")
    assert "level P" in err


def test_decisions_on_real_inputs(run: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((400, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    given = ("--inputs", tmp_path / "x.npz", "--stages", "algebra,runtime,decision")
    code, out, _ = run(*pair, *given)
    assert code == 4
    assert "need \u2265 2,995 inputs for 0.1 %" in " ".join(out.split())
    assert run(*pair, *given, "--accuracy-margin", "1%")[0] == 0
    assert run(*pair, *given, "--no-decision")[0] == 0
    best = np.random.default_rng(0).integers(0, 10, 400)
    np.save(tmp_path / "l.npy", best)
    assert run(*pair, *given, "--accuracy-margin", "2%", "--labels", tmp_path / "l.npy")[0] == 0


def test_reports_and_failing_inputs_lie_in_the_folder(run: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    onnx.save(nets.fold(nets.plain(), epsilon=1e-3), pair[1])
    code, out, _ = run(*pair, "--report", tmp_path / "out", "--formats", "json,md,junit")
    assert code == 1
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "report.json",
        "report.md",
        "report.xml",
        "failing_inputs.npz",
    }
    assert "failing_inputs.npz" in out.replace("\n", "")
    assert run(*pair, "--inputs", tmp_path / "out" / "failing_inputs.npz", "--no-decision")[0] == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--stages", "algebra,typo"),
        ("--input-range", "x=2:1"),
        ("--input-range", "x"),
        ("--rename", "x"),
        ("--tolerance", "max_abs"),
        ("--tolerance", "=1"),
        ("--accuracy-margin", "0"),
        ("--accuracy-margin", "100%"),
        ("--samples", "0"),
        ("--provider", "tpu"),
        ("--provider-option", "k"),
        ("--require-level", "E"),
        ("--formats", "docx"),
    ],
)
def test_what_is_no_value_is_usage(run: Run, pair: tuple[Path, Path], option: str, value: str) -> None:
    code, out, err = run(*pair, option, value)
    assert (code, out) == (2, "")
    assert option in err


def test_no_decision_excludes_what_decides(run: Run, pair: tuple[Path, Path]) -> None:
    assert run(*pair, "--no-decision", "--decision", "y")[0] == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--inputs", "nothing.npz"), "nothing.npz"),
        (("--shape", "z=1"), "'z'"),
        (("--input-range", "z=0:1"), "'z'"),
        (("--tolerance", "z:max_abs=1"), "'z'"),
        (("--tolerance", "speed=1"), "'speed'"),
        (("--decision", "z"), "'z'"),
        (("--labels", "l.txt"), "--inputs"),
        (("--provider-option", "a=b"), "takes no options"),
        (("--rename", "x=z"), "'z'"),
    ],
)
def test_what_does_not_fit_is_one_line(run: Run, pair: tuple[Path, Path], options: tuple[str, ...], text: str) -> None:
    code, out, err = run(*pair, *options)
    assert (code, out) == (3, "")
    assert text in err
    assert err.count("\n") == 1


def test_a_provider_that_is_not_there_exits_3(run: Run, pair: tuple[Path, Path]) -> None:
    import onnxruntime

    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has TensorRT")
    for models in (pair, (pair[0], pair[0])):  # even where there is nothing to run
        code, _, err = run(*models, "--provider", "tensorrt")
        assert code == 3
        assert "TensorrtExecutionProvider" in err


def test_every_option_reaches_the_referee(
    run: Run, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def spy(a: Any, b: Any, options: Any) -> Any:
        seen.update(vars(options))
        raise KeyboardInterrupt

    monkeypatch.setattr("converter.commands.verify.compare", spy)
    asked = "--inputs d.npz --preprocess unit --samples 7 --seed 3 --shape x=1,2 --input-range x=0:1 --rename x=data"
    asked += " --provider cuda --provider-option k=v --opt-level basic --precision-gate strict --stages algebra"
    asked += " --max-ratio 2 --fail-ratio 9 --tolerance y:max_abs=1 --decision y --metric m.py:f --accuracy-margin 2%"
    asked += " --alpha 0.01 --require-level A --quick --max-time 5 --max-memory 1GB --labels l.npy --images pictures"
    assert run(*pair, *asked.split(), "--report", tmp_path)[0] == 130
    expected = {
        "inputs": ("d.npz",),
        "preprocess": "unit",
        "samples": 7,
        "seed": 3,
        "shapes": {"x": (1, 2)},
        "ranges": {"x": (0.0, 1.0)},
        "names": {"x": "data"},
        "provider": "cuda",
        "provider_options": {"k": "v"},
        "opt_level": "basic",
        "precision_gate": "strict",
        "stages": ["algebra"],
        "max_ratio": 2.0,
        "fail_ratio": 9.0,
        "tolerances": [("y", "max_abs", 1.0)],
        "decision": ("y",),
        "metric": "m.py:f",
        "margin": 0.02,
        "alpha": 0.01,
        "require_level": "A",
        "quick": True,
        "max_time": 5.0,
        "max_memory": 10**9,
        "labels": Path("l.npy"),
        "images": Path("pictures"),
        "failing": tmp_path,
        "decide": True,
    }
    assert {key: seen[key] for key in expected} == expected


def test_the_function_is_public(pair: tuple[Path, Path]) -> None:
    parity = converter.compare(*pair, quick=True)
    assert parity.verdict is Verdict.PASS
    assert converter.referee.verify.compare(*pair, quick=True).verdict is Verdict.PASS
    assert "compare" in converter.__all__


def test_types_of_half_precision(run: Run, pair: tuple[Path, Path]) -> None:
    for path in pair:
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            value = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
        for end in (*model.graph.input, *model.graph.output):
            end.type.tensor_type.elem_type = TensorProto.FLOAT16
        onnx.save(model, path)
    # the folded weights were not made from the rounded ones: the parameter stage would say so
    assert run(*pair, "--stages", "algebra,runtime")[0] == 0
