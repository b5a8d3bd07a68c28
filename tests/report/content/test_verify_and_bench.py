from __future__ import annotations

import html
import io
import re
from dataclasses import replace
from typing import Any

import pytest

from converter.records import Latency, ModelFacts, OutputCheck, Parity, Stage, Verdict
from converter.report import wording
from converter.report.content import Run
from converter.report.content.bench import bench_report
from converter.report.content.verify import verify_report
from converter.report.render import FORMS
from converter.report.render.html import render_html
from converter.report.render.markdown import render_markdown
from converter.report.render.text import render_text
from tests.report import made_evidence as made
from tests.report.made import text


def said(parity: Parity, *, verbose: bool = False) -> str:
    return render_text(verify_report(parity, Run()), verbose=verbose)


def timed(latency: Latency) -> str:
    return render_text(bench_report(latency, Run()))


PASSED = """\
PASS: same outputs, against a float64 reference (level B)
Largest difference 3.2e-05, cosine 1.000000000

A  models/resnet50.onnx      102 MB, opset 17, 171 nodes
B  out/resnet50.folded.onnx  102 MB, opset 17, 118 nodes

ok  environment  all nodes ran on CPUExecutionProvider
ok  structure    1 inputs and 1 outputs keep name, type and shape
ok  algebra      changed 0.63 times as much as rounding would (limit 4)
ok  parameters   53 folded weights computed again, at most 0.5 ulp off
ok  local        53 of 53 rewritten places, score at most 0.28 (limit 1)
ok  runtime      error at most 0.95 times the original's

Inputs  2 random (seed 0): input 1x3x224x224
Ran on  cpu, onnxruntime 1.32.0, AMD EPYC 7763
"""


def test_a_pair_that_passes_fits_on_a_screen() -> None:
    assert said(made.parity()) == PASSED


def test_a_failure_says_what_where_and_on_which_inputs() -> None:
    lines = said(made.failing()).splitlines()
    assert lines[0] == "FAIL: the outputs differ (level B)"
    assert lines[1].startswith("local: /layer2/Conv: its error is 811 times")
    assert lines[2] == "First difference at /layer2/Conv"
    assert "FAIL   /layer2/Conv    811      1  its error is 811 times what rounding allows" in lines
    assert "warning: 3 inputs gave numbers that are not finite in both models" in lines
    assert lines[-1] == "Failing inputs  out/failing.npz"
    assert not any("/layer7/Conv" in line for line in lines)


def test_verbose_shows_every_place() -> None:
    shown = said(made.parity(), verbose=True)
    assert all(f"/layer{k}/Conv " in shown for k in range(53))


def test_many_failures_are_counted_not_listed() -> None:
    checks = tuple(OutputCheck(f"c{k}", Verdict.FAIL, 9.0, 1.0, why="far off") for k in range(40))
    shown = said(made.parity(verdict=Verdict.FAIL, stages=(Stage("local", Verdict.FAIL, "", checks),)))
    assert "The worst 5 of 40;" in shown
    assert "c5 " not in shown


def test_what_is_open_is_not_called_ok() -> None:
    lines = said(made.undecided()).splitlines()
    assert lines[0] == "INCONCLUSIVE: could not be decided (level B)"
    assert "inconclusive  decision" in "\n".join(lines)
    assert "ok            algebra" in "\n".join(lines)


@pytest.mark.parametrize("parity", [made.parity(), made.failing(), made.undecided()])
def test_no_line_is_wider_than_80(parity: Parity) -> None:
    assert max(map(len, said(parity).splitlines())) <= 80
    assert max(map(len, timed(made.latency(1.01, 0.03)).splitlines())) <= 80


def test_names_are_text_not_control_or_markup() -> None:
    check = OutputCheck("[red]y\x1b[2J", Verdict.FAIL, 9.0, 4.0, why="w\x07")
    shown = said(made.parity(verdict=Verdict.FAIL, stages=(Stage("algebra", Verdict.FAIL, "\x1b", (check,)),)))
    assert "\x1b" not in shown
    assert "[red]y\\x1b[2J" in shown


