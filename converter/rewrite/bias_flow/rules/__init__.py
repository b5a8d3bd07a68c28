"""One table: operator -> what becomes of a constant shift of its inputs.

Every rule is an identity in real arithmetic, tested in float64. Sources: the ONNX operator schemas;
measured tables of which operators commute with a constant (pools, resizes, pads, norms, attention).
"""

from __future__ import annotations

from dataclasses import replace

from converter.model.graph import Node
from converter.records import EffectKind
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.bias_flow.rules.elementwise import ELEMENTWISE_RULES
from converter.rewrite.bias_flow.rules.fused import MICROSOFT_NONLINEAR, MICROSOFT_RULES
from converter.rewrite.bias_flow.rules.layout import LAYOUT_RULES
from converter.rewrite.bias_flow.rules.normalization import NORMALIZATION_RULES
from converter.rewrite.bias_flow.rules.product import PRODUCT_RULES
from converter.rewrite.bias_flow.shift import NOT_LINEAR, Block, Effect, Propagate, Rule, Shifts

RULES: dict[str, Rule] = {**ELEMENTWISE_RULES, **NORMALIZATION_RULES, **LAYOUT_RULES, **PRODUCT_RULES}

NONLINEAR = frozenset(
    "Relu LeakyRelu PRelu Elu Selu Celu Gelu ThresholdedRelu Clip Sigmoid HardSigmoid HardSwish Mish Swish Tanh "
    "Softplus Softsign Exp Log Sqrt Reciprocal Pow Abs Sign Erf Floor Ceil Round Sin Cos Not Equal Greater Less LSTM "
    "GRU RNN RMSNormalization LpNormalization LRN ReduceL2 ReduceProd QuantizeLinear DynamicQuantizeLinear TopK".split()
)

# Operators behind which a shift that depends on the data is the same value, or one that its tag says.
_SAME_VALUE = frozenset({"Identity", "Dropout", "Cast", "Add", "Mul", "Div", "ReduceMean"})


def propagate(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    """What becomes of the shifts of the node's inputs.

    Parameters
    ----------
    shifts : mapping of input slot to Shift; slots that are not in it have none
    """
    rule = RULES.get(node.op) if node.is_standard else None
    if node.is_microsoft(str(node.op)):
        rule = MICROSOFT_RULES.get(node.op)
    if rule is None and (node.is_op(*NONLINEAR) or node.is_microsoft(*MICROSOFT_NONLINEAR)):
        return Block("stops", NOT_LINEAR, EffectKind.NONLINEAR)
    if rule is None:
        return Block("unknown-operator", "it is not known to hand a shift on")
    if node.function_attrs:
        return Block("function-attribute", "an attribute comes from each call of its function")
    if not rule.masked and any(s.masked for s in shifts.values()):
        return Block("masked", "entries that are minus infinity may not meet it")
    if node.scope.opset < rule.since:
        return Block("opset", "before opset 7 broadcasting is an attribute")
    if not rule.tiled:
        shifts = {i: s.without_value if s.tiled else s for i, s in shifts.items()}
    effect = rule.effect(facts, node, shifts)
    if isinstance(effect, Propagate) and node.op not in _SAME_VALUE and any(s.tag for s in effect.shifts.values()):
        return replace(effect, shifts={i: s.tagged(None) for i, s in effect.shifts.items()})
    return effect
