from __future__ import annotations

import io
import re
from dataclasses import replace
from unittest.mock import patch

import pytest

from converter.records import OutputCheck, Parity, Safety, Stage, Verdict
from converter.report import wording
from converter.report.content import Run
from converter.report.content.fold import fold_report
from converter.report.content.inspect import inspect_report, passes_report
from converter.report.render.text import render_text
from converter.rewrite.analysis.recurrent import Gate
from tests.report.made import AFTER, BEFORE, FATES, SAID, Pass, Result, act, declined, folded, parity


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def shown(result: Result, *, verbose: bool = False) -> str:
    return render_text(fold_report(result, SAID, Run()), verbose=verbose)


FOLDED = """\
net.onnx  102 MB, opset 17, 175 nodes

What was done
  fold-bn-into-conv  2  equal up to float rounding
  drop-zero-bias     1  exactly equal

                      before   after
  BatchNormalization      53       0
  biases                   1      54  what a BatchNormalization adds becomes a bias
  nodes                  175     122
  parameters          102 MB  102 MB

Not folded
  output-shared  2  another node reads it
                    bn3, mul4
  padded         1  the convolution reads padding
                    bn3

Parity   PASS: same outputs, against a float64 reference (level B)
         Largest difference 1e-06
         logits: differs by 1e-06 at most, 0.63 x what rounding the weights can change (limit 4)
Written  models/net.folded.onnx
"""


def test_a_fold_reads_like_this() -> None:
    assert shown(folded()) == FOLDED


