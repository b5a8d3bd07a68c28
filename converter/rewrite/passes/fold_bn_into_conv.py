"""Conv then BatchNormalization becomes one Conv.

Given:  x [N, I, *d], W [O, I/g, *k], b [O]; then BatchNormalization in inference form
        (s = gamma / sqrt(var + eps), t = beta - mean s).
Result: W'[o] = s[o] W[o], b' = s b + t; the second node is gone.
        Between them may stand Identity, Dropout, Transpose, Squeeze, Unsqueeze and Reshape that keep the channels.
Source: Ioffe and Szegedy 2015, section 3.1; ONNX BatchNormalization 6 to 15.
"""

from __future__ import annotations

from converter.rewrite.passes._backward import backward_pass

PASS = backward_pass(
    name="fold-bn-into-conv",
    summary="Conv then BatchNormalization becomes one Conv",
    op="Conv",
    kind="bn",
    module=__name__,
)
