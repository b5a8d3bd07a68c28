"""A bias that softmax does not depend on goes away: the key bias of attention: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestDropAttentionKeyBias(PassRows):
    name = "drop-attention-key-bias"
    folds = "attention-key"
    declines = """
        overridable: attention-key-overridable
    """
