"""``export``: a loaded module, checked, captured by one of torch's exporters, tidied, written with its provenance."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.dataclass import dataclass
from converter.errors import BiasoptError, ExportError
from converter.model.file.reader import NEWEST_OPSET
from converter.torch_models.export import calls, checks, errors
from converter.torch_models.export.calls import Answer, Rebuild
from converter.torch_models.export.dynamic import Axes, Dynamic, correct_output_shapes, resolve_axes, widen
from converter.torch_models.export.exporters import capture_by_export, capture_by_tracing, clean_up, strip_traces
from converter.torch_models.spec import Kind, Loaded
from converter.torch_models.spec.libraries import need

_DATA_FROM = 1_900_000_000  # bytes of weights, above which they go to a file of their own; protobuf takes 2**31 - 1


@dataclass(frozen=True, slots=True)
class Request:
    """How to export."""

    exporter: str = ""  # empty: the one that fits
    opset: int | None = None  # None: the exporter's own default
    dynamic: Dynamic = field(default_factory=Dynamic)
    fuse_bn: bool = False
    strict: bool = True


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and what it is to be held against."""

    path: Path
    exporter: str
    opset: int
    names: tuple[str, ...]  # of the inputs
    tensors: tuple[Any, ...]  # the example, as it was given
    wide: tuple[Any, ...]  # the example with every open size other than 1, as it was exported
    rebuild: Rebuild
    answer: Answer
    axes: Axes
    notes: tuple[str, ...]


def export(
    loaded: Loaded, path: Path, request: Request, progress: Callable[[str], None] = lambda text: None
) -> Exported:
    """Export `loaded` to `path`, a file in a folder of its own that may be written to.

    Raises
    ------
    ExportError
        What the module is, or what it does, does not export; the message names the module and the operator.
    DataError
        The example or the open sizes do not fit.
    """
    exporter = _choose_exporter(loaded, request)
    notes = [*checks.prepare_module(loaded, strict=request.strict)]
    tensors, rebuild = calls.split_example(loaded)
    calls.check_inputs(loaded, tensors)
    axes = resolve_axes(request.dynamic, loaded.input_names, tensors)
    wide = widen(axes, loaded.input_names, tensors, least=2)
    progress("torch: the module on its example")
    found = calls.run_module(loaded, tensors, rebuild)
    if found.left_out:
        notes.append(f"outputs that are no tensors are left out: {', '.join(found.left_out)}")
    progress(f"torch: exporting ({exporter})")
    model, remarks = _capture(loaded, wide, rebuild, axes, found, request, exporter, path.parent)
    progress("tidying")
    notes += remarks
    opset = _finish_model(model, loaded, request, exporter)
    if axes:
        correct_output_shapes(model, loaded, wide, rebuild, axes)
    _write(model, path)
    return Exported(
        path,
        exporter,
        opset,
        loaded.input_names,
        tuple(tensors),
        tuple(wide),
        rebuild,
        found,
        axes,
        tuple(notes),
    )


def _choose_exporter(loaded: Loaded, request: Request) -> str:
    fits = {Kind.TORCHSCRIPT: "torchscript", Kind.PROGRAM: "dynamo"}.get(loaded.kind, request.exporter or "dynamo")
    if request.exporter and request.exporter != fits:
        raise ExportError(
            f"{loaded.label}: only the {fits} exporter takes such a file; leave --exporter {request.exporter} out"
        )
    if request.opset is not None and not 7 <= request.opset <= NEWEST_OPSET:
        raise ExportError(f"opset {request.opset}: exporters know 7 to {NEWEST_OPSET}; leave --opset out")
    return fits


def _capture(
    loaded: Loaded,
    tensors: Sequence[Any],
    rebuild: Rebuild,
    axes: Axes,
    found: Answer,
    request: Request,
    exporter: str,
    folder: Path,
) -> tuple[Any, list[str]]:
    how: dict[str, Any] = {"opset": request.opset, "fuse_bn": request.fuse_bn}
    remarks: list[str] = []
    try:
        with _silence(remarks):
            if exporter == "dynamo":
                return capture_by_export(loaded, tensors, rebuild, axes, found.names, **how), remarks
            seen = calls.run_module(loaded, tensors, rebuild) if axes else found
            return capture_by_tracing(loaded, tensors, rebuild, axes, seen, folder=folder, **how), remarks
    except BiasoptError:
        raise
    except Exception as exc:
        raise _describe_failure(exc, loaded, tensors, rebuild, exporter) from exc


def _describe_failure(
    exc: Exception, loaded: Loaded, tensors: Sequence[Any], rebuild: Rebuild, exporter: str
) -> ExportError:
    """The exporter's exception in one line: where, which operator, what it says, what to try."""
    operator = errors.find_operator(exc)
    where = errors.find_running_module(exc, loaded.module)
    with _silence([]):
        where = where or errors.find_operator_module(exc, loaded, operator, rebuild(tensors)[0])
    parts = [f"in {where}" if where else "", f"at operator {operator}" if operator else ""]
    place = " ".join(part for part in parts if part)
    other = "torchscript" if exporter == "dynamo" else "dynamo"
    hint = f"; try --exporter {other}" if loaded.kind is Kind.MODULE else ""
    text = errors.describe_error(exc).rstrip(".;")
    return ExportError(f"{loaded.label}: the {exporter} exporter failed{place and f' {place}'}: {text}{hint}")


@contextlib.contextmanager
def _silence(remarks: list[str]) -> Iterator[None]:
    """Keep torch's logs, graphs and warnings off the terminal, but for what tracing took for a constant."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("always")
            yield
    finally:
        logging.disable(before)
    traced = [w for w in caught if w.category.__name__ == "TracerWarning"]
    if traced:
        places = list(dict.fromkeys(f"{Path(w.filename).name}:{w.lineno}" for w in traced))
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        remarks.append(
            f"tracing took values of the example for constants at {', '.join(places[:3])}{more}: "
            "other inputs may take another way there"
        )


def _finish_model(model: Any, loaded: Loaded, request: Request, exporter: str) -> int:
    """Tidy, strip, note the provenance; returns the opset."""
    names = frozenset(n for n, _ in (*loaded.module.named_parameters(), *loaded.module.named_buffers()))
    if not request.fuse_bn:
        with _silence([]):
            clean_up(model, names)
    strip_traces(model)
    opset = int(model.opset_imports.get("", 0))
    if request.opset is not None and opset != request.opset:
        raise ExportError(
            f"{loaded.label}: the {exporter} exporter wrote opset {opset}, not {request.opset}, which it could not "
            f"convert to; take --opset {opset}, or --exporter torchscript for older ones"
        )
    came = loaded.provenance
    model.metadata_props.update(
        {
            "biasopt.version": __version__,
            "biasopt.torch": came.torch,
            "biasopt.spec": came.spec,
            "biasopt.weights_sha256": came.weights_sha256 or ("random" if came.random_weights else ""),
            "biasopt.exporter": exporter,
            "biasopt.opset": str(opset),
        }
    )
    return opset


def _write(model: Any, path: Path) -> None:
    ir = need("onnx_ir")
    held = sum(int(v.const_value.nbytes) for v in model.graph.initializers.values() if v.const_value is not None)
    try:
        if held > _DATA_FROM:
            ir.save(model, path, external_data=f"{path.name}.data")
        else:
            ir.save(model, path)
    except OSError as exc:
        raise ExportError(f"{path}: cannot be written ({exc.strerror or exc}); make room, or give another -o") from exc
