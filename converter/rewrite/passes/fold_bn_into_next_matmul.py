"""BatchNormalization then MatMul becomes one MatMul.

Given:  BatchNormalization in inference form
        (s = gamma / sqrt(var + eps), t = beta - mean s); then x [..., K], W [K, O], perhaps an Add of b [O].
Result: W'[k] = s[k] W[k], b' = b + t W; the first node is gone.
        Across Flatten each channel stands for its run of features.
        Between them may stand views, averages of uncounted padding, and maxima where s > 0.
Source: Ioffe and Szegedy 2015, section 3.1; ONNX BatchNormalization 6 to 15.
"""

from __future__ import annotations

from converter.rewrite.passes._forward import forward_pass

PASS = forward_pass(
    name="fold-bn-into-next-matmul",
    summary="BatchNormalization then MatMul becomes one MatMul",
    op="MatMul",
    kind="bn",
    module=__name__,
    after=("fold-bn-into-matmul",),
)
