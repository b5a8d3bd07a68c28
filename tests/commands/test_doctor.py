"""``biasopt doctor``: it tells what works, ends with 0 or 3, takes little time and never raises."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cli
from converter.records.results import LibraryState
from converter.report import documents, serialize
from converter.report.content.doctor import doctor_report
from converter.report.render.text import render_text
from converter.runtime import failures, machine
from tests.runtime import cuda_stub

ROOT = Path(__file__).parents[2]


def test_the_cpu_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "cpu works." in out
    for text in ("biasopt", "onnxruntime", "numpy", "cuda", "tensorrt"):
        assert text in out


def test_a_provider_that_does_not_work_ends_with_3(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.run(["doctor", "--provider", "tensorrt", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == found["exit_code"] == (0 if found["works"] else 3)
    assert found["schema"] == "biasopt.doctor/1"
    assert {each["name"] for each in found["providers"]} == {"cpu", "cuda", "tensorrt"}
    assert found["works"] or any("pip install" in text or "--provider" in text for text in found["advice"])


def test_it_is_quick(tmp_path: Path) -> None:
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "doctor"], capture_output=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime
    assert used < 3  # seconds of a core; those of the clock depend on what else runs


def test_it_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **keywords: Any) -> Any:
        raise OSError("everything is broken")

    for name in ("Session", "list_gpus", "preload_cuda", "preload_tensorrt"):
        monkeypatch.setattr(machine, name, broken)
    found = machine.take_inventory("cpu")
    assert found.works is False
    assert all("everything is broken" in each.reason for each in found.providers)
    assert found.gpus == ()
    serialize.convert(documents.doctor_document(found), serialize.DoctorDocument)
    assert "cpu does not work." in render_text(doctor_report(found))


def test_every_gpu_is_shown() -> None:
    gpus = ({"name": "NVIDIA H200", "uuid": "GPU-1", "driver": "600.1", "ecc": "on"}, {"name": "NVIDIA L4"})
    said = render_text(doctor_report(replace(machine.take_inventory("cpu"), gpus=gpus)))
    assert "GPU 0" in said
    assert "NVIDIA H200, GPU-1, driver 600.1, ecc on" in said
    assert "GPU 1" in said


def test_no_advice_is_to_install_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every package there, whatever is missing of their libraries."""
    for module in (machine, failures):
        monkeypatch.setattr(module, "is_installed", lambda package: True)
    monkeypatch.setattr(
        machine, "_find_library", lambda name: LibraryState(name, reason=f"{name}: cannot open shared object file")
    )
    found = machine.take_inventory("tensorrt")
    if not found.works:
        said = " ".join(found.advice)
        assert "pip install 'biasopt[" not in said
        assert "--force-reinstall" in said


def test_libraries_are_found_where_they_are(tmp_path: Path) -> None:
    env = cuda_stub.build_stubs(tmp_path / "stub", 0, leave_out=("libcurand.",)) | {"PYTHONPATH": str(ROOT)}
    code = (
        "import json; from converter.runtime.machine import take_inventory; from converter.report.documents import "
        "doctor_document; print(json.dumps(doctor_document(take_inventory('cuda'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    found = {each["name"]: each for each in json.loads(done.stdout)["libraries"]}
    assert found["libcublas.so.13"]["path"] == str(tmp_path / "stub" / "libcublas.so.13")
    if not found["libcurand.so.10"]["path"]:
        assert found["libcurand.so.10"]["reason"].startswith("libcurand.so.10: ")
        assert any("biasopt[cuda]" in text for text in json.loads(done.stdout)["advice"])
