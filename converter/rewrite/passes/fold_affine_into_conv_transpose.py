"""ConvTranspose then arithmetic with a constant becomes one ConvTranspose.

Given:  x [N, I, *d], W [I, O/g, *k], b [O]; then Mul, Div, Add, Sub or Neg by a constant: one number or one per channel
        (s and t as the operator has them).
Result: W'[:, o] = s[o] W[:, o] within each group, b' = s b + t; the second node is gone.
        The output channel is axis 1 of W within a group; a square W does not tell, so the layout is never guessed.
Source: distribution of sums; ONNX broadcasting rules.
"""

from __future__ import annotations

from converter.rewrite.passes._backward import backward_pass

PASS = backward_pass(
    name="fold-affine-into-conv-transpose",
    summary="ConvTranspose then arithmetic with a constant becomes one ConvTranspose",
    op="ConvTranspose",
    kind="affine",
    module=__name__,
    after=("fold-bn-into-conv-transpose",),
)
