"""torch's exporter by torch.export, told to leave batch norms alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from converter.errors import ExportError
from converter.torch_models.export.calls import Rebuild
from converter.torch_models.export.dynamic import Axes
from converter.torch_models.spec import Kind, Loaded
from converter.torch_models.spec.libraries import need


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
    settings: dict[str, Any] = {"input_names": loaded.input_names}
    if loaded.kind is Kind.PROGRAM:
        model = loaded.program
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
    else:
        model, (args, kwargs) = loaded.module, rebuild(tensors)
        if axes:
            settings["dynamic_shapes"] = _open(loaded, rebuild, axes)
        if not kwargs and args and isinstance(args[-1], dict):
            args = (*args, {})  # torch takes a dict at the end for keywords
    with torch.no_grad():
        made = torch.onnx.export(
            model, args, kwargs=kwargs, dynamo=True, optimize=fuse_bn, verbose=False, opset_version=opset, **settings
        )
    _name_outputs(made.model.graph, outputs)
    return made.model


def _name_outputs(graph: Any, names: Sequence[str]) -> None:
    """Give the outputs their names; one that is an input, a parameter or another output becomes a copy of that.

    torch's own renaming renames what is returned twice twice, and an input with the output.
    """
    ir = need("onnx_ir")
    values = [value for value in graph.outputs if value is not None and not isinstance(value, int | float | bool | str)]
    if len(values) != len(names):
        raise ExportError(f"the exporter wrote {len(values)} outputs, but the module returns {len(names)}")
    fresh: list[Any] = []
    for value in values:
        if value.producer() is None or any(value is other for other in fresh):
            node = ir.node("Identity", [value])
            graph.append(node)
            copied = node.outputs[0]
            copied.shape, copied.type = value.shape, value.type
            fresh.append(copied)
        else:
            fresh.append(value)
    graph.outputs.clear()
    graph.outputs.extend(fresh)
    taken = {v.name: v for node in graph for v in node.outputs}
    for value, name in zip(fresh, names, strict=True):
        other = taken.get(name)
        if other is not None and other is not value:
            other.name = f"{name}_inner"
        value.name = name


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
