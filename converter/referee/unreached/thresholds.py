"""Where a model turns on a number: the bounds of a Clip, a comparison, an If, equal scores, the rows of a table.

A bound has two sides, and inputs that stay on one of them say nothing of the other. Two models have a bound in common
if both turn at the same number in the same way, whatever the operators are called: ``Clip(0, 6)`` is ``Relu`` and
``Min(6)``. What only one of them has must be seen from both sides.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from onnx import NodeProto, helper

from converter.referee.proto.source import LoadedModel, get_dtype, list_bodies, make_body_key, walk_nodes
from converter.referee.proto.tensors import read_tensor
from converter.referee.reference.kernels import list_captures, read_attributes
from converter.referee.unreached.unlike import FUSED, make_key

Array = np.ndarray[Any, Any]
Values = Mapping[str, Any]

BELOW, ABOVE, EQUAL = "below", "above", "equal"
_FOUR = frozenset({"0", "1", "2", "3"})  # of two truth values
UNSEEN = "unseen"  # of what has no bound: no input shows that it was reached
_COMPARISONS = {"Greater": "greater", "Less": "greater", "GreaterOrEqual": "at least", "LessOrEqual": "at least"}
_STEPS = {"Floor", "Ceil", "Round"}
_AT_ZERO = {"LeakyRelu", "PRelu", "Abs", "Elu", "Selu", "Celu", "Sign"}


@dataclass(frozen=True, slots=True)
class Bound:
    """One place where a model turns: ``margin`` gives how far each element is above it."""

    key: tuple[Any, ...]  # two bounds of one key are the same
    op: str
    reads: tuple[str, ...]
    margin: Callable[[Values], Array] = field(compare=False)
    limit: float | None = None
    sides: frozenset[str] = frozenset({BELOW, ABOVE})  # that must be seen
    home: str = ""  # the body that it is in

    def find_sides(self, values: Values) -> set[str]:
        """On which sides the elements of one run are."""
        if any(name not in values for name in self.reads):
            return set()
        with np.errstate(all="ignore"):
            try:
                margin = np.asarray(self.margin(values))
            except (ValueError, IndexError):  # of a body that ran several times
                return set()
        if self.sides == _FOUR:
            return {str(int(code)) for code in np.unique(margin)}
        found = {BELOW} if (margin < 0).any() else set()
        found |= {ABOVE} if (margin > 0).any() else set()
        return found | ({EQUAL} if (margin == 0).any() else set())


class Constants:
    """The values of a model's constants, read when they are asked for."""

    def __init__(self, source: LoadedModel) -> None:
        self._held = {t.name: t for t in source.proto.graph.initializer}
        for node in walk_nodes(source.proto):
            for a in node.attribute if node.op_type == "Constant" else ():
                if a.HasField("t"):
                    self._held[node.output[0]] = a.t
            for _, body in list_bodies(node):
                self._held |= {t.name: t for t in body.initializer}
        self._folder = source.folder

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def get(self, name: str) -> Array | None:
        """The value, None where the name is not a constant's."""
        return read_tensor(self._held[name], self._folder) if name in self._held else None

    def counts_few(self, name: str) -> bool:
        """Whether the name is that of a constant of a few elements."""
        return name in self._held and int(np.prod(self._held[name].dims)) <= 4

    def get_number(self, name: str) -> float | None:
        """The value of a constant of one element."""
        tensor = self._held.get(name)
        if tensor is None or int(np.prod(tensor.dims)) != 1:
            return None
        value = read_tensor(tensor, self._folder).reshape(-1)[0]
        return float(value) if value.dtype.kind in "fiub" else None


