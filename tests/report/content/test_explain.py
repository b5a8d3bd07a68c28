from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from converter.records import EffectKind, Fate, FateKind, Step, Verb
from converter.report import documents, serialize
from converter.report.content.bias_path import describe_step, explain_report
from converter.report.render.text import render_text
from tests.report.made import absorbed, at_output, carries, ends, kept


def shown(fate: Fate, stream: io.StringIO | None = None, width: int = 80) -> str:
    return render_text(replace(explain_report(fate), width=width), stream)


def residual() -> Fate:
    """A bias on a trunk: two layers take it over, one after an Add each, and a norm at last cancels it."""
    path = (
        ends("conv2", "conv1", "absorbs", "Conv", "its bias 'b2' takes it over", EffectKind.BIAS),
        carries("add1", "conv1"),
        carries("pool", "add1", "MaxPool"),
        ends("conv3", "pool", "absorbs", "Conv", "its bias 'b3' takes it over", EffectKind.BIAS),
        carries("add2", "add1"),
        ends("norm", "add2", "annihilates", "InstanceNormalization", "it subtracts the mean"),
        ends("conv4", "add2", "absorbs", "Conv", "its new bias takes it over", EffectKind.NEW_BIAS),
        carries("add3", "add2"),
        ends("conv5", "add3", "absorbs", "Conv", "its constant 'c' takes it over", EffectKind.CONSTANT),
    )
    return Fate("conv1", "Conv", FateKind.ABSORBED, 64, 64, "conv2, conv3, norm, conv4, conv5", path=path)


TREE = """\
Absorbed: this bias goes, and 5 nodes take it over.

◆ Conv conv1                    its bias: 64 elements
├─● Conv conv2                  takes it over into its bias
○ Add add1                      carries it unchanged
├─○ MaxPool pool                carries it: the largest value moves with all the
│ │                             others
│ ● Conv conv3                  takes it over into its bias
○ Add add2                      carries it unchanged
├─∅ InstanceNormalization norm  cancels it: it subtracts the mean
├─● Conv conv4                  takes it over into a new bias
○ Add add3                      carries it unchanged
● Conv conv5                    takes it over into its constant
"""


def test_a_way_is_a_trunk_with_branches() -> None:
    assert shown(residual()) == TREE


class Ascii(io.StringIO):
    encoding = "cp1252"


def test_it_is_drawn_with_what_the_stream_has() -> None:
    said = shown(residual(), Ascii())
    assert said.isascii()
    assert "\n|-o MaxPool pool                carries it" in said
    assert "\n| + Conv conv3                  takes it over" in said
    assert "\n|-x InstanceNormalization norm" in said


def test_long_names_get_lines_of_their_own_and_nothing_is_cut() -> None:
    name = "/features/features.12/conv/conv.2/a_long_way_down/of_a_deep_hierarchy/of_layers/Conv"
    said = shown(absorbed(name, name.replace("12", "13")))
    assert said.splitlines()[4:] == [
        "◆ Conv /features/features.12/conv/conv.2/a_long_way_down/of_a_deep_hierarchy/of_",
        "│   layers/Conv",
        "│   its bias: 8 elements",
        "● Conv /features/features.13/conv/conv.2/a_long_way_down/of_a_deep_hierarchy/of_",
        "    layers/Conv",
        "    takes it over into its bias",
    ]


@pytest.mark.parametrize("width", [30, 50, 80])
def test_no_line_is_wider_than_there_is_room(width: int) -> None:
    assert max(map(len, shown(residual(), width=width).splitlines())) <= width


def test_names_are_text_not_markup_and_not_control() -> None:
    said = shown(kept("[red]c\x1b[2J", by="[b]r\x1b[2J"))
    assert "\x1b" not in said
    assert "[red]c\\x1b[2J" in said
    assert "[b]r\\x1b[2J" in said


