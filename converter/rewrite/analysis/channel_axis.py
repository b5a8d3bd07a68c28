"""The channel axis as data: followed through nodes that only move or rename axes.

Sizes that happen to be equal are never taken as evidence. Through Reshape the channels stay where
they are exactly when the product of the dims behind them stays the same, and with it that of the dims
before them: row-major order gives channel = (position // behind) % channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from converter.model.graph import Node
from converter.model.shapes.symbols import product, size
from converter.rewrite.analysis.facts import Facts, further_outputs

_AVERAGES = ("AveragePool", "GlobalAveragePool")
_MAXIMA = ("MaxPool", "GlobalMaxPool")


def is_pool(node: Node) -> bool:
    """Whether the node averages or takes maxima over positions, channel by channel."""
    if not node.is_op(*_AVERAGES, *_MAXIMA) or node.tensor_in(0) is None or node.tensor_out(0) is None:
        return False
    return not further_outputs(node)  # MaxPool's indices would have to stay true


def is_average(node: Node) -> bool:
    """Whether it averages."""
    return node.is_op(*_AVERAGES)


def is_maximum(node: Node) -> bool:
    """Whether it takes maxima."""
    return node.is_op(*_MAXIMA)


def average_counts_padding(node: Node) -> bool:
    """Whether padded zeros may enter an average as if they were values."""
    if node.op != "AveragePool" or not node.attr("count_include_pad", 0):
        # Before opset 7 the attribute is absent and every implementation excludes the padding.
        return False
    if node.attr("ceil_mode", 0):
        return True
    return node.attr("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER") or any(node.attr("pads", [0]))


def reads_padding(facts: Facts, conv: Node) -> bool:
    """Whether a convolution may read a padded element."""
    auto = conv.attr("auto_pad", "NOTSET")
    pads = list(conv.attr("pads", []))
    if auto == "VALID" or (auto == "NOTSET" and not any(pads)):
        return False
    weight = facts.constants.weight(conv.inputs[1])
    if weight is None:
        return True
    kernel = weight.shape[2:]
    n = len(kernel)
    dims = facts.shape(conv.inputs[0])
    sizes: tuple[int | str | None, ...] = dims[2:] if dims is not None else (None,) * n
    strides = conv.attr("strides", [1] * n)
    reaches = [(k - 1) * d + 1 for k, d in zip(kernel, conv.attr("dilations", [1] * n), strict=True)]
    if auto == "NOTSET":
        windows = zip(sizes, reaches, strides, pads[:n], pads[n:], strict=True)
        return any(_reads_pads(*w) for w in windows)
    return any(_same_pads(*w) for w in zip(sizes, reaches, strides, strict=True))


def _reads_pads(size: int | str | None, reach: int, stride: int, begin: int, end: int) -> bool:
    """Whether a window covers padding: at the start always, at the end unless the stride stops before it."""
    if begin <= 0 and end <= 0:
        return False
    if begin > 0 or not isinstance(size, int):
        return True
    n_windows = (size + begin + end - reach) // stride + 1
    return (n_windows - 1) * stride - begin + reach > size


def _same_pads(size: int | str | None, reach: int, stride: int) -> bool:
    """Whether SAME adds padding: total = (ceil(size/stride) - 1) * stride + reach - size."""
    if reach == 1:
        return False
    if not isinstance(size, int):
        return True
    return (-(-size // stride) - 1) * stride + reach > size


Dims = Sequence[int | str | None]

VIEWS = ("Identity", "Dropout", "Cast", "CastLike", "Transpose", "Squeeze", "Unsqueeze", "Reshape", "Flatten")


def is_view(facts: Facts, node: Node) -> bool:
    """Whether the node hands every element of its first input on as it is, only rearranged (or not at all)."""
    if not node.is_op(*VIEWS) or node.tensor_in(0) is None or node.tensor_out(0) is None:
        return False
    if node.is_op("Cast", "CastLike"):
        return _casts_nothing(facts, node)
    return node.op != "Dropout" or _drops_nothing(facts, node)


def _casts_nothing(facts: Facts, node: Node) -> bool:
    """Whether the type that it casts to is the type that it is given."""
    before = facts.graph.elem_type(node.inputs[0])
    maker = facts.graph.producer(node.inputs[0])
    if before is None and maker is not None and (maker.op, maker.domain) == ("Scaler", "ai.onnx.ml"):
        before = 1  # it gives float32, of whatever it is given
    like = node.tensor_in(1)
    after = node.attr("to") if node.op == "Cast" else facts.graph.elem_type(like) if like is not None else None
    return before is not None and before == after


def _drops_nothing(facts: Facts, node: Node) -> bool:
    opset = node.scope.opset
    if further_outputs(node):
        return False
    if opset < 7:
        return bool(node.attr("is_test", 0))
    if opset < 12 or (mode := node.tensor_in(2)) is None:
        return True
    # From 12 on a third input switches training on.
    value = facts.constants.evaluate(mode)
    return value is not None and not value.any()


def follow_axis(facts: Facts, node: Node, axis: int) -> int | str:
    """Where the channel axis of a view's input lies in its output, or a clause that says why nowhere."""
    match node.op:
        case "Identity" | "Dropout" | "Cast" | "CastLike":
            return axis
        case "Transpose":
            return _transpose(facts, node, axis)
        case "Squeeze":
            return _squeeze(facts, node, axis)
        case "Unsqueeze":
            return _unsqueeze(facts, node, axis)
        case _:
            return _reshape(facts, node, axis)


