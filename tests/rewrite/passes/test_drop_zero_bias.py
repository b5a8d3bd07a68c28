"""A bias that is zero in every channel goes away: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestDropZeroBias(PassRows):
    name = "drop-zero-bias"
    folds = """
        zero-conv-bias zero-gemm-c zero-bias-seen zero-conv-transpose zero-conv-minus-zero zero-conv-fp16
        zero-gemm-m-n zero-gemm-scalar zero-gemm-opset-11 zero-bias-read-elsewhere ir-3-zero-bias
    """
    declines = """
        overridable: zero-bias-overridable
        input-required: gemm-opset-9
    """
