"""Options of the command line: made from records, and their values parsed (`--shape`, sizes, seconds, gates).

What is no such value is a `ValueError` that says what would be. Nothing here loads a library beside click.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from converter.records.options import PROBES, STAGES
from converter.report.render import DATA_FORMS, FORMS

Command = TypeVar("Command", bound=Callable[..., Any])
REMOVE = "remove-biases"
FORMATS = ("json", *FORMS, *DATA_FORMS)


# -- from records --------------------------------------------------------------------------------------


class Option(click.Option):
    """An option that also answers to names of earlier releases, which the help does not show.

    ``kind`` and ``trusted`` are those of `converter.records.option`: files of settings are judged by them.
    ``heading`` is what it stands under in a long help.
    """

    def __init__(
        self,
        *args: Any,
        old: Sequence[str] = (),
        kind: object = "",
        trusted: bool = False,
        heading: str = "",
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self.old, self.kind, self.trusted, self.heading = tuple(old), kind, trusted, heading

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Tell the parser of the old names as well."""
        shown, self.opts = self.opts, [*self.opts, *self.old]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown


class FilePath(click.Path):
    """A path; not the option behind one whose file was forgotten, which would be written to, and not heard."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click does it; of a file of such a name the user says so with ``./``."""
        if isinstance(param, click.Option) and isinstance(value, str) and value.startswith("--"):
            self.fail(f"it needs a file, and got the option {value!r} (for a file of that name: ./{value})", param, ctx)
        return super().convert(value, param, ctx)


HEADINGS = {  # of the options of a record, in the help of a command that has many
    "FoldOptions": "What is folded, and how it is written",
    "RemovalOptions": "Biases that go by data",
    "VerifyOptions": "Comparing",
    "BenchOptions": "Latency",
}
MANY = 24  # options beyond which a help has headings


class GroupedHelp(click.Command):
    """A command whose help shows many options under headings, its own first."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options into the help."""
        given = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        shown = [(getattr(p, "heading", ""), r) for p in given if (r := p.get_help_record(ctx))]
        if len(shown) <= MANY or not any(heading for heading, _ in shown):
            super().format_options(ctx, formatter)
            return
        for heading in sorted(dict.fromkeys(h for h, _ in shown), key=bool):
            with formatter.section(heading or "Options"):
                formatter.write_dl([record for h, record in shown if h == heading])


def options(
    record: type[Any], *chosen: str, unset: bool = False, hidden: bool = False, **helps: str
) -> Callable[[Command], Command]:
    """The options of a record, in its order: all that have a help, or those ``chosen``.

    Where nothing is given the value is the record's, or None if it is to be ``unset``; the help does not show what is
    ``hidden``. ``helps`` gives a field another
    help than the record's, or another name on the command line and a help:
    ``max_time="--bench-time: Seconds to measure it for."``.
    """
    known = {f.name: f for f in fields(record) if "help" in f.metadata}
    wanted = [known[name] for name in chosen] if chosen else list(known.values())

    def decorated(command: Command) -> Command:
        for f in reversed(wanted):
            default, heading = None if unset else f.default, HEADINGS.get(record.__name__, "")
            command = _option(f, default, helps.get(f.name, ""), hidden=hidden, heading=heading)(command)
        return command

    return decorated


def _option(f: Field[Any], default: Any, other: str, *, hidden: bool, heading: str) -> Callable[[Command], Command]:
    """One option of the command line, from a field and, where it is given, another help (and name) for it."""
    flag, parameter = f.metadata["flag"] or "--" + f.name.replace("_", "-"), f.name
    if other.startswith("--"):
        flag, other = other.split(": ", 1)
        parameter = flag.removeprefix("--").replace("-", "_")
    attributes: dict[str, Any] = {"help": other or f.metadata["help"], "cls": Option, "old": f.metadata["old"]}
    kind = f.metadata["kind"]
    attributes |= {"hidden": hidden, "heading": heading, "kind": kind, "trusted": f.metadata["trusted"]}
    if f.type == "bool":
        switched_off = default is True and flag.startswith("--no-")
        attributes |= {"is_flag": True, "default": default is True and not switched_off}
        if switched_off:
            attributes["callback"] = lambda _context, _parameter, value: not value
    else:
        attributes["metavar"] = f.metadata["metavar"] or None
        attributes |= (
            {"type": click.Choice(kind), "default": default} if isinstance(kind, tuple) else KINDS[kind](default)
        )
    return click.option(flag, parameter, **attributes)


