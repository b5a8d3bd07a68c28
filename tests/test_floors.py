"""The oldest libraries that are allowed, and the newest: both fold the same bytes; and what is needed for what."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import ml_dtypes
import onnx
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import biasopt
from tests import tiny

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = (ROOT / "floors.txt").read_text(encoding="utf-8").splitlines()
FLOORS = dict(line.split("==") for line in LINES if line and not line.startswith("#"))
MODELS = sorted((ROOT / "models").glob("*.onnx"))
CORPUS = sorted(Path(os.environ["BIASOPT_CORPUS"]).glob("*.onnx")) if "BIASOPT_CORPUS" in os.environ else []
# What keeps modules from being there, whatever is installed.
WITHOUT = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
sys.path.insert(0, {root!r})
"""


def digest_folds() -> dict[str, str]:
    """What each model of models/ and of the corpus becomes, as a digest."""
    models: dict[str, Path | bytes] = {f"{path.parent.name}/{path.name}": path for path in (*MODELS, *CORPUS)}
    models |= {name: _conv_bn(name).SerializeToString() for name in ("float16", "bfloat16", "float64")}
    found = {name: biasopt.fold(model, verify=False) for name, model in models.items()}
    assert all(len(found[name].rewrites) == 1 for name in ("float16", "bfloat16", "float64"))
    return {name: hashlib.sha256(result.to_bytes()).hexdigest() for name, result in found.items()}


def _conv_bn(dtype: str) -> onnx.ModelProto:
    """A small model of one type, to which the oldest onnx has another name."""
    draw = tiny.Draw(getattr(ml_dtypes, dtype, dtype))
    x, y = tiny.X.replace("float", dtype), tiny.Y.replace("float", dtype)
    text = f"{x} => {y} {{ c = Conv(x, w) y = BatchNormalization(c, g, be, m, v) }}".replace("float64", "double")
    return tiny.model(text, draw.conv(5, 3, 3, 3) | draw.bn(5))


def run(code: str, python: str = sys.executable, *without: str) -> str:
    start = WITHOUT.format(names=without, root=str(ROOT))
    done = subprocess.run([python, "-c", start + code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_floors_are_the_lowest_versions_that_the_project_allows() -> None:
    needs = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"])]
    lowest = {need.name: next((s.version for s in need.specifier if s.operator == ">="), "") for need in needs}
    lowest = {name: version for name, version in lowest.items() if name not in ("onnxruntime-gpu", "pip", "setuptools")}
    assert FLOORS.keys() == lowest.keys()
    for name, version in lowest.items():
        wanted = Version(version).release
        assert Version(FLOORS[name]).release[: len(wanted)] == wanted, name


def test_core_needs_few_libraries() -> None:
    names = {Requirement(text).name for text in PROJECT["dependencies"]}
    runtime = {"onnxruntime", "onnxruntime-gpu", "numpy", "onnx", "onnx-graphsurgeon", "ml_dtypes"}
    assert names - runtime == {"click", "rich", "jinja2", "msgspec", "scipy"}


@pytest.mark.skipif(
    "BIASOPT_NEWEST" not in os.environ, reason="`make floors` compares: BIASOPT_NEWEST names the Python"
)
def test_folded_files_are_the_same_bytes_as_with_the_newest_libraries() -> None:
    code = "import json; from tests import onnx_text; onnx_text.install()\n"
    code += "from tests.test_floors import digest_folds; print(json.dumps(digest_folds()))"
    newest = Path(os.environ["BIASOPT_NEWEST"])
    theirs = json.loads(run(code, str(newest if newest.is_absolute() else ROOT / newest)))
    assert len(theirs) == len(MODELS) + len(CORPUS) + 3 >= 8
    assert digest_folds() == theirs


def test_folding_needs_no_onnxruntime() -> None:
    code = (
        "import biasopt, onnx\nresult = biasopt.fold(onnx.load('models/digits_cnn_bn.onnx'), verify=False)\n"
        "print(type(result.model).__name__, len(result.rewrites) > 0)"
    )
    assert run(code, sys.executable, "onnxruntime", "scipy", "torch").split() == ["ModelProto", "True"]


def test_the_command_folds_without_onnxruntime_and_says_what_the_check_needs(tmp_path: Path) -> None:
    argv = ["fold", "models/digits_cnn_bn.onnx", "-o", str(tmp_path / "o.onnx"), "-q"]
    call = f"import cli; print(cli.run([*{argv!r}, {{!r}}]))"
    assert run(call.format("--no-verify"), sys.executable, "onnxruntime", "scipy").strip() == "0"
    assert (tmp_path / "o.onnx").exists()
    start = WITHOUT.format(names=("onnxruntime",), root=str(ROOT))
    code = start + call.format("--force")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip() == "3"
    assert "install" in done.stderr


def test_a_checked_fold_needs_no_scipy() -> None:
    code = "import biasopt\nprint(biasopt.fold('models/digits_cnn_bn.onnx').parity.verdict)"
    assert run(code, sys.executable, "scipy", "torch").strip() == "PASS"
