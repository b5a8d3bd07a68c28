"""The document and its forms, from a tiny run; and the command."""

from __future__ import annotations

import html.parser
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

import cli
from converter.commands.study import StudyResult
from converter.errors import BiasoptError
from converter.report import save, serialize
from converter.report.serialize import study_of
from converter.study import claims, data, plan, run
from converter.study.answer import summarize_study
from converter.study.plan import StudyScope
from tests.study import made
from tests.study.test_claims import BOTH, GOOD, ablation, capacity, depth, drift, mechanism, points, recall, widths

FOUND = (*GOOD, *widths({2: 3.0, 4: 0.0, 8: 0.0, 16: 0.0}), *recall({"1": (8, 7), "2": (8, 8)}), *points(),
         *ablation({4: 9.0, 64: 0.1}), *capacity(0.1), *depth(BOTH), *mechanism(), *drift())  # fmt: skip


def document(rows: tuple[dict, ...] = FOUND, left: tuple[str, ...] = ()) -> dict:
    facts = run._describe_run(run.RunOptions(), made.few_images())
    done = run.StudyRun(tuple(rows), 20, left, left, 0, 61.0, 120.0, facts)
    return summarize_study(done, 0.5, StudyResult, quick=False).document(["study", "--report", "x"])


@pytest.fixture(scope="module")
def said() -> dict:
    return document()


def test_document(said: dict) -> None:
    assert said["schema"] == "biasopt.study/1"
    assert said["exit_code"] == 0
    assert said["valid"] is True
    assert said["verdict"]["sentence"].startswith("On digits, biases in the convolutions change accuracy by less than")
    assert "from 4 channels on" in said["verdict"]["sentence"]
    assert "The head keeps its bias." in said["verdict"]["more"]
    assert "they are worth 9 points at 4 channels" in said["verdict"]["more"]
    assert "no net gets beyond chance (50 %)" in said["verdict"]["more"]
    assert len(said["rows"]) == len(FOUND)
    assert said["repro"]["cmd"] == "biasopt study --report x"
    assert json.loads(save.render_document(said, "json"))["claims"] == said["claims"]


def test_the_document_holds_the_record_by_its_schema(said: dict) -> None:
    document = json.loads(serialize.dumps(said))
    serialize.convert(document, serialize.StudyDocument)
    assert serialize.encode(study_of(document)).items() <= document.items()


def test_a_failed_control_comes_first_and_is_exit_1() -> None:
    rows = tuple(r | ({"accuracy": 60.0} if r.get("bias") == "none" else {}) for r in FOUND)
    found = document(rows)
    assert found["exit_code"] == 1
    assert found["verdict"]["sentence"] == "This run is invalid: a control failed."
    assert "hero fail" in save.render_document(found, "html")
    assert "FAILED" in save.render_document(found, "text")
    assert {claim["stamp"] for claim in found["claims"]} == {"NOT RUN"}  # what it says of them is nothing


def test_a_question_that_the_time_left_open_is_exit_4() -> None:
    found = document(tuple(GOOD), left=("widths",))
    assert found["verdict"]["sentence"] == "The main comparison was not run."
    assert found["exit_code"] == 4
    assert document(tuple(GOOD))["exit_code"] == 0  # only other blocks were asked for


def test_no_answer_is_said_to_be_none() -> None:
    found = document((*GOOD, *widths({2: 0.0, 4: 0.0, 8: 0.0}, spread=4.0)))
    assert "cannot tell" in found["verdict"]["sentence"]
    assert "hero open" in save.render_document(found, "html")


def test_what_there_was_no_time_for_is_said() -> None:
    found = document(left=("norms", "rates"))
    assert "There was no time for norms, rates; with --out DIR another run goes on" in " ".join(found["warnings"])
    assert found["run"]["not_run"] == ["norms", "rates"]


