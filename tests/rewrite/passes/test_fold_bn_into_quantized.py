"""A quantized layer then BatchNormalization becomes one layer: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldBnIntoQuantized(PassRows):
    name = "fold-bn-into-quantized"
    folds = """
        chain-bias-bn chain-bn data-bn data-bn-opset-13 data-bn-opset-21 data-pooled
        chain-static chain-static-channels
    """
    declines = """
        per-axis-scale: data-opset-12
        coarser-kernel: data-bn-before-softmax
        negative-scale: data-negative
        several-readers: data-read-twice chain-read-twice chain-scale-shared
    """
