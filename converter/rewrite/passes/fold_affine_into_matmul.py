"""MatMul then arithmetic with a constant becomes one MatMul.

Given:  x [..., K], W [K, O], perhaps an Add of b [O]; then
        Mul, Div, Add, Sub or Neg by a constant: one number or one per channel
        (s and t as the operator has them).
Result: W'[:, o] = s[o] W[:, o], b' = s b + t; the second node is gone.
        Without an Add, a matrix product becomes a Gemm; one of more axes keeps its shift as one Add.
Source: distribution of sums; ONNX broadcasting rules.
"""

from __future__ import annotations

from converter.rewrite.passes._backward import backward_pass

PASS = backward_pass(
    name="fold-affine-into-matmul",
    summary="MatMul then arithmetic with a constant becomes one MatMul",
    op="MatMul",
    kind="affine",
    module=__name__,
    after=("fold-bn-into-matmul",),
)
