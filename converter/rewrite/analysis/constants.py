"""Which tensors are constant though no initializer says so, and what they are.

Whatever nodes make of constants and static shapes alone is constant: a weight that is normalised, split or tiled,
the scale of a batch norm that was taken apart, a zero bias of torch's unoptimised dynamo export. Parameters are
computed in float64 and rounded once; sizes, and what decides by comparing, in their own types as a runtime does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.dataclass import dataclass
from converter.model.graph import Const, Graph, Node, Tensor
from converter.model.shapes.constant_ops import (
    Evaluator,
    constant,
    is_evaluated,
    is_quantization_scale,
    make_evaluator,
    numpy_dtype,
)
from converter.records import Weight

_FUEL = 64  # nodes in a chain; exporters need ten
_MALFORMED = (ValueError, IndexError, TypeError, KeyError, AttributeError, RuntimeError, ArithmeticError)
_CARRIERS = frozenset(
    "Identity Cast CastLike Transpose Reshape Squeeze Unsqueeze Expand ConstantOfShape Slice Gather Concat "
    "Add Sub Mul Div Neg Sqrt".split()
)
_SMALL = 1 << 14  # elements of a computed constant that is kept, not computed on each call


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How a constant is computed. It holds what it needs: it outlives the nodes, which an edit may take out.

    Attributes
    ----------
    tensor : Tensor
        That it is the recipe of; for the messages of a leaf.
    weight : Weight or ndarray, optional
        The value of a leaf; None where the leaf is not known until the model runs (an input with a default, an
        argument of a function), or where a node computes it.
    evaluator : Evaluator, optional
        What the node computes; None for a leaf.
    args : tuple of Recipe or None
        The node's inputs.
    index : int
        Which of the node's outputs.
    to : dtype, optional
        A cast's target.
    """

    tensor: Tensor
    weight: Weight | NDArray[Any] | None = None
    evaluator: Evaluator | None = None
    args: tuple[Recipe | None, ...] = ()
    index: int = 0
    to: np.dtype[Any] | None = None

    def walk(self) -> Iterator[Recipe]:
        """This and all that it is made of, each once."""
        stack, seen = [self], {id(self)}
        while stack:
            recipe = stack.pop()
            yield recipe
            fresh = [a for a in recipe.args if a is not None and id(a) not in seen]
            seen.update(map(id, fresh))
            stack += fresh

    @property
    def is_open(self) -> bool:
        """Whether a leaf is not known until the model runs."""
        return any(r.weight is None and r.evaluator is None for r in self.walk())

    def compute(self, *, wide: bool) -> NDArray[Any]:
        """The value; ``wide``: with floats in float64 throughout, nothing rounded on the way."""
        return self._compute(wide, {})

    def _compute(self, wide: bool, done: dict[int, NDArray[Any]]) -> NDArray[Any]:
        if id(self) not in done:
            value = self._value(wide, done)
            done[id(self)] = value.astype(np.float64) if wide and numerics.is_float(value.dtype) else value
        return done[id(self)]

    def _value(self, wide: bool, done: dict[int, NDArray[Any]]) -> NDArray[Any]:
        if self.evaluator is None:
            assert self.weight is not None
            if isinstance(self.weight, np.ndarray):
                return self.weight
            return self.weight.float64() if wide and numerics.is_float(self.weight.dtype) else self.weight.load()
        args = [None if a is None else a._compute(wide, done) for a in self.args]
        first = args[0] if args else None
        if (
            self.to is not None
            and wide
            and numerics.is_float(self.to)
            and first is not None
            and first.dtype.kind == "f"
        ):
            return first
        return np.asarray(self.evaluator(args)[self.index])


class Evaluated:
    """The value of a chain of constants, computed on each call unless it is small."""

    is_computed = True  # float64() is not what load() gives in float64: load() is rounded

    def __init__(self, recipe: Recipe, known: tuple[tuple[int, ...], np.dtype[Any]] | None = None) -> None:
        self._recipe = recipe
        if known is None:
            like = recipe.compute(wide=False)
            known = like.shape, like.dtype
        self._shape, self._dtype = known
        self._kept: NDArray[np.float64] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Dims of the value."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of the value."""
        return self._dtype

    def load(self) -> NDArray[Any]:
        """The value, floats rounded once."""
        if not numerics.is_float(self._dtype):
            return self._recipe.compute(wide=False)
        return numerics.round_to(self.float64(), self._dtype)

    def float64(self) -> NDArray[np.float64]:
        """The value in float64, before any rounding."""
        if self._kept is not None:
            return self._kept
        value = self._recipe.compute(wide=numerics.is_float(self._dtype)).astype(np.float64)
        if value.size <= _SMALL:
            self._kept = value
        return value


