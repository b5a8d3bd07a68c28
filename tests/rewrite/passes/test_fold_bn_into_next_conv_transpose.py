"""BatchNormalization then ConvTranspose becomes one ConvTranspose: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldBnIntoNextConvTranspose(PassRows):
    name = "fold-bn-into-next-conv-transpose"
    folds = "k1s1 large-transposed"
    declines = """
        transposed-shift: spread-k3s1 spread-k2s2 spread-k4s2p1 spread-k3s1p1 spread-k2s3 spread-k1s2
    """
