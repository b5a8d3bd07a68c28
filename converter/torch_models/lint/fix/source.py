"""Where in the source a module was constructed, read from the classes: for modules that were made unseen."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

from converter.records.lint import Location


def location(root: Any, name: str) -> Location | None:
    """The call in a class's source that constructs the submodule `name`, or the nearest thing to it.

    ``self.x = nn.Conv2d(...)`` and elements of a literal ``nn.Sequential(...)`` are found exactly; of a
    container that a loop fills, the line that makes the container.
    """
    parts = name.split(".") if name else []
    for depth in range(len(parts) - 1, -1, -1):
        owner = root.get_submodule(".".join(parts[:depth]))
        if type(owner).__module__.startswith("torch.nn."):
            continue
        return _in_class(type(owner), parts[depth:])
    return None


def _in_class(cls: type, path: list[str]) -> Location | None:
    for home in cls.__mro__:
        if home.__module__.startswith(("torch.nn.", "builtins")):
            break
        try:
            lines, start = inspect.getsourcelines(home)
            file = inspect.getsourcefile(home)
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except (OSError, TypeError, SyntaxError):
            continue
        indent = len(lines[0]) - len(lines[0].lstrip())
        value = _assigned(tree, path[0])
        if value is not None and file is not None:
            node = _element(value, path[1:])
            return Location(
                file,
                node.lineno + start - 1,
                node.col_offset + indent + 1,
                (node.end_lineno or node.lineno) + start - 1,
                (node.end_col_offset or 0) + indent + 1,
            )
    return None


def _assigned(tree: ast.AST, attribute: str) -> ast.expr | None:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for part, value in _pairs(target, node.value):
                match part:
                    case ast.Attribute(value=ast.Name(id="self"), attr=name) if name == attribute:
                        return value
    return None


def _pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """``self.a, self.b = x, y`` part by part."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


def _element(value: ast.expr, path: list[str]) -> ast.expr:
    """The call that makes an element of a container written out in full."""
    for step in path:
        if not isinstance(value, ast.Call) or not step.isdigit():
            break
        items: list[ast.expr] = value.args
        if len(items) == 1 and isinstance(items[0], ast.List | ast.Tuple):
            items = items[0].elts
        plain = not any(isinstance(item, ast.Starred) for item in items)
        if not plain or int(step) >= len(items) or not isinstance(items[int(step)], ast.Call):
            break
        value = items[int(step)]
    return value


def switched_rules(path: str) -> list[tuple[Location, str]]:
    """Assignments such as ``use_bias = norm_layer == nn.InstanceNorm2d`` in a file, with the name assigned."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123  (a path as Python's frames give it)
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and _is_switch(node.value):
            target = node.targets[0]
            name = target.id if isinstance(target, ast.Name) else getattr(target, "attr", "")
            place = Location(
                path, node.lineno, node.col_offset + 1, node.end_lineno or 0, (node.end_col_offset or 0) + 1
            )
            found.append((place, name))
    return found


def _is_switch(value: ast.expr) -> bool:
    if not isinstance(value, ast.Compare) or not all(isinstance(op, ast.Eq | ast.Is) for op in value.ops):
        return False
    names = {part for side in (value.left, *value.comparators) for part in _names(side)}
    return any(name.lower().replace("_", "").startswith(("instancenorm", "instance")) for name in names)


def _names(node: ast.expr) -> set[str]:
    named = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    dotted = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    said = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return named | dotted | said
