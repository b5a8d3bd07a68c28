"""Edits as data: the small closed set of changes that a plan may ask for."""

from __future__ import annotations

from typing import Any

from converter.dataclass import dataclass
from converter.model.graph.nodes import Node, Tensor
from converter.records import Weight


@dataclass(frozen=True, slots=True)
class SetConst:
    """Put a new constant into an input slot (added at the end if the slot is new)."""

    node: Node
    slot: int
    weight: Weight
    role: str  # becomes part of the new tensor's name: <node>/biasopt/<role>


@dataclass(frozen=True, slots=True)
class DropInput:
    """Leave an optional input out."""

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
