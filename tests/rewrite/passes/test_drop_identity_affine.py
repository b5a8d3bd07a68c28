"""Arithmetic that changes nothing goes away: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestDropIdentityAffine(PassRows):
    name = "drop-identity-affine"
    folds = "add-zero sub-zero mul-one div-one"
    declines = """
        overridable: ones-overridable
        not-float: integer-add-zero
        enlarges: ones-grow-channels ones-raise-rank
    """
