"""What a pass may ask: the graph, its constants, ranks, and what the caller allows."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from converter.dataclass import dataclass
from converter.errors import InvariantViolation
from converter.model.graph import Graph, Node, Tensor
from converter.records import Weight
from converter.rewrite.analysis.constants import Constants

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PassOptions:
    """What the caller wants of the passes.

    ``keep_bn``: biases go into batch norms, batch norms stay. ``no_growth``: no tensor is copied.
    """

    keep_bn: bool = False
    no_growth: bool = False


class Facts:
    """Questions about one graph. Answers are read from the graph as it is now."""

    def __init__(
        self,
        graph: Graph,
        options: PassOptions | None = None,
        may_copy: Callable[[Tensor], bool] = lambda tensor: True,
    ) -> None:
        self.graph = graph
        self.options = options or PassOptions()
        self.may_copy = may_copy  # a tensor with several readers, for one of them
        self.constants = Constants(graph)
        self._memo: dict[Hashable, object] = {}
        self._memo_version = graph.version
        self._wired: dict[Hashable, object] = {}
        self._wired_version = graph.wiring

    def remember(self, find: Callable[..., _T], *args: Hashable) -> _T:
        """find(facts, *args), asked once for each state of the graph."""
        if self._memo_version != self.graph.version:
            self._memo.clear()
            self._memo_version = self.graph.version
        key = (find, *args)
        if key not in self._memo:
            self._memo[key] = find(self, *args)
        return cast("_T", self._memo[key])

    def remember_wiring(self, find: Callable[[Facts], _T]) -> _T:
        """find(facts), asked again only after nodes changed, not constants: it may look at no value."""
        if self._wired_version != self.graph.wiring:
            self._wired.clear()
            self._wired_version = self.graph.wiring
        if find not in self._wired:
            self._wired[find] = find(self)
        return cast("_T", self._wired[find])

    def weight(self, tensor: Tensor) -> Weight:
        """The value of a tensor that a guard found constant."""
        found = self.constants.weight(tensor)
        if found is None:
            raise InvariantViolation(f"{tensor.name!r} was taken as a constant")
        return found

    def read_weight(self, tensor: Tensor) -> Weight | None:
        """The value if it is sure to be this one at run time; integers behind DequantizeLinear may be read."""
        problem = self.constants.problem(tensor)
        return self.constants.weight(tensor) if problem is None or problem[0] == "weight-quantized" else None

    def float64(self, tensor: Tensor) -> NDArray[np.float64]:
        """The constant's value in float64, before any rounding of ours."""
        return self.weight(tensor).float64()

    def shape(self, tensor: Tensor) -> tuple[int | str | None, ...] | None:
        """Dims: numbers, symbols or None; None where not even the rank is known."""
        found = self.graph.shape(tensor)
        if found is None:
            producer = self.graph.producer(tensor)
            # A tensor that an edit renamed has the shape of what it is computed from, for affine nodes.
            if producer is not None and producer.is_op("Identity", "Neg", "Dropout", "Cast", "CastLike"):
                source = producer.tensor_in(0)
                return self.shape(source) if source is not None else None
        return found

    def rank(self, tensor: Tensor) -> int | None:
        """Number of axes; None if unknown. A convolution has the rank of its kernel."""
        shape = self.shape(tensor)
        if shape is not None:
            return len(shape)
        node = self.graph.producer(tensor)
        if node is None:
            return None
        if node.is_op("Conv", "ConvTranspose"):
            kernel = node.tensor_in(1)
            weight = None if kernel is None else self.constants.weight(kernel)
            return None if weight is None else len(weight.shape)
        if node.is_op("Gemm", "Flatten"):
            return 2
        keeps = node.is_op(*_KEEPS_RANK) or (node.op, node.domain) == ("Scaler", "ai.onnx.ml")
        if keeps and (source := node.tensor_in(0)) is not None:
            return self.rank(source)
        return None

    def use_problem(self, tensor: Tensor, reader: Node) -> tuple[str, str] | None:
        """Why the value of `tensor` may not change under its one reader: (code, clause); None if it may."""
        if "output" in tensor.external_uses:
            return "output-is-graph-output", f"{tensor.name!r} is an output of its graph"
        if "captured" in tensor.external_uses or any(n.scope is not tensor.scope for n in self.graph.readers(tensor)):
            return "captured-by-subgraph", f"{tensor.name!r} is read inside a control-flow body"
        readers = {id(n): n for n in self.graph.readers(tensor) if n is reader or not reads_no_value(n, tensor)}
        if len(readers) > 1 or tensor.external_uses:
            others = ", ".join(sorted(n.label for n in readers.values() if n is not reader)) or ", ".join(
                tensor.external_uses
            )
            return "several-readers", f"{tensor.name!r} is also read by {others}"
        if sum(n is reader for n in self.graph.readers(tensor)) > 1:
            return "several-readers", f"{reader.label} reads {tensor.name!r} more than once"
        return None


def reads_no_value(node: Node, tensor: Tensor) -> bool:
    """Whether the node looks at the tensor's shape or type alone: it does not see a fold."""
    if node.is_op("CastLike"):
        return node.inputs[0] is not tensor
    return node.is_op("Shape", "Size")


def further_outputs(node: Node) -> list[Tensor]:
    """Outputs after the first that somebody reads; exporters name some that nobody does."""
    return [t for t in list(node.outputs)[1:] if t.name and (t.outputs or t.external_uses)]


_KEEPS_RANK = (
    "BatchNormalization Relu LeakyRelu Sigmoid Tanh Clip Elu Selu HardSigmoid HardSwish Softplus PRelu Neg Identity "
    "Dropout Cast CastLike MaxPool AveragePool GlobalAveragePool GlobalMaxPool Transpose InstanceNormalization Softmax"
).split()
