from __future__ import annotations

import math

import pytest

from converter.records import OutputCheck, Parity, Safety, Stage, Verdict
from converter.records.choices import StageId
from converter.report import wording


@pytest.mark.parametrize(
    ("n_bytes", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (102_000_000, "102 MB"),
        (3_100_000_000, "3.10 GB"),
        (-1_230_000, "-1.23 MB"),
    ],
)
def test_sizes_have_three_digits_in_decimal_units(n_bytes: int, said: str) -> None:
    assert wording.size(n_bytes) == said


def test_names_cannot_drive_the_terminal() -> None:
    assert wording.plain("a\x1b[31mred\x07\nb\u202e") == "a\\x1b[31mred\\x07\\nb\\u202e"
    assert wording.plain("größe/卷积 1") == "größe/卷积 1"


def test_one_of_a_thing_is_singular() -> None:
    assert [wording.count(n, "node") for n in (0, 1, 2000)] == ["0 nodes", "1 node", "2,000 nodes"]
    assert wording.count(2, "fold waits", "folds wait") == "2 folds wait"


def test_listing_shows_what_fits_and_counts_the_rest() -> None:
    assert wording.list_names(()) == ""
    assert wording.list_names(("a", "b")) == "a, b"
    assert wording.list_names(("a" * 30, "b" * 30, "c"), room=60) == "a" * 30 + ", and 2 more"
    assert wording.list_names(("a" * 500,), room=60) == "a" * 500


def test_every_safety_class_and_verdict_has_words() -> None:
    assert set(wording.SAFETY) == set(Safety)
    assert set(wording.VERDICT) == set(Verdict)


def scored(*scores: tuple[str, float | None, float | None]) -> Parity:
    checks = [Stage("algebra", Verdict.PASS, "", (OutputCheck(n, Verdict.PASS, s, limit),)) for n, s, limit in scores]
    return Parity(Verdict.PASS, "B", stages=tuple(checks))


def test_worst_is_the_output_nearest_to_its_own_limit() -> None:
    found = wording.worst(scored(("a", 3.0, 40.0), ("b", 2.0, 4.0), ("c", None, 4.0), ("d", 9.0, None)))
    assert found is not None
    assert found.name == "b"
    assert wording.worst(scored(("a", None, None))) is None
    assert wording.worst(Parity(Verdict.PASS, "D")) is None


def test_worst_is_rather_an_output_that_differs() -> None:
    sizes = {"same": (1.0, 0.0), "differs": (0.5, 1e-6), "larger": (0.5, 1e-5), "over": (3.5, 0.0)}

    def worst_of(*names: str) -> str:
        checks = tuple(OutputCheck(n, Verdict.PASS, sizes[n][0], 3.0, sizes[n][1]) for n in names)
        found = wording.worst(Parity(Verdict.PASS, "B", stages=(Stage("runtime", Verdict.PASS, "", checks),)))
        assert found is not None
        return found.name

    assert worst_of("same") == "same"
    assert worst_of("same", "differs") == "differs"
    assert worst_of("larger", "differs", "same") == "larger"
    assert worst_of("same", "over", "differs") == "over"


def test_a_score_that_is_no_number_is_the_worst() -> None:
    found = wording.worst(scored(("a", 1e9, 4.0), ("b", math.nan, 4.0), ("c", math.inf, 4.0)))
    assert found is not None
    assert found.name == "b"


def test_score_says_what_it_is_a_multiple_of() -> None:
    ratio = OutputCheck("y", Verdict.PASS, 0.954, 3.0, 1.26e-6, detail={"error_before": 1e-7, "error_after": 1e-7})
    assert wording.score(ratio) == "y: differs by 1.3e-06 at most, its error is 0.95 x the original model's (limit 3)"
    moved = OutputCheck("y\x07", Verdict.PASS, 0.11, 4.0, detail={"e": 1e-9})
    assert wording.score(moved) == "y\\x07: 0.11 x what rounding the weights can change (limit 4)"
    assert wording.score(OutputCheck("y", Verdict.PASS)) == ""


def test_a_pass_says_what_it_rests_on_scope_before_level() -> None:
    assert wording.verdict(Parity(Verdict.PASS, "B")) == "same outputs, against a float64 reference (level B)"
    per_rewrite = Parity(Verdict.PASS, "C", scope="per-rewrite")
    assert wording.verdict(per_rewrite).startswith("every rewritten place gives the same, checked per rewrite: ")


def test_times_have_as_many_digits_as_they_are_asked_for() -> None:
    assert [wording.duration(0.025142, digits) for digits in (3, 4)] == ["25.1 us", "25.14 us"]


def test_what_did_not_pass_rests_on_nothing() -> None:
    assert wording.verdict(Parity(Verdict.INCONCLUSIVE, "C", scope="per-rewrite")) == "could not be decided (level C)"


def test_every_stage_has_its_words() -> None:
    assert list(wording.STAGE) == list(StageId)