class _Inside(Mapping[str, Any]):
    """The values of one run as a body sees them: its own tensors by their names, and what it captures."""

    def __init__(self, values: Values, names: Mapping[str, str]) -> None:
        self._values, self._names = values, names

    def __getitem__(self, name: str) -> Any:
        return self._values[self._names.get(name, name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Home(NamedTuple):
    """A node with where it stands: which body, and under which names a run tells of the tensors made there."""

    node: NodeProto
    body: str
    names: Mapping[str, str]


def walk_homes(nodes: Iterable[NodeProto], body: str = "", names: Mapping[str, str] | None = None) -> Iterator[Home]:
    """The nodes and those of their bodies; which If or Loop it is, one is known by its number."""
    count: Counter[str] = Counter()
    for node in nodes:
        yield Home(node, body, names or {})
        for attribute, graph in list_bodies(node):
            key = make_body_key("", node, attribute)
            made = [*(i.name for i in graph.input), *(n for inner in graph.node for n in inner.output if n)]
            inside = {**(names or {}), **{n: f"{key}/{n}" for n in made}}
            yield from walk_homes(graph.node, f"{body}/{node.op_type}{count[node.op_type]}.{attribute}", inside)
        count[node.op_type] += 1


def list_bounds(source: LoadedModel) -> list[Bound]:
    """The bounds of what the outputs of a model hang on, in the bodies of control flow, too."""
    held = Constants(source)
    return [_place(bound, home) for home in walk_homes(walk_live_nodes(source)) for bound in _read(home.node, held)]


def _place(bound: Bound, home: Home) -> Bound:
    if not home.body:
        return bound
    reads = tuple(home.names.get(n, n) for n in bound.reads)
    return replace(bound, home=home.body, reads=reads, margin=lambda v: bound.margin(_Inside(v, home.names)))


def walk_live_nodes(source: LoadedModel) -> list[NodeProto]:
    """The nodes of the main graph that an output hangs on, in their order."""
    graph = source.proto.graph
    wanted, found = {o.name for o in graph.output}, list[NodeProto]()
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update((*node.input, *list_captures(node)))
            found.append(node)
    return found[::-1]


def _read(node: NodeProto, held: Constants) -> Iterator[Bound]:
    if node.domain not in ("", "ai.onnx", *FUSED) or not node.input:
        yield from _unlike(node, held)
        return
    op, given, x = node.op_type, read_attributes(node), node.input[0]
    match op:
        case _ if op.startswith(("QLinear", "QGemm")):
            yield from _integer(node, held)
        case _ if "activation" in given and node.domain in FUSED:
            yield from _fused(node)
        case "Relu":
            yield _at(node, x, "lower", 0.0)
        case "Clip":
            low, high = (held.get_number(node.input[k]) if len(node.input) > k else None for k in (1, 2))
            yield from _ends(node, x, given.get("min", low), given.get("max", high))
        case "Max" | "Min" if len(node.input) == 2:
            yield from _extremum(node, held)
        case "HardSigmoid":
            alpha, beta = given.get("alpha", 0.2), given.get("beta", 0.5)
            if alpha:
                yield from _ends(node, x, -beta / alpha, (1 - beta) / alpha)
        case "HardSwish":
            yield from _ends(node, x, -3.0, 3.0)
        case "Shrink":
            far, kind = given.get("lambd", 0.5), f"shrink by {given.get('bias', 0.0):.6g}"
            yield from (_at(node, x, kind, limit) for limit in (-far, far))
        case "ThresholdedRelu":
            yield _at(node, x, "lower", given.get("alpha", 1.0))
        case _ if op in _AT_ZERO:
            yield _at(node, x, "slope", 0.0)
        case _ if op in _COMPARISONS or op == "Equal":
            yield from _comparison(node, held)
        case "If":
            body = hashlib.sha256(repr(sorted(_describe_bodies(node, held))).encode()).hexdigest()
            yield Bound(("if", body), op, (x,), lambda v: np.where(v[x], 1.0, -1.0))
        case _ if op in _STEPS:
            half = 0.5 if op == "Round" else 0.0
            yield Bound(("steps", op), op, (x,), lambda v: _from_step(v[x], half), None, frozenset({EQUAL}))
        case "And" | "Or" | "Xor":
            y = node.input[1]
            yield Bound((f"logic {op}", op), op, (x, y), lambda v: 2 * _as_bit(v[x]) + _as_bit(v[y]), None, _FOUR)
        case "Cast":
            yield from _unlike(node, held)
            yield from _wrap(node, held, given.get("to", 0))
        case "Mod":
            yield Bound(("remainder", given.get("fmod", 0), *node.input[1:]), op, (x,), lambda v: v[x])
        case "ArgMax" | "ArgMin":
            key = (op, given.get("axis", 0), given.get("select_last_index", 0))
            axis = int(given.get("axis", 0))
            yield Bound(key, op, (x,), lambda v: _count_ties(v[x], axis), None, frozenset({EQUAL}))
        case "QuantizeLinear":
            yield from _unlike(node, held)
            yield from _quantizer(node, held)
        case _:
            yield from _unlike(node, held)


def _unlike(node: NodeProto, held: Constants) -> Iterator[Bound]:
    """What has no bound, if it needs one: two of them are alike, or nobody knows."""
    inner = [b.key for _, body in list_bodies(node) for n in body.node for b in _read(n, held)]
    if (key := make_key(node, held, inner)) is not None:
        yield Bound(key, node.op_type, (), lambda v: np.ones(1), None, frozenset({UNSEEN}))


def _wrap(node: NodeProto, held: Constants, to: int) -> Iterator[Bound]:
    """The ends of an integer type, where values of a wider one are cast to it."""
    kind = get_dtype(to)
    if kind is None or kind.kind not in "iu":
        return
    ends = np.iinfo(kind)
    for limit, side in ((float(ends.min), "least"), (float(ends.max), "most")):
        yield _at(node, node.input[0], f"{side} integer", limit)


def _at(node: NodeProto, name: str, kind: str, limit: float) -> Bound:
    return Bound((kind, _round(limit)), node.op_type, (name,), lambda v: v[name] - limit, limit)


def _fused(node: NodeProto) -> Iterator[Bound]:
    """The bounds of an activation that onnxruntime took into a layer; what comes to it is no tensor of the model."""
    given = read_attributes(node)
    numbers = [given[k] for k in ("activation_alpha", "activation_beta") if k in given]
    numbers = list(given.get("activation_params", numbers))
    unseen = helper.make_node(f"{node.op_type}'s {given['activation']}", [node.output[0]], [])
    match given["activation"], numbers:
        case "Relu", _:
            found: Iterable[Bound] = [_at(unseen, "", "lower", 0.0)]
        case "LeakyRelu", _:
            found = [_at(unseen, "", "slope", 0.0)]
        case "Clip", [low, high]:
            found = _ends(unseen, "", low, high)
        case "HardSigmoid", [alpha, beta] if alpha:
            found = _ends(unseen, "", -beta / alpha, (1 - beta) / alpha)
        case _:
            found = ()
    yield from (replace(bound, margin=lambda v: np.zeros(0)) for bound in found)


def _ends(node: NodeProto, name: str, low: float | None, high: float | None) -> Iterator[Bound]:
    if low is not None and low > -3e38:
        yield _at(node, name, "lower", low)
    if high is not None and high < 3e38:
        yield _at(node, name, "upper", high)


def _extremum(node: NodeProto, held: Constants) -> Iterator[Bound]:
    kind = "lower" if node.op_type == "Max" else "upper"
    for name, other in (tuple(node.input), tuple(node.input)[::-1]):
        limit = held.get_number(other)
        if limit is not None:
            yield _at(node, name, kind, limit)
            return
    x, y = node.input
    yield Bound((kind, "two tensors"), node.op_type, (x, y), lambda v: v[x] - v[y])


def _comparison(node: NodeProto, held: Constants) -> Iterator[Bound]:
    kind = _COMPARISONS.get(node.op_type, "equal")
    x, y = node.input
    sides = frozenset({BELOW, ABOVE, EQUAL})
    for name, other, turned in ((x, y, False), (y, x, True)):
        limit = held.get_number(other)
        if limit is not None:
            way = node.op_type in ("Less", "LessOrEqual")
            key = (kind, way != turned, _round(limit))
            yield Bound(key, node.op_type, (name,), lambda v, n=name, c=limit: v[n] - c, limit, sides)  # type: ignore[misc]
            return

    def subtract(v: Values) -> Array:
        left, right = (np.asarray(held.get(n) if n in held else v[n]) for n in (x, y))
        return np.subtract(left.astype(np.float64), right.astype(np.float64))

    reads = tuple(n for n in (x, y) if n not in held)
    yield Bound((kind, node.op_type), node.op_type, reads, subtract, None, frozenset({BELOW, ABOVE}))


def _quantizer(node: NodeProto, held: Constants) -> Iterator[Bound]:
    x, scale = node.input[0], held.get_number(node.input[1])
    zero = held.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1, np.uint8)
    yield from _saturate(node, x, scale, zero)


def _integer(node: NodeProto, held: Constants) -> Iterator[Bound]:
    """What operators on integers saturate at by themselves: nobody needs to see that, but others may write it out."""
    for scale, zero in pairwise(node.input):
        bounds = _saturate(node, node.output[0], held.get_number(scale), held.get(zero))
        yield from (replace(bound, sides=frozenset()) for bound in bounds)


def _saturate(node: NodeProto, x: str, scale: float | None, zero: Array | None) -> Iterator[Bound]:
    if scale is None or zero is None or zero.size != 1 or zero.dtype.kind not in "iu":
        return
    ends = np.iinfo(zero.dtype)
    shift = float(zero.reshape(-1)[0])
    yield from _ends(node, x, (ends.min - shift) * scale, (ends.max - shift) * scale)


def _as_bit(x: Any) -> Array:
    return np.asarray(x).astype(np.int64)


def _from_step(x: Array, half: float) -> Array:
    """0 where a value lies on a step."""
    return np.where(np.mod(np.asarray(x, np.float64), 1.0) == half, 0.0, 1.0)


def _count_ties(x: Array, axis: int) -> Array:
    """0 where the two largest or the two smallest of a row are equal, else 1."""
    rows = np.sort(np.moveaxis(np.asarray(x), axis, -1), axis=-1)
    if rows.shape[-1] < 2:
        return np.ones(1)
    tied = (rows[..., -1] == rows[..., -2]) | (rows[..., 0] == rows[..., 1])
    return np.where(tied, 0.0, 1.0)


def _describe_bodies(node: NodeProto, held: Constants) -> Iterator[tuple[Any, ...]]:
    """What the branches do, without names: operators, attributes, and the constants that they read."""
    for name, graph in list_bodies(node):
        for inner in graph.node:
            yield (
                name,
                inner.op_type,
                tuple(sorted(a.SerializeToString() for a in inner.attribute if not a.HasField("g"))),
            )
        for tensor in graph.initializer:
            yield name, tensor.data_type, read_tensor(tensor).tobytes()
    for name in sorted(list_captures(node)):
        value = held.get(name)
        if value is not None:
            yield "", str(value.dtype), value.tobytes()


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def find_own_bounds(a: list[Bound], b: list[Bound]) -> tuple[list[Bound], list[Bound]]:
    """The bounds that only the first and only the second model has.

    That numbers may be equal to a bound matters only where both turn at it, in another way.
    """
    apart = {x.home for x in a} == {x.home for x in b}  # else a body was taken in, or moved
    left, right = ({(x.home if apart else "", x.key) for x in side} for side in (a, b))
    own = [
        [x for x in side if (x.home if apart else "", x.key) not in others] for side, others in ((a, right), (b, left))
    ]
    limits = [{x.limit for x in side if EQUAL in x.sides and x.limit is not None} for side in own]
    shared = limits[0] & limits[1]
    kinds = [{x.key[0] for x in side} for side in (a, b)]
    return [_relax(x, shared, kinds[1]) for x in own[0]], [_relax(x, shared, kinds[0]) for x in own[1]]


_INTEGER_ENDS = {"least integer", "most integer"}


def _relax(bound: Bound, shared: set[float], others: set[Any]) -> Bound:
    if bound.key[0] == "steps" and "steps" not in others:
        return replace(bound, sides=frozenset({ABOVE}))  # any number between two steps shows what a step does
    if bound.key[0] in _INTEGER_ENDS and not others & _INTEGER_ENDS:
        return replace(bound, sides=frozenset())  # any number shows what a cast does; of its ends ONNX says nothing
    if bound.limit is None or EQUAL not in bound.sides or bound.limit in shared or bound.key[0] == "equal":
        return bound
    return replace(bound, sides=bound.sides - {EQUAL})
