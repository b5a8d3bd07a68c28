"""What folds share: scale and shift as vectors, new weights and biases, checks, rows; a batch norm's new parameters.

A fold takes a batch norm, or arithmetic with a constant, into a linear operator: backward into the one that gives
its input (`fold_into_producer`), forward into the one that reads its output (`fold_into_consumer`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Edit, Node, SetConst, Tensor
from converter.records import Weight
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import ARITHMETIC, BATCH_NORM, Affine, scale_and_shift
from converter.rewrite.analysis.channel_axis import average_counts_padding, is_average, is_maximum
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import Linear, Quantized
from converter.rewrite.analysis.quantized import QUANTIZED_TYPES, Rescaled
from converter.rewrite.passes import checks
from converter.rewrite.passes.base import Check, Decline, Match
from converter.rewrite.passes.checks import overflow_problem

Array = NDArray[np.float64]
GAMMA, BETA, MEAN = 1, 2, 3  # input slots


def compose(facts: Facts, bn: Affine, before: tuple[Array, Array], after: tuple[Array, Array]) -> tuple[Array, Array]:
    """Gamma and beta of the batch norm that computes after(bn(before(x))), mean and var as they are.

    With s = gamma / sqrt(var + eps): a2 (s (a1 x + c1 - mean) + beta) + c2 =
    s' (x - mean) + beta', where gamma' = a1 a2 gamma and beta' = a2 (s (c1 + (a1 - 1) mean) + beta) + c2.
    """
    gamma, beta, mean, _ = (facts.float64(t) for t in bn.params)
    (a1, c1), (a2, c2) = before, after
    scale, _ = scale_and_shift(facts, bn)
    return a1 * a2 * gamma, a2 * (scale * (c1 + (a1 - 1) * mean) + beta) + c2


def set_parameter(facts: Facts, bn: Node, slot: int, value: Array, role: str) -> Edit:
    """The edit that gives a batch norm a new parameter vector, in the old one's type."""
    tensor = bn.tensor_in(slot)
    assert tensor is not None
    return SetConst(bn, slot, numerics.NewTensor(value, facts.weight(tensor).dtype), role)


def parameter_overflow(facts: Facts, bn: Affine, *vectors: Array) -> str | None:
    """New parameters must be finite in their type."""
    problems = (overflow_problem(v, facts.weight(bn.params[0]), "a parameter") for v in vectors)
    return next((p for p in problems if p is not None), None)


