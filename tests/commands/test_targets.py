"""Nothing of the user's is lost: what a command will write is checked as one list, and the source may not change."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import cli
import converter
from converter import temporary
from converter.commands import fold as folding
from converter.commands.targets import Target, check_targets
from converter.errors import ModelError
from converter.model.file import Staged, staging
from converter.temporary import Temporary
from tests.files import externalise, small_model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plain(name: str = "m.onnx") -> Path:
    Path(name).write_bytes(small_model().SerializeToString())
    return Path(name)


def external(name: str = "m.onnx", data: str = "m.onnx.data") -> Path:
    Path(name).write_bytes(externalise(small_model(), Path.cwd(), data).SerializeToString())
    return Path(name)


def contents() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(Path().rglob("*")) if p.is_file()}


def refused(*argv: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents()
    assert cli.run(list(argv)) == 3
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert contents() == before


FOLDS = {
    "the model under the output's temporary name": (
        lambda: plain(".o.onnx.biasopt.tmp"),
        "fold .o.onnx.biasopt.tmp -o o.onnx",
        "is the input",
    ),
    "the data under the name of the output's note": (
        lambda: external(data=".o.onnx.biasopt.note"),
        "fold m.onnx -o o.onnx",
        "is the input",
    ),
    "the certificate under the name of the output's data while it begins": (
        external,
        "fold m.onnx -o o.onnx --certificate .o.onnx.biasopt.data",
        "is to be the certificate",
    ),
    "the certificate on the output's data": (
        external,
        "fold m.onnx -o o.onnx --certificate o.onnx.data",
        "where the output's data may lie",
    ),
    "the certificate on the input's data": (
        external,
        "fold m.onnx -o o.onnx --certificate m.onnx.data --force",
        "is the input",
    ),
    "the output on the input's data": (external, "fold m.onnx -o m.onnx.data --force", "is the input itself"),
    "a report on the output": (plain, "fold m.onnx -o r/report.json --report r", "the output and the report"),
    "a report on the certificate": (
        plain,
        "fold m.onnx -o o.onnx --certificate r/report.html --report r",
        "the certificate and the report",
    ),
    "the output through a link": (plain, "fold m.onnx -o link.onnx --force", "is the input itself"),
    "a name that is too long": (plain, f"fold m.onnx -o {'x' * 300}.onnx", "the name is too long"),
    "a device": (plain, "fold m.onnx -o /dev/null --force", "is not a regular file"),
    "a pipe": (plain, "fold m.onnx -o pipe --force", "is not a regular file"),
}


@pytest.mark.parametrize("name", FOLDS)
def test_fold(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, line, said = FOLDS[name]
    make()
    Path("r").mkdir()
    Path("link.onnx").symlink_to("m.onnx")
    os.mkfifo("pipe")
    refused(*line.split(), said=said, capsys=capsys)


@pytest.mark.parametrize(
    "command", ["fold report.json --in-place --force", "verify report.json o.onnx", "bench report.json o.onnx"]
)
def test_a_model_that_has_the_name_of_a_report(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain("report.json")
    plain("o.onnx")
    refused(*command.split(), "--report", ".", said="report.json: is the input itself", capsys=capsys)


@pytest.mark.parametrize("target", ["m.onnx", "m.onnx.data", "c.json", "/dev/null", "x" * 300])
def test_replay(target: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    external()
    assert cli.run(["fold", "m.onnx", "-o", "o.onnx", "--certificate", "c.json", "--no-verify", "-q"]) == 0
    capsys.readouterr()
    refused("replay", "m.onnx", "c.json", "-o", target, "--force", said="biasopt: error: ", capsys=capsys)
    assert Path("/dev/null").is_char_device()


def test_no_folder_is_made_for_a_model_that_is_not_there(folder: Path) -> None:
    assert cli.run(["fold", "none.onnx", "--report", "r"]) != 0
    assert not Path("r").exists()


def test_two_targets_that_are_one_file_by_other_names(folder: Path) -> None:
    Path("sub").mkdir()
    with pytest.raises(ModelError, match="is to be the certificate and the report"):
        check_targets([Target(folder / "sub" / ".." / "a", "certificate"), Target(Path("a"), "report")])


def _rewrite(path: Path) -> None:
    other = small_model()
    other.graph.initializer[0].raw_data = np.ones(135, np.float32).tobytes()
    path.with_suffix(".new").write_bytes(other.SerializeToString())
    path.with_suffix(".new").replace(path)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\n")


@pytest.mark.parametrize("change", [_rewrite, _grow, lambda path: path.unlink()], ids=["renamed", "written", "gone"])
@pytest.mark.parametrize("how", ["new", "in place", "external"])
def test_a_model_that_changes_meanwhile(
    how: str, change: Callable[[Path], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = external() if how == "external" else plain()
    victim = Path("m.onnx.data") if how == "external" else model
    before = {str(p) for p in Path().iterdir()}
    changed: list[bytes] = []
    stage = folding.stage_model

    def late(*args: Any, **keywords: Any) -> Any:
        change(victim)
        changed.append(victim.read_bytes() if victim.exists() else b"")
        return stage(*args, **keywords)

    monkeypatch.setattr(folding, "stage_model", late)
    target = {"in_place": True} if how == "in place" else {"out": Path("o.onnx")}
    with pytest.raises(ModelError):
        converter.fold(model, verify=False, **target)
    assert (victim.read_bytes() if victim.exists() else b"") == changed[0]
    assert {str(p) for p in Path().iterdir()} <= before


def test_whoever_is_second_does_not_replace_the_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = external()
    certify = folding.Run.certify

    def meanwhile(run: folding.Run) -> None:
        Path("o.onnx").write_bytes(b"another run's")
        certify(run)

    monkeypatch.setattr(folding.Run, "certify", meanwhile)
    with pytest.raises(ModelError, match="another run made it meanwhile"):
        converter.fold(model, "o.onnx", verify=False)
    assert Path("o.onnx").read_bytes() == b"another run's"
    assert sorted(p.name for p in Path().iterdir()) == ["m.onnx", "m.onnx.data", "o.onnx"]


def test_a_certificate_that_another_run_made_meanwhile_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain()
    certify = folding.Run.certify

    def meanwhile(run: folding.Run) -> None:
        Path("c.json").write_bytes(b"another run's")
        certify(run)

    monkeypatch.setattr(folding.Run, "certify", meanwhile)
    with pytest.raises(ModelError, match=r"c\.json: exists already, another run made it meanwhile"):
        converter.fold(model, "o.onnx", verify=False, certificate="c.json")
    assert Path("c.json").read_bytes() == b"another run's"
    assert not Path("o.onnx").exists()


def test_a_signal_between_the_two_names_of_an_output_leaves_it_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, link = external(), os.link

    def interrupted(source: Path, target: Path) -> None:
        link(source, target)
        if Path(target).name == "o.onnx":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", interrupted)
    with pytest.raises(KeyboardInterrupt):
        converter.fold(model, "o.onnx", verify=False)
    assert onnx.load("o.onnx").graph.node  # with its data
    assert sorted(p.name for p in Path().iterdir()) == ["m.onnx", "m.onnx.data", "o.onnx", "o.onnx.data"]


@pytest.mark.parametrize("moment", ["before", "renamed", "clearing"])
def test_a_signal_amid_the_commit_leaves_the_old_or_the_new_one_whole(
    moment: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = external()
    become, clear_up = Temporary.become, Staged._clear_up
    told: list[str] = []

    def interrupted(self: Any, *given: Any, **named: Any) -> None:
        if moment == "renamed":
            self.path.replace(given[0])
        elif moment == "clearing":
            return become(self, *given, **named)
        raise KeyboardInterrupt

    def first_time(self: Any) -> None:
        told.append("")
        if moment == "clearing" and len(told) == 1:
            raise KeyboardInterrupt
        clear_up(self)

    monkeypatch.setattr(Temporary, "become", interrupted)
    monkeypatch.setattr(Staged, "_clear_up", first_time)
    with pytest.raises(KeyboardInterrupt):
        converter.fold(model, in_place=True, verify=False)
    assert len(onnx.load("m.onnx").graph.node) == (4 if moment == "before" else 3)  # with its data
    names = sorted(p.name for p in Path().iterdir())
    assert len(names) == 2 and names[0] == "m.onnx" and names[1].endswith(".data")


@pytest.mark.parametrize("how", ["new", "in place", "refused"])
def test_where_no_file_can_be_locked(how: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where nobody else may read or rename a file that is open, either."""
    monkeypatch.setattr(temporary, "fcntl", None)
    model = external()
    seen: list[int] = []
    certify = folding.Run.certify

    def note(run: folding.Run) -> None:
        assert run._staged is not None
        seen.append(run._staged.temporary.descriptor)
        if how == "refused":
            raise ModelError("refused")
        certify(run)

    monkeypatch.setattr(folding.Run, "certify", note)
    if how == "refused":
        with pytest.raises(ModelError, match="refused"):
            converter.fold(model, "o.onnx", verify=False)
        assert sorted(p.name for p in Path().iterdir()) == ["m.onnx", "m.onnx.data"]
    else:
        out = converter.fold(model, None if how == "in place" else "o.onnx", in_place=how == "in place", verify=False)
        assert onnx.load(out.output).graph.node
        assert not list(Path().glob(".*"))
    assert seen == [-1]


