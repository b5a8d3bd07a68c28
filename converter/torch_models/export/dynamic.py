"""Sizes that the ONNX model leaves open: ``batch`` for the first of every input, or ``x=0:batch,2:height``.

The sizes that the model declares for its outputs are set to those that the module has: exporters guess, and runtimes
warn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from converter.dataclass import dataclass
from converter.errors import DataError, ExportError
from converter.torch_models.export.calls import Rebuild, run_module
from converter.torch_models.spec import Loaded

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
