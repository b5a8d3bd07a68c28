"""Rows of a table that one model has otherwise than the other: which they are, and whether an input read them.

Another tool may have scaled or shifted a whole table, and any row then shows it. A row that is not what the others
become is another row, and nothing is known of it until it was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converter.referee.proto.source import LoadedModel
from converter.referee.reference.kernels import read_attributes
from converter.referee.unreached.thresholds import Constants, walk_homes

Array = np.ndarray[Any, Any]
READ = "read"
_SAME = {2: 2.0**-6, 4: 2.0**-17, 8: 2.0**-17}  # of a column's size, by bytes: folds of other tools round in float32


@dataclass(frozen=True, slots=True)
class Table:
    """A constant of which a node takes rows along an axis."""

    name: str
    indices: str
    axis: int
    home: str = ""  # the body that it is read in
    made: str = ""  # there: what comes of it


@dataclass(frozen=True, slots=True)
class RowBound:
    """Rows that are otherwise, to be asked as a `thresholds.Bound` is; its one side is that all were read."""

    key: tuple[Any, ...]
    op: str
    reads: tuple[str, ...]
    rows: frozenset[int]
    length: int
    sides: frozenset[str] = frozenset({READ})
    limit: float | None = None
    home: str = ""
    left: set[int] = field(default_factory=set, compare=False)

    def find_sides(self, values: Mapping[str, Any]) -> set[str]:
        """Note the rows that one run read."""
        if all(name in values for name in self.reads):
            read = np.unique(np.asarray(values[self.reads[0]]).reshape(-1))
            self.left.difference_update(int(n) % self.length for n in read if -self.length <= n < self.length)
        return set() if self.left else {READ}


def list_tables(source: LoadedModel) -> list[Table]:
    """The tables of a model that are read at places which are computed or given."""
    held = Constants(source)
    return [
        Table(
            node.input[0],
            names.get(node.input[1], node.input[1]),
            int(read_attributes(node).get("axis", 0)),
            home,
            names[node.output[0]] if home else "",
        )
        for node, home, names in walk_homes(source.proto.graph.node)
        if node.op_type == "Gather" and node.input[0] in held and node.input[1] not in held
    ]


def find_other_rows(a: LoadedModel, b: LoadedModel, left: Any, right: Any) -> Iterator[RowBound]:
    """A bound for each table of the original whose counterpart has rows of another kind.

    ``left`` and ``right`` give the values of constants.
    """
    others = list_tables(b)
    for table in list_tables(a):
        x = left.get(table.name)
        twin = next((t for t in others if _has_shape(right.get(t.name), x) and t.axis == table.axis), None)
        if x is None or twin is None or x.dtype.kind not in "fiu":
            continue
        others.remove(twin)
        rows = _find_outliers(*(_by_rows(v, table.axis) for v in (x, right.get(twin.name))))
        if rows:
            key = ("table", table.name, min(rows), len(rows))
            told = (table.indices, *filter(None, [table.made])), frozenset(rows), x.shape[table.axis]
            yield RowBound(key, "Gather", *told, home=table.home, left=set(rows))


def _has_shape(value: Array | None, like: Array | None) -> bool:
    return value is not None and like is not None and value.shape == like.shape and value.dtype == like.dtype


def _by_rows(value: Array, axis: int) -> Array:
    return np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1)


def _find_outliers(x: Array, y: Array) -> list[int]:
    """Rows of ``y`` that are not what most rows of ``x`` become: the same, scaled or shifted by columns."""
    if x.tobytes() == y.tobytes():
        return []
    if x.dtype.kind != "f":
        return [int(k) for k in np.flatnonzero((x != y).any(axis=1))]
    bound = _SAME.get(x.dtype.itemsize, 2.0**-6)
    p, q = x.astype(np.float64), y.astype(np.float64)
    with np.errstate(all="ignore"):
        factors = np.nan_to_num(np.nanmedian(np.where(p != 0, q / p, np.nan), axis=0), nan=1.0)
        guesses = (p, p * factors, p + np.median(q - p, axis=0))
        size = np.abs(q).max(axis=0) + np.finfo(np.float64).tiny
        far = np.stack([(np.abs(q - g) / size > bound).any(axis=1) for g in guesses])
    best = far[np.argmin(far.sum(axis=1))]
    return [int(k) for k in np.flatnonzero(best)]
