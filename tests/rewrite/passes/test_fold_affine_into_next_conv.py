"""Arithmetic with a constant then Conv becomes one Conv: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldAffineIntoNextConv(PassRows):
    name = "fold-affine-into-next-conv"
    folds = "mul-padded-conv add-conv"
    declines = """
        not-per-channel: next-conv-grows-channels
        padded-shift: add-padded
    """
