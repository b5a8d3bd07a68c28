"""A bias moves into biases, means or constants that exist further down: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestSinkBias(PassRows):
    name = "sink-bias"
    folds = "conv-max-pool-conv-1x1 conv-max-pool-bn sink-into-a-layer-without-bias"
    declines = """
        overridable: sink-overridable
        model-grows: sink-grows
    """
