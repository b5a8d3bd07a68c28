"""``lint``: a torch model as the user names it, its findings, and what can be done about them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter._version import __version__
from converter.commands.targets import Target, check_targets, list_paths
from converter.dataclass import dataclass
from converter.errors import ModelError
from converter.records.lint import LintReport
from converter.records.option import documented, merge_options
from converter.records.options import LintOptions
from converter.report import terminal
from converter.report.save import write_whole

if TYPE_CHECKING:
    from converter.torch_models.lint import Linted
    from converter.torch_models.lint.codemod import SourceFix


@dataclass(frozen=True, slots=True)
class LintResult:
    """What was found in one model, and the model."""

    report: LintReport
    module: Any
    linted: Linted


@documented(LintOptions)
def lint_model(spec: str, options: LintOptions | None = None, **keywords: Any) -> LintResult:
    """Find the biases of a torch model that cannot matter in training.

    Parameters
    ----------
    spec : str
        See `converter.torch_models.spec.loader`.
    options : LintOptions, optional
        Or as keywords.
    {options}

    Returns
    -------
    LintResult

    Raises
    ------
    RuntimeUnavailable
        torch, or what else the spec needs, is not installed.
    ModelError
        There is no such model, or it could not be traced; the message names the module and the operator.
    DataError
        There is no example of its inputs, or it does not fit.
    """
    from converter.torch_models.spec import load, saved_kind
    from converter.torch_models.spec.libraries import need

    need("torch")
    if (saved := saved_kind(spec)) is not None:  # before anything of the file is loaded
        raise ModelError(f"{spec}: is a saved {saved}, which trains no longer; give the code that makes the model")
    from converter.torch_models.lint import examine, recording

    asked = merge_options(LintOptions, options, keywords)
    tell = asked.progress or (lambda stage: None)
    tell("making the model")
    with recording() as places:
        loaded = load(
            spec,
            weights=None if asked.weights is None else Path(asked.weights),
            inputs=asked.shapes,
            example=asked.example,
            strict=asked.strict,
            seed=asked.seed,
        )
    tell("tracing, and running in float64")
    linted = examine(
        loaded.module, loaded.example_inputs, loaded.example_kwargs, places=places, label=loaded.label, root=Path.cwd()
    )
    return LintResult(linted.report, loaded.module, linted)


def fix_checkpoint(result: LintResult, source: Path, target: Path, *, force: bool = False) -> str:
    """Write a checkpoint for the model without its dead biases; whole or not at all. Returns what was done, in a line.

    Raises
    ------
    ModelError
        `target` exists and `force` is not given, or is the source, or is no regular file; or `source` cannot be read.
    DataError
        The checkpoint does not fit the model.
    """
    from converter.torch_models.lint import strip
    from converter.torch_models.lint.strip_biases import checkpoints, migrate_checkpoint

    check_targets([Target(target, "checkpoint", replaces=force)], [source])
    stripped = strip(result.module, linted=result.linted)
    done = migrate_checkpoint(stripped, source)
    try:
        write_whole(target, done.content, force=force)
    except FileExistsError as exc:  # somebody made it meanwhile
        raise ModelError(f"{target}: exists already; give another name, or --force to replace it") from exc
    except OSError as exc:
        raise ModelError(f"{target}: cannot be written ({exc.strerror}); check the folder and the disk") from exc
    plan = checkpoints(stripped).plan
    parts = [f"{done.n_removed:,} parameters removed"]
    if plan.zeroed:
        parts.append(f"{sum(z.stop - z.start for z in plan.zeroed):,} set to zero")
    if plan.merged:
        parts.append(f"{sum(pair.n for pair in plan.merged):,} moved into b_ih")
    if plan.norms:
        parts.append(f"the running means of {len(plan.norms)} norms adjusted")
    if done.dropped:
        parts.append(f"left out {', '.join(map(str, done.dropped))}, which fits the old parameters")
    return f"{target}: {'; '.join(parts)}"


def fix_source(result: LintResult, root: Path) -> SourceFix:
    """What `bias=False` can be written into, as a diff, and what not and why; nothing is written."""
    from converter.torch_models.lint.codemod import plan_source_fix

    return plan_source_fix(result.linted, result.module, root)


def run(
    spec: str,
    *,
    gate: frozenset[str],
    fix: bool,
    write: bool,
    checkpoint: tuple[Path, Path] | None,
    force: bool,
    form: dict[str, bool],
    argv: Sequence[str],
    **given: Any,
) -> int:
    """The command: lint, print or fix, and return the exit code. ``form`` says how findings are printed."""
    import click

    from converter.report.content.lint import fix_lines

    chosen = [form["sarif"], form["github"], form["as_json"], fix]
    if sum(chosen) > 1 or (write and not fix):
        raise click.UsageError("--json, --sarif, --github and --fix exclude each other; --write goes with --fix.")
    if checkpoint is not None:
        source, target = checkpoint
        read = list_paths(source, spec, *(given.get(name) for name in ("weights", "example")))
        check_targets([Target(target, "checkpoint", replaces=force)], read)
    with terminal.progress() as progress:
        result = lint_model(spec, progress=progress, **given)
    exit_code = 1 if result.report.failed(gate) else 0
    if fix:
        source_fix = fix_source(result, Path.cwd())
        if write:
            source_fix.write()
        terminal.say(source_fix.diff, to_runner=True)  # the user's own code, for `git apply`
        for line in fix_lines(source_fix, wrote=write, checkpoint=checkpoint is not None):
            terminal.note(line)
    else:
        terminal.say(_render(result.report, argv, exit_code, **form), to_runner=form["github"])
    if checkpoint is not None:
        terminal.note(fix_checkpoint(result, *checkpoint, force=force))
    return exit_code


def _render(
    report: LintReport,
    argv: Sequence[str],
    exit_code: int,
    *,
    as_json: bool = False,
    sarif: bool = False,
    github: bool = False,
    verbose: bool = False,
) -> str:
    """The report as text, JSON, SARIF or annotations; what a form needs is loaded only for it."""
    if as_json:
        from converter.report import documents, serialize

        return serialize.dumps(documents.lint_document(report, __version__, argv=argv, exit_code=exit_code))
    if sarif or github:
        from converter.report import documents, serialize
        from converter.report.render import sarif as forms

        if github:
            return forms.workflow_commands(report, Path.cwd())
        return serialize.dumps(forms.sarif(report, __version__, Path.cwd()))
    from converter.report.content.lint import lint_report
    from converter.report.render.text import render_text

    return render_text(lint_report(report, Path.cwd()), sys.stdout, verbose=verbose)
