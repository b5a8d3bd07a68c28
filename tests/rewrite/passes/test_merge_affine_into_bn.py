"""Arithmetic with a constant beside a BatchNormalization becomes part of it: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestMergeAffineIntoBn(PassRows):
    name = "merge-affine-into-bn"
    folds = "bn-mul mul-bn div-neg-bn"
    declines = """
        not-per-channel: bn-grows-channels after-bn-raises-rank
        rounding: fp16-merged-gamma
    """
