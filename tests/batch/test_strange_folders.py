"""A batch in folders that others made: nothing outside is written or passed on, nothing of the user's is replaced."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import cli
from converter.batch import run
from converter.batch.journal import Journal, find_models
from converter.errors import BiasoptError, ModelError
from tests.batch.zoo import ask, make_zoo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and links are Linux's")


@pytest.mark.parametrize("kind", ["link", "fifo", "device", "long", "folder"])
def test_a_journal_is_a_file_of_its_own(tmp_path: Path, kind: str) -> None:
    folder, kept = tmp_path / "out" / "batch", tmp_path / "kept"
    folder.mkdir(parents=True)
    kept.write_text("mine")
    path = folder / "journal.jsonl"
    match kind:
        case "link":
            path.symlink_to(kept)
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "long":
            with path.open("wb") as sparse:
                sparse.truncate(30 << 30)
        case _:
            path.mkdir()
    with pytest.raises(BiasoptError, match=r"journal\.jsonl: (cannot be written|is no journal)"):
        Journal(folder)
    assert kept.read_text() == "mine"


def test_what_a_journal_says_of_other_files_does_not_count(tmp_path: Path) -> None:
    zoo, out = make_zoo(tmp_path / "zoo", 1), tmp_path / "out"
    run.run_batch(ask(zoo, out))
    path = out / "batch" / "journal.jsonl"
    row = json.loads(path.read_text())
    elsewhere = tmp_path / "elsewhere.onnx"
    elsewhere.write_bytes(Path(row["output"]).read_bytes())
    path.write_text(json.dumps(row | {"output": str(elsewhere)}) + "\n" + "[" * 100_000 + '\n{"output": 1}\nNaN\n')
    assert run.run_batch(ask(zoo, out)).skipped == 0


def test_outputs_that_no_batch_wrote_are_not_replaced(tmp_path: Path) -> None:
    zoo, out = make_zoo(tmp_path / "zoo", 1), tmp_path / "out"
    kept = out / "part0" / "m000.onnx"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    with pytest.raises(ModelError, match="no batch wrote it"):
        run.run_batch(ask(zoo, out))
    assert kept.read_text() == "mine"
    assert sorted(p.name for p in out.iterdir()) == ["part0"]
    assert run.run_batch(ask(zoo, out, again=True)).exit_code == 0
    assert kept.read_bytes() != b"mine"


def test_a_pattern_goes_in_no_circles(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo", 1)
    for name in ("a", "b", "c"):
        (zoo / name).symlink_to(".")
    (zoo / ".hidden").mkdir()
    (zoo / ".hidden" / "m.onnx").touch()
    assert [each.name for each in find_models([f"{zoo}/**/*.onnx"], tmp_path / "out")] == ["part0/m000.onnx"]
    assert [each.name for each in find_models([f"{zoo}/.hidden/*.onnx"], tmp_path / "out")] == ["m.onnx"]
    with pytest.raises(ModelError, match=r"\*\*x: is no pattern|no model is there"):
        find_models([f"{zoo}/**x"], tmp_path / "out")


def test_a_link_that_leads_nowhere_is_a_row(tmp_path: Path) -> None:
    """A model that is missing from the summary would be missed by nobody."""
    zoo, out = make_zoo(tmp_path / "zoo", 1), tmp_path / "out"
    (zoo / "gone.onnx").symlink_to("nowhere.onnx")
    for pattern in (str(zoo), f"{zoo}/**/*.onnx"):
        assert [each.name for each in find_models([pattern], out)] == ["gone.onnx", "part0/m000.onnx"]
    rows = {row.name: row for row in run.run_batch(ask(zoo, out)).rows}
    assert (rows["gone.onnx"].outcome, rows["part0/m000.onnx"].outcome) == ("refused", "folded")
    assert "No such file" in rows["gone.onnx"].why
    with pytest.raises(ModelError, match="lies below the output"):
        find_models([str(zoo)], zoo)


def test_a_repository_passes_on_nothing_from_outside(tmp_path: Path) -> None:
    repository, secret = make_zoo(tmp_path / "zoo", 0), tmp_path / "secret"
    version = repository / "net" / "1"
    version.mkdir(parents=True)
    make_zoo(version, 0, "model.onnx")
    secret.write_text("key")
    (repository / "net" / "labels.txt").symlink_to("1/model.onnx")
    (repository / "net" / "key.txt").symlink_to(secret)
    out = tmp_path / "served"
    with pytest.raises(ModelError, match="outside of the repository"):
        run.run_batch(ask(repository, out, triton=True))
    assert not out.exists()
    (repository / "net" / "key.txt").unlink()
    assert run.run_batch(ask(repository, out, triton=True)).exit_code == 0


def test_names_of_files_are_text_in_every_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "zoo").mkdir()
    zoo = make_zoo(tmp_path / "zoo", 0, "m.onnx")
    content = (zoo / "m.onnx").read_bytes()
    for name in (b"\xff.onnx", b"::error::x.onnx", b"a\n::error::b.onnx", b"\x1b[31m.onnx", b"<script>x.onnx"):
        Path(os.fsdecode(os.fsencode(zoo) + b"/" + name)).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert cli.run(["batch", "zoo", "-o", "out", "--no-verify", "--jobs", "1", "-v"]) == 0
    told = capsys.readouterr()
    assert "\x1b[31m" not in told.out and not any(
        line.lstrip().startswith("::") for line in (told.out + told.err).splitlines()
    )
    page = (tmp_path / "out" / "batch" / "summary.html").read_text()
    assert "<script>x" not in page and "reports/%FF.onnx/report.html" in page
