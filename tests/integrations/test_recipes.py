"""Other tools: Olive's pass, and the recipes of docs/recipes.md, where their packages are installed; the tutorial."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import onnx
import pytest

import cli
from converter.errors import ModelError
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def test_olive_finds_and_runs_the_pass(tmp_path: Path) -> None:
    pytest.importorskip("olive", reason="olive-ai is not installed")
    from biasopt.integrations.olive import BiasoptFold, write_package_config
    from olive.model import ONNXModelHandler
    from olive.package_config import OlivePackageConfig
    from olive.passes.olive_pass import create_pass_from_dict

    path = write_package_config(tmp_path / "package.json")
    config = OlivePackageConfig.parse_file_or_obj(path)
    assert config.import_pass_module("BiasoptFold") is BiasoptFold
    onnx.save(tiny.conv_bn(), tmp_path / "m.onnx")
    made = create_pass_from_dict(BiasoptFold, {"verify": True}, disable_search=True)
    folded = made.run(ONNXModelHandler(str(tmp_path / "m.onnx")), str(tmp_path / "out"))
    assert [node.op_type for node in onnx.load(folded.model_path).graph.node] == ["Conv"]


@pytest.fixture
def olive_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the pass, beside what it takes of Olive where Olive is not installed."""
    taken = {
        "olive": {"__file__": str(tmp_path / "olive" / "__init__.py")},
        "olive.hardware.accelerator": {"AcceleratorSpec": object},
        "olive.model": {"ONNXModelHandler": SimpleNamespace},
        "olive.model.utils": {"resolve_onnx_path": lambda folder, name: Path(folder) / name},
        "olive.passes": {"Pass": object},
        "olive.passes.pass_config": {"BasePassConfig": object, "PassConfigParam": dict},
    }
    for name, values in taken.items():
        made = ModuleType(name)
        made.__dict__.update(values)
        monkeypatch.setitem(sys.modules, name, made)
    (tmp_path / "olive").mkdir()
    (tmp_path / "olive" / "olive_config.json").write_text('{"passes": {"Theirs": {}}}')
    monkeypatch.delitem(sys.modules, "converter.integrations.olive", raising=False)
    made = importlib.import_module("converter.integrations.olive")
    monkeypatch.setitem(sys.modules, "converter.integrations.olive", made)
    return made


def test_a_package_config_replaces_a_link_and_never_writes_through_it(olive_pass: ModuleType, tmp_path: Path) -> None:
    letter, config = tmp_path / "letter", tmp_path / "package.json"
    letter.write_text("dear")
    config.symlink_to(letter)
    assert olive_pass.write_package_config(config) == config
    assert letter.read_text() == "dear"
    assert not config.is_symlink()
    passes = json.loads(config.read_text())["passes"]
    assert passes["Theirs"] == {}
    assert passes["BiasoptFold"]["module_path"] == "biasopt.integrations.olive.BiasoptFold"


def test_the_pass_folds_to_where_it_is_told_and_fails_where_outputs_differ(
    olive_pass: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(tiny.conv_bn(), tmp_path / "m.onnx")
    asked = SimpleNamespace(verify=False, freeze_overridable=False, keep_bn=False, skip=[])
    model = SimpleNamespace(model_path=str(tmp_path / "m.onnx"), model_attributes={"a": 1})
    made = olive_pass.BiasoptFold()._run_for_config(model, asked, str(tmp_path / "out"))
    assert [node.op_type for node in onnx.load(made.model_path).graph.node] == ["Conv"]
    assert made.model_attributes == {"a": 1}
    parity = SimpleNamespace(verdict="FAIL", why="the outputs differ")
    monkeypatch.setattr("biasopt.fold", lambda *_, **__: SimpleNamespace(exit_code=1, parity=parity))
    with pytest.raises(ModelError, match="not folded, FAIL: the outputs differ"):
        olive_pass.BiasoptFold()._run_for_config(model, asked, str(tmp_path / "again"))


def test_the_pass_asks_for_keywords_that_fold_has() -> None:
    """Read, since Olive need not be installed."""
    import inspect

    import biasopt

    text = (ROOT / "converter" / "integrations" / "olive.py").read_text(encoding="utf-8")
    named = re.findall(r'^    "(\w+)": \((?:bool|list),', text, re.MULTILINE)
    assert len(named) == 4
    assert set(named) <= set(inspect.signature(biasopt.fold).parameters)


def test_mlflow_and_wandb_get_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's own lines, with a stand-in where MLflow is not installed."""
    monkeypatch.chdir(tmp_path)
    onnx.save(tiny.conv_bn(), "m.onnx")
    assert cli.run(["fold", "m.onnx", "-q", "--report", "report", "--formats", "json,metrics"]) == 0
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", RECIPES, re.DOTALL) if "mlflow" in text)
    logged: dict[str, float] = {}

    class StandIn:
        @staticmethod
        def log_metrics(metrics: dict[str, float]) -> None:
            logged.update(metrics)

    exec(compile(block, "recipes.md", "exec"), {"mlflow": StandIn})
    assert logged["parity/passed"] == 1


def test_dvc_and_kubeflow_call_commands_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    monkeypatch.chdir(tmp_path)
    onnx.save(tiny.conv_bn(), "model.onnx")
    blocks = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", RECIPES, re.DOTALL)]
    stage = next(block["stages"]["fold"] for block in blocks if isinstance(block, dict))
    assert cli.run(stage["cmd"].split()[1:]) == 0
    assert all(Path(name).exists() for name in [*stage["deps"], *stage["outs"], *stage["metrics"][0]])
    step = next(block[0]["container"] for block in blocks if isinstance(block, list))
    argv = [word.replace("/data", ".") for word in step["args"]]
    assert cli.run(argv) == 0
    assert json.loads(Path("report/metrics.json").read_text())["exit_code"] == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_the_tutorial_runs_from_its_first_line_to_its_last(tmp_path: Path) -> None:
    for name in ("torch", "onnxscript", "libcst"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    for title, text in re.findall(r'```python title="(\w+\.py)"\n(.*?)```', TUTORIAL, re.DOTALL):
        (tmp_path / title).write_text(text, encoding="utf-8")
    script = "\n".join(re.findall(r"```sh\n(.*?)```", TUTORIAL, re.DOTALL))
    shims = (
        f'biasopt() {{ "{sys.executable}" "{ROOT / "biasopt.py"}" "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n'
    )
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shims + script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "models" / "net" / "1" / "model.onnx").is_file()
    assert "bias-before-batch-norm" in done.stdout
    assert "The certificate holds." in done.stdout
