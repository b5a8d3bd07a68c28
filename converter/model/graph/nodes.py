"""Nodes, tensors and scopes of a graph; and edits as data, the small closed set of changes that a plan may ask for.

graphsurgeon keeps producers and readers in step as edges change. Two things are added: tensors and
nodes are compared by identity (graphsurgeon compares tensors by name and nodes by content, but
names repeat across functions), and each knows its scope.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues

from converter.dataclass import dataclass
from converter.model.file import ModelFile, TensorRef
from converter.model.file.wire import Field
from converter.records import Weight


class StoredTensor:
    """A weight as the model has it, read from the file when it is asked for."""

    def __init__(self, file: ModelFile, ref: TensorRef) -> None:
        self.file = file
        self.ref = ref

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """The tensor's dims."""
        return self.ref.shape

    @functools.cached_property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.ref.dtype

    @functools.cached_property
    def n_bytes(self) -> int:
        """Bytes that it takes in the file."""
        return self.ref.n_bytes

    def load(self) -> NDArray[Any]:
        """The value as stored, read-only."""
        return self.file.read(self.ref)

    def float64(self) -> NDArray[np.float64]:
        """The value in float64."""
        return self.load().astype(np.float64)


class _Values(LazyValues):  # type: ignore[misc]  # graphsurgeon has no types
    """Hands a Weight to graphsurgeon without reading it."""

    def __init__(self, weight: Weight) -> None:
        self.weight = weight
        self.shape = weight.shape
        self.dtype = weight.dtype
        self.nbytes = weight_bytes(weight)

    def load(self) -> NDArray[Any]:
        return self.weight.load()


