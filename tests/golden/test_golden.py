"""What users see, as files: every kind of report of every command, compared with what is stored in ``files/``.

Everything goes through the command line, so that nothing here depends on how the package is laid out.
``BIASOPT_GOLDEN=write python -m pytest tests/golden`` stores what there is now; read the difference before you commit.

Three ways make a report the same on every machine:

* `report` makes it again from a document in ``inputs/``, which a run of biasopt once wrote (timings and all). Nothing
  in it is scrubbed: every digit and every space counts.
* Runs of fold, verify, inspect, lint, export and replay go through `scrubbed`, which masks what was measured.
* `ablate` and `study` cannot be made again, so they run (the study from stored rows, without training), and their
  numbers may be off by a little: see `near`.
"""

from __future__ import annotations

import difflib
import io
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import cli

HERE = Path(__file__).parent
INPUTS, FILES, MODELS = HERE / "inputs", HERE / "files", HERE.parents[1] / "models"
WRITE = os.environ.get("BIASOPT_GOLDEN") == "write"
SUFFIX = {"text": "txt", "md": "md", "html": "html", "junit": "xml", "json": "json"}
NAMES = {"text": "report.txt", "md": "report.md", "html": "report.html", "junit": "report.xml", "json": "report.json"}

BN, PLAIN, MOBILE = "digits_cnn_bn.onnx", "digits_cnn_plain_bn.onnx", "digits_mobilenet.onnx"


# ---- running -----------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stdout that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Shell:
    """Runs ``biasopt`` in a folder of its own, which holds the inputs under names without a path."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> None:
        self.folder, self._patch, self._captured = folder, patch, captured

    def run(self, line: str, *, terminal: bool = False) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of one command line."""
        self._patch.setattr(sys, "argv", ["biasopt", *line.split()])
        self._captured.readouterr()
        screen = Terminal()
        with self._patch.context() as patch:
            if terminal:
                patch.setattr(sys, "stdout", screen)
            with pytest.raises(SystemExit) as ended:
                cli.main()
        out, err = self._captured.readouterr()
        return int(ended.value.code or 0), screen.getvalue() if terminal else out, err

    def session(self, line: str) -> str:
        """A command line, and all that it answers."""
        code, out, err = self.run(line)
        return f"$ biasopt {line}\n{out}" + (f"--- stderr\n{err}" if err else "") + f"--- exit code {code}\n"

    def reports(self, line: str, folder: str, forms: Iterable[str]) -> dict[str, str]:
        """Run a command that writes reports, and read them."""
        code, _, err = self.run(line)
        assert "this is a bug" not in err, err
        assert code in (0, 1, 4), err
        return {form: (self.folder / folder / NAMES[form]).read_text(encoding="utf-8") for form in forms}


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    for name in (BN, PLAIN, MOBILE):
        shutil.copy(MODELS / name, tmp_path)
    shutil.copytree(INPUTS, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "NO_COLOR", "COLORTERM", "LINES", "GITHUB_ACTIONS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    return Shell(tmp_path, monkeypatch, capsys)


def wrong(path: str) -> None:
    """Write a copy of a model in which one bias is off by a quarter."""
    model = onnx.load(MODELS / BN)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "12.bias")
    values = numpy_helper.to_array(bias) + np.float32(0.25) * (np.arange(10) == 3)
    bias.CopyFrom(numpy_helper.from_array(values.astype(np.float32), bias.name))
    onnx.save(model, path)


# ---- scrubbing and comparing -------------------------------------------------------------------------

