"""Arithmetic with a constant then ConvTranspose becomes one ConvTranspose.

Given:  Mul, Div, Add, Sub or Neg by a constant: one number or one per channel
        (s and t as the operator has them); then x [N, I, *d], W [I, O/g, *k], b [O].
Result: W'[i] = s[i] W[i]; for kernel 1 and stride 1, b' = b + sum over i of W[i] t[i]; the first node is gone.
        A shift only for kernel 1 and stride 1.
        Between them may stand views, averages of uncounted padding, and maxima where s > 0.
Source: distribution of sums; ONNX broadcasting rules.
"""

from __future__ import annotations

from converter.rewrite.passes._forward import forward_pass

PASS = forward_pass(
    name="fold-affine-into-next-conv-transpose",
    summary="Arithmetic with a constant then ConvTranspose becomes one ConvTranspose",
    op="ConvTranspose",
    kind="affine",
    module=__name__,
    after=("fold-affine-into-conv-transpose",),
)
