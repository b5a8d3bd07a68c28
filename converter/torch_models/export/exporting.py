"""``export``: a module is checked, captured by one of the exporters, tidied, and written with its provenance."""

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
from converter.torch_models.export import calls
from converter.torch_models.export.calls import Answer, Rebuild
from converter.torch_models.export.exporters import (
    Axes,
    Dynamic,
    capture_by_export,
    capture_by_tracing,
    clean_up,
    correct_output_shapes,
    resolve_axes,
    strip_traces,
    widen,
)
from converter.torch_models.spec import Kind, Loaded
from converter.torch_models.spec.files import list_first
from converter.torch_models.spec.libraries import need

_TRAINING_OPS = ("batch_norm", "_native_batch_norm_legit", "native_batch_norm", "dropout", "native_dropout")


def prepare_module(loaded: Loaded, *, strict: bool = True) -> tuple[str, ...]:
    """Bring the module into eval mode on the CPU, and look for what would make its export useless.

    Parameters
    ----------
    strict : bool
        Whether a batch norm without statistics, and parameters that are not finite, are errors or only remarks.

    Returns
    -------
    tuple of str
        Remarks for the user.

    Raises
    ------
    ExportError
        The module has no parameters yet, or (if `strict`) what it computes is no use.
    """
    _check_materialised(loaded)
    notes = [*_move_to_cpu(loaded), *_set_eval_mode(loaded)]
    serious = [*_find_missing_statistics(loaded), *_find_not_finite(loaded)]
    if serious and strict:
        raise ExportError(f"{loaded.label}: {serious[0]}, or export it as it is with --no-strict")
    return (*notes, *serious, *_find_odd_statistics(loaded))


def _check_materialised(loaded: Loaded) -> None:
    torch = need("torch")
    tensors = list(_all_tensors(loaded.module))
    lazy = [n for n, t in tensors if isinstance(t, torch.nn.parameter.UninitializedTensorMixin)]
    if lazy:
        raise ExportError(
            f"{loaded.label}: no shape yet for {list_first(lazy)} (lazy modules); run the module once in its factory, "
            "or give --weights"
        )
    empty = [n for n, t in tensors if t.is_meta]
    if empty:
        raise ExportError(f"{loaded.label}: no values for {list_first(empty)} (on the meta device); give --weights")


def _all_tensors(module: Any) -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _move_to_cpu(loaded: Loaded) -> Iterator[str]:
    devices = sorted({str(t.device) for _, t in _all_tensors(loaded.module)} - {"cpu"})
    if devices:
        loaded.module.to("cpu")
        yield f"the module was on {', '.join(devices)}; it was moved to the cpu"


def _set_eval_mode(loaded: Loaded) -> Iterator[str]:
    if loaded.kind is Kind.PROGRAM:
        yield from _check_program_mode(loaded)
        return
    modules = dict(loaded.module.named_modules())
    root = bool(getattr(loaded.module, "training", False))
    inner = [n for n, m in modules.items() if n and getattr(m, "training", False)]
    loaded.module.eval()
    left = [n for n, m in modules.items() if getattr(m, "training", False)]
    if left:
        raise ExportError(
            f"{loaded.label}: {list_first([n or 'the module' for n in left])} stays in training mode after eval(); "
            "its train() should pass the mode on"
        )
    if root:
        yield "the module came in training mode; it was set to eval mode"
    elif inner:
        yield f"{list_first(inner)} came in training mode; all was set to eval mode"


def _check_program_mode(loaded: Loaded) -> Iterator[str]:
    """A program has no modes: what it does was settled when torch.export made it."""
    for node in loaded.program.graph.nodes:
        name = getattr(getattr(node.target, "_schema", None), "name", "").rpartition("::")[2]
        if name not in _TRAINING_OPS:
            continue
        arguments = {a.name: value for a, value in zip(node.target._schema.arguments, node.args, strict=False)}
        arguments |= node.kwargs
        if arguments.get("training", arguments.get("train", False)):
            raise ExportError(
                f"{loaded.label}: was exported in training mode ({node.name}); call eval() before torch.export.export"
            )
    yield from ()


def _batch_norms(loaded: Loaded) -> list[tuple[str, Any]]:
    """The batch norms; of a scripted module too, which has lost its classes but not their names."""
    torch = need("torch")
    found = []
    for name, module in loaded.module.named_modules():
        scripted = str(getattr(module, "original_name", ""))
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) or "BatchNorm" in scripted:
            found.append((name or "the module", module))
    return found


def _find_missing_statistics(loaded: Loaded) -> Iterator[str]:
    names = [n for n, m in _batch_norms(loaded) if getattr(m, "running_mean", None) is None]
    if names:
        yield (
            f"no running statistics in batch norm {list_first(names)} (track_running_stats=False): the output depends "
            "on what else is in the batch, and nothing can be folded; train with statistics"
        )


def _find_not_finite(loaded: Loaded) -> Iterator[str]:
    torch = need("torch")
    statistics = ("running_mean", "running_var")
    tensors = [(n, t) for n, t in loaded.module.named_buffers() if n.rpartition(".")[2] in statistics]
    tensors += loaded.module.named_parameters()
    bad = [n for n, t in tensors if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        yield f"NaN or Inf in {list_first(bad)}; take a checkpoint from before the training diverged"
    negative = [n for n, t in tensors if n.endswith("running_var") and bool((t < 0).any())]
    if negative:
        yield f"a variance below zero in {list_first(negative)}; take another checkpoint"


def _find_odd_statistics(loaded: Loaded) -> Iterator[str]:
    norms = [(n, m) for n, m in _batch_norms(loaded) if getattr(m, "running_mean", None) is not None]
    still = [n for n, m in norms if getattr(m, "momentum", 0.1) == 0]
    if still:
        yield f"batch norm {list_first(still)}: momentum 0, so that training never moved the statistics"
    plain = [n for n, m in norms if getattr(m, "momentum", 0.1) is None]
    if plain:
        yield f"batch norm {list_first(plain)}: momentum None, so that the statistics average over all of training"
    counts = [getattr(m, "num_batches_tracked", None) for _, m in norms]
    if norms and not loaded.provenance.random_weights and all(c is not None and not int(c) for c in counts):
        yield "no batch norm has seen a batch: its statistics are as they were initialised"


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
    notes = [*prepare_module(loaded, strict=request.strict)]
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
    operator = calls.find_operator(exc)
    where = calls.find_running_module(exc, loaded.module)
    with _silence([]):
        where = where or calls.find_operator_module(exc, loaded, operator, rebuild(tensors)[0])
    parts = [f"in {where}" if where else "", f"at operator {operator}" if operator else ""]
    place = " ".join(part for part in parts if part)
    other = "torchscript" if exporter == "dynamo" else "dynamo"
    hint = f"; try --exporter {other}" if loaded.kind is Kind.MODULE else ""
    text = calls.describe_error(exc).rstrip(".;")
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
