"""The command line with the real engine on tiny models: what lies in the folder afterwards, and the exit code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import cli
from converter.records import Parity, Verdict
from converter.rewrite.passes import PASSES
from tests.tiny import Draw, model

Run = Callable[..., tuple[int, str, str]]
CONV_BN = "(float[N,3,11,13] x) => (float[N,5,9,11] y) { t = Conv(x, w) y = BatchNormalization(t, g, be, m, v) }"
RELU = "(float[2,3] x) => (float[2,3] y) { y = Relu(x) }"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: str | Path) -> tuple[int, str, str]:
        code = cli.run([str(part) for part in argv])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def net(tmp_path: Path) -> Path:
    draw = Draw()
    path = tmp_path / "net.onnx"
    onnx.save(model(CONV_BN, draw.conv(5, 3, 3, 3) | draw.bn(5)), path)
    return path


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def test_fold_writes_beside_the_model_and_says_so(run: Run, net: Path) -> None:
    before = files(net.parent)
    code, out, err = run("fold", net)
    assert (code, err) == (0, "")
    assert out.startswith("net.onnx  ")
    assert "  fold-bn-into-conv  1  equal up to float rounding\n" in out
    assert "Parity   PASS: same outputs, proved: every number recomputed, every rounding bounded (level P)\n" in out
    assert out.endswith(f"Written  {net.with_name('net.folded.onnx')}\n")
    after = files(net.parent)
    assert after.pop("net.folded.onnx")
    assert after == before
    assert [node.op_type for node in onnx.load(net.with_name("net.folded.onnx")).graph.node] == ["Conv"]


def test_json_of_a_real_fold(run: Run, net: Path) -> None:
    document = json.loads(run("fold", net, "--json")[1])
    assert document["input"] == str(net)
    assert document["output"] == str(net.with_name("net.folded.onnx"))
    assert document["counts"]["before"]["batch_norms"] == 1
    assert document["counts"]["after"]["batch_norms"] == 0
    assert [row["id"] for row in document["rewrites"]] == ["fold-bn-into-conv@batchnormalization_y"]
    assert document["parity"]["verdict"] == "PASS"


def test_the_same_model_gives_the_same_words_and_bytes(run: Run, net: Path) -> None:
    first = run("fold", net, "--json", "--force"), files(net.parent)
    assert (run("fold", net, "--json", "--force"), files(net.parent)) == first


def test_inspect_and_fold_find_the_same(run: Run, net: Path) -> None:
    before = files(net.parent)
    looked = json.loads(run("inspect", net, "--json")[1])
    assert files(net.parent) == before
    folded = json.loads(run("fold", net, "--json")[1])
    assert looked["findings"] == folded["findings"]
    assert looked["counts"] == folded["counts"]
    assert run("inspect", net, "--check")[0] == 1
    assert run("inspect", net.with_name("net.folded.onnx"), "--check")[0] == 0


def test_quiet_leaves_the_exit_code_and_what_is_asked_for(run: Run, net: Path) -> None:
    assert run("inspect", net, "--gate", "unchanged", "-q") == (1, "", "")
    assert run("inspect", net, "--gate", "none", "-q") == (0, "", "")
    assert run("inspect", net, "-q", "--json")[1].startswith("{")
    code, out, err = run("inspect", net.with_name("none.onnx"), "-q")
    assert (code, out) == (3, "")
    assert err.startswith("biasopt: error: ")
    assert run("inspect", net)[1]  # and nothing of it is left


def test_an_existing_output_stays_unless_forced(run: Run, net: Path) -> None:
    target = net.with_name("net.folded.onnx")
    target.write_bytes(b"mine")
    code, _, err = run("fold", net)
    assert code == 3
    assert err.count("\n") == 1
    assert "--force" in err
    assert target.read_bytes() == b"mine"
    assert run("fold", net, "--force")[0] == 0
    assert onnx.load(target)


def test_in_place_replaces_the_model_and_nothing_else(run: Run, net: Path) -> None:
    assert run("fold", net, "-o", net)[0] == 3
    assert run("fold", net, "--in-place")[0] == 0
    assert [node.op_type for node in onnx.load(net).graph.node] == ["Conv"]
    assert list(files(net.parent)) == ["net.onnx"]


@pytest.mark.parametrize(("verdict", "expected"), [(Verdict.FAIL, 1), (Verdict.INCONCLUSIVE, 4)])
def test_a_check_that_does_not_pass_leaves_no_file(
    run: Run, net: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, expected: int
) -> None:
    import converter.referee.verify

    def judged(*_: Any, **__: Any) -> Parity:
        return Parity(verdict, "B", why="the referee was told to say so")

    monkeypatch.setattr(converter.referee.verify, "compare", judged)
    before = files(net.parent)
    code, out, _ = run("fold", net)
    assert code == expected
    assert "the referee was told to say so" in out
    hint = "; --on-inconclusive pass writes what is undecided" * (expected == 4)
    assert out.endswith(f"Written  nothing{hint}\n")
    assert files(net.parent) == before
    assert run("fold", net, "--in-place")[0] == expected
    assert files(net.parent) == before
    assert run("fold", net, "--on-inconclusive", "pass")[0] == (0 if verdict is Verdict.INCONCLUSIVE else 1)


def test_nothing_to_do_is_a_copy_and_0(run: Run, tmp_path: Path) -> None:
    onnx.save(model(RELU), tmp_path / "relu.onnx")
    code, out, _ = run("fold", tmp_path / "relu.onnx")
    assert code == 0
    assert "Nothing to do" in out
    assert (tmp_path / "relu.folded.onnx").read_bytes() == (tmp_path / "relu.onnx").read_bytes()
    assert run("inspect", tmp_path / "relu.onnx", "--check")[0] == 0


@pytest.mark.parametrize("command", ["fold", "inspect"])
@pytest.mark.parametrize("what", ["missing", "directory", "garbage", "empty", "truncated"])
def test_what_is_no_model_is_3_and_one_line(run: Run, net: Path, command: str, what: str) -> None:
    path = net.with_name("bad.onnx")
    if what == "directory":
        path.mkdir()
    elif what != "missing":
        path.write_bytes({"garbage": b"no model", "empty": b"", "truncated": net.read_bytes()[:-100]}[what])
    before = files(net.parent)
    code, out, err = run(command, path)
    assert (code, out) == (3, "")
    assert err.startswith(f"biasopt: error: {path}: ")
    assert err.count("\n") == 1
    assert files(net.parent) == before


def test_only_skip_and_stop_after(run: Run, net: Path) -> None:
    for options in (["--only", "drop-zero-bias"], ["--skip", "fold-bn-into-conv,hoist-bn"], ["--stop-after", "0"]):
        document = json.loads(run("fold", net, "--json", "--force", *options)[1])
        assert document["rewrites"] == []


def test_inputs_and_shapes_reach_the_check(run: Run, net: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", x=np.ones((1, 3, 11, 13), np.float32))
    np.savez(tmp_path / "bad.npz", y=np.ones(1))
    assert run("fold", net, "--inputs", tmp_path / "good.npz")[0] == 0
    assert run("fold", net, "--force", "--inputs", tmp_path / "bad.npz")[0] == 3
    assert run("fold", net, "--force", "--shape", "x=7,3,11,13")[0] == 0
    assert run("fold", net, "-o", tmp_path / "no.onnx", "--shape", "x=7,3")[0] in (3, 4)
    assert not (tmp_path / "no.onnx").exists()


def test_a_report_of_a_failed_check_is_written_too(run: Run, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import converter.referee.verify

    monkeypatch.setattr(converter.referee.verify, "compare", lambda *_, **__: Parity(Verdict.FAIL, "B", why="no"))
    assert run("fold", net, "--report", net.with_name("out"))[0] == 1
    assert json.loads((net.with_name("out") / "report.json").read_text())["output"] is None


@pytest.mark.parametrize("row", PASSES, ids=lambda row: row.name)
def test_every_pass_has_a_page_with_its_guards(run: Run, row: Any) -> None:
    code, out, _ = run("passes", row.name)
    assert code == 0
    assert out.startswith(f"{row.name}\n")
    assert all(guard.code in out for guard in row.guards)
    assert "Given" in out
    assert "Result" in out


def test_the_list_names_every_pass_once(run: Run) -> None:
    out = run("passes")[1]
    assert [row["name"] for row in json.loads(run("passes", "--json")[1])["passes"]] == [row.name for row in PASSES]
    assert all(out.count(f" {row.name} ") == 1 for row in PASSES)
