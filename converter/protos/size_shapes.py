"""Shapes from sizes that are known in part: what Reshape and Expand give, and two findings about one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from converter.protos.size_terms import Entry, Size, product, quotient, size

Dim = int | str | None


def reshaped(wanted: Sequence[Entry], before: Sequence[Dim] | None) -> list[Dim]:
    """Dims that a Reshape gives (``allowzero=0``): one that is left open follows from the count of elements."""
    target = [_copied(d, i, before) for i, d in enumerate(wanted)]
    free = [i for i, d in enumerate(target) if d is None or (isinstance(d, int) and d < 0)]
    if len(free) == 1 and before is not None:
        have = [size(d) for d in before if d is not None]
        rest = [d for d in target if isinstance(d, int | Size) and d != -1]
        if len(have) == len(before) and len(rest) == len(target) - 1:
            target[free[0]] = quotient(product(have), product(rest))
    return [dim(d) for d in target]


def _copied(entry: Entry, axis: int, before: Sequence[Dim] | None) -> Entry:
    if not isinstance(entry, int) or entry != 0:
        return entry
    source = before[axis] if before is not None and axis < len(before) else None
    return None if source is None else size(source)


def expanded(wanted: Sequence[Entry], before: Sequence[Dim]) -> list[Dim]:
    """Dims that an Expand gives."""
    sizes: list[Entry] = [None if d is None else size(d) for d in before]
    pairs = zip_longest(sizes[::-1], list(wanted)[::-1], fillvalue=1)
    return [dim(_broadcast(a, b)) for a, b in pairs][::-1]


def _broadcast(a: Entry, b: Entry) -> Entry:
    """The size of two that fit together; None if it is not known."""
    if a == b or (isinstance(b, int) and b == 1):
        return a
    if isinstance(a, int) and a == 1:
        return b
    return next((x for x in (a, b) if isinstance(x, int) and x > 1), None)


def dim(entry: Entry) -> Dim:
    """An entry as a dim: a number, the name of a symbol or a product of them, or None."""
    if isinstance(entry, Size):
        return str(entry)
    return entry if isinstance(entry, int) and entry >= 0 else None


def is_open(dims: Sequence[Dim] | None) -> bool:
    """Whether some of a shape was not found; the names that inference makes up do not count as found."""
    return dims is None or any(_is_made_up(d) for d in dims)


def _is_made_up(d: Dim) -> bool:
    return d is None or (isinstance(d, str) and d.startswith(("unk__", "?")))


def merged(before: Sequence[Dim] | None, found: Sequence[Dim]) -> list[Dim] | None:
    """Both findings in one: what the model or inference named stays. None where they contradict each other."""
    if before is None:
        return list(found)
    if len(before) != len(found):
        return None
    return [
        new if old is None or (_is_made_up(old) and not _is_made_up(new)) else old
        for old, new in zip(before, found, strict=True)
    ]
