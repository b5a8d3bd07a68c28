"""What each fold writes, as formulas; ``scale`` and ``shift`` are those of y = scale * x + shift per channel.

The proofs show that the formulas are right for all values; ``test_code_follows_formulas`` shows
that the passes compute them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.proofs.symbolic import Array


def affine_of_bn(gamma: Array, beta: Array, mean: Array, sigma: Array) -> tuple[Array, Array]:
    """Scale and shift of a BatchNormalization."""
    scale = gamma / sigma
    return scale, beta - mean * scale


def into_conv(w: Array, b: Array | None, scale: Array, shift: Array) -> tuple[Array, Array]:
    """A following affine into Conv, w [O, C/group, *k]: axis 0 is the output channel for any group."""
    return w * scale.reshape(-1, *(1,) * (w.ndim - 1)), shift if b is None else scale * b + shift


def into_conv_transpose(w: Array, b: Array | None, scale: Array, shift: Array, group: int) -> tuple[Array, Array]:
    """A following affine into ConvTranspose, w [C, O/group, *k]: split C by group, then scale axis 2."""
    split = w.reshape(group, w.shape[0] // group, *w.shape[1:])
    factor = scale.reshape(group, 1, w.shape[1], *(1,) * (w.ndim - 2))
    return (split * factor).reshape(w.shape), shift if b is None else scale * b + shift


def into_gemm(
    w: Array, c: Array | None, scale: Array, shift: Array, beta: Any = 1, trans_b: bool = False
) -> tuple[Array, Array]:
    """A following affine over columns into Gemm: alpha stays, C takes beta and the shift, so beta becomes 1."""
    new_w = w * (scale.reshape(-1, 1) if trans_b else scale)
    return new_w, shift if c is None else scale * beta * c + shift


def from_before_conv(w: Array, b: Array | None, scale: Array, shift: Array, group: int) -> tuple[Array, Array]:
    """An affine in front of Conv: scale on the input channels, the shift through all taps of its own group."""
    out, width, *kernel = w.shape
    per_input = np.empty(w.shape, dtype=object)
    moved = np.empty(out, dtype=object)
    for o in range(out):
        first = o // (out // group) * width
        for i, *tap in np.ndindex(width, *kernel):
            per_input[(o, i, *tap)] = w[(o, i, *tap)] * scale[first + i]
        moved[o] = sum(w[(o, i, *tap)] * shift[first + i] for i, *tap in np.ndindex(width, *kernel))
    return per_input, moved if b is None else b + moved


def from_before_conv_transpose(w: Array, scale: Array) -> Array:
    """A scale in front of ConvTranspose, w [C, O/group, *k]: axis 0 is the input channel for any group."""
    return w * scale.reshape(-1, *(1,) * (w.ndim - 1))


def from_before_gemm(
    w: Array, c: Array | None, scale: Array, shift: Array, alpha: Any = 1, beta: Any = 1, trans_b: bool = False
) -> tuple[Array, Array]:
    """An affine over the columns of A in front of Gemm: rows of B take the scale, C the shift times alpha."""
    plain = w.T if trans_b else w
    rows = plain * scale.reshape(-1, 1)
    moved = alpha * np.array([sum(shift[k] * plain[k, j] for k in range(len(shift))) for j in range(plain.shape[1])])
    return rows.T if trans_b else rows, moved if c is None else beta * c + moved
