"""Arithmetic with a constant then ConvTranspose becomes one ConvTranspose: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldAffineIntoNextConvTranspose(PassRows):
    name = "fold-affine-into-next-conv-transpose"
    folds = "mul-any-kernel"
    declines = """
        transposed-shift: add-k3
    """
