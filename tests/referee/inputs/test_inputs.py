"""Inputs from files, folders and scripts."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from converter.errors import DataError
from converter.referee.inputs.files import open_inputs, read_labels
from converter.referee.inputs.stream import MOST_ROWS, Sample, Stream, hash_feeds
from converter.referee.proto.source import Port

FLOAT, INT64, HALF, BFLOAT = TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16, TensorProto.BFLOAT16


def ports(**dims: tuple[Any, ...]) -> dict[str, Port]:
    return {name: Port(name, "tensor", INT64 if name == "ids" else FLOAT, d) for name, d in dims.items()}


OPEN, ONE = ports(x=("n", 4)), ports(x=(1, 4))
RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((40, 4)).astype(np.float32)


def runs(*values: Any, to: dict[str, Port] = OPEN, limit: int | None = None) -> list[Sample]:
    return list(open_inputs(values, to, limit).all())


def test_an_axis_more_counts_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=ROWS.reshape(20, 2, 4))
    found = runs(tmp_path / "x.npz")
    assert len(found) == 20
    assert np.array_equal(found[7].feeds["x"], ROWS[14:16])


def test_a_long_batch_is_cut_and_a_short_one_is_not(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=ROWS)
    found = runs(tmp_path / "x.npz")
    assert [len(s.feeds["x"]) for s in found] == [MOST_ROWS, MOST_ROWS, 40 - 2 * MOST_ROWS]
    assert sum(s.rows for s in found) == 40
    np.savez(tmp_path / "y.npz", x=ROWS[:3])
    assert [(len(s.feeds["x"]), s.rows) for s in runs(tmp_path / "y.npz")] == [(3, 3)]


def test_a_fixed_batch_takes_its_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=ROWS)
    assert len(runs(tmp_path / "x.npz", to=ONE)) == 40
    assert [s.feeds["x"].shape for s in runs(tmp_path / "x.npz", to=ports(x=(20, 4)))] == [(20, 4)] * 2


def test_what_has_no_such_axis_is_the_same_in_every_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=ROWS[:5].reshape(5, 1, 4), ids=np.arange(3))
    found = runs(tmp_path / "x.npz", to=ports(x=(1, 4), ids=(3,)))
    assert len(found) == 5
    assert all(np.array_equal(s.feeds["ids"], [0, 1, 2]) for s in found)


def test_numbers_of_samples_agree(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=ROWS[:5].reshape(5, 1, 4), ids=np.zeros((6, 3), np.int64))
    with pytest.raises(DataError, match="x 5, ids 6"):
        runs(tmp_path / "x.npz", to=ports(x=(1, 4), ids=(3,)))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_long_archive_is_read_in_pieces(tmp_path: Path, save: Callable[..., None], monkeypatch: Any) -> None:
    many = RNG.standard_normal((100, 2, 4)).astype(np.float32)
    save(tmp_path / "x.npz", x=many)
    monkeypatch.setattr("converter.referee.inputs.files._read_array", None)  # reading all at once would fail
    stream = open_inputs([tmp_path / "x.npz"], OPEN)
    assert np.array_equal(stream.take(1)[0].feeds["x"], many[0])
    assert np.array_equal(np.stack([s.feeds["x"] for s in stream.all()]), many)


def test_one_array_is_for_a_model_with_one_input(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    assert np.array_equal(np.concatenate([s.feeds["x"] for s in runs(tmp_path / "x.npy")]), ROWS)
    with pytest.raises(DataError, match="one input"):
        runs(tmp_path / "x.npy", to=ports(x=("n", 4), ids=(3,)))


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    for k in (2, 0, 1):
        np.savez(tmp_path / f"{k}.npz", x=np.full((1, 4), k, np.float32))
    (tmp_path / "notes.txt").write_text("not inputs")
    stream = open_inputs([tmp_path], OPEN)
    assert [s.feeds["x"][0, 0] for s in stream.all()] == [0, 1, 2]
    assert (stream.kind, stream.source) == ("npz", str(tmp_path))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="--images"):
        runs(tmp_path / "none")


def pb(path: Path, value: np.ndarray, name: str = "") -> None:
    path.write_bytes(numpy_helper.from_array(value, name).SerializeToString())


def test_test_data_goes_by_name_or_by_order(tmp_path: Path) -> None:
    to = ports(x=(1, 4), ids=(3,))
    for k, names in enumerate((("ids", "x"), ("", ""))):
        folder = tmp_path / f"test_data_set_{10 * k}"
        folder.mkdir()
        values = [np.arange(3), ROWS[:1]] if k == 0 else [ROWS[1:2], np.arange(3) + 5]
        for slot, (value, name) in enumerate(zip(values, names, strict=True)):
            pb(folder / f"input_{slot}.pb", value, name)
        pb(folder / "output_0.pb", ROWS[:1], "y")
    first, second = runs(tmp_path, to=to)
    assert np.array_equal(first.feeds["x"], ROWS[:1])
    assert np.array_equal(second.feeds["ids"], [5, 6, 7])
    assert open_inputs([tmp_path], to).kind == "ort-test-data"
    assert len(runs(tmp_path / "test_data_set_10", to=to)) == 1
    pb(tmp_path / "test_data_set_0" / "input_2.pb", ROWS[:1])
    with pytest.raises(DataError, match="3 inputs"):
        runs(tmp_path, to=to)
    (tmp_path / "test_data_set_0" / "input_1.pb").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match=r"input_1\.pb"):
        runs(tmp_path / "test_data_set_0", to=ports(x=(1, 4), ids=(3,), z=(1,)))


def npy(value: np.ndarray) -> bytes:
    made = io.BytesIO()
    np.save(made, value)
    return made.getvalue()


@pytest.mark.parametrize(
    "encode",
    [
        lambda v: {"array": base64.b64encode(npy(v)).decode(), "polygraphy_class": "ndarray"},
        lambda v: {"array": base64.b64encode(zlib.compress(npy(v))).decode(), "polygraphy_class": "ndarray"},
        lambda v: {"array": npy(v).decode("latin-1"), "polygraphy_class": "ndarray"},
        lambda v: {"values": {"array": base64.b64encode(npy(v)).decode()}, "polygraphy_class": "LazyArray"},
    ],
    ids=["base64", "zlib", "latin-1", "nested"],
)
def test_polygraphys_inputs(tmp_path: Path, encode: Callable[[np.ndarray], Any]) -> None:
    (tmp_path / "in.json").write_text(json.dumps([{"x": encode(ROWS[k : k + 1])} for k in range(3)]))
    found = runs(tmp_path / "in.json")
    assert np.array_equal(np.concatenate([s.feeds["x"] for s in found]), ROWS[:3])


class Trap:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".json"])
def test_nothing_is_unpickled(tmp_path: Path, suffix: str) -> None:
    trap, path = np.array([Trap()], dtype=object), tmp_path / f"x{suffix}"
    if suffix == ".json":
        made = io.BytesIO()
        np.save(made, trap, allow_pickle=True)
        path.write_text(json.dumps([{"x": {"array": base64.b64encode(made.getvalue()).decode()}}]))
    else:
        (np.savez if suffix == ".npz" else np.save)(path, **({"x": trap} if suffix == ".npz" else {"arr": trap}))
    with pytest.raises(DataError, match="x"):
        runs(path)


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.json", "x.txt", "nothing.npz"])
def test_what_is_no_inputs_is_one_line(tmp_path: Path, name: str) -> None:
    if name != "nothing.npz":
        (tmp_path / name).write_bytes(b"\x00\x01")
    with pytest.raises(DataError, match=name) as caught:
        runs(tmp_path / name)
    assert "\n" not in str(caught.value)


SCRIPT = """
import numpy as np
import beside
def pairs():
    for k in range(3):
        yield {"x": np.full((2, 4), k, np.float32)}, [k, k]
