"""The table of passes: each has its tests, its place, its page; and every reason for declining is in the catalogue."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

from converter.records import Safety
from converter.rewrite.passes import MEANINGS, PASSES, Check, Pass
from converter.rewrite.passes.reasons import CHECKS
from tests.rewrite.passes.walk import PassRows

HERE = Path(__file__).parent
REWRITE = Path(import_module("converter.rewrite").__path__[0])
CATALOGUE = REWRITE / "passes" / "reasons.py"

by_name = pytest.mark.parametrize("row", PASSES, ids=lambda row: row.name)


@by_name
def test_has_a_file_of_tests_with_rows_that_fold_and_rows_that_do_not(row: Pass) -> None:
    module = import_module(f"tests.rewrite.passes.test_{row.name.replace('-', '_')}")
    rows = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, PassRows) and c is not PassRows]
    assert [c.name for c in rows] == [row.name]
    assert rows[0].folded()
    assert rows[0].declined()


@by_name
def test_stands_after_what_it_names(row: Pass) -> None:
    names = [p.name for p in PASSES]
    assert all(names.index(other) < names.index(row.name) for other in row.after)


@by_name
def test_page_begins_with_a_sentence_and_says_what_is_given_and_what_results(row: Pass) -> None:
    assert re.fullmatch(r"[A-Z].*[^.]\.", row.page.splitlines()[0])
    assert row.summary + "." == row.page.splitlines()[0]
    assert re.search(r"^Given:  .*^Result: .*^Source: ", row.page, re.MULTILINE | re.DOTALL)


def test_names_differ() -> None:
    assert len({p.name for p in PASSES}) == len(PASSES)


def find_nothing(*_: object) -> None:
    """Neither match nor edits."""


def test_a_pass_alone_in_its_module_has_the_modules_name() -> None:
    row = Pass("It does nothing.", Safety.EXACT, (), find_nothing, (), lambda *_: [], find_nothing)
    assert row.name == "test-passes"
    assert Pass("", Safety.EXACT, (), find_nothing, (), lambda *_: [], find_nothing).summary == "test-passes"


def test_a_check_of_several_codes_says_which() -> None:
    both = Check(("a", "b"), lambda _, match: match)
    assert both.decline(None, ("b", "why")) == ("b", "why")  # type: ignore[arg-type]
    assert both.decline(None, None) is None  # type: ignore[arg-type]
    assert Check("a", lambda *_: "why").decline(None, None) == ("a", "why")  # type: ignore[arg-type]


# ---- the catalogue of reasons ----------------------------------------------------------------------


def strings(path: Path) -> set[str]:
    """Every string in a file that could be a code, alone or among others."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return {
        word
        for text in texts
        for word in text.replace(":", " ").split()
        if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", word)
    }


# Functions and classes whose first argument is a code.
MAKERS = {"Check", "Stop", "Block", "Kept", "stop", "block"}


def given_codes(path: Path) -> set[str]:
    """Codes that a file gives: the first argument of a maker, the first of a returned pair, tuples of a Check."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        first: ast.expr | None = None
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[1 if name in {"stop", "block"} and len(node.args) > 2 else 0] if name in MAKERS else None
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
            first = node.value.elts[0]
        parts = first.elts if isinstance(first, ast.Tuple) else [first]
        found |= {p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)}
    return {code for code in found if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code)}


SOURCES = [p for p in sorted(REWRITE.rglob("*.py")) if p != CATALOGUE]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(REWRITE)))
def test_every_code_that_is_given_has_a_meaning(path: Path) -> None:
    assert given_codes(path) <= set(MEANINGS)


def test_every_code_with_a_meaning_is_given() -> None:
    used = {word for path in SOURCES for word in strings(path)}
    assert set(MEANINGS) <= used


def test_passes_decline_with_the_codes_of_the_catalogue() -> None:
    assert {reason.code for row in PASSES for reason in row.guards} == set(CHECKS)


def test_every_code_of_a_pass_has_a_test() -> None:
    tested = {word for path in HERE.rglob("test_*.py") if path != Path(__file__) for word in strings(path)}
    assert set(CHECKS) - tested == set()
