"""BatchNormalization then Gemm becomes one Gemm.

Given:  BatchNormalization in inference form
        (s = gamma / sqrt(var + eps), t = beta - mean s); then A [M, K], B [K, N], C to [M, N].
Result: B'[k] = alpha s[k] B[k], C' = beta C + alpha t B, alpha = beta = 1; the first node is gone.
        Across Flatten each channel stands for its run of features.
        Between them may stand views, averages of uncounted padding, and maxima where s > 0.
Source: Ioffe and Szegedy 2015, section 3.1; ONNX BatchNormalization 6 to 15.
"""

from __future__ import annotations

from converter.rewrite.passes._forward import forward_pass

PASS = forward_pass(
    name="fold-bn-into-next-gemm",
    summary="BatchNormalization then Gemm becomes one Gemm",
    op="Gemm",
    kind="bn",
    module=__name__,
    after=("fold-bn-into-gemm",),
)
