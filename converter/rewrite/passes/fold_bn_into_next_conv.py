"""BatchNormalization then Conv becomes one Conv.

Given:  BatchNormalization in inference form
        (s = gamma / sqrt(var + eps), t = beta - mean s); then x [N, I, *d], W [O, I/g, *k], b [O].
Result: W'[:, i] = W[:, i] s[i] within each group, b' = b + sum over i and taps of W[:, i] t[i]; the first node is gone.
        A shift only where no padded element is read.
        Between them may stand views, averages of uncounted padding, and maxima where s > 0.
Source: Ioffe and Szegedy 2015, section 3.1; ONNX BatchNormalization 6 to 15.
"""

from __future__ import annotations

from converter.rewrite.passes._forward import forward_pass

PASS = forward_pass(
    name="fold-bn-into-next-conv",
    summary="BatchNormalization then Conv becomes one Conv",
    op="Conv",
    kind="bn",
    module=__name__,
    after=("fold-bn-into-conv",),
)
