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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from converter.errors import DataError
from converter.referee.inputs.files import open_inputs, read_labels
from converter.referee.inputs.images import open_images
from converter.referee.proto.source import Port

PORTS = {"x": Port("x", "tensor", TensorProto.FLOAT, (1, 3, 8, 8))}


def npy(shape: str, data: bytes = b"") -> bytes:
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (64 - (len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + data


def packed(content: bytes, name: str = "x.npy") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return out.getvalue()


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
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


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


def test_a_tensor_file_of_inputs_reads_no_other_file(tmp_path: Path) -> None:
    tensor = TensorProto(name="x", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret")
    (tmp_path / "secret").write_bytes(b"\0" * 16)
    (tmp_path / "input_0.pb").write_bytes(tensor.SerializeToString())
    with pytest.raises(DataError, match="lies in another file"):
        open_inputs([tmp_path], PORTS).take(1)


def test_onnxruntime_keeps_no_list_of_events(tmp_path: Path) -> None:
    environment: dict[str, Any] = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    code = "from converter.runtime.providers import import_onnxruntime; import_onnxruntime()"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=Path.cwd())
    assert not list(tmp_path.rglob("*"))


def test_the_budget_is_above_what_anybody_feeds(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((40, 3, 8, 8), np.float32))
    assert len(open_inputs([tmp_path / "x.npz"], PORTS).take(3)) == 3
