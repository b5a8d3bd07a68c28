"""Inputs, labels and images that are not what they say: one line, and no more memory than a budget."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import OptionalProto, SequenceProto, TensorProto

from converter.commands.options import read_arrays
from converter.errors import DataError
from converter.referee.inputs.files import open_inputs, read_labels, read_value
from converter.referee.inputs.images import open_images
from converter.referee.inputs.stream import hash_feeds
from converter.referee.proto.source import Port

PORTS = {"x": Port("x", "tensor", TensorProto.FLOAT, (1, 3, 8, 8))}


def npy(shape: str, data: bytes = b"", kind: str = "'<f4'") -> bytes:
    head = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (64 - (len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + data


def packed(content: bytes, name: str = "x.npy", how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        archive.writestr(name, content)
    return out.getvalue()


def with_method(content: bytes, flag: int, method: int) -> bytes:
    """The archive, said to be encrypted or packed in some other way."""
    raw = bytearray(content)
    for at, offset in ((0, 6), (content.find(b"PK\x01\x02"), 8)):
        raw[at + offset] |= flag
        raw[at + offset + 2] = method
    return bytes(raw)


def damaged(content: bytes) -> bytes:
    return content[:60] + b"\xff" * 10 + content[70:]


RECORD = npy("(1, 3, 8, 8)", bytes(1536), "[('a', '<f4'), ('b', '<f4')]")


def polygraphy(content: bytes) -> bytes:
    return json.dumps([{"x": {"array": base64.b64encode(content).decode()}}]).encode()


FILES = {
    "negative size.npy": npy("(-1, 3)", b"\0" * 64),
    "huge.npy": npy("(1099511627776, 3)", b"\0" * 64),
    "cut.npy": npy("(1, 3, 8, 8)", b"\0" * 64),
    "negative size.npz": packed(npy("(-1, 3)")),
    "huge.npz": packed(npy("(1099511627776, 3, 8, 8)")),
    "huge rows.npz": packed(npy("(4, 1099511627776, 3, 8, 8)")),
    "objects.npz": packed(npy("(1,)").replace(b"<f4", b"|O ", 1)),
    "no values.npz": packed(npy("(4611686018427387904, 1, 0, 8, 8)")),
    "no values, stacked.npz": packed(npy("(4611686018427387904, 0, 8, 8)")),
    "no values.json": polygraphy(npy("(4611686018427387904, 1, 0, 8, 8)")),
    "no bytes.npy": npy("(4611686018427387904, 3, 8, 8)", b"", "'|V0'"),
    "records.npz": packed(RECORD),
    "records.npy": RECORD,
    "true.npz": packed(npy("(True, 3, 8, 8)", bytes(768))),
    "lzma.npz": damaged(packed(npy("(1, 3, 8, 8)", bytes(768)), how=zipfile.ZIP_LZMA)),
    "encrypted.npz": with_method(packed(npy("(1, 3, 8, 8)", bytes(768))), 1, 8),
    "unknown method.npz": with_method(packed(npy("(1, 3, 8, 8)", bytes(768))), 0, 99),
    "nonsense.npz": b"PK\x03\x04" + bytes(60),
    "nested.json": b"[" * 100_000,
    "no zlib.json": polygraphy(b"nothing"),
    "bomb.json": polygraphy(zlib.compress(bytes(64 << 20))),
    "number.json": b"[1]",
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_inputs_that_are_not_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.referee.inputs.files.MOST_BYTES", 32 << 20)
    path = tmp_path / name
    path.write_bytes(FILES[name])
    with pytest.raises(DataError) as caught:
        open_inputs([path], PORTS).take(1)
    assert "\n" not in str(caught.value) and (str(path) in str(caught.value) or "input 'x'" in str(caught.value))
    if path.suffix == ".npz" and "values" not in name and "records" not in name:  # as `bench` reads them
        with pytest.raises(DataError, match="no readable"):
            read_arrays([path])


@pytest.mark.parametrize("kind", ["fifo", "device", "bomb"])
def test_inputs_of_a_benchmark_are_a_file_of_bounded_size(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converter.referee.inputs.files.MOST_BYTES", 1 << 20)
    path = tmp_path / "x.npz"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case _:
            path.write_bytes(packed(npy("(1, 3, 512, 512)", bytes(4 * 3 << 18))))
    with pytest.raises(DataError):
        read_arrays([path])


def test_a_name_of_an_input_that_no_encoding_has_is_hashed() -> None:
    assert len(hash_feeds({"\ud800": np.zeros(1)})) == 32


@pytest.mark.parametrize(
    "name", ["huge.npy", "negative size.npy", "cut.npy", "fifo.txt", "device.txt", "words.txt", "digits.txt"]
)
def test_labels_that_are_none(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    match name:
        case "fifo.txt":
            os.mkfifo(path)
        case "device.txt":
            path.symlink_to("/dev/zero")
        case "words.txt":
            path.write_bytes(b"\xff\xfe\x00")
        case "digits.txt":
            path.write_text("9" * 6000)
        case _:
            path.write_bytes(FILES[name])
    with pytest.raises(DataError):
        read_labels(path)


def png(width: int, height: int) -> bytes:
    """A few bytes that say how large the picture is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 30_000, 2**31 - 1])
