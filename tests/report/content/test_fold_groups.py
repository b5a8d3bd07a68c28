from __future__ import annotations

from converter.records import Safety
from converter.report.content.fold import bytes_copied, collect_reasons, group_declines, group_rewrites
from tests.report.made import Guard, Pass, act, declined, folded, rewrite


def test_rewrites_are_gathered_by_pass_in_the_order_of_acting() -> None:
    done = group_rewrites(folded().rewrites)
    assert [(item.pass_name, item.nodes) for item in done] == [
        ("fold-bn-into-conv", ("bn1", "bn2")),
        ("drop-zero-bias", ("conv2",)),
    ]
    assert done[1].safety is Safety.EXACT


def test_declines_are_gathered_by_code_most_first() -> None:
    left = group_declines(folded().findings, {})
    assert [(item.code, item.nodes) for item in left] == [("output-shared", ("bn3", "mul4")), ("padded", ("bn3",))]


def test_a_node_that_two_passes_decline_for_one_reason_counts_once() -> None:
    (left,) = group_declines([declined("p", "n", "c", "one"), declined("q", "n", "c", "two")], {})
    assert (left.nodes, left.whys) == (("n",), ("one",))


def test_equal_counts_are_ordered_by_code() -> None:
    left = group_declines([declined("p", "n", "b"), declined("p", "m", "a")], {})
    assert [item.code for item in left] == ["a", "b"]


def test_acts_are_no_declines() -> None:
    assert [item.nodes for item in group_declines([act("p", "n"), declined("p", "m", "c")], {})] == [("m",)]


def test_the_clause_is_the_nodes_own_where_they_agree() -> None:
    (left,) = group_declines([declined("p", "n", "c", "channel 3"), declined("p", "m", "c", "channel 3")], {"c": "any"})
    assert left.why == "channel 3"


def test_the_clause_is_what_the_code_means_where_they_differ() -> None:
    differing = [declined("p", "n", "c", "'x' is read"), declined("p", "m", "c", "'y' is read")]
    assert group_declines(differing, {"c": "it is read"})[0].why == "it is read"
    assert group_declines(differing, {})[0].why == "'x' is read"
    assert group_declines(differing, {})[0].whys == ("'x' is read", "'y' is read")


def test_reasons_are_the_first_words_for_each_code() -> None:
    rows = [Pass("p", guards=(Guard("a", "one"),)), Pass("q", guards=(Guard("a", "two"), Guard("b", "three")))]
    assert collect_reasons(rows) == {"a": "one", "b": "three"}


def test_only_growth_counts_as_copied() -> None:
    assert bytes_copied([rewrite("p", "n", bytes_added=10), rewrite("p", "m", bytes_added=-4)]) == 10
