"""Runs the passes: sweeps over the table until nothing changes; and counts what a model holds before and after.

``run_passes`` takes functions as they are, or written out at their calls where that goes further. A function's weights
may be arguments, which differ from call to call, and its attributes as well. Written out, each call has weights of its
own; but the file holds the function's nodes once for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import field, replace
from typing import Protocol

from converter.dataclass import dataclass
from converter.errors import InvariantViolation
from converter.model.file import NEWEST_OPSET
from converter.model.file.preparation import has_calls
from converter.model.graph import Const, Edit, Graph, Node, collecting_seldom, emit, load, weight_bytes
from converter.numerics import is_float
from converter.records import Counts, Fate, Finding, Rewrite, Safety, Status
from converter.rewrite.affine_flow.takers import WEIGHTED
from converter.rewrite.analysis.affine import ARITHMETIC, affine_at, stats_problem, training_problem
from converter.rewrite.analysis.facts import Facts, PassOptions
from converter.rewrite.analysis.fused import CLOSED
from converter.rewrite.analysis.linear import CONV, CONV_TRANSPOSE, GEMM, MATMUL, linear_at
from converter.rewrite.analysis.quantized import FUSED_WEIGHTS
from converter.rewrite.bias_flow.fates import BiasTracker, site_at
from converter.rewrite.growth import GrowthTracker, external_bytes
from converter.rewrite.passes import PASSES, Pass

OLDEST_OPSET = 6
_QUANTIZED = ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "DequantizeLinear")
_NCHWC = "com.microsoft.nchwc"
_QUANTIZERS = ("QuantizeLinear", "DynamicQuantizeLinear")

Progress = Callable[[str], None]


class Watch(Protocol):
    """Sees every rewrite."""

    def __call__(self, p: Pass, edits: list[Edit], /) -> Callable[[Rewrite], None]:
        """Told before each is applied; what it returns is called with the rewrite afterwards."""

    def restart(self) -> None:
        """All that was applied is undone: the graph is as it was read."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run.

    Attributes
    ----------
    only : frozenset of str, optional
        Names of the passes to run; all by default.
    skip : frozenset of str
        Names of passes to leave out.
    allow : frozenset of str
        Names of passes of safety ASSUMES that may run.
    stop_after : int, optional
        Number of rewrites after which to stop.
    allow_growth : float
        By how much the file may grow, as a share of it.
    """

    only: frozenset[str] | None = None
    skip: frozenset[str] = frozenset()
    allow: frozenset[str] = frozenset()
    stop_after: int | None = None
    pass_options: PassOptions = field(default_factory=PassOptions)
    allow_growth: float = math.inf

    def active(self) -> tuple[Pass, ...]:
        """The passes to run, in the table's order."""
        return tuple(
            p
            for p in PASSES
            if (self.only is None or p.name in self.only)
            and p.name not in self.skip
            and (p.safety is not Safety.ASSUMES or p.name in self.allow)
            and not (self.pass_options.keep_bn and p.changes_batch_norm)
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the passes did and what they left."""

    rewrites: tuple[Rewrite, ...]
    findings: tuple[Finding, ...]
    before: Counts
    after: Counts
    fates: tuple[Fate, ...] = ()


def unknown_passes(names: Iterable[str]) -> list[str]:
    """Names that no pass has."""
    known = {p.name for p in PASSES}
    return [n for n in names if n not in known]


def run(graph: Graph, options: Options, progress: Progress | None = None, watch: Watch | None = None) -> Outcome:
    """Apply the passes to a fixpoint (or `stop_after`), and say what each left and why; ``watch`` sees every edit.

    Raises
    ------
    InvariantViolation
        The passes go on for longer than a graph of this size can give them work.
    """
    tell = progress or (lambda _: None)
    graph.most_bytes = (1 + options.allow_growth) * len(graph.file.buffer)
    left: dict[str, int] = {}  # what would make the file larger than is allowed

    def undo() -> None:
        graph.reset()
        if watch is not None:
            watch.restart()

    while True:
        # Whether copies of a shared weight pay off is known when the passes are through, not halfway.
        whole = _Run(graph, replace(options, stop_after=None), tell, watch, left)
        with collecting_seldom():
            outcome = whole.run()
        is_over, more = whole.find_excess()
        if more.keys() - left.keys():
            left |= more
        elif is_over and not graph.short_names:
            graph.short_names = True
        else:
            break
        undo()
    if options.stop_after is None or options.stop_after >= len(outcome.rewrites):
        return outcome
    undo()
    return _Run(graph, options, tell, watch, left).run()


class _Run:
    def __init__(
        self, graph: Graph, options: Options, progress: Progress, watch: Watch | None, left: dict[str, int]
    ) -> None:
        self.graph = graph
        self.watch = watch
        self.growth = GrowthTracker(graph, left)
        self.facts = Facts(graph, options.pass_options, self.growth.may_copy)
        self.options = options
        self.passes = options.active()
        self.progress = progress
        self.rewrites: list[Rewrite] = []
        self.declined: dict[str, dict[str, Finding]] = {}  # pass -> finding id -> finding
        self.biases = BiasTracker(self.facts)

    def run(self) -> Outcome:
        before = count(self.facts)
        # Each rewrite takes a node or a bias away, but for a few that trade one operator for another.
        limit = (2 * before.nodes + 16) * max(len(self.passes), 1)
        quiet = n_sweeps = 0
        # Done when every pass has looked at the graph as it is now and found nothing.
        while quiet < len(self.passes) and not self._is_full():
            n_before = len(self.rewrites)
            self._sweep(self.passes[n_sweeps % len(self.passes)])
            quiet = quiet + 1 if len(self.rewrites) == n_before else 0
            n_sweeps += 1
            if n_sweeps > limit:
                raise InvariantViolation(f"the passes found work {limit} times over; they undo each other")
        acted = tuple(Finding(r.id, r.pass_name, r.node, Status.ACT) for r in self.rewrites)
        declined = tuple(f for p in self.passes for f in self.declined.get(p.name, {}).values())
        left = (*declined, *self._find_unexplained(declined), *self._find_blocked_layouts())
        done = {r.id for r in self.rewrites}  # a batch norm that took a bias in, and is to be kept
        findings = acted + tuple(f for f in left if f.id not in done)
        return Outcome(tuple(self.rewrites), findings, before, count(self.facts), self._fates(left))

    def find_excess(self) -> tuple[bool, dict[str, int]]:
        """Whether the file is larger than is allowed, and what made it so that shorter names cannot make good."""
        over = least = 0.0
        if not math.isinf(self.options.allow_growth):
            allowed = self.options.allow_growth * len(self.graph.file.buffer)
            over, least = self.growth.measure_excess(allowed)
        if self.options.pass_options.no_growth and (copies := self.growth.find_copies()):
            return over > 0, copies
        return over > 0, self.growth.find_excess(least)

    def _is_full(self) -> bool:
        return self.options.stop_after is not None and len(self.rewrites) >= self.options.stop_after

    def _sweep(self, p: Pass) -> None:
        self.progress(p.name)
        self.declined[p.name] = {}
        by_op = self.facts.remember_wiring(_sort_by_op)
        if p.beside and not any(op in by_op for op in p.beside):
            return
        found = [entry for op in dict.fromkeys((*p.ops, *p.microsoft)) for entry in by_op.get(op, ())]
        for _, node in sorted(found, key=lambda entry: entry[0], reverse=p.upward):
            if node.alive and p.may_hang_on(node) and not self._is_full():
                self._ask(p, node)

    def _ask(self, p: Pass, node: Node) -> None:
        if opset_problem(node) is not None:
            return
        match = p.find(self.facts, node)
        if match is None:
            return
        label = node.label  # before the edits take the node away
        id_ = f"{p.name}@{label}"
        problem = p.decline(self.facts, match)
        if problem is not None:
            self.declined[p.name][id_] = Finding(id_, p.name, label, Status.DECLINED, *problem)
            return
        edits = p.plan(self.facts, match)
        shared = self.growth.find_shared(edits)
        own = self.growth.own_growth(edits, shared)
        why = self.growth.problem(id_, shared)
        if why is None and own > 0 and self.options.pass_options.no_growth:
            why = f"the model would grow by {own} bytes"
        if why is not None:
            self.declined[p.name][id_] = Finding(id_, p.name, label, Status.DECLINED, "model-grows", why)
            return
        self.growth.open(shared)
        output = p.output(match)
        change = None if p.bias_change is None else p.bias_change(match)
        done = None if self.watch is None else self.watch(p, edits)
        delta = self.graph.apply(edits)
        self.growth.close(id_, own, shared, delta)
        self.biases.note(delta, change)
        self.rewrites.append(Rewrite(id_, p.name, label, p.safety, str(output.name) if output else "", delta))
        if done is not None:
            done(self.rewrites[-1])

    def _fates(self, left: Iterable[Finding]) -> tuple[Fate, ...]:
        takers = {p.name for p in self.passes if p.bias_change is not None}
        norms = {n.label for n in self.graph.nodes() if n.is_op("BatchNormalization")}
        unasked = {n.label: why for n in self.graph.nodes() if (why := opset_problem(n)) is not None}
        return self.biases.close([f for f in left if f.pass_name in takers or f.node in norms], unasked)

    def _find_unexplained(self, declined: tuple[Finding, ...]) -> Iterable[Finding]:
        """Batch norms, and arithmetic beside a layer, that no pass said a word about."""
        explained = {f.node for f in declined}
        for op, word in (("BatchNormalization", "fold-bn"), ("Mul", "fold-affine")):
            names = [p.name for p in self.passes if op in p.ops]
            if not names or self._is_full():
                continue
            name = names[0] if len(names) == 1 else word  # one word for all of them
            for node in self.graph.nodes():
                if node.label in explained or not node.is_op(*((op,) if word == "fold-bn" else ARITHMETIC)):
                    continue
                found = self._why_left(node) if word == "fold-bn" else self._why_arithmetic_is_left(node)
                if found is not None:
                    yield Finding(f"{name}@{node.label}", name, node.label, Status.DECLINED, *found)

    def _find_blocked_layouts(self) -> Iterable[Finding]:
        """Layers of onnxruntime's files made for one machine: their weights lie in blocks of its kernels' size."""
        for node in self.graph.nodes():
            if node.domain == _NCHWC and node.op == "Conv" and not self._is_full():
                why = f"{node.label} is laid out for one kind of processor (NCHWc): fold the model that it was made of"
                id_ = f"fold-affine@{node.label}"
                yield Finding(id_, "fold-affine", node.label, Status.DECLINED, "unknown-operator", why)

    def _why_arithmetic_is_left(self, node: Node) -> tuple[str, str] | None:
        """Of arithmetic with a constant right beside a layer of a constant weight; a layer's own bias has its fate."""
        known = [self.facts.constants.weight(t) for t in node.inputs]
        data = [t for t, w in zip(node.inputs, known, strict=True) if w is None]
        result = node.tensor_out(0)
        numbers = [w for w in known if w is not None]
        if len(data) != 1 or result is None or (numbers and not is_float(numbers[0].dtype)):
            return None
        beside = (self.graph.producer(data[0]), *self.graph.readers(result))
        layer = next((n for n in beside if n is not None and self._is_layer(n)), None)
        quantizer = next((n for n in self.graph.readers(result) if n.is_op(*_QUANTIZERS)), None)
        if (layer is None and quantizer is None) or site_at(self.facts, node) is not None:
            return None
        if (problem := opset_problem(node)) is not None:
            return "opset", problem
        if quantizer is not None:
            return "stops", f"{quantizer.label} ({quantizer.op}) rounds what it is given"
        assert layer is not None
        return "no-linear-op", f"no rule takes this {node.op} into {layer.op} ({layer.label})"

    def _is_layer(self, node: Node) -> bool:
        """Whether it multiplies by a constant weight, or looks rows up in one."""
        if not (
            node.is_op(*WEIGHTED, *_QUANTIZED)
            or node.is_microsoft(*FUSED_WEIGHTS, *CLOSED, *WEIGHTED, "DynamicQuantizeLSTM")
        ):
            return False
        weights = node.inputs[:1] if node.is_op("Gather") else node.inputs[:4]
        return any(t.name and self.facts.constants.weight(t) is not None for t in weights)

    def _why_left(self, node: Node) -> tuple[str, str]:
        affine = affine_at(node, 0)
        problem = opset_problem(node)
        if problem is not None:
            return "opset", problem
        if node.function_attrs:
            return "function-attribute", f"{', '.join(node.function_attrs)} comes from each call of its function"
        if affine is not None and (problem := training_problem(affine)) is not None:
            return "training-mode", problem
        if affine is not None and (problem := stats_problem(self.facts, affine)) is not None:
            return "spatial-stats", problem
        if self.options.pass_options.keep_bn:
            return "keep-bn", "batch norms are to be kept"
        source = node.tensor_in(0)
        producer = self.graph.producer(source) if source is not None else None
        above = f"{producer.op} ({producer.label})" if producer is not None else "an input"
        result = node.tensor_out(0)
        readers = sorted({n.op for n in self.graph.readers(result)}) if result is not None else []
        below = ", ".join(readers) or "an output"
        return (
            "no-linear-op",
            f"no linear operator beside it that it could fold into: it lies between {above} and {below}",
        )


def _sort_by_op(facts: Facts) -> dict[str, list[tuple[int, Node]]]:
    """The nodes by their type, each with its place in the model's order."""
    found: dict[str, list[tuple[int, Node]]] = {}
    for place, node in enumerate(facts.graph.nodes()):
        found.setdefault(str(node.op), []).append((place, node))
    return found


def opset_problem(node: Node) -> str | None:
    """Why the operators of the node's graph are not known to mean what the passes think; None if they are."""
    opset = node.scope.opset
    if OLDEST_OPSET <= opset <= NEWEST_OPSET:
        return None
    return f"opset {opset} is outside {OLDEST_OPSET} to {NEWEST_OPSET}"


def count(facts: Facts) -> Counts:
    """Counts over the main graph, subgraphs and functions."""
    graph = facts.graph
    nodes = batch_norms = biases = 0
    # Where there can be no initializers, new constants are written as nodes.
    nodes += sum(
        len(s.new_constants)
        for s in graph.scopes
        if s.kind == "function" or (s.kind == "body" and graph.ir_version < 4)
    )
    for node in graph.nodes():
        nodes += 1
        batch_norms += node.is_op("BatchNormalization")
        if node.is_op(CONV, CONV_TRANSPOSE, GEMM):
            bias = node.tensor_in(2)
            biases += bias is not None and facts.constants.weight(bias) is not None
        elif node.is_op("Add"):
            biases += linear_at(facts, node, MATMUL) is not None
    return Counts(nodes, batch_norms, biases, _parameter_bytes(graph))


def _parameter_bytes(graph: Graph) -> int:
    total = sum(
        weight_bytes(t.weight)
        for s in graph.scopes
        if s.owner is None or s.owner.alive
        for t in s.values.values()
        if isinstance(t, Const)
    )
    for node in graph.nodes():
        if node.is_op("Constant") and (stored := graph.constant_weight(node)) is not None:
            total += weight_bytes(stored)
    return total


_FREE = ("Constant", "Identity")
_WORD = "write-out-functions"  # no pass's name: what its one finding goes by


def run_passes(
    graph: Graph,
    reopen: Callable[[], Graph],
    options: Options,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> tuple[Graph, Outcome]:
    """The graph after the passes, and what they did; another graph than was given (closed then) if functions went.

    Parameters
    ----------
    reopen : callable
        The same model once more, with its functions written out where that can be.
    watch : callable, optional
        Sees every edit of the model as it is: its functions stay.
    """
    stored_before = external_bytes(graph)
    outcome = run(graph, options, progress, watch)
    if watch is not None or not has_calls(graph.file.skeleton):
        return graph, outcome
    flat = reopen()
    if not flat.file.was_written_out:
        flat.close()
        return graph, outcome
    whole = replace(options, stop_after=None)  # what is worth it is not to hang on where they stop
    if options.stop_after is not None:
        graph.reset()
        run(graph, whole, progress)
    further = run(flat, whole, progress)
    flat.most_bytes = graph.most_bytes
    grown = emit(flat).n_bytes + external_bytes(flat) - stored_before - flat.most_bytes
    better = bool(further.rewrites) and _is_less(_measure(flat), _measure_written_out(graph))
    chosen, other = (flat, graph) if better and grown <= 0 else (graph, flat)
    name = str(graph.file.skeleton.functions[0].name)
    other.close()
    if options.stop_after is not None:
        most = chosen.most_bytes
        chosen.reset()
        outcome = run(chosen, options, progress)
        chosen.most_bytes = most
    elif chosen is flat:
        outcome = further
    if better and grown > 0:
        why = f"written out at their calls, the functions would grow the file by {grown:,.0f} bytes; --allow-growth"
        left = Finding(f"{_WORD}@{name}", _WORD, name, Status.DECLINED, "model-grows", why)
        outcome = replace(outcome, findings=(*outcome.findings, left))
    return chosen, outcome


def _measure_written_out(graph: Graph) -> tuple[int, int]:
    """What a model with functions runs."""
    flat = load(emit(graph).to_bytes(), data=graph.file.base, written_out=True)
    try:
        return _measure(flat)
    finally:
        flat.close()


def _measure(graph: Graph) -> tuple[int, int]:
    """Nodes that compute something, and how many tensors they read."""
    nodes = [n for n in graph.nodes() if not n.is_op(*_FREE)]
    return len(nodes), sum(bool(tensor.name) for n in nodes for tensor in n.inputs)


def _is_less(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
