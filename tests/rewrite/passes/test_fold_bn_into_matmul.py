"""MatMul then BatchNormalization becomes one MatMul: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldBnIntoMatmul(PassRows):
    name = "fold-bn-into-matmul"
    folds = """
        matmul-2d-bn matmul-add-bn matmul-3d-transpose-bn matmul-add-transpose-bn matmul-float16
        matmul-bfloat16 matmul-double
    """
    declines = """
        channel-axis: matmul-3d-bn-on-time matmul-transpose-bn-square matmul-reshape-bn-sizes-coincide
            matmul-add-bn-on-time
    """
