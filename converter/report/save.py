"""What is to become of a report: files in a folder, the finding on stdout, on stderr why a command failed.

All files but ``report.json`` are made from what that holds, so that `biasopt report` can make them again.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.dataclass import dataclass
from converter.errors import BiasoptError
from converter.report import terminal
from converter.report.render import DATA_FORMS, FORMS
from converter.temporary import open_whole

if TYPE_CHECKING:
    from converter.report.blocks import Report

NAMES = {"json": "report.json"} | {name: form.file for name, form in (FORMS | DATA_FORMS).items()}
FAILING, SAMPLES = "failing_inputs.npz", "samples.npz"  # what commands write beside them
FORMATS = ("json", "md", "html")  # written where none is asked for
FINDINGS = ("json", "md", "html", "text")  # of reports that pass or fail nothing


def check_formats(formats: Iterable[str]) -> None:
    """Refuse, before the work, a form that a report which passes or fails nothing does not have."""
    for form in formats:
        if form not in FINDINGS:
            listed = f"{', '.join(FINDINGS[:-1])} or {FINDINGS[-1]}"
            raise BiasoptError(f"this report passes or fails nothing, so there is no {form} of it; give {listed}")


def prepare_folder(folder: Path | None, files: Iterable[str] = (), *, force: bool = False) -> None:
    """Make sure that reports can be written into the folder, if there is to be one; it is made when they are.

    Raises
    ------
    BiasoptError
        Nothing can be written there; or, without ``force``, one of the ``files`` is there, or an earlier report.
    """
    if folder is None:
        return
    if not force:
        present = [at for name in files if os.path.lexists(at := folder / name) and not at.is_dir()]
        if present or _holds_report(folder):
            found = present[0] if present else folder / NAMES["json"]
            said = "is the report of another run" if _holds_report(folder) else "exists already"
            raise BiasoptError(f"{found}: {said}; give another --report folder, or --force to replace it")
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
        with tempfile.TemporaryFile(dir=there):  # fails where nothing can be written, or where it is no folder
            pass
    except OSError as exc:
        raise BiasoptError(f"{folder}: cannot write reports ({exc.strerror}); choose another --report folder") from exc


def save_reports(
    document: Mapping[str, Any], folder: Path | None, formats: Iterable[str], keep: Iterable[str] = ()
) -> list[Path]:
    """Write a document in each of ``formats`` (the keys of `NAMES`), each file whole or not at all.

    Other files of an earlier report in the folder go, but those whose names are in ``keep``.

    Raises
    ------
    BiasoptError
        The folder cannot be written to.
    """
    formats = list(formats)
    if folder is None:
        return []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = {NAMES[form]: render_document(document, form) for form in formats}  # all of them, or none
        _remove_earlier(folder, {*made, *_list_beside(document), *keep})
        if "md" in formats and document["schema"].startswith("biasopt.study/"):
            _save_drawings(document, folder)
        return [write_whole(folder / name, content) for name, content in made.items()]
    except OSError as exc:
        raise BiasoptError(f"{folder}: cannot write reports ({exc.strerror}); free space or choose another") from exc


def _holds_report(folder: Path) -> bool:
    path = folder / NAMES["json"]
    try:
        if not path.is_file():  # a pipe would wait
            return False
        with path.open("rb") as file:
            return b'"schema": "biasopt.' in file.read(4096)
    except OSError:
        return False


def _list_beside(document: Mapping[str, Any]) -> Iterator[str]:
    """Files beside the reports that this run has written."""
    failing = (document.get("repro") or {}).get("failing_inputs")
    if failing:
        yield Path(failing).name
    if document.get("schema", "").startswith("biasopt.bench"):
        yield SAMPLES


def _remove_earlier(folder: Path, names: set[str]) -> None:
    """Take away what an earlier report left in the folder in other forms: a page would tell of another run."""
    for name in {*NAMES.values(), FAILING, SAMPLES} - names if _holds_report(folder) else ():
        (folder / name).unlink(missing_ok=True)


def _save_drawings(document: Mapping[str, Any], folder: Path) -> None:
    """The drawings that a study's Markdown shows, into ``figures`` beside it."""
    from converter.report.content.study_figures import draw_figures
    from converter.report.serialize import study_of

    (folder / "figures").mkdir(exist_ok=True)
    for name, figure in draw_figures(study_of(document)).items():
        write_whole(folder / "figures" / f"{name}.svg", figure.render_file())


def render_document(document: Mapping[str, Any], form: str) -> str:
    """The document in one of the formats of `NAMES`. What a format needs is loaded only for it."""
    if form == "json":
        from converter.report.serialize import dumps

        return dumps(document)
    if form in DATA_FORMS:
        return DATA_FORMS[form].render(document)
    if form in FORMS:
        from converter.report.documents import report_of

        return FORMS[form].render(report_of(document))
    raise ValueError(f"{form!r} is no kind of report; there are {', '.join(NAMES)}")


