"""Batch norms (epsilon included) and arithmetic with a constant as one value: y = scale * x + shift.

Source: ONNX operator schemas of BatchNormalization (1, 6, 7, 9, 14, 15) and of Add, Sub, Mul, Div, Neg, Sum
(with their axis and broadcast attributes before version 7).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Node, Tensor
from converter.rewrite.analysis.facts import Facts

ARITHMETIC = ("Mul", "Add", "Sub", "Div", "Neg", "Sum")
BATCH_NORM = ("BatchNormalization",)


@dataclass(frozen=True, slots=True)
class Affine:
    """A node that computes scale * x + shift with constants.

    Attributes
    ----------
    node : Node
    data : int
        Input slot of x.
    params : tuple of Tensor
        The other inputs.
    """

    node: Node
    data: int
    params: tuple[Tensor, ...]

    @property
    def is_bn(self) -> bool:
        """Whether the node is a batch norm, whose channel axis is 1."""
        return self.node.is_op(*BATCH_NORM)

    @property
    def source(self) -> Tensor:
        """x."""
        found = self.node.tensor_in(self.data)
        assert found is not None
        return found

    @property
    def result(self) -> Tensor:
        """y."""
        found = self.node.tensor_out(0)
        assert found is not None
        return found


def affine_at(node: Node, data: int) -> Affine | None:
    """The node as an affine of its input `data`; None if the node has not the form.

    Whether the other inputs are constant is a guard's question, not this one's.
    """
    if node.tensor_in(data) is None or node.tensor_out(0) is None:
        return None
    if node.is_op(*BATCH_NORM):
        params = tuple(t for t in (node.tensor_in(i) for i in range(1, 5)) if t is not None)
        return Affine(node, 0, params) if data == 0 and len(params) == 4 else None
    if node.is_op("Neg"):
        return Affine(node, 0, ()) if data == 0 else None
    if node.is_op("Sum") and (len(node.inputs) != 2 or node.scope.opset < 8):  # before, it does not broadcast
        return None
    if node.is_op(*ARITHMETIC) and data in (0, 1):
        other = node.tensor_in(1 - data)
        return None if other is None else Affine(node, data, (other,))
    return None


def scaler_at(facts: Facts, node: Node) -> Affine | None:
    """A Scaler of ai.onnx.ml as an affine node, where it does not cast: what it gives is float32."""
    if node.op != "Scaler" or node.domain != "ai.onnx.ml" or node.overridden or node.function_attrs:
        return None
    source = node.tensor_in(0)
    plain = source is not None and facts.graph.elem_type(source) == 1 and node.tensor_out(0) is not None
    return Affine(node, 0, ()) if plain else None


def read_scaler(node: Node) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and shift of a Scaler, (x - offset) * scale: one number, or one for each of the last axis."""
    scale, offset = (np.asarray(node.attr(name, [d]), np.float32) for name, d in (("scale", 1.0), ("offset", 0.0)))
    wide = scale.astype(np.float64)
    return wide, -offset.astype(np.float64) * wide


def affines_at(node: Node) -> Iterator[Affine]:
    """The node as an affine of its first input, then of its second."""
    found = (affine_at(node, data) for data in (0, 1))
    return (affine for affine in found if affine is not None)


def training_problem(affine: Affine) -> str | None:
    """Why a batch norm is not in inference form; None if it is, or is no batch norm."""
    node = affine.node
    if not affine.is_bn:
        return None
    opset = node.scope.opset
    more = [t.name for t in list(node.outputs)[1:] if t.name]
    if opset >= 14 and node.attr("training_mode", 0):
        return "it normalises by the batch (training_mode=1)"
    if opset < 7 and not node.attr("is_test", 0):
        return "it normalises by the batch (is_test is not set)"
    if more:
        return f"it also gives batch statistics ({', '.join(more)})"
    return None


