"""The tests of one pass over its rows of ``tests/cases``: it folds these, and declines those for these reasons."""

from __future__ import annotations

from typing import ClassVar

from tests.cases import judge
from tests.cases.case import Case, Want
from tests.cases.rows import ROWS
from tests.harness import assert_declines

BY_ID: dict[str, Case] = {case.id: case for case in ROWS}


class PassRows:
    """To be subclassed: the pass's name, ids of the rows that fold, and those that are declined, behind their code.

    A row that several passes may fold is the first one's.
    """

    name: ClassVar[str]
    folds: ClassVar[str]
    declines: ClassVar[str] = ""

    @classmethod
    def declined(cls) -> list[tuple[str, str]]:
        """Code and id of each row that is declined."""
        found: list[tuple[str, str]] = []
        code = ""
        for word in cls.declines.split():
            if word.endswith(":"):
                code = word[:-1]
            else:
                found.append((code, word))
        return found

    def test_lists_every_row_of_the_pass(self) -> None:
        mine = [case for case in ROWS if case.passes and case.passes[0] == self.name]
        assert sorted(self.folds.split()) == sorted(case.id for case in mine if case.want is Want.FOLD)
        refused = sorted(case.id for case in mine if case.want is Want.REFUSE)
        assert sorted(row for _, row in self.declined()) == refused

    def test_folds(self, folded: str) -> None:
        judge.folds(BY_ID[folded])

    def test_declines(self, declined: tuple[str, str]) -> None:
        code, row = declined
        case = BY_ID[row]
        assert case.code in ("", code)
        assert_declines(case.build(), self.name, code, says=case.says, **case.options)
        judge.refuses(case)

    def test_twin_folds(self, twin: str) -> None:
        judge.twin_folds(BY_ID[twin])