MakeDocument = Callable[[], Mapping[str, Any]]
MakeReport = Callable[[], "Report"]


@dataclass(frozen=True, slots=True)
class Ending:
    """What is to become of what a command finds."""

    folder: Path | None = None
    formats: Sequence[str] = FORMATS
    as_json: bool = False
    quiet: bool = False
    force: bool = False  # what an earlier run left in the folder is replaced

    def list_files(self, *more: str) -> list[Path]:
        """Every file that may be written into the folder; ``more`` beside the reports."""
        if self.folder is None:
            return []
        return [self.folder / name for name in (*(NAMES[form] for form in self.formats), *more)]

    def of_one(self, name: str) -> Ending:
        """The same for one of several models: a folder of its own, in the folder."""
        inside = name if name.strip(".") else f"model{name}"  # of `...onnx` the stem is the folder above
        return self if self.folder is None else replace(self, folder=self.folder / inside)

    @property
    def _shown_form(self) -> str:
        """The form that people look at first, of those that are written."""
        return next((form for form in ("html", "md", "text") if form in self.formats), self.formats[0])

    def prepare(self, *more: str, goes_on: bool = False) -> None:
        """Make sure of the folder before the work that the reports tell of: it is there for one run.

        Parameters
        ----------
        more : str
            Files that are written beside the reports.
        goes_on : bool
            The run goes on where the one ended whose report is there.
        """
        files = [NAMES[form] for form in self.formats]
        prepare_folder(self.folder, [*files, *more], force=self.force or goes_on)

    def holds_report_of(self, argv: Sequence[str]) -> bool:
        """Whether the folder has the report of this very command line."""
        if self.folder is None or not _holds_report(self.folder):
            return False
        from converter.report.serialize import read

        with suppress(BiasoptError):
            return list(read(self.folder / NAMES["json"])["tool"]["argv"]) == list(argv)
        return False

    def end(
        self,
        exit_code: int,
        document: MakeDocument,
        report: MakeReport,
        why: Callable[[], str],
        *,
        verbose: bool = False,
    ) -> int:
        """Write the reports and print; where that does not show why the command fails, say it on stderr.

        Parameters
        ----------
        document, report, why : callables
            Called only where they are needed: some of what they load is slow.

        Returns
        -------
        int
            The exit code.
        """
        if self.folder is not None:
            save_reports(document(), self.folder, self.formats)
        if not self.quiet or self.as_json:
            made = report() if not self.as_json else None
            show(document, lambda: made or report(), as_json=self.as_json, verbose=verbose)
            if self.folder is not None and made is not None:
                terminal.say(f"{'Report':{_last_column(made)}}{self.folder / NAMES[self._shown_form]}\n")
        if (self.as_json or self.quiet) and exit_code:
            terminal.note(why())
        return exit_code


def _last_column(report: Report) -> int:
    """Where the values of the last facts on the screen begin, so that a further line stands below them."""
    from converter.report.blocks import KeyValues, Medium, Only

    shown = [block for section in report.sections if section.media & Medium.TERMINAL for block in section.blocks]
    inside = [
        each
        for block in shown
        for each in (block.blocks if isinstance(block, Only) else (block,))
        if not isinstance(block, Only) or block.media & Medium.TERMINAL
    ]
    facts = [block for block in inside if isinstance(block, KeyValues) and block.rows]
    return max(len("Report"), *(len(key) for key, _ in facts[-1].rows)) + 2 if facts else len("Report") + 3


def show(document: MakeDocument, report: MakeReport, *, as_json: bool, verbose: bool = False) -> None:
    """Print the document, or for people the report."""
    if as_json:
        from converter.report.serialize import dumps

        terminal.say(dumps(document()))
    else:
        from converter.report.render.text import render_text  # rich loads only where it is shown

        terminal.say(render_text(report(), sys.stdout, verbose=verbose))


# ---- files -----------------------------------------------------------------------------------------------


def write_whole(path: Path, content: str | bytes, *, force: bool = True) -> Path:
    """Write beside the file, then take its place: a reader never sees half of it.

    Raises
    ------
    FileExistsError
        There is such a file, and it is not to be replaced by ``force``.
    OSError
        It cannot be written.
    """
    # a name that no encoding has was escaped by the report; what is left is replaced, not a crash
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    with open_whole(path, replaces=force, wait=_PATIENCE) as file:
        file.write(data)
    return path


_PATIENCE = 10.0  # seconds to wait for another run that writes the same report
