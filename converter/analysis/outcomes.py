"""What may become of a constant shift at one node: it goes on, it is gone, or it is felt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from converter.analysis.facts import Facts
from converter.analysis.shifts import Shift
from converter.graph import Node, Tensor


@dataclass(frozen=True, slots=True)
class Carry:
    """The outputs have shifts of their own."""

    shifts: Mapping[int, Shift]  # output slot -> shift
    how: str = ""


@dataclass(frozen=True, slots=True)
class Gone:
    """The outputs do not depend on the shift."""

    how: str
    kind: str  # norm | softmax | cancelled | shape


@dataclass(frozen=True, slots=True)
class Stop:
    """The shift is felt here; it cannot be taken out by this path."""

    code: str
    why: str


Outcome = Carry | Gone | Stop
Shifts = Mapping[int, Shift]
Rule = Callable[[Facts, Node, Shifts], Outcome]

LINEARITY = "it is not linear, so it feels the shift"

NOT_LINEAR = frozenset(
    "Relu LeakyRelu PRelu Elu Selu Celu Gelu ThresholdedRelu Clip Sigmoid HardSigmoid HardSwish Mish Swish Tanh "
    "Softplus Softsign Exp Log Sqrt Reciprocal Pow Abs Sign Erf Floor Ceil Round Sin Cos Not Equal Greater Less LSTM "
    "GRU RNN RMSNormalization LpNormalization LRN ReduceL2 ReduceProd QuantizeLinear DynamicQuantizeLinear TopK".split()
)


def tensor_at(node: Node, slot: int) -> Tensor:
    """The tensor in an input slot that the operator demands."""
    found = node.tensor_in(slot)
    assert found is not None
    return found


def only(shifts: Shifts, slot: int = 0) -> Shift | Stop:
    """The one shift, if it is at `slot`."""
    if set(shifts) != {slot}:
        return Stop("stops", "it feels a shift of its parameters")
    return shifts[slot]
