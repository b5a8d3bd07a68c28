"""Gemm then BatchNormalization becomes one Gemm: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldBnIntoGemm(PassRows):
    name = "fold-bn-into-gemm"
    folds = """
        gemm-bn gemm-alpha-beta-trans-b-bn gemm-c-m-n-bn gemm-c-m-1-bn empty-gemm-c gemm-plain-c-n
        gemm-plain-c-1-n gemm-plain-c-m-n gemm-plain-c-m-1 gemm-plain-c-1 gemm-plain-c-scalar gemm-plain-c-1-1
        gemm-plain-c-none gemm-alpha-c-n gemm-alpha-c-1-n gemm-alpha-c-m-n gemm-alpha-c-m-1 gemm-alpha-c-1
        gemm-alpha-c-scalar gemm-alpha-c-1-1 gemm-alpha-c-none gemm-beta-c-n gemm-beta-c-1-n gemm-beta-c-m-n
        gemm-beta-c-m-1 gemm-beta-c-1 gemm-beta-c-scalar gemm-beta-c-1-1 gemm-beta-c-none gemm-trans-a-c-n
        gemm-trans-a-c-1-n gemm-trans-a-c-m-n gemm-trans-a-c-m-1 gemm-trans-a-c-1 gemm-trans-a-c-scalar
        gemm-trans-a-c-1-1 gemm-trans-a-c-none gemm-trans-b-c-n gemm-trans-b-c-1-n gemm-trans-b-c-m-n
        gemm-trans-b-c-m-1 gemm-trans-b-c-1 gemm-trans-b-c-scalar gemm-trans-b-c-1-1 gemm-trans-b-c-none
        gemm-all-c-n gemm-all-c-1-n gemm-all-c-m-n gemm-all-c-m-1 gemm-all-c-1 gemm-all-c-scalar
        gemm-all-c-1-1 gemm-all-c-none gemm-float16 gemm-bfloat16 gemm-double gemm-fp16-params-fp32
        gemm-eps-absent gemm-eps-0.0 gemm-eps-0.5 large-gemm large-gemm-trans-b dq-gemm
    """
    declines = """
        channel-axis: gemm-transpose-square
        weight-shared: no-growth-c-m-1
    """
