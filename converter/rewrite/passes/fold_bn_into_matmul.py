"""MatMul then BatchNormalization becomes one MatMul.

Given:  x [..., K], W [K, O], perhaps an Add of b [O]; then BatchNormalization in inference form
        (s = gamma / sqrt(var + eps), t = beta - mean s).
Result: W'[:, o] = s[o] W[:, o], b' = s b + t; the second node is gone.
        Without an Add, a matrix product becomes a Gemm; one of more axes keeps its shift as one Add.
Source: Ioffe and Szegedy 2015, section 3.1; ONNX BatchNormalization 6 to 15.
"""

from __future__ import annotations

from converter.rewrite.passes._backward import backward_pass

PASS = backward_pass(
    name="fold-bn-into-matmul",
    summary="MatMul then BatchNormalization becomes one MatMul",
    op="MatMul",
    kind="bn",
    module=__name__,
)
