"""The bias of a Conv, ConvTranspose or Gemm moves into the mean of the BatchNormalization after it: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestAbsorbBiasIntoBn(PassRows):
    name = "absorb-bias-into-bn"
    folds = "keep-bn-conv keep-bn-conv-transpose keep-bn-gemm"
    declines = """
        not-per-channel: keep-bn-gemm-c-m-1
    """
