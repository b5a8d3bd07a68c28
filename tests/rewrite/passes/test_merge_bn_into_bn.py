"""Two BatchNormalizations in a row become one: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestMergeBnIntoBn(PassRows):
    name = "merge-bn-into-bn"
    folds = "bn-bn weak-gammas-merge"
    declines = """
        rounding: fp16-merged-norms
    """
