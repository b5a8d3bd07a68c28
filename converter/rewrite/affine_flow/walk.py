"""A map taken downstream to what takes it over; and what both ways share: what was found, and what stopped it.

What read y = s * x + t may read x, if every reader takes the map over: a layer in its weight and bias, or an
operator that hands it on (`passages`) to readers that do.
"""

from __future__ import annotations

from dataclasses import field

from converter.dataclass import dataclass
from converter.model.graph import Node, Tensor
from converter.rewrite.affine_flow.affine_map import AffineMap, Array, put
from converter.rewrite.affine_flow.passages import HANDED_ON, PARTS, Decline, find_passage
from converter.rewrite.affine_flow.takers import WEIGHTED, LayerTaker, Taker, take_input
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.channel_axis import reads_padding
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


def take_on(facts: Facts, tensor: Tensor, m: AffineMap) -> Walk:
    """Follow a map of a tensor down to what takes it over."""
    walk = Walk(facts)
    _Downstream(facts, walk).push(tensor, m)
    return walk


class _Downstream:
    def __init__(self, facts: Facts, walk: Walk) -> None:
        self.facts = facts
        self.walk = walk
        self._met: set[int] = set()

    def push(self, tensor: Tensor, m: AffineMap) -> bool:
        """Whether all that reads a tensor can take the map."""
        if m.is_identity:
            return True
        if "output" in tensor.external_uses:
            return self.walk.stop(("output-is-graph-output", f"{tensor.name!r} is an output of its graph"))
        readers = [n for n in dict.fromkeys(self.facts.graph.readers(tensor)) if not reads_no_value(n, tensor)]
        if tensor.external_uses or any(n.scope is not tensor.scope for n in readers):
            return self.walk.stop(("captured-by-subgraph", f"{tensor.name!r} is read inside a control-flow body"))
        if not readers:
            return self.walk.stop(("stops", f"{tensor.name!r} is read by nobody"))
        done = [self._give(node, tensor, m) for node in readers]  # all of them: each has a reason
        return all(done)

    def _give(self, node: Node, tensor: Tensor, m: AffineMap) -> bool:
        slots = [k for k, t in enumerate(node.inputs) if t is tensor]
        if len(slots) > 1 or id(node) in self._met:
            return self.walk.stop(("branches", f"{node.label} ({node.op}) is reached on two ways"))
        if not self.walk.spend(node):
            return False
        self._met.add(id(node))
        taken = take_input(self.facts, node, slots[0], m)
        if taken is not None:
            problem = (
                taken
                if isinstance(taken, tuple)
                else next(
                    (
                        p
                        for t in taken
                        if isinstance(t, LayerTaker) and (p := _border_problem(self.facts, t)) is not None
                    ),
                    None,
                )
            )
            if problem is not None or isinstance(taken, tuple):
                return self.walk.stop(problem or ("stops", node.label))
            for taker in taken:
                if isinstance(taker, LayerTaker):
                    self.walk.changed += taker.linear.inner
            return self.walk.take(taken)
        return self._hand_on(node, slots[0], m)

    def _hand_on(self, node: Node, slot: int, m: AffineMap) -> bool:
        if node.is_op("Concat"):
            joined = _join(self.facts, node, slot, m)
            if joined is None:
                return self.walk.stop(("varies", f"the lengths that {node.label} (Concat) joins are not known"))
            return self._go_on(node, 0, joined)
        if slot:
            return self.walk.stop(("stops", f"{node.label} ({node.op}) does not hand it on"))
        for index, out in enumerate(node.outputs):
            if out.name and (out.outputs or out.external_uses):
                passage = find_passage(self.facts, node, index)
                problem = passage if isinstance(passage, tuple) else passage.problem(node, m)
                if problem is not None or isinstance(passage, tuple):
                    return self.walk.stop(problem or ("stops", node.label))
                moved = m.each(passage.there)
                if moved is None:
                    return self.walk.stop(("varies", f"{node.label} ({node.op}) joins what it would treat differently"))
                if not self._go_on(node, index, moved):
                    return False
        return True

    def _go_on(self, node: Node, index: int, m: AffineMap) -> bool:
        out = node.outputs[index]
        if not m.is_identity:
            self.walk.changed.append(out)
        return self.push(out, m)


def _border_problem(facts: Facts, taker: LayerTaker) -> Decline | None:
    """A shift goes into the bias only where every output sees every tap."""
    node, linear = taker.node, taker.linear
    if not taker.shift.any():
        return None
    if linear.op == lin.CONV and reads_padding(facts, node):
        return "padded-shift", f"{node.label} reads padded zeros, which the shift does not reach"
    if linear.op == lin.CONV_TRANSPOSE and lin.spreads_unevenly(facts, linear):
        return "transposed-shift", f"{node.label} spreads the shift unevenly"
    return None


def _join(facts: Facts, node: Node, slot: int, m: AffineMap) -> AffineMap | None:
    """A map of one part as a map of the whole."""
    shapes = [facts.shape(t) for t in node.inputs]
    rank = max((len(s) for s in shapes if s is not None), default=0)
    axis = int(node.attr("axis", 1)) % rank if rank else 0
    sizes = [s[axis] for s in shapes if s is not None and len(s) == rank and isinstance(s[axis], int)]
    known = [s for s in sizes if isinstance(s, int)]
    if len(known) < len(node.inputs):
        return None
    start = sum(known[:slot])

    def widen(a: Array, neutral: float) -> Array | None:
        return put(a, rank, axis, sum(known), range(start, start + known[slot]), neutral)

    return m.each(widen)
