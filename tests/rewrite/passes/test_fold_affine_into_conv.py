"""Conv then arithmetic with a constant becomes one Conv: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldAffineIntoConv(PassRows):
    name = "fold-affine-into-conv"
    folds = """
        mul-add mul-add-const-first sub-div-mul-add mul-rank-0 mul-rank-0-const-first mul-shape-1 div-scalar
        conv-bias-add conv-add conv-add-const-first conv-add-scalar opset-6-mul-axis-1 opset-6-add-axis-1
        mul-by-rank-0 mul-by-1 mul-by-1-1-1 mul-by-1-1-1-1 mul-by-c-1-1 mul-by-1-c-1-1 const-mul-by-rank-0
        const-mul-by-1 const-mul-by-1-1-1 const-mul-by-1-1-1-1 const-mul-by-c-1-1 const-mul-by-1-c-1-1
        add-by-rank-0 add-by-1 add-by-1-1-1 add-by-1-1-1-1 add-by-c-1-1 add-by-1-c-1-1 const-add-by-rank-0
        const-add-by-1 const-add-by-1-1-1 const-add-by-1-1-1-1 const-add-by-c-1-1 const-add-by-1-c-1-1
        sub-by-rank-0 sub-by-1 sub-by-1-1-1 sub-by-1-1-1-1 sub-by-c-1-1 sub-by-1-c-1-1 const-sub-by-rank-0
        const-sub-by-1 const-sub-by-1-1-1 const-sub-by-1-1-1-1 const-sub-by-c-1-1 const-sub-by-1-c-1-1
        div-by-rank-0 div-by-1 div-by-1-1-1 div-by-1-1-1-1 div-by-c-1-1 div-by-1-c-1-1 neg mul-by-zero-channel
        sum-of-two sum-const-first sum-then-mul chain frozen-norm-reciprocal frozen-norm-power
    """
    declines = """
        divides-by-result: const-divided-by-conv
        not-constant: conv-times-conv
        rounding-add: conv-add-that-rounds
        not-per-channel: sum-hits-w
            mul-by-4-hits-w mul-by-4-1-hits-h mul-per-sample mul-expands-batch add-by-4-hits-w
            add-by-4-1-hits-h add-per-sample add-rank-5 add-expands-channels add-ones-rank-5 opset-6-mul-last-axis
            sub-hits-w sub-hits-h sub-hits-n sub-hits-hw const-sub-hits-w const-sub-hits-h const-sub-hits-n
            const-sub-hits-hw div-hits-w div-hits-h div-hits-n div-hits-hw const-mul-hits-w const-mul-hits-h
            const-mul-hits-n const-mul-hits-hw sub-raises-rank mul-rank-5-hits-n const-sub-expands-channels
            div-expands-batch mul-expands-width
        not-finite: division-by-zero mul-by-nan
        overflow: division-by-tiny
    """
