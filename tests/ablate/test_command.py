"""``biasopt ablate`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import cli
from tests.ablate.made import chain, draw, images
from tests.tiny import model


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(chain(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=images(40))
    (tmp_path / "labels.txt").write_text("\n".join(["3"] * 40))
    call = ["ablate", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "d.npz")]
    assert (
        cli.run([*call, "--labels", str(tmp_path / "labels.txt"), "--report", str(tmp_path / "r"), "--top", "2"]) == 0
    )
    said = capsys.readouterr().out
    assert "... and 2 more" in said
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["report.html", "report.json", "report.md"]
    assert cli.run([*call, "--json", "--no-compensate", "--only", "c"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "biasopt.ablate/1"
    assert not any(v["name"].startswith("compensate") for v in document["variants"])
    assert cli.run([*call, "-q"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ([], 2, "Give data"),
        (["--data", "d.npz", "--only", "nobody"], 2, "no bias is called"),
        (["--data", "none.npz"], 3, "there are no such inputs"),
        (["--data", "d.npz", "--labels", "none.npy"], 3, "give labels"),
        (["--data", "d.npz", "--images", "."], 3, "exclude each other"),
        (["--data", "d.npz", "--formats", "junit", "--report", "r"], 3, "no junit"),
    ],
)
def test_what_is_wrong_is_said(
    more: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(chain(), "m.onnx")
    np.savez("d.npz", x=images(20))
    assert cli.run(["ablate", "m.onnx", *more]) == code
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_question_on_one_net(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(chain(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=images(40))
    (tmp_path / "labels.txt").write_text("\n".join(["3"] * 40))
    call = ["ask", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "d.npz")]
    assert cli.run([*call, "--labels", str(tmp_path / "labels.txt"), "--report", str(tmp_path / "r")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Does bias make a difference in m.onnx?" in said
    assert "without any of its biases it would be right in" in said
    assert "Off the data" in said  # probed without being asked
    page = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert "What the study of small nets says" in page
    assert "The head keeps its bias." in page
    document = json.loads((tmp_path / "r" / "report.json").read_text(encoding="utf-8"))
    assert document["schema"] == "biasopt.ablate/1"
    counts = [found["biases"] for found in document["classes"].values() if found["biases"]]
    sentence = said[said.index("Of 4 biases, ") + len("Of 4 biases, ") :].split(". ")[0]
    assert [int(part.split()[0]) for part in sentence.split(", ")] == counts  # of every class that there is
    assert sum(counts) == 4
    assert {probe["kind"] for probe in document["probes"]} == {"contrast", "offset"}


def make_call(folder: Path) -> list[str]:
    paths = [str(folder / name) for name in ("m.onnx", "d.npz", "l.npy")]
    return ["ablate", paths[0], "--inputs", paths[1], "--labels", paths[2]]


@pytest.mark.parametrize("end", ["y = Flatten (k)", "f = Flatten (k) y = Sigmoid (f)"], ids=["logit", "probability"])
def test_a_net_with_one_score_has_labels(end: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"""(float[N,1,8,8] x) => (float[N,1] y) {{ h = Conv (x, w, b) r = Relu (h) g = GlobalAveragePool (r)
        k = Conv (g, u, c) {end} }}"""
    consts = {"w": draw(6, 1, 3, 3, seed=1), "b": draw(6, seed=2), "u": draw(1, 6, 1, 1, seed=3), "c": draw(1, seed=4)}
    onnx.save(model(text, consts), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=images(160))
    np.save(tmp_path / "l.npy", np.arange(160) % 2)
    call = make_call(tmp_path)
    assert cli.run([*call, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["output"] == {"name": "y", "decides": True}
    assert not any("decides between no classes" in said for said in found["warnings"])
    assert all(0 < each["effect"]["accuracy_before"] < 1 for each in found["biases"])
    assert {variant["effect"]["rows"] for variant in found["variants"]} == {80}


def test_maps_of_classes_show_their_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "(float[N,1,8,8] x) => (float[N,3,6,6] y) { h = Conv (x, w, b) r = Relu (h) y = Conv (r, u, c) }"
    consts = {"w": draw(6, 1, 3, 3, seed=1), "b": draw(6, seed=2), "u": draw(3, 6, 1, 1, seed=3), "c": draw(3, seed=4)}
    onnx.save(model(text, consts), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=images(140))
    np.save(tmp_path / "l.npy", np.random.default_rng(0).integers(0, 3, (140, 6, 6)))
    call = make_call(tmp_path)
    assert cli.run(call) == 0
    heads = [line.split() for line in capsys.readouterr().out.splitlines() if "error" in line.split()]
    assert all("accuracy" in head for head in heads)
    assert len(heads) == 2
