"""The command line alone: what it passes on, what it prints, and how it exits. The engine is a stand-in."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cli
import converter
import converter.rewrite.passes
from converter.errors import BiasoptError, DataError, InvariantViolation, ModelError
from converter.records import Safety, Verdict
from tests.report.made import FATES, Guard, Pass, folded, parity

PASSES = (
    Pass("fold-bn-into-conv", "Conv then BatchNormalization becomes one Conv", guards=(Guard("shared", "it is read"),)),
    Pass("drop-zero-bias", "An all-zero bias goes away", Safety.EXACT, after=("fold-bn-into-conv",)),
)
Result = Any


class Engine:
    """Stands in for ``converter.commands``: remembers what it was asked and answers with ``result``."""

    def __init__(self) -> None:
        self.result: Result = folded()
        self.error: BaseException | None = None
        self.asked: dict[str, Any] = {}

    def fold(self, model: Path, out: Path | None = None, *, progress: Callable[[str], None], **options: Any) -> Result:
        progress("folding")
        conclude = options.pop("conclude", None)
        self.asked = {"model": model, "out": out, **options}
        if self.error is not None:
            raise self.error
        if conclude is not None:
            conclude(self.result)
        return self.result

    def inspect(self, model: Path, *, progress: Callable[[str], None], **options: Any) -> Result:
        result = self.fold(model, progress=progress, **options)
        del self.asked["out"]
        return result


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr("converter.commands.fold.fold", made.fold)
    monkeypatch.setattr("converter.commands.inspect.inspect", made.inspect)
    monkeypatch.setattr(converter.rewrite.passes, "PASSES", PASSES, raising=False)
    return made


Run = Callable[..., tuple[int, str, str]]
MODEL = str(Path(cli.__file__).parent / "models" / "digits_cnn_bn.onnx")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: str) -> tuple[int, str, str]:
        code = cli.run(argv)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


# ---- help and usage --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), ("fold",), ("inspect",), ("passes",)])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(run: Run, command: tuple[str, ...], flag: str) -> None:
    code, out, err = run(*command, flag)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: biasopt {' '.join(command)}".rstrip())
    assert all(len(line) <= 80 for line in out.splitlines())


def test_the_list_of_commands_ends_each_sentence(run: Run) -> None:
    _, out, _ = run("--help")
    assert out.count("\n  ") > 15
    assert not [line for line in out.splitlines() if line.endswith("...") and "COMMAND" not in line]


def test_every_option_says_what_it_does() -> None:
    import click

    for command in cli.cli.commands.values():
        options = [option for option in command.params if isinstance(option, click.Option)]
        assert [option.name for option in options if not option.help] == []


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"biasopt {converter._version.__version__}\n", "")


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("frobnicate",),
        ("fold",),
        ("fold", "m.onnx", "--frobnicate"),
        ("fold", "m.onnx", "--in-place", "-o", "x.onnx"),
        ("fold", "m.onnx", "--provider", "tpu"),
        ("fold", "m.onnx", "--stop-after", "-1"),
        ("fold", "m.onnx", "--max-time", "0"),
        ("fold", "m.onnx", "--bench-time", "9"),  # of a benchmark that was not asked for
        ("fold", "m.onnx", "--max-memory", "lots"),
        ("fold", "m.onnx", "--max-memory", "0GB"),
        ("fold", "m.onnx", "--shape", "1,3,224,224"),
        ("fold", "m.onnx", "--shape", "x=1,,3"),
        ("fold", "m.onnx", "--shape", "x=-1"),
        ("fold", "m.onnx", "--formats", "json,pdf"),
        ("fold", "m.onnx", "--custom-ops", "no-such-library"),
        ("fold", "m.onnx", "--on-inconclusive", "shrug"),
        ("inspect", "m.onnx", "-o", "x.onnx"),
        ("passes", "one", "--frobnicate"),
    ],
)
def test_wrong_usage_is_2(run: Run, engine: Engine, argv: tuple[str, ...]) -> None:
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: biasopt")
    assert engine.asked == {}


@pytest.mark.parametrize("option", ["--only", "--skip", "--allow"])
def test_an_unknown_pass_is_2_and_the_nearest_are_named(run: Run, engine: Engine, option: str) -> None:
    code, _, err = run("fold", "m.onnx", option, "drop-zero-bias,fold-bn-in-conv")
    assert code == 2
    assert f"Invalid value for '{option}': there is no pass 'fold-bn-in-conv'; did you mean fold-bn-into-conv" in err
    assert run("passes", "qqq")[2].endswith("there is no pass 'qqq'; see `biasopt passes`.\n")


def test_what_goes_by_data_is_suggested_and_has_a_page(run: Run, engine: Engine) -> None:
    assert "did you mean remove-biases" in run("fold", "m.onnx", "--allow", "removebiases")[2]
    code, page, _ = run("passes", "remove-biases")
    assert (code, page.splitlines()[0]) == (0, "remove-biases")
    assert "Declines:" in page


@pytest.mark.parametrize("command", ["fold", "verify", "bench"])
def test_a_long_help_has_headings_and_examples(run: Run, engine: Engine, command: str) -> None:
    _, said, _ = run(command, "--help")
    headings = [line for line in said.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert "Options:" in headings
    assert len(headings) >= 2
    assert f"  Examples:\n    biasopt {command} " in said
    assert said.count("\n  --on-inconclusive") + said.count("\n  --quick") == 2  # each under one heading


# ---- fold ------------------------------------------------------------------------------------------


def test_options_arrive_as_values(run: Run, engine: Engine, tmp_path: Path) -> None:
    given = (
        "--only fold_bn_into_conv,drop-zero-bias --only drop-zero-bias --skip drop-zero-bias --allow drop-zero-bias"
        " --stop-after 3 --force --no-verify --keep-bn --no-growth --freeze-overridable --shape a=b=1,3,224,224"
        " --shape s= --provider cuda --max-time 2.5 --max-memory 1.5GiB --quick"
        " --timeout 60"
        " --seed 7 --on-inconclusive pass --inputs a.npz --inputs b.py:load --images pictures --preprocess unit"
        " --labels l.npy --accuracy-margin 0.5% --latency-margin 3%"
        " --bench --bench-time 9 --provider-option a=b --opt-level basic"
    )
    files = ["-o", "out.onnx", "--report", str(tmp_path), "--custom-ops", cli.__file__, "--certificate", "c.json"]
    assert run("fold", "m.onnx", *files, *given.split())[0] == 0
    assert engine.asked == {
        "inputs": ("a.npz", "b.py:load"),
        "images": Path("pictures"),
        "preprocess": "unit",
        "labels": Path("l.npy"),
        "accuracy_margin": 0.005,
        "latency_margin": 0.03,
        "bench": True,
        "bench_time": 9.0,
        "provider_options": {"a": "b"},
        "opt_level": "basic",
        "failing": tmp_path,
        "certificate": Path("c.json"),
        "removal": None,
        "model": Path("m.onnx"),
        "out": Path("out.onnx"),
        "in_place": False,
        "link": False,
        "verify": False,
        "only": ["fold-bn-into-conv", "drop-zero-bias"],
        "skip": ["drop-zero-bias"],
        "allow": ["drop-zero-bias"],
        "stop_after": 3,
        "force": True,
        "keep_bn": True,
        "allow_growth": 0.0,
        "no_growth": True,
        "freeze_overridable": True,
        "shapes": {"a=b": (1, 3, 224, 224), "s": ()},
        "custom_ops": Path(cli.__file__),
        "provider": "cuda",
        "timeout": 60.0,
        "isolated": True,
        "reports": [tmp_path / name for name in ("report.json", "report.md", "report.html", "failing_inputs.npz")],
        "max_time": 2.5,
        "max_memory": 1_610_612_736,
        "quick": True,
        "seed": 7,
        "on_inconclusive": "pass",
    }


def test_what_is_not_asked_is_left_to_the_engine(run: Run, engine: Engine) -> None:
    run("fold", "m.onnx")
    assert engine.asked["verify"] is True
    unset = {name for name, value in engine.asked.items() if value is None}
    assert unset == {
        *("inputs", "images", "labels", "accuracy_margin", "custom_ops", "max_memory", "max_time", "failing"),
        "bench_time",
        *("stop_after", "shapes", "only", "certificate", "removal", "provider_options"),
    }
    assert engine.asked["bench"] is False


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_inputs_that_cannot_be_read_are_3(run: Run, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "i.npz").write_bytes(content)
    target = tmp_path / "out.onnx"
    code, out, err = run("fold", MODEL, "-o", str(target), "--inputs", str(tmp_path / "i.npz"))
    assert (code, out) == (3, "")
    assert err.startswith(f"biasopt: error: {tmp_path / 'i.npz'}: ")
    assert not target.exists()


def test_inputs_hold_no_code(run: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", image=np.array([{}], dtype=object))
    target = tmp_path / "out.onnx"
    assert run("fold", MODEL, "-o", str(target), "--inputs", str(tmp_path / "i.npz"))[0] == 3
    assert not target.exists()


@pytest.mark.parametrize(
    ("model", "output"),
    [
        ("a/x.onnx", "a/x.folded.onnx"),
        ("x.v2.onnx", "x.v2.folded.onnx"),
        ("net.v1", "net.v1.folded.onnx"),
        ("a/M.ONNX", "a/M.folded.onnx"),
    ],
)
def test_the_default_output_lies_beside_the_input(run: Run, engine: Engine, model: str, output: str) -> None:
    run("fold", model)
    assert engine.asked["out"] == Path(output)
    run("fold", model, "--in-place")
    assert engine.asked["out"] is None
    assert engine.asked["in_place"] is True


def test_fold_prints_data_to_stdout_and_nothing_to_stderr(run: Run, engine: Engine) -> None:
    code, out, err = run("fold", "m.onnx")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "Written  models/net.folded.onnx"


def test_quiet_prints_nothing(run: Run, engine: Engine) -> None:
    assert run("fold", "m.onnx", "-q") == (0, "", "")


@pytest.mark.parametrize("flags", [(), ("--json",), ("-q",)])
@pytest.mark.parametrize(("verdict", "expected"), [(Verdict.FAIL, 1), (Verdict.INCONCLUSIVE, 4)])
def test_a_gate_that_fails_is_said(
    run: Run, engine: Engine, flags: tuple[str, ...], verdict: Verdict, expected: int
) -> None:
    engine.result = folded(parity=parity(verdict, why="too far off"), output=None, exit_code=expected)
    code, out, err = run("fold", "m.onnx", *flags)
    assert code == expected
    assert "too far off" in (out if not flags else err)
    if "--json" in flags:
        assert json.loads(out)["exit_code"] == expected


def test_json_is_the_whole_of_stdout(run: Run, engine: Engine) -> None:
    code, out, err = run("fold", "m.onnx", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["schema"] == "biasopt.fold/1"


def test_reports_go_to_a_folder(run: Run, engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    assert run("fold", "m.onnx", "-q", "--report", str(folder))[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json", "report.md"]
    assert json.loads((folder / "report.json").read_text())["schema"] == "biasopt.fold/1"
    assert (folder / "report.md").read_text(encoding="utf-8").startswith("## biasopt")


def test_one_kind_of_report(run: Run, engine: Engine, tmp_path: Path) -> None:
    run("fold", "m.onnx", "--report", str(tmp_path), "--formats", "md")
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_a_report_folder_that_cannot_be_is_found_before_the_work(run: Run, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, err = run("fold", "m.onnx", "--report", str(tmp_path / "file"))
    assert code == 3
    assert err.startswith("biasopt: error: ")
    assert err.count("\n") == 1
    assert engine.asked == {}


# ---- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [BiasoptError("no"), ModelError("m.onnx: two\nlines"), DataError("x\x1b[2J")])
@pytest.mark.parametrize("command", ["fold", "inspect"])
def test_an_error_of_the_user_is_one_line_and_3(run: Run, engine: Engine, command: str, error: BiasoptError) -> None:
    engine.error = error
    code, out, err = run(command, "m.onnx")
    assert (code, out) == (3, "")
    assert err.startswith("biasopt: error: ")
    assert err.count("\n") == 1
    assert "\x1b" not in err


@pytest.mark.parametrize("error", [InvariantViolation("a pass lied"), KeyError("w"), MemoryError(), RecursionError()])
def test_a_bug_is_a_traceback_and_70(run: Run, engine: Engine, error: Exception) -> None:
    engine.error = error
    code, out, err = run("fold", "m.onnx")
    assert (code, out) == (70, "")
    assert "Traceback (most recent call last)" in err
    assert type(error).__name__ in err
    assert "please report it" in err.splitlines()[-1]


def test_ctrl_c_is_130(run: Run, engine: Engine) -> None:
    engine.error = KeyboardInterrupt()
    assert run("fold", "m.onnx") == (130, "", "biasopt: interrupted\n")


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["biasopt", "fold"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2


# ---- inspect and passes ----------------------------------------------------------------------------


def test_inspect_prints_and_check_gates(run: Run, engine: Engine) -> None:
    code, out, _ = run("inspect", "m.onnx", "--skip", "drop-zero-bias")
    assert code == 0
    assert "Would do" in out
    assert engine.asked == {
        "model": Path("m.onnx"),
        "only": None,
        "skip": ["drop-zero-bias"],
        "keep_bn": False,
        "allow_growth": 0.0,
        "no_growth": False,
        "freeze_overridable": False,
    }
    assert run("inspect", "m.onnx", "--check")[0] == 1
    engine.result = folded(rewrites=(), frozen=("w",))
    assert run("inspect", "m.onnx", "--check")[0] == 1
    engine.result = folded(rewrites=())
    assert run("inspect", "m.onnx", "--check")[0] == 0


def test_fates_names_every_bias(run: Run, engine: Engine) -> None:
    engine.result = folded(fates=FATES)
    assert "conv1 -> conv2" not in run("inspect", "m.onnx")[1]
    assert "conv1 -> conv2" in run("inspect", "m.onnx", "--fates")[1]


def test_several_models_are_inspected_each_and_the_worst_counts(run: Run, engine: Engine) -> None:
    code, out, _ = run("inspect", "m.onnx", "n.onnx", "--check")
    assert code == 1
    assert out.count("Would do") == 2
    assert run("inspect", "m.onnx", "n.onnx", "--json")[0] == 2
    assert run("inspect", "m.onnx", "n.onnx", "--explain", "c")[0] == 2
    assert run("inspect")[0] == 2


def test_inspect_json(run: Run, engine: Engine) -> None:
    code, out, _ = run("inspect", "m.onnx", "--json", "--check")
    document = json.loads(out)
    assert (document["schema"], document["exit_code"], code) == ("biasopt.inspect/1", 1, 1)


def test_passes_lists_shows_and_prints_json(run: Run, engine: Engine) -> None:
    code, out, _ = run("passes")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()[:2]] == ["fold-bn-into-conv", "drop-zero-bias"]
    assert run("passes", "fold_bn_into_conv")[1].startswith("fold-bn-into-conv\n=====")
    both = run("passes", "drop-zero-bias", "fold-bn-into-conv")[1]
    assert both.index("fold-bn-into-conv\n==") < both.index("drop-zero-bias\n==")
    assert [row["name"] for row in json.loads(run("passes", "--json")[1])["passes"]] == [row.name for row in PASSES]
    (only,) = json.loads(run("passes", "drop-zero-bias", "--json")[1])["passes"]
    assert (only["order"], only["after"]) == (2, ["fold-bn-into-conv"])


@pytest.mark.parametrize("option", ["--certificate", "-o", "--report"])
def test_an_option_is_no_file(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["fold", "m.onnx", option, "--force"]) == 2
    assert "needs a file, and got the option '--force'" in " ".join(capsys.readouterr().err.split())
