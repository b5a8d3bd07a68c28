"""ConvTranspose then BatchNormalization becomes one ConvTranspose: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldBnIntoConvTranspose(PassRows):
    name = "fold-bn-into-conv-transpose"
    folds = """
        conv-transpose-bn conv-transpose-grouped-bn conv-transpose-grouped-square-bn conv-transpose-1d-bn
        empty-conv-transpose-bias 1d-square depthwise 3-groups every-attribute convtranspose-float16
        convtranspose-bfloat16 convtranspose-double large-grouped large-square
    """
    declines = """
        several-readers: conv-transpose-second-consumer
    """
