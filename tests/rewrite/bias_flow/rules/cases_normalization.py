"""Pools, reductions and norms, and which shifts they carry, drop or depend on."""

from __future__ import annotations

import numpy as np

from tests.rewrite.bias_flow.rules.one_node import Case
from tests.rewrite.bias_flow.rules.values import ALL3, X3, X4, ints

POOL = [
    Case("y = MaxPool<kernel_shape = [2, 2]>(x)", X4, "- 0 1 01"),
    Case("y = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>(x)", X4, "- 0 1 01"),
    Case("y = MaxPool<kernel_shape = [2, 2], dilations = [2, 2], ceil_mode = 1, strides = [2, 2]>(x)", X4, "- 0 1 01"),
    Case('y = MaxPool<kernel_shape = [3, 3], auto_pad = "SAME_UPPER", strides = [2, 2]>(x)', X4, "- 0 1 01"),
    Case("y = MaxPool<kernel_shape = [2]>(x)", X3, "- 0 1 01"),
    Case("y = AveragePool<kernel_shape = [2, 2]>(x)", X4, "- 0 1 01"),
    Case("y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)", X4, "- 0 1 01"),
    Case(
        "y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2], ceil_mode = 1>(x)",
        X4,
        "- 0 1 01",
        opset=19,
    ),
    Case("y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(x)", X4, felt="- 1"),
    Case("y = AveragePool<kernel_shape = [2, 2], count_include_pad = 1>(x)", X4, "- 0 1 01"),
    Case(
        "y = AveragePool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1, count_include_pad = 1>(x)",
        X4,
        opset=19,
    ),
    Case('y = AveragePool<kernel_shape = [3, 3], auto_pad = "SAME_UPPER">(x)', X4, "- 0 1 01"),
    Case('y = AveragePool<kernel_shape = [3, 3], auto_pad = "SAME_UPPER", count_include_pad = 1>(x)', X4, felt="- 1"),
    Case("y = AveragePool<kernel_shape = [2, 2], dilations = [2, 2]>(x)", X4, "- 0 1 01", opset=19),
    Case("y = GlobalAveragePool(x)", X4, "- 0 1 01"),
    Case("y = GlobalMaxPool(x)", X4, "- 0 1 01"),
    Case("y, z = MaxPool<kernel_shape = [2, 2]>(x)", X4, types=(11, 7)),
]

REDUCE = [
    Case("y = ReduceMean<axes = [2, 3]>(x)", X4, "- 0 1 01"),
    Case("y = ReduceMean<axes = [-1], keepdims = 0>(x)", X4, "- 0 1 2 01 02 12 012"),
    Case("y = ReduceMean<axes = [1], keepdims = 0>(x)", X4, "- 0 2 3 02 03 23 023"),
    Case("y = ReduceMean(x)", X3, "-"),
    Case("y = ReduceMean<keepdims = 0>(x)", X3, "-"),
    Case("y = ReduceMean<keepdims = 0>(x, a)", {**X4, "a": ints(0, -1)}, "- 1 2 12", opset=18),
    Case("y = ReduceMean(x, a)", {**X4, "a": ints()}, "-", opset=18, name="ReduceMean over no axes, so all"),
    Case("y = ReduceMean<noop_with_empty_axes = 1>(x)", X3, ALL3, opset=18),
    Case("y = ReduceMax<axes = [1]>(x)", X3, "- 0 2 02"),
    Case("y = ReduceMin<axes = [0, 2], keepdims = 0>(x)", X3, "- 1", opset=13),
    Case("y = ReduceMax<keepdims = 0>(x, a)", {**X3, "a": ints(-2)}, "- 0 2 02", opset=18),
    Case("y = ReduceSum(x, a)", {**X3, "a": ints(1)}, "- 0 2 02"),
    Case("y = ReduceSum<axes = [1, 2], keepdims = 0>(x)", X3, "- 0", opset=11),
    Case("y = ReduceSum<noop_with_empty_axes = 1>(x)", X3, ALL3),
    Case("y = ReduceSum<keepdims = 0>(x)", X3, "-"),
    Case("y = ArgMax<axis = 1>(x)", X3, gone="- 0 2 02", types=(7,)),
    Case("y = ArgMin<axis = -1, keepdims = 0>(x)", X3, gone="- 0 1 01", types=(7,)),
    Case("y = ArgMax<axis = 0, select_last_index = 1>(x)", X3, gone="- 1 2 12", types=(7,)),
]

