"""onnx's checker and shape inference, on skeletons: no weight is read."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from converter.isolation import HELD_MOST, Died, run_interruptible
from converter.model.file.reader import graphs, tensors
from converter.model.file.validate import count_inlined_nodes

# What onnx raises of a model that cannot be. Its checker looks at functions, also while shapes are inferred.
_REFUSALS = (
    *(onnx.shape_inference.InferenceError, onnx.checker.ValidationError, DecodeError),
    *(RuntimeError, ValueError, TypeError),
)

_MOST_JOINED = 1 << 20  # tensors that chains of Concat join into one; a net has thousands
_MOST_VALUES = 1 << 20  # elements of a vector whose values onnx follows, one by one
# Operators whose result has the size that an input's values say.
_SIZED = {"ConstantOfShape", "Range", "Expand", "Tile", "Resize", "Upsample", "Pad", "OneHot"}
# Operators that take values from their first input; the others say which.
_PICKING = {"Slice", "Gather", "GatherElements", "GatherND", "Squeeze", "Unsqueeze", "Reshape", "Split"}
_ENDLESS = 1 << 64  # a size that stands for all above it


def _has_data(t: TensorProto) -> bool:
    return bool(t.raw_data or t.float_data or t.int32_data or t.int64_data or t.double_data or t.uint64_data)


@contextlib.contextmanager
def no_remarks() -> Iterator[None]:
    """onnx prints remarks on old operators from C++; the user's terminal, and a pipe of JSON, are not theirs."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by the caller
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    saved: list[tuple[int, int]] = []
    with Path(os.devnull).open("wb") as nowhere:
        for fd in (1, 2):
            with contextlib.suppress(OSError):  # closed by the caller
                saved.append((fd, os.dup(fd)))
                os.dup2(nowhere.fileno(), fd)
        try:
            yield
        finally:
            for fd, copy in saved:
                os.dup2(copy, fd)
                os.close(copy)


def _odd_name(skeleton: onnx.ModelProto) -> str:
    """protobuf hands bytes back for a string that is no UTF-8; the checker does not mind, everything else does."""
    for g in graphs(skeleton.graph):
        for node in g.node:
            odd = next((n for n in (node.op_type, *node.input, *node.output) if not isinstance(n, str)), None)
            if odd is not None:
                return f"the name {odd!r} is not text"
    return ""


def problems(skeleton: onnx.ModelProto) -> str:
    """What onnx's checker says against the model; empty if nothing.

    Weights that a skeleton left out (or that lie in other files) are taken to be there.
    """
    odd = _odd_name(skeleton)
    if odd:
        return odd
    model = onnx.ModelProto()
    model.CopyFrom(skeleton)
    for t in tensors(model):
        if t.data_location == TensorProto.EXTERNAL or (t.dims and not _has_data(t) and not t.string_data):
            # The checker wants data or an empty shape; the file's size was checked on loading.
            t.ClearField("data_location")
            del t.external_data[:]
            t.dims[:] = [0]
    return _find_refusal(lambda: onnx.checker.check_model(model), skeleton)


def _find_refusal(look: Callable[[], Any], skeleton: onnx.ModelProto) -> str:
    """What onnx says against the model where it looks at it; empty if nothing."""

    def work() -> bytes:
        try:
            with no_remarks():
                look()
        except _REFUSALS as exc:
            return (str(exc).strip() or type(exc).__name__).encode("utf-8", "backslashreplace")
        return b""

    try:
        return run_interruptible(work, count_inlined_nodes(skeleton)).decode()
    except Died as died:
        return f"onnx, which looked at it, {died}"


def _may_propagate(skeleton: onnx.ModelProto) -> bool:
    """Whether onnx may follow the values of shapes: of what is joined with itself, n nodes make 2^n numbers."""
    counts: dict[str, int] = {}
    for g in graphs(skeleton.graph):
        for node in g.node:
            read = [counts.get(name, 1) for name in node.input]
            n = sum(read) if node.op_type == "Concat" else max(read, default=1)
            if n > _MOST_JOINED:
                return False
            counts |= dict.fromkeys(node.output, n)
    return True


