"""torch's two exporters, told to leave batch norms alone; sizes left open (``x=0:batch``); what is tidied behind them.

The clean-up changes no number: constants are computed, what nobody reads is dropped. torch.export leaves the arithmetic
of shapes as nodes, and gives every Conv without a bias a zero one that the graph computes. torch's own optimisation
removes both, and fuses the batch norms while it is at it; this does not.

The sizes that the model declares for its outputs are set to those that the module has: exporters guess, and runtimes
warn.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np

from converter.dataclass import dataclass
from converter.errors import DataError, ExportError
from converter.model.file.checker import no_remarks
from converter.torch_models.export.calls import Answer, Rebuild, collect_tensors, run_module
from converter.torch_models.spec import Kind, Loaded
from converter.torch_models.spec.libraries import need

Axes = dict[str, dict[int, str]]  # input -> axis -> the size's name
_AXIS = re.compile(r"(-?\d+):([A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True)
class Dynamic:
    """Which sizes are open, and what they are called."""

    first: str = ""  # of the first axis of every input
    axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.first or self.axes)


def parse_dynamic(values: Sequence[str]) -> Dynamic:
    """Read ``batch`` and ``x=0:batch,2:height``; repeated ones add up.

    Raises
    ------
    ValueError
        One reads otherwise; the message says how it should.
    """
    first, axes = "", dict[str, dict[int, str]]()
    for value in values:
        name, equals, rest = value.rpartition("=")
        if not equals and value.isidentifier():
            first = value
            continue
        found = [_AXIS.fullmatch(part.strip()) for part in rest.split(",")]
        if not name or not all(found):
            raise ValueError(f"{value!r} is no open size such as batch, or x=0:batch,2:height.")
        axes.setdefault(name, {}).update({int(m[1]): m[2] for m in found if m})
    return Dynamic(first, axes)


def resolve_axes(asked: Dynamic, names: Sequence[str], tensors: Sequence[Any]) -> Axes:
    """The open axes of every input that has some.

    Raises
    ------
    DataError
        There is no such input or axis, or one name stands for two sizes.
    """
    for name in asked.axes:
        if name not in names:
            raise DataError(f"--dynamic: {name!r} is not an input of the model; its inputs are {', '.join(names)}")
    found: Axes = {}
    for name, tensor in zip(names, tensors, strict=True):
        axes = {0: asked.first} if asked.first and tensor.ndim else {}
        for axis, label in asked.axes.get(name, {}).items():
            if not -tensor.ndim <= axis < tensor.ndim:
                raise DataError(f"--dynamic: {name!r} has {tensor.ndim} axes, so there is no axis {axis}")
            axes[axis % tensor.ndim] = label
        if axes:
            found[name] = axes
    _check_one_size_each(found, dict(zip(names, tensors, strict=True)))
    return found


def _check_one_size_each(axes: Axes, tensors: Mapping[str, Any]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for name, labels in axes.items():
        for axis, label in labels.items():
            size = int(tensors[name].shape[axis])
            known, where = sizes.setdefault(label, (size, name))
            if size != known:
                raise DataError(
                    f"--dynamic: {label!r} is {known} in {where!r} and {size} in {name!r}; name the two differently"
                )


def widen(axes: Axes, names: Sequence[str], tensors: Sequence[Any], *, least: int) -> list[Any]:
    """The tensors with every open size at least `least`, what there is repeated.

    torch takes sizes 0 and 1 of an example for constants, even where they are said to be open.
    """
    return [_widen_one(t, axes.get(name, {}), least) for name, t in zip(names, tensors, strict=True)]


def _widen_one(tensor: Any, axes: Mapping[int, str], least: int) -> Any:
    for axis in axes:
        size = tensor.shape[axis]
        if 0 < size < least:
            repeats = [1] * tensor.ndim
            repeats[axis] = -(-least // size)
            tensor = tensor.repeat(repeats).narrow(axis, 0, least)
    return tensor


def correct_output_shapes(model: Any, loaded: Loaded, tensors: Sequence[Any], rebuild: Rebuild, axes: Axes) -> None:
    """Set every output's sizes to what they are when the open sizes are doubled one by one.

    Parameters
    ----------
    model : onnx_ir.Model
        Changed in place; left as it is where the module does not take such sizes.
    tensors : sequence of Tensor
        The example that the module was exported with.
    """
    base = [tuple(t.shape) for t in run_module(loaded, tensors, rebuild).tensors]
    labels = {
        label: int(t.shape[axis])
        for name, t in zip(loaded.input_names, tensors, strict=True)
        for axis, label in axes.get(name, {}).items()
    }
    grown: dict[str, list[tuple[int, ...]]] = {}
    for label, size in labels.items():
        own = {name: {a: text for a, text in named.items() if text == label} for name, named in axes.items()}
        try:
            found = run_module(loaded, widen(own, loaded.input_names, tensors, least=2 * size), rebuild)
        except ExportError:
            return
        grown[label] = [tuple(t.shape) for t in found.tensors]
        if [len(shape) for shape in grown[label]] != [len(shape) for shape in base]:
            return
    for index, value in enumerate(model.graph.outputs):
        if value.shape is not None and len(value.shape) == len(base[index]):
            _correct_shape(value, base[index], {label: shapes[index] for label, shapes in grown.items()}, labels)


def _correct_shape(
    value: Any, base: tuple[int, ...], grown: dict[str, tuple[int, ...]], labels: dict[str, int]
) -> None:
    dims: list[Any] = list(value.shape)
    for axis, size in enumerate(base):
        moves = [label for label, shape in grown.items() if shape[axis] != size]
        if not moves:
            dims[axis] = size
        elif len(moves) == 1 and size == labels[moves[0]] and grown[moves[0]][axis] == 2 * size:
            dims[axis] = moves[0]
        elif isinstance(dims[axis], int) or str(dims[axis]) in labels:
            dims[axis] = None
    value.shape = type(value.shape)(dims)


_BIASED = ("Conv", "ConvTranspose", "Gemm")
_KEPT = ("pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")  # which module a node is of


def clean_up(model: Any, parameters: frozenset[str]) -> None:
    """Tidy an ``onnx_ir.Model`` in place.

    Parameters
    ----------
    model : onnx_ir.Model
    parameters : frozenset of str
        Names of the module's own tensors: a zero bias among them is the model's, not the exporter's.
    """
    optimizer = need("onnxscript.optimizer")
    passes = need("onnx_ir.passes.common")
    passes.InlinePass()(model)
    optimizer.fold_constants(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _drop_zero_biases(model.graph, parameters)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedFunctionsPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    passes.NameFixPass()(model)


def _drop_zero_biases(graph: Any, parameters: frozenset[str]) -> None:
    for node in graph.all_nodes():
        bias = node.inputs[2] if node.op_type in _BIASED and not node.domain and len(node.inputs) > 2 else None
        if bias is None or bias.const_value is None or bias.name in parameters or bias.is_graph_input():
            continue
        if not np.any(bias.const_value.numpy()):
            node.resize_inputs(2)


def strip_traces(model: Any) -> None:
    """Drop what the exporter noted about this machine: stack traces hold the paths of source files."""
    model.graph.metadata_props.clear()
    for function in model.functions.values():
        function.metadata_props.clear()
    for node in model.graph.all_nodes():
        for key in [k for k in node.metadata_props if k not in _KEPT]:
            del node.metadata_props[key]
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def capture_by_export(
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
            settings["dynamic_shapes"] = _open_axes(loaded, rebuild, axes)
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


def _open_axes(loaded: Loaded, rebuild: Rebuild, axes: Axes) -> Any:
    """The open axes, in the structure of the arguments, by the names of forward's parameters."""
    marks = [axes.get(name) for name in loaded.input_names]
    args, kwargs = rebuild([_Mark(mark) for mark in marks])
    bound = inspect.signature(loaded.module.forward).bind(*args, **kwargs).arguments
    return {name: _unmark(value) for name, value in bound.items()}


