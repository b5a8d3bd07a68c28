"""What a row of a table of edge cases holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import onnx

Build = Callable[[], onnx.ModelProto]
Feeds = dict[str, Any]


class Want(StrEnum):
    """What biasopt must do with a row."""

    FOLD = "fold"  # the rewrite happens, the outputs stay
    REFUSE = "refuse"  # that rewrite declines with a reason, bit-identical
    LATER = "later"  # a fold that biasopt does not do yet: the outputs stay


@dataclass(frozen=True)
class Case:
    """One row.

    ``ops`` says which operators are left after a fold, in any order (``"MatMul Add | Gemm"``: either
    list). ``keep`` says which operators must survive a fold with all passes. ``twin`` is the refused
    model with exactly the one broken precondition repaired: it must fold. ``tol`` is the allowed
    ``max|difference|`` relative to ``max|reference|``.
    """

    id: str
    build: Build
    passes: tuple[str, ...]
    want: Want = Want.FOLD
    ops: str = ""
    code: str = ""
    says: str = ""  # a word that the reason must hold, such as a channel index
    keep: str = ""
    twin: Build | None = None
    options: dict[str, Any] = field(default_factory=dict)
    check: Callable[[onnx.ModelProto], None] | None = None
    tol: float = 1e-5
    ort: bool = True  # onnxruntime CPU has the kernels
    valid: bool = True  # onnx.checker accepts the model, shape inference included
    feed_scale: float = 1.0

    def __str__(self) -> str:
        return self.id


def fold(name: str, build: Build, passes: str, ops: str = "", **more: Any) -> Case:
    """Make a row that must fold by one of ``passes``, leaving ``ops``."""
    return Case(name, build, tuple(passes.split()), Want.FOLD, ops, **more)


def refuse(name: str, build: Build, passes: str, code: str, keep: str, twin: Build | None = None, **more: Any) -> Case:
    """Make a row that ``passes`` must decline for ``code`` (any code where empty), ``keep`` staying."""
    return Case(name, build, tuple(passes.split()), Want.REFUSE, code=code, keep=keep, twin=twin, **more)


def later(name: str, build: Build, passes: str, ops: str = "", **more: Any) -> Case:
    """Make a row that stays as it is for now; ``ops`` and ``check`` say what a fold would leave."""
    return Case(name, build, tuple(passes.split()), Want.LATER, ops, **more)


def inputs_of(op_type: str, count: int) -> Callable[[onnx.ModelProto], None]:
    """Return a check that every ``op_type`` has ``count`` inputs that are not empty."""

    def check(proto: onnx.ModelProto) -> None:
        found = [n for n in proto.graph.node if n.op_type == op_type]
        assert found, f"no {op_type} left"
        for node in found:
            assert sum(map(bool, node.input)) == count, f"{op_type} reads {list(node.input)}, not {count} inputs"

    return check


def stored_as(data_type: int) -> Callable[[onnx.ModelProto], None]:
    """Return a check that every initializer has one stored type."""

    def check(proto: onnx.ModelProto) -> None:
        types = {t.name: onnx.TensorProto.DataType.Name(t.data_type) for t in proto.graph.initializer}
        assert set(types.values()) == {onnx.TensorProto.DataType.Name(data_type)}, types

    return check


def tolerance(dtype: Any) -> float:
    """Return the row tolerance for a stored type."""
    return {"float16": 4e-3, "bfloat16": 3e-2, "float64": 1e-12}.get(np.dtype(dtype).name, 1e-5)
