"""Conv then arithmetic with a constant becomes one Conv.

Given:  x [N, I, *d], W [O, I/g, *k], b [O]; then Mul, Div, Add, Sub or Neg by a constant: one number or one per channel
        (s and t as the operator has them).
Result: W'[o] = s[o] W[o], b' = s b + t; the second node is gone.
        Between them may stand Identity, Dropout, Transpose, Squeeze, Unsqueeze and Reshape that keep the channels.
Source: distribution of sums; ONNX broadcasting rules.
"""

from __future__ import annotations

from converter.rewrite.passes._backward import backward_pass

PASS = backward_pass(
    name="fold-affine-into-conv",
    summary="Conv then arithmetic with a constant becomes one Conv",
    op="Conv",
    kind="affine",
    module=__name__,
    after=("fold-bn-into-conv",),
)
