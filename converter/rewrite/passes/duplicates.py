"""What is there twice is computed once; what nobody reads is not computed."""

from __future__ import annotations

from collections.abc import Sequence

from converter.dataclass import dataclass
from converter.model.graph import Bypass, Const, Edit, Node, SetInput, Tensor
from converter.records import FateKind, Safety
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import ARITHMETIC, BATCH_NORM
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.bias_flow.fates import BiasChange
from converter.rewrite.bias_flow.rules import RULES
from converter.rewrite.passes import checks
from converter.rewrite.passes.base import Check, Match, Pass

_MOST_READERS = 256  # of a tensor, that are looked at for each of them


@dataclass(frozen=True, slots=True)
class Twins(Match):
    """Two nodes that compute the same; the first is the earlier one."""

    first: Node
    second: Node

    @property
    def nodes(self) -> Sequence[Node]:
        """Both."""
        return [self.first, self.second]

    @property
    def result(self) -> Tensor:
        """What stays."""
        found: Tensor = self.first.outputs[0]
        return found


def _find_twins(facts: Facts, node: Node) -> Twins | None:
    """An earlier node of the same graph with the same operator, attributes and inputs."""
    computed = [t for t in node.inputs if t.name and not isinstance(t, Const)]
    if not computed or node.tensor_out(0) is None:
        return None
    readers = min((facts.graph.readers(t) for t in computed), key=len)[:_MOST_READERS]
    earlier = (n for n in readers if n.op == node.op and n.position < node.position and n.scope is node.scope)
    first = next((n for n in earlier if n.domain == node.domain and _are_equal(facts, n, node)), None)
    return None if first is None else Twins(first, node)


def _are_equal(facts: Facts, one: Node, two: Node) -> bool:
    if len(one.inputs) != len(two.inputs) or one.tensor_out(0) is None or one.attr_edits or two.attr_edits:
        return False
    attributes = [{k: a.SerializeToString(deterministic=True) for k, a in n.attr_protos.items()} for n in (one, two)]
    if attributes[0] != attributes[1] or any(t.name for n in (one, two) for t in list(n.outputs)[1:]):
        return False
    return all(_hold_the_same(facts, a, b) for a, b in zip(one.inputs, two.inputs, strict=True))


def _hold_the_same(facts: Facts, a: Tensor, b: Tensor) -> bool:
    if a is b or a.name == b.name == "":
        return True
    one, two = facts.constants.weight(a), facts.constants.weight(b)
    if one is None or two is None or (one.shape, one.dtype) != (two.shape, two.dtype):
        return False
    known = facts.constants.problem(a) is None and facts.constants.problem(b) is None
    return known and one.load().tobytes() == two.load().tobytes()


def _use_problem(facts: Facts, m: Twins) -> tuple[str, str] | None:
    out = m.second.outputs[0]
    if "output" in out.external_uses:
        return "output-is-graph-output", f"{out.name!r} is an output of its graph"
    if out.external_uses or any(n.scope is not out.scope for n in facts.graph.readers(out)):
        return "captured-by-subgraph", f"{out.name!r} is read inside a control-flow body"
    return None


def _plan_twins(facts: Facts, m: Twins) -> list[Edit]:
    """Readers of the second read the first; the second is read by nobody then."""
    out = m.second.outputs[0]
    readers = dict.fromkeys(facts.graph.readers(out))
    return [SetInput(n, slot, m.result) for n in readers for slot, t in enumerate(n.inputs) if t is out]


TWINS = Pass(
    """Of two batch norms that compute the same, one goes away.

    Given:  x [N, C, *d]; two BatchNormalizations of it in one graph with equal attributes and equal constants; nothing
            outside of the graph reads the second.
    Result: readers of the second read the first, which may fold now.
    Source: common subexpressions, Cocke 1970.""",
    Safety.EXACT,
    ops=BATCH_NORM,
    find=_find_twins,
    checks=(
        checks.ATTRIBUTES_KNOWN,
        Check(("output-is-graph-output", "captured-by-subgraph"), _use_problem),
    ),
    plan=_plan_twins,
    output=lambda m: m.result,
    name="merge-equal-bns",
)

# -- a branch that nobody reads --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unread(Match):
    """A node of which no output is read."""

    node: Node

    @property
    def nodes(self) -> Sequence[Node]:
        """The node."""
        return [self.node]


_SHAPING = tuple("Relu LeakyRelu PRelu Sigmoid Tanh Erf Exp Log Sqrt Clip Pow Abs Softplus HardSwish Gelu".split())


def _find_unread(_: Facts, node: Node) -> Unread | None:
    outputs = [t for t in node.outputs if t.name]
    if node.bodies or len(outputs) != 1 or node.tensor_out(0) is None or node.tensor_in(0) is None:
        return None
    return None if outputs[0].outputs or "output" in outputs[0].external_uses else Unread(node)


def _name_use(_: Facts, m: Unread) -> str | None:
    out = m.node.outputs[0]
    return f"{out.name!r} is also used by {', '.join(sorted(out.external_uses))}" if out.external_uses else None


UNREAD = Pass(
    """A branch that nobody reads goes away.

    Given:  a node whose output no node reads, and which is no output of the graph.
    Result: the node is gone, and what was made for it alone.
    Source: dead code.""",
    Safety.EXACT,
    ops=tuple(dict.fromkeys((*BATCH_NORM, *ARITHMETIC, *lin.LINEAR, *RULES, *_SHAPING))),
    find=_find_unread,
    checks=(Check("several-readers", _name_use),),
    plan=lambda _, m: [Bypass(m.node, 0, keep="input")],
    output=lambda m: m.node.tensor_in(0),
    name="drop-unread-node",
    changes_batch_norm=True,
    bias_change=lambda m: BiasChange(m.node.label, FateKind.DEAD, "", 0),
)