def one():
    return {"x": np.zeros((1, 4), np.float32)}
def bad():
    raise KeyError("left")
def odd():
    return [3]
"""


def test_scripts(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(SCRIPT)
    (tmp_path / "beside.py").write_text("")
    found = runs(f"{tmp_path}/data.py:pairs")
    assert [(s.feeds["x"][0, 0], list(s.label)) for s in found] == [(0, [0, 0]), (1, [1, 1]), (2, [2, 2])]
    assert len(runs(f"{tmp_path}/data.py:one")) == 1
    for name, text in (("bad", "KeyError: 'left', line 10"), ("odd", "gave a int"), ("nope", "no function 'nope'")):
        with pytest.raises(DataError, match=text):
            runs(f"{tmp_path}/data.py:{name}")
    with pytest.raises(DataError, match="no such script"):
        runs(f"{tmp_path}/nothing.py:f")


def test_types_are_made_to_fit_or_refused() -> None:
    half = {"x": Port("x", "tensor", HALF, ("n", 4))}
    assert runs({"x": ROWS[:1]}, to=half)[0].feeds["x"].dtype == np.float16
    brain = {"x": Port("x", "tensor", BFLOAT, ("n", 4))}
    assert str(runs({"x": ROWS[:1]}, to=brain)[0].feeds["x"].dtype) == "bfloat16"
    whole = ports(ids=("n",))
    assert runs({"ids": np.array([1, 2], np.int32)}, to=whole)[0].feeds["ids"].dtype == np.int64
    for value in (np.array([0.5]), np.array([2**63], np.uint64)):
        with pytest.raises(DataError, match="convert it first"):
            runs({"ids": value}, to=whole)
    with pytest.raises(DataError, match="uint8 was given"):
        runs({"x": ROWS[:1].astype(np.uint8)})


def test_a_cast_and_what_is_no_number_are_in_the_record(tmp_path: Path) -> None:
    values = ROWS.astype(np.float64)
    values[3, 1], values[20, 2] = np.nan, -np.inf
    np.savez(tmp_path / "x.npz", x=values)
    stream = open_inputs([tmp_path / "x.npz"], OPEN)
    assert len(list(stream.all())) == 3
    record = stream.record()
    assert (record.cast_from, record.nonfinite) == ({"x": "float64"}, 2)
    stream = open_inputs([{"x": ROWS}], OPEN)
    assert len(list(stream.all())) == 1
    assert (stream.record().cast_from, stream.record().nonfinite) == ({}, 0)


@pytest.mark.parametrize("shape", [(40, 5), (160,), (2, 2, 10, 4), (3, 20, 3)])
def test_a_shape_that_the_model_does_not_take_is_told_with_its_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros(shape, np.float32))
    with pytest.raises(DataError) as caught:
        runs(tmp_path / "x.npz")
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'x.npz'}: input 'x' takes the shape [n, 4], and [")
    assert f"{shape[-1]}] was given" in text


def test_a_stream_holds_what_was_taken_and_counts_rows() -> None:
    stream = Stream((Sample({"x": ROWS[k : k + 1]}, k) for k in range(30)), "npz", limit=20)
    assert [s.label for s in stream.take(3)] == [0, 1, 2]
    assert stream.record().n == 3
    assert [s.label for s in stream.all()] == list(range(20))
    record = stream.record()
    assert (record.n, record.labelled, record.real, record.shapes) == (20, True, True, {"x": (1, 4)})
    with pytest.raises(DataError, match="only once"):
        list(stream.all())


def test_a_limit_counts_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=ROWS)
    found = runs(tmp_path / "x.npz", limit=MOST_ROWS + 3)
    assert [(len(s.feeds["x"]), s.rows) for s in found] == [(MOST_ROWS, MOST_ROWS), (3, 3)]
    pairs = list(open_inputs([({"x": ROWS}, np.arange(40))], OPEN, 5).all())
    assert [(len(s.feeds["x"]), list(s.label)) for s in pairs] == [(5, [0, 1, 2, 3, 4])]
    assert len(runs(tmp_path / "x.npz", to=ONE, limit=7)) == 7


def test_no_row_is_no_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=ROWS[:0])
    with pytest.raises(DataError, match="no row"):
        runs(tmp_path / "x.npz")


def test_the_hash_is_of_values_types_names_and_order() -> None:
    def hashed(*feeds: dict[str, Any]) -> str:
        stream = Stream((Sample(f) for f in feeds), "npz")
        list(stream.all())
        return stream.record().sha256

    a, b = {"x": ROWS[:1]}, {"x": ROWS[1:2]}
    texts = {"x": np.array(["".join(["a", "b"])], dtype=object)}
    assert hashed(a, b) == hashed({"x": ROWS[:1].copy()}, b)
    assert hash_feeds(texts) == hash_feeds({"x": np.array(["ab"], dtype=object)})
    others = (hashed(b, a), hashed(a), hashed({"z": ROWS[:1]}, b), hashed({"x": ROWS[:1].astype(np.float64)}, b))
    assert len({hashed(a, b), *others}) == 5


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("l.txt", "3\n1\n\n2\n", [3, 1, 2]),
        ("l.csv", "file,class\na.jpg,4\nb.jpg,5\n", [4, 5]),
        ("l.csv", "4;5\n6;7\n", [5, 7]),
    ],
)
def test_labels(tmp_path: Path, name: str, content: str, expected: list[int]) -> None:
    (tmp_path / name).write_text(content)
    assert read_labels(tmp_path / name).tolist() == expected


def test_labels_are_whole_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "l.npy", np.array([1, 2]))
    assert read_labels(tmp_path / "l.npy").tolist() == [1, 2]
    np.save(tmp_path / "f.npy", np.array([0.5]))
    (tmp_path / "t.txt").write_text("1\ncat\n")
    for name in ("f.npy", "t.txt", "none.txt"):
        with pytest.raises(DataError, match=name):
            read_labels(tmp_path / name)


def test_a_sequence_is_read(tmp_path: Path) -> None:
    made = onnx.numpy_helper.from_list([ROWS[:1], ROWS[:2]], "s")
    (tmp_path / "input_0.pb").write_bytes(made.SerializeToString())
    found = runs(tmp_path, to={"s": Port("s", "sequence")})
    assert [len(v) for v in found[0].feeds["s"]] == [1, 2]