# What differs from machine to machine, run to run or release to release, as text.
MASKS = (
    (r"\b[0-9a-f]{64}\b", "<sha256>"),
    (r"\b(biasopt|python|torch|numpy|onnx|onnxruntime) \d+\.\d[\w.+]*", r"\1 <version>"),
    (r"(Ran on +\S+, onnxruntime <version>), .+", r"\1, <machine>"),
    (r"\b(output_change|gradient_ratio): \S+", r"\1: #"),
    (r"[\d.]+ minutes on the clock, [\d.]+ of processor time", "<time>"),
)
# What is measured, as text: numbers with a point, a power of ten or thousands. Sizes of files are none.
MEASURED = (
    (r"(?<![\w.,])\d[\d.,]* (ns|us|ms|s)\b", "<time>"),
    (r"(?<![\w.,])-?\d[\d,]*(\.\d+(e[+-]?\d+)?|e[+-]?\d+)(?![\d.]| k?B\b)", "#"),
    (r"(?<![\w.,])\d{1,3}(,\d{3})+(?![\d.])", "#"),
    (r"\b\d+(?= x the original)", "#"),  # a ratio that came out as a whole number
    (r"(?<=\S) {2,}", "  "),  # columns are as wide as their numbers
)
# In JSON: fields that are of the machine, and floats that are given, not measured.
OF_THE_MACHINE = {"versions", "ort_dists", "machine", "gpu", "hist_log10_abs", "noise", "seconds", "cpu_seconds"}
OF_THE_MACHINE |= {"version", "semanticVersion", "torch", "mismatches", "channel", "furthest_input"}
GIVEN = {"limit", "margin", "alpha", "budget"}


def masked(text: str, masks: Iterable[tuple[str, str]]) -> str:
    for pattern, mask in masks:
        text = re.sub(pattern, mask, text)
    return text


def scrubbed(text: str, *, measured: bool = True) -> str:
    """The text without what depends on the machine; ``measured``: without what was measured, either."""
    text = masked(text.replace(str(Path.cwd()), "<cwd>").replace(platform.platform(), "<machine>"), MASKS)
    return masked(text, MEASURED) if measured else text


def scrubbed_json(text: str, *, measured: bool = True) -> str:
    """The same of JSON, where the fields say more than the numbers do."""

    def walk(value: Any, key: str) -> Any:
        if key in OF_THE_MACHINE and value is not None and not (key == "version" and value == "2.1.0"):  # of SARIF
            return f"<{key}>"
        if isinstance(value, dict):
            return {name: walk(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner, key) for inner in value]
        if isinstance(value, float) and measured and key not in GIVEN:
            return "#"
        if key.startswith("biasoptParameter"):  # SARIF's fingerprint, by which a service knows a finding again
            return value
        return scrubbed(value, measured=measured) if isinstance(value, str) else value

    return json.dumps(walk(json.loads(text), ""), indent=1, ensure_ascii=False) + "\n"


def paragraphs(text: str) -> str:
    """The text with a line for each paragraph, without times: where lines break depends on how long numbers were."""
    parts = re.split(r"\n\s*\n|\n(?=---)", text.replace("<time>", ""))
    return "\n".join(" ".join(part.split()) for part in parts) + "\n"


def bare(page: str) -> str:
    """A page without its style and its script, which are the same on all of one kind."""
    return re.sub(r"<(style|script)>.*?</\1>", r"<\1>…</\1>", page, flags=re.DOTALL)


def near(got: str, want: str) -> bool:
    """The same words and whole numbers; others may differ by 0.2 % or by one in the last place that is shown."""
    number = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"

    def close(a: str, b: str) -> bool:
        off = abs(float(a) - float(b))
        return a == b or ("." in b and off <= 0.002 * abs(float(b)) + 1.01 * 10.0 ** -len(b.partition(".")[2]))

    if re.sub(number, "#", got).split() != re.sub(number, "#", want).split():
        return False
    return all(map(close, re.findall(number, got), re.findall(number, want)))


def check(name: str, got: str, *, loosely: bool = False) -> None:
    """Compare with the stored file, or store it."""
    file = FILES / name
    if WRITE:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(got, encoding="utf-8", newline="\n")
        return
    want = file.read_text(encoding="utf-8") if file.exists() else ""
    if got == want or (loosely and near(got, want)):
        return
    lines = difflib.unified_diff(want.splitlines(), got.splitlines(), f"stored/{name}", f"now/{name}", lineterm="")
    pytest.fail("\n".join([*lines, "(BIASOPT_GOLDEN=write stores what there is now)"]), pytrace=False)


