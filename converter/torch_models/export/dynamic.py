"""Sizes that the ONNX model leaves open: ``batch`` for the first of every input, or ``x=0:batch,2:height``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from converter.errors import DataError

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


def axes_of(asked: Dynamic, names: Sequence[str], tensors: Sequence[Any]) -> Axes:
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
    _one_size_each(found, dict(zip(names, tensors, strict=True)))
    return found


def _one_size_each(axes: Axes, tensors: Mapping[str, Any]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for name, labels in axes.items():
        for axis, label in labels.items():
            size = int(tensors[name].shape[axis])
            known, where = sizes.setdefault(label, (size, name))
            if size != known:
                raise DataError(
                    f"--dynamic: {label!r} is {known} in {where!r} and {size} in {name!r}; name the two differently"
                )


def widened(axes: Axes, names: Sequence[str], tensors: Sequence[Any], *, least: int) -> list[Any]:
    """The tensors with every open size at least `least`, what there is repeated.

    torch takes sizes 0 and 1 of an example for constants, even where they are said to be open.
    """
    return [_wide(t, axes.get(name, {}), least) for name, t in zip(names, tensors, strict=True)]


def _wide(tensor: Any, axes: Mapping[int, str], least: int) -> Any:
    for axis in axes:
        size = tensor.shape[axis]
        if 0 < size < least:
            repeats = [1] * tensor.ndim
            repeats[axis] = -(-least // size)
            tensor = tensor.repeat(repeats).narrow(axis, 0, least)
    return tensor
