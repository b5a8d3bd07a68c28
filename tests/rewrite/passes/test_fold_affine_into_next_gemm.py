"""Arithmetic with a constant then Gemm becomes one Gemm: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldAffineIntoNextGemm(PassRows):
    name = "fold-affine-into-next-gemm"
    folds = "mul-next-gemm"
    declines = """
        channel-axis: mul-rows-next-gemm
    """
