"""ConvTranspose then BatchNormalization becomes one ConvTranspose.

Given:  x [N, I, *d], W [I, O/g, *k], b [O]; then BatchNormalization in inference form
        (s = gamma / sqrt(var + eps), t = beta - mean s).
Result: W'[:, o] = s[o] W[:, o] within each group, b' = s b + t; the second node is gone.
        The output channel is axis 1 of W within a group; a square W does not tell, so the layout is never guessed.
Source: Ioffe and Szegedy 2015, section 3.1; ONNX BatchNormalization 6 to 15.
"""

from __future__ import annotations

from converter.rewrite.passes._backward import backward_pass

PASS = backward_pass(
    name="fold-bn-into-conv-transpose",
    summary="ConvTranspose then BatchNormalization becomes one ConvTranspose",
    op="ConvTranspose",
    kind="bn",
    module=__name__,
)
