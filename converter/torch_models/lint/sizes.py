"""The example at other sizes: what is padded only where a size is odd shows there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from converter.torch_models.lint.confirm import ROUNDING, Change, Twin, difference
from converter.torch_models.lint.example import Example

_LARGE = 32  # from here on a smaller size is as telling, and faster


def felt_elsewhere(twin: Twin, changes: Mapping[str, Change]) -> dict[str, float]:
    """Of changes that the example does not feel, those that it feels at another size, and how much.

    Empty, too, where the module takes no other size.
    """
    for example in _resized(twin.example) if changes else ():
        try:
            before = twin.outputs_now(example)
        except Exception:  # noqa: S112  (whatever it is: that size is none of the module's)
            continue
        with twin.changed(changes.values()):
            if difference(before, twin.outputs_now(example)) <= ROUNDING:
                return {}
        found = {}
        for name, change in changes.items():
            with twin.changed([change]):
                moved = difference(before, twin.outputs_now(example))
            if moved > ROUNDING:
                found[name] = moved
        return found
    return {}


def _resized(example: Example) -> Iterator[Example]:
    """Sizes to try: odd ones first; the axes of places, as images and sequences have them."""
    rank = max((t.ndim for t in example.tensors() if t.is_floating_point()), default=0)
    places: dict[int, list[tuple[int, ...]]] = {3: [(1,), (2,)], 4: [(2, 3)], 5: [(2, 3, 4)]}
    for axes in places.get(rank, []):
        yield _grown(example, rank, axes, lambda size: (size * 5 // 8) | 1 if size >= _LARGE else size + 3)
        yield _grown(example, rank, axes, lambda size: 2 * size)


def _grown(example: Example, rank: int, axes: tuple[int, ...], size_of: Callable[[int], int]) -> Example:
    def change(tensor: Any) -> Any:
        if tensor.ndim != rank:
            return tensor
        for axis in axes:
            size, wanted = tensor.shape[axis], size_of(tensor.shape[axis])
            repeats = [1] * rank
            repeats[axis] = -(-wanted // max(size, 1))
            tensor = tensor.repeat(repeats).narrow(axis, 0, wanted)
        return tensor

    return example.mapped(change).varied(1)
