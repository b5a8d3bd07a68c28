"""Gemm then arithmetic with a constant becomes one Gemm.

Given:  A [M, K], B [K, N], C to [M, N]; then Mul, Div, Add, Sub or Neg by a constant: one number or one per channel
        (s and t as the operator has them).
Result: B'[:, n] = alpha s[n] B[:, n], C' = beta s C + t, alpha = beta = 1; the second node is gone.
        C of any shape is broadcast with s and t: [M, 1] grows to [M, N].
Source: distribution of sums; ONNX broadcasting rules.
"""

from __future__ import annotations

from converter.rewrite.passes._backward import backward_pass

PASS = backward_pass(
    name="fold-affine-into-gemm",
    summary="Gemm then arithmetic with a constant becomes one Gemm",
    op="Gemm",
    kind="affine",
    module=__name__,
    after=("fold-bn-into-gemm",),
)
