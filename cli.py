"""The command line: parse, call, print, exit.

No logic, and no heavy import outside a command: ``biasopt --help`` loads no numpy, onnx, onnxruntime or
torch. Data goes to stdout, progress and errors to stderr. Exit codes: 0 done, 1 a gate failed, 2 usage,
3 an error that the user can act on (one line), 4 inconclusive, 70 a bug in biasopt, 130 interrupted.
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from click import argument, option

from converter._version import __version__
from converter.errors import BiasoptError, DataError
from converter.report import terminal

Command = TypeVar("Command", bound=Callable[..., Any])
FILE, LIBRARY = click.Path(path_type=Path), click.Path(exists=True, dir_okay=False, path_type=Path)
NATURAL, SECONDS = click.IntRange(0), click.FloatRange(0, min_open=True)
FATES, PROVIDERS = click.Choice(["fail", "pass"]), click.Choice(["cpu", "cuda"])


def _size(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """Bytes, with a unit: ``500MB``, ``2GiB``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(I?)B?", (value or "").strip().upper())
    n_bytes = int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2] or " ")) if found else 0
    if value is not None and not n_bytes:
        raise click.BadParameter(f"{value!r} is not a size such as 500MB or 2GiB.")
    return n_bytes or None


def _shapes(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, tuple[int, ...]] | None:
    """Shapes by name, from ``x=1,3,224,224``; split at the last ``=``, since a name may hold one."""
    shapes = {}
    for value in values:
        name, _equals, dims = value.rpartition("=")
        if not name or not re.fullmatch(r"(\d+(,\d+)*)?", dims):
            raise click.BadParameter(f"{value!r} is not an input's shape such as x=1,3,224,224.")
        shapes[name] = tuple(int(dim) for dim in dims.split(",") if dim)
    return shapes or None


def _inputs(_: click.Context, __: click.Parameter, values: Sequence[Path]) -> list[dict[str, Any]] | None:
    """One set of inputs per .npz file, by name."""
    return [_arrays(value) for value in values] or None


def _arrays(path: Path) -> dict[str, Any]:
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as exc:
        raise DataError(f"{path}: no readable .npz file; save inputs by name with numpy.savez") from exc


def _kinds(_: click.Context, __: click.Parameter, values: Sequence[str]) -> list[str]:
    kinds = _split(values)
    if unknown := set(kinds) - {"json", "md"}:
        raise click.BadParameter(f"{min(unknown)!r} is no kind of report; there are json and md.")
    return kinds


def _passes(_: click.Context, param: click.Parameter, values: Sequence[str]) -> list[str] | None:
    """Names of passes, each of them one that there is; in them - and _ are the same."""
    names = _split(value.replace("_", "-") for value in values)
    if names:
        from converter.passes import PASSES
        from converter.report import words

        known = [row.name for row in PASSES]
        for name in names:
            if name not in known:
                raise click.BadParameter(words.no_such_pass(name, known))
    return names or (None if param.name == "only" else [])


def _split(values: Iterable[str]) -> list[str]:
    """Repeating an option and giving it a list with commas are the same."""
    parts = (part.strip() for part in ",".join(values).split(","))
    return list(dict.fromkeys(part for part in parts if part))


def _together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


pass_options = _together(
    option("--only", metavar="PASS", multiple=True, callback=_passes, help="Only this pass; repeatable."),
    option("--skip", metavar="PASS", multiple=True, callback=_passes, help="Not this pass; repeatable."),
    option("--keep-bn", is_flag=True, help="Keep BatchNormalization and move biases into it, to train on."),
    option("--no-growth", is_flag=True, help="Leave what needs a copy of a shared weight."),
    option("--freeze-overridable", is_flag=True, help="Make inputs that have a default value constants."),
)
check_options = _together(
    option("--no-verify", is_flag=True, help="Write without comparing outputs."),
    option("--on-inconclusive", type=FATES, default="fail", help="Outcome if undecided.  [fail]"),
    option(
        "--inputs", metavar="X.npz", type=FILE, multiple=True, callback=_inputs, help="Compare on these; repeatable."
    ),
    option("--shape", "shapes", metavar="X=1,3,8,8", multiple=True, callback=_shapes, help="Shape of input X."),
    option("--seed", metavar="N", type=NATURAL, default=0, help="Seed of the random inputs.  [0]"),
    option("--quick", is_flag=True, help="Compare on one input only."),
    option("--provider", type=PROVIDERS, default="cpu", help="Where to compare.  [cpu]"),
    option("--custom-ops", metavar="LIB", type=LIBRARY, help="Library of custom operators for onnxruntime."),
    option("--max-time", metavar="S", type=SECONDS, default=30.0, help="Seconds to compare for.  [30]"),
    option("--max-memory", metavar="SIZE", callback=_size, help="Memory to compare in.  [half of what is free]"),
    option("--report", "folder", metavar="DIR", type=FILE, help="Write reports into this folder."),
    option(
        "--formats",
        multiple=True,
        default=["json,md"],
        callback=_kinds,
        metavar="LIST",
        help="Which reports.  [json,md]",
    ),
)
json_option = option("--json", "as_json", is_flag=True, help="Print JSON.")
verbose_option = option("-v", "--verbose", is_flag=True, help="Name every node.")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a check failed, 2 usage, 3 error, 4 inconclusive, 70 bug, 130 interrupted.",
)
@click.version_option(__version__, prog_name="biasopt", message="%(prog)s %(version)s")
def cli() -> None:
    """Fold BatchNormalization and biases out of ONNX models, and check that the outputs stay the same."""


