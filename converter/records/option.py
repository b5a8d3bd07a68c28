"""A field of a record that is an option: what it notes, and what functions that take such records do with them.

The command line is made from these notes (`converter.commands.options`), and so are the tables of parameters in the
docstrings of the API. A function of the API takes its record, or fields of it as keywords, or both: see
`merge_options`.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, field, fields, replace
from typing import Any, TypeVar

Record = TypeVar("Record")
Function = TypeVar("Function", bound=Callable[..., Any])


class OptionRecord:
    """A record of options; in print, those that are not as by default."""

    def __repr__(self) -> str:
        known = fields(self)  # type: ignore[arg-type]
        values = ((f.name, getattr(self, f.name), f.default) for f in known)
        changed = ", ".join(f"{name}={value!r}" for name, value, default in values if value is not default)
        return f"{type(self).__name__}({changed})"


def option(
    default: Any,
    help: str,  # noqa: A002  (as click calls it)
    metavar: str = "",
    kind: str | Sequence[str] = "text",
    *,
    flag: str = "",
    old: str = "",
    was: str = "",
    trusted: bool = False,
    doc: str = "",
) -> Any:
    """A field that is an option of the command line.

    Parameters
    ----------
    help : what ``--help`` says
    kind : a name in `converter.commands.options.KINDS`, or the choices that there are
    flag : its name there, where that is not the field's; ``--no-x`` of a bool that is True turns it off
    old : names that it had there in earlier releases, and still answers to
    was : the same of the keyword in Python
    trusted : it names code, or gives up a file or a protection: a file of settings that nobody named cannot give it
    doc : what the API's docstring says, where that is not ``help``
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "metavar": metavar,
            "kind": kind,
            "flag": flag,
            "old": tuple(old.split()),
            "was": was,
            "trusted": trusted,
            "doc": doc,
        },
    )


def argument(default: Any, doc: str, *, was: str = "") -> Any:
    """A field that is an argument of the API alone; ``was``: its name in earlier releases."""
    return field(default=default, metadata={"doc": doc, "was": was})


def names(record: type[Any]) -> tuple[str, ...]:
    """The names of the fields of a record."""
    return tuple(f.name for f in fields(record))


def merge_options(record: type[Record], options: Record | None, keywords: Mapping[str, Any]) -> Record:
    """A record with the fields that are given as keywords.

    Raises
    ------
    TypeError
        A keyword is no field; the message names those that there are.
    """
    keywords = rename_old(keywords, record)
    check_names(keywords, names(record))
    return replace(record() if options is None else options, **keywords)  # type: ignore[type-var]


def rename_old(keywords: Mapping[str, Any], *records: type[Any]) -> dict[str, Any]:
    """The keywords by the names that the fields of ``records`` have now.

    Raises
    ------
    TypeError
        One is given by its old name and by its new one.
    """
    now = {f.metadata["was"]: f.name for record in records for f in fields(record) if f.metadata.get("was")}
    for old, new in now.items():
        if old in keywords and new in keywords:
            raise TypeError(f"{old} and {new} are one argument; give {new} alone")
    return {now.get(name, name): value for name, value in keywords.items()}


def check_names(keywords: Iterable[str], known: Iterable[str]) -> None:
    """Find what no function takes before the work, not after it."""
    known = sorted(known)
    if unknown := sorted(set(keywords) - set(known)):
        raise TypeError(f"there is no argument {unknown[0]!r}; there are {', '.join(known)}")


def documented(*records: type[Any]) -> Callable[[Function], Function]:
    """Fill in ``{options}`` in a function's docstring, and its keywords in its signature, from the records it takes."""

    def fill(function: Function) -> Function:
        known = {f.name: f for record in records for f in reversed(fields(record))}
        if function.__doc__:
            table = textwrap.indent(_table(list(reversed(known.values()))), "    ")
            function.__doc__ = function.__doc__.replace("    {options}", table)
        signature = inspect.signature(function)
        plain = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        more = [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
            for f in reversed(known.values())
            if f.name not in signature.parameters
        ]
        function.__signature__ = signature.replace(parameters=plain + more)  # type: ignore[attr-defined]
        return function

    return fill


def _table(known: Sequence[Field[Any]]) -> str:
    return "\n".join(f"{f.name} : {_type(f)}\n{textwrap.indent(_meaning(f), '    ')}" for f in known)


_READABLE = {
    "Any": "see below",
    "Names": "mapping of str to str",
    "Progress": "callable",
    "Shapes": "mapping of input name to shape",
    "Sequence[Any]": "sequence",
    "str | Path": "path",
}


def _type(known: Field[Any]) -> str:
    choices = known.metadata.get("kind")
    if isinstance(choices, tuple):
        return "{" + ", ".join(f'"{choice}"' for choice in choices) + "}"
    written = str(known.type).removesuffix(" | None")
    readable = _READABLE.get(written, written)
    return f"{readable}, optional" if str(known.type).endswith(" | None") else readable


def _meaning(known: Field[Any]) -> str:
    return "\n".join(textwrap.wrap(known.metadata["doc"] or _read_help(known.metadata["help"]), 110))


def _read_help(text: str) -> str:
    """The help of the command line as a sentence of a docstring: what it says in brackets is the default."""
    said, brackets, default = text.removesuffix("]").partition("  [")
    return f"{said} By default: {default}." if brackets else said