@pytest.mark.parametrize("environ", [{"COLUMNS": "40"}, {"FORCE_COLOR": "1"}, {"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_what_is_piped_does_not_depend_on_the_window(environ: dict[str, str]) -> None:
    with patch.dict("os.environ", environ):
        assert render_text(fold_report(folded(), SAID, Run()), io.StringIO()) == FOLDED


def on_terminal(result: Result, **environ: str) -> str:
    with patch.dict("os.environ", {"TERM": "xterm-256color", **environ}, clear=True):
        return render_text(fold_report(result, SAID, Run()), Terminal())


def without_styles(output: str) -> str:
    return "\n".join(line.rstrip() for line in re.sub("\x1b\\[[0-9;]*m", "", output).splitlines()) + "\n"


def test_a_terminal_gets_colour_unless_it_asks_for_none() -> None:
    coloured = on_terminal(folded(), COLUMNS="110")
    assert "\x1b[1;32m" in coloured
    assert without_styles(coloured) == FOLDED
    assert "\x1b[1;32m" not in on_terminal(folded(), COLUMNS="110", NO_COLOR="1")
    assert "\x1b" not in on_terminal(folded(), TERM="dumb")


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut(columns: int) -> None:
    node = "/layer1/layer1.0/downsample/downsample.1/BatchNormalization_output_0_of_a_long_hierarchy"
    left = (declined("fold-bn-into-conv", node, "input-padded", "the convolution reads padding around its input"),)
    output = without_styles(on_terminal(folded(findings=left), COLUMNS=str(columns)))
    assert max(map(len, output.splitlines())) <= columns
    assert node in "".join(output.split())
    assert "…" not in output


def test_lines_do_not_end_in_spaces() -> None:
    assert all(line == line.rstrip() for line in shown(folded()).splitlines())


def test_verbose_names_every_node() -> None:
    many = tuple(declined("p", f"a/rather/long/name/of/a/node/in/a/model/{i}", "code") for i in range(30))
    result = folded(findings=many)
    assert "and 29 more" in shown(result)
    assert all(finding.node in shown(result, verbose=True) for finding in many)
    assert "bn1\n" in shown(result, verbose=True)
    assert "bn1" not in shown(result)


def test_verbose_says_of_each_node_why() -> None:
    result = folded(findings=tuple(declined("p", node, "padded", f"{node} reads zeros") for node in ("c1", "c2")))
    assert lines(shown(result))[10:12] == ["padded  2  a border would differ", "c1, c2"]
    assert lines(shown(result, verbose=True))[13:16] == [
        "padded  2  a border would differ",
        "c1: c1 reads zeros",
        "c2: c2 reads zeros",
    ]


def lines(said: str) -> list[str]:
    return [line.strip() for line in said.splitlines() if line]


def test_growth_is_explained() -> None:
    grown = replace(AFTER, parameter_bytes=104_000_000)
    assert "104 MB  copies of shared weights add 1.23 MB; --no-growth makes none\n" in shown(folded(after=grown))


def test_what_the_checker_says_is_shown() -> None:
    said = shown(folded(problem="node\nwithout name"))
    assert said.splitlines()[1] == "onnx's checker objects to it as it came: node\\nwithout name"


def test_fold_shows_ten_reasons_and_inspect_all() -> None:
    many = tuple(declined("p", f"n{i}", f"code-{i:02}") for i in range(13))
    fold = shown(folded(findings=many))
    assert "code-09" in fold
    assert "code-10" not in fold
    assert "... 3 more reasons; `biasopt inspect` shows them all" in fold
    assert "code-12" in render_text(inspect_report(folded(findings=many), SAID))


def test_inspect_says_would() -> None:
    said = render_text(inspect_report(folded(), SAID))
    assert "Would do\n  fold-bn-into-conv  2  equal up to float rounding\n" in said
    assert "now  folded\n" in said
    assert "Parity" not in said
    assert "Written" not in said


BIASES = """\
Biases
  3 of 6 vectors go (50 %), 20 of 38 elements (53 %)
  zero      1  all its elements are zero
               conv3
  absorbed  2  Conv downstream takes it over
               conv1, conv5
  kept      1  blocked by Relu: it is not linear
               conv2
  kept      1  it reaches an output
               gemm
  kept      1  overridable: 'b4' is also a graph input
               conv4
"""


def test_inspect_shows_where_biases_go() -> None:
    said = render_text(inspect_report(folded(fates=FATES), SAID))
    assert BIASES in said


@pytest.mark.parametrize("options", [{"verbose": True}, {"each": True}])
def test_each_bias_is_named_where_that_is_asked_for(options: dict[str, bool]) -> None:
    said = render_text(inspect_report(folded(fates=FATES), SAID, each="each" in options), verbose="verbose" in options)
    shown = [line.strip() for line in said.splitlines()]
    assert {"conv1 -> conv2", "conv5 -> conv6", "conv2: Relu relu", "gemm: output y", "conv3"} <= set(shown)


def test_fold_has_one_line_of_biases() -> None:
    said = shown(folded(fates=FATES))
    line = "Biases   6: 1 zero, 2 absorbed downstream, 3 kept (blocked by Relu 1, output 1, overridable 1)\n"
    assert f"{line}Parity   PASS" in said
    assert "Biases" not in shown(folded())


def test_inspect_shows_what_gates_remember() -> None:
    gates = (
        Gate("lstm", "LSTM", "forget", "forward", 8, 1.0, 0.25, 0.731, 3.72),
        Gate("gru", "GRU", "update", "reverse", note="Its bias is not known."),
    )
    assert "remember" not in render_text(inspect_report(folded(gates=gates), SAID))
    said = render_text(inspect_report(folded(gates=gates), SAID, each=True))
    assert (
        """\
Memory
  LSTM lstm  forget gate           bias +1.00 on average (deviation 0.25): keeps 73 % a step, so it remembers
                                   about 3.7 steps
  GRU gru    update gate, reverse  bias not known
                                   Its bias is not known.
"""
        in said
    )


def test_nothing_to_do_is_said() -> None:
    identical = Parity(Verdict.PASS, "B", scope="identical")
    said = shown(Result(parity=identical, after=BEFORE))
    assert "Nothing to do: no pass applies here." in said
    assert "the output is a copy of the input" in said
    assert "before" not in said
    assert "Nothing to do" in render_text(inspect_report(Result(after=BEFORE), SAID))


def test_a_failed_check_says_why_and_that_nothing_was_written() -> None:
    check = OutputCheck("y", Verdict.FAIL, score=120.0, limit=4.0)
    failed = parity(Verdict.FAIL, why="output 'y' differs", stages=(Stage("algebra", Verdict.FAIL, "", (check,)),))
    result = folded(parity=failed, output=None, exit_code=1)
    said = shown(result)
    assert "FAIL: the outputs differ" in said
    assert "output 'y' differs\n" in said
    assert "y: 120 x what rounding" in said
    assert said.endswith("Written  nothing\n")
    assert wording.failure(failed) == "parity FAIL: output 'y' differs; nothing was written"


def test_no_check_is_never_called_a_pass() -> None:
    said = shown(folded(parity=None))
    assert "Parity   not checked (--no-verify)" in said
    assert "PASS" not in said


def test_a_check_per_rewrite_says_so() -> None:
    assert "checked per rewrite" in shown(folded(parity=parity(level="C", scope="per-rewrite")))


def test_warnings_are_shown() -> None:
    said = shown(folded(parity=parity(warnings=("output 'z' does not depend on any input",))))
    assert "warning: output 'z' does not depend on any input\n" in said


def test_the_change_to_the_interface_is_printed() -> None:
    assert "Inputs   no longer inputs of the model: w, b\n" in shown(folded(frozen=("w", "b")))


def test_the_last_line_says_what_freezing_would_win() -> None:
    said = shown(folded(overridable_blocked=7, overridable_names=3))
    assert said.splitlines()[-1] == (
        "7 folds wait behind 3 initializers that are also graph inputs; `--freeze-overridable` would take them."
    )
    one = shown(folded(overridable_blocked=1, overridable_names=1)).splitlines()[-1]
    assert one == (
        "1 fold waits behind 1 initializer that is also a graph input; `--freeze-overridable` would take it."
    )


def test_names_from_a_model_are_text_not_markup_and_not_control() -> None:
    node = "[red]x[/red]\x1b[2J:smile:"
    said = shown(folded(findings=(declined("p", node, "code", node),)))
    assert said.count("[red]x[/red]\\x1b[2J:smile:") == 2
    assert "\x1b" not in said


def test_a_model_in_memory_has_a_header_too() -> None:
    assert shown(folded(path=None)).startswith("model in memory  102 MB")


def test_the_table_of_passes_is_in_order() -> None:
    said = render_text(passes_report([Pass("first", safety=Safety.EXACT), Pass("second")]))
    assert "rounding  outputs are equal up to float rounding\n" in said
    assert said.splitlines()[:2] == [
        "1  first   exact     one becomes the other",
        "2  second  rounding  one becomes the other",
    ]


def test_acts_alone_leave_nothing_out() -> None:
    said = render_text(inspect_report(folded(findings=(act("p", "n"),)), SAID))
    assert "Not folded" not in said
