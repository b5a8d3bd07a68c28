"""Table A: 65 models that fold, 28 that are left alone with a reason, 1 that folds later.

One pytest id per row. ``twin`` tests repair the one precondition that a refused row breaks.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.cases import judge
from tests.cases.case import Case, Want
from tests.cases.table_a import ROWS
from tests.harness import assert_declines

FOLD = [c for c in ROWS if c.want is Want.FOLD]
REFUSE = [c for c in ROWS if c.want is Want.REFUSE]
LATER = [c for c in ROWS if c.want is Want.LATER]


def test_every_row_is_here() -> None:
    assert Counter(c.want for c in ROWS) == {Want.FOLD: 65, Want.REFUSE: 28, Want.LATER: 1}
    assert len({c.id for c in ROWS}) == len(ROWS)


def test_every_refusal_names_its_code_and_has_a_twin() -> None:
    assert not [c.id for c in REFUSE if not (c.code and c.twin and c.keep)]


@pytest.mark.parametrize("case", FOLD, ids=str)
def test_folds(case: Case) -> None:
    judge.folds(case)


@pytest.mark.parametrize("case", REFUSE, ids=str)
def test_refuses(case: Case) -> None:
    judge.refuses(case)


@pytest.mark.parametrize("case", REFUSE, ids=str)
def test_twin_folds(case: Case) -> None:
    judge.twin_folds(case)


@pytest.mark.parametrize("case", LATER, ids=str)
def test_not_folded_yet_but_equal(case: Case) -> None:
    judge.stays_equal(case)


@pytest.mark.parametrize("case", LATER, ids=str)
@pytest.mark.xfail(raises=AssertionError, reason="not folded yet")
def test_folds_later(case: Case) -> None:
    judge.reaches_goal(case)


def test_quantised_weight_declines() -> None:
    (case,) = [c for c in LATER if c.code]
    assert_declines(case.build(), case.passes[0], case.code)
