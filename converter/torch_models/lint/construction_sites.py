"""Where in the source a module was constructed: noted while its factory runs, or read from the classes."""

from __future__ import annotations

import ast
import inspect
import os
import sys
import sysconfig
import textwrap
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from converter.dataclass import dataclass
from converter.records.lint import Location

_OURS = f"{Path(__file__).parents[2]}{os.sep}"  # the package
_MOST = 40  # callers of one constructor that are worth keeping


@dataclass(frozen=True, slots=True)
class Place:
    """One constructing call: where it stands, what function it stands in, and the calls that led there."""

    location: Location
    function: str
    callers: tuple[Location, ...] = ()


class Places:
    """The constructing calls of modules, by module."""

    def __init__(self) -> None:
        self._places: weakref.WeakKeyDictionary[Any, Place] = weakref.WeakKeyDictionary()

    def find(self, module: Any) -> Place | None:
        """Where a module was constructed, if that was noted."""
        return self._places.get(module)

    def note(self, module: Any, frame: FrameType | None) -> None:
        """Keep the first frame that is no constructor of this module."""
        while frame is not None and _is_constructor_of(frame, module):
            frame = frame.f_back
        locations = [(loc, f.f_code.co_qualname) for f in islice(_walk_up(frame), _MOST) if (loc := _frame_location(f))]
        if locations:
            (first, function), *rest = locations
            self._places[module] = Place(first, function, tuple(location for location, _ in rest))


def _walk_up(frame: FrameType | None) -> Iterator[FrameType]:
    """The callers, as far as biasopt's own code, which called the factory."""
    while frame is not None and not frame.f_code.co_filename.startswith(_OURS):
        yield frame
        frame = frame.f_back


def _is_constructor_of(frame: FrameType, module: Any) -> bool:
    """Whether a frame is part of making this very module: an ``__init__`` of its class or of a parent's."""
    code = frame.f_code
    first = code.co_varnames[0] if code.co_argcount else ""
    return bool(first) and frame.f_locals.get(first) is module


def _frame_location(frame: FrameType) -> Location | None:
    path = frame.f_code.co_filename
    if path.startswith("<"):
        return None
    return Location(path, *_call_extent(frame.f_code, frame.f_lasti, frame.f_lineno))


def _call_extent(code: CodeType, instruction: int, line: int) -> tuple[int, int, int, int]:
    """The call that an instruction belongs to: line, column, end line, end column, counted from 1."""
    nowhere = (None, None, None, None)
    start, end, column, end_column = next(islice(code.co_positions(), instruction // 2, None), nowhere)
    if start is None or end is None or column is None or end_column is None:
        return line, 0, 0, 0
    return start, column + 1, end, end_column + 1


@contextmanager
def recording() -> Iterator[Places]:
    """Note where each ``nn.Module`` is constructed while this is open.

    >>> with recording() as places:  # doctest: +SKIP
    ...     net = make()
    >>> lint(net, x, places=places)  # doctest: +SKIP
    """
    from torch import nn

    places, plain = Places(), nn.Module.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        places.note(self, sys._getframe(1))

    nn.Module.__init__ = init  # type: ignore[method-assign]
    try:
        yield places
    finally:
        nn.Module.__init__ = plain  # type: ignore[method-assign]


def is_installed(path: str) -> bool:
    """Whether a file belongs to an installed package, and so is nobody's to edit."""
    parts = Path(path).parts
    if "site-packages" in parts or "dist-packages" in parts:
        return True
    return Path(path).is_relative_to(sysconfig.get_paths()["stdlib"])


def find_own_call(known: Location, place: Place, root: Path) -> Location | None:
    """The nearest call in the user's folder, if the one that is `known` is not there itself."""
    for location in (place.location, *place.callers):
        path = Path(location.path)
        if path.is_absolute() and path.is_relative_to(root) and not is_installed(location.path):
            return None if location == known else location
    return None


def read_location(root: Any, name: str) -> Location | None:
    """The call in a class's source that constructs the submodule `name`, or the nearest thing to it.

    ``self.x = nn.Conv2d(...)`` and elements of a literal ``nn.Sequential(...)`` are found exactly; of a
    container that a loop fills, the line that makes the container.
    """
    parts = name.split(".") if name else []
    for depth in range(len(parts) - 1, -1, -1):
        owner = root.get_submodule(".".join(parts[:depth]))
        if type(owner).__module__.startswith("torch.nn."):
            continue
        return _read_class(type(owner), parts[depth:])
    return None


def _read_class(cls: type, path: list[str]) -> Location | None:
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
        value = _find_assignment(tree, path[0])
        if value is not None and file is not None:
            node = _find_element(value, path[1:])
            return Location(
                file,
                node.lineno + start - 1,
                node.col_offset + indent + 1,
                (node.end_lineno or node.lineno) + start - 1,
                (node.end_col_offset or 0) + indent + 1,
            )
    return None


def _find_assignment(tree: ast.AST, attribute: str) -> ast.expr | None:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for part, value in _pair_targets(target, node.value):
                match part:
                    case ast.Attribute(value=ast.Name(id="self"), attr=name) if name == attribute:
                        return value
    return None


def _pair_targets(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """``self.a, self.b = x, y`` part by part."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


def _find_element(value: ast.expr, path: list[str]) -> ast.expr:
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


def find_switched_rules(path: str) -> list[tuple[Location, str]]:
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
    names = {part for side in (value.left, *value.comparators) for part in _mentioned_names(side)}
    return any(name.lower().replace("_", "").startswith(("instancenorm", "instance")) for name in names)


def _mentioned_names(node: ast.expr) -> set[str]:
    named = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    dotted = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    said = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return named | dotted | said
