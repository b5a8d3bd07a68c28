"""onnxruntime's fused operators that hold a bias: attention with one for query, key and value; layers with an end.

Source: onnxruntime's ContribOperators: the scores of attention are scale * q k^T plus masks, its rows sum to one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from converter.dataclass import dataclass
from converter.model.graph import Node, Tensor
from converter.rewrite.analysis.facts import Facts, further_outputs

Array = NDArray[np.float64]

ATTENTION = {"Attention": 2, "MultiHeadAttention": 3, "QAttention": 2}  # the slot of the bias
# Layers with what follows them, and what adds a bias and is not linear: the slot of the bias.
CLOSED = {
    "FusedConv": 2,
    "FusedGemm": 2,
    "BiasGelu": 1,
    "FastGelu": 1,
    "SkipLayerNormalization": 4,
    "SkipSimplifiedLayerNormalization": 3,
}
REQUANTIZED, REQUANTIZED_BIAS = "QLinearConv", 8  # what it adds its integer bias to is rounded, and cut to 8 bits
BIAS_REQUIRED = ("Attention", "QAttention", "BiasGelu")  # by schema or kernel: zeros are what is left of it
# Inputs that keep keys and values for later calls.
_CACHES = {"Attention": (4, 6), "MultiHeadAttention": (6, 7, 8, 9), "QAttention": (8,)}


@dataclass(frozen=True, slots=True)
class PackedBias:
    """The bias of fused attention, [Dq + Dk + Dv].

    Attributes
    ----------
    sizes : (int, int, int)
        Dq, Dk, Dv.
    problem : (code, clause), optional
        Why its parts for keys and values do more than weigh and be weighed.
    """

    node: Node
    tensor: Tensor
    sizes: tuple[int, int, int]
    problem: tuple[str, str] | None

    def split(self, value: Array) -> Sequence[Array]:
        """The parts of a vector like the bias."""
        return np.split(value.reshape(-1), np.cumsum(self.sizes)[:2])


def packed_bias_at(facts: Facts, node: Node) -> PackedBias | None:
    """The constant bias of fused attention whose parts can be told apart; None if there is none."""
    if not node.is_microsoft(*ATTENTION) or node.function_attrs:
        return None
    bias = node.tensor_in(ATTENTION[str(node.op)])
    weight = None if bias is None else facts.constants.weight(bias)
    if bias is None or weight is None or len(weight.shape) != 1:
        return None
    sizes = _find_sizes(facts, node, weight.shape[0])
    return None if sizes is None else PackedBias(node, bias, sizes, find_problem(facts, node))


def _find_sizes(facts: Facts, node: Node, width: int) -> tuple[int, int, int] | None:
    if node.op == "MultiHeadAttention":
        query = node.tensor_in(0)
        shape = None if query is None else facts.shape(query)
        size = shape[2] if shape is not None and len(shape) == 3 else None
        return (size, size, width - 2 * size) if isinstance(size, int) and 0 < 2 * size < width else None
    given = node.attr("qkv_hidden_sizes")
    if given:
        sizes = tuple(int(s) for s in given)
        return (sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 and sum(sizes) == width else None
    return (width // 3, width // 3, width // 3) if width % 3 == 0 else None


def find_problem(facts: Facts, node: Node) -> tuple[str, str] | None:
    """Why keys and values of fused attention do more than weigh and be weighed: (code, clause)."""
    if further_outputs(node) or any(node.tensor_in(slot) is not None for slot in _CACHES[str(node.op)]):
        return "cache", "its keys and values are kept for later calls, or its scores are read"
    if node.attr("do_rotary", 0):
        return "attention-query", "it turns queries and keys by their position"
    if node.op == "MultiHeadAttention":
        shapes = [None if (t := node.tensor_in(slot)) is None else facts.shape(t) for slot in (1, 2)]
        if any(s is None or len(s) != 3 for s in shapes):
            return "rank", "whether its keys and values are [N, L, D] is not known"
    return None
