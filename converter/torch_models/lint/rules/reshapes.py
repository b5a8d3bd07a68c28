"""The rule of reshapes: which axes become which."""

from __future__ import annotations

import math
from collections.abc import Sequence

from converter.torch_models.lint.call import Call
from converter.torch_models.lint.shift import Change, Shift, Support, shift


def groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Match the axes of a reshape: the smallest runs of both sides that hold equally many elements.

    >>> groups((2, 6, 5), (2, 2, 3, 5))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [], []
        n, m = 1, 1
        while True:
            if n <= m and i < len(before):
                left.append(i)
                n, i = n * before[i], i + 1
            elif j < len(after):
                right.append(j)
                m, j = m * after[j], j + 1
            else:
                break
            if n == m and left and right:
                break
        found.append((left, right))
    return found


def reshape(call: Call) -> Change:
    """Reshapes of all spellings, through the shapes that they had."""
    change = call.change("self", "input")
    if not isinstance(change, Shift):
        return call.live()
    before, after = call.shape("self" if "self" in call.args else "input"), call.out_shape
    if math.prod(before) != math.prod(after):
        return call.live("changes the number of elements")
    moves: dict[int, int] = {}
    spread: set[int] = set()
    support = None
    for left, right in groups(before, after):
        wide = [axis for axis in right if after[axis] != 1]
        varying = [axis for axis in left if axis in change.varies]
        if not varying:
            continue
        narrow = [axis for axis in left if before[axis] != 1]
        if len(narrow) == 1 and len(wide) == 1 and varying == narrow:
            moves[varying[0]] = wide[0]
        elif not narrow:  # axes of size one, which vary with other inputs perhaps
            spread.update(right)
        else:
            spread.update(wide)
            if len(narrow) == 1 and change.support is not None and change.support.axis == narrow[0]:
                support = _split_support(change.support, after, wide)
    if not spread:
        return change.moved(moves.get)
    made = shift(spread | set(moves.values()), support)
    return Shift(made.axes, made.origin, made.support, change.masked)


def _split_support(support: Support, after: Sequence[int], wide: list[int]) -> Support | None:
    inner = math.prod(after[axis] for axis in wide[1:])
    if support.start % inner or support.stop % inner:
        return None
    return Support(wide[0], support.start // inner, support.stop // inner)
