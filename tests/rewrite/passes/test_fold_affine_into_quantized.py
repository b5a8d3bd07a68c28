"""A quantized layer then arithmetic becomes one layer: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldAffineIntoQuantized(PassRows):
    name = "fold-affine-into-quantized"
    folds = """
        chain-div chain-mul-add data-number data-number-twice data-number-opset-10 data-channels
        data-moved
    """
    declines = """
        scale-axis: data-last-axis
        channel-axis: data-joined
        coarser-kernel: data-before-softmax
    """