def stats_problem(facts: Facts, affine: Affine) -> str | None:
    """Why a batch norm's statistics are not one vector for the channels; None if they are."""
    if not affine.is_bn:
        return None
    if affine.node.scope.opset < 9 and affine.node.attr("spatial", 1) == 0:
        return "its statistics are per activation (spatial=0)"
    shapes = [facts.constants.weight(t) for t in affine.params]
    if any(w is not None and len(w.shape) != 1 for w in shapes):
        return "its parameters are not vectors"
    if len({w.shape for w in shapes if w is not None}) > 1:
        return "its parameters differ in length"
    return None


def scale_and_shift(facts: Facts, affine: Affine) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and shift in float64, in the shape that they have beside x (batch norms: [C])."""
    node = affine.node
    if affine.is_bn:
        gamma, beta, mean, var = (facts.float64(t) for t in affine.params)
        with np.errstate(all="ignore"):  # guards look at the result
            return numerics.bn_affine(gamma, beta, mean, var, float(np.float32(node.attr("epsilon", 1e-5))))
    if node.op == "Neg":
        return np.array(-1.0), np.array(0.0)
    c = facts.float64(affine.params[0])
    one, zero = np.ones_like(c), np.zeros_like(c)
    with np.errstate(all="ignore"):
        match node.op, affine.data:
            case "Mul", _:
                return c, zero
            case "Add" | "Sum", _:
                return one, c
            case "Sub", 0:
                return one, -c
            case "Sub", _:
                return -one, c
            case _:  # Div by a constant; const / x is refused by a guard
                return 1.0 / c, zero


def aligned_shape(facts: Facts, affine: Affine, rank: int) -> tuple[int, ...]:
    """Shape of the constant with all its axes, as it lies beside an x of this rank; empty for none."""
    if affine.is_bn or affine.node.op == "Neg":
        return ()
    shape = facts.weight(affine.params[0]).shape
    node = affine.node
    if node.scope.opset < 7:
        if not node.attr("broadcast", 0):
            return shape
        axis = node.attr("axis")
        at = rank - len(shape) if axis is None else int(axis) % max(rank, 1)
        return (1,) * at + shape + (1,) * max(0, rank - at - len(shape))
    return (1,) * (rank - len(shape)) + shape


def per_channel(
    facts: Facts, affine: Affine, axis: int, rank: int | None, channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | str:
    """Scale and shift as vectors of the channels, or why they are none.

    Parameters
    ----------
    axis : int
        Where the channels lie in x.
    rank : int, optional
        Axes of x; None if unknown.
    channels : int

    Returns
    -------
    (scale, shift), each of shape [channels], or a clause that says why not
    """
    scale, shift = scale_and_shift(facts, affine)
    if affine.is_bn:
        if axis != 1:
            return f"its channels are on axis 1, the operator's on axis {axis}"
        if scale.shape != (channels,):
            return f"it has {scale.size} channels, the operator {channels}"
        return scale, shift
    if affine.node.op == "Neg":
        return np.full(channels, -1.0), np.zeros(channels)
    shape = facts.weight(affine.params[0]).shape
    if int(np.prod(shape, dtype=np.int64)) == 1 and (len(shape) == 0 or (rank is not None and len(shape) <= rank)):
        return np.full(channels, scale.item()), np.full(channels, shift.item())
    if rank is None:
        return "the number of axes of its input is not known"
    full = aligned_shape(facts, affine, rank)
    if len(full) > rank or len(shape) > rank:
        return f"the constant has {len(shape)} axes, its input {rank}"
    if any(d != 1 for i, d in enumerate(full) if i != axis) or full[axis] != channels:
        where = f"axis {axis} of {rank}, {channels} of them"
        return f"the constant of shape {list(shape)} is not one value per channel ({where})"
    return scale.reshape(-1), shift.reshape(-1)


def keeps_shape(facts: Facts, affine: Affine) -> bool:
    """Whether the constant surely does not broadcast x to a larger shape."""
    shape = facts.weight(affine.params[0]).shape
    if len(shape) == 0:
        return True
    rank, dims = facts.rank(affine.source), facts.shape(affine.source)
    if rank is None or len(shape) > rank:
        return False
    full = aligned_shape(facts, affine, rank)
    varying = [i for i, d in enumerate(full) if d != 1]
    return not varying or (dims is not None and all(dims[i] == full[i] for i in varying))