def test_what_is_not_known_is_not_told() -> None:
    bare = Parity(Verdict.PASS, "D", scope="identical")
    words = " ".join(said(bare).split())
    assert words == "PASS: same outputs, nothing was rewritten: the output is a copy of the input (level D)"


def test_what_was_not_compared_is_not_called_the_same() -> None:
    alone = Stage("structure", Verdict.PASS, "1 input and 1 output keep name, type and shape")
    words = said(Parity(Verdict.PASS, "D", stages=(alone,), scope="none"))
    assert "PASS: same inputs and outputs, what they compute was not compared (level D)" in words
    assert "same outputs" not in words


def test_two_files_that_are_one_computation_are_no_copy() -> None:
    alone = Stage("structure", Verdict.PASS, "1 input and 1 output keep name, type and shape")
    words = said(Parity(Verdict.PASS, "B", stages=(alone,), scope="identical"))
    assert "PASS: same outputs, both models are one computation (level B)" in words


def test_places_of_a_skipped_stage_are_for_those_who_ask() -> None:
    check = OutputCheck("place", Verdict.INCONCLUSIVE, 1e7, 1.0, why="0.9 where 0.1 was recomputed")
    parity = made.parity(stages=(Stage("parameters", Verdict.SKIPPED, "names", (check,)),))
    assert "place" not in said(parity)
    assert "place" in said(parity, verbose=True)


def test_a_latency_begins_with_its_verdict_and_interval() -> None:
    lines = timed(made.latency()).splitlines()
    assert lines[0] == "PASS: B is not slower: 0.998 x the time (0.993 to 1.003, allowed 1.020)"
    assert "load           240 ms   199 ms" in lines  # a hiccup in one of the two would be a ratio
    assert "memory, peak   310 MB   300 MB  0.968" in lines
    assert "Control   A beside A: 1.001 x the time (0.997 to 1.005)" in lines


def test_a_latency_that_fails_or_is_open_says_why() -> None:
    assert timed(made.latency(1.08)).startswith("FAIL: B is slower: 1.080 x the time")
    lines = timed(made.latency(1.01, 0.03)).splitlines()
    assert lines[0].startswith("INCONCLUSIVE: could not be decided: 1.010 x the time")
    assert "the interval is [0.980, 1.041] and the limit 1.02" in lines


def test_a_gate_of_faster_that_fails_is_no_claim_of_it() -> None:
    latency = replace(made.latency(), gate="faster:5%", verdict=Verdict.FAIL)
    assert timed(latency).startswith("FAIL: B is not faster by 5%: 0.998 x the time")
    slower = replace(made.latency(1.08), gate="faster", verdict=Verdict.FAIL)
    assert timed(slower).startswith("FAIL: B is slower: 1.080 x the time")


def test_places_go_by_their_node_where_the_tensor_has_a_number() -> None:
    checks = (
        OutputCheck("getitem_3", Verdict.FAIL, 9.0, 1.0, why="off", detail={"layer": "node_conv2d"}),
        OutputCheck("/1/Conv_output_0", Verdict.FAIL, 9.0, 1.0, why="off", detail={"layer": "/0/Conv"}),
    )
    stage = Stage("parameters", Verdict.FAIL, "off", checks)
    shown = said(replace(made.parity(stages=(stage,)), verdict=Verdict.FAIL))
    assert "node_conv2d (getitem_3)" in shown
    assert "/0/Conv" not in shown


def test_figures_that_are_missing_have_no_row() -> None:
    a, b = (made.timing(41.0, p99_ms=None, peak_bytes=None) for _ in "ab")
    shown = timed(replace(made.latency(), a=a, b=b))
    assert "p99" not in shown
    assert "memory" not in shown


