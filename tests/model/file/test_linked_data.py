"""``--link``: changed weights in a new data file, the rest where it is, by checksum."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import converter
from converter.errors import ModelError
from converter.records import Verdict
from tests.files import SHAPES, digests, externalise, feeds, refused, small_model, write
from tests.model.file.test_external_data import folder_with, locations
from tests.outputs import assert_same_outputs


@pytest.fixture(autouse=True)
def _small_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.model.graph.writer._EXTERNAL_FROM", 0)


def linked(folder: Path, layout: dict[str, str] | str = "weights.bin") -> tuple[Path, Path]:
    """A model, and its fold that refers to the data of the model; none of the files of the model changed."""
    path, out = folder_with(folder, layout, gap=37), folder / "out.onnx"
    before = digests(folder)
    result = converter.fold(path, out=out, link=True)
    assert {name: digests(folder)[name] for name in before} == before
    assert result.rewrites
    assert result.parity is not None
    assert result.parity.verdict is Verdict.PASS
    return path, out


@pytest.mark.parametrize("layout", ["weights.bin", "deep/weights.bin", {name: f"{name}.bin" for name in SHAPES}])
def test_only_what_changed_is_written(tmp_path: Path, layout: dict[str, str] | str) -> None:
    path, out = linked(tmp_path, layout)
    assert_same_outputs(small_model(), onnx.load(out), [feeds()])
    kept = locations(path) & locations(out)
    assert kept
    written = out.with_name("out.onnx.data").stat().st_size
    assert 0 < written < sum(Path(tmp_path / name).stat().st_size for name in locations(path))
    sums = {
        next(e.value for e in t.external_data if e.key == "location")
        for t in onnx.load(out, load_external_data=False).graph.initializer
        if any(e.key == "checksum" for e in t.external_data)
    }
    assert sums == kept == locations(out) - {"out.onnx.data"}


@pytest.mark.parametrize("how", ["another byte", "another file", "gone"])
def test_a_reference_to_another_file_is_not_missed(tmp_path: Path, how: str) -> None:
    path, out = linked(tmp_path)
    data = tmp_path / "weights.bin"
    content = bytearray(data.read_bytes())
    if how == "gone":
        data.unlink()
    else:
        content[-1 if how == "another byte" else 0] ^= 1
        data.write_bytes(bytes(content) + b"more" * (how == "another file"))
    says = "missing" if how == "gone" else "is another than the one it was written with"
    with refused(says, kind=ModelError):
        converter.inspect(out)
    with refused(says, kind=ModelError):
        converter.compare(out, out)
    with refused(says, kind=ModelError):
        converter.fold(out, tmp_path / "again.onnx", verify=False)
    if how != "gone":
        converter.inspect(path)  # which says nothing of a checksum


def test_in_place_keeps_the_data_that_it_refers_to(tmp_path: Path) -> None:
    path = folder_with(tmp_path)
    before = digests(tmp_path)["weights.bin"]
    converter.fold(path, in_place=True, link=True, verify=False)
    assert digests(tmp_path)["weights.bin"] == before
    assert locations(path) == {"weights.bin", "model.onnx.data"}
    assert_same_outputs(small_model(), onnx.load(path), [feeds()])


def test_a_certificate_of_it_replays(tmp_path: Path) -> None:
    path, out, certificate = folder_with(tmp_path), tmp_path / "out.onnx", tmp_path / "c.json"
    converter.fold(path, out=out, link=True, certificate=certificate)
    assert not converter.replay_certificate(path, certificate, tmp_path / "r.onnx").why
    assert_same_outputs(onnx.load(out), onnx.load(tmp_path / "r.onnx"), [feeds()])


def test_what_cannot_be_linked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    path = folder_with(tmp_path / "a")
    inside = write(small_model(), tmp_path / "inside.onnx")
    (tmp_path / "b").mkdir()
    before = digests(tmp_path)
    with refused("is not in the folder of the output", kind=ModelError):
        converter.fold(path, tmp_path / "b" / "out.onnx", link=True, verify=False)
    with refused("nothing to link", kind=ModelError):
        converter.fold(inside, tmp_path / "out.onnx", link=True, verify=False)
    assert digests(tmp_path) == before
    converter.fold(path, tmp_path / "up.onnx", link=True, verify=False)  # a folder below is no other place
    assert locations(tmp_path / "up.onnx") == {"a/weights.bin", "up.onnx.data"}


def test_a_model_that_another_links_to_keeps_its_data(tmp_path: Path) -> None:
    path, out = linked(tmp_path)
    converter.fold(path, in_place=True, verify=False)
    assert_same_outputs(small_model(), onnx.load(out), [feeds()])
    assert converter.compare(path, out).verdict is Verdict.PASS


def test_checksums_of_others_are_heeded_where_they_are_sha1(tmp_path: Path) -> None:
    model = externalise(small_model(), tmp_path, "w.bin")
    for tensor in model.graph.initializer:
        tensor.external_data.add(key="checksum", value="crc32:1234")
    path = write(model, tmp_path / "m.onnx")
    converter.inspect(path)
