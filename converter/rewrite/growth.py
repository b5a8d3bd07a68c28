"""How much larger a fold makes the file, by which of its rewrites, and which of them are to be left for it.

A rewrite that gives one reader of a shared weight another weight pays off only where every reader takes one: that is
known when the passes are done. So they run as if copies were free; if the file would then be larger than is allowed,
what makes it so is found here, and the passes run again without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field

from converter.dataclass import dataclass
from converter.model.graph import Const, Edit, Graph, SetConst, StoredTensor, Tensor, emit, weight_bytes
from converter.records import Delta

Key = str  # of what grows: a tensor of the model by scope and name, or a rewrite by its id


@dataclass(slots=True)
class _Family:
    """A tensor of the model with several readers, and what rewrites put in its place."""

    source: Tensor
    copies: dict[int, Const] = field(default_factory=dict)


class GrowthTracker:
    """What one run of the passes adds to the file; and ``left``, what earlier runs added too much with, in bytes."""

    def __init__(self, graph: Graph, left: Mapping[Key, int]) -> None:
        self.graph = graph
        self.left = left
        self._families: dict[Key, _Family] = {}
        self._grown: dict[Key, int] = {}  # rewrites that add bytes of their own
        self._idle: list[Key] = []  # rewrites after which the file holds as many nodes and numbers as before
        self._stored_before = external_bytes(graph)
        self._changed = False

    # -- before and after each rewrite ------------------------------------------------------------

    def find_shared(self, edits: Sequence[Edit]) -> list[tuple[Key, SetConst]]:
        """The edits that replace a tensor which has, or had, other readers."""
        found = []
        for edit in edits:
            if not isinstance(edit, SetConst) or (held := edit.node.tensor_in(edit.slot)) is None:
                continue
            source = self.graph.find_source(held)
            if source is not None and (_key(source) in self._families or self.graph.is_shared(held)):
                found.append((_key(source), edit))
        return found

    def own_growth(self, edits: Sequence[Edit], shared: Sequence[tuple[Key, SetConst]]) -> int:
        """Bytes that the edits add beside those of shared tensors."""
        return self.graph.growth([e for e in edits if not any(e is s for _, s in shared)])

    def problem(self, id_: str, shared: Sequence[tuple[Key, SetConst]]) -> str | None:
        """Why a rewrite is to be left; None if it is not."""
        for key, edit in shared:
            if key in self.left:
                what = f"a copy of {edit.node.inputs[edit.slot].name!r}, which has other uses,"
                return f"{what} would grow the file by {self.left[key]:,} bytes; --allow-growth"
        return f"it would grow the file by {self.left[id_]:,} bytes; --allow-growth" if id_ in self.left else None

    def may_copy(self, tensor: Tensor) -> bool:
        """Whether a tensor may be copied if it has other uses."""
        source = self.graph.find_source(tensor) if self.left else None
        return source is None or _key(source) not in self.left

    def open(self, shared: Sequence[tuple[Key, SetConst]]) -> None:
        """Note the shared tensors before the edits that replace them."""
        for key, edit in shared:
            source = self.graph.find_source(edit.node.tensor_in(edit.slot))
            assert source is not None
            self._families.setdefault(key, _Family(source))

    def close(self, id_: str, own: int, shared: Sequence[tuple[Key, SetConst]], delta: Delta) -> None:
        """Note what a rewrite did."""
        for key, edit in shared:
            const = edit.node.inputs[edit.slot]
            if isinstance(const, Const):
                self._families[key].copies[id(const)] = const
        if own > 0:
            self._grown[id_] = own
        elif not shared and not delta.removed_nodes and delta.bytes_added == 0:
            self._idle.append(id_)
        self._changed = True

    # -- when all are made ------------------------------------------------------------------------

    def find_copies(self) -> dict[Key, int]:
        """Bytes of the copies of each tensor that are there beside it, or beside each other."""
        found = {}
        for key, family in self._families.items():
            there = [c for c in family.copies.values() if c.scope.values.get(c.name) is c]
            gone = 0 if self.graph.n_uses(family.source) else self.graph.constant_bytes(family.source)
            if (grown := sum(weight_bytes(c.weight) for c in there) - gone) > 0:
                found[key] = grown
        return found

    def measure_excess(self, allowed: float) -> tuple[float, float]:
        """Bytes by which the model grows beyond `allowed`, but for what it says of itself; and so with short names."""
        if not self._changed:
            return 0.0, 0.0
        over = self._measure() - allowed
        return over, over if over <= 0 else self.graph.bytes_with_short_names(self._measure) - allowed

    def find_excess(self, over: float) -> dict[Key, int]:
        """What to leave so that the model is smaller by `over` bytes: the largest first, then what saves nothing."""
        found = {}
        for key, n_bytes in sorted({**self.find_copies(), **self._grown}.items(), key=lambda item: -item[1]):
            if over <= 0:
                break
            found[key] = n_bytes
            over -= n_bytes
        return found if found or over <= 0 else dict.fromkeys(self._idle, math.ceil(over))

    def _measure(self) -> int:
        """Bytes by which the model is larger now than as it came."""
        now = emit(self.graph).n_bytes + external_bytes(self.graph)
        return now - len(self.graph.file.buffer) - self._stored_before


def _key(source: Tensor) -> Key:
    return f"{source.scope.prefix}{source.name}"


def external_bytes(graph: Graph) -> int:
    """Bytes of the tensors that lie in other files."""
    return sum(weight_bytes(t.weight) for t in _list_constants(graph) if _is_external(t))


def _list_constants(graph: Graph) -> Iterator[Const]:
    for scope in graph.scopes:
        if scope.owner is None or scope.owner.alive:
            yield from (t for t in scope.values.values() if isinstance(t, Const))


def _is_external(tensor: Const) -> bool:
    return isinstance(tensor.weight, StoredTensor) and tensor.weight.ref.external is not None
