"""``export_model``: torch in, a checked ONNX file out, folded if that is asked for."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.commands.fold import FoldResult, exit_code, fold
from converter.commands.inspect import read_ports, silence_graphsurgeon
from converter.commands.targets import Target, check_targets, list_paths
from converter.errors import ExportError, ModelError
from converter.model.file import ModelFile, problems
from converter.model.graph import load as load_graph
from converter.records import Counts, Parity
from converter.records.option import documented, merge_options
from converter.records.options import ExportOptions, FoldOptions, VerifyOptions
from converter.records.results import ExportResult
from converter.report import terminal
from converter.report.save import Ending
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.pipeline import count
from converter.temporary import find_closed
from converter.torch_models.export import Dynamic, Exported, Request, export, parse_dynamic
from converter.torch_models.export.parity import compare_with_torch
from converter.torch_models.spec import InputSpec, Loaded, load, parse_input, wrap_module

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing swept
    fcntl = None  # type: ignore[assignment]


@documented(ExportOptions)
def export_model(spec: Any, out: str | Path, options: ExportOptions | None = None, **keywords: Any) -> ExportResult:
    """Export a torch model to ONNX with its batch norms intact, and hold it against torch.

    The output is whole or absent. A failed proof is returned (``exit_code`` 1, or 4 where it is inconclusive), not
    raised, and nothing is written.

    Parameters
    ----------
    spec : str or torch.nn.Module
        See `converter.torch_models.spec.loader`.
    out : path
        Where to write; weights above 2 GB go to ``OUT.data``.
    options : ExportOptions, optional
        Or as keywords.
    {options}

    Raises
    ------
    RuntimeUnavailable
        torch, or another library that is needed, is missing.
    ModelError
        The spec names no model, its weights do not fit, or the output cannot be written.
    DataError
        The inputs do not fit.
    ExportError
        torch cannot export it; the message names the module and the operator.
    """
    asked = merge_options(ExportOptions, options, keywords)
    progress = asked.progress or (lambda stage: None)
    target = Path(out)
    check_targets([Target(target, replaces=asked.force)], list_paths(asked.weights, asked.example, spec))
    progress("torch: making the module")
    loaded = _load(spec, asked)
    opened = asked.dynamic if isinstance(asked.dynamic, Dynamic) else parse_dynamic(asked.dynamic)
    request = Request(asked.exporter or "", asked.opset, opened, asked.fuse_bn, asked.strict)
    with _open_folder(target) as folder:
        made = export(loaded, folder / target.name, request, progress)
        _close_like(made.path, list_paths(asked.weights, spec))
        _check_proto(loaded, made)
        parity = compare_with_torch(loaded, made, quick=asked.quick, progress=progress) if asked.verify else None
        code = exit_code(parity, asked.on_inconclusive)
        how = FoldOptions(verify=None, only=())
        if asked.folded and code == 0:
            proof = VerifyOptions(quick=asked.quick, seed=asked.seed) if asked.verify else None
            how = FoldOptions(verify=proof, on_inconclusive=asked.on_inconclusive)
        # Folding nothing is a copy, whole or absent.
        how = replace(how, force=asked.force, progress=progress)
        done = fold(made.path, target if code == 0 else None, how)
        return _build_result(loaded, made, done, parity, code, folded=asked.folded and code == 0)


def _build_result(
    loaded: Loaded, made: Exported, done: FoldResult, parity: Parity | None, code: int, *, folded: bool
) -> ExportResult:
    graph = ModelFile(made.path).skeleton.graph
    unread = [name for name in made.names if name not in {i.name for i in graph.input}]
    notes = (*loaded.notes, *made.notes, *(f"the model does not read input {name!r}" for name in unread))
    return ExportResult(
        spec=loaded.label,
        output=done.output,
        exporter=made.exporter,
        opset=made.opset,
        provenance=loaded.provenance,
        inputs=read_ports(graph.input),
        outputs=read_ports(graph.output),
        counts=_count(made.path),
        size_bytes=done.size_bytes,
        notes=notes,
        parity=parity,
        fold=replace(done, path=None) if folded else None,
        exit_code=code or done.exit_code,
    )


def _close_like(made: Path, sources: Sequence[Path]) -> None:
    """Who may not read the weights' file may not read the model: the fold of it, which is the output, keeps to that."""
    if closed := find_closed(sources):
        made.chmod(made.stat().st_mode & 0o7777 & ~closed)


def _count(made: Path) -> Counts:
    """What the exported model holds, its bias vectors as they stand there."""
    with silence_graphsurgeon():
        graph = load_graph(made)
        try:
            return count(Facts(graph))
        finally:
            graph.close()


def _load(spec: Any, asked: ExportOptions) -> Loaded:
    how: dict[str, Any] = {"weights": None if asked.weights is None else Path(asked.weights)}
    how |= {"inputs": tuple(i if isinstance(i, InputSpec) else parse_input(i) for i in asked.shapes)}
    how |= {"example": asked.example, "strict": asked.strict, "seed": asked.seed}
    if not isinstance(spec, str | os.PathLike):
        return wrap_module(spec, **how)
    return load(os.fspath(spec), **how, trust=asked.trust)


_PREFIX = ".biasopt-export-"
_SETTLED = 5.0  # seconds after which a folder is locked if its run lives


@contextlib.contextmanager
def _open_folder(target: Path) -> Iterator[Path]:
    """A folder beside the output, where there is as much room as the output needs.

    What runs in it is a library's code on a stranger's module, and may die so that nobody cleans up. So a run that
    lives holds a lock on its folder, and the next one removes those that nobody holds.
    """
    _sweep_folders(target.parent)
    try:
        made = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=target.parent)
    except OSError as exc:
        raise ModelError(f"{target}: cannot be written ({exc.strerror}); give another output") from exc
    with made as name, contextlib.ExitStack() as held:
        _lock_folder(Path(name), held)
        yield Path(name)


def _lock_folder(folder: Path, held: contextlib.ExitStack) -> bool:
    """Lock it until ``held`` closes; False where another process has."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        held.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sweep_folders(parent: Path) -> None:
    """Remove the folders of runs that died."""
    with contextlib.suppress(OSError):
        for folder in parent.glob(f"{_PREFIX}*"):
            ours = len(folder.name) == len(_PREFIX) + 8 and not folder.is_symlink() and folder.is_dir()
            if ours and time.time() - folder.stat().st_mtime > _SETTLED:
                with contextlib.ExitStack() as held:
                    if _lock_folder(folder, held):
                        shutil.rmtree(folder, ignore_errors=True)


def _check_proto(loaded: Loaded, made: Exported) -> None:
    problem = problems(ModelFile(made.path).skeleton)
    if problem:
        first = problem.splitlines()[0]
        raise ExportError(f"{loaded.label}: onnx's checker objects to what the exporter wrote ({first})")


def run(spec: str, out: Path, *, as_json: bool, verbose: bool, argv: Sequence[str], **given: Any) -> int:
    """The command: export, print, and return the exit code."""
    from converter.report import documents
    from converter.report.content.export import explain_failure, export_report
    from converter.report.content.fold import collect_reasons
    from converter.rewrite.passes import PASSES

    with terminal.progress() as progress:
        result = export_model(spec, out, progress=progress, **given)
    reasons = collect_reasons(PASSES)
    return Ending(as_json=as_json).end(
        result.exit_code,
        lambda: documents.export_document(result, __version__, argv=argv, said=reasons),
        lambda: export_report(result, reasons),
        lambda: explain_failure(result),
        verbose=verbose,
    )
