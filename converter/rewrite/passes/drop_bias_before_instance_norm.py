"""A bias that a norm subtracts again goes away.

Given:  Conv, ConvTranspose, Gemm or MatMul + Add with bias b; every path from it ends in InstanceNormalization, or
        another operator that subtracts the mean over axes along which the shift does not vary
        (GroupNormalization of one channel a group, LayerNormalization and MeanVarianceNormalization over such axes,
        BatchNormalization in training, x - ReduceMean(x)).
Result: the bias is gone, nothing takes its place.
Source: norm(x + D) = norm(x) for D constant over each set that is normalised; Ioffe and Szegedy 2015, section 3.2.
"""

from __future__ import annotations

from converter.records import FateKind
from converter.rewrite.passes._flow import ends_in_norm, finder, flow_pass

PASS = flow_pass(
    name="drop-bias-before-instance-norm",
    summary="A bias that InstanceNormalization or another norm subtracts again goes away",
    module=__name__,
    find=finder(ends_in_norm),
    fate=FateKind.DEAD,
    after=("fold-bn-into-conv",),
    touches_bn=False,
)