_S3, _B3 = {"s": np.arange(1.0, 4)}, {"b": np.arange(3.0)}
_BN = {**_S3, **_B3, "m": np.arange(3.0), "v": np.arange(1.0, 4)}
_G4 = {"x": (2, 4, 3, 2)}
NORM = [
    Case("y = InstanceNormalization(x, s, b)", {**X4, **_S3, **_B3}, gone="- 0 1 01", felt="2 13 0123"),
    Case("y = InstanceNormalization(x, s, b)", {**X3, **_S3, **_B3}, gone="- 0 1 01", opset=7),
    Case("y = LayerNormalization(x, s)", {**X3, "s": np.arange(1.0, 5)}, gone="- 0 1 01", felt="2 12"),
    Case("y = LayerNormalization<axis = 1>(x, s)", {**X3, "s": np.ones((3, 4))}, gone="- 0"),
    Case("y = LayerNormalization<axis = -2>(x, s, b)", {**X3, "s": np.ones((3, 4)), "b": np.ones((3, 4))}, gone="- 0"),
    Case("y, z, w = LayerNormalization(x, s)", {**X3, "s": np.arange(1.0, 5)}, types=(11, 1, 1)),
    Case("y = MeanVarianceNormalization(x)", X4, gone="- 1"),
    Case("y = MeanVarianceNormalization<axes = [2, 3]>(x)", X4, gone="- 0 1 01"),
    Case("y = MeanVarianceNormalization<axes = [-1]>(x)", X3, gone="- 0 1 01", opset=9),
    Case(
        "y = GroupNormalization<num_groups = 4>(x, s, b)",
        {**_G4, "s": np.ones(4), "b": np.ones(4)},
        gone="- 0 1 01",
        opset=21,
    ),
    Case(
        "y = GroupNormalization<num_groups = 2>(x, s, b)",
        {**_G4, "s": np.ones(4), "b": np.ones(4)},
        gone="- 0",
        felt="1",
        opset=21,
    ),
    Case(
        "y = GroupNormalization<num_groups = 2>(x, s, b)",
        {**_G4, "s": np.ones(2), "b": np.ones(2)},
        gone="- 0",
        opset=18,
    ),
    Case(
        "y = GroupNormalization<num_groups = 1>(x, s, b)",
        {**_G4, "s": np.ones(4), "b": np.ones(4)},
        gone="- 0",
        felt="1",
        opset=21,
    ),
    Case("y = BatchNormalization(x, s, b, m, v)", {**X4, **_BN}),
    Case("y = BatchNormalization(x, s, b, m, v)", {**X4, **_BN}, opset=9),
    Case("y = BatchNormalization<training_mode = 1>(x, s, b, m, v)", {**X4, **_BN}, gone="- 1"),
    Case("y, z, w = BatchNormalization<training_mode = 1>(x, s, b, m, v)", {**X4, **_BN}),
    Case("y = Softmax(x)", X3, gone="- 0 1 01", felt="2 02 12"),
    Case("y = Softmax<axis = 1>(x)", X3, gone="- 0 2 02"),
    Case("y = Softmax(x)", X3, gone="- 0", felt="1 2", opset=11),
    Case("y = Softmax<axis = 2>(x)", X3, gone="- 0 1 01", opset=11),
    Case("y = Softmax<axis = -1>(x)", X3, gone="- 0 1 01", opset=12),
    Case("y = LogSoftmax<axis = 0>(x)", X3, gone="- 1 2 12"),
    Case("y = LogSoftmax<axis = 0>(x)", X3, gone="-", opset=9),
]
