"""BatchNormalization then MatMul becomes one MatMul: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldBnIntoNextMatmul(PassRows):
    name = "fold-bn-into-next-matmul"
    folds = "bn-transpose-matmul flatten-matmul"
    declines = """
        channel-axis: bn-time-next-matmul
    """