def read_by(parse: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback of a function that reads a value and says what is wrong with it."""

    def callback(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        try:
            return parse(value)
        except ValueError as wrong:
            raise click.BadParameter(str(wrong)) from None

    return callback


def _number(kind: click.ParamType[Any]) -> Callable[[Any], dict[str, Any]]:
    return lambda default: {"type": kind, "default": default}


def _parse_by(parse: Callable[[Any], Any], *, multiple: bool = True) -> Callable[[Any], dict[str, Any]]:
    """What is read from text; the default where nothing is given."""

    def attributes(default: Any) -> dict[str, Any]:
        def given_or_default(value: Any) -> Any:
            return default if value is None or value == () else parse(value)

        return {"multiple": multiple, "callback": read_by(given_or_default)}

    return attributes


# -- from text -----------------------------------------------------------------------------------------


def parse_size(value: str | None) -> int | None:
    """Bytes, with a unit: ``500MB``, ``2GiB``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(I?)B?", (value or "").strip().upper())
    n_bytes = int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2] or " ")) if found else 0
    if value is not None and not n_bytes:
        raise ValueError(f"{value!r} is not a size such as 500MB or 2GiB.")
    return n_bytes or None


def parse_shapes(values: Sequence[str]) -> dict[str, tuple[int, ...]] | None:
    """Shapes by name, from ``x=1,3,224,224``; split at the last ``=``, since a name may hold one."""
    found = {}
    for value in values:
        name, _equals, dims = value.rpartition("=")
        if not name or not re.fullmatch(r"(\d+(,\d+)*)?", dims):
            raise ValueError(f"{value!r} is not an input's shape such as x=1,3,224,224.")
        found[name] = tuple(int(dim) for dim in dims.split(",") if dim)
    return found or None


def read_arrays(values: Sequence[Path]) -> list[dict[str, Any]] | None:
    """One set of inputs per .npz file, by name."""
    if not values:
        return None
    from converter.referee.inputs import files

    return [files.read_arrays(value) for value in values]


def parse_pairs(values: Sequence[str]) -> dict[str, str]:
    """Options of a provider, or names of one model and the other's: ``k=v``."""
    found = {}
    for value in values:
        name, equals, other = value.partition("=")
        if not name or not equals or not other:
            raise ValueError(f"{value!r} is not of the form NAME=VALUE.")
        found[name] = other
    return found


def parse_ranges(values: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Ranges of random values by name, from ``x=-2:2``."""
    found = {}
    for value in values:
        name, _equals, limits = value.rpartition("=")
        try:
            low, high = (float(part) for part in limits.split(":"))
        except ValueError:
            low, high = 1.0, 0.0
        if not name or not -math.inf < low <= high < math.inf:
            raise ValueError(f"{value!r} is not an input's range such as x=-2:2.")
        found[name] = (low, high)
    return found


def parse_tolerances(values: Sequence[str]) -> list[tuple[str, str, float]]:
    """Gates on usual measures, from ``y:max_abs=1e-4``, or ``max_abs=1e-4`` for every output."""
    found = []
    for value in values:
        place, equals, limit = value.rpartition("=")
        output, _colon, metric = place.rpartition(":")
        try:
            number = float(limit)
        except ValueError:
            equals, number = "", 0.0
        if not metric or not equals:
            raise ValueError(f"{value!r} is not a tolerance such as y:max_abs=1e-4.")
        found.append((output, metric, number))
    return found


def parse_stages(values: Sequence[str]) -> list[str] | None:
    """Stages of the referee."""
    found = split_list(values)
    if unknown := [name for name in found if name not in STAGES]:
        raise ValueError(f"{unknown[0]!r} is no stage; there are {', '.join(STAGES)}.")
    return found or None


def parse_formats(values: Sequence[str]) -> list[str]:
    """Kinds of report."""
    found = split_list(values)
    if unknown := set(found) - set(FORMATS):
        raise ValueError(f"{min(unknown)!r} is no kind of report; there are {', '.join(FORMATS)}.")
    return found


def parse_share(value: str | None) -> float | None:
    """A share of one, in per cent or as a number: ``0.1%``, ``0.001``."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) *(%?)", value.strip())
    part = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if not 0 < part < 1:
        raise ValueError(f"{value!r} is not a share such as 2% or 0.02.")
    return part


def parse_margin(value: str | None) -> float | None:
    """A share of one, in per cent: ``0.1%``. Without the sign it might be meant either way, a hundredfold apart."""
    if value is None or value.strip().endswith("%"):
        return parse_share(value)
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a percentage such as 0.5%.") from None
    raise ValueError(f"{value!r} has no % sign; write {number:g}% or {100 * number:g}%.")


def parse_points(value: Any) -> float | None:
    """Percentage points, with their sign or without it: ``0.5``, ``0.5%``."""
    found = None if value is None else re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) *%?", str(value).strip())
    if value is not None and (found is None or not 0 < float(found[1]) < 100):
        raise ValueError(f"{value!r} is no number of percentage points such as 0.5%.")
    return None if found is None else float(found[1])


