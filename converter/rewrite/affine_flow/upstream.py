"""A factor and a shift, taken back from a tensor to the layers and constants that it is made of.

y = s * x + t: what gives x may give y. An operator hands the map on to what it reads (`passages`), a sum gives the
factor to all its terms and the shift to one, a product the factor to one, until layers and constants take it over.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from converter import numerics
from converter.model.graph import Node, Tensor
from converter.rewrite.affine_flow.affine_map import AffineMap, Array, pick, trim
from converter.rewrite.affine_flow.passages import Decline, find_passage
from converter.rewrite.affine_flow.takers import (
    ALPHA,
    BETA,
    HIGH,
    LOW,
    LayerTaker,
    align_einsum,
    take_attribute,
    take_constant,
    take_output,
)
from converter.rewrite.affine_flow.walk import Walk, use_problem
from converter.rewrite.analysis.facts import Facts

# An operator's inputs with the map that each is to get; of several such lists any one will do.
Shares = list[tuple[int, AffineMap]]


def take_back(facts: Facts, reader: Node, slot: int, m: AffineMap) -> Walk:
    """Follow a map of the tensor that `reader` reads in an input slot up to what takes it over."""
    walk = Walk(facts)
    _Upstream(facts, walk).pull(reader, slot, m)
    return walk


class _Upstream:
    def __init__(self, facts: Facts, walk: Walk) -> None:
        self.facts = facts
        self.walk = walk

    def pull(self, reader: Node, slot: int, m: AffineMap) -> bool:
        """Whether all that makes an operand can take the map; a slot below zero is a number in an attribute."""
        if m.is_identity:
            return True
        if slot < 0:
            taken = take_attribute(self.facts, reader, slot, m)
            return self.walk.stop(taken) if isinstance(taken, tuple) else self.walk.take(taken or [])
        tensor = reader.tensor_in(slot)
        if tensor is None:
            return self.walk.stop(("stops", f"{reader.label} has no such input"))
        taken = take_constant(self.facts, reader, slot, m)
        if taken is not None:
            return self.walk.stop(taken) if isinstance(taken, tuple) else self.walk.take(taken)
        node = self.facts.graph.producer(tensor)
        if node is None:
            return self.walk.stop(("no-linear-op", f"{tensor.name!r} is an input of its graph"))
        problem = use_problem(self.facts, tensor, reader, m)
        if problem is not None:
            return self.walk.stop(problem)
        if not self.walk.spend(node):
            return False
        self.walk.changed.append(tensor)
        taken = take_output(self.facts, node, tensor, m)
        if isinstance(taken, tuple):
            return self.walk.stop(taken)
        if taken is not None:
            inner = [i for t in taken if isinstance(t, LayerTaker) for i in t.linear.inner]
            self.walk.changed += inner  # a product before its bias
            return self.walk.take(taken)
        return self._hand_on(node, tensor, m)

    def _hand_on(self, node: Node, tensor: Tensor, m: AffineMap) -> bool:
        mark = self.walk.mark()
        ways = _list_ways(self.facts, node, tensor, m)
        if isinstance(ways, tuple):
            return self.walk.stop(ways)
        before, first = self.walk.problem, None
        for shares in ways:
            self.walk.reset(mark)
            self.walk.problem = None
            done = [self.pull(node, slot, share) for slot, share in shares]  # all of them: each has a reason
            if all(done):
                self.walk.problem = before
                return True
            first = first or self.walk.problem
        self.walk.problem = before or first
        return False


def _list_ways(facts: Facts, node: Node, tensor: Tensor, m: AffineMap) -> Iterable[Shares] | Decline:
    """The ways in which an operator can hand the map on to its inputs, or why there is none."""
    stopped = ("stops", f"{node.label} ({node.op}) does not hand it on")
    if node.is_microsoft("FusedMatMul") and not node.function_attrs and m.is_uniform:
        return _matrix_product(facts, node, m)
    old = node.scope.opset < 7 and node.op in _BROADCASTING  # there, by attributes
    if not node.is_standard or node.function_attrs or old:
        return stopped
    index = next(k for k, t in enumerate(node.outputs) if t is tensor)
    found: Iterable[Shares] | Decline
    match node.op:
        case "Concat":
            found = _concat(facts, node, m)
        case "Add" | "Sub" | "Sum":
            found = _sum(facts, node, m)
        case "Mul" | "Div":
            found = _product(facts, node, m)
        case "Neg":
            found = [[(0, AffineMap(m.scale, -m.shift))]]
        case "MatMul":
            found = _matrix_product(facts, node, m)
        case "Gemm":
            found = _gemm(facts, node, m)
        case "Einsum":
            found = _einsum(facts, node, m)
        case "Clip" | "Max" | "Min":
            found = _clip(facts, node, m)
        case "Where":
            found = [[(1, m), (2, m)]] if _all_reach(facts, node, (1, 2), m) else stopped
        case _:
            passage = find_passage(facts, node, index)
            if isinstance(passage, tuple):
                return passage
            if (problem := passage.problem(node, m)) is not None:
                return problem
            moved = m.each(passage.back)
            if moved is None:
                return "varies", f"{node.label} ({node.op}) joins what it would treat differently"
            found = [[(0, moved)]]
    return found


_BROADCASTING = ("Add", "Sub", "Sum", "Mul", "Div", "Max", "Min", "Gemm", "Where")


def _reaches(facts: Facts, node: Node, slot: int, m: AffineMap) -> bool:
    """Whether an operand has full size along each axis along which the map varies."""
    tensor = node.tensor_in(slot)
    if tensor is None:
        return False
    if not m.sizes or facts.constants.weight(tensor) is not None:
        return True  # a constant says itself whether it would grow
    shape = facts.shape(tensor)
    return shape is not None and all(len(shape) >= -k and shape[k] == d for k, d in m.sizes.items())


def _all_reach(facts: Facts, node: Node, slots: Iterable[int], m: AffineMap) -> bool:
    return all(_reaches(facts, node, slot, m) for slot in slots)


def _operand(facts: Facts, node: Node, slot: int, m: AffineMap) -> AffineMap:
    """The map in the rank of an operand, which may have fewer axes than the result."""
    tensor = node.tensor_in(slot)
    constant = tensor is None or facts.constants.weight(tensor) is not None  # it sees for itself what fits
    rank = None if tensor is None or constant else facts.rank(tensor)

    def cut(a: Array, _: float) -> Array:
        return a if a.ndim == 0 or rank is None or rank >= a.ndim else a.reshape(a.shape[a.ndim - rank :])

    return m.each(cut) or m


def _concat(facts: Facts, node: Node, m: AffineMap) -> Iterable[Shares] | Decline:
    if m.is_uniform:
        return [[(slot, m) for slot in range(len(node.inputs))]]
    shapes = [facts.shape(t) for t in node.inputs]
    rank = max(m.scale.ndim, m.shift.ndim)
    axis = int(node.attr("axis", 1)) % rank
    sizes = [None if s is None or len(s) != rank else s[axis] for s in shapes]
    if any(a.ndim and a.shape[axis] != 1 for a in (m.scale, m.shift)):
        known = [s for s in sizes if isinstance(s, int)]
        if len(known) < len(sizes):
            return "varies", f"the lengths that {node.label} (Concat) joins are not known"
        stops = np.cumsum(known).tolist()
    else:
        stops = [1] * len(sizes)
    shares: Shares = []
    for slot, stop in enumerate(stops):
        part = m.each(lambda a, _, k=slot, e=stop: pick(a, axis, range(e - (sizes[k] or 0), e)))  # type: ignore[misc]
        shares.append((slot, part or m))
    return [shares]


def _sum(facts: Facts, node: Node, m: AffineMap) -> Iterable[Shares] | Decline:
    """All terms take the factor, one of them the shift."""
    slots = range(len(node.inputs))
    bare = m.without_shift
    if not _all_reach(facts, node, slots, bare):
        return "varies", f"{node.label} ({node.op}) spreads a term along what it differs on"
    if not m.has_shift:
        return [[(slot, _operand(facts, node, slot, bare)) for slot in slots]]
    ways = []
    # A constant term first: nothing grows there.
    for taker in sorted(slots, key=lambda k: facts.constants.weight(node.inputs[k]) is None):
        shift = -m.shift if node.is_op("Sub") and taker == 1 else m.shift
        whole = AffineMap(m.scale, shift)
        if _reaches(facts, node, taker, whole):
            shares = [(slot, _operand(facts, node, slot, whole if slot == taker else bare)) for slot in slots]
            ways.append(shares)
    return ways or ("varies", f"{node.label} ({node.op}) spreads a term along what it differs on")


def _product(facts: Facts, node: Node, m: AffineMap) -> Iterable[Shares] | Decline:
    """One factor takes the factor; a shift goes before a constant factor only by division."""
    constants = [k for k in (0, 1) if facts.constants.weight(node.inputs[k]) is not None]
    if m.has_shift:
        if len(constants) != 1 or (node.is_op("Div") and constants == [0]):
            return "bilinear", f"{node.label} ({node.op}) multiplies computed values"
        weight = facts.constants.weight(node.inputs[constants[0]])
        assert weight is not None
        value = weight.float64() if numerics.is_float(weight.dtype) else np.zeros(1)
        if value.size != 1 or not np.isfinite(value).all() or not value.all():
            return "bilinear", f"{node.label} ({node.op}) multiplies by other numbers than the shift allows for"
        factor = float(value.reshape(-1)[0])
        before = m.shift * factor if node.is_op("Div") else m.shift / factor
        slot = 1 - constants[0]
        whole = AffineMap(m.scale, before)
        return (
            [[(slot, _operand(facts, node, slot, whole))]] if _reaches(facts, node, slot, whole) else _stretched(node)
        )
    order = [0] if node.is_op("Div") else [*constants, *(k for k in (0, 1) if k not in constants)]
    ways = [[(k, _operand(facts, node, k, m))] for k in order if _reaches(facts, node, k, m)]
    return ways or _stretched(node)


def _stretched(node: Node) -> Decline:
    return "varies", f"{node.label} ({node.op}) spreads a factor along what it differs on"


def _matrix_product(facts: Facts, node: Node, m: AffineMap) -> Iterable[Shares] | Decline:
    """q k^T: a factor of rows goes to the left operand, one of columns to the right, a number to either."""
    if m.has_shift:
        return "bilinear", f"{node.label} ({node.op}) multiplies computed values"
    ways: list[Shares] = []
    for slot, summed in ((0, -1), (1, -2)):
        if summed not in m.sizes and _reaches(facts, node, slot, m):
            ways.append([(slot, _operand(facts, node, slot, m))])
    return ways or _stretched(node)


def _gemm(facts: Facts, node: Node, m: AffineMap) -> Iterable[Shares] | Decline:
    """alpha A B + beta C of computed matrices: a factor goes into A or B and C, one number into alpha and beta too."""
    added = node.tensor_in(2)
    if m.has_shift and (added is None or facts.constants.weight(added) is None):
        return "bilinear", f"{node.label} (Gemm) multiplies computed values"
    beta = float(node.attr("beta", 1.0))
    if m.has_shift and beta != 1:
        return "bilinear", f"{node.label} (Gemm) multiplies what it adds by {beta:g}"
    bare, rest = m.without_shift, list[tuple[int, AffineMap]]()
    if added is not None:
        if facts.constants.weight(added) is not None:
            rest = [(2, _operand(facts, node, 2, m))]
        elif m.is_uniform:
            rest = [(BETA, m)]
        elif _reaches(facts, node, 2, m):
            rest = [(2, _operand(facts, node, 2, m))]
        else:
            return _stretched(node)
    ways: list[Shares] = []
    for slot, name, summed in ((0, "transA", -1), (1, "transB", -2)):
        turned = bool(node.attr(name, 0))
        if summed not in bare.sizes:
            there = bare.each(lambda a, _, t=turned: a.swapaxes(-1, -2) if t and a.ndim == 2 else a)  # type: ignore[misc]
            if there is not None and _reaches(facts, node, slot, there):
                ways.append([(slot, there), *rest])
    if not bare.scale.ndim:
        ways.append([(ALPHA, bare), *rest])
    return ways or _stretched(node)


def _einsum(facts: Facts, node: Node, m: AffineMap) -> Iterable[Shares] | Decline:
    """A sum of products: any operand may take a factor that varies along its own axes only."""
    if m.has_shift:
        return "bilinear", f"{node.label} (Einsum) multiplies computed values"
    if m.is_uniform:
        return [[(slot, m)] for slot in range(len(node.inputs))]
    ways: list[Shares] = []
    for slot, tensor in enumerate(node.inputs):
        aligned = align_einsum(node, None, slot, m.scale, facts.rank(tensor) or 0)
        share = None if isinstance(aligned, str) else AffineMap(trim(aligned), np.zeros(()))
        if share is not None and _reaches(facts, node, slot, share):
            ways.append([(slot, share)])
    return ways or _stretched(node)


def _clip(facts: Facts, node: Node, m: AffineMap) -> Iterable[Shares] | Decline:
    """s clip(x, a, b) + t = clip(s x + t, s a + t, s b + t) for s > 0."""
    if not m.is_positive:
        return "negative-scale", f"{node.label} ({node.op}) lets no factor through that is not positive"
    if node.is_op("Clip"):
        old = node.scope.opset < 11
        bounds = [k for k in ((LOW, HIGH) if old else (1, 2)) if _is_moved_bound(facts, node, k, m)]
        if bounds and not m.is_uniform:
            return "varies", f"{node.label} (Clip) has one bound for all"
        return [[(0, m), *((k, m) for k in bounds)]]
    slots = range(len(node.inputs))
    if not _all_reach(facts, node, slots, m):
        return "varies", f"{node.label} ({node.op}) spreads an operand along what it differs on"
    return [[(k, _operand(facts, node, k, m)) for k in slots]]


def _is_moved_bound(facts: Facts, node: Node, slot: int, m: AffineMap) -> bool:
    """Whether a bound of a Clip is there and moves: none does that lets every number through, nor zero by a factor."""
    if slot < 0:
        value = node.attr("min" if slot == LOW else "max")
        return value is not None and abs(value) < _NO_BOUND and (m.has_shift or bool(value))
    tensor = node.tensor_in(slot)
    weight = None if tensor is None else facts.read_weight(tensor)
    if weight is None or not numerics.is_float(weight.dtype):
        return tensor is not None
    number = weight.float64()
    return m.has_shift or bool(number.any())


_NO_BOUND = float(np.finfo(np.float32).max)
