"""A bias that InstanceNormalization or another norm subtracts again goes away: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestDropBiasBeforeInstanceNorm(PassRows):
    name = "drop-bias-before-instance-norm"
    folds = "conv-instance-norm group-norm-g-is-c layer-norm-over-w"
    declines = """
        overridable: norm-bias-overridable
    """
