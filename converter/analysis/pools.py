"""Pools and padding: what an affine map per channel passes through.

Source: ONNX operator schemas of AveragePool, MaxPool, GlobalAveragePool, GlobalMaxPool and Conv.
"""

from __future__ import annotations

from converter.analysis.facts import Facts, further_outputs
from converter.graph import Node

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
