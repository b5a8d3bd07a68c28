"""Arithmetic with a constant then Conv becomes one Conv.

Given:  Mul, Div, Add, Sub or Neg by a constant: one number or one per channel
        (s and t as the operator has them); then x [N, I, *d], W [O, I/g, *k], b [O].
Result: W'[:, i] = W[:, i] s[i] within each group, b' = b + sum over i and taps of W[:, i] t[i]; the first node is gone.
        A shift only where no padded element is read.
        Between them may stand views, averages of uncounted padding, and maxima where s > 0.
Source: distribution of sums; ONNX broadcasting rules.
"""

from __future__ import annotations

from converter.rewrite.passes._forward import forward_pass

PASS = forward_pass(
    name="fold-affine-into-next-conv",
    summary="Arithmetic with a constant then Conv becomes one Conv",
    op="Conv",
    kind="affine",
    module=__name__,
    after=("fold-affine-into-conv",),
)
