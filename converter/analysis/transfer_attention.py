"""Attention: weights that sum to one hand a shift on, and the operator that does all of it."""

from __future__ import annotations

import numpy as np

from converter.analysis.facts import Facts, further_outputs
from converter.analysis.outcomes import Carry, Gone, Outcome, Rule, Shifts, Stop
from converter.analysis.shifts import Shift, known
from converter.analysis.transfer_norm import softmax_axes
from converter.analysis.transfer_plain import is_float
from converter.analysis.views import is_view
from converter.graph import Node, Tensor


def sums_to_one(facts: Facts, weights: Tensor, axis: int) -> bool:
    """Whether `weights` surely sum to one along `axis`: they come from a softmax over it, perhaps transposed.

    A guard in between (a fully masked row set to zero) would break the sum, so none may stand there. A cast
    rounds the weights, as it rounds what they weigh.
    """
    maker, axis = _maker(facts, weights, axis)
    if maker is None or not maker.is_op("Softmax"):
        return False
    rank = facts.rank(maker.outputs[0]) or facts.rank(maker.inputs[0])
    return rank is not None and softmax_axes(maker, rank) == [axis]


def _maker(facts: Facts, weights: Tensor, axis: int) -> tuple[Node | None, int]:
    """The node that computes the weights, which others only hand on, and where `axis` lies there."""
    tensor = weights
    while True:
        node = facts.graph.producer(tensor)
        if node is None or node.function_attrs or node.outputs[0] is not tensor:
            return None, axis
        if node.is_op("Transpose"):
            perm = node.attr("perm")
            rank = facts.rank(tensor) if perm is None else len(perm)
            if rank is None or axis >= rank:
                return None, axis
            axis = rank - 1 - axis if perm is None else int(perm[axis])
        elif not _keeps_weights(facts, node):
            return node, axis
        tensor = node.inputs[0]


def by_data(facts: Facts, weights: Tensor) -> str:
    """What to say of a product with data; of attention's, what keeps its weights from summing to one."""
    maker, _ = _maker(facts, weights, 0)
    sources = [] if maker is None else [facts.graph.producer(t) for t in maker.inputs if t.name]
    if maker is None or not any(n is not None and n.is_op("Softmax") for n in sources):
        return "multiplied by data"
    return f"multiplied by data: after {maker.op} ({maker.label}) its weights need not sum to one"


def _keeps_weights(facts: Facts, node: Node) -> bool:
    if node.is_op("Cast"):
        return is_float(facts.graph.elem_type(node.inputs[0])) and is_float(node.attr("to"))
    return node.is_op("Identity", "Dropout") and is_view(node)


_Q, _K, _V, _MASK, _PAST_K, _PAST_V, _LENGTHS = range(7)


def _attention(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    """ONNX Attention (opset 23 and later): q, k, v, mask, past key, past value."""
    if len(shifts) != 1:
        return Stop("bilinear", "several of its inputs are shifted")
    ((slot, s),) = shifts.items()
    sequence = 2 if s.rank == 4 else 1
    if further_outputs(node) or node.tensor_in(_PAST_K) is not None or node.tensor_in(_PAST_V) is not None:
        return Stop("cache", "its keys and values are kept for later calls, or its scores are read")
    if slot not in (_K, _V) or not s.constant_on([sequence]):
        return Stop("attention-query", "it weighs the keys by the shifted value")
    if slot == _K:
        if node.attr("softcap", 0.0):
            return Stop("softcap", "it squashes the scores before its softmax")
        return Gone("softmax does not feel what all keys share", "softmax")
    if node.tensor_in(_MASK) is not None or node.tensor_in(_LENGTHS) is not None:
        return Stop("masked-rows", "a row that its mask closes gives zero, not the shift")
    heads = (node.attr("q_num_heads"), node.attr("kv_num_heads"))
    shapes = [facts.shape(node.inputs[i]) for i in (_Q, _V)]
    if s.rank == 4:
        heads = tuple(None if d is None else d[1] for d in shapes)  # type: ignore[assignment]
    if not all(isinstance(h, int) for h in heads) or heads[1] == 0 or heads[0] % heads[1]:
        return Stop("grouped-heads", "how many query heads share a value head is not known")
    return Carry({0: _to_query_heads(s, *heads)}, "rows of weights that sum to one hand it on")


def _to_query_heads(s: Shift, n_query: int, n_value: int) -> Shift:
    """The shift of the value heads beside the query heads that read them, in runs."""
    if n_query == n_value or s.value is None:
        return s
    axis = 1 if s.rank == 4 else 2
    if axis in s.invariant:
        return s
    if s.rank == 4:
        return known(np.repeat(s.value, n_query // n_value, 1))
    heads = s.value.reshape(*s.value.shape[:2], n_value, -1)
    return known(np.repeat(heads, n_query // n_value, 2).reshape(*s.value.shape[:2], -1))


ATTENTION_RULES: dict[str, Rule] = {"Attention": _attention}
