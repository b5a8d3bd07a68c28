"""Where fold may write, what it leaves alone, and that what it writes is whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import onnx
import pytest

import converter
from converter.errors import ModelError
from converter.rewrite import pipeline
from tests.files import TEXT, digests, feeds, needs_permissions, refused, small_model, within, write
from tests.outputs import assert_same_outputs


def test_writes_where_it_is_told(tmp_path: Path) -> None:
    path = write(small_model(), tmp_path / "model.onnx")
    before = digests(tmp_path)
    converter.fold(path, out=tmp_path / "out.onnx")
    after = digests(tmp_path)
    assert after.pop("out.onnx")
    assert after == before


def test_without_out_nothing_is_written(tmp_path: Path) -> None:
    path = write(small_model(), tmp_path / "model.onnx")
    before = digests(tmp_path)
    converter.fold(path)
    assert digests(tmp_path) == before


def test_an_existing_output_needs_force(tmp_path: Path) -> None:
    path = write(small_model(), tmp_path / "model.onnx")
    out = tmp_path / "out.onnx"
    out.write_bytes(b"old")
    with refused("out.onnx", "force", kind=ModelError):
        converter.fold(path, out=out)
    assert out.read_bytes() == b"old"
    converter.fold(path, out=out, force=True)
    assert_same_outputs(small_model(), onnx.load(out), [feeds()])
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "out.onnx"}


@pytest.mark.parametrize("kind", ["itself", "hard link", "soft link", "other spelling"])
def test_the_input_is_only_replaced_in_place(tmp_path: Path, kind: str) -> None:
    path = write(small_model(), tmp_path / "model.onnx")
    out = {"itself": path, "other spelling": tmp_path / "sub" / ".." / "model.onnx"}.get(kind, tmp_path / "out.onnx")
    (tmp_path / "sub").mkdir()
    if kind == "hard link":
        out.hardlink_to(path)
    if kind == "soft link":
        out.symlink_to("model.onnx")
    before = digests(tmp_path)
    for force in (False, True):
        with refused("in", kind=ModelError):
            converter.fold(path, out=out, force=force, verify=False)
    assert digests(tmp_path) == before


def test_in_place_replaces_the_input(tmp_path: Path) -> None:
    path = write(small_model(), tmp_path / "model.onnx")
    path.chmod(0o600)
    converter.fold(path, in_place=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(onnx.load(path).graph.node) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert_same_outputs(small_model(), onnx.load(path), [feeds()])


def test_no_rewrite_is_a_byte_copy(tmp_path: Path) -> None:
    """Also of what a parser would not keep: unknown fields and their order."""
    model = small_model(TEXT.replace("BatchNormalization(c, gamma, beta, mean, var)", "Relu(c)"))
    content = b"\xfa\x07\x03odd" + model.SerializeToString()  # field 127
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert not converter.fold(path, out=tmp_path / "out.onnx").rewrites
    assert (tmp_path / "out.onnx").read_bytes() == content


def test_unknown_fields_survive_a_fold(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xfa\x07\x03odd" + small_model().SerializeToString())
    converter.fold(path, out=tmp_path / "out.onnx", verify=False)
    assert b"\xfa\x07\x03odd" in (tmp_path / "out.onnx").read_bytes()


def test_same_fold_writes_same_bytes(tmp_path: Path) -> None:
    path = write(small_model(), tmp_path / "model.onnx")
    for name in ("a.onnx", "b.onnx"):
        converter.fold(path, out=tmp_path / name, verify=False)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("out", ["no/such/folder/out.onnx", "folder", "model.onnx/out.onnx", "x" * 300 + ".onnx"])
def test_refuses_places_that_cannot_be_written(tmp_path: Path, out: str) -> None:
    path = write(small_model(), tmp_path / "model.onnx")
    (tmp_path / "folder").mkdir()
    before = digests(tmp_path)
    for force in (False, True):
        with refused():
            converter.fold(path, out=tmp_path / out, verify=False, force=force)
    assert digests(tmp_path) == before


@needs_permissions
def test_refuses_a_read_only_folder(tmp_path: Path) -> None:
    path = write(small_model(), tmp_path / "model.onnx")
    (tmp_path / "locked").mkdir(mode=0o500)
    with refused("locked"):
        converter.fold(path, out=tmp_path / "locked" / "out.onnx", verify=False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_never_replaces_what_is_no_file(tmp_path: Path) -> None:
    path, pipe = write(small_model(), tmp_path / "model.onnx"), tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    for force in (False, True):
        with within(10), refused("pipe.onnx"):
            converter.fold(path, out=pipe, verify=False, force=force)
    assert pipe.is_fifo()


@pytest.mark.parametrize("kind", ["soft link", "hard link"])
def test_data_of_a_model_that_stays_under_another_name_stays(tmp_path: Path, kind: str) -> None:
    other = tmp_path / "other.onnx"
    onnx.save(small_model(), other, save_as_external_data=True, location="other.bin", size_threshold=0)
    before = digests(tmp_path)
    out = tmp_path / "out.onnx"
    out.hardlink_to(other) if kind == "hard link" else out.symlink_to("other.onnx")
    converter.fold(write(small_model(), tmp_path / "model.onnx"), out=out, force=True, verify=False)
    after = digests(tmp_path)
    assert {name: after[name] for name in before} == before
    assert not out.is_symlink()


def test_data_that_is_removed_meanwhile_is_an_error_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(small_model(), path, save_as_external_data=True, location="model.bin", size_threshold=0)
    real = pipeline.run

    def remove(*given: object, **named: object) -> object:
        outcome = real(*given, **named)  # type: ignore[arg-type]
        (tmp_path / "model.bin").unlink()
        return outcome

    monkeypatch.setattr(pipeline, "run", remove)
    with refused("model.bin", kind=ModelError):
        converter.fold(path, out=tmp_path / "out.onnx", verify=False)
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx"}
