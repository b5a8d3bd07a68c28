"""The biases of two layers that are added become one: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestMergeParallelBiases(PassRows):
    name = "merge-parallel-biases"
    folds = "parallel-convs"
    declines = """
        overridable: parallel-convs-overridable
        weight-shared: parallel-convs-no-growth
    """
