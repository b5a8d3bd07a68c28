"""Arithmetic with a constant then MatMul becomes one MatMul.

Given:  Mul, Div, Add, Sub or Neg by a constant: one number or one per channel
        (s and t as the operator has them); then x [..., K], W [K, O], perhaps an Add of b [O].
Result: W'[k] = s[k] W[k], b' = b + t W; the first node is gone.
        Across Flatten each channel stands for its run of features.
        Between them may stand views, averages of uncounted padding, and maxima where s > 0.
Source: distribution of sums; ONNX broadcasting rules.
"""

from __future__ import annotations

from converter.rewrite.passes._forward import forward_pass

PASS = forward_pass(
    name="fold-affine-into-next-matmul",
    summary="Arithmetic with a constant then MatMul becomes one MatMul",
    op="MatMul",
    kind="affine",
    module=__name__,
    after=("fold-affine-into-matmul",),
)