def test_a_document_reads_like_its_records() -> None:
    assert text(made.verify_json()) == PASSED
    both = text(made.verify_json(bench=made.latency()))
    assert both.startswith(PASSED.partition("Inputs")[0])
    assert "PASS: B is not slower" in both
    assert both.count("Ran on") == 1
    assert text(made.bench_json()).count("Ran on") == 1


def test_a_model_in_memory_is_called_that() -> None:
    model = ModelFacts("", "a" * 64, 100, 8, 17, {"Relu": 1})
    assert "A  model in memory  100 B, opset 17, 1 node" in said(made.parity(a=model, b=None))


def test_a_stage_has_one_name_in_every_form() -> None:
    report = verify_report(made.parity(), Run())
    for form in (render_text(report, io.StringIO()), render_markdown(report), render_html(report)):
        lines = html.unescape(form).splitlines()
        for stage in made.parity().stages:
            asks = wording.stage(stage.id).line
            assert any(stage.id in line and (asks in line or stage.why[:20] in line) for line in lines), stage.id


@pytest.mark.parametrize("form", ["text", "md", "html"])
def test_what_stands_beside_the_verdict_is_in_every_form(form: str) -> None:
    found = FORMS[form].render(verify_report(made.failing(), Run()))
    assert re.search("First difference at.{0,90}/layer2/Conv", found, re.DOTALL)


def outputs(*checks: OutputCheck, **more: Any) -> Parity:
    return Parity(Verdict.PASS, "B", stages=(Stage("runtime", Verdict.PASS, "", checks),), **more)


def test_the_head_has_the_usual_measures_of_all_outputs() -> None:
    near = {"cosine": 0.999999999, "top1_rows": 3.0, "top1_same": 3.0}
    far = {"cosine": 0.75, "top1_rows": 2.0, "top1_same": 1.0}
    checks = (
        OutputCheck("scores", Verdict.PASS, 1.0, 3.0, 0.5, detail={"classic": near}),
        OutputCheck("boxes", Verdict.PASS, 1.0, 3.0, 4.0, detail={"classic": far}),
    )
    assert "Largest difference 4 of boxes, cosine 0.750000000, top-1 the same in 4 of 5" in said(outputs(*checks))
    assert "Largest difference 0.5, cosine 0.999999999, top-1 the same in 3 of 3" in said(outputs(checks[0]))
    page = render_html(verify_report(outputs(*checks), Run()))
    for key, value in {
        "Largest difference": "4 of boxes",
        "Cosine": "0.750000000",
        "Top-1": "the same in 4 of 5",
    }.items():
        assert f"<dt>{key}</dt><dd>{value}</dd>" in page
    assert "Largest difference" not in said(outputs(*checks, scope="removal"))  # it is of the model before biases went


def test_decisions_on_data_are_what_top_1_is_of() -> None:
    counted = OutputCheck("y", Verdict.PASS, 0.0, 0.01, detail={"metric": "top1_disagreement", "n": 300, "k": 2})
    right = OutputCheck("y", Verdict.PASS, detail={"metric": "top1", "accuracy_a": 0.9, "accuracy_b": 0.89, "n": 300})
    ran = OutputCheck("y", Verdict.PASS, 1.0, 3.0, 0.5, detail={"classic": {"top1_rows": 1.0, "top1_same": 1.0}})
    for check, words in ((counted, "the same in 298 of 300"), (right, "right in 90 % before and 89 % after")):
        stages = (Stage("runtime", Verdict.PASS, "", (ran,)), Stage("decision", Verdict.PASS, "", (check,)))
        assert f"Largest difference 0.5, top-1 {words}" in said(Parity(Verdict.PASS, "A", stages=stages))


def test_a_run_without_a_reference_is_told_in_units_of_what_rounding_moves() -> None:
    smoke = OutputCheck("y", Verdict.PASS, 0.04, 1.0, 1e-6)
    page = render_html(verify_report(outputs(smoke), Run()))
    assert "times what rounding the weights can change, limit 1" in page
    assert "times the original" not in page.partition("stage-1")[2].partition("</p>")[2]