@cli.command()
@argument("model", type=FILE)
@option("-o", "--output", metavar="OUT", type=FILE, help="Where to write.  [MODEL.folded.onnx]")
@option("--in-place", is_flag=True, help="Replace MODEL itself.")
@option("--force", is_flag=True, help="Replace an OUT that exists.")
@pass_options
@option("--allow", metavar="PASS", multiple=True, callback=_passes, help="Use a pass that assumes something.")
@option("--stop-after", metavar="N", type=NATURAL, help="Stop after N rewrites.")
@check_options
@json_option
@verbose_option
@option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def fold(folder: Path | None, formats: list[str], as_json: bool, verbose: bool, quiet: bool, **asked: Any) -> int:
    """Fold, compare outputs, write the result.

    What folds exactly is folded, into MODEL.folded.onnx beside MODEL; MODEL itself is left as it is.
    Nothing is written if the outputs differ, or if that could not be decided.
    """
    from converter.passes import PASSES
    from converter.report import files, groups, to_json, words

    files.prepare(folder)  # before the work that the reports tell of
    with terminal.progress(quiet=quiet) as progress:
        result = _fold(progress=progress, **asked)
    said = groups.reasons(PASSES)
    files.write(result, said, __version__, folder, formats)
    if as_json:
        terminal.say(to_json.dumps(to_json.fold_json(result, __version__)))
    elif not quiet:
        from converter.report import text  # rich loads only where it is shown

        terminal.say(text.render(text.fold_blocks(result, said, verbose=verbose), sys.stdout))
    if (as_json or quiet) and result.exit_code:
        terminal.note(words.failure(result.parity))
    return int(result.exit_code)


@cli.command()
@argument("model", type=FILE)
@pass_options
@option("--check", is_flag=True, help="Exit 1 if anything would change.")
@json_option
@verbose_option
def inspect(model: Path, check: bool, as_json: bool, verbose: bool, **asked: Any) -> int:
    """Show what fold would do and what not, and why.

    Nothing is written, and nothing is run.
    """
    from converter import api
    from converter.passes import PASSES
    from converter.report import groups, text, to_json

    with terminal.progress() as progress:
        result = api.inspect(model, progress=progress, **asked)
    exit_code = 1 if check and (result.rewrites or result.frozen) else 0
    if as_json:
        terminal.say(to_json.dumps(to_json.inspect_json(result, __version__, exit_code)))
    else:
        terminal.say(text.render(text.inspect_blocks(result, groups.reasons(PASSES), verbose=verbose), sys.stdout))
    return exit_code


@cli.command()
@argument("names", metavar="[NAME]...", nargs=-1, callback=_passes)
@json_option
def passes(names: list[str], as_json: bool) -> int:
    """List the passes in their order, or show the pages of those named."""
    from converter.passes import PASSES
    from converter.report import pages, text, to_json

    chosen = [row for row in PASSES if row.name in names or not names]
    if as_json:
        terminal.say(to_json.dumps(to_json.passes_json(chosen, PASSES, __version__)))
    elif not names:
        terminal.say(text.render(text.passes_blocks(PASSES), sys.stdout))
    else:
        terminal.say("\n\n".join(pages.page(row, PASSES) for row in chosen))
    return 0


def _fold(model: Path, *, output: Path | None, in_place: bool, no_verify: bool, **asked: Any) -> Any:
    from converter import api

    if in_place and output is not None:
        raise click.UsageError("--in-place and --output exclude each other.")
    if not in_place and output is None:
        output = model.with_name(model.name.removesuffix(".onnx") + ".folded.onnx")
    return api.fold(model, out=output, in_place=in_place, verify=not no_verify, **asked)


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    terminal.prepare_streams()
    try:
        with cli.make_context("biasopt", list(sys.argv[1:] if argv is None else argv)) as context:
            return int(cli.invoke(context) or 0)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as usage:
        usage.show()
        return usage.exit_code
    except BiasoptError as error:
        terminal.note(f"error: {error}")
        return 3
    except (KeyboardInterrupt, click.Abort):
        terminal.note("interrupted")
        return 130
    except BrokenPipeError:  # of --help and the like; commands' own output never raises it
        terminal.mute()
        return 0
    except Exception:  # what nobody mapped is a bug, and says so
        terminal.bug(__version__)
        return 70


def main() -> NoReturn:
    """Run the command line and exit."""
    sys.exit(run())


if __name__ == "__main__":
    main()
