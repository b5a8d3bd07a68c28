"""MatMul then arithmetic with a constant becomes one MatMul: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldAffineIntoMatmul(PassRows):
    name = "fold-affine-into-matmul"
    folds = "matmul-mul-c matmul-div-scalar matmul-3d-mul-add dq-transposed dq-blocked"
    declines = """
        weight-rank: matmul-stack-mul
        not-per-channel: matmul-mul-rows matmul-add-raises-rank
    """
