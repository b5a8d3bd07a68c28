"""torch's older exporter, by tracing, told to leave batch norms alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from converter.errors import ExportError
from converter.model.file.checker import no_remarks
from converter.torch_models.export.calls import Answer, Rebuild, tensors_of
from converter.torch_models.export.dynamic import Axes
from converter.torch_models.spec import Kind, Loaded
from converter.torch_models.spec.libraries import need


def capture(
    loaded: Loaded,
    tensors: Sequence[Any],
    rebuild: Rebuild,
    axes: Axes,
    returned: Answer,
    *,
    opset: int | None,
    fuse_bn: bool,
    folder: Path,
) -> Any:
    """The module as an ``onnx_ir.Model``; raises whatever torch raises.

    In its training mode EVAL the exporter fuses Conv and BatchNorm; PRESERVE leaves the module, which is in eval
    mode, as it is.
    """
    torch = need("torch")
    ir = need("onnx_ir", "torch's exporter")
    if loaded.kind is Kind.PROGRAM:
        raise ExportError(f"{loaded.label}: is a program of torch.export; use --exporter dynamo")
    mode = torch.onnx.TrainingMode.EVAL if fuse_bn else torch.onnx.TrainingMode.PRESERVE
    module, args = _flat(loaded, tensors, rebuild, returned)
    path = folder / "traced.onnx"
    labels = {name: dict(labels) for name, labels in axes.items()}
    labels |= _open_outputs(axes, tensors, returned, loaded)
    with no_remarks(), torch.no_grad():  # it prints from C++
        torch.onnx.export(
            module,
            args,
            str(path),  # a Path it would take for a stream, which cannot have data files
            dynamo=False,
            training=mode,
            do_constant_folding=fuse_bn,
            opset_version=opset,
            input_names=list(loaded.input_names),
            output_names=list(returned.names),
            dynamic_axes=labels or None,
        )
    return ir.load(path)


def _flat(loaded: Loaded, tensors: Sequence[Any], rebuild: Rebuild, returned: Answer) -> tuple[Any, tuple[Any, ...]]:
    """The module itself where it takes and returns plain tensors, else inside one that does."""
    args, kwargs = rebuild([t.detach().clone() for t in tensors])
    plain = not kwargs and len(args) == len(tensors) and all(a is not None for a in args)
    if (plain and returned.plain) or loaded.kind is Kind.TORCHSCRIPT:
        return loaded.module, args
    return _wrapped(loaded.module, rebuild), tuple(t.detach().clone() for t in tensors)


def _wrapped(module: Any, rebuild: Rebuild) -> Any:
    torch = need("torch")

    class Flat(torch.nn.Module):  # type: ignore[misc,name-defined]
        """Takes and returns nothing but tensors, since tracing knows no dicts."""

        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            args, kwargs = rebuild(tensors)
            return tensors_of(self.model(*args, **kwargs))

    return Flat().eval()


def _open_outputs(axes: Axes, tensors: Sequence[Any], returned: Answer, loaded: Loaded) -> dict[str, dict[int, str]]:
    """The outputs' first axes that are as long as the inputs' open first axis: the batch."""
    found = {}
    for name, tensor in zip(loaded.input_names, tensors, strict=True):
        label = axes.get(name, {}).get(0)
        if label:
            found = {
                out: {0: label}
                for out, value in zip(returned.names, returned.tensors, strict=True)
                if value.ndim and value.shape[0] == tensor.shape[0]
            }
            break
    return found
