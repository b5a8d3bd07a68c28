"""Sentences are for people: below `report/` nothing is decided by one.

A tag stands beside each sentence (``EffectKind``, a code); passes, verdicts and options ask for that.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CONVERTER = Path(__file__).parent.parent / "converter"
BELOW = ("records", "model", "rewrite", "referee", "runtime", "bench", "ablate", "torch_models", "commands", "study")

# What a sentence made for people is called, and what would search it.
SENTENCES = frozenset("how why clause message messages warning warnings sentence advice note notes".split())
SEARCHES = frozenset(
    "startswith endswith partition rpartition removeprefix removesuffix find index split rsplit replace".split()
)
PATTERNS = frozenset("sub search match fullmatch findall split".split())

# What looks alike and is none of our sentences.
OTHERS = frozenset(
    {
        ("referee/inputs/images.py", "how == 'none'"),  # a choice of scaling
        ("referee/inputs/images.py", "how == 'tanh'"),
        ("referee/inputs/images.py", "how == 'unit'"),
        ("runtime/machine.py", "line.startswith('model name')"),  # of /proc/cpuinfo
        ("torch_models/spec/libraries.py", "'does not exist' in str(exc)"),  # of torch
    }
)


def _name(node: ast.expr) -> str:
    """``why`` of ``why``, ``self.why`` and ``parity.why``."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_sentence(node: ast.expr) -> bool:
    return _name(node) in SENTENCES


def _is_phrase(node: ast.expr) -> bool:
    """Words with a blank between them: no name, code or option looks like that."""
    text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    return sum(word.isalpha() for word in text.strip(":.,").split()) > 1


def _is_text(node: ast.expr) -> bool:
    """A piece of a sentence: not the empty one, which only says that there is none."""
    constant = isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value != ""
    return constant or isinstance(node, ast.JoinedStr) or _name(node).isupper()


def _searched(node: ast.AST) -> bool:
    """Whether the expression compares or searches a sentence."""
    match node:
        case ast.Compare(left, ops, others):
            sides = [left, *others]
            equal = any(isinstance(op, ast.Eq | ast.NotEq) for op in ops)
            inside = any(isinstance(op, ast.In | ast.NotIn) for op in ops)
            if equal and any(map(_is_sentence, sides)) and any(map(_is_text, sides)):
                return True
            if (equal and any(map(_is_phrase, sides))) or (inside and _is_phrase(left)):
                return True
            return inside and any(map(_is_sentence, others)) and _is_text(left)
        case ast.Call(ast.Attribute(value, attr), args):
            if attr in SEARCHES and (_is_sentence(value) or any(map(_is_phrase, args))):
                return True
            return attr in PATTERNS and _name(value) == "re" and any(map(_is_sentence, args))
    return False


def searches(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every place where a sentence decides."""
    for node in ast.walk(ast.parse(source)):
        if _searched(node):
            yield getattr(node, "lineno", 0), ast.unparse(node)


@pytest.mark.parametrize("room", BELOW)
def test_no_sentence_is_compared_or_searched(room: str) -> None:
    found = {
        (path.relative_to(CONVERTER).as_posix(), text)
        for path in sorted((CONVERTER / room).rglob("*.py"))
        for _, text in searches(path.read_text(encoding="utf-8"))
    }
    assert found - OTHERS == set()


def test_what_looks_alike_is_still_there() -> None:
    """A place that went leaves the list."""
    rooms = {path.split("/")[0] for path, _ in OTHERS}
    assert rooms <= set(BELOW)
    for path, text in OTHERS:
        assert text in [said for _, said in searches((CONVERTER / path).read_text(encoding="utf-8"))], path


@pytest.mark.parametrize(
    "source",
    [
        "flow |= 'sum to one' in how",
        "step.how == LINEARITY",
        "parity.why.startswith('faster')",
        "a, b, c = why.partition(']: ')",
        "re.sub('--max-time', '--bench-time', message)",
        "sum('does not depend' in w for w in warnings)",
        "f'{name}: ' == self.why",
    ],
)
def test_the_test_sees_one(source: str) -> None:
    assert list(searches(source))


@pytest.mark.parametrize(
    "source", ["why == ''", "if why: pass", "kind is EffectKind.DATA", "code in ('padding', 'stops')", "why is None"]
)
def test_tags_and_emptiness_may_be_asked_for(source: str) -> None:
    assert not list(searches(source))