# ---- from stored documents: every digit --------------------------------------------------------------

STORED = ("fold", "fold-removal", "verify-pass", "verify-fail", "verify-inconclusive", "bench")


@pytest.mark.parametrize("form", ["text", "md", "html", "junit"])
@pytest.mark.parametrize("name", STORED)
def test_a_stored_document_reads_the_same(shell: Shell, name: str, form: str) -> None:
    code, out, err = shell.run(f"report {name}.json --formats {form}")
    assert (code, err) == (0, "")
    check(f"{name}.{SUFFIX[form]}", bare(out) if form == "html" and name != "verify-fail" else out)


@pytest.mark.parametrize("name", STORED)
def test_a_stored_document_is_given_back_as_it_is(shell: Shell, name: str) -> None:
    assert shell.run(f"report {name}.json --formats json") == (0, (INPUTS / f"{name}.json").read_text("utf-8"), "")


@pytest.mark.parametrize("name", STORED)
def test_a_stored_document_on_a_terminal(shell: Shell, name: str) -> None:
    code, out, err = shell.run(f"report {name}.json -v", terminal=True)
    assert (code, err) == (0, "")
    check(f"{name}.terminal.txt", out.replace("\x1b", "␛"))


@pytest.mark.parametrize(
    ("name", "limits"),
    [("verify-pass", "--max-ratio 0.5"), ("verify-fail", "--max-algebra 1e9 --max-ratio 1e9"), ("bench", "--margin 0")],
)
def test_a_stored_document_judged_again(shell: Shell, name: str, limits: str) -> None:
    check(f"{name}.rejudged.txt", shell.session(f"report {name}.json --rethreshold {limits}"))


# ---- runs: all but what is measured ------------------------------------------------------------------


def test_fold(shell: Shell) -> None:
    line = f"fold {BN} -o folded.onnx --max-time 600 --max-memory 1GB"
    reports = shell.reports(f"{line} --report out --formats json,md,html,junit,text", "out", SUFFIX)
    check("run/fold.json", scrubbed_json(reports["json"]))
    for form in SUFFIX:  # what is written is what `report` makes of it
        assert shell.run(f"report out/report.json --formats {form} -v")[0] == 0
        assert shell.run(f"report out/report.json --formats {form}")[1].split() == reports[form].split()
    check("run/fold.txt", scrubbed(shell.session(f"{line} --force -v")))
    check("run/fold-refused.txt", scrubbed(shell.session(line)))


def test_fold_that_removes_biases(shell: Shell) -> None:
    given = "--allow remove-biases --inputs data.py:images --accuracy-margin 15% --max-memory 1GB"
    line = f"fold {PLAIN} -o folded.onnx {given}"
    check("run/fold-removal.txt", scrubbed(shell.session(line)))


@pytest.mark.parametrize("model", [BN, PLAIN, MOBILE])
def test_inspect(shell: Shell, model: str) -> None:
    stem = model.removesuffix(".onnx")
    check(f"run/inspect-{stem}.txt", scrubbed(shell.session(f"inspect {model} --fates -v"), measured=False))
    check(f"run/inspect-{stem}.json", scrubbed_json(shell.run(f"inspect {model} --json")[1], measured=False))


@pytest.mark.parametrize(("model", "node"), [(BN, "/0/Conv"), (BN, "/12/Gemm"), (MOBILE, "/3/body/body.6/Conv")])
def test_explain(shell: Shell, model: str, node: str) -> None:
    name = f"run/explain-{model.removesuffix('.onnx')}-{re.sub(r'[^0-9A-Za-z]+', '-', node).strip('-')}"
    check(f"{name}.txt", scrubbed(shell.session(f"inspect {model} --explain {node}"), measured=False))
    code, out, _ = shell.run(f"inspect {model} --explain {node} --json")
    if code == 0:
        check(f"{name}.json", scrubbed_json(out, measured=False))


