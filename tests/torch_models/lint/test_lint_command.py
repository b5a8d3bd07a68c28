"""``biasopt lint`` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import cli
from tests.torch_models.lint import nets
from tests.torch_models.lint.nets import UNet, scrambled

ROOT = Path(__file__).resolve().parents[3]
SPEC = f"{Path(nets.__file__).as_posix()}:UNet"
GIVEN = (SPEC, "--input", "1,3,16,16")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lint(*argv: str | Path) -> int:
    return cli.run(["lint", *map(str, argv)])


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ((), 0),
        (("--fail-on", "any"), 1),
        (("--fail-on", "attention-key-bias,bias-before-batch-norm"), 1),
        (("--fail-on", "attention-key-bias"), 0),
    ],
)
def test_exit_codes(more: tuple[str, ...], code: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(*GIVEN, *more) == code
    assert "34 parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--fail-on", "nonsense"), "'nonsense' is no code of lint"),
        (("--json", "--sarif"), "exclude each other"),
        (("--write",), "--write goes with --fix"),
    ],
)
def test_usage(more: tuple[str, ...], said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(*GIVEN, *more) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_json_and_sarif_are_documents(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(*GIVEN, "--json", "--fail-on", "any") == 1
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["exit_code"]) == ("biasopt.lint/1", 1)
    assert lint(*GIVEN, "--sarif") == 0
    assert len(json.loads(capsys.readouterr().out)["runs"][0]["results"]) == 6


def test_untraceable_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(SPEC, "--input", "1,4,16,16") == 3
    err = capsys.readouterr().err
    assert err.startswith("biasopt: error: ")
    assert err.count("\n") == 1


def test_fix_is_a_dry_run_until_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("libcst", reason="libcst is not installed")
    copy = folder / "mine.py"
    copy.write_text(Path(nets.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    before = copy.read_bytes()
    assert lint("mine.py:UNet", "--input", "1,3,16,16", "--fix") == 0
    diff = capsys.readouterr().out
    assert copy.read_bytes() == before
    assert "+        nn.Conv2d(i, o, 3, padding=1, bias=False)," in diff
    assert lint("mine.py:UNet", "--input", "1,3,16,16", "--fix", "--write") == 0
    said = capsys.readouterr()
    assert said.err.index("written") < said.err.index("old checkpoints no longer fit: take the fix back")
    assert said.out == diff
    assert lint("mine.py:UNet", "--input", "1,3,16,16", "--fail-on", "any") == 0


def test_checkpoint_is_made_to_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = scrambled(UNet()).eval()
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state, "optimizer": {"lr": torch.tensor(0.1)}, "epoch": 3}, "in.pt")
    assert lint(*GIVEN, "--fix-checkpoint", "in.pt", "out.pt") == 0
    assert "34 parameters removed; the running means of 6 norms adjusted" in capsys.readouterr().err
    found = torch.load("out.pt", weights_only=True)
    assert set(found) == {"state_dict", "epoch"}
    less = UNet().eval()
    for part in (less.a, less.b, less.c):
        part[0].bias = part[3].bias = None
    less.load_state_dict({key.removeprefix("module."): value for key, value in found["state_dict"].items()})
    x = torch.randn(2, 3, 16, 16)
    assert torch.allclose(net(x), less(x), atol=1e-5)
    assert [path.name for path in folder.iterdir()].count("out.pt") == 1
    assert not list(folder.glob(".*"))


def test_checkpoint_never_overwrites(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(UNet().state_dict(), "in.pt")
    Path("out.pt").write_text("mine", encoding="utf-8")
    assert lint(*GIVEN, "--fix-checkpoint", "in.pt", "out.pt") == 3
    assert "exists already" in capsys.readouterr().err
    assert Path("out.pt").read_text(encoding="utf-8") == "mine"
    assert lint(*GIVEN, "--fix-checkpoint", "in.pt", "out.pt", "--force") == 0
    assert torch.load("out.pt", weights_only=True)


@pytest.mark.parametrize("out", ["in.pt", "other_name.pt", "nets.py"])
def test_checkpoint_is_none_of_the_inputs(out: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(UNet().state_dict(), "in.pt")
    Path("other_name.pt").hardlink_to("in.pt")
    Path("nets.py").write_text("from tests.torch_models.lint.nets import UNet\n", encoding="utf-8")
    before = Path(out).read_bytes()
    argv = ["nets.py:UNet", *GIVEN[1:], "--fix-checkpoint", "in.pt", out, "--force"]
    assert lint(*argv) == 3
    assert "is the input itself" in capsys.readouterr().err
    assert Path(out).read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a.0.weight": torch.zeros(5)}, "lacks "),
        ({"x": 1}, "holds no state dict"),
        ({"model": UNet()}, "cannot be read as weights alone"),
    ],
)
def test_checkpoint_that_does_not_fit(
    content: object, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, "in.pt")
    assert lint(*GIVEN, "--fix-checkpoint", "in.pt", "out.pt") == 3
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not Path("out.pt").exists()


def test_safetensors_checkpoint(folder: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    safetensors.save_file(scrambled(UNet()).state_dict(), "in.safetensors")
    assert lint(*GIVEN, "--fix-checkpoint", "in.safetensors", "out.safetensors") == 0
    assert "a.0.bias" not in safetensors.load_file("out.safetensors")


def test_without_torch_one_line_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n", encoding="utf-8")
    paths = os.pathsep.join((str(tmp_path), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "biasopt", "lint", "torchvision:vgg11_bn"],
        env=os.environ | {"PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "pip install 'biasopt[torch]'" in done.stderr


def test_importing_the_package_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, converter, converter.torch_models.lint, converter.commands.lint; assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, check=False
    )
    assert done.returncode == 0
