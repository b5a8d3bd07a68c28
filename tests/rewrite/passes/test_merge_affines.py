"""Two multiplications, or two additions, by constants in a row become one: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestMergeAffines(PassRows):
    name = "merge-affines"
    folds = "mul-div sums-merge weak-factors-merge"
    declines = """
        old-broadcast: mul-mul-opset-6
        rounding: fp16-merged-factor weak-factors-alone
    """