@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive"])
def test_verify(shell: Shell, verdict: str) -> None:
    assert shell.run(f"fold {BN} -o folded.onnx -q --no-verify")[0] == 0
    wrong("wrong.onnx")
    b = "wrong.onnx" if verdict == "fail" else "folded.onnx"
    asked = {"pass": "", "fail": "--bisect", "inconclusive": "--inputs data.py:images --accuracy-margin 0.1%"}[verdict]
    line = f"verify {BN} {b} {asked} --max-time 600 --max-memory 1GB --report out --formats json"
    check(f"run/verify-{verdict}.txt", paragraphs(scrubbed(shell.session(" ".join(line.split())))))
    check(f"run/verify-{verdict}.json", scrubbed_json((shell.folder / "out/report.json").read_text("utf-8")))


def test_replay(shell: Shell) -> None:
    assert shell.run(f"fold {BN} -o folded.onnx -q --no-verify --certificate cert.json")[0] == 0
    check("run/replay.txt", scrubbed(shell.session(f"replay {BN} cert.json -o again.onnx -v")))
    check("run/replay.json", scrubbed_json(shell.run(f"replay {BN} cert.json --json")[1]))
    check("run/replay-of-another.txt", scrubbed(shell.session(f"replay {PLAIN} cert.json")))


def test_lint(shell: Shell) -> None:
    pytest.importorskip("torch")
    line = "lint nets.py:small --shape x=2,1,8,8"
    check("run/lint.txt", scrubbed(shell.session(f"{line} --gate bias-before-batch-norm -v"), measured=False))
    check("run/lint.github.txt", scrubbed(shell.session(f"{line} --github"), measured=False))
    for form in ("json", "sarif"):
        check(f"run/lint-{form}.json", scrubbed_json(shell.run(f"{line} --{form}")[1]))


def test_lint_fix(shell: Shell) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("libcst")
    check("run/lint.fix.txt", scrubbed(shell.session("lint nets.py:small --shape x=2,1,8,8 --fix"), measured=False))


@pytest.mark.filterwarnings("ignore")  # torch's own
def test_export(shell: Shell) -> None:
    pytest.importorskip("torch")
    line = "export nets.py:small --shape x=2,1,8,8 -o small.onnx --opset 18 --exporter torchscript"
    check("run/export.txt", scrubbed(shell.session(f"{line} --fold")))
    check("run/export.json", scrubbed_json(shell.run(f"{line} --force --json")[1]))


# ---- runs whose numbers are the finding --------------------------------------------------------------


def test_ablate(shell: Shell) -> None:
    line = f"ablate {BN} --inputs data.py:images --max-time 600 --max-memory 1GB"
    reports = shell.reports(f"{line} --report out --formats json,md,html,text", "out", ("json", "md", "html", "text"))
    check("ablate.json", scrubbed_json(reports["json"], measured=False), loosely=True)
    for form in ("md", "html", "text"):
        check(f"ablate.{SUFFIX[form]}", bare(scrubbed(reports[form], measured=False)), loosely=True)
    check("ablate.top.txt", scrubbed(shell.session(f"{line} --top 2"), measured=False), loosely=True)


def test_study(shell: Shell) -> None:
    """From stored rows: they are all that the study needs, so that nothing is trained."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    line = "study --quick --seeds 2 --jobs 1 --max-time 600 --out study-rows --report out --formats json,md,html,text"
    reports = shell.reports(line, "out", ("json", "md", "html", "text"))
    run = json.loads(reports["json"])["run"]
    assert run["resumed"] == run["jobs"], "rows are missing from inputs/study-rows: record them anew"
    check("study.json", scrubbed_json(reports["json"], measured=False), loosely=True)
    for form in ("md", "html", "text"):
        check(f"study.{SUFFIX[form]}", bare(scrubbed(reports[form], measured=False)), loosely=True)