@dataclass(slots=True)
class _Known:
    """What was found out about one state of the graph."""

    version: int = -1
    recipes: dict[Tensor, Recipe] = field(default_factory=dict)
    weights: dict[Tensor, Evaluated | None] = field(default_factory=dict)
    too_short: dict[Tensor, int] = field(default_factory=dict)  # fuel that did not reach the ends of the chain


class Constants:
    """Answers about constants of one graph; nothing large is kept."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known = _Known()
        self._run_time: set[Tensor] = set()  # an edit makes no constant of what hangs on an input

    def problem(self, tensor: Tensor) -> tuple[str, str] | None:
        """Why the tensor cannot be taken as a constant that may be replaced: (code, clause); None if it can.

        Codes: ``overridable``, ``weight-quantized``, ``function-input``, ``not-constant``.
        """
        if isinstance(tensor, Const) and not tensor.overridable:
            return None
        for t in self._leaves(tensor):
            if isinstance(t, Const):
                if t.overridable:
                    return "overridable", f"{t.name!r} is also a graph input, so a caller may replace it"
            elif t.is_input and t.scope.kind == "function":
                return "function-input", f"{t.name!r} is given by each call of the function {t.scope.proto.name!r}"
            else:
                origin = "" if t is tensor else f" (it comes from {t.name!r})"
                return "not-constant", f"{tensor.name!r} is known at run time only{origin}"
        if self.weight(tensor) is None:
            return "not-constant", f"{tensor.name!r} cannot be computed ahead"
        if self._is_quantized(tensor):
            return "weight-quantized", f"{tensor.name!r} is dequantized from integers"
        return None

    def is_const(self, tensor: Tensor) -> bool:
        """Whether the value is known and may be replaced."""
        return self.problem(tensor) is None

    def weight(self, tensor: Tensor) -> Weight | None:
        """The tensor's value as a Weight, read when asked; None if it is not constant."""
        if isinstance(tensor, Const):
            return tensor.weight
        if tensor in self._run_time:
            return None
        producer = self._graph.producer(tensor)
        if producer is not None and producer.is_op("Constant"):
            stored = self._graph.constant_weight(producer)
            if stored is not None:
                return stored
        if producer is not None and producer.is_op("Identity"):
            source = producer.tensor_in(0)
            return self.weight(source) if source is not None else None
        known = self._look()
        if tensor not in known.weights:
            known.weights[tensor] = self._evaluate(tensor)
        return known.weights[tensor]

    def evaluate(self, tensor: Tensor) -> NDArray[Any] | None:
        """The tensor's value in its own type; None if it is not constant."""
        recipe = self._recipe(tensor, _FUEL)
        try:
            return None if recipe is None or recipe.is_open else recipe.compute(wide=False)
        except _MALFORMED:
            return None  # a malformed chain is left to the runtime, which reports it

    def _evaluate(self, tensor: Tensor) -> Evaluated | None:
        recipe = self._recipe(tensor, _FUEL)
        try:
            if recipe is None or recipe.is_open:
                return None
            node = self._graph.producer(tensor)
            plain = node is not None and node.op == "DequantizeLinear" and "output_dtype" not in node.attr_protos
            return Evaluated(recipe, _type_dequantized(node, recipe.args) if node is not None and plain else None)
        except _MALFORMED:
            return None

    def _look(self) -> _Known:
        if self._known.version != self._graph.version:
            self._known = _Known(self._graph.version)
        return self._known

    def _recipe(self, tensor: Tensor, fuel: int) -> Recipe | None:
        """How the tensor follows from constants and from leaves that may be replaced; None if it does not."""
        known = self._look()
        if tensor in self._run_time or fuel <= known.too_short.get(tensor, -1):
            return None
        if tensor not in known.recipes:
            found = self._make(tensor, fuel)
            if found is None:
                known.too_short[tensor] = fuel
                return None
            known.recipes[tensor] = found
        return known.recipes[tensor]

    def _make(self, tensor: Tensor, fuel: int) -> Recipe | None:
        if isinstance(tensor, Const):
            return Recipe(tensor, None if tensor.overridable else tensor.weight)
        node = self._graph.producer(tensor)
        if node is None and tensor.is_input and tensor.scope.kind == "function":
            return Recipe(tensor)
        if node is None or not node.is_standard or node.function_attrs:
            self._run_time.add(tensor)
            return None
        if node.op == "Constant":
            stored = self._graph.constant_weight(node)
            return _make_leaf(tensor, constant(node.attr) if stored is None else stored)
        computed = self._graph.whole_numbers(tensor)
        if computed is not None:
            return Recipe(tensor, computed)
        if node.op == "Shape":
            return _make_leaf(tensor, self._shape_of(node))
        return self._of_node(tensor, node, fuel) if fuel else None

    def _of_node(self, tensor: Tensor, node: Node, fuel: int) -> Recipe | None:
        sources = [node.tensor_in(slot) for slot in range(len(node.inputs))]
        if node.op == "CastLike":  # of its second input only the type counts
            to = self._graph.elem_type(sources[1]) if len(sources) > 1 and sources[1] is not None else None
            dtype = numpy_dtype(to) if to else None
            evaluator: Evaluator | None = None if dtype is None else _make_cast(dtype)
            sources = sources[:1]
        elif not is_evaluated(node.op, node.scope.opset) or (node.attr_edits and node.op != "DequantizeLinear"):
            self._run_time.add(tensor)
            return None
        else:
            evaluator = make_evaluator(
                node.op, node.scope.opset, node.attr, node.attr_protos.values(), len(node.outputs)
            )
            dtype = numpy_dtype(node.attr("to")) if node.op == "Cast" and isinstance(node.attr("to"), int) else None
        args: list[Recipe | None] = []
        for source in sources:
            found = None if source is None else self._recipe(source, fuel - 1)
            if source is not None and found is None:
                if source in self._run_time:
                    self._run_time.add(tensor)
                return None
            args.append(found)
        if evaluator is None:
            return None
        index = next(k for k, out in enumerate(node.outputs) if out is tensor)
        return Recipe(tensor, None, evaluator, tuple(args), index, dtype)

    def _leaves(self, tensor: Tensor) -> Sequence[Tensor]:
        """The tensors that the value comes from; of what is not constant, through carriers."""
        recipe = self._recipe(tensor, _FUEL)
        if recipe is not None:
            return [r.tensor for r in recipe.walk() if r.weight is None and r.evaluator is None]
        out: list[Tensor] = []
        stack: list[Tensor] = [tensor]
        seen: set[Tensor] = {tensor}
        while stack:
            t = stack.pop()
            node = self._graph.producer(t)
            if (recipe := self._recipe(t, _FUEL)) is not None:
                out += [r.tensor for r in recipe.walk() if r.weight is None and r.evaluator is None]
            elif node is None or not node.is_standard or (node.op not in _CARRIERS) or len(seen) > _FUEL:
                out.append(t)
            else:
                sources = node.inputs[:1] if node.op == "CastLike" else node.inputs
                fresh = [s for s in {id(s): s for s in sources if s.name}.values() if s not in seen]
                seen.update(fresh)
                stack += fresh
        return out

    def _is_quantized(self, tensor: Tensor) -> bool:
        """Whether integers are dequantized on the way to it."""
        recipe = self._recipe(tensor, _FUEL)
        if recipe is None:
            return False
        producers = (self._graph.producer(r.tensor) for r in recipe.walk())
        return any(node is not None and node.is_op("DequantizeLinear") for node in producers)

    def _shape_of(self, node: Node) -> NDArray[Any] | None:
        source = node.tensor_in(0)
        if source is None:
            return None
        dims = self._graph.shape(source)
        if dims is None and isinstance(source, Const):
            dims = source.weight.shape
        if dims is None:
            return None
        part = dims[node.attr("start", 0) : node.attr("end", len(dims))]
        if any(not isinstance(d, int) for d in part):
            return None
        return np.array(part, np.int64)


def _make_leaf(tensor: Tensor, value: Weight | NDArray[Any] | None) -> Recipe | None:
    return None if value is None else Recipe(tensor, value)


def _type_dequantized(node: Node, args: tuple[Recipe | None, ...]) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Shape and type of a dequantized constant, by those of its parts: a weight of a large model is not computed."""
    leaves = [None if a is None else a.weight for a in args]
    value, scale, zero = [*leaves, None, None][:3]
    if value is None or scale is None or (len(args) > 2 and args[2] is not None and zero is None):
        return None
    axis, block = int(node.attr("axis", 1)), int(node.attr("block_size", 0))
    fits = is_quantization_scale(scale.shape, value.shape, axis, block)
    return (value.shape, scale.dtype) if fits and (zero is None or zero.shape == scale.shape) else None


def _make_cast(dtype: np.dtype[Any]) -> Evaluator:
    return lambda args: (args[0].astype(dtype),)
