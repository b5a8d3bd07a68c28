"""One operator of a traced graph: its arguments by name, the shapes, and the change of each operand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from converter.torch_models.lint.shift import Change, Live, Shift


def op_name(node: Any) -> str:
    """``conv2d`` of ``aten.conv2d.padding``; of an operator that is no aten operator its whole name."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(getattr(node.target, "__name__", node.target))
    return str(schema.name).removeprefix("aten::")


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape that a node had while it was traced; a number has none."""
    meta = getattr(value, "meta", {}).get("val")
    return tuple(int(size) for size in getattr(meta, "shape", ()))


def bound(node: Any) -> dict[str, Any]:
    """The arguments by their schema's names, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(index): value for index, value in enumerate(node.args)} | dict(node.kwargs)
    given: dict[str, Any] = {}
    for index, argument in enumerate(schema.arguments):
        if index < len(node.args):
            given[argument.name] = node.args[index]
        else:
            given[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return given


@dataclass(slots=True)
class Call:
    """What a rule is given."""

    node: Any
    op: str
    args: dict[str, Any]
    change_of: Callable[[Any], Any]  # of a node; a sequence has a tuple of them
    is_data: Callable[[Any], bool]  # whether a tensor comes from the inputs or from chance
    kill: Callable[[str, tuple[Any, ...]], None]  # told what took a change away: the kind, and what it was asked with
    absorb_frozen: bool  # whether a norm with fixed statistics counts as a place where a change ends

    @property
    def rank(self) -> int:
        """The number of axes of the result."""
        return len(self.out_shape)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of the result; of several, of the first."""
        meta = self.node.meta.get("val")
        first = meta[0] if isinstance(meta, list | tuple) else meta
        return tuple(int(size) for size in getattr(first, "shape", ()))

    def change(self, *names: str) -> Any:
        """The change of the first of these arguments that the operator has."""
        return next((self.change_of(self.args[name]) for name in names if name in self.args), None)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an operand."""
        return shape_of(self.args[name])

    def live(self, why: str = "") -> Live:
        """The change becomes one that nobody follows."""
        return Live(self.op, why)

    def others_changed(self, *allowed: str) -> bool:
        """Whether an operand but those named is changed."""
        return any(bool(self.change_of(value)) for name, value in self.args.items() if name not in allowed)

    def aligned(self, change: Change, shape: Sequence[int]) -> Change:
        """A change of an operand of `shape` as it is after broadcasting to the result."""
        if not isinstance(change, Shift):
            return change
        offset, out = self.rank - len(shape), self.out_shape
        grown = {axis for axis, size in enumerate(shape) if size == 1 and out[axis + offset] != 1}
        return change.moved(lambda axis: None if axis in grown else axis + offset)

    def varying(self, value: Any) -> frozenset[int]:
        """The axes of the result on which an operand without a change may vary."""
        shape, out = shape_of(value), self.out_shape
        offset, data = self.rank - len(shape), self.is_data(value)
        return frozenset(
            axis + offset
            for axis, size in enumerate(shape)
            if size != 1 or (data and out[axis + offset] == 1)  # one here, perhaps more with other inputs
        )


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis + rank if axis < 0 else axis


def axes_of(axes: Any, rank: int) -> tuple[int, ...]:
    """Axes counted from the front; none given means all."""
    if axes is None or axes == []:
        return tuple(range(rank))
    return tuple(axis_of(axis, rank) for axis in ([axes] if isinstance(axes, int) else axes))
