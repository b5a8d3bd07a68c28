"""Arithmetic with a constant then Gemm becomes one Gemm.

Given:  Mul, Div, Add, Sub or Neg by a constant: one number or one per channel
        (s and t as the operator has them); then A [M, K], B [K, N], C to [M, N].
Result: B'[k] = alpha s[k] B[k], C' = beta C + alpha t B, alpha = beta = 1; the first node is gone.
        Across Flatten each channel stands for its run of features.
        Between them may stand views, averages of uncounted padding, and maxima where s > 0.
Source: distribution of sums; ONNX broadcasting rules.
"""

from __future__ import annotations

from converter.rewrite.passes._forward import forward_pass

PASS = forward_pass(
    name="fold-affine-into-next-gemm",
    summary="Arithmetic with a constant then Gemm becomes one Gemm",
    op="Gemm",
    kind="affine",
    module=__name__,
    after=("fold-affine-into-gemm",),
)
