"""Models of one node, run in float64 with and without a shift of their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converter.model.graph import Node, load
from converter.referee.reference.evaluator import Reference
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.bias_flow.rules import propagate
from converter.rewrite.bias_flow.shift import Block, Effect, Propagate, Shift

Array = NDArray[Any]
Axes = frozenset[int]


def axes_of(text: str) -> Axes:
    """'02' is {0, 2}; '-' is the empty set."""
    return frozenset(int(c) for c in text.strip("-"))


def sets_of(text: str) -> set[Axes]:
    """Sets of axes, separated by spaces."""
    return {axes_of(word) for word in text.split()}


@dataclass(frozen=True)
class Case:
    """One node, and along which sets of axes its first shifted input may vary.

    Attributes
    ----------
    text : str
        The node, as ONNX text; its inputs are named, its outputs are y, z, w.
    given : mapping
        Inputs: a tuple is the shape of a run-time input, an array a constant.
    carry, gone : str
        Sets of axes along which a shift of known value may vary, and go on, or vanish; every other is felt.
    slots : tuple of int
        Inputs that are shifted together; `alike`: by the same D.
    felt : str
        Some sets of axes for which no shift comes out: the difference depends on the data, or has other axes.
    before : str
        Another node, that makes an input.
    """

    text: str
    given: Mapping[str, Any]
    carry: str = ""
    gone: str = ""
    slots: tuple[int, ...] = (0,)
    alike: bool = False
    felt: str = ""
    before: str = ""
    opset: int = 17
    name: str = ""
    types: tuple[int, ...] = (TensorProto.DOUBLE,)
    feeds: Mapping[str, Array] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """For the test's name."""
        return f"{self.name or self.text} @{self.opset}"

    @cached_property
    def node_proto(self) -> onnx.NodeProto:
        """The node."""
        return onnx.parser.parse_node(self.text)

    @property
    def op(self) -> str:
        """The operator."""
        return str(self.node_proto.op_type)

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The node alone in a model."""
        node = self.node_proto
        nodes = [onnx.parser.parse_node(self.before), node] if self.before else [node]
        types = self.types * len(node.output) if len(self.types) == 1 else self.types
        inputs = [
            helper.make_tensor_value_info(n, self._type(n), list(s)) for n, s in self.given.items() if _is_shape(s)
        ]
        outputs = [helper.make_tensor_value_info(n, t, None) for n, t in zip(node.output, types, strict=True) if n]
        held = [numpy_helper.from_array(np.asarray(v), n) for n, v in self.given.items() if not _is_shape(v)]
        graph = helper.make_graph(nodes, "one", inputs, outputs, held)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def _type(self, name: str) -> int:
        value = self.feeds.get(name)
        if value is None:
            return int(TensorProto.DOUBLE)
        return int(helper.np_dtype_to_tensor_dtype(value.dtype))

    @cached_property
    def facts(self) -> Facts:
        """What the rules ask."""
        return Facts(load(self.model))

    @property
    def node(self) -> Node:
        """The node, as the rules see it."""
        return list(self.facts.graph.nodes())[-1]

    @cached_property
    def reference(self) -> Reference:
        """The judge."""
        return Reference(self.model)

    def shape(self, slot: int) -> tuple[int, ...]:
        """Of an input."""
        value = self.given[self.node_proto.input[slot]]
        return tuple(value) if _is_shape(value) else np.asarray(value).shape

    def drawn(self, seed: int) -> dict[str, Array]:
        """Values for all run-time inputs."""
        rng = np.random.default_rng(seed)
        out = {n: rng.normal(0, 1, s) for n, s in self.given.items() if _is_shape(s)}
        return out | dict(self.feeds)

    def patterns(self) -> Iterator[Axes]:
        """Every set of axes along which the first shifted input can vary."""
        shape = self.shape(self.slots[0])
        axes = [i for i, d in enumerate(shape) if d > 1]
        for n in range(len(axes) + 1):
            for chosen in combinations(axes, n):
                yield frozenset(chosen)

    def shifts(self, varying: Axes) -> dict[int, Array]:
        """Slot -> D, varying along these axes."""
        rng = np.random.default_rng(7)
        out = {}
        for slot in self.slots:
            shape = self.shape(slot)
            rank = len(self.shape(self.slots[0]))
            at = {a - rank + len(shape) for a in varying}
            out[slot] = rng.normal(0.4, 1, [d if i in at else 1 for i, d in enumerate(shape)])
        if self.alike:
            first = out[self.slots[0]]
            return dict.fromkeys(out, first)
        return out

    def asked(self, shifts: Mapping[int, Array], blind: bool = False) -> Effect:
        """What the rule says; `blind`: it is told the axes only."""
        told: dict[int, Shift] = {slot: Shift.of_value(d) for slot, d in shifts.items()}
        if blind:
            told = {slot: Shift.of_axes(s.rank, s.invariant) for slot, s in told.items()}
        return propagate(self.facts, self.node, told)

    def measured(self, shifts: Mapping[int, Array], seed: int = 3) -> list[tuple[Array, Array]]:
        """Output and its difference for shifted inputs, slot by slot."""
        feeds = self.drawn(seed)
        moved = dict(feeds)
        for slot, d in shifts.items():
            name = self.node_proto.input[slot]
            moved[name] = feeds[name] + d
        before, after = self.reference.run(feeds), self.reference.run(moved)
        return [(before[n], _less(after[n], before[n])) for n in self.node_proto.output if n]


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple)


def _less(a: Array, b: Array) -> Array:
    """The difference; entries that are the same infinity do not differ."""
    with np.errstate(invalid="ignore"):
        wide = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return np.where(np.isinf(a) & (a == b), 0.0, wide) if np.asarray(a).dtype.kind == "f" else wide


def holds(outcome: Effect, seen: list[tuple[Array, Array]]) -> str:
    """Why what the rule says is not what was measured; empty if it is."""
    if isinstance(outcome, Block):
        return ""
    shifts = outcome.shifts if isinstance(outcome, Propagate) else {}
    for slot, (value, moved) in enumerate(seen):
        scale = 1e-12 * (1 + np.abs(value[np.isfinite(value)]).max(initial=0) + np.abs(moved).max(initial=0))
        shift = shifts.get(slot)
        problem = _one(shift, moved, scale)
        if problem:
            return f"output {slot}: {problem}"
    return ""


def _one(shift: Shift | None, moved: Array, scale: float) -> str:
    if shift is None:
        return f"moves by {np.abs(moved).max()}" if np.abs(moved).max(initial=0) > scale else ""
    if shift.rank != moved.ndim:
        return f"has {moved.ndim} axes, not {shift.rank}"
    if shift.value is None:
        bad = [a for a in shift.invariant if np.ptp(moved, axis=a).max(initial=0) > scale]
        return f"varies along {bad}" if bad else ""
    try:
        wanted = np.broadcast_to(shift.value, moved.shape)
    except ValueError:
        return f"a shift of shape {shift.value.shape} beside {moved.shape}"
    gap = np.abs(wanted - moved).max(initial=0)
    return f"off by {gap}" if gap > scale else ""


def is_felt(case: Case, shifts: Mapping[int, Array]) -> bool:
    """Whether no shift comes out: the difference depends on the data, or varies along an axis where D did not."""
    first, second = case.measured(shifts, 3), case.measured(shifts, 4)
    out = False
    for (value, a), (_, b) in zip(first, second, strict=True):
        scale = 1e-9 * (1 + np.abs(value[np.isfinite(value)]).max(initial=0))
        if np.abs(a).max(initial=0) <= scale and np.abs(b).max(initial=0) <= scale:
            continue
        out |= bool(np.abs(a - b).max() > scale)
        given = next(iter(shifts.values()))
        same = [i for i, d in enumerate(given.shape) if d == 1] if given.ndim == a.ndim else []
        out |= any(np.ptp(a, axis=i).max() > scale for i in same)
    return out