def test_pictures_that_unpack_to_anything(side: int, tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    (tmp_path / "a.png").write_bytes(png(side, side))
    with pytest.raises(DataError, match=r"a\.png: no readable image"):
        open_images(tmp_path, "unit", PORTS, {}, None).take(1)


def test_a_picture_is_read_by_readers_of_pictures_alone(tmp_path: Path) -> None:
    """Pillow goes by the content, and has PostScript run by Ghostscript."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with image.open(io.BytesIO(script)) as opened:
        assert opened.format == "EPS"
    (tmp_path / "a.png").write_bytes(script)
    with pytest.raises(DataError, match=r"a\.png: no readable image \(cannot identify"):
        open_images(tmp_path, "unit", PORTS, {}, None).take(1)


@pytest.mark.parametrize("size", [(1, 60_000), (80_000, 1)])
def test_a_picture_that_is_a_line_is_not_made_wider(size: tuple[int, int], tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image.new("L", size).save(tmp_path / "a.png")
    ports = {"x": Port("x", "tensor", TensorProto.FLOAT, (1, 3, 224, 224))}
    with pytest.raises(DataError, match=r"a\.png: is .* too narrow"):
        open_images(tmp_path, "unit", ports, {}, None).take(1)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP", "PPM", "WEBP", "JPEG"])
def test_a_damaged_picture_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    out, rng = io.BytesIO(), np.random.default_rng(0)
    image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).save(out, kind)
    for _ in range(40):
        content = bytearray(out.getvalue())
        for at in rng.integers(0, min(len(content), 300), 3):
            content[at] = rng.integers(0, 256)
        (tmp_path / "a.png").write_bytes(content)
        with suppress(DataError):
            assert open_images(tmp_path, "unit", PORTS, {}, None).take(1)


def test_a_tensor_file_of_inputs_reads_no_other_file(tmp_path: Path) -> None:
    tensor = TensorProto(name="x", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret")
    (tmp_path / "secret").write_bytes(b"\0" * 16)
    (tmp_path / "input_0.pb").write_bytes(tensor.SerializeToString())
    with pytest.raises(DataError, match="lies in another file"):
        open_inputs([tmp_path], PORTS).take(1)


@pytest.mark.parametrize("kind", ["sequence", "optional"])
def test_a_sequence_of_inputs_reads_no_other_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = TensorProto(name="x", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret")
    (tmp_path / "secret").write_bytes(b"\0" * 16)
    monkeypatch.chdir(tmp_path)
    value = SequenceProto(elem_type=1, tensor_values=[tensor])
    if kind == "optional":
        value = OptionalProto(elem_type=3, sequence_value=value)
    (tmp_path / "v.pb").write_bytes(value.SerializeToString())
    with pytest.raises(DataError, match="lies in another file"):
        read_value(tmp_path / "v.pb", kind)


def test_onnxruntime_keeps_no_list_of_events(tmp_path: Path) -> None:
    environment: dict[str, Any] = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    code = "from converter.runtime.providers import import_onnxruntime; import_onnxruntime()"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=Path.cwd())
    assert not list(tmp_path.rglob("*"))


def test_the_budget_is_above_what_anybody_feeds(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((40, 3, 8, 8), np.float32))
    assert len(open_inputs([tmp_path / "x.npz"], PORTS).take(3)) == 3
