"""Gemm then BatchNormalization becomes one Gemm.

Given:  A [M, K], B [K, N], C to [M, N]; then BatchNormalization in inference form
        (s = gamma / sqrt(var + eps), t = beta - mean s).
Result: B'[:, n] = alpha s[n] B[:, n], C' = beta s C + t, alpha = beta = 1; the second node is gone.
        C of any shape is broadcast with s and t: [M, 1] grows to [M, N].
Source: Ioffe and Szegedy 2015, section 3.1; ONNX BatchNormalization 6 to 15.
"""

from __future__ import annotations

from converter.rewrite.passes._backward import backward_pass

PASS = backward_pass(
    name="fold-bn-into-gemm",
    summary="Gemm then BatchNormalization becomes one Gemm",
    op="Gemm",
    kind="bn",
    module=__name__,
)
