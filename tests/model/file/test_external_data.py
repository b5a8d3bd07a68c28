"""Models whose weights lie in other files: read, checked, and written as OUT beside OUT.data."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import converter
from converter.errors import ModelError
from tests.files import SHAPES, TEXT, digests, externalise, feeds, point_at, refused, small_model, write
from tests.outputs import assert_same_outputs, differences, run, tensors

LAYOUTS: dict[str, dict[str, str] | str] = {
    "one file": "weights.bin",
    "a file each": {name: f"{name}.bin" for name in SHAPES},
    "in a subfolder": "deep/er/weights.bin",
    "some inside": {"W": "a.bin", "untouched": "b.bin"},
    "odd name": "wei ghts ü.bin",
}


def folder_with(folder: Path, layout: dict[str, str] | str = "weights.bin", gap: int = 0) -> Path:
    return write(externalise(small_model(), folder, layout, gap), folder / "model.onnx")


def new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def fold(path: Path, out: Path | None, **options: bool) -> Path:
    result = converter.fold(path, out=out, verify=False, **options)
    assert [rewrite.pass_name for rewrite in result.rewrites] == ["fold-bn-into-conv"]
    return out or path


def locations(path: Path) -> set[str]:
    model = onnx.load(path, load_external_data=False)
    entries = [e for t in tensors(model.graph) for e in t.external_data if e.key == "location"]
    return {entry.value for entry in entries}


def value(path: Path, name: str) -> bytes:
    model = onnx.load(path)
    return next(numpy_helper.to_array(t).tobytes() for t in model.graph.initializer if t.name == name)


def held(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in tensors(model.graph) if t.name == name)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("gap", [0, 37], ids=["packed", "with gaps"])
def test_output_stands_alone(tmp_path: Path, layout: dict[str, str] | str, gap: int) -> None:
    source = tmp_path / "in"
    path = folder_with(source, layout, gap)
    before, untouched = digests(source), value(path, "untouched")
    out = fold(path, new(tmp_path / "out") / "folded.onnx")
    assert digests(source) == before
    shutil.rmtree(source)
    assert {p.name for p in out.parent.iterdir()} == {"folded.onnx", "folded.onnx.data"}
    assert locations(out) == {"folded.onnx.data"}
    assert value(out, "untouched") == untouched
    assert_same_outputs(small_model(), onnx.load(out), [feeds()])
    want, got = run(small_model(), feeds()), run(str(out), feeds())  # read by the runtime itself
    assert not differences(want, got, {"y": 1e-6})


def test_length_and_offset_may_be_missing(tmp_path: Path) -> None:
    model = small_model()
    for tensor in model.graph.initializer:
        (tmp_path / f"{tensor.name}.bin").write_bytes(tensor.raw_data)
        point_at(tensor, f"{tensor.name}.bin")
    out = fold(write(model, tmp_path / "model.onnx"), tmp_path / "out.onnx")
    assert_same_outputs(small_model(), onnx.load(out), [feeds()])


@pytest.mark.parametrize("kind", ["INT64", "UINT64", "INT32", "INT8", "BOOL", "DOUBLE", "FLOAT16", "INT4", "UINT4"])
def test_sizes_of_all_types_are_known_without_a_length(tmp_path: Path, kind: str) -> None:
    """A file as long as the tensor is accepted and copied whole, one byte less is refused."""
    data_type = onnx.TensorProto.DataType.Value(kind)
    full = 3 if kind.endswith("INT4") else 5 * np.dtype(helper.tensor_dtype_to_np_dtype(data_type)).itemsize
    for n_bytes in (full, full - 1):
        folder = new(tmp_path / str(n_bytes))
        model = small_model()
        point_at(model.graph.initializer.add(name="other", data_type=data_type, dims=[5]), "other.bin")
        (folder / "other.bin").write_bytes(bytes(range(1, n_bytes + 1)))
        path = write(model, folder / "model.onnx")
        if n_bytes == full:
            out = fold(path, folder / "out.onnx")
            assert held(onnx.load(out), "other").raw_data == bytes(range(1, full + 1))
        else:
            with refused("other.bin"):
                converter.fold(path, out=folder / "out.onnx", verify=False)


def test_two_tensors_may_share_their_bytes(tmp_path: Path) -> None:
    model = externalise(small_model(), tmp_path, "weights.bin")
    place = {e.key: e.value for e in held(model, "gamma").external_data}
    point_at(held(model, "var"), place["location"], place["offset"], place["length"])
    path = write(model, tmp_path / "model.onnx")
    out = fold(path, tmp_path / "out.onnx")
    assert_same_outputs(onnx.load(path), onnx.load(out), [feeds()])


def test_weights_of_constant_nodes_may_be_external(tmp_path: Path) -> None:
    model = small_model()
    moved = [t for t in model.graph.initializer if t.name in ("W", "untouched")]
    for tensor in moved:
        node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        model.graph.initializer.remove(tensor)
        model.graph.node.insert(0, node)
    want = onnx.ModelProto()
    want.CopyFrom(model)
    for node in model.graph.node[:2]:
        tensor = node.attribute[0].t
        (tmp_path / f"{node.output[0]}.bin").write_bytes(tensor.raw_data)
        point_at(tensor, f"{node.output[0]}.bin", 0, len(tensor.raw_data))
    out = fold(write(model, tmp_path / "model.onnx"), new(tmp_path / "out") / "out.onnx")
    assert_same_outputs(want, onnx.load(out), [feeds()])


def test_untouched_types_are_copied_as_they_are(tmp_path: Path) -> None:
    """Types that numpy does not know, and bytes that mean nothing, pass through."""
    model = small_model()
    for name, kind, dims, n_bytes in (("q", onnx.TensorProto.INT4, [5], 3), ("h", onnx.TensorProto.FLOAT16, [2], 4)):
        tensor = model.graph.initializer.add(name=name, data_type=kind, dims=dims)
        (tmp_path / f"{name}.bin").write_bytes(bytes(range(251, 251 + n_bytes)))
        point_at(tensor, f"{name}.bin", 0, n_bytes)
    out = fold(write(model, tmp_path / "model.onnx"), new(tmp_path / "out") / "out.onnx")
    copied = onnx.load(out)
    assert held(copied, "q").raw_data == bytes([251, 252, 253])
    assert held(copied, "h").raw_data == bytes([251, 252, 253, 254])


def test_same_fold_writes_same_bytes(tmp_path: Path) -> None:
    path = folder_with(tmp_path / "in")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        fold(path, tmp_path / name / "out.onnx")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert len(digests(tmp_path / "a")) == 2


def test_a_model_without_folds_is_copied_whole(tmp_path: Path) -> None:
    text = TEXT.replace("n = BatchNormalization(c, gamma, beta, mean, var)", "n = Relu(c)")
    model = externalise(small_model(text, {n: SHAPES[n] for n in ("W", "b", "untouched")}), tmp_path / "in", "w.bin")
    path = write(model, tmp_path / "in" / "model.onnx")
    want = run(str(path), feeds())
    (tmp_path / "out").mkdir()
    result = converter.fold(path, out=tmp_path / "out" / "out.onnx", verify=False)
    assert not result.rewrites
    shutil.rmtree(tmp_path / "in")
    got = run(str(tmp_path / "out" / "out.onnx"), feeds())
    np.testing.assert_array_equal(got["y"], want["y"])


# Names and old files -------------------------------------------------------------------------------


def test_a_taken_data_name_is_left_alone(tmp_path: Path) -> None:
    path = folder_with(tmp_path / "in")
    (tmp_path / "out.onnx.data").write_bytes(b"of somebody else")
    out = fold(path, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").read_bytes() == b"of somebody else"
    (name,) = locations(out)
    assert re.fullmatch(r"out\.onnx\.[0-9a-f]{8}\.data", name)
    assert_same_outputs(small_model(), onnx.load(out), [feeds()])


def test_force_replaces_the_old_data_too(tmp_path: Path) -> None:
    path = folder_with(tmp_path / "in")
    out = fold(path, new(tmp_path / "out") / "out.onnx")
    fold(path, out, force=True)
    assert len(list(out.parent.iterdir())) == 2
    assert_same_outputs(small_model(), onnx.load(out), [feeds()])


def test_in_place_leaves_one_model_and_its_data(tmp_path: Path) -> None:
    path = folder_with(tmp_path)
    path.chmod(0o640)
    fold(path, None, in_place=True)
    assert path.stat().st_mode & 0o777 == 0o640
    assert_same_outputs(small_model(), onnx.load(path), [feeds()])
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", *locations(path)}


def test_in_place_keeps_data_that_another_model_uses(tmp_path: Path) -> None:
    path = folder_with(tmp_path)
    other = write(onnx.load(path, load_external_data=False), tmp_path / "other.onnx")
    want = run(str(other), feeds())
    fold(path, None, in_place=True)
    np.testing.assert_array_equal(run(str(other), feeds())["y"], want["y"])


@pytest.mark.parametrize("kind", ["in place", "replaced"])
@pytest.mark.parametrize("letter", [b"Dear reader, " * 999, b""], ids=["text", "empty"])
def test_a_file_of_the_users_that_a_model_calls_its_data_stays(tmp_path: Path, kind: str, letter: bytes) -> None:
    """A stranger's model may name any file beside it: what it does not fill is not the model's to remove."""
    theirs, kept = tmp_path / "theirs.onnx", tmp_path / "letter.txt"
    kept.write_bytes(letter)
    model = small_model()
    if letter:
        (tensor,) = (t for t in model.graph.initializer if t.name == "W")
        point_at(tensor, "letter.txt", 0, len(tensor.raw_data))
    else:
        tensor = model.graph.initializer.add(name="unused", data_type=TensorProto.FLOAT, dims=[0])
        point_at(tensor, "letter.txt", 0, 0)
    write(model, theirs)
    if kind == "in place":
        fold(theirs, None, in_place=True)
    else:
        mine = folder_with(tmp_path / "mine")
        theirs.rename(tmp_path / "out.onnx")
        fold(mine, tmp_path / "out.onnx", force=True)
    assert kept.read_bytes() == letter


def test_in_place_follows_a_link(tmp_path: Path) -> None:
    path = folder_with(tmp_path / "real")
    link = tmp_path / "real" / "link.onnx"
    link.symlink_to(path.name)
    fold(link, None, in_place=True)
    assert link.is_symlink()
    assert_same_outputs(small_model(), onnx.load(path), [feeds()])


@pytest.mark.parametrize("name", ["weights.bin", "hard.bin", "link.bin"])
def test_out_may_not_be_the_inputs_data(tmp_path: Path, name: str) -> None:
    path = folder_with(tmp_path)
    os.link(tmp_path / "weights.bin", tmp_path / "hard.bin")
    (tmp_path / "link.bin").symlink_to("weights.bin")
    before = digests(tmp_path)
    for force in (False, True):
        with refused(name):
            converter.fold(path, out=tmp_path / name, verify=False, force=force)
    assert digests(tmp_path) == before


# Protos with a directory ---------------------------------------------------------------------------


def test_a_proto_says_where_its_data_lies(tmp_path: Path) -> None:
    path = folder_with(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    result = converter.fold(proto, data_dir=tmp_path, verify=False)
    (tmp_path / "out").mkdir()
    result.save(tmp_path / "out" / "out.onnx")
    assert_same_outputs(small_model(), onnx.load(tmp_path / "out" / "out.onnx"), [feeds()])


def test_a_proto_without_its_directory_is_refused(tmp_path: Path) -> None:
    proto = onnx.load(folder_with(tmp_path), load_external_data=False)
    with refused("data_dir="):
        converter.fold(proto, verify=False)


# What is refused -----------------------------------------------------------------------------------


def assert_refused(folder: Path, model: onnx.ModelProto, *words: str) -> None:
    """One line, nothing written, nothing changed."""
    path = write(model, folder / "model.onnx")
    before = digests(folder)
    with refused("model.onnx", *words, kind=ModelError):
        converter.fold(path, out=folder / "out.onnx")
    assert digests(folder) == before


@pytest.mark.parametrize(
    "location", ["../outside.bin", "sub/../../outside.bin", "/etc/hostname", "sub/../..", "..", "", "no/such.bin"]
)
def test_refuses_a_location(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(bytes(4096))
    model = small_model()
    point_at(held(model, "W"), location, 0, 540)
    assert_refused(folder, model, "W")


def test_refuses_a_link_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(4096))
    (tmp_path / "in" / "weights.bin").symlink_to("../outside.bin")
    model = small_model()
    point_at(held(model, "W"), "weights.bin", 0, 540)
    assert_refused(tmp_path / "in", model, "W")


def test_refuses_a_folder_link_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights.bin").write_bytes(bytes(4096))
    (tmp_path / "in" / "sub").symlink_to("../elsewhere")
    model = small_model()
    point_at(held(model, "W"), "sub/weights.bin", 0, 540)
    assert_refused(tmp_path / "in", model, "W")


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 541), (9, 540), (0, 539), (-4, 540), ("x", 540), (0, "y"), (10**30, 540), (0, -1), (0, 10**30), ("1.5", 540)],
)
def test_refuses_places_that_do_not_fit(tmp_path: Path, offset: int | str, length: int | str) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(540))
    model = small_model()
    point_at(held(model, "W"), "weights.bin", offset, length)
    assert_refused(tmp_path, model, "W")


def test_refuses_a_truncated_data_file(tmp_path: Path) -> None:
    model = externalise(small_model(), tmp_path, "weights.bin")
    data = tmp_path / "weights.bin"
    data.write_bytes(data.read_bytes()[:-1])
    assert_refused(tmp_path, model, "weights.bin")


def test_refuses_a_folder_as_data(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").mkdir()
    model = small_model()
    point_at(held(model, "W"), "weights.bin", 0, 540)
    assert_refused(tmp_path, model, "W")


def test_a_bad_tensor_that_no_fold_reads_is_refused_too(tmp_path: Path) -> None:
    """Otherwise the output would not stand alone."""
    model = small_model()
    point_at(held(model, "untouched"), "missing.bin", 0, 40)
    assert_refused(tmp_path, model, "missing.bin")
