"""torch's exporter by torch.export, told to leave batch norms alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from converter.errors import ExportError
from converter.export.calls import Rebuild
from converter.export.dynamic import Axes
from converter.torchspec import Kind, Loaded
from converter.torchspec.libraries import need


def capture(
    loaded: Loaded,
    tensors: Sequence[Any],
    rebuild: Rebuild,
    axes: Axes,
    outputs: Sequence[str],
    *,
    opset: int | None,
    fuse_bn: bool,
) -> Any:
    """The module as an ``onnx_ir.Model``; raises whatever torch raises.

    ``optimize=True`` would fold Conv and BatchNormalization.
    """
    torch = need("torch")
    need("onnxscript", "torch's exporter")
    if axes and loaded.kind is Kind.PROGRAM:
        raise ExportError(
            f"{loaded.label}: which of its sizes are open was settled by torch.export; leave --dynamic out"
        )
    settings: dict[str, Any] = {"input_names": loaded.input_names, "output_names": list(outputs)}
    if loaded.kind is Kind.PROGRAM:
        model = loaded.program
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
    else:
        model, (args, kwargs) = loaded.module, rebuild(tensors)
        if axes:
            settings["dynamic_shapes"] = _open(loaded, rebuild, axes)
    with torch.no_grad():
        made = torch.onnx.export(
            model, args, kwargs=kwargs, dynamo=True, optimize=fuse_bn, verbose=False, opset_version=opset, **settings
        )
    return made.model


def _open(loaded: Loaded, rebuild: Rebuild, axes: Axes) -> Any:
    """The open axes, in the structure of the arguments, by the names of forward's parameters."""
    marks = [axes.get(name) for name in loaded.input_names]
    args, kwargs = rebuild([_Mark(mark) for mark in marks])
    bound = inspect.signature(loaded.module.forward).bind(*args, **kwargs).arguments
    return {name: _unmarked(value) for name, value in bound.items()}


class _Mark:
    """Stands where a tensor stood, and holds its open axes."""

    def __init__(self, axes: Mapping[int, str] | None) -> None:
        self.axes = axes


def _unmarked(value: Any) -> Any:
    if isinstance(value, _Mark):
        return dict(value.axes) if value.axes else None
    if isinstance(value, dict):
        return {key: _unmarked(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_unmarked(part) for part in value)
    return None
