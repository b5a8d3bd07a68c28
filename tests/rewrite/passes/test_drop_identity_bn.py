"""A BatchNormalization that changes nothing goes away: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestDropIdentityBn(PassRows):
    name = "drop-identity-bn"
    folds = "identity-bn"
    declines = """
        output-is-graph-output: identity-bn-between-input-and-output
    """
