"""BatchNormalization then Gemm becomes one Gemm: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldBnIntoNextGemm(PassRows):
    name = "fold-bn-into-next-gemm"
    folds = """
        large-next-gemm next-gemm next-gemm-all next-gemm-c-m-1 next-gemm-c-scalar next-gemm-no-c
        next-gemm-opset-9 global-average-pool-flatten-gemm flatten-gemm weak-gamma-forward
    """
    declines = """
        channel-axis: next-gemm-trans-a
    """