class _Page(html.parser.HTMLParser):
    """Ids, links and charts of a page; what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.charts = 0
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids |= {found["id"] or ""} if "id" in found else set()
        self.links |= {found["href"] or ""} if "href" in found else set()
        self.charts += (found.get("class") or "").startswith("chart")
        self.loads += [tag] if tag in ("script", "img", "link") else []


def test_page(said: dict) -> None:
    text = save.render_document(said, "html")
    page = _Page()
    page.feed(text)
    assert not page.loads
    assert page.links <= {f"#{name}" for name in page.ids}
    assert page.charts == 15
    for claim in said["claims"]:
        assert claim["stamp"] in text


def test_figures_are_files_that_hold_their_styles(said: dict, tmp_path: Path) -> None:
    save.save_reports(said, tmp_path, ["md"])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    names = [path.name for path in (tmp_path / "figures").iterdir()]
    assert {"accuracy-raw.svg", "differences.svg", "multiplier.svg", "removal.svg", "recall.svg"} <= set(names)
    for name in names:
        assert f"](figures/{name})" in text
        root = ElementTree.parse(tmp_path / "figures" / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(root.get("height", 0)) > 80
        assert "--pass" in "".join(root.itertext())
        for label in root.iter("{http://www.w3.org/2000/svg}text"):
            said_, end = (label.text or "").rstrip("\u200b"), label.get("text-anchor") == "end"
            at = label.get("x", "")
            assert not end or at.endswith("%") or float(at) >= 5.9 * len(said_), (name, said_)  # else it is cut off
        assert "NaN" not in ElementTree.tostring(root, encoding="unicode")


def test_summary_is_80_columns(said: dict) -> None:
    lines = save.render_document(said, "text").splitlines()
    assert max(map(len, lines)) <= 80
    assert any("equivalent" in line for line in lines)
    assert not any("\u2026" in line for line in lines)


def test_markdown_has_no_empty_table(said: dict) -> None:
    text = save.render_document(said, "md")
    assert text.count("CONFIRMED") >= 8
    assert "such as 1 or 2" in text  # as it was answered
    assert "nan" not in text


def test_forms_that_there_are_not_are_refused() -> None:
    with pytest.raises(BiasoptError, match="there is no junit of it"):
        save.check_formats(["junit"])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that trains almost nothing."""
    jobs = plan.plan_jobs
    monkeypatch.setattr(data, "load_digits", made.few_images)
    monkeypatch.setattr(claims, "LEARNED", -100.0)  # a control that would rightly say so
    monkeypatch.setattr(
        plan,
        "plan_jobs",
        lambda asked: [replace(j, steps=3, width=min(j.width, 3)) for j in jobs(asked) if j.width <= 4],
    )


@pytest.mark.usefixtures("tiny")
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "study",
        "--blocks",
        "widths,drift",
        "--seeds",
        "2",
        "--jobs",
        "1",
        "--margin",
        "1",
        "--no-bias-anywhere",
    ]
    code = cli.run([*command, "--out", str(tmp_path / "out"), "--report", str(tmp_path / "r")])
    printed = capsys.readouterr().out
    assert code == 0
    assert "What was claimed" in printed
    assert "Control not run" in printed
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"report.json", "report.md", "report.html", "figures"}
    assert cli.run([*command, "--out", str(tmp_path / "out"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["schema"] == "biasopt.study/1"
    assert again["margin"] == 1
    assert again["run"]["resumed"] > 0


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (["--blocks", "width"], 2, "'width' is no part of the study; there are exact"),
        (["--seeds", "1"], 2, "not in the range"),
        (["--dataset", "mnist"], 3, "nothing is downloaded; give the folder"),
        (["--dataset", "cifar10", "--data-dir", "/nowhere"], 3, "no such folder"),
        (["--formats", "junit", "--report", "x"], 3, "there is no junit"),
        (["--dataset", "imagenet"], 2, "imagenet"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    given: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["study", *given]) == code
    assert said in " ".join(capsys.readouterr().err.split())


def test_without_torch_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')")
    code = "import sys, cli; sys.exit(cli.run(['study']))"
    env = {"PYTHONPATH": f"{tmp_path}:{Path(cli.__file__).parent}", "PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stderr.strip().endswith("install biasopt[torch]")


def test_the_committed_page_is_made_of_the_committed_document() -> None:
    from converter.study import docs

    assert docs.main(["--check"]) == 0


def test_asked_for_in_python_too() -> None:
    from converter.commands.study import run_study

    with pytest.raises(ValueError, match="is no part of the study"):
        run_study(blocks=["nothing"])
    assert StudyScope().blocks == ()
