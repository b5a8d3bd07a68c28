"""Reports as files in a folder: ``report.json`` and ``report.md``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from converter.errors import BiasoptError
from converter.report.groups import Reasons
from converter.report.markdown import fold_markdown
from converter.report.result import Folded
from converter.report.to_json import dumps, fold_json


def prepare(folder: Path | None) -> None:
    """Make sure that reports can be written into the folder, if there is to be one."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".biasopt-probe"
        probe.touch()
        probe.unlink()
    except OSError as exc:
        raise BiasoptError(f"{folder}: cannot write reports ({exc.strerror}); choose another --report folder") from exc


def write(result: Folded, said: Reasons, version: str, folder: Path | None, formats: Iterable[str]) -> None:
    """Write one fold's report in each of ``formats`` (``json``, ``md``), if there is a folder for them."""
    if folder is None:
        return
    made = {"json": lambda: dumps(fold_json(result, version)), "md": lambda: fold_markdown(result, said, version)}
    try:
        for form in formats:
            (folder / f"report.{form}").write_text(made[form](), encoding="utf-8", newline="\n")
    except OSError as exc:
        raise BiasoptError(f"{folder}: cannot write reports ({exc.strerror}); free space or choose another") from exc
