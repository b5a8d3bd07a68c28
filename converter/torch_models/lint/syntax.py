"""Source files as LibCST sees them: calls by place and in order (a norm behind a layer), ``bias=False`` written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from converter.dataclass import dataclass
from converter.errors import ModelError, RuntimeUnavailable
from converter.records.lint import Location


def import_libcst() -> Any:
    """LibCST, or the line that says how to get it."""
    try:
        import libcst
    except ModuleNotFoundError as exc:
        raise RuntimeUnavailable(
            "libcst is not installed (--fix needs it); install the extra: pip install 'biasopt[codemod]'"
        ) from exc
    return libcst


@dataclass(slots=True)
class File:
    """One parsed source file."""

    path: Path
    content: bytes
    wrapper: Any  # libcst.MetadataWrapper
    positions: Any  # node -> CodeRange, lines from 1, columns from 0
    parents: Any  # node -> node
    calls: dict[tuple[int, int, int, int], Any]

    def call_at(self, location: Location) -> Any:
        """The call that spans a place exactly."""
        key = (location.line, location.column - 1, location.end_line, location.end_column - 1)
        return self.calls.get(key)

    def ancestors(self, node: Any) -> list[Any]:
        found = []
        while (node := self.parents.get(node)) is not None:
            found.append(node)
        return found

    def explain_separation(self, layer: Location, norm: Location, kind: str) -> str:
        """Why a norm's call does not surely go with a layer's; empty if it does."""
        a, b = self.call_at(layer), self.call_at(norm)
        if b is None or last_name(b.func) != kind:
            return f"is not made by a plain call of {kind}"
        above_a, above_b = self.ancestors(a), self.ancestors(b)
        loose = extra_conditions(above_a, above_b)
        if loose:
            line = self.positions[loose[0]].start.line
            return f"is made under a condition (line {line}) that the layer is not under"
        shared = [n for n in above_b if any(n is m for m in above_a)]
        if any(type(n).__name__ == "Call" and last_name(n.func) == "Sequential" for n in shared):
            return ""
        home = next((n for n in shared if type(n).__name__ == "ClassDef"), None)
        if home is None or not is_same_branch(above_a, above_b):
            return "is not in the same Sequential or class"
        return explain_separation(self, home, above_a, above_b)

    def without_bias(self, locations: Iterable[Location]) -> bytes:
        """The file with ``bias=False`` in the calls at these places."""
        cst = import_libcst()
        wanted = {id(self.call_at(location)) for location in locations}

        class Writer(cst.CSTTransformer):  # type: ignore[misc,name-defined,unused-ignore]
            def leave_Call(self, original_node: Any, updated_node: Any) -> Any:  # noqa: N802  (LibCST's name)
                return set_bias_false(updated_node) if id(original_node) in wanted else updated_node

        return bytes(self.wrapper.module.visit(Writer()).bytes)

    def bias_readers(self) -> tuple[int, ...]:
        """Lines that read an attribute ``bias``: it may be None now."""
        nodes = [n for n in self.positions if type(n).__name__ == "Attribute" and n.attr.value == "bias"]
        return tuple(sorted({self.positions[n].start.line for n in nodes}))

    def explain_crash(self, attributes: Collection[str], layers: Collection[str]) -> str:
        """Where something is done to a ``.bias`` that would be None, as ``zeros_(m.bias)``; empty if nowhere.

        Parameters
        ----------
        attributes : collection of str
            The names under which the layers to edit are held, as ``c`` of ``self.c``.
        layers : collection of str
            Their classes: under ``isinstance(m, Linear)`` no convolution's bias is meant.
        """
        for node in self.positions:
            if type(node).__name__ != "Attribute" or node.attr.value != "bias":
                continue
            owner = last_name(node.value)
            held = type(node.value).__name__ == "Attribute"
            if held and owner not in attributes:
                continue
            parent = self.parents.get(node)
            used = type(parent).__name__ in ("Arg", "Attribute", "Subscript") and getattr(parent, "value", None) is node
            if used and not self._is_guarded(node, layers) and last_name(getattr(parent, "attr", None)) != "bias":
                return f"line {self.positions[node].start.line} works on .bias, which would be None: ask for that there"
        return ""

    def _is_guarded(self, node: Any, layers: Collection[str]) -> bool:
        """Whether a condition around it asks for the bias, or for classes of which none is meant."""
        cst = import_libcst()
        below = node
        for above in self.ancestors(node):
            test = getattr(above, "test", None) if isinstance(above, cst.If | cst.IfExp | cst.While) else None
            if isinstance(above, cst.BooleanOperation) and below is above.right:
                test = above.left
            if test is not None and test is not below and self._asks(test, layers):
                return True
            below = above
        call = next((a for a in self.ancestors(node) if isinstance(a, cst.Call)), None)
        return call is not None and last_name(call.func) in ("isinstance", "hasattr", "getattr", "print")

    def _asks(self, test: Any, layers: Collection[str]) -> bool:
        import libcst as cst
        from libcst import matchers

        if matchers.findall(test, matchers.Attribute(attr=matchers.Name("bias"))):
            return True
        for call in matchers.findall(test, matchers.Call(func=matchers.Name("isinstance"))):
            classes = cst.ensure_type(call, cst.Call).args[-1]
            named = {last_name(n) for n in matchers.findall(classes, matchers.Attribute() | matchers.Name())}
            if not named & {*layers, "Module", "_ConvNd"}:
                return True
        return False


def parse_file(path: Path) -> File:
    """Parse a source file.

    Raises
    ------
    ModelError
        It cannot be read or parsed.
    """
    cst = import_libcst()
    from libcst import metadata

    try:
        content = path.read_bytes()
        wrapper = metadata.MetadataWrapper(cst.parse_module(content), unsafe_skip_copy=True)
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror}); check the file") from exc
    except cst.ParserSyntaxError as exc:
        raise ModelError(f"{path}: LibCST cannot parse it (line {exc.raw_line}); edit it by hand") from exc
    positions = wrapper.resolve(metadata.PositionProvider)
    parents = wrapper.resolve(metadata.ParentNodeProvider)
    calls = {}
    for node, span in positions.items():
        if isinstance(node, cst.Call):
            calls[span.start.line, span.start.column, span.end.line, span.end.column] = node
    return File(path, content, wrapper, positions, parents, calls)


def last_name(func: Any) -> str:
    """``Conv2d`` of ``nn.Conv2d`` and of ``Conv2d``."""
    found = getattr(func, "attr", func)
    return str(getattr(found, "value", "")) if type(found).__name__ == "Name" else ""


def explain_bias_refusal(call: Any, layer: str, position: int) -> str:
    """Why a call does not say plainly that it makes a bias; empty if it does."""
    if last_name(call.func) != layer:
        return f"it is no plain call of {layer}"
    if any(arg.star for arg in call.args):
        return "its arguments are unpacked from elsewhere"
    given = _bias_argument(call, position)
    if given is not None and not (type(given.value).__name__ == "Name" and given.value.value == "True"):
        return "its bias is given by an expression"
    return ""


def _bias_argument(call: Any, position: int) -> Any:
    plain = [arg for arg in call.args if arg.keyword is None]
    named = [arg for arg in call.args if arg.keyword is not None and arg.keyword.value == "bias"]
    return named[0] if named else plain[position] if len(plain) > position else None


_POSITIONS = {"Linear": 2, "Conv1d": 7, "Conv2d": 7, "Conv3d": 7} | {f"ConvTranspose{n}d": 7 for n in (1, 2, 3)}


def set_bias_false(call: Any) -> Any:
    """The call with ``bias=False``: in place of ``True``, or as a last argument in the style of the others."""
    cst = import_libcst()
    given = _bias_argument(call, _POSITIONS[last_name(call.func)])
    if given is not None:
        args = [arg.with_changes(value=cst.Name("False")) if arg is given else arg for arg in call.args]
        return call.with_changes(args=args)
    *before, last = call.args
    space = before[-1].comma.whitespace_after if before else cst.SimpleWhitespace(" ")
    trailing = last.comma if isinstance(last.comma, cst.Comma) else None
    if isinstance(last.comma, cst.Comma) and not before:
        space = call.whitespace_before_args  # one argument to a line
    after, behind = _keep_comments(cst, trailing.whitespace_after if trailing else last.whitespace_after_arg, space)
    if trailing:
        trailing = trailing.with_changes(whitespace_after=behind)
    new = cst.Arg(
        value=cst.Name("False"),
        keyword=cst.Name("bias"),
        equal=cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace("")),
        comma=trailing or cst.MaybeSentinel.DEFAULT,
        whitespace_after_arg=cst.SimpleWhitespace("") if trailing else behind,
    )
    last = last.with_changes(comma=cst.Comma(whitespace_after=after), whitespace_after_arg=cst.SimpleWhitespace(""))
    return call.with_changes(args=[*before, last, new])


def _keep_comments(cst: Any, end: Any, space: Any) -> tuple[Any, Any]:
    """What stands between the last two arguments, and what after the new one: a comment stays with its own line."""
    if not isinstance(end, cst.ParenthesizedWhitespace) or not isinstance(space, cst.ParenthesizedWhitespace):
        return space, end
    bare = cst.TrailingWhitespace(newline=end.first_line.newline)
    return end.with_changes(indent=space.indent, last_line=space.last_line), end.with_changes(
        first_line=bare, empty_lines=[]
    )


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
