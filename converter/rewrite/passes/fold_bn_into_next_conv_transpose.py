"""BatchNormalization then ConvTranspose becomes one ConvTranspose.

Given:  BatchNormalization in inference form
        (s = gamma / sqrt(var + eps), t = beta - mean s); then x [N, I, *d], W [I, O/g, *k], b [O].
Result: W'[i] = s[i] W[i]; for kernel 1 and stride 1, b' = b + sum over i of W[i] t[i]; the first node is gone.
        A shift only for kernel 1 and stride 1.
        Between them may stand views, averages of uncounted padding, and maxima where s > 0.
Source: Ioffe and Szegedy 2015, section 3.1; ONNX BatchNormalization 6 to 15.
"""

from __future__ import annotations

from converter.rewrite.passes._forward import forward_pass

PASS = forward_pass(
    name="fold-bn-into-next-conv-transpose",
    summary="BatchNormalization then ConvTranspose becomes one ConvTranspose",
    op="ConvTranspose",
    kind="bn",
    module=__name__,
    after=("fold-bn-into-conv-transpose",),
)
