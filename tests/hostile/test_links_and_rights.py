"""Links, owners and permissions: what is written goes nowhere else, and nobody reads it who may not read its source."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import converter
from converter.batch import child, workers
from converter.batch.journal import copy_file
from converter.bench import compare
from converter.commands.targets import Target, check_data_place, check_targets
from converter.errors import BiasoptError, ModelError
from converter.model.file import staging
from converter.records.results import Task
from converter.referee.verify.verdict import save_failing
from converter.torch_models.lint.codemod import Edited, SourceFix
from tests.files import externalise, small_model

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and permissions of POSIX")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def letter(folder: Path) -> Path:
    """A file of the user's, elsewhere."""
    path = folder / "home" / "letter.txt"
    path.write_bytes(b"dear")
    return path


def external(name: str = "m.onnx") -> Path:
    Path(name).write_bytes(externalise(small_model(), Path.cwd(), f"{name}.data").SerializeToString())
    return Path(name)


def get_mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- links -----------------------------------------------------------------------------------------------


def save_samples(path: Path) -> None:
    class Found:
        samples: tuple[Any, ...] = ()
        counted: tuple[Any, ...] = ()

    with pytest.raises(ValueError, match="concatenate"):  # nothing was measured: and nothing is written
        compare.write_samples(Found(), path)  # type: ignore[arg-type]
    assert path.read_bytes() == b"dear"
    path.unlink()
    path.write_bytes(b"new")


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "failing inputs": ("failing_inputs.npz", lambda path: save_failing([{"x": np.zeros(3)}], path.parent)),
    "samples": ("samples.npz", save_samples),
    "a file of a repository": ("labels.txt", lambda path: copy_file(Path("source.txt"), path)),
    "source code": ("net.py", lambda path: SourceFix((Edited(path, b"dear", b"new", 1),), (), Path()).write()),
}


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
@pytest.mark.parametrize("what", [name for name in WRITERS if name != "source code"])
def test_what_has_the_name_is_replaced_and_not_written_into(what: str, kind: str, letter: Path) -> None:
    Path("source.txt").write_text("labels")
    name, write = WRITERS[what]
    path = Path(name)
    path.symlink_to(letter) if kind == "symbolic" else path.hardlink_to(letter)
    write(path)
    assert letter.read_bytes() == b"dear"
    assert path.read_bytes() != b"dear"
    assert not path.is_symlink()


@pytest.mark.parametrize("what", WRITERS)
def test_no_temporary_name_leads_elsewhere(what: str, letter: Path) -> None:
    """A stranger's folder may hold links by all the names that a run could use for a while."""
    Path("source.txt").write_text("labels")
    name, write = WRITERS[what]
    Path(name).write_bytes(b"dear")
    for beside in (f".{name}.part", f".{name}.{os.getpid()}.part"):
        Path(beside).symlink_to(letter)
    write(Path(name))
    assert letter.read_bytes() == b"dear"
    assert Path(name).read_bytes() != b"dear"
    Path(name).write_bytes(b"dear")
    Path(f".{name}.biasopt.tmp").symlink_to(letter)
    with pytest.raises((BiasoptError, OSError)):
        write(Path(name))
    assert letter.read_bytes() == b"dear"


