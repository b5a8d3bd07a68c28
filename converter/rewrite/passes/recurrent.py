"""The two biases of an LSTM, GRU or RNN become one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import DropInput, Edit, Node, SetConst, Tensor
from converter.records import FateKind, Safety
from converter.rewrite.analysis import recurrent as rnn
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.recurrent import Recurrent
from converter.rewrite.bias_flow.fates import BiasChange
from converter.rewrite.passes import checks
from converter.rewrite.passes.base import Check, Match, Pass

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RecurrentBias(Match):
    """A recurrent operator with a bias.

    Attributes
    ----------
    value, merged : ndarray, shape [D, 2, G, H], optional
        Its bias before and after; None where it is not known.
    """

    cell: Recurrent
    bias: Tensor
    value: Array | None
    merged: Array | None

    @property
    def nodes(self) -> Sequence[Node]:
        """The operator."""
        return [self.cell.node]

    @property
    def constants_read(self) -> Sequence[Tensor]:
        """The bias."""
        return [self.bias]

    @property
    def constants_replaced(self) -> Sequence[Tensor]:
        """The bias, where something is left of it."""
        return [] if self.is_zero else [self.bias]

    @property
    def is_zero(self) -> bool:
        """Whether nothing is left of the bias."""
        return self.merged is not None and not self.merged.any()

    @property
    def n_zeroed(self) -> int:
        """Elements that become zero."""
        return 0 if self.value is None else int(((self.value != 0) & (self.merged == 0)).sum())


def find(facts: Facts, node: Node) -> RecurrentBias | None:
    """An LSTM, GRU or RNN with something to merge, with a bias of zeros, or with one that is not known."""
    cell = rnn.recurrent_at(node)
    if cell is None or cell.bias is None:
        return None
    value = rnn.bias_value(facts, cell)
    if value is None:
        return RecurrentBias(cell, cell.bias, None, None)
    match = RecurrentBias(cell, cell.bias, value, rnn.merge_biases(cell, value))
    to_merge = (cell.is_summed & (value[:, 1] != 0)).any()
    return match if to_merge or match.is_zero else None


def plan(facts: Facts, m: RecurrentBias) -> list[Edit]:
    """The bias out, or a new one in its place."""
    if m.is_zero:
        return [DropInput(m.cell.node, rnn.BIAS)]
    assert m.merged is not None
    weight = facts.weight(m.bias)
    new = numerics.NewTensor(m.merged.reshape(weight.shape), weight.dtype)
    return [SetConst(m.cell.node, rnn.BIAS, new, "bias")]


def output(m: RecurrentBias) -> Tensor:
    """The first output that is there: all of them stay as they are."""
    found: Tensor = next(t for t in m.cell.node.outputs if t.name)
    return found


def _bias_shape(facts: Facts, m: RecurrentBias) -> str | None:
    return rnn.shape_problem(m.cell, facts.weight(m.bias).shape) or rnn.weight_problem(facts, m.cell)


def _not_finite(facts: Facts, m: RecurrentBias) -> str | None:
    bad = numerics.first_bad(~np.isfinite(facts.float64(m.bias)).reshape(-1))
    return None if bad is None else f"{m.bias.name!r} is not finite at element {bad}"


def _overflow(facts: Facts, m: RecurrentBias) -> str | None:
    return checks.overflow_problem(m.merged, facts.weight(m.bias), "the sum of the two biases")


def _bias_change(m: RecurrentBias) -> BiasChange:
    label = m.cell.node.label
    if m.is_zero:
        return BiasChange(label, FateKind.ZERO, "", 0 if m.value is None else m.value.size)
    return BiasChange(label, FateKind.MERGED, label, m.n_zeroed)


PASS = Pass(
    """The recurrence bias of an LSTM, GRU or RNN is added into its input bias; a bias of zeros goes away.

    Given:  LSTM, GRU or RNN with a constant B [D, 2 * G * H] = Wb ++ Rb (D directions, G gates, H hidden units).
    Result: Wb' = Wb + Rb and Rb' = 0 in every gate that adds the two: in all of them, but for gate h of a GRU whose
            linear_before_reset is not 0. Where all of B is zero then, it is left out. Else the file keeps its size,
            since B has one shape only: half of what it held is zero, and one bias a gate is left to look at.
    Source: ONNX operators LSTM, GRU and RNN: f(x W + h R + Wb + Rb) = f(x W + h R + (Wb + Rb) + 0); in that one gate
            r * (h R + Rb) + Wb keeps them apart.""",
    Safety.ROUNDING,
    ops=rnn.RECURRENT,
    microsoft=(rnn.QUANTIZED,),
    find=find,
    checks=(
        checks.ATTRIBUTES_KNOWN,
        checks.CONSTANT,
        Check("bias-shape", _bias_shape),
        checks.FLOAT,
        Check("not-finite", _not_finite),
        Check("overflow", _overflow),
        checks.NOT_SHARED,
    ),
    plan=plan,
    output=output,
    name="merge-rnn-biases",
    changes_batch_norm=False,
    bias_change=_bias_change,
)
