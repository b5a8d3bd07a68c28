"""The command line: parse, call, exit.

No logic, and no heavy import outside a command: ``biasopt --help`` loads no numpy, onnx, onnxruntime or
torch. Each command is declared here, from the options in `converter.records.options`, and carried out by the
file of its name in `converter.commands`. Data goes to stdout, progress and errors to stderr. Exit codes: 0 done,
1 a gate failed, 2 usage, 3 an error that the user can act on (one line), 4 inconclusive, 70 a bug in biasopt,
130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import click
from click import argument, option

from converter._version import __version__
from converter.commands.options import (
    FORMATS,
    Command,
    FilePath,
    GroupedHelp,
    Option,
    complete_passes,
    options,
    parse_formats,
    parse_lint_codes,
    parse_pages,
    parse_share,
    read_by,
)
from converter.errors import BiasoptError, explain_os_error
from converter.isolation import belong_to_command
from converter.records.options import (
    OUTCOMES,
    PROVIDERS,
    AblateOptions,
    BatchOptions,
    BenchOptions,
    ExportOptions,
    FoldOptions,
    InspectOptions,
    LintOptions,
    RemovalOptions,
    ReplayOptions,
    ReportOptions,
    StudyOptions,
    VerifyOptions,
)
from converter.report import terminal
from converter.report.save import Ending

_COMPLETE = "_BIASOPT_COMPLETE"
GATES = ("unchanged", "none")  # of inspect
FILE, COUNT = FilePath(path_type=Path), click.IntRange(1)

undecided_option = option(
    "--on-inconclusive", type=click.Choice(OUTCOMES), default="fail", help="Outcome if undecided.  [fail]"
)
json_option = option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
verbose_option = option("-v", "--verbose", is_flag=True, help="Name every node.")

force_option = option("--force", cls=Option, trusted=True, is_flag=True, help="Replace the reports of another run.")


def quietable(command: Command) -> Any:
    """The option -q, of a command whose result is its exit code, or what it writes."""

    @quiet_option
    @wraps(command)
    def with_quiet(quiet: bool, **given: Any) -> int:
        with terminal.show_only_errors() if quiet and not given.get("as_json") else nullcontext():
            return int(command(**given))

    return with_quiet


def ending_options(
    which: str = f"{', '.join(FORMATS)}.  [json,md,html]", *, has_force: bool = False
) -> Callable[[Command], Any]:
    """What becomes of the result, as one argument ``ending``; and ``argv``, for reports that say how they were made.

    ``has_force``: the command has a ``--force`` of its own, which holds for the reports, too.
    """

    def decorated(command: Command) -> Any:
        @option("--report", "folder", metavar="DIR", type=FILE, help="Write reports into this folder.")
        @option(
            "--formats",
            multiple=True,
            default=["json,md,html"],
            callback=read_by(parse_formats),
            metavar="LIST",
            help=which,
        )
        @json_option
        @option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
        @wraps(command)
        def with_ending(folder: Path | None, formats: list[str], as_json: bool, quiet: bool, **given: Any) -> int:
            force = given["force"] if has_force else given.pop("force")
            return int(command(ending=Ending(folder, formats, as_json, quiet, force), argv=_argv(), **given))

        return with_ending if has_force else force_option(with_ending)

    return decorated


def _argv() -> Sequence[str]:
    """What stood on the command line."""
    return click.get_current_context().find_root().obj or ()


class _Commands(click.Group):
    """Commands whose helps have headings where they have many options."""

    command_class = GroupedHelp


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a check failed, 2 usage, 3 error, 4 inconclusive, 70 bug, 130 interrupted.",
)
@click.version_option(__version__, "-V", "--version", prog_name="biasopt", message="%(prog)s %(version)s")
def cli() -> None:
    """Fold BatchNormalization and biases out of ONNX models, and check that the outputs stay the same."""


def _keep_blas_to_one_thread() -> None:
    """Before numpy is loaded, unless something else is asked for: idle threads of OpenBLAS spin, on all cores."""
    if not {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"} & os.environ.keys():
        os.environ["OPENBLAS_NUM_THREADS"] = "1"


def _examples(*lines: str) -> str:
    return "\b\n" + "\n".join(["Examples:", *(f"  biasopt {line}" for line in lines)])


@cli.command(
    epilog=_examples(
        "fold model.onnx",
        "fold *.onnx --out-dir folded",
        "fold model.onnx --inputs x.npz --accuracy-margin 0.1% --report out",
    )
)
@argument("models", metavar="MODEL...", type=FILE, nargs=-1, required=True)
@option("-o", "--output", metavar="OUT", type=FILE, help="Where to write; - is stdout.  [MODEL.folded.onnx]")
@option("--out-dir", metavar="DIR", type=FILE, help="Write into this folder, by the models' own names.")
@option("--dry-run", is_flag=True, help="Only say what would be done, as inspect does.")
@options(FoldOptions)
@options(RemovalOptions, "keep", "also", unset=True)
@options(RemovalOptions, "budget", unset=True, hidden=True)
@options(RemovalOptions, "inputs", unset=True, hidden=True, inputs="--data: As --inputs.")
@option("--no-verify", is_flag=True, help="Write without comparing outputs.")
@options(
    VerifyOptions,
    *("inputs", "images", "preprocess", "labels", "shapes", "seed", "quick"),
    *("provider", "provider_options", "opt_level", "custom_ops", "max_time", "max_memory", "timeout"),
    quick="Compare on one input only; a shorter --bench.",
    max_time="Seconds to add inputs to compare for.  [30]",
)
@option("--bench", is_flag=True, help="Measure the latency of both models, too.")
@options(
    BenchOptions,
    "max_time",
    "margin",
    max_time="--bench-time: Seconds to measure it for.  [120]",
    margin="--latency-margin: Slow-down allowed.  [2%]",
)
@ending_options(has_force=True)
@verbose_option
def fold(**given: Any) -> int:
    """Fold, compare outputs, write the result.

    What folds exactly is folded, into MODEL.folded.onnx beside MODEL; MODEL itself is left as it is.
    Nothing is written if the outputs differ, or if that could not be decided. MODEL may be - for stdin.
    """
    _keep_blas_to_one_thread()
    from converter.commands.fold import run

    return run(**given)


@cli.command()
@argument("patterns", metavar="MODELS...", nargs=-1, required=True)
@option("-o", "--output", metavar="OUT", type=FILE, required=True, help="Folder to write into.")
@options(BatchOptions)
@option("--verify/--no-verify", "verifies", default=True, help="Compare outputs.  [yes]")
@options(InspectOptions)
@options(VerifyOptions, "seed", "quick", "provider", "provider_options", "opt_level", "max_time")
@json_option
@option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@verbose_option
def batch(**given: Any) -> int:
    """Fold and verify many models, each in a process of its own.

    MODELS are files, folders or patterns such as 'zoo/**/*.onnx'. A crash, a hang or too much memory of one is its
    row, not the end. OUT/batch has a journal, so that a batch that was killed goes on, reports, and the summary as
    JSON, HTML and JUnit XML. The exit code is the gravest of all.
    """
    _keep_blas_to_one_thread()
    from converter.commands.batch import run

    return run(**given)


@cli.command()
@argument("models", metavar="MODEL...", type=FILE, nargs=-1, required=True)
@options(InspectOptions)
@option("--gate", type=click.Choice(GATES), help="unchanged: exit 1 if anything would change.  [none]")
@option("--check", "gate", flag_value="unchanged", hidden=True, help="As --gate unchanged.")
@option("--fates", is_flag=True, help="Name every bias, where it goes, or why it stays.")
@option("--explain", "explained", metavar="NODE", help="Show the path of one bias: what blocks it, what cancels it.")
@json_option
@verbose_option
@quietable
def inspect(**given: Any) -> int:
    """Show what fold would do and what not, and why.

    Nothing is written, and nothing is run.
    """
    from converter.commands.inspect import run

    return run(**given)


@cli.command(
    epilog=_examples(
        "verify before.onnx after.onnx",
        "verify before.onnx after.onnx --bisect",
        "verify before.onnx after.onnx --inputs x.npz --accuracy-margin 0.5%",
    )
)
@argument("a", type=FILE)
@argument("b", metavar="[B]", type=FILE, required=False)
@options(VerifyOptions)
@undecided_option
@option("--bisect", "bisects", is_flag=True, help="If they differ, find the first rewrite or tensor that does.")
@ending_options()
@verbose_option
def verify(**given: Any) -> int:
    """Check that B gives the same answers as A, up to rounding.

    A and B are any two models with the same inputs and outputs. Errors are measured against float64, so that
    there is no tolerance to choose. Exit code 0: they agree, 1: they do not, 4: that could not be decided.
    With --provider-a and --provider-b, B may be left out: the question is then whether A says the same on both.
    """
    from converter.commands.verify import run

    return run(**given)


@cli.command(context_settings={"allow_interspersed_args": False})
@option("--before", metavar="FILE", type=FILE, help="What the command reads.  [its first .onnx]")
@option("--after", metavar="FILE", type=FILE, help="What it writes.  [its last .onnx, or the same]")
@options(
    VerifyOptions,
    *("inputs", "images", "preprocess", "labels", "shapes", "seed", "quick", "samples", "stages", "names"),
    *("margin", "provider", "provider_options", "opt_level", "custom_ops", "max_time", "max_memory", "timeout"),
)
@undecided_option
@ending_options()
@verbose_option
@argument("words", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
def guard(**given: Any) -> int:
    """Run another optimiser; keep what it wrote if it is right.

    Example: biasopt guard -- onnxslim in.onnx out.onnx. Where the outputs differ, the first wrong tensor is named, the
    input is put back if it was touched, what was written is renamed to OUT.rejected, and the exit code is 1 (4 where it
    is undecided). However it ends otherwise, by an error or a signal, the input is put back, too.
    """
    from converter.integrations.guard import run

    return run(**given)


@cli.command(
    epilog=_examples(
        "bench before.onnx after.onnx",
        "bench before.onnx after.onnx --gate faster:5% --report out",
    )
)
@argument("a", type=FILE)
@argument("b", type=FILE)
@options(BenchOptions)
@undecided_option
@ending_options()
def bench(**given: Any) -> int:
    """Measure whether B is slower than A.

    Both run side by side in random order, session after session. A is also run beside itself: where the machine
    shows a difference there, only a larger one counts, and without one the answer is INCONCLUSIVE.
    """
    from converter.commands.bench import run

    return run(**given)


@cli.command()
@argument("names", metavar="[NAME]...", nargs=-1, callback=read_by(parse_pages), shell_complete=complete_passes)
@json_option
def passes(**given: Any) -> int:
    """List the passes in their order, or show the pages of those named."""
    from converter.commands.doctor import run_passes

    return run_passes(**given)


@cli.command()
@option("--provider", type=click.Choice(PROVIDERS), default="cpu", help="The provider that has to work.  [cpu]")
@json_option
def doctor(**given: Any) -> int:
    """Show what is installed, what works, what to do otherwise.

    Exit 0 if the provider that is asked for runs a convolution here, else 3.
    """
    from converter.commands.doctor import run

    return run(**given)


@cli.command()
@argument("original", type=FILE)
@argument("certificate", type=FILE)
@option("-o", "--output", metavar="OUT", type=FILE, help="Write the rebuilt model.  [only check]")
@option("--statement", metavar="S", type=FILE, help="Write an in-toto statement of it, to be signed.")
@option("--evidence", metavar="R.json", type=FILE, help="Its report.json, whose verdict the statement holds.")
@options(ReplayOptions)
@json_option
@verbose_option
@quietable
def replay(**given: Any) -> int:
    """Check a certificate of a fold, and rebuild the model by it.

    Every step is carried out and recomputed by code that shares nothing with the passes. Exit 1 names
    the first step that does not hold, and nothing is written.
    """
    from converter.commands.certificate import run

    return run(**given)


@cli.command()
@argument("spec")
@option("-o", "--output", "out", metavar="OUT", type=FILE, required=True, help="Where to write.")
@options(ExportOptions)
@json_option
@verbose_option
@quietable
def export(**given: Any) -> int:
    """Export a torch model to ONNX, batch norms intact.

    SPEC is package.module:factory, path/file.py:factory, torchvision:NAME, timm:NAME, a TorchScript file or
    a torch.export program (.pt2). Arguments may follow: torchvision:resnet50(num_classes=10).
    A file that holds more than a net, by its TorchScript or its symbolic sizes, is refused without --trust.
    Nothing is written if onnxruntime's answers are not torch's.
    """
    from converter.commands.export import run

    return run(argv=_argv(), **given)


@cli.command()
@argument("spec")
@options(LintOptions)
@option(
    "--gate",
    cls=Option,
    old=["--fail-on"],
    metavar="CODES",
    callback=read_by(parse_lint_codes),
    help="Exit 1 at these codes, or at any.",
)
@option("--fix", is_flag=True, help="Show where bias=False belongs in the source, as a diff.")
@option("--write", cls=Option, trusted=True, is_flag=True, help="With --fix: write it.")
@option(
    "--fix-checkpoint",
    "checkpoint",
    cls=Option,
    trusted=True,
    nargs=2,
    metavar="IN OUT",
    type=FILE,
    help="Make a checkpoint fit the fixed model.",
)
@option("--force", cls=Option, trusted=True, is_flag=True, help="Replace an OUT that exists.")
@option("--sarif", is_flag=True, help="Print SARIF, for code scanning.")
@option("--github", is_flag=True, help="Print annotations for GitHub's workflows.")
@json_option
@verbose_option
@quietable
def lint(sarif: bool, github: bool, as_json: bool, verbose: bool, **given: Any) -> int:
    """Find biases of a torch model that cannot matter in training.

    Nothing goes by names: the model is traced in training mode, and every finding is confirmed by running it
    in float64 with the bias changed. SPEC as of `biasopt export`.
    """
    from converter.commands.lint import run

    form = {"sarif": sarif, "github": github, "as_json": as_json, "verbose": verbose}
    return run(form=form, argv=_argv(), **given)


@cli.command()
@argument("model", type=FILE)
@options(AblateOptions)
@option("--top", metavar="N", type=COUNT, help="Show the first N biases only.  [all]")
@ending_options()
def ablate(**given: Any) -> int:
    """Say what each bias is worth on your data.

    Every bias is left out in turn, and it is worked out how well the other weights of its layer could imitate it.
    Give data that the model was not trained on. Nothing is written but reports.
    """
    from converter.commands.ablate import run

    return run(**given)


@cli.command()
@argument("model", type=FILE)
@options(AblateOptions)
@ending_options()
def ask(**given: Any) -> int:
    """Does bias make a difference in your net? One page, on your data.

    Which biases cannot matter, which could be imitated by weights, and what removing them would cost, on the data
    and beside it, next to what the study of small nets says. Reports hold what `ablate` reports.
    """
    from converter.commands.ablate import run

    given["probe"] = given["probe"] or ("contrast", "offset")
    return run(question=True, **given)


@cli.command()
@options(StudyOptions)
@option("--jobs", metavar="N", type=COUNT, help="Stacks of nets trained side by side.  [cores]")
@ending_options("Which reports: json, md, html, text.  [json,md,html]")
def study(**given: Any) -> int:
    """Does bias make a difference? Train small nets with and without.

    Needs torch, and no network. Parts: exact, identity, contrast, widths, points, recall, ablation, depth, mechanism,
    norms, capacity, drift, rates.
    """
    from converter.commands.study import run

    return run(**given)


@cli.command()
@argument("document", metavar="R.json", type=FILE)
@option("-o", "--output", "folder", metavar="DIR", type=FILE, help="Write into this folder.  [print]")
@option("--formats", multiple=True, callback=read_by(parse_formats), metavar="LIST", help="As of fold.")
@force_option
@options(ReportOptions)
@option("--margin", hidden=True, callback=read_by(parse_share), help="The margin that the report has.")
@verbose_option
def report(**given: Any) -> int:
    """Make a report again, in other formats or by other limits.

    R.json is the report.json of fold, verify, bench, ablate or study. Nothing is run. With --rethreshold the exit
    code is that of the new verdict.
    """
    from converter.commands.report import run

    return run(**given)


@cli.command()
@argument("models", metavar="[MODEL]...", type=FILE, nargs=-1)
@option("--show", is_flag=True, help="Show the settings; as without it.")
@json_option
def config(models: Sequence[Path], show: bool, as_json: bool) -> int:
    """Show the project's settings, and where each comes from.

    They are read from biasopt.toml, or [tool.biasopt] of pyproject.toml, here or further up in the repository; the
    variable BIASOPT_CONFIG names another file, or is empty for none. With MODEL, those that hold for it.
    """
    from converter.integrations.config import run

    return run(cli, models, as_json=as_json)


@cli.command(name="help")
@argument("name", metavar="[COMMAND]", default="")
@click.pass_context
def help_command(context: click.Context, name: str) -> int:
    """Show the help of a command, or of all."""
    parent = context.parent
    assert parent is not None
    if not name:
        terminal.say(parent.get_help() + "\n")
        return 0
    _, found, _ = cli.resolve_command(parent, [name])
    assert found is not None
    with found.make_context(name, [], parent=parent, resilient_parsing=True) as of_command:
        terminal.say(of_command.get_help() + "\n")
    return 0


def _configured(argv: list[str]) -> list[str]:
    """The command line with the project's settings; see `converter.integrations.config`."""
    from converter.integrations.config import add_settings

    return add_settings(cli, argv)


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    if instruction := os.environ.get(_COMPLETE):  # a shell asks what could stand next, or for the script that asks
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "biasopt", _COMPLETE, instruction)
    terminal.prepare_streams()
    terminal.leave_on_signals()
    belong_to_command()
    given_argv = list(sys.argv[1:] if argv is None else argv)
    try:
        given_argv = _configured(given_argv)
        with cli.make_context("biasopt", list(given_argv), obj=given_argv) as context:
            return int(cli.invoke(context) or 0)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as usage:
        with suppress(OSError):  # nobody reads it, or there is no room for it
            usage.show()
        return usage.exit_code
    except BiasoptError as error:
        terminal.note(f"error: {error}")
        return 3
    except (KeyboardInterrupt, click.Abort):
        return terminal.tell_interrupted()
    except BrokenPipeError:  # of --help and the like; commands' own output never raises it
        terminal.mute()
        return 0
    except OSError as error:
        terminal.mute()  # of --help and the like, where stdout is full
        if error.errno == errno.ENOSPC and error.filename is None:
            terminal.note(f"error: stdout: cannot be written ({error.strerror}); free space or send it elsewhere")
        else:
            terminal.note(f"error: {explain_os_error(error)}")
        return 3
    except Exception:  # what nobody mapped is a bug, and says so
        if terminal.was_interrupted():  # a library that was being loaded made an error of its own of it
            return terminal.tell_interrupted()
        terminal.bug(__version__)
        return 70


def main() -> NoReturn:
    """Run the command line and exit."""
    with terminal.leave_in_time():
        code = run()
    sys.exit(code)


if __name__ == "__main__":
    main()