def test_rights_and_owners_are_given_to_what_was_opened(letter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else may rename things in the folder has put a link where the temporary file was."""
    model, write, given = external(), staging.write_to, []
    letter.chmod(0o600)
    model.chmod(0o666)
    monkeypatch.setattr(os, "fchown", lambda fd, *_: given.append(os.fstat(fd).st_ino))

    def swap(fd: int, pieces: Any, where: Path, tell: Any) -> None:
        write(fd, pieces, where, tell)
        for path in Path().glob(".m.onnx.biasopt.tmp"):
            path.unlink()
            path.symlink_to(letter)

    monkeypatch.setattr(staging, "write_to", swap)
    converter.fold(model, in_place=True, verify=False)
    assert get_mode(letter) == 0o600
    assert len(given) == 2 and letter.stat().st_ino not in given


@pytest.mark.parametrize("place", ["home", "work"])
def test_a_note_counts_only_of_this_user_and_in_the_folder_of_the_model(place: str, folder: Path) -> None:
    """Another user of this machine may write into a folder that is shared, and may look up what a file is known by."""
    victim = folder / place / "thesis.tex"
    victim.write_text("years of work")
    at = victim.stat()
    note = Path(".o.onnx.biasopt.note")
    known = ["stale", str(victim.parent), victim.name, at.st_dev, at.st_ino, at.st_ctime_ns]
    note.write_text(json.dumps(known) + "\n")
    if place == "work":
        if os.geteuid():
            pytest.skip("only root can give a file away")
        os.chown(note, 12345, -1)
    converter.fold(external(), "o.onnx", verify=False)
    assert victim.read_text() == "years of work"


def test_what_a_child_left_goes_and_nothing_of_a_model_with_a_like_name(folder: Path) -> None:
    for name in (".[ab].onnx.biasopt.tmp", ".a.onnx.biasopt.tmp", ".a.onnx.letter.tmp.txt", ".[ab].onnx.2.onnx.tmp"):
        Path(name).write_bytes(b"x")
    workers._remove_rest(Task("m", "m.onnx", "[ab].onnx", "reports", "key"))
    assert sorted(path.name for path in Path().iterdir()) == [
        ".[ab].onnx.2.onnx.tmp",
        ".a.onnx.biasopt.tmp",
        ".a.onnx.letter.tmp.txt",
    ]


def test_a_lock_of_another_user_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child.tempfile, "gettempdir", lambda: str(folder))
    monkeypatch.setattr(child, "is_ours", lambda fd: False)
    with pytest.raises(BiasoptError, match="belongs to another user"), child.own_machine():
        pass
    next(folder.glob("*.lock")).unlink()
    (folder / f"biasopt-{os.getuid()}-gate.lock").symlink_to("elsewhere")
    with pytest.raises(BiasoptError, match="cannot be opened"), child.share_machine():
        pass


# ---- names that are one file on other systems ------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), [("o.onnx", "O.ONNX"), ("caf\u00e9.onnx", "cafe\u0301.onnx")])
def test_names_that_are_one_file_elsewhere_are_one_target(one: str, other: str, folder: Path) -> None:
    with pytest.raises(ModelError, match="is to be the output and the certificate"):
        check_targets([Target(Path(one)), Target(Path(other), "certificate")])
    with pytest.raises(ModelError, match="where the output's data may lie"):
        check_data_place(Path(one), [Path(f"{other}.data")])


# ---- permissions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_mode", "data_mode", "wanted"), [(0o600, 0o600, 0o600), (0o644, 0o600, 0o600), (0o640, 0o644, 0o640)]
)
def test_who_may_not_read_the_source_may_not_read_the_output(
    model_mode: int, data_mode: int, wanted: int, folder: Path
) -> None:
    model = external()
    model.chmod(model_mode)
    Path("m.onnx.data").chmod(data_mode)
    before, mask = set(Path().iterdir()), os.umask(0o022)
    try:
        converter.fold(model, "o.onnx", verify=False, certificate="c.json")
        converter.replay_certificate(model, "c.json", "r.onnx")
    finally:
        os.umask(mask)
    made = set(Path().iterdir()) - before - {Path("c.json")}
    assert {path.name: oct(get_mode(path)) for path in made} == dict.fromkeys((p.name for p in made), oct(wanted))
    assert len(made) == 4


def test_in_place_data_that_was_private_stays_so(folder: Path) -> None:
    model = external()
    model.chmod(0o644)
    Path("m.onnx.data").chmod(0o600)
    converter.fold(model, in_place=True, verify=False)
    assert get_mode(model) == 0o644
    assert [oct(get_mode(path)) for path in Path().glob("*.data")] == [oct(0o600)]
    assert onnx.load("m.onnx").graph.node


def test_a_private_file_of_a_repository_stays_private(folder: Path) -> None:
    Path("labels.txt").write_text("names")
    Path("labels.txt").chmod(0o600)
    copy_file(Path("labels.txt"), Path("out/labels.txt"))
    assert get_mode(Path("out/labels.txt")) == 0o600
