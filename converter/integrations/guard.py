"""``guard -- CMD``: run any optimiser's command, compare its result with its input, and keep only what is the same."""

from __future__ import annotations

import itertools
import os
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
from converter.errors import BiasoptError, ModelError
from converter.records import exit_code_of
from converter.records.options import VerifyOptions
from converter.report import terminal
from converter.report.save import Ending
from converter.temporary import rename_to_free

_REJECTED = ".rejected"
_PREFIX = ".biasopt-guard-"


@dataclass(frozen=True, slots=True)
class Kept:
    """The input as it was: a copy of the model and of its data files, by where they belong."""

    model: Path
    copies: dict[Path, Path]

    def restore(self) -> list[Path]:
        """Put back what is not as it was; returns those files.

        Raises
        ------
        OSError
            There is no room, or no right to write there.
        """
        changed = [place for place, copy in self.copies.items() if not _is_same(place, copy)]
        for place in changed:
            _copy_to(self.copies[place], place.resolve())  # where a link leads, the link stays
        return changed


def _copy_to(source: Path, target: Path, *, replaces: bool = True) -> None:
    """A copy that is whole or absent; its temporary name is nobody's, and leads nowhere else."""
    descriptor, name = tempfile.mkstemp(prefix=_PREFIX, dir=target.parent)
    os.close(descriptor)
    try:
        shutil.copy2(source, name)
        if replaces:
            Path(name).replace(target)
        else:
            rename_to_free(Path(name), target)
    finally:
        Path(name).unlink(missing_ok=True)


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

    Whatever ends the work before its end, the other's command or a signal included, the input is put back.

    Raises
    ------
    ModelError
        The model or its data cannot be read, there is no room, or it cannot be put back: then the copies stay.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=model.parent))
    except OSError as exc:
        raise ModelError(f"{model}: cannot be copied for the comparison ({exc.strerror}); make room") from exc
    is_done = False
    try:
        kept = _copy_all(model, folder)
        try:
            yield kept
        except BaseException as exc:
            restored = _restore(kept, folder)
            if restored and isinstance(exc, BiasoptError):
                exc.args = (f"{exc}; {restored[0]} is as it was before", *exc.args[1:])
            raise
        is_done = True
    except _NotPutBackError as exc:
        raise ModelError(str(exc)) from exc
    except BaseException:
        is_done = True
        raise
    finally:
        if is_done:
            shutil.rmtree(folder, ignore_errors=True)


class _NotPutBackError(Exception):
    """The copies are all that is left of the input."""


def _restore(kept: Kept, folder: Path) -> list[Path]:
    try:
        return kept.restore()
    except BaseException as exc:
        raise _NotPutBackError(f"{folder}: holds the input, which could not be put back ({exc}); copy it") from exc


def _copy_all(model: Path, folder: Path) -> Kept:
    try:
        copies = {}
        for place in (model, *list_data_files(model)):
            copy = folder / place.resolve().relative_to(model.parent.resolve())
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(place, copy)
            copies[place] = copy
    except (OSError, ValueError) as exc:
        raise ModelError(f"{model}: cannot be copied for the comparison ({exc}); make room, or give another") from exc
    return Kept(copies[model], copies)


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
        _run_command(words, target)
        with terminal.progress(quiet=ending.quiet) as progress:
            options = VerifyOptions(failing=ending.folder, progress=progress, isolated=True, **given)
            parity = with_blame(compare(kept.model, target, options), kept.model, target, options)
        if parity.a is not None:
            parity = replace(parity, a=replace(parity.a, path=str(source)))  # not the copy, which goes
        code = exit_code_of(parity.verdict, on_inconclusive)
        said = _put_aside(kept, source, target) if code else ""
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


def _run_command(words: Sequence[str], target: Path) -> None:
    try:
        running = subprocess.Popen(list(words))  # noqa: S603  (the user's own command)
    except OSError as exc:
        raise ModelError(f"{words[0]}: cannot be run ({exc.strerror}); is it installed?") from exc
    try:
        code = running.wait()
    except BaseException:  # a signal: what still writes would write over what is put back
        running.kill()
        running.wait()
        raise
    if code:
        raise ModelError(f"{words[0]}: ended with exit code {code}")
    if not target.is_file():
        raise ModelError(f"{target}: was not written by {words[0]}; give --after FILE, what it writes")


def _put_aside(kept: Kept, source: Path, target: Path) -> str:
    """The input is put back, and what is wrong or undecided gets a name by which nobody takes it for right."""
    aside = _find_free(target.with_name(f"{target.name}{_REJECTED}"))
    in_place = target.resolve() == source.resolve()
    try:
        if in_place:
            _copy_to(target, aside, replaces=False)
        else:
            rename_to_free(target, aside)
        restored = kept.restore()
    except OSError as exc:
        raise ModelError(f"{aside}: cannot be written ({exc.strerror}); what the command wrote is no model") from exc
    back = f"; {source} is as it was before" if restored or in_place else ""
    return f"what the command wrote is {aside}{back}"


def _find_free(path: Path) -> Path:
    numbered = (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
    return next(place for place in itertools.chain([path], numbered) if not os.path.lexists(place))
