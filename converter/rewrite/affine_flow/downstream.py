"""A factor and a shift, taken on from a tensor to all the layers and constants that read it.

What read y = s * x + t may read x, if every reader takes the map over: a layer in its weight and bias, or an
operator that hands it on (`passages`) to readers that do.
"""

from __future__ import annotations

from converter.model.graph import Node, Tensor
from converter.rewrite.affine_flow.affine_map import AffineMap, Array, put
from converter.rewrite.affine_flow.passages import Decline, find_passage
from converter.rewrite.affine_flow.takers import LayerTaker, take_input
from converter.rewrite.affine_flow.walk import Walk
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.channel_axis import reads_padding
from converter.rewrite.analysis.facts import Facts, reads_no_value


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
