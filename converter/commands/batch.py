"""``batch``: many models, here or on a cluster, with one summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.errors import BiasoptError
from converter.records.option import names
from converter.records.options import BatchOptions, InspectOptions
from converter.records.results import BatchResult
from converter.report import terminal
from converter.report.save import show, write_whole

_LEAST = 1 << 29  # bytes for a model, however many run side by side


def run(
    patterns: Sequence[str],
    output: Path,
    *,
    verifies: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> int:
    """The command: fold all of them, write the summary, and return the gravest exit code."""
    import click

    from converter.batch.run import Request, run_batch
    from converter.report.content.batch import batch_report
    from converter.report.documents import batch_document

    batch = {name: given.pop(name) for name in names(BatchOptions)}
    options = {name: given.pop(name) for name in names(InspectOptions) if name in given}
    options = {name: value for name, value in options.items() if value}
    how = {"provider": given["provider"], "provider_options": given["provider_options"]}
    if batch["bench"] and not verifies and given["quick"]:
        raise click.UsageError("--quick is of --verify and of --bench; give one of them.")
    bench = {**how, "opt_level": given["opt_level"], "seed": given["seed"], "quick": given["quick"]}
    with terminal.progress(quiet=quiet) as progress:
        asked = Request(
            patterns=patterns,
            output=output,
            **batch | {"bench": bench if batch["bench"] else None, "max_memory": find_memory(batch)},
            options=options,
            verify=dict(given) if verifies else None,
            progress=progress,
        )
        result = run_batch(asked)
    argv = _list_arguments()
    document = batch_document(result, argv=argv, version=__version__)
    save_summary(result, document, asked.records)
    if not quiet or as_json:
        show(lambda: document, lambda: batch_report(result, asked.records), as_json=as_json, verbose=verbose)
    return result.exit_code


def _list_arguments() -> Sequence[str]:
    import click

    return click.get_current_context().find_root().obj or ()


def find_memory(batch: Mapping[str, Any]) -> int | None:
    """What each model may take: as asked, else its part of what is free here; a cluster's workers are not known."""
    if batch["max_memory"] is not None or batch["scheduler"] is not None:
        return batch["max_memory"]  # type: ignore[no-any-return]
    from converter.runtime.machine import find_free_bytes
    from converter.runtime.session import count_cores

    free = find_free_bytes()
    return None if free is None else max(_LEAST, free // (batch["jobs"] or count_cores()))


def save_summary(result: BatchResult, document: Mapping[str, Any], folder: Path) -> None:
    """The summary as JSON, HTML and JUnit XML.

    Raises
    ------
    BiasoptError
        It cannot be written.
    """
    from converter.report.content.batch import batch_report, render_page
    from converter.report.render import FORMS
    from converter.report.serialize import dumps

    try:
        write_whole(folder / "summary.json", dumps(document))
        write_whole(folder / "summary.xml", FORMS["junit"].render(batch_report(result, folder)))
        write_whole(folder / "summary.html", render_page(result, folder))
    except OSError as exc:
        raise BiasoptError(f"{folder}: the summary cannot be written ({exc.strerror})") from exc
