"""A certificate from a stranger: what cannot be hashed or counted is one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import converter
from converter.errors import BiasoptError, DataError, ModelError
from tests.hostile.mutate import valid_models


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").write_bytes(valid_models()[0])
    return tmp_path / "m.onnx"


CHANGES: dict[str, Callable[[str], str]] = {
    "infinite": lambda text: text.replace('"steps": 1,', '"steps": 1e999,'),
    "deep": lambda text: text[:-1].rstrip("}\n ") + ', "more": ' + "[" * 900 + "]" * 900 + "}",
    "very deep": lambda text: "[" * 100_000,
    "surrogate": lambda text: text.replace('"schema"', '"more": "\\ud800", "schema"', 1),
}


@pytest.mark.parametrize("which", CHANGES)
def test_a_certificate_that_cannot_be_is_one_line(which: str, model: Path, tmp_path: Path) -> None:
    cert = tmp_path / "cert.json"
    converter.fold(model, out=tmp_path / "o.onnx", certificate=cert, verify=False)
    changed = CHANGES[which](cert.read_text())
    assert changed != cert.read_text()
    cert.write_text(changed)
    with pytest.raises(DataError) as caught:
        converter.replay_certificate(model, cert)
    assert "\n" not in str(caught.value)


def test_a_certificate_is_a_regular_file(model: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(BiasoptError, match=r"regular file|directory"):
            converter.replay_certificate(model, path)


def test_a_model_that_is_cut_short_while_it_is_open(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import converter.commands.fold as folding

    run = folding.pipeline.run

    def cut(*arguments: object, **options: object) -> object:
        found = run(*arguments, **options)  # type: ignore[arg-type]
        size = model.stat().st_size
        os.truncate(model, 40)
        with model.open("ab") as file:
            file.write(bytes(size - 40))  # still mapped to its end, and no message any more
        return found

    monkeypatch.setattr(folding.pipeline, "run", cut)
    with pytest.raises(ModelError, match="changed while it was being folded; nothing was written"):
        converter.fold(model, verify=False, out=model.with_name("o.onnx"))
    assert [p.name for p in model.parent.iterdir()] == ["m.onnx"]