_WRONG = {
    "overflow": "would exceed its type",
    "rounding": "would lose its small values",
    "not-finite": "is not finite",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What is folded: a part of the names, and what the pages say of it."""

    name: str
    ops: tuple[str, ...]
    title: str
    given: str
    source: str


BN = Kind(
    "bn",
    BATCH_NORM,
    "BatchNormalization",
    "BatchNormalization in inference form\n        (s = gamma / sqrt(var + eps), t = beta - mean s)",
    "Ioffe and Szegedy 2015, section 3.1; ONNX BatchNormalization 6 to 15",
)
AFFINE = Kind(
    "affine",
    ARITHMETIC,
    "arithmetic with a constant",
    "Mul, Div, Add, Sum of two, Sub or Neg by a constant,\n"
    "        one number or one per channel (s and t as the operator has them)",
    "distribution of sums; ONNX broadcasting rules",
)
KINDS = (BN, AFFINE)
# What the operators are given, for the pages.
OPERANDS = {
    lin.CONV: "x [N, I, *d], W [O, I/g, *k], b [O]",
    lin.CONV_TRANSPOSE: "x [N, I, *d], W [I, O/g, *k], b [O]",
    lin.GEMM: "A [M, K], B [K, N], C to [M, N]",
    lin.MATMUL: "x [..., K], W [K, O], perhaps an Add of b [O]",
    lin.QUANTIZED: "MatMulInteger or ConvInteger, Cast, Mul by both scales, perhaps an Add of b [O]; DequantizeLinear\n"
    "        of data; com.microsoft MatMulNBits, DynamicQuantizeMatMul or MatMulIntegerToFloat",
}


def kebab(op: str) -> str:
    """An operator as a part of a pass's name: ``conv-transpose``."""
    return "conv-transpose" if op == lin.CONV_TRANSPOSE else op.lower()


def list_types(op: str) -> tuple[str, ...]:
    """The types of nodes that a linear operator is, or begins with."""
    return QUANTIZED_TYPES if op == lin.QUANTIZED else (op, *(k for k, v in lin.FUSED.items() if v == op))


@dataclass(frozen=True, slots=True)
class Fold(Match, ABC):
    """An affine node and a linear operator, with nodes between them in the order of the data."""

    affine: Affine
    between: tuple[Node, ...]
    linear: Linear
    memo: dict[str, Any] = field(default_factory=dict, compare=False)  # what one check found out, for the next

    @property
    def affines(self) -> Sequence[Affine]:
        """The affine node."""
        return (self.affine,)

    @property
    def constants_replaced(self) -> Sequence[Tensor]:
        """The weight, and the bias if there is one."""
        return [t for t in (self.linear.weight, self.linear.bias) if t is not None]

    @abstractmethod
    def rescale(self, facts: Facts) -> Rescaled | Decline | None:
        """What takes the scale for the weight, where the weight is quantized."""

    @abstractmethod
    def channel_problem(self, facts: Facts) -> str | None:
        """Why the channels do not lie where both nodes work on them."""

    @abstractmethod
    def spread(self, facts: Facts) -> tuple[Array, Array] | str:
        """Scale and shift, one number for each channel of the operator, or why there are none."""

    @abstractmethod
    def scale_weight(self, weight: Weight, scale: Array) -> Weight:
        """The weight times the scale."""

    @abstractmethod
    def fold_bias(self, facts: Facts) -> Array | None:
        """The new bias; None where there is none."""

    def shift_stays(self, facts: Facts) -> bool:
        """Whether the shift may stay as an Add where the operator has no bias."""
        return False

    def shared_problem(self, facts: Facts) -> str | None:
        """What would be copied, or grow, that may not."""
        return checks.shared_problem(facts, self.constants_replaced)

    def vectors(self, facts: Facts) -> tuple[Array, Array] | str:
        """Scale and shift, each of shape [channels], or why there are none."""
        if "vectors" not in self.memo:
            self.memo["vectors"] = self.spread(facts)
        found: tuple[Array, Array] | str = self.memo["vectors"]
        return found

    def numbers(self, facts: Facts) -> tuple[Array, Array]:
        """Scale and shift, once checks found that there are some."""
        found = self.vectors(facts)
        assert not isinstance(found, str)
        return found

    def rescale_quantized(self, facts: Facts) -> Rescaled | Decline | None:
        """The new scale of a quantized weight, or why there is none; None for a weight of floats."""
        if "rescaled" not in self.memo:
            self.memo["rescaled"] = self.rescale(facts)
        found: Rescaled | Decline | None = self.memo["rescaled"]
        return found

    def weight(self, facts: Facts) -> Weight:
        """The new weight; of a quantized one, its new scale."""
        rescaled = self.rescale_quantized(facts)
        if isinstance(rescaled, Rescaled):
            return rescaled.scale
        return self.scale_weight(facts.weight(self.linear.weight), self.numbers(facts)[0])

    def set_weight(self, facts: Facts) -> list[Edit]:
        """Edits that scale the weight; none where the scale is one."""
        if not (self.numbers(facts)[0] != 1).any():
            return []
        rescaled = self.rescale_quantized(facts)
        return (
            list(rescaled.edits) if isinstance(rescaled, Rescaled) else lin.set_weight(self.linear, self.weight(facts))
        )

    def bias(self, facts: Facts) -> Array | None:
        """The new bias; None where there is none."""
        if "bias" not in self.memo:
            self.memo["bias"] = self.fold_bias(facts)
        found: Array | None = self.memo["bias"]
        return found

    def rounding_problem(self, facts: Facts, code: str) -> str | None:
        """What rounding the new weight to its type would do to it, if it is what `code` says."""
        if "rounding" not in self.memo:
            scales = (self.numbers(facts)[0] != 1).any()
            self.memo["rounding"] = numerics.rounding_problem(self.weight(facts)) if scales else None
        found = self.memo["rounding"]
        if found is None or found[0] != code or (code == "rounding" and self._is_underflow_hidden(facts)):
            return None
        return f"the weight {self.linear.weight.name!r} {_WRONG[code]} in channel {found[1]}"

    def _is_underflow_hidden(self, facts: Facts) -> bool:
        """Whether what underflow takes from the weight shows in no output channel."""
        weight = self.weight(facts)
        if isinstance(self.rescale_quantized(facts), Rescaled):
            return False  # what a channel's scale loses, all of the channel loses
        value = weight.float64()
        lost = lin.sum_per_output(self.linear, numerics.find_underflow(value, weight.dtype))
        bias = self.bias(facts)
        if bias is None:
            shift = np.zeros_like(lost)
        else:  # a Gemm's C may differ from row to row
            shift = np.abs(bias).reshape(-1, bias.shape[-1] if bias.ndim else 1).min(axis=0, initial=np.inf)
        return bool(numerics.is_hidden(lost, shift, value, weight.dtype).all())


def holds_bias(facts: Facts, linear: Linear) -> bool:
    """Whether the operator can take a bias; a MatMul without Add only where it can become a Gemm."""
    if isinstance(linear, Quantized):
        return linear.bias_node is not None
    return linear.bias_node is not None or (facts.rank(linear.node.inputs[0]) == 2 and linear.node.scope.opset >= 7)


# -- checks ----------------------------------------------------------------------------------


def _not_finite(facts: Facts, m: Fold) -> str | None:
    return checks.finite_problem(facts, m.affine, m.constants_replaced[1:]) or m.rounding_problem(facts, "not-finite")


def _scale_problem(facts: Facts, m: Fold) -> Decline | None:
    found = m.rescale_quantized(facts) if (m.numbers(facts)[0] != 1).any() else None
    return found if isinstance(found, tuple) else None


def _no_bias_slot(facts: Facts, m: Fold) -> str | None:
    if holds_bias(facts, m.linear) or not m.numbers(facts)[1].any() or m.shift_stays(facts):
        return None
    return "the product has no bias and more than two axes, so the shift has nowhere to go"


def _overflow(facts: Facts, m: Fold) -> str | None:
    weight = facts.weight(m.linear.weight)
    return m.rounding_problem(facts, "overflow") or checks.overflow_problem(m.bias(facts), weight, "the bias")


# What pools between the two do to scale and shift.
def negative_scale(facts: Facts, m: Fold) -> str | None:
    """A maximum lets positive factors through alone."""
    pool = next((n for n in m.between if is_maximum(n)), None)
    bad = None if pool is None else numerics.first_bad(m.numbers(facts)[0] <= 0)
    if pool is None or bad is None:
        return None
    return f"{pool.label} takes a maximum and the scale of channel {bad} is not positive"


def averaged_padding(facts: Facts, m: Fold) -> str | None:
    """An average that counts padded zeros lets no shift through."""
    if not m.numbers(facts)[1].any():
        return None
    for node in m.between:
        if is_average(node) and average_counts_padding(node):
            return f"{node.label} averages padded zeros in, which the shift does not reach"
    return None


SCALED = Check(
    ("weight-quantized", "scale-axis", "per-axis-scale", "integer-range", *checks.ONE_READER.codes), _scale_problem
)
# On what the match is made of.
FORM = (
    checks.ATTRIBUTES_KNOWN,
    checks.INFERENCE_FORM,
    checks.ONE_READER,
    checks.NOT_DIVIDED,
    checks.READABLE,
    checks.NOT_FOR_ROUNDING,
    checks.VECTOR_STATISTICS,
    Check("weight-rank", lambda f, m: lin.weight_rank_problem(f, m.linear)),
    checks.FLOAT,
    Check("channel-axis", lambda f, m: m.channel_problem(f)),
    checks.PER_CHANNEL,
    checks.POSITIVE_VARIANCE,
    SCALED,
    Check("not-finite", _not_finite),
)
# On what the fold would make.
RESULT = (
    Check("no-bias-slot", _no_bias_slot),
    Check("overflow", _overflow),
    Check("rounding", lambda f, m: m.rounding_problem(f, "rounding")),
    Check("weight-shared", lambda f, m: m.shared_problem(f)),
)
