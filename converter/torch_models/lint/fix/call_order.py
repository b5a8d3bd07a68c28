"""Whether a class surely calls a norm behind its layer: the order of two calls in a source file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converter.torch_models.lint.fix.syntax import File

_CONDITIONS = (
    "If",
    "IfExp",
    "For",
    "While",
    "Try",
    "TryStar",
    "Match",
    "ListComp",
    "GeneratorExp",
    "Lambda",
    "BooleanOperation",
)


def explain_separation(file: File, home: Any, above_layer: Sequence[Any], above_norm: Sequence[Any]) -> str:
    """Why a norm is not surely called where its layer is, as ``if self.use_norm`` makes it; empty if it is.

    Only of two that a class holds under names of their own; what a Sequential holds is called as one.
    """
    layer, norm = _assigned_attribute(above_layer), _assigned_attribute(above_norm)
    if not layer or not norm or layer == norm:
        return ""
    first, then = _calls_of(file, home, layer), _calls_of(file, home, norm)
    for use in first if then else ():
        above = file.ancestors(use)
        behind = [n for n in then if _is_surely_called(file, n, use, above)]
        if not behind:
            return f"is not surely called behind it (line {file.positions[use].start.line})"
        line = _find_return(file, _function(above), _call_end(file, use), min(_call_end(file, n) for n in behind))
        if line:
            return f"is not surely called behind it: a return stands between (line {line})"
    return ""


def _is_surely_called(file: File, norm: Any, layer: Any, above: Sequence[Any]) -> bool:
    """Whether a call of the norm stands behind one of the layer, in its function and under no condition more."""
    around = file.ancestors(norm)
    if _function(around) is not _function(above) or _call_end(file, norm) < _call_end(file, layer):
        return False
    return not extra_conditions(above, around) and is_same_branch(above, around)


def _call_end(file: File, node: Any) -> tuple[int, int]:
    """Where a call is made: at the end of its arguments."""
    end = file.positions[node].end
    return end.line, end.column


def _function(above: Sequence[Any]) -> Any:
    return next((n for n in above if type(n).__name__ in ("FunctionDef", "Lambda")), None)


def _calls_of(file: File, home: Any, name: str) -> list[Any]:
    """Calls of ``self.name`` inside a class."""
    return [
        n for n in file.calls.values() if _attribute_name(n.func) == name and any(m is home for m in file.ancestors(n))
    ]


def _find_return(file: File, function: Any, first: tuple[int, int], last: tuple[int, int]) -> int:
    """The line of a return between two places of a function; 0 without one."""
    for node, span in file.positions.items():
        between = type(node).__name__ == "Return" and first < _call_end(file, node) < last
        if between and any(n is function for n in file.ancestors(node)):
            return int(span.start.line)
    return 0


def extra_conditions(above_a: Sequence[Any], above_b: Sequence[Any]) -> list[Any]:
    """The conditions that the second call is under and the first is not."""
    return [n for n in above_b if type(n).__name__ in _CONDITIONS and not any(n is m for m in above_a)]


def _attribute_name(node: Any) -> str:
    """``c`` of ``self.c``, whatever the method calls its module."""
    if type(node).__name__ != "Attribute" or type(node.value).__name__ != "Name":
        return ""
    return str(node.attr.value)


def _assigned_attribute(above: Sequence[Any]) -> str:
    """``c`` of ``self.c = …``, for what stands in it."""
    made = next((n for n in above if type(n).__name__ in ("Assign", "AnnAssign")), None)
    if made is None:
        return ""
    return _attribute_name(made.targets[0].target if type(made).__name__ == "Assign" else made.target)


def is_same_branch(above_a: Sequence[Any], above_b: Sequence[Any]) -> bool:
    """Whether two calls are not on the two sides of one condition."""
    branches = [n for n in above_b if type(n).__name__ in ("If", "IfExp")]
    for branch in branches:
        side_a = above_a[[n is branch for n in above_a].index(True) - 1]
        side_b = above_b[[n is branch for n in above_b].index(True) - 1]
        if side_a is not side_b:
            return False
    return True
