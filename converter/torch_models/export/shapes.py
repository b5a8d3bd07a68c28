"""The sizes that a model declares for its outputs, as the module has them: exporters guess, and runtimes warn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converter.errors import ExportError
from converter.torch_models.export.calls import Rebuild, answer
from converter.torch_models.export.dynamic import Axes, widened
from converter.torch_models.spec import Loaded


def correct(model: Any, loaded: Loaded, tensors: Sequence[Any], rebuild: Rebuild, axes: Axes) -> None:
    """Set every output's sizes to what they are when the open sizes are doubled one by one.

    Parameters
    ----------
    model : onnx_ir.Model
        Changed in place; left as it is where the module does not take such sizes.
    tensors : sequence of Tensor
        The example that the module was exported with.
    """
    base = [tuple(t.shape) for t in answer(loaded, tensors, rebuild).tensors]
    labels = {
        label: int(t.shape[axis])
        for name, t in zip(loaded.input_names, tensors, strict=True)
        for axis, label in axes.get(name, {}).items()
    }
    grown: dict[str, list[tuple[int, ...]]] = {}
    for label, size in labels.items():
        own = {name: {a: text for a, text in named.items() if text == label} for name, named in axes.items()}
        try:
            found = answer(loaded, widened(own, loaded.input_names, tensors, least=2 * size), rebuild)
        except ExportError:
            return
        grown[label] = [tuple(t.shape) for t in found.tensors]
        if [len(shape) for shape in grown[label]] != [len(shape) for shape in base]:
            return
    for index, value in enumerate(model.graph.outputs):
        if value.shape is not None and len(value.shape) == len(base[index]):
            _correct_one(value, base[index], {label: shapes[index] for label, shapes in grown.items()}, labels)


def _correct_one(value: Any, base: tuple[int, ...], grown: dict[str, tuple[int, ...]], labels: dict[str, int]) -> None:
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
