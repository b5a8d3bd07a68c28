"""Arithmetic with a constant then MatMul becomes one MatMul: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldAffineIntoNextMatmul(PassRows):
    name = "fold-affine-into-next-matmul"
    folds = "mul-next-matmul-3d mul-add-next-matmul-add neg-matmul-add-matmul-add"
    declines = """
        channel-axis: mul-rows-next-matmul
        scale-axis: dq-blocked-inputs
        no-bias-slot: add-next-batched-matmul
    """
