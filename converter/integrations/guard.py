"""``guard -- CMD``: run any optimiser's command, compare its result with its input, and keep only what is the same."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from converter._version import __version__
from converter.commands.targets import list_data_files
from converter.commands.verify import compare
from converter.dataclass import dataclass
from converter.errors import ModelError
from converter.records import Verdict, exit_code_of
from converter.records.options import VerifyOptions
from converter.report import terminal
from converter.report.save import Ending

_REJECTED = ".rejected"


@dataclass(frozen=True, slots=True)
class Kept:
    """The input as it was: a copy of the model and of its data files, by where they belong."""

    model: Path
    copies: dict[Path, Path]

    def restore(self) -> list[Path]:
        """Put back what is not as it was; returns those files."""
        changed = [place for place, copy in self.copies.items() if not _is_same(place, copy)]
        for place in changed:
            fresh = place.with_name(f".{place.name}.biasopt-restored")
            shutil.copy2(self.copies[place], fresh)
            fresh.replace(place)
        return changed


def _is_same(a: Path, b: Path) -> bool:
    if not a.is_file() or a.stat().st_size != b.stat().st_size:
        return False
    with a.open("rb") as left, b.open("rb") as right:
        while block := left.read(1 << 20):
            if block != right.read(1 << 20):
                return False
    return True


@contextmanager
def keep(model: Path) -> Iterator[Kept]:
    """Copies of a model and its data, beside it, so that there is room for them and they are found by the same names.

    Raises
    ------
    ModelError
        The model or its data cannot be read, or there is no room.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".biasopt-guard-", dir=model.parent) as name:
            copies = {}
            for place in (model, *list_data_files(model)):
                copy = Path(name, place.resolve().relative_to(model.parent.resolve()))
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(place, copy)
                copies[place] = copy
            yield Kept(copies[model], copies)
    except (OSError, ValueError) as exc:
        raise ModelError(f"{model}: cannot be copied for the comparison ({exc}); make room, or give another") from exc


def find_models(words: Sequence[str], source: Path | None, target: Path | None) -> tuple[Path, Path]:
    """The input and the output of a command: as they are given, else its first and its last word that is a .onnx file.

    One word is both: the command works in place.

    Raises
    ------
    click.UsageError
        Nothing in the command looks like a model.
    """
    named = [Path(part) for word in words for part in (word, word.partition("=")[2]) if part.lower().endswith(".onnx")]
    there = [path for path in named if path.is_file()]
    source = source or (there[0] if there else None)
    if source is None or not source.is_file():
        raise click.UsageError(
            "no .onnx file that exists is named in the command; give --before FILE, and --after FILE."
        )
    others = [path for path in named if path != source]
    return source, target or (others[-1] if others else source)


def run(
    words: Sequence[str],
    ending: Ending,
    *,
    before: Path | None,
    after: Path | None,
    on_inconclusive: str,
    verbose: bool,
    argv: Sequence[str],
    **given: Any,
) -> int:
    """The command: run the other's, compare, and say what became of the model.

    Exit code 0: the same, 1: the command broke the model, whose input is put back, 4: undecided, 3: the command itself
    failed.
    """
    from converter.commands.bisect import with_blame
    from converter.report import documents
    from converter.report.content import Run
    from converter.report.content.verify import verify_report

    source, target = find_models(words, before, after)
    ending.prepare("failing_inputs.npz")
    with keep(source) as kept:
        _run_command(words, kept, target)
        with terminal.progress(quiet=ending.quiet) as progress:
            options = VerifyOptions(failing=ending.folder, progress=progress, isolated=True, **given)
            parity = with_blame(compare(kept.model, target, options), kept.model, target, options)
        if parity.a is not None:
            parity = replace(parity, a=replace(parity.a, path=str(source)))  # not the copy, which goes
        code = exit_code_of(parity.verdict, on_inconclusive)
        said = _put_aside(kept, source, target) if parity.verdict is Verdict.FAIL else ""
    ending.end(
        code,
        lambda: documents.verify_document(parity, argv=argv, version=__version__, exit_code=code),
        lambda: verify_report(parity, Run()),
        lambda: parity.why,
        verbose=verbose,
    )
    if said:
        terminal.note(said)
    return code


def _run_command(words: Sequence[str], kept: Kept, target: Path) -> None:
    try:
        done = subprocess.run(list(words), check=False)  # noqa: S603  (the user's own command)
    except OSError as exc:
        raise ModelError(f"{words[0]}: cannot be run ({exc.strerror}); is it installed?") from exc
    if done.returncode:
        restored = kept.restore()
        hint = f"; {restored[0]} is as it was before" if restored else ""
        raise ModelError(f"{words[0]}: ended with exit code {done.returncode}{hint}")
    if not target.is_file():
        raise ModelError(f"{target}: was not written by {words[0]}; give --after FILE, what it writes")


def _put_aside(kept: Kept, source: Path, target: Path) -> str:
    """The input is put back, and what is wrong gets a name by which nobody takes it for right."""
    aside = target.with_name(f"{target.name}{_REJECTED}")
    in_place = target.resolve() == source.resolve()
    if in_place:
        shutil.copy2(target, aside)
    else:
        target.replace(aside)
    restored = kept.restore()
    back = f"; {source} is as it was before" if restored or in_place else ""
    return f"what the command wrote is {aside}{back}"
