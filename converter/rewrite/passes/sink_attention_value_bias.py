"""The value bias of attention moves into the bias of the projection after it.

Given:  a bias b_v whose shift passes softmax rows that sum to one: P (V + D) = P V + D; then a projection W_o, b_o.
Result: b_o' = b_o + b_v W_o; b_v is gone, or its part of a fused bias is zero.
        Not under a run-time mask that may close a whole row, nor where the rows do not sum to one.
Source: rows of a softmax sum to one; distribution of sums.
"""

from __future__ import annotations

from converter.records import FateKind
from converter.rewrite.passes._flow import finder, flow_pass, sinks_through_softmax

PASS = flow_pass(
    name="sink-attention-value-bias",
    summary="The value bias of attention moves into the bias of the projection after it",
    module=__name__,
    find=finder(sinks_through_softmax, parts=True),
    fate=FateKind.ABSORBED,
    after=("drop-attention-key-bias",),
)