# Where a run is killed, in the order in which it comes there: the call before which, or after which, it dies.
KILLED = ["note.add", "rename_to_free", "write_to", "os.fsync", "Staged.commit", "Temporary.become", "_sync_directory"]
KILLER = """
import os, signal, sys
import converter
from converter.model.file import staging
from converter import temporary
where, when, target, out = sys.argv[1:]
holder, name = {
    "note.add": (staging.Note, "add"), "Staged.commit": (staging.Staged, "commit"),
    "Temporary.become": (temporary.Temporary, "become"), "os.fsync": (os, "fsync"),
}.get(where, (staging, where))
call = getattr(holder, name)
count = [2 if where == "write_to" else 1]
def die(*args, **kwargs):
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    found = call(*args, **kwargs)
    count[0] -= 1
    if not count[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
setattr(holder, name, die)
converter.fold(target, None if out == "in place" else out, in_place=out == "in place", verify=False)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the locks and signals of Linux")
@pytest.mark.parametrize("out", ["o.onnx", "in place"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("where", KILLED)
def test_what_a_killed_run_left_goes_and_nothing_else(where: str, when: str, out: str, folder: Path) -> None:
    """Wherever it is killed, and however soon the next one comes."""
    model = external()
    Path("o.onnx.mine.data").write_bytes(b"the user's")
    before = {p.name: p.read_bytes() for p in Path().iterdir()}
    command = [sys.executable, "-c", KILLER, where, when, str(model), out]
    assert subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == -9
    if out == "o.onnx":
        assert {name: Path(name).read_bytes() for name in before} == before
    assert onnx.load("m.onnx").graph.node  # whole, with its data
    converter.fold(model, None if out == "in place" else out, in_place=out == "in place", verify=False, force=True)
    names = {p.name for p in Path().iterdir()}
    made = names - {"m.onnx", "o.onnx", "m.onnx.data", "o.onnx.mine.data"}
    assert len(made) == 1 and made.pop().endswith(".data") if out == "o.onnx" else len(names) == 3
    assert onnx.load("m.onnx" if out == "in place" else out).graph.node


@pytest.mark.parametrize("out", ["o.onnx", "in place"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "where",
    [
        (staging, "_identify"),
        (staging.json, "dumps"),
        (staging.Note, "add"),
        (staging, "rename_to_free"),
        (staging, "write_to"),
        (Staged, "commit"),
    ],
    ids=lambda where: where[1],
)
def test_what_is_interrupted_leaves_nothing(
    where: tuple[Any, str], when: str, out: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between a file and the note of it, and between its two names."""
    model, call = external(), getattr(*where)
    before = contents()

    def interrupt(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            call(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(*where, interrupt)
    with pytest.raises(KeyboardInterrupt):
        converter.fold(model, None if out == "in place" else out, in_place=out == "in place", verify=False)
    if (where[1], when) != ("commit", "after"):  # it is done by then
        assert contents() == before
    assert not list(Path().glob(".*"))


FORGED: dict[str, Callable[[Path], dict[str, bytes]]] = {
    "a model that names it": lambda victim: {".o.onnx.biasopt.tmp": b"x " + victim.name.encode() + b" x"},
    "a replaced model": lambda victim: {".o.onnx.biasopt.old": b"\x08\x08 " + victim.name.encode() + b" x"},
    "a note": lambda victim: {
        ".o.onnx.biasopt.note": b"".join(
            json.dumps([kind, str(victim.parent), name, victim.stat().st_dev, inode, *changed]).encode() + b"\n"
            for name in (victim.name, "../" + victim.name, str(victim), "..", ".", "", None, 3)
            for kind, changed in (("begun", []), ("stale", [0]), ("stale", []), ("else", []))
            for inode in (0, victim.stat().st_ino)
        )
    },
    "a note of anything": lambda victim: {".o.onnx.biasopt.note": b"[" * 100_000 + b"\n\xff\xfe\n[]\n{}\n1"},
}


@pytest.mark.parametrize("kind", FORGED)
@pytest.mark.parametrize("name", ["o.onnx.mine.data", "letter.txt"])
def test_of_what_came_with_the_folder_nothing_makes_a_fold_remove_a_file(kind: str, name: str, folder: Path) -> None:
    """Even where a stranger guesses by what the system knows a file of the user's, but not when it was changed."""
    model, victim = external(), Path(name).resolve()
    victim.write_bytes(b"precious")
    for path, content in FORGED[kind](victim).items():
        Path(path).write_bytes(content)
    converter.fold(model, "o.onnx", verify=False)
    assert victim.read_bytes() == b"precious"
    assert onnx.load("o.onnx").graph.node


def test_a_data_file_that_a_model_names_by_now_stays(folder: Path) -> None:
    """Noted by a run that was killed, then taken by another model."""
    model = external()
    other = externalise(small_model(), folder, "o.onnx.data")
    Path("theirs.onnx").write_bytes(other.SerializeToString())
    at = Path("o.onnx.data").stat()
    Path(".o.onnx.biasopt.note").write_text(json.dumps(["begun", "", "o.onnx.data", at.st_dev, at.st_ino]) + "\n")
    converter.fold(model, "o.onnx", verify=False)
    assert onnx.load("theirs.onnx").graph.node and not list(Path().glob(".*"))


def test_a_run_that_was_killed_between_the_two_names_of_its_output(folder: Path) -> None:
    model = plain()
    converter.fold(model, "o.onnx", verify=False)
    made = Path("o.onnx").read_bytes()
    Path(".o.onnx.biasopt.tmp").hardlink_to("o.onnx")
    with pytest.raises(ModelError, match="exists already"):
        converter.fold(model, "o.onnx", verify=False)
    assert Path("o.onnx").read_bytes() == made
    converter.fold(model, "o.onnx", verify=False, force=True)
    assert sorted(p.name for p in Path().iterdir()) == ["m.onnx", "o.onnx"]


def test_what_a_living_run_holds_stays_and_the_second_run_says_so(folder: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    model = plain()
    alive = Path(".o.onnx.biasopt.tmp")
    alive.write_bytes(b"x")
    with alive.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for force in (False, True):
            with pytest.raises(ModelError, match=r"o\.onnx: another run is writing it"):
                converter.fold(model, "o.onnx", verify=False, force=force)
        assert alive.read_bytes() == b"x"
    converter.fold(model, "o.onnx", verify=False)
    assert not alive.exists()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links are followed here")
def test_a_link_under_the_temporary_name_is_not_followed(folder: Path) -> None:
    """Whoever can write into the folder knows the name."""
    model = plain()
    Path("victim").write_bytes(b"precious")
    Path(".o.onnx.biasopt.tmp").symlink_to("victim")
    with pytest.raises(ModelError, match="cannot be written"):
        converter.fold(model, "o.onnx", verify=False)
    assert Path("victim").read_bytes() == b"precious"


def test_in_place_keeps_the_permissions_of_model_and_data(folder: Path) -> None:
    model = external()
    for path in (model, Path("m.onnx.data")):
        path.chmod(0o600)
    converter.fold(model, in_place=True, verify=False)
    assert {stat.S_IMODE(p.stat().st_mode) for p in Path().iterdir()} == {0o600}


def test_data_that_another_model_names_stays_and_what_is_no_model_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = external()
    huge = Path("video.bin")
    with huge.open("wb") as file:
        file.write(b"RIFF")
        file.truncate(1 << 36)  # 64 GB that lie nowhere
    begun = time.process_time()
    converter.fold(model, in_place=True, verify=False)
    assert time.process_time() - begun < 5
    assert not Path("m.onnx.data").exists()
    model = external("n.onnx", "n.data")
    Path("twin").write_bytes(model.read_bytes())  # a model by what is in it, not by its name
    converter.fold(model, in_place=True, verify=False)
    assert Path("n.data").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_no_room_for_what_is_printed_leaves_no_output(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain()
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert cli.run(["fold", "m.onnx", "-o", "o.onnx", "--certificate", "c.json", "--no-verify"]) == 3
        monkeypatch.undo()
    assert not Path("o.onnx").exists()
    assert not Path("c.json").exists()


def test_reports_that_cannot_be_written_leave_no_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain()
    Path("r/report.html").mkdir(parents=True)
    refused("fold", "m.onnx", "-o", "o.onnx", "--no-verify", "--report", "r", said="is a directory", capsys=capsys)
