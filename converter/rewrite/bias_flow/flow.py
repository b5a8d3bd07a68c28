"""A bias, and the way of its shift: what takes it over, what each node does with it, where it stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from converter.model.graph import Node, Tensor
from converter.records import EffectKind, Verb
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import Affine
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import Linear, linear_at
from converter.rewrite.bias_flow.shift import Array, Gone


@dataclass(frozen=True, slots=True)
class Source:
    """A bias: the node that adds it, the constant, and the tensor that it shifts.

    ``kind`` is Conv, ConvTranspose, Gemm or MatMul; ``shape`` is the shift's, beside that tensor.
    """

    linear: Linear
    tensor: Tensor  # the bias
    output: Tensor
    value: Array  # the bias as it stands, Gemm's beta included
    shape: tuple[int, ...]

    @property
    def node(self) -> Node:
        """The linear operator."""
        return self.linear.node


@dataclass(frozen=True, slots=True)
class Absorb:
    """A node that takes the shift over: what `make` gives goes to its bias, mean (negated) or constant.

    It is made when a plan asks: it may take reading a weight, and most ways end elsewhere.
    """

    node: Node
    kind: EffectKind
    target: Linear | Affine
    make: Callable[[], Array]
    n_elements: int
    how: str


@dataclass(frozen=True, slots=True)
class Step:
    """What one node does with the shift."""

    node: Node
    verb: Verb
    how: str
    kind: EffectKind = EffectKind.PLAIN
    code: str = ""


@dataclass(slots=True)
class Flow:
    """The way of one shift: every reader, what takes it over, and where it is felt, if anywhere."""

    source: Source
    steps: list[Step] = field(default_factory=list)
    absorbs: list[Absorb] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)
    carried: list[Tensor] = field(default_factory=list)
    stop: Step | None = None
    softmax_rows: bool = False  # it went through rows of weights that sum to one
    adds: bool = False  # it met a sum whose other operand is not shifted: a sibling might take it over
    bias_free: bool = False  # it met a layer without a bias: a new one might take it over

    @property
    def free(self) -> bool:
        """Whether the shift can be taken out."""
        return self.stop is None and bool(self.absorbs or self.gone)


@dataclass(frozen=True, slots=True)
class Permit:
    """What may take a shift over, beyond biases, means and constants that exist.

    ``siblings``: the bias of the other operand of an Add. ``new_bias``: a bias where there is none.
    """

    siblings: bool = False
    new_bias: bool = False


def source_at(facts: Facts, node: Node) -> Source | None:
    """The bias that `node` adds, if it is a constant that may be replaced."""
    for op in lin.LINEAR:
        linear = linear_at(facts, node, op)
        if linear is None or linear.bias is None or linear.node.function_attrs:
            continue
        if facts.constants.weight(linear.bias) is None or facts.constants.weight(linear.weight) is None:
            return None
        value = lin.bias_value(facts, linear)
        shape = _beside_output(facts, linear, value)
        if value is None or shape is None:
            return None
        return Source(linear, linear.bias, linear.result, value, shape)
    return None


def _beside_output(facts: Facts, linear: Linear, value: Array | None) -> tuple[int, ...] | None:
    """Shape of the bias as it broadcasts to the output, with all axes; None if it has none."""
    if value is None:
        return None
    if linear.op in (lin.CONV, lin.CONV_TRANSPOSE):
        rank = lin.result_rank(facts, linear)
        return None if rank is None or value.ndim != 1 else (1, value.size, *[1] * (rank - 2))
    if linear.op == lin.GEMM:
        return value.shape if value.ndim == 2 else (1, value.size)
    rank = facts.rank(linear.result)
    return None if rank is None else (1,) * (rank - value.ndim) + value.shape
