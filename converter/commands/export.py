"""``export_model``: torch in, a checked ONNX file out, folded if that is asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converter.commands.export_check import parity_with_torch
from converter.commands.fold import FoldResult, fold
from converter.commands.judging import exit_code
from converter.errors import ExportError, ModelError
from converter.model.file import ModelFile, problems
from converter.records import Counts, Parity
from converter.torch_models.export import Dynamic, Exported, Request, export, parse_dynamic
from converter.torch_models.spec import InputSpec, Loaded, Provenance, load, parse_input, wrap_module


@dataclass(frozen=True, slots=True)
class TensorPort:
    """An input or output of the exported model; an open size is a name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was exported, with the proof; `output` is None where nothing was written."""

    spec: str
    output: Path | None
    exporter: str
    opset: int
    provenance: Provenance
    inputs: tuple[TensorPort, ...]
    outputs: tuple[TensorPort, ...]
    counts: Counts  # of the exported model, before any fold
    size_bytes: int
    notes: tuple[str, ...]
    parity: Parity | None
    fold: FoldResult | None = None
    exit_code: int = 0


def export_model(
    spec: Any,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    inputs: Sequence[str | InputSpec] = (),
    example: Any = None,
    dynamic: Sequence[str] | Dynamic = (),
    opset: int | None = None,
    exporter: str | None = None,
    fuse_bn: bool = False,
    strict: bool = True,
    force: bool = False,
    verify: bool = True,
    folded: bool = False,
    quick: bool = False,
    seed: int = 0,
    on_inconclusive: str = "fail",
    trust: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> ExportResult:
    """Export a torch model to ONNX with its batch norms intact, and hold it against torch.

    The output is whole or absent. A failed proof is returned (``exit_code`` 1, or 4 where it is inconclusive), not
    raised, and nothing is written.

    Parameters
    ----------
    spec : str or torch.nn.Module
        See `converter.torch_models.spec.loader`.
    out : path
        Where to write; weights above 2 GB go to ``OUT.data``.
    weights : path, optional
        A state dict; see `converter.torch_models.spec.loader`.
    inputs : sequence of str
        ``x=1,3,224,224:float32`` for each input.
    example : str, or tensors, optional
        ``file.py:function`` that makes the inputs; or, for a module, the inputs themselves.
    dynamic : sequence of str
        ``batch``, or ``x=0:batch,2:height``: the sizes to leave open.
    opset : int, optional
        The exporter's own default otherwise.
    exporter : {"dynamo", "torchscript"}, optional
        dynamo, except for a TorchScript file.
    fuse_bn : bool
        Let the exporter fuse Conv and BatchNorm itself.
    strict : bool
        Whether keys of `weights` that do not fit, batch norms without statistics and parameters that are not finite
        are errors.
    force : bool
        Replace an existing output.
    verify : bool
        Compare with torch, and if `folded`, the folded model with the exported one.
    folded : bool
        Go on to the folded model, as `fold` does.
    quick : bool
        Fewer inputs for the comparisons.
    seed : int
        Of random weights and inputs.
    on_inconclusive : {"fail", "pass"}
        What an undecided comparison counts as.
    trust : bool
        Load a TorchScript file or a ``.pt2`` even if it holds what may run as code.
    progress : callable, optional
        Told in a few words what is being done.

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
    target = _target(Path(out), force=force)
    progress("torch: making the module")
    loaded = _loaded(spec, weights, inputs, example, strict, seed, trust)
    opened = dynamic if isinstance(dynamic, Dynamic) else parse_dynamic(dynamic)
    request = Request(exporter or "", opset, opened, fuse_bn, strict)
    with _room(target) as folder:
        made = export(loaded, Path(folder) / target.name, request, progress)
        _check_proto(loaded, made)
        parity = parity_with_torch(loaded, made, quick=quick, progress=progress) if verify else None
        code = exit_code(parity, on_inconclusive)
        how: dict[str, Any] = {"verify": False, "only": ()}
        if folded and code == 0:
            how = {"verify": verify, "quick": quick, "seed": seed, "on_inconclusive": on_inconclusive}
        # Folding nothing is a copy, whole or absent; it counts what the model holds, too.
        done = fold(made.path, out=target if code == 0 else None, force=force, progress=progress, **how)
        return _result(loaded, made, done, parity, code, folded=folded and code == 0)


def _result(
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
        inputs=_ports(graph.input),
        outputs=_ports(graph.output),
        counts=done.before,
        size_bytes=done.size_bytes,
        notes=notes,
        parity=parity,
        fold=replace(done, path=None) if folded else None,
        exit_code=code or done.exit_code,
    )


def _loaded(
    spec: Any, weights: Any, inputs: Sequence[Any], example: Any, strict: bool, seed: int, trust: bool
) -> Loaded:
    shapes = tuple(given if isinstance(given, InputSpec) else parse_input(given) for given in inputs)
    file = None if weights is None else Path(weights)
    if not isinstance(spec, str | os.PathLike):
        return wrap_module(spec, inputs=shapes, example=example, weights=file, strict=strict, seed=seed)
    return load(os.fspath(spec), weights=file, inputs=shapes, example=example, strict=strict, seed=seed, trust=trust)


def _target(target: Path, *, force: bool) -> Path:
    """What would be found out too late: after the export, which may take minutes."""
    try:
        if target.is_dir():
            raise ModelError(f"{target}: is a directory; give a file name")
        if os.path.lexists(target) and not force:
            raise ModelError(f"{target}: exists already; give another output, or --force to replace it")
        if not target.parent.is_dir():
            raise ModelError(f"{target}: its directory does not exist; create it first")
    except OSError as exc:
        raise ModelError(f"{target}: cannot be written ({exc.strerror}); give another output") from exc
    return target


def _room(target: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder beside the output, where there is as much room as the output needs."""
    try:
        return tempfile.TemporaryDirectory(prefix=".biasopt-", dir=target.parent)
    except OSError as exc:
        raise ModelError(f"{target}: cannot be written ({exc.strerror}); give another output") from exc


def _check_proto(loaded: Loaded, made: Exported) -> None:
    problem = problems(ModelFile(made.path).skeleton)
    if problem:
        first = problem.splitlines()[0]
        raise ExportError(f"{loaded.label}: onnx's checker objects to what the exporter wrote ({first})")


def _ports(values: Any) -> tuple[TensorPort, ...]:
    from converter.referee.proto.source import get_dtype

    found = []
    for value in values:
        tensor = value.type.tensor_type
        dims = (d.dim_param or ("?" if not d.HasField("dim_value") else int(d.dim_value)) for d in tensor.shape.dim)
        found.append(TensorPort(value.name, str(get_dtype(tensor.elem_type)), tuple(dims)))
    return tuple(found)