def _transpose(facts: Facts, node: Node, axis: int) -> int | str:
    perm = node.attr("perm")
    if perm is None:
        rank = facts.rank(node.inputs[0])
        if rank is None:
            return f"{node.label} reverses axes of unknown number"
        perm = list(range(rank))[::-1]
    return list(perm).index(axis) if axis in perm else f"{node.label} has no axis {axis}"


def _axes(facts: Facts, node: Node) -> list[int] | None:
    source = node.tensor_in(1)
    if source is not None:
        value = facts.constants.evaluate(source)
        return None if value is None else [int(a) for a in value.reshape(-1)]
    axes = node.attr("axes")
    return None if axes is None else [int(a) for a in axes]


def _squeeze(facts: Facts, node: Node, axis: int) -> int | str:
    axes = squeezed_axes(facts, node)
    if isinstance(axes, str):
        return axes
    if axis in axes:
        return f"{node.label} drops the channel axis"
    return axis - sum(a < axis for a in axes)


def squeezed_axes(facts: Facts, node: Node) -> list[int] | str:
    """The axes that a Squeeze drops, or a clause that says why they are not known."""
    axes, shape = _axes(facts, node), facts.shape(node.inputs[0])
    if axes is None:
        if node.tensor_in(1) is not None or shape is None or any(not isinstance(d, int) for d in shape):
            return f"{node.label} drops axes that are known at run time only"
        axes = [i for i, d in enumerate(shape) if d == 1]
    if any(a < 0 for a in axes):
        rank = facts.rank(node.inputs[0])
        if rank is None:
            return f"{node.label} counts axes from the end of an unknown number"
        axes = [a % rank for a in axes]
    return axes


def _unsqueeze(facts: Facts, node: Node, axis: int) -> int | str:
    axes = unsqueezed_axes(facts, node)
    if isinstance(axes, str):
        return axes
    for a in sorted(axes):
        axis += a <= axis
    return axis


def unsqueezed_axes(facts: Facts, node: Node) -> list[int] | str:
    """The axes that an Unsqueeze adds, as they lie in its output, or a clause that says why they are not known."""
    axes = _axes(facts, node)
    if axes is None:
        return f"{node.label} adds axes that are known at run time only"
    if any(a < 0 for a in axes):
        rank = facts.rank(node.inputs[0])
        if rank is None:
            return f"{node.label} counts axes from the end of an unknown number"
        axes = [a % (rank + len(axes)) for a in axes]
    return axes


def _reshape(facts: Facts, node: Node, axis: int) -> int | str:
    before, after = facts.shape(node.inputs[0]), reshape_dims(facts, node)
    if before is None or after is None or not axis < len(before):
        return f"{node.label} has shapes that are not known"
    channels = before[axis]
    for i, d in enumerate(after):
        if d is None or d != channels:
            continue
        # Both sides hold the same number of elements, so it is enough that one side of the axis agrees.
        if have_same_product(before[axis + 1 :], after[i + 1 :]) or have_same_product(before[:axis], after[:i]):
            return i
    return f"{node.label} does not keep the channel axis whole ({_show(before)} to {_show(after)})"


def reshape_dims(facts: Facts, node: Node) -> Dims | None:
    """Dims that a Reshape or Flatten gives: numbers, symbols, or None where they are not known."""
    before = facts.shape(node.inputs[0])
    if node.op == "Flatten":
        at = node.attr("axis", 1)
        if before is None:
            return None
        at = at % len(before) if at < 0 else at
        return [_product(before[:at]), _product(before[at:])]
    inferred = facts.shape(node.outputs[0])
    source = node.tensor_in(1)
    wanted = None if source is None else facts.constants.evaluate(source)
    if wanted is None:
        return inferred
    out: list[int | str | None] = [int(d) if d > 0 else None for d in wanted.reshape(-1)]
    for i, d in enumerate(wanted.reshape(-1)):
        if d == 0 and not node.attr("allowzero", 0) and before is not None and i < len(before):
            out[i] = before[i]
        elif d == -1 and inferred is not None and i < len(inferred):
            out[i] = inferred[i]
    return out


def _product(dims: Dims) -> int | None:
    if any(not isinstance(d, int) for d in dims):
        return None
    return math.prod(d for d in dims if isinstance(d, int))


def have_same_product(a: Dims, b: Dims) -> bool:
    """Whether both products are surely equal; symbols count as themselves, unknown dims never match."""
    if any(d is None for d in (*a, *b)):
        return False
    left, right = (product(size(d) for d in side if d is not None) for side in (a, b))
    return left == right


def _show(dims: Dims) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in dims) + "]"


def merges_features(facts: Facts, node: Node) -> bool:
    """Whether the node merges axis 1 and all behind it into one, and keeps axis 0."""
    if node.is_op("Flatten"):
        at = node.attr("axis", 1)
        rank = facts.rank(node.inputs[0])
        return at == 1 or (at < 0 and rank is not None and at + rank == 1)
    if not node.is_op("Reshape"):
        return False
    before, after = facts.shape(node.inputs[0]), reshape_dims(facts, node)
    if before is None or after is None or len(after) != 2 or len(before) < 2:
        return False
    if before[0] is not None and before[0] == after[0]:
        return True
    # [-1, K]: the rows are the batch exactly when K is all that lies behind it.
    behind = _product(before[1:])
    return behind is not None and behind == after[1]


def positions_behind(facts: Facts, node: Node, axis: int) -> int | None:
    """Elements of a view's input that lie behind one channel, in memory order; None if not known."""
    before = facts.shape(node.inputs[0])
    return None if before is None else _product(before[axis + 1 :])
