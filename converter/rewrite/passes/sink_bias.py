"""A bias moves into biases, means or constants that exist further down.

Given:  Conv, ConvTranspose, Gemm or MatMul + Add with bias b; every path from it carries the shift, unfelt, to a Conv
        without effective padding, a Gemm, a MatMul + Add, a BatchNormalization or a constant Add, or loses it.
Result: each of them takes its share over (b' = b + W D, mean' = mean - D, c' = c + D); the bias is gone.
        Only where the model shrinks: fewer bias vectors, or as many with fewer elements. No node is added.
Source: distribution of sums; linear bottlenecks of Sandler et al. 2018 (MobileNetV2), section 3.2.
"""

from __future__ import annotations

from converter.records import FateKind
from converter.rewrite.bias_flow.flow import Permit
from converter.rewrite.passes._flow import finder, flow_pass, sinks

PASS = flow_pass(
    name="sink-bias",
    summary="A bias moves into biases, means or constants that exist further down",
    module=__name__,
    find=finder(sinks, (Permit(), Permit(new_bias=True))),
    fate=FateKind.ABSORBED,
    after=("sink-attention-value-bias", "drop-zero-bias"),
)
