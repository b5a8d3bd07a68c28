"""Gemm then arithmetic with a constant becomes one Gemm: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldAffineIntoGemm(PassRows):
    name = "fold-affine-into-gemm"
    folds = "gemm-mul-c gemm-sub-1-c gemm-add-scalar"
    declines = """
        not-per-channel: gemm-mul-rows
    """