def parse_percentage(value: str | None) -> float | None:
    """A share that may be nothing, or more than the whole: ``0%``, ``250%``."""
    found = None if value is None else re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) *%", value.strip())
    if value is not None and found is None:
        raise ValueError(f"{value!r} is not a percentage such as 10%.")
    return None if found is None else float(found[1]) / 100


def parse_pages(values: Sequence[str]) -> list[str]:
    """Names of passes, or of what a fold may do beside them: what has a page."""
    return parse_passes(values, more=(REMOVE,))


def parse_passes(values: Sequence[str], more: Sequence[str] = ()) -> list[str]:
    """Names of passes, each of them one that there is, or of ``more``; in them - and _ are the same."""
    names = split_list(value.replace("_", "-") for value in values)
    if names:
        from converter.report import wording
        from converter.rewrite.passes import PASSES

        known = [*more, *(row.name for row in PASSES)]
        for name in names:
            if name not in known:
                raise ValueError(wording.no_such_pass(name, known))
    return names


def complete_passes(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of passes for a shell's completion."""
    from converter.rewrite.passes import PASSES

    return [row.name for row in PASSES if row.name.startswith(incomplete.replace("_", "-"))]


def parse_allowed(values: Sequence[str]) -> list[str]:
    """Names of passes, or of the one step that goes by data."""
    return sorted(parse_passes(values, more=(REMOVE,)), key=lambda name: name == REMOVE)


def parse_example_inputs(values: Sequence[str]) -> list[Any]:
    """Example inputs of a torch module, from ``x=1,3,224,224:float32``."""
    if not values:
        return []
    from converter.torch_models.spec import parse_input

    return [parse_input(value) for value in values]


def parse_open_sizes(values: Sequence[str]) -> Any:
    """Sizes that an export leaves open, from ``batch`` or ``x=0:batch,2:height``."""
    if not values:
        return ()
    from converter.torch_models.export import parse_dynamic

    return parse_dynamic(values)


def split_list(values: Iterable[str]) -> list[str]:
    """Repeating an option and giving it a list with commas are the same."""
    parts = (part.strip() for part in ",".join(values).split(","))
    return list(dict.fromkeys(part for part in parts if part))


def parse_lint_codes(value: str | None) -> frozenset[str]:
    """Codes of the linter, from ``a,b``; or ``any``."""
    from converter.records.lint import CODES

    asked = frozenset(part.strip() for part in (value or "").split(",") if part.strip())
    known = {code.name for code in CODES}
    for name in sorted(asked - known - {"any"}):
        raise ValueError(f"{name!r} is no code of lint; there are {', '.join(sorted(known))}, and any.")
    return asked


# -- kinds of options ------------------------------------------------------------------------------------


def _parse_gate(value: str) -> str:
    from converter.bench.design import normalize_gate

    return normalize_gate(value)


def _parse_study_blocks(values: Sequence[str]) -> Sequence[str]:
    from converter.study.plan import parse_blocks

    return parse_blocks(values)


# What the kinds that `converter.records.options` names are on the command line.
KINDS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "text": lambda default: {"default": default},
    "texts": _parse_by(tuple),
    "data": _parse_by(tuple),
    "metric": lambda default: {"default": default},
    "path": _number(FilePath(path_type=Path)),
    "library": _number(FilePath(exists=True, dir_okay=False, path_type=Path)),
    "natural": _number(click.IntRange(0)),
    "count": _number(click.IntRange(1)),
    "several": _number(click.IntRange(2)),
    "seconds": _number(click.FloatRange(0, min_open=True)),
    "size": _parse_by(parse_size, multiple=False),
    "share": _parse_by(parse_share, multiple=False),
    "margin": _parse_by(parse_margin, multiple=False),
    "percentage": _parse_by(parse_percentage, multiple=False),
    "points": _parse_by(parse_points, multiple=False),
    "gate": _parse_by(_parse_gate, multiple=False),
    "shapes": _parse_by(parse_shapes),
    "pairs": _parse_by(parse_pairs),
    "ranges": _parse_by(parse_ranges),
    "tolerances": _parse_by(parse_tolerances),
    "stages": _parse_by(parse_stages),
    "passes": lambda default: _parse_by(parse_passes)(default) | {"shell_complete": complete_passes},
    "only": lambda default: _parse_by(lambda v: parse_passes(v) or None)(default) | {"shell_complete": complete_passes},
    "allowed": lambda default: _parse_by(parse_allowed)(default) | {"shell_complete": complete_passes},
    "arrays": lambda default: _parse_by(read_arrays)(default) | {"type": FilePath(path_type=Path)},
    "probes": lambda _: {"type": click.Choice(PROBES), "multiple": True},
    "example_inputs": _parse_by(parse_example_inputs),
    "open_sizes": _parse_by(parse_open_sizes),
    "study_blocks": _parse_by(_parse_study_blocks),
}
