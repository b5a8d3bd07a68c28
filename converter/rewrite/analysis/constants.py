"""Which tensors are constant though no initializer says so, and what they are.

Chains of Constant, Identity, Cast, CastLike, Transpose, Reshape, Squeeze, Unsqueeze, Expand,
ConstantOfShape, Shape, Slice, Gather, Concat and DequantizeLinear over constants and static shapes
are followed and evaluated. torch's unoptimised dynamo export computes a zero bias for every
convolution by such a chain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.model.graph import Const, Graph, Node, Tensor
from converter.model.graph.constant_ops import EVALUATORS, constant, numpy_dtype
from converter.records import Weight

_BROADCASTS = frozenset({"Add", "Sub", "Mul", "Div"})
_FUEL = 16  # nodes in a chain; exporters need four
_MALFORMED = (ValueError, IndexError, TypeError, KeyError, AttributeError)
_CARRIERS = frozenset(
    "Identity Cast CastLike Transpose Reshape Squeeze Unsqueeze Expand ConstantOfShape Slice Gather Concat "
    "Add Sub Mul Div Neg Sqrt".split()
)


Recipe = Callable[[], NDArray[Any]]


class Evaluated:
    """The value of a chain of constants, computed on each call.

    The recipe holds what it needs: it outlives the nodes, which an edit may take out of the graph.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        like = recipe()
        self._shape: tuple[int, ...] = like.shape
        self._dtype = like.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Dims of the value."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of the value."""
        return self._dtype

    def load(self) -> NDArray[Any]:
        """The value."""
        return self._recipe()

    def float64(self) -> NDArray[np.float64]:
        """The value in float64."""
        return self._recipe().astype(np.float64)