@pytest.mark.parametrize(
    ("fate", "first"),
    [
        (Fate("k", "MatMul", FateKind.DEAD, 4, 4), "Dead: nothing downstream depends on this bias, so it goes."),
        (Fate("k", "Conv", FateKind.ZERO, 4, 4), "Zero: all elements of this bias are zero, so it goes."),
        (absorbed("a", "b"), "Absorbed: this bias goes, and b takes it over."),
        (Fate("k", "Conv", FateKind.MERGED, 4, 4, "d"), "Merged: this bias becomes one with that of d."),
        (kept("a"), "Kept: Relu (relu) depends on it."),
        (at_output("a"), "Kept: it reaches output 'y'."),
        (
            Fate("k", "Conv", FateKind.KEPT, 4, code="overridable", why="'b' is also an input"),
            "Kept: 'b' is also an input. `--freeze-overridable` would take it as a constant.",
        ),
        (replace(kept("a"), removed=3, why="w"), "Kept in part: 3 of 8 elements become zero. w."),
    ],
)
def test_the_verdict_comes_first(fate: Fate, first: str) -> None:
    assert shown(fate).splitlines()[0] == first


def test_without_a_way_the_node_is_named() -> None:
    assert shown(Fate("k", "Conv", FateKind.ZERO, 4, 4)).splitlines()[1:] == ["", "Conv k: 4 elements"]
    cell = ends("lstm", "lstm", "stops", "LSTM", "its gates are not linear")
    assert shown(Fate("lstm", "LSTM", FateKind.KEPT, 8, code="recurrent-gates", why="w", path=(cell,))).endswith(
        "\nLSTM lstm: 8 elements\n"
    )


def test_a_way_that_was_not_gone_is_called_that() -> None:
    declined = replace(absorbed("a", "b"), kind=FateKind.KEPT, removed=0, code="model-grows", why="it would grow")
    assert "Kept: it would grow.\n\nPossible path:\n\n◆ Conv a" in shown(declined)


def test_each_part_has_a_tree_of_its_own() -> None:
    path = (
        Step("sm", "Softmax", Verb.CANCELS, "alike", sources=("qkv",), part="key part, elements 6 to 11"),
        Step("sm", "Softmax", Verb.BLOCKS, "differently", sources=("qkv",), part="query part"),
    )
    fused = Fate("qkv", "Gemm", FateKind.KEPT, 18, 6, code="softmax", why="w", path=path)
    assert shown(fused).splitlines()[2:] == [
        "◆ Gemm qkv    its bias: key part, elements 6 to 11",
        "∅ Softmax sm  cancels it: alike",
        "",
        "◆ Gemm qkv    its bias: query part",
        "■ Softmax sm  blocks it: differently",
    ]


def test_where_shifts_meet() -> None:
    path = (
        carries("pool", "conv", "AveragePool"),
        Step("add", "Add", Verb.PROPAGATES, sources=("conv", "pool")),
        ends("y", "add", "stops", "output"),
    )
    assert shown(replace(kept("conv"), path=path)).splitlines()[2:] == [
        "◆ Conv conv         its bias: 8 elements",
        "○ AveragePool pool  carries it: a mean moves with its values",
        "○ Add add           adds up the shifts that meet here",
        "■ output y          would change",
    ]


@pytest.mark.parametrize(
    ("op", "kind", "said"),
    [
        ("Conv", EffectKind.WEIGHTS, "turns it, through its weights, into a shift of its own channels"),
        ("Gelu", EffectKind.PLAIN, "carries it unchanged"),
        ("Neg", EffectKind.PLAIN, "turns its sign"),
        ("MatMul", EffectKind.SOFTMAX_ROWS, "hands it on unchanged: its weights sum to one"),
        (
            "Where",
            EffectKind.MASKED,
            "carries it, but for masked entries, which stay minus infinity",
        ),
    ],
)
def test_what_a_node_does_is_told_in_plain_words(op: str, kind: EffectKind, said: str) -> None:
    assert describe_step(carries("n", "c", op, kind)) == said


def test_an_explanation_as_json() -> None:
    document = documents.explain_document(absorbed("a", "b"), Path("m.onnx"), "9.9")
    assert json.loads(serialize.dumps(document)) == {
        "schema": "biasopt.explain/1",
        "version": "9.9",
        "input": "m.onnx",
        "node": "a",
        "op": "Conv",
        "fate": "absorbed",
        "elements": 8,
        "removed": 8,
        "where": "b",
        "code": "",
        "why": "",
        "verdict": "Absorbed: this bias goes, and b takes it over.",
        "path": [
            {
                "node": "b",
                "op": "Conv",
                "verb": "absorbs",
                "how": "its bias 'b' takes it over",
                "from": ["a"],
                "part": "",
                "says": "takes it over into its bias",
            }
        ],
        "exit_code": 0,
    }
