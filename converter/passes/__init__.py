"""The one table of passes, in the order in which they run."""

from __future__ import annotations

from converter.passes import (
    absorb_bias_into_bn,
    drop_identity_affine,
    drop_identity_bn,
    drop_zero_bias,
    fold_affine_into_conv,
    fold_affine_into_conv_transpose,
    fold_affine_into_gemm,
    fold_affine_into_matmul,
    fold_affine_into_next_conv,
    fold_affine_into_next_conv_transpose,
    fold_affine_into_next_gemm,
    fold_affine_into_next_matmul,
    fold_bn_into_conv,
    fold_bn_into_conv_transpose,
    fold_bn_into_gemm,
    fold_bn_into_matmul,
    fold_bn_into_next_conv,
    fold_bn_into_next_conv_transpose,
    fold_bn_into_next_gemm,
    fold_bn_into_next_matmul,
    merge_affine_into_bn,
    merge_affines,
    merge_bn_into_bn,
)
from converter.passes._pass import Guard, Pass

PASSES: tuple[Pass, ...] = (
    fold_bn_into_conv.PASS,
    fold_bn_into_conv_transpose.PASS,
    fold_bn_into_gemm.PASS,
    fold_bn_into_matmul.PASS,
    fold_affine_into_conv.PASS,
    fold_affine_into_conv_transpose.PASS,
    fold_affine_into_gemm.PASS,
    fold_affine_into_matmul.PASS,
    fold_bn_into_next_conv.PASS,
    fold_bn_into_next_conv_transpose.PASS,
    fold_bn_into_next_gemm.PASS,
    fold_bn_into_next_matmul.PASS,
    fold_affine_into_next_conv.PASS,
    fold_affine_into_next_conv_transpose.PASS,
    fold_affine_into_next_gemm.PASS,
    fold_affine_into_next_matmul.PASS,
    merge_bn_into_bn.PASS,
    merge_affine_into_bn.PASS,
    merge_affines.PASS,
    absorb_bias_into_bn.PASS,
    drop_zero_bias.PASS,
    drop_identity_bn.PASS,
    drop_identity_affine.PASS,
)

__all__ = ["PASSES", "Guard", "Pass"]