class Constants:
    """Answers about constants of one graph; nothing large is kept."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def problem(self, tensor: Tensor) -> tuple[str, str] | None:
        """Why the tensor cannot be taken as a constant that may be replaced: (code, clause); None if it can.

        Codes: ``overridable``, ``weight-quantized``, ``function-input``, ``not-constant``.
        """
        for t in self._leaves(tensor):
            if isinstance(t, Const):
                if t.overridable:
                    return "overridable", f"{t.name!r} is also a graph input, so a caller may replace it"
            elif t.is_input and t.scope.kind == "function":
                return "function-input", f"{t.name!r} is given by each call of the function {t.scope.proto.name!r}"
            else:
                origin = "" if t is tensor else f" (it comes from {t.name!r})"
                return "not-constant", f"{tensor.name!r} is known at run time only{origin}"
        if self._is_quantized(tensor):
            return "weight-quantized", f"{tensor.name!r} is dequantized from integers"
        if self.weight(tensor) is None:
            return "not-constant", f"{tensor.name!r} cannot be computed ahead"
        return None

    def is_const(self, tensor: Tensor) -> bool:
        """Whether the value is known and may be replaced."""
        return self.problem(tensor) is None

    def weight(self, tensor: Tensor) -> Weight | None:
        """The tensor's value as a Weight, read when asked; None if it is not constant."""
        if isinstance(tensor, Const):
            return tensor.weight
        producer = self._graph.producer(tensor)
        if producer is not None and producer.is_op("Constant"):
            stored = self._graph.constant_weight(producer)
            if stored is not None:
                return stored
        if producer is not None and producer.is_op("Identity"):
            source = producer.tensor_in(0)
            return self.weight(source) if source is not None else None
        recipe = self._recipe(tensor, _FUEL)
        try:
            return None if recipe is None else Evaluated(recipe)
        except _MALFORMED:
            return None

    def evaluate(self, tensor: Tensor) -> NDArray[Any] | None:
        """The tensor's value in its own type; None if it is not constant."""
        recipe = self._recipe(tensor, _FUEL)
        try:
            return None if recipe is None else recipe()
        except _MALFORMED:
            return None  # a malformed chain is left to the runtime, which reports it

    def _recipe(self, tensor: Tensor, fuel: int) -> Recipe | None:
        if isinstance(tensor, Const):
            return None if tensor.overridable else tensor.weight.load
        node = self._graph.producer(tensor)
        if node is None or fuel == 0 or not node.is_standard or node.function_attrs or node.outputs[0] is not tensor:
            return None
        if node.op == "Constant":
            stored = self._graph.constant_weight(node)
            return _as_recipe(constant(node.attr)) if stored is None else stored.load
        computed = self._graph.whole_numbers(tensor)
        if computed is not None:
            return _as_recipe(computed)
        if node.op == "Shape":
            return _as_recipe(self._shape_of(node))
        if node.op == "CastLike":  # of its second input only the type counts
            return self._cast_like(node, fuel)
        if node.op not in EVALUATORS or (node.op in _BROADCASTS and node.scope.opset < 7):
            return None
        sources = [node.tensor_in(slot) for slot in range(len(node.inputs))]
        # A tensor that is read twice is followed, and computed, once: chains that double would take 2^n steps.
        found = {id(t): self._recipe(t, fuel - 1) for t in sources if t is not None}
        args = [None if t is None else found[id(t)] for t in sources]
        if any(a is None and t is not None for a, t in zip(args, sources, strict=True)):
            return None
        evaluator = EVALUATORS[node.op]

        def compute() -> NDArray[Any]:
            values = {key: recipe() for key, recipe in found.items() if recipe is not None}
            return evaluator(node.attr, [None if t is None else values[id(t)] for t in sources])

        return compute

    def _leaves(self, tensor: Tensor) -> list[Tensor]:
        """The tensors that the value comes from, through carriers; empty where all is in the nodes."""
        out: list[Tensor] = []
        stack: list[tuple[Tensor, int]] = [(tensor, _FUEL)]
        while stack:
            t, fuel = stack.pop()
            node = self._graph.producer(t)
            if isinstance(t, Const) or node is None or not node.is_standard or fuel == 0:
                out.append(t)
            elif self._graph.whole_numbers(t) is not None:
                continue
            elif node.op == "Shape":
                if self._shape_of(node) is None:
                    out.append(t)
            elif node.op == "CastLike":
                stack += [(s, fuel - 1) for s in node.inputs[:1]]
            elif node.op in _CARRIERS or node.op == "DequantizeLinear":
                stack += [(s, fuel - 1) for s in {id(s): s for s in node.inputs if s.name}.values()]
            elif node.op != "Constant":
                out.append(t)
        return out

    def _is_quantized(self, tensor: Tensor) -> bool:
        node, fuel = self._graph.producer(tensor), _FUEL
        while node is not None and fuel:
            if node.is_op("DequantizeLinear"):
                return True
            source = node.tensor_in(0) if node.op in _CARRIERS else None
            node, fuel = (self._graph.producer(source) if source is not None else None), fuel - 1
        return False

    def _shape_of(self, node: Node) -> NDArray[Any] | None:
        source = node.tensor_in(0)
        if source is None:
            return None
        dims = self._graph.shape(source)
        if dims is None and (weight := self._stored_weight(source)) is not None:
            dims = weight.shape
        if dims is None:
            return None
        part = dims[node.attr("start", 0) : node.attr("end", len(dims))]
        if any(not isinstance(d, int) for d in part):
            return None
        return np.array(part, np.int64)

    def _stored_weight(self, tensor: Tensor) -> Weight | None:
        return tensor.weight if isinstance(tensor, Const) else None

    def _cast_like(self, node: Node, fuel: int) -> Recipe | None:
        source, like = node.tensor_in(0), node.tensor_in(1)
        if source is None or like is None:
            return None
        value, to = self._recipe(source, fuel - 1), self._graph.elem_type(like)
        if value is None or not to:
            return None
        dtype = numpy_dtype(to)
        return lambda: value().astype(dtype)


def _as_recipe(value: NDArray[Any] | None) -> Recipe | None:
    return None if value is None else lambda: value
