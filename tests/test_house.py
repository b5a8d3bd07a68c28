"""How the code is laid out: sizes, circles, words. The rules are in CONTRIBUTING.md."""

from __future__ import annotations

import ast
from functools import cache
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "converter"
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_FILES, MOST_LINES, MOST_SHORT = 20, 600, 20  # in a folder; in a file; files of under 40 lines

# A function is a verb. These were names of functions once, and say nothing of what a function does.
NO_VERBS = """
    said told made given held kept found shown apart alike beside together whole mine theirs asked felt warned judged
    opened closed closing wander idle seats census votes duet""".split()
# Words that stand for a term that the field has: docs/glossary.md lists ours.
NO_TERMS = {
    "Ball": "Interval",
    "Carry": "Propagate",
    "Gone": "Cancel",
    "Stop": "Block",
    "Kill": "Cancel",
    "Live": "Block",
    "Votes": "AgreementCounts",
    "Ground": "NoiseFloor",
    "Gap": "Difference",
    "Side": "ModelUnderTest",
    "Deciding": "DecisionRequest",
    "Sheet": "Graph",
    "Wire": "Tensor",
    "Opening": "InputSlot",
    "Ledger": "BiasTracker",
    "Told": "BiasChange",
    "Permit": "TraceOptions",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_at_start(path: Path) -> set[str]:
    """The modules of the package that importing ``path`` loads at once."""
    modules = {name_of(p) for p in FILES}
    found = set()
    for node in tree(path).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("converter"):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
    # What a module lies in is loaded before it, but for what lies around both.
    around = {name for module in found for name in accumulate(module.split("."), "{}.{}".format)}
    own = set(accumulate(name_of(path).split("."), "{}.{}".format))
    return found | (around - own)


def test_no_circle_of_imports() -> None:
    graph = {name_of(path): imports_at_start(path) for path in FILES}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*way, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize("folder", sorted({p.parent for p in FILES}), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_folder_is_seen_at_a_glance(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST_FILES


def test_a_file_is_a_chapter() -> None:
    sizes = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert {name: n for name, n in sizes.items() if n > MOST_LINES} == {}
    short = {name: n for name, n in sizes.items() if n < 40 and not name.endswith("__init__.py")}
    assert len(short) <= MOST_SHORT, short


def test_every_file_says_what_is_in_it() -> None:
    assert [str(p.relative_to(ROOT)) for p in FILES if not ast.get_docstring(tree(p))] == []


def test_a_function_is_a_verb() -> None:
    named = {
        f"{p.relative_to(ROOT)}:{node.lineno} {node.name}"
        for p in FILES
        for node in ast.walk(tree(p))
        if isinstance(node, ast.FunctionDef)
        and node.name.strip("_") in NO_VERBS
        and not any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)
    }
    assert sorted(named) == []


def test_classes_have_the_terms_of_the_field() -> None:
    named = {
        f"{p.relative_to(ROOT)}:{node.lineno} {node.name}: {NO_TERMS[node.name.strip('_')]}"
        for p in FILES
        for node in ast.walk(tree(p))
        if isinstance(node, ast.ClassDef) and node.name.strip("_") in NO_TERMS
    }
    assert sorted(named) == []


def test_no_name_of_a_file_is_bound_twice() -> None:
    """The second would silently be what the first was meant to be, too."""
    twice = set()
    for path in FILES:
        seen: set[str] = set()
        for node in tree(path).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets += [node.target] if isinstance(node, ast.AnnAssign) else []
            names = {t.id for t in targets if isinstance(t, ast.Name)}
            names |= {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set()
            twice |= {f"{path.relative_to(ROOT)}: {name}" for name in names & seen}
            seen |= names
    assert sorted(twice) == []


def test_no_module_has_the_name_of_what_its_package_exports() -> None:
    """``from package import name`` would mean the module or the function, by who imported what before."""
    for path in FILES:
        if path.name == "__init__.py" and path.parent != PACKAGE:
            names = all_of(path)
            exported = {node.value for node in ast.walk(names) if isinstance(node, ast.Constant)} if names else set()
            beside = {p.stem for p in path.parent.glob("*.py")} | {p.name for p in path.parent.iterdir() if p.is_dir()}
            assert not exported & beside, path


def all_of(path: Path) -> ast.expr | None:
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return node.value
    return None
