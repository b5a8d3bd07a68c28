"""``guard``: a good optimiser's result stays; a bad one's goes aside, the input is as it was, the tensor is named."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click
import onnx
import pytest

import cli
from converter.commands.verify import compare
from converter.integrations.guard import Kept, find_models
from converter.records import Verdict
from tests import tiny

# An optimiser: `python opt.py MODE IN OUT`.
OPTIMISER = """
import sys, onnx
from onnx import numpy_helper
mode, source, target = sys.argv[1:]
model = onnx.load(source)
if mode == "breaks":
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.01, "w"))
if mode == "rubbish":
    open(target, "wb").write(b"half")
    sys.exit()
if mode == "interrupted":
    import os, signal, time
    open(target, "wb").write(b"half")
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(9)
if mode == "fails":
    open(target, "wb").write(b"half")
    sys.exit(5)
if mode != "nothing":
    onnx.save(model, target)
"""


def conv_bn() -> onnx.ModelProto:
    draw = tiny.Draw()
    text = f"{tiny.X} => {tiny.Y} {{ c = Conv(x, w) y = BatchNormalization(c, g, be, m, v) }}"
    return tiny.model(text, {k: v.astype("float32") for k, v in (draw.conv(5, 3, 3, 3) | draw.bn(5)).items()})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(conv_bn(), "m.onnx")
    Path("opt.py").write_text(OPTIMISER)
    return tmp_path


def guard(mode: str, *files: str, options: tuple[str, ...] = ()) -> int:
    return cli.run(["guard", *options, "--", sys.executable, "opt.py", mode, *files])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"opt.py"}


def test_what_is_the_same_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert guard("copies", "m.onnx", "o.onnx") == 0
    assert "PASS" in capsys.readouterr().out
    assert names(folder) == {"m.onnx", "o.onnx"}


def test_what_is_wrong_goes_aside_and_the_tensor_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert guard("breaks", "m.onnx", "o.onnx", options=("--report", "r", "--formats", "json")) == 1
    said = capsys.readouterr()
    assert "conv_c" in said.out
    assert "o.onnx.rejected" in said.err
    assert names(folder) == {"m.onnx", "o.onnx.rejected", "r"}


@pytest.mark.parametrize(("mode", "code"), [("copies", 0), ("breaks", 1), ("fails", 3)])
def test_in_place_the_input_is_put_back(mode: str, code: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "m.onnx").read_bytes()
    assert guard(mode, "m.onnx", "m.onnx") == code
    assert (folder / "m.onnx").read_bytes() == before  # a copy by onnx is the same bytes here
    assert ("is as it was before" in capsys.readouterr().err) is (code != 0)
    assert names(folder) == {"m.onnx"} | ({"m.onnx.rejected"} if mode == "breaks" else set())


@pytest.mark.parametrize(("mode", "code"), [("rubbish", 3), ("interrupted", 130)])
def test_whatever_ends_the_work_the_input_is_put_back(mode: str, code: int, folder: Path) -> None:
    before = (folder / "m.onnx").read_bytes()
    assert guard(mode, "m.onnx", "m.onnx") == code
    assert (folder / "m.onnx").read_bytes() == before
    assert names(folder) == {"m.onnx"}


def test_copies_stay_where_the_input_cannot_be_put_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "m.onnx").read_bytes()
    monkeypatch.setattr(Kept, "restore", lambda kept: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert guard("rubbish", "m.onnx", "m.onnx") == 3
    said = capsys.readouterr().err
    assert "holds the input" in said and said.count("\n") == 1
    (copy,) = (path for path in folder.iterdir() if path.is_dir())
    assert (copy / "m.onnx").read_bytes() == before


def test_undecided_in_place_is_put_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "m.onnx").read_bytes()
    undecided = lambda a, b, options: replace(compare(a, b, options), verdict=Verdict.INCONCLUSIVE)  # noqa: E731
    monkeypatch.setattr("converter.integrations.guard.compare", undecided)
    assert guard("breaks", "m.onnx", "m.onnx") == 4
    assert (folder / "m.onnx").read_bytes() == before
    assert names(folder) == {"m.onnx", "m.onnx.rejected"}


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_no_link_leads_a_copy_away_and_no_file_is_replaced_by_one(folder: Path) -> None:
    (folder / "away").mkdir()
    for name in (".m.onnx.biasopt-restored", "m.onnx.rejected"):
        (folder / "away" / name).write_text("the user's")
        (folder / name).symlink_to(folder / "away" / name)
    (folder / "m.onnx").rename(folder / "away" / "real.onnx")
    (folder / "m.onnx").symlink_to("away/real.onnx")
    before = (folder / "m.onnx").read_bytes()
    assert guard("breaks", "m.onnx", "m.onnx") == 1
    assert (folder / "m.onnx").is_symlink()
    assert (folder / "m.onnx").read_bytes() == before
    assert {p.read_text() for p in (folder / "away").iterdir() if p.suffix != ".onnx"} == {"the user's"}
    assert "m.onnx.rejected-2" in names(folder)


def test_data_files_are_put_back_too(folder: Path) -> None:
    onnx.save(conv_bn(), "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    before = {name: (folder / name).read_bytes() for name in ("m.onnx", "m.data")}
    (folder / "opt.py").write_text("import sys\nopen('m.data', 'r+b').write(b'12345678')\n")
    assert cli.run(["guard", "--", sys.executable, "opt.py", "m.onnx"]) == 1
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_command_that_writes_nothing_or_is_none_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert guard("nothing", "m.onnx", "o.onnx") == 3
    assert "o.onnx: was not written" in capsys.readouterr().err
    assert cli.run(["guard", "--", "no-such-optimiser", "m.onnx"]) == 3
    assert "cannot be run" in capsys.readouterr().err
    assert names(folder) == {"m.onnx"}


def test_models_are_found_in_the_command(folder: Path) -> None:
    assert find_models(["onnxslim", "m.onnx", "o.onnx"], None, None) == (Path("m.onnx"), Path("o.onnx"))
    assert find_models(["t", "--in=m.onnx", "--out=o.onnx"], None, None) == (Path("m.onnx"), Path("o.onnx"))
    assert find_models(["t", "m.onnx"], None, None) == (Path("m.onnx"), Path("m.onnx"))
    assert find_models(["t", "x.bin"], Path("m.onnx"), Path("y.onnx")) == (Path("m.onnx"), Path("y.onnx"))
    with pytest.raises(click.UsageError):
        find_models(["t", "x.bin"], None, None)
