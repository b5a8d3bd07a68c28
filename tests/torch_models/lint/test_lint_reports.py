"""The same findings as text, JSON, SARIF and annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converter.records.lint import CODES, Kind, LintFinding, LintReport, Location, Unconfirmed
from converter.report import serialize
from converter.report.content.lint import lint_report
from converter.report.documents import lint_document
from converter.report.render.sarif import sarif, workflow_commands
from converter.report.render.text import render_text

ROOT = Path("/checkout")
HERE = Location("/checkout/my net.py", 8, 19, 8, 48)
LIBRARY = Location("/env/site-packages/lib/vgg.py", 81, 5, 82, 9)


def finding(code: str = "bias-before-batch-norm", **changes: Any) -> LintFinding:
    given: dict[str, Any] = {
        "code": code,
        "kind": Kind.DEAD,
        "module": "a.c",
        "part": None,
        "parameter": "a.c.bias",
        "n_parameters": 64,
        "message": "a.n (BatchNorm2d) subtracts it",
        "fix": "bias=False",
        "cost": "0-6 %",
        "location": HERE,
        "evidence": {"output_change": 1e-15, "gradient_ratio": None, "ends_at": ["a.n"]},
    }
    return LintFinding(**given | changes)


def report(*findings: LintFinding, unconfirmed: tuple[Unconfirmed, ...] = ()) -> LintReport:
    return LintReport("net.py:make", findings, unconfirmed, 9, 900, 123_456, "torch.export", ("a note",))


def text(of: LintReport, *, verbose: bool = False) -> str:
    return render_text(lint_report(of, ROOT), verbose=verbose)


# What GitHub asks of a SARIF file beside the standard's own required fields.
@pytest.mark.parametrize("place", [HERE, LIBRARY])
def test_sarif_has_what_code_scanning_requires(place: Location) -> None:
    document = json.loads(json.dumps(sarif(report(finding(location=place)), "1.2", ROOT)))
    assert document["version"] == "2.1.0"
    assert document["$schema"].endswith("sarif-schema-2.1.0.json")
    (run,) = document["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "biasopt"
    for rule in driver["rules"]:
        assert rule["id"]
        for key in ("shortDescription", "fullDescription", "help"):
            assert rule[key]["text"]
        assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note")
    (result,) = run["results"]
    assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    assert result["message"]["text"].startswith("a.c.bias (64 parameters)")
    assert result["partialFingerprints"]
    (where,) = result["locations"]
    region = where["physicalLocation"]["region"]
    assert region["startLine"] >= 1
    assert (region["endLine"], region["endColumn"]) >= (region["startLine"], region["startColumn"])
    assert where["physicalLocation"]["artifactLocation"]["uri"]


def test_sarif_names_files_relative_to_the_checkout() -> None:
    (result,) = sarif(report(finding()), "1.2", ROOT)["runs"][0]["results"]
    artifact = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert artifact == {"uri": "my%20net.py", "uriBaseId": "%SRCROOT%"}
    assert not result["relatedLocations"]


def test_sarif_shows_the_users_call_of_a_library() -> None:
    own = finding(location=LIBRARY, called_from=HERE)
    (result,) = sarif(report(own), "1.2", ROOT)["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "my%20net.py"
    assert result["relatedLocations"][0]["physicalLocation"]["region"]["startLine"] == 81


def test_sarif_result_without_a_place_is_a_notification() -> None:
    """GitHub rejects a result without a location, and with it the file."""
    doubt = Unconfirmed("bias-before-batch-norm", "d.bias", "it moves")
    (run,) = sarif(report(finding(location=None), unconfirmed=(doubt,)), "1.2", ROOT)["runs"]
    assert not run["results"]
    said = [item["message"]["text"] for item in run["invocations"][0]["toolExecutionNotifications"]]
    assert said[0].startswith("bias-before-batch-norm: a.c.bias")
    assert said[1] == "not confirmed: bias-before-batch-norm d.bias: it moves"


def test_sarif_fingerprints_tell_findings_apart() -> None:
    results = sarif(report(finding(), finding(parameter="b.c.bias")), "1.2", ROOT)["runs"][0]["results"]
    assert len({result["partialFingerprints"]["biasoptParameter/v1"] for result in results}) == 2


def test_annotation() -> None:
    line = workflow_commands(report(finding(message="50 % of it\ngoes")), ROOT)
    assert line == (
        "::warning file=my net.py,line=8,endLine=8,col=19,endColumn=48,title=biasopt bias-before-batch-norm"
        "::a.c.bias (64 parameters): 50 %25 of it%0Agoes. Fix: bias=False.\n"
    )


def test_annotation_over_several_lines_has_no_columns() -> None:
    line = workflow_commands(report(finding(location=Location("/checkout/n,1.py", 3, 5, 6, 7))), ROOT)
    assert line.startswith("::warning file=n%2C1.py,line=3,endLine=6,title=")


def test_annotation_of_something_redundant_is_a_notice() -> None:
    line = workflow_commands(report(finding("doubled-rnn-bias", kind=Kind.REDUNDANT, location=None)), ROOT)
    assert line.startswith("::notice title=biasopt doubled-rnn-bias::")


def test_json() -> None:
    document = json.loads(serialize.dumps(lint_document(report(finding()), "1.2", argv=("lint", "x"), exit_code=1)))
    assert list(document) == ("schema tool spec tracer counts findings unconfirmed codes notes exit_code repro".split())
    assert (document["schema"], document["exit_code"]) == ("biasopt.lint/1", 1)
    assert document["counts"]["dead"] == 64
    assert document["codes"] == {"bias-before-batch-norm": "a bias that batch norms take away in training"}
    (found,) = document["findings"]
    assert list(found) == (
        "code kind module parameter part n_parameters message fix cost location called_from evidence".split()
    )
    assert found["location"]["line"] == 8


def test_text_fits_eighty_columns_and_groups_by_call() -> None:
    long = [finding(parameter=f"features.block.{i}.convolution.bias") for i in range(9)]
    said = text(report(*long, finding("attention-key-bias", location=None, part=(16, 32))))
    assert max(map(len, said.splitlines())) <= 80
    assert "576  bias-before-batch-norm" in said
    assert "and 6 more" in " ".join(said.split())
    assert "a.c.bias[16:32]" in said
    assert "Together 640 parameters, 0.518 % of the model." in said


def test_text_tells_of_doubts_and_of_nothing() -> None:
    doubt = Unconfirmed("bias-before-batch-norm", "d.bias", "changing it moves the output")
    said = text(report(unconfirmed=(doubt,)))
    assert "Not confirmed: left alone\n  d.bias (bias-before-batch-norm): changing it moves the output" in said
    assert "No bias was found" in said


def test_verbose_text_shows_evidence_of_each() -> None:
    said = text(report(finding(), finding(parameter="b.c.bias")), verbose=True)
    assert said.count("output_change: 1e-15") == 2
    assert "gradient_ratio" not in said


def test_every_code_has_a_rule() -> None:
    every = [finding(code.name, kind=code.kind) for code in CODES]
    rules = sarif(report(*every), "1.2", ROOT)["runs"][0]["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [code.name for code in CODES]


@pytest.mark.parametrize(
    ("codes", "failed"),
    [({"any"}, True), ({"bias-before-batch-norm"}, True), ({"attention-key-bias"}, False), (set(), False)],
)
def test_fail_on(codes: set[str], failed: bool) -> None:
    assert report(finding()).failed(frozenset(codes)) is failed
    assert not report().failed(frozenset({"any"}))
