"""Table C, run on the folder: what a shift passes on its way into the next linear operator, what stops it."""

from __future__ import annotations

import pytest

from tests.cases import judge
from tests.cases.case import Case, Want
from tests.cases.table_c import CANCELLED, EQUAL, LIVE, ROWS

FOLD = [c for c in ROWS if c.want is Want.FOLD]
REFUSE = [c for c in ROWS if c.want is Want.REFUSE]


@pytest.mark.parametrize("case", FOLD, ids=str)
def test_passes_through(case: Case) -> None:
    judge.folds(case)


@pytest.mark.parametrize("case", REFUSE, ids=str)
def test_stops(case: Case) -> None:
    judge.refuses(case)


@pytest.mark.parametrize("case", [c for c in REFUSE if c.twin], ids=str)
def test_twin_folds(case: Case) -> None:
    judge.twin_folds(case)


@pytest.mark.parametrize("case", EQUAL, ids=str)
def test_outputs_stay(case: Case) -> None:
    judge.stays_equal(case)


@pytest.mark.parametrize("case", CANCELLED, ids=str)
def test_cancelled_bias_goes(case: Case) -> None:
    judge.folds(case)


@pytest.mark.parametrize("case", LIVE, ids=str)
def test_live_bias_stays(case: Case) -> None:
    judge.stays_equal(case)
    judge.reaches_goal(case)
