from __future__ import annotations

import pytest

from converter.records import Fate, FateKind
from converter.report.content import bias_path
from converter.rewrite.analysis.recurrent import Gate
from tests.report.made import FATES, absorbed, at_output, ends, kept


def test_the_totals_on_one_line() -> None:
    assert bias_path.summarize_fates(FATES) == (
        "6: 1 zero, 2 absorbed downstream, 3 kept (blocked by Relu 1, output 1, overridable 1)"
    )
    assert bias_path.summarize_fates([absorbed("a", "b")]) == "1: 1 absorbed downstream"


def test_codes_that_nothing_else_explains_have_words() -> None:
    codes = ["not-asked"] * 4 + ["padded-shift", "keep-bn"]
    found = [Fate(f"c{k}", "Conv", FateKind.KEPT, 8, code=code, why="w") for k, code in enumerate(codes)]
    assert bias_path.summarize_fates(found) == (
        "6: 6 kept (passes left out 4, in batch norms to be kept 1, zero padding behind 1)"
    )


def test_frequent_reasons_first_and_rare_ones_together() -> None:
    by = ["Clip"] * 3 + ["Relu", "Relu", "Tanh", "Selu", "Elu", "Erf", "Erf"]
    found = [kept(f"c{i}", op) for i, op in enumerate(by)] + [at_output("y")]
    assert (
        bias_path.summarize_fates(found) == "11: 11 kept (blocked by Clip 3, Erf 2, Relu 2, Elu 1, others 2, output 1)"
    )


def test_a_part_that_goes_is_counted() -> None:
    fused = Fate("qkv", "Gemm", FateKind.KEPT, 18, 12, code="softmax", why="w", path=kept("qkv", "Softmax").path)
    assert bias_path.summarize_fates([fused]) == "1: 1 kept (blocked by Softmax 1; 12 elements of these become zero)"
    assert bias_path.removed_share([fused]) == "0 of 1 vector go (0 %), 0 of 18 elements (0 %); 12 become zero"
    assert bias_path.describe_end(fused) == "but for a part: blocked by Softmax"


def test_totals_and_shares() -> None:
    assert bias_path.count_fates(FATES) == bias_path.BiasCounts(6, 3, 38, 20)
    assert bias_path.removed_share(FATES) == "3 of 6 vectors go (50 %), 20 of 38 elements (53 %)"


@pytest.mark.parametrize(
    ("part", "whole", "said"), [(0, 0, "0 %"), (1, 1000, "under 1 %"), (1, 3, "33 %"), (7, 7, "100 %")]
)
def test_a_share_is_never_rounded_to_nothing(part: int, whole: int, said: str) -> None:
    assert bias_path.percent_of(part, whole) == said


def test_groups_are_in_the_order_of_fates_then_frequency() -> None:
    more = [*FATES, kept("c7"), kept("c8"), Fate("c9", "Conv", FateKind.DEAD, 1, 1)]
    groups = bias_path.group_fates(more)
    assert [(g.kind.value, len(g.fates), g.what) for g in groups] == [
        ("dead", 1, "what follows cancels it"),
        ("zero", 1, "all its elements are zero"),
        ("absorbed", 2, "Conv downstream takes it over"),
        ("kept", 3, "blocked by Relu"),
        ("kept", 1, "it reaches an output"),
        ("kept", 1, "overridable"),
    ]
    assert [g.why for g in groups[3:]] == ["it is not linear", "", "'b4' is also a graph input"]


def test_a_reason_that_differs_is_told_one_by_one() -> None:
    (group,) = bias_path.group_fates([kept("a", how="for this"), kept("b", how="for that")])
    assert group.why == ""


def test_one_bias_in_a_list() -> None:
    assert [bias_path.describe_one(fate) for fate in FATES] == [
        " -> conv2",
        ": Relu relu",
        "",
        ": 'b4' is also a graph input",
        " -> conv6",
        ": output y",
    ]


def test_what_ends_a_way_names_the_fate() -> None:
    dead = Fate("k", "MatMul", FateKind.DEAD, 4, 4, "sm", path=(ends("sm", "k", "annihilates", "Softmax"),))
    assert bias_path.describe_end(dead) == "Softmax cancels it"
    use = Fate("k", "Conv", FateKind.KEPT, 4, code="captured-by-subgraph", path=(ends("t", "k", "stops", "use"),))
    assert bias_path.describe_end(use) == "captured-by-subgraph"


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (
            Gate("n", "LSTM", "forget", "forward", 8, 1.0, 0.25, 0.731, 3.72),
            "bias +1.00 on average (deviation 0.25): keeps 73 % a step, so it remembers about 3.7 steps",
        ),
        (
            Gate("n", "LSTM", "forget", "forward", 8, 20.0, 0.0, 1.0, 4.9e8),
            "bias +20.00 on average (deviation 0.00): keeps 100 % a step, so it remembers about 4.9e+08 steps",
        ),
        (Gate("n", "GRU", "update", "reverse", 8, -1.0, 0.5), "bias -1.00 on average (deviation 0.50)"),
        (Gate("n", "GRU", "update", "reverse"), "bias not known"),
    ],
)
def test_a_gates_memory(gate: Gate, said: str) -> None:
    assert bias_path.describe_gate(gate) == said


def test_a_gates_name_tells_an_unusual_direction() -> None:
    assert bias_path.name_gate(Gate("n", "LSTM", "forget", "forward")) == "forget gate"
    assert bias_path.name_gate(Gate("n", "GRU", "update", "reverse")) == "update gate, reverse"