class _Mark:
    """Stands where a tensor stood, and holds its open axes."""

    def __init__(self, axes: Mapping[int, str] | None) -> None:
        self.axes = axes


def _unmark(value: Any) -> Any:
    if isinstance(value, _Mark):
        return dict(value.axes) if value.axes else None
    if isinstance(value, dict):
        return {key: _unmark(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_unmark(part) for part in value)
    return None


def capture_by_tracing(
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
    module, args = _flatten_module(loaded, tensors, rebuild, returned)
    path = folder / "traced.onnx"
    labels = {name: dict(labels) for name, labels in axes.items()}
    labels |= _open_output_axes(axes, tensors, returned, loaded)
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


def _flatten_module(
    loaded: Loaded, tensors: Sequence[Any], rebuild: Rebuild, returned: Answer
) -> tuple[Any, tuple[Any, ...]]:
    """The module itself where it takes and returns plain tensors, else inside one that does."""
    args, kwargs = rebuild([t.detach().clone() for t in tensors])
    plain = not kwargs and len(args) == len(tensors) and all(a is not None for a in args)
    if (plain and returned.plain) or loaded.kind is Kind.TORCHSCRIPT:
        return loaded.module, args
    return _wrap_module(loaded.module, rebuild), tuple(t.detach().clone() for t in tensors)


def _wrap_module(module: Any, rebuild: Rebuild) -> Any:
    torch = need("torch")

    class Flat(torch.nn.Module):  # type: ignore[misc,name-defined]
        """Takes and returns nothing but tensors, since tracing knows no dicts."""

        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            args, kwargs = rebuild(tensors)
            return collect_tensors(self.model(*args, **kwargs))

    return Flat().eval()


def _open_output_axes(
    axes: Axes, tensors: Sequence[Any], returned: Answer, loaded: Loaded
) -> dict[str, dict[int, str]]:
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
