"""A bias whose shift ends in absorbers and annihilators: what the passes on bias flow share.

The passes differ in where the shift ends; the match, the guards and the plan are one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.model.graph import Bypass, Edit, Node, Rename, SetConst, Tensor
from converter.records import EffectKind, FateKind, Safety, Verb
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import Affine
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import Linear
from converter.rewrite.bias_flow.flow import Absorb, Flow, Permit, Source, source_at
from converter.rewrite.bias_flow.trace import segments, trace
from converter.rewrite.passes import _checks
from converter.rewrite.passes._norms import MEAN, set_parameter
from converter.rewrite.passes.base import Guard, Pass

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FlowMatch:
    """A bias, or a part of it (a fused query, key and value bias), and the way its shift goes."""

    source: Source
    flow: Flow
    part: NDArray[np.bool_] | None = None

    @property
    def whole(self) -> bool:
        """Whether all of the bias goes."""
        return self.part is None

    @property
    def removed(self) -> int:
        """Elements of the bias that go."""
        return self.source.value.size if self.part is None else int(self.part.sum())


Ending = Callable[[Flow], bool]
_NORM_ENDS = (EffectKind.NORM, EffectKind.SUM, EffectKind.SHAPE)


def ends_in_norm(flow: Flow) -> bool:
    """Every path ends where a mean is subtracted, or where the shifts cancel."""
    return bool(flow.gone) and not flow.absorbs and all(g.kind in _NORM_ENDS for g in flow.gone)


def ends_in_softmax(flow: Flow) -> bool:
    """Every path ends in a softmax that does not feel it."""
    return bool(flow.gone) and not flow.absorbs and not ends_in_norm(flow)


def sinks_through_softmax(flow: Flow) -> bool:
    """It goes on through attention weights that sum to one."""
    return bool(flow.absorbs) and flow.softmax_rows


def sinks(flow: Flow) -> bool:
    """It is taken over further down."""
    return bool(flow.absorbs) and not flow.softmax_rows


def finder(ending: Ending, permits: tuple[Permit, ...] = (Permit(),), *, parts: bool = False):  # type: ignore[no-untyped-def]
    """A find for biases whose shift ends in the given way; with `parts`, for parts of fused biases too."""

    def find(facts: Facts, node: Node) -> FlowMatch | None:
        source = facts.remembered(("source", id(node)), lambda: source_at(facts, node))
        if source is None or not source.value.any() or not numerics.is_float(facts.weight(source.tensor).dtype):
            return None
        flow: Flow | None = None
        for permit in permits:
            if flow is not None and not ((permit.siblings and flow.adds) or (permit.new_bias and flow.bias_free)):
                continue  # it would go the same way
            flow = facts.remembered(("flow", id(node), permit), lambda p=permit: trace(facts, source, permit=p))  # type: ignore[misc]
            if flow.free:
                return FlowMatch(source, flow) if ending(flow) else None
        return _part(facts, source, ending) if parts else None

    return find


def _part(facts: Facts, source: Source, ending: Ending) -> FlowMatch | None:
    for part in facts.remembered(("parts", id(source.node)), lambda: segments(facts, source)):
        value = np.where(part, source.value, 0.0)
        if value.any():
            flow = trace(facts, source, value)
            if flow.free and ending(flow):
                return FlowMatch(source, flow, part)
    return None


# -- guards ----------------------------------------------------------------------------------


def _grows(_: Facts, m: FlowMatch) -> str | None:
    new = [a for a in m.flow.absorbs if a.kind is EffectKind.NEW_BIAS]
    if not new or (len(new) == 1 and m.whole and new[0].n_elements < m.source.value.size):
        return None
    given = "a bias vector to a layer" if len(new) == 1 else f"{len(new)} bias vectors to layers"
    return f"it would give {given} without one ({', '.join(a.node.label for a in new)})"


def _results(facts: Facts, m: FlowMatch) -> list[tuple[Array, Tensor]]:
    """New values of what takes the shift over, each with a tensor of its type."""
    return [(value, like) for value, like, _ in _absorbed(facts, m)]


def _overflow(facts: Facts, m: FlowMatch) -> str | None:
    for value, like in _results(facts, m):
        problem = _checks.finite_result(value, facts.weight(like), "what takes it over")
        if problem is not None:
            return problem
    return None


def _not_finite(facts: Facts, m: FlowMatch) -> str | None:
    for tensor in (m.source.tensor, m.source.linear.weight):
        bad = numerics.first_bad(~np.isfinite(facts.weight(tensor).load().reshape(-1)))
        if bad is not None:
            return f"{tensor.name!r} is not finite at element {bad}"
    return None


def _targets(m: FlowMatch) -> list[Tensor]:
    found = []
    for a in m.flow.absorbs:
        match a.target:
            case Linear() as linear:
                found += [linear.bias] if linear.bias is not None else []
            case Affine() as affine:
                found.append(affine.params[2] if a.kind is EffectKind.MEAN else affine.params[0])
    return found


def _input_required(_: Facts, m: FlowMatch) -> str | None:
    return _checks.input_required(m.source.node) if m.whole else None


GUARDS = (
    Guard(
        "function-attribute",
        lambda f, m: _checks.function_attributes([m.source.node]),
        "an attribute that each call of a function sets is not known in it",
    ),
    *_checks.constant_guards(lambda m: [], lambda m: [m.source.tensor, *_targets(m)]),
    Guard("input-required", _input_required, "the bias must be optional"),
    Guard("not-finite", _not_finite, "NaN and infinity must stay visible where they are"),
    Guard("grows", _grows, "a move must shrink the model: bias vectors first, then elements"),
    Guard("overflow", _overflow, "what takes the shift over must stay finite in its type"),
    Guard("weight-shared", lambda f, m: _checks.shared(f, _targets(m)), "with --no-growth no tensor is copied"),
)


# -- plan ------------------------------------------------------------------------------------


def _absorbed(facts: Facts, m: FlowMatch) -> list[tuple[Array, Tensor, list[Edit]]]:
    """New value, a tensor of its type, and the edits, for each node that takes some of the shift over."""
    together: dict[int, list[Absorb]] = {}
    for a in m.flow.absorbs:
        owner = (a.target.bias_node or a.target.node) if isinstance(a.target, Linear) else a.target.node
        together.setdefault(id(owner), []).append(a)
    return [_one(facts, group) for group in together.values()]


def _one(facts: Facts, group: list[Absorb]) -> tuple[Array, Tensor, list[Edit]]:
    first = group[0]
    added = np.asarray(sum(a.make() for a in group))
    match first.target:
        case Linear() as linear:
            bias = lin.bias_value(facts, linear)
            value = added if bias is None else np.asarray(bias + added)
            like = linear.bias if linear.bias is not None else linear.weight
            return value, like, lin.set_bias(facts, linear, value)
        case Affine() as affine if first.kind is EffectKind.MEAN:
            value = np.asarray(facts.float64(affine.params[2]) - added)
            return value, affine.params[2], [set_parameter(facts, affine.node, MEAN, value, "mean")]
        case affine:
            like = affine.params[0]
            value = np.asarray(facts.float64(like) + added)
            weight = numerics.NewTensor(value, facts.weight(like).dtype)
            return value, like, [SetConst(affine.node, 1 - affine.data, weight, "term")]


def plan(facts: Facts, m: FlowMatch) -> list[Edit]:
    """The bias (or its part) out, what takes it over changed, fresh names for what changed its meaning."""
    edits = [e for _, _, part in _absorbed(facts, m) for e in part]
    linear = m.source.linear
    if m.part is not None:
        edits += lin.set_bias(facts, linear, np.where(m.part, 0.0, m.source.value))
    elif linear.op == lin.MATMUL:
        assert linear.bias_node is not None
        edits.append(Bypass(linear.bias_node, 1 - linear.bias_slot))
    else:
        edits += lin.drop_bias(linear)
    return edits + [Rename(t) for t in (*m.flow.carried, *_between(m))]


def _between(m: FlowMatch) -> list[Tensor]:
    """Tensors off the shift's way whose value changes: a sibling's output, a product before its bias."""
    found: dict[int, Tensor] = {}
    for a in m.flow.absorbs:
        if isinstance(a.target, Linear):
            inner = [a.target.node.outputs[0]] if a.target.last is not a.target.node else []
            outer = [a.target.result] if a.kind is EffectKind.SIBLING else []
            found |= {id(t): t for t in (*inner, *outer)}
    return [t for t in found.values() if not any(t is c for c in m.flow.carried)]


def _ends(m: FlowMatch) -> list[Node]:
    """Where the shift ends; readers of the shape alone, which are everywhere in exports, only if there is no other."""
    ends = [s.node for s in m.flow.steps if s.verb in (Verb.ABSORBS, Verb.CANCELS)]
    return [n for n in ends if not n.is_op("Shape", "Size", "CastLike")] or ends


def where(m: FlowMatch) -> str:
    """Names of the nodes where the shift ends."""
    siblings = [a.target.node.label for a in m.flow.absorbs if a.kind is EffectKind.SIBLING]
    return ", ".join(dict.fromkeys(siblings or [n.label for n in _ends(m)]))


def last_output(m: FlowMatch) -> str:
    """The output of the last node that the shift reaches: its value is the same before and after."""
    absorbs = [a for a in m.flow.absorbs if a.kind is not EffectKind.SIBLING]
    absorbed = [a.target.last for a in absorbs if isinstance(a.target, Linear)]
    tensor = (absorbed or _ends(m))[-1].tensor_out(0)
    return "" if tensor is None else str(tensor.name)


def flow_pass(
    name: str,
    summary: str,
    module: str,
    find: Callable[[Facts, Node], FlowMatch | None],
    fate: FateKind,
    safety: Safety = Safety.ROUNDING,
    after: tuple[str, ...] = (),
    touches_bn: bool = True,
) -> Pass:
    """The row of a pass on bias flow."""
    return Pass(
        name=name,
        summary=summary,
        safety=safety,
        ops=frozenset({*lin.LINEAR, "Add"}),
        find=find,
        guards=GUARDS,
        plan=plan,
        output=last_output,
        module=module,
        after=after,
        touches_bn=touches_bn,
        fate=lambda m: (m.source.node.label, fate if m.whole else FateKind.KEPT, where(m), m.removed),
    )
