"""The tests of one pass over its rows of ``tests/cases``: it folds these, and declines those for these reasons."""

from __future__ import annotations

from typing import ClassVar

from tests.cases import judge
from tests.cases.case import Case, Want
from tests.cases.rows import ROWS
from tests.harness import assert_declines

_BY_ID: dict[str, Case] = {case.id: case for case in ROWS}


class PassRows:
    """To be subclassed: the pass's name, and its rows.

    Rows of ``tests/cases`` are named: ids of those that fold, and behind their code those that are declined. A row
    that several passes may fold is the first one's. Rows that the file itself holds need no names.
    """

    name: ClassVar[str]
    folds: ClassVar[str] = ""
    declines: ClassVar[str] = ""
    own: ClassVar[tuple[Case, ...]] = ()

    @classmethod
    def folded(cls) -> list[Case]:
        """Each row that folds."""
        return [*(_BY_ID[row] for row in cls.folds.split()), *(c for c in cls.own if c.want is Want.FOLD)]

    @classmethod
    def declined(cls) -> list[tuple[str, Case]]:
        """Code and row, for each that is declined."""
        found: list[tuple[str, Case]] = []
        code = ""
        for word in cls.declines.split():
            if word.endswith(":"):
                code = word[:-1]
            else:
                found.append((code, _BY_ID[word]))
        return [*found, *((c.code, c) for c in cls.own if c.want is Want.REFUSE)]

    def test_lists_every_row_of_the_pass(self) -> None:
        mine = [case for case in (*ROWS, *self.own) if case.passes and case.passes[0] == self.name]
        listed = [*self.folded(), *(case for _, case in self.declined())]
        assert sorted(case.id for case in listed) == sorted(case.id for case in mine if case.want is not Want.LATER)

    def test_folds(self, case: Case) -> None:
        judge.folds(case)

    def test_declines(self, code: str, case: Case) -> None:
        assert case.code in ("", code)
        assert_declines(case.build(), self.name, code, says=case.says, **case.options)
        judge.refuses(case)

    def test_twin_folds(self, twin: Case) -> None:
        judge.twin_folds(twin)
