"""One table: operator -> what becomes of a constant shift of its inputs.

Every rule is an identity in real arithmetic, tested in float64. Sources: the ONNX operator schemas;
measured tables of which operators commute with a constant (pools, resizes, pads, norms, attention).
"""

from __future__ import annotations

from converter.model.graph import Node
from converter.records import EffectKind
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.bias_flow.rules.elementwise import PLAIN_RULES
from converter.rewrite.bias_flow.rules.layout import RESHAPE_RULES, SHAPE_RULES, SPACE_RULES
from converter.rewrite.bias_flow.rules.normalization import NORM_RULES
from converter.rewrite.bias_flow.rules.product import ATTENTION_RULES, PRODUCT_RULES
from converter.rewrite.bias_flow.shift import LINEARITY, NOT_LINEAR, Outcome, Rule, Shifts, Stop

RULES: dict[str, Rule] = {
    **PLAIN_RULES,
    **NORM_RULES,
    **SHAPE_RULES,
    **SPACE_RULES,
    **RESHAPE_RULES,
    **PRODUCT_RULES,
    **ATTENTION_RULES,
}

_MASK_SAFE = frozenset(
    "Shape Size CastLike Identity Cast Dropout Add Softmax Reshape Transpose Squeeze Unsqueeze".split()
)

# What a shift that repeats may meet with its value: attention in which batch and heads are one axis.
_TILE_SAFE = frozenset("Shape Size CastLike Identity Cast Dropout Reshape Transpose MatMul".split())


def through(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    """What becomes of the shifts of the node's inputs.

    Parameters
    ----------
    shifts : mapping of input slot to Shift; slots that are not in it have none
    """
    rule = RULES.get(node.op) if node.is_standard else None
    if rule is None and node.is_standard and node.op in NOT_LINEAR:
        return Stop("stops", LINEARITY, EffectKind.NONLINEAR)
    if rule is None:
        return Stop("unknown-operator", "it is not known to hand a shift on")
    if node.function_attrs:
        return Stop("function-attribute", "an attribute comes from each call of its function")
    if any(s.masked for s in shifts.values()) and node.op not in _MASK_SAFE:
        return Stop("masked", "entries that are minus infinity may not meet it")
    if node.scope.opset < 7 and node.op in ("Add", "Sub", "Mul", "Div"):
        return Stop("opset", "before opset 7 broadcasting is an attribute")
    if node.op not in _TILE_SAFE:
        shifts = {i: s.by_axes if s.tiled else s for i, s in shifts.items()}
    return rule(facts, node, shifts)
