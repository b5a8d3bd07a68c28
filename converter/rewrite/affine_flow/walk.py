"""What both ways through the graph share: what was found on the way, and what stopped it."""

from __future__ import annotations

from dataclasses import field

from converter.dataclass import dataclass
from converter.model.graph import Node, Tensor
from converter.rewrite.affine_flow.affine_map import AffineMap
from converter.rewrite.affine_flow.passages import HANDED_ON, PARTS, Decline, find_passage
from converter.rewrite.affine_flow.takers import WEIGHTED, LayerTaker, Taker
from converter.rewrite.analysis.facts import Facts, reads_no_value

_FUEL = 96  # nodes that one map may meet


@dataclass
class Walk:
    """Where a map goes: what takes it over, which tensors change, and what is in the way.

    Attributes
    ----------
    takers : list of Taker
    changed : list of Tensor
        In the order in which they were met; their values will be others.
    problem : (code, clause), optional
        The first thing that stopped it; None if all of it is taken over.
    """

    facts: Facts
    takers: list[Taker] = field(default_factory=list)
    changed: list[Tensor] = field(default_factory=list)
    problem: Decline | None = None
    fuel: int = _FUEL
    _taken: set[tuple[int, int]] = field(default_factory=set)

    def stop(self, problem: Decline) -> bool:
        """Note why it does not go on; always False."""
        self.problem = self.problem or problem
        return False

    def take(self, found: list[Taker]) -> bool:
        """Note what takes a map over; each constant takes one."""
        for taker in found:
            slot = 1 if isinstance(taker, LayerTaker) else taker.slot
            if (id(taker.node), slot) in self._taken:
                return self.stop(("branches", f"{taker.node.label} is reached on two ways"))
            self._taken.add((id(taker.node), slot))
            self.takers.append(taker)
        return True

    def spend(self, node: Node) -> bool:
        """Whether the walk may meet one node more."""
        self.fuel -= 1
        return self.fuel >= 0 or self.stop(("too-large", f"{node.label} is too far away"))

    def mark(self) -> tuple[int, int, set[tuple[int, int]]]:
        """A state to come back to."""
        return len(self.takers), len(self.changed), set(self._taken)

    def reset(self, mark: tuple[int, int, set[tuple[int, int]]]) -> None:
        """Come back to it: another way is tried."""
        del self.takers[mark[0] :]
        del self.changed[mark[1] :]
        self._taken = set(mark[2])


def use_problem(facts: Facts, tensor: Tensor, reader: Node, m: AffineMap) -> Decline | None:
    """Why the value of a tensor may not change by the map; others may read the parts of it that do not."""
    problem = facts.use_problem(tensor, reader)
    if problem is None or problem[0] != "several-readers" or tensor.external_uses:
        return problem
    others = [n for n in facts.graph.readers(tensor) if n is not reader and not reads_no_value(n, tensor)]
    if len(others) + 1 < len([n for n in facts.graph.readers(tensor) if not reads_no_value(n, tensor)]):
        return problem  # it reads it twice
    unmoved = all(n.is_op(*PARTS) and n.inputs[0] is tensor and _sees_nothing(facts, n, m) for n in others)
    return None if unmoved else problem


def _sees_nothing(facts: Facts, node: Node, m: AffineMap) -> bool:
    """Whether a node that picks a part of its input picks one that the map leaves alone."""
    for index, out in enumerate(node.outputs):
        if out.name:
            passage = find_passage(facts, node, index)
            seen = None if isinstance(passage, tuple) else m.each(passage.there)
            if seen is None or not seen.is_identity:
                return False
    return True


_NEAR = 12  # nodes that are looked at


def is_near_layer(facts: Facts, tensor: Tensor, *, up: bool) -> bool:
    """Whether a layer with a constant weight makes a tensor, or reads it, with nothing between that shapes values."""
    pending, seen = [tensor], {id(tensor)}
    while pending and len(seen) < _NEAR:
        here = pending.pop(0)
        nodes = [facts.graph.producer(here)] if up else facts.graph.readers(here)
        for node in (n for n in nodes if n is not None and (n.is_standard or n.is_microsoft("FusedMatMul"))):
            slots = [k for k, t in enumerate(node.inputs) if t.name and facts.constants.weight(t) is not None]
            if node.op in WEIGHTED and (slots if node.op != "Gather" else 0 in slots):
                return True
            if node.op in HANDED_ON:
                found = [t for k, t in enumerate(node.inputs) if k not in slots] if up else list(node.outputs)
                fresh = [t for t in found if t.name and id(t) not in seen]
                seen.update(map(id, fresh))
                pending += fresh
    return False
