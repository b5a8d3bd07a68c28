"""ConvTranspose then arithmetic with a constant becomes one ConvTranspose: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldAffineIntoConvTranspose(PassRows):
    name = "fold-affine-into-conv-transpose"
    folds = """
        conv-transpose-mul conv-transpose-add grouped-conv-transpose-mul square-mul square-mul-add
        conv-transpose-const-sub
    """
    declines = """
        not-per-channel: conv-transpose-mul-hits-w
    """
