from __future__ import annotations

from converter.records import Safety
from converter.report import groups
from tests.report.made import act, declined, folded, rewrite


def test_rewrites_are_gathered_by_pass_in_the_order_of_acting() -> None:
    done = groups.done(folded().rewrites)
    assert [(item.pass_name, item.nodes) for item in done] == [
        ("fold-bn-into-conv", ("bn1", "bn2")),
        ("drop-zero-bias", ("conv2",)),
    ]
    assert done[1].safety is Safety.EXACT


def test_declines_are_gathered_by_code_most_first() -> None:
    left = groups.left(folded().findings)
    assert [(item.code, item.nodes) for item in left] == [("output-shared", ("bn3", "mul4")), ("padded", ("bn3",))]


def test_a_node_that_two_passes_decline_for_one_reason_counts_once() -> None:
    (left,) = groups.left(
        [declined("p", "n", "c", "one"), declined("q", "n", "c", "two"), declined("r", "n", "c", "two")]
    )
    assert left.nodes == ("n",)
    assert left.passes == ("p", "q", "r")
    assert left.why == "two"


def test_equal_counts_are_ordered_by_code() -> None:
    assert [item.code for item in groups.left([declined("p", "n", "b"), declined("p", "m", "a")])] == ["a", "b"]


def test_acts_are_no_declines_and_declines_no_acts() -> None:
    findings = [act("p", "n"), declined("p", "m", "c")]
    assert [item.nodes for item in groups.would_do(findings)] == [("n",)]
    assert [item.nodes for item in groups.left(findings)] == [("m",)]


def test_only_growth_counts_as_copied() -> None:
    assert groups.bytes_copied([rewrite("p", "n", bytes_added=10), rewrite("p", "m", bytes_added=-4)]) == 10