def _infer(skeleton: onnx.ModelProto, *, strict: bool) -> onnx.ModelProto:
    """onnx's shape inference. It follows the values of shapes where they are few."""
    how = {"check_type": strict, "strict_mode": strict}
    follows = _may_propagate(skeleton) and not _has_long_vector(skeleton)
    if follows and any(node.op_type in _SIZED for g in graphs(skeleton.graph) for node in g.node):
        plain: onnx.ModelProto = onnx.shape_inference.infer_shapes(skeleton, data_prop=False, **how)
        follows = not _has_long_vector(plain) and not _computes_long_vector(plain)
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(skeleton, data_prop=follows, **how)
    return inferred


def _computes_long_vector(model: onnx.ModelProto) -> bool:
    """Whether arithmetic on sizes that it states may come to a vector that is too long for onnx.

    No value is followed, only how large one of a tensor may be, and how many elements those have that are made so.
    """
    largest: dict[str, int] = {}
    elements: dict[str, int] = {}
    for g in graphs(model.graph):
        types = {v.name: v.type.tensor_type for v in (*g.input, *g.output, *g.value_info)}
        shapes = {name: t.shape.dim for name, t in types.items()}
        others = {name for name, t in types.items() if t.elem_type not in (0, TensorProto.INT32, TensorProto.INT64)}
        largest |= {t.name: _find_largest(t) for t in g.initializer}
        for node in g.node:
            read = [largest.get(name, 0) for name in node.input]
            size = max(read[:1] if node.op_type in _PICKING else read, default=0)
            if node.op_type == "Mul":
                size = min(math.prod(read), _ENDLESS)
            elif node.op_type in ("Add", "Sub"):
                size = min(sum(read), _ENDLESS)
            elif node.op_type == "Constant":
                size = max((_find_attribute(a) for a in node.attribute), default=0)
            elif node.op_type in ("Shape", "Size"):
                dims = [d.dim_value for d in shapes.get(node.input[0], ())] if node.input else []
                size = max(dims, default=0) if node.op_type == "Shape" else math.prod(dims)
            count = max((elements.get(name, 0) for name in node.input), default=0)
            rank = len(shapes.get(node.output[0], ())) if node.output else 0  # 0 where it is not known, too
            if node.op_type in _SIZED:
                count = max(count, min(size, _MOST_VALUES + 1) ** min(max(rank, 1), 8))
            if count > _MOST_VALUES and (rank == 1 or (rank == 0 and node.op_type in _SIZED)):
                return True
            largest |= dict.fromkeys(node.output, size)
            elements |= dict.fromkeys(set(node.output) - others, count)
    return False


def _find_largest(t: TensorProto) -> int:
    """The largest size among the integers of a small tensor; 0 of any other."""
    if t.data_type not in (TensorProto.INT32, TensorProto.INT64) or not _has_data(t) or math.prod(t.dims) > 1024:
        return 0
    return int(np.abs(onnx.numpy_helper.to_array(t).astype(np.float64)).max(initial=0))


def _find_attribute(a: onnx.AttributeProto) -> int:
    return max((abs(i) for i in (a.i, *a.ints)), default=0) if not a.HasField("t") else _find_largest(a.t)


def _has_long_vector(model: onnx.ModelProto) -> bool:
    """Whether it states a vector of so many elements that onnx, which makes a number of each, would take all memory."""
    for g in graphs(model.graph):
        for value in (*g.input, *g.output, *g.value_info):
            dims = value.type.tensor_type.shape.dim
            if len(dims) == 1 and dims[0].dim_value > _MOST_VALUES:
                return True
    return False


def contradiction(skeleton: onnx.ModelProto) -> str:
    """Why the model cannot be right: names that are no text, shapes or types that cannot be; empty if unknown."""
    problem = _odd_name(skeleton)
    if problem:
        return problem
    return _find_refusal(lambda: _infer(skeleton, strict=True), skeleton)


def infer_shapes(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    """The skeleton with value_info where onnx can infer it; unchanged where it cannot."""

    def infer() -> onnx.ModelProto:
        try:
            with no_remarks():
                return _infer(skeleton, strict=False)
        except _REFUSALS:
            return skeleton

    size = count_inlined_nodes(skeleton)
    if size < HELD_MOST:
        return infer()
    try:
        found = run_interruptible(lambda: bytes(infer().SerializeToString()), size)
    except Died:
        return skeleton
    model: onnx.ModelProto = onnx.ModelProto.FromString(found)
    return model