def weight_bytes(weight: Weight) -> int:
    """Bytes that the weight takes in a file."""
    if isinstance(weight, StoredTensor):
        return weight.n_bytes
    n = math.prod(weight.shape)
    return -(-n // 2) if is_half_byte(weight.dtype) else n * weight.dtype.itemsize


@functools.cache
def is_half_byte(dtype: np.dtype[Any]) -> bool:
    """Whether a file holds two elements of the type in a byte."""
    return dtype.name in ("int4", "uint4")


class Value(gs.Variable):  # type: ignore[misc]
    """A tensor known at run time only (or an absent optional one, whose name is empty)."""

    def __init__(self, name: str, scope: Scope) -> None:
        super().__init__(name)
        self.origin = name  # what the model as read calls it: an edit may rename it, its shape stays
        self.scope = scope
        self.external_uses: set[str] = set()  # uses that are no node: "output", "annotation", "training"
        self.is_input = False

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Const(gs.Constant):  # type: ignore[misc]
    """An initializer. ``overridable``: also a graph input of a model of IR 4 or later."""

    def __init__(self, name: str, scope: Scope, weight: Weight, field: Field | None = None) -> None:
        super().__init__(name, _Values(weight))
        self.scope = scope
        self.weight = weight
        self.field = field  # None: made by an edit
        self.made_of: Tensor | None = None  # the model's own tensor that it stands in for
        self.external_uses: set[str] = set()
        self.is_input = False
        self.overridable = False

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


Tensor = Value | Const


class Node(gs.Node):  # type: ignore[misc]
    """A node, with the proto that it was read from and the graphs inside it."""

    def __init__(self, proto: onnx.NodeProto, scope: Scope, field: Field | None, label: str) -> None:
        super().__init__(proto.op_type, proto.name, {}, domain=proto.domain)
        self.proto = proto
        self.scope = scope
        self.field = field  # None: made by an edit
        self.label = label
        self.alive = True
        self.overridden = False  # a function of the model has the operator's name
        self.position = 0  # in the model's order, over all scopes
        self.bodies: list[Body] = []
        self.attr_protos = {a.name: a for a in proto.attribute}
        # Attributes that refer to an attribute of the enclosing function: known per call only.
        self.function_attrs = [a.name for a in proto.attribute if a.ref_attr_name]
        self.attr_edits: dict[str, Any] = {}  # name -> new value, None to drop

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def is_standard(self) -> bool:
        """Whether the operator is ONNX's own."""
        return self.domain in ("", "ai.onnx", None) and not self.overridden

    def is_op(self, *ops: str) -> bool:
        """Whether this is one of ONNX's own operators of these types."""
        return self.op in ops and self.is_standard

    def is_microsoft(self, *ops: str) -> bool:
        """Whether this is one of onnxruntime's own operators (com.microsoft) of these types."""
        return self.op in ops and self.domain == "com.microsoft" and not self.overridden

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value (strings decoded), or `default` where it is absent."""
        if name in self.attr_edits:
            value = self.attr_edits[name]
            return default if value is None else value
        proto = self.attr_protos.get(name)
        if proto is None or proto.ref_attr_name:  # guards ask `function_attrs` before they trust a default
            return default
        value = onnx.helper.get_attribute_value(proto)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def tensor_in(self, slot: int) -> Tensor | None:
        """The tensor in an input slot; None where it is absent or its name is empty."""
        if slot >= len(self.inputs) or self.inputs[slot].name == "":
            return None
        found: Tensor = self.inputs[slot]
        return found

    def tensor_out(self, slot: int = 0) -> Tensor | None:
        """The tensor in an output slot; None where it is absent or its name is empty."""
        if slot >= len(self.outputs) or self.outputs[slot].name == "":
            return None
        found: Tensor = self.outputs[slot]
        return found


class Body:
    """A graph in an attribute of a node."""

    def __init__(self, attribute: Field, graph: Field, scope: Scope) -> None:
        self.attribute = attribute
        self.graph = graph
        self.scope = scope


class Scope:
    """A graph, a graph inside a node, or a function: its nodes and its names."""

    def __init__(
        self,
        kind: str,
        span: tuple[int, int],
        proto: onnx.GraphProto | onnx.FunctionProto,
        opset: int,
        parent: Scope | None = None,
        owner: Node | None = None,
    ) -> None:
        self.kind = kind  # main | body | function
        self.span = span
        self.proto = proto
        self.opset = opset
        self.parent = parent
        self.owner = owner
        self.field: Field | None = None  # the function's, in the model
        self.nodes: list[Node] = []
        self.values: dict[str, Tensor] = {}
        self.new_constants: dict[Const, None] = {}  # in the order in which they were made
        self.removed_fields: set[int] = set()  # start of the field of each initializer that went away
        self.removed_names: set[str] = set()  # names that no longer exist here
        self.frozen_inputs: set[str] = set()  # names taken out of the graph's inputs

    def find(self, name: str) -> Tensor | None:
        """The tensor of that name, here or in an enclosing graph."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        return None

    @property
    def prefix(self) -> str:
        """What comes before the labels of this scope's nodes."""
        if self.kind == "function":
            domain = f"{self.proto.domain}::" if self.proto.domain else ""
            overload = f":{self.proto.overload}" if self.proto.overload else ""
            return f"{domain}{self.proto.name}{overload}/"
        return f"{self.owner.label}/" if self.owner is not None else ""

    def chain(self) -> Iterable[Scope]:
        """This scope and the enclosing ones, innermost first."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent


@dataclass(frozen=True, slots=True)
class SetConst:
    """Put a new constant into an input slot (added at the end if the slot is new)."""

    node: Node
    slot: int
    weight: Weight
    role: str  # becomes part of the new tensor's name: <node>/biasopt/<role>


@dataclass(frozen=True, slots=True)
class DropInput:
    """Leave an optional input out, or one term of a Sum, where the others close up."""

    node: Node
    slot: int


@dataclass(frozen=True, slots=True)
class SetInput:
    """Let an input slot read another tensor of the same graph, which is made before the node."""

    node: Node
    slot: int
    tensor: Tensor


@dataclass(frozen=True, slots=True)
class SetAttr:
    """Give an attribute a new value, or drop it with None."""

    node: Node
    name: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class SetOp:
    """Turn the node into another operator; its attributes are dropped."""

    node: Node
    op: str


@dataclass(frozen=True, slots=True)
class Bypass:
    """Take a node out; its first output becomes the tensor in input `slot`.

    ``keep="output"``: the tensor before the node takes the name of its output, for a node whose
    work was moved *upstream*: the value under that name stays the same. ``keep="input"``: readers
    of its output read its input, for work that moved *downstream*.
    """

    node: Node
    slot: int = 0
    keep: str = "output"


@dataclass(frozen=True, slots=True)
class Rename:
    """Give a tensor a fresh name, because its value is no longer what the old name meant."""

    tensor: Tensor


Edit = SetConst | SetInput | DropInput | SetAttr | SetOp | Bypass | Rename
