"""The value bias of attention moves into the bias of the projection after it: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestSinkAttentionValueBias(PassRows):
    name = "sink-attention-value-bias"
    folds = "attention-value"
    declines = """
        overridable: attention-value-overridable
        weight-shared: attention-value-no-growth
    """
