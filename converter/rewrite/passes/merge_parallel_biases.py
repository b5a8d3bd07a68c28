"""The biases of two layers that are added become one.

Given:  two layers with biases b1, b2 whose outputs meet in an Add, the second read by nobody else.
Result: b2' = b2 + b1 (as it arrives there); b1 is gone.
Source: associativity of sums in real arithmetic.
"""

from __future__ import annotations

from converter.records import EffectKind, FateKind
from converter.rewrite.bias_flow.flow import Flow, Permit
from converter.rewrite.passes._flow import finder, flow_pass


def _meets_sibling(flow: Flow) -> bool:
    return any(a.kind is EffectKind.SIBLING for a in flow.absorbs)


PASS = flow_pass(
    name="merge-parallel-biases",
    summary="The biases of two layers that are added become one",
    module=__name__,
    find=finder(_meets_sibling, (Permit(), Permit(siblings=True))),
    fate=FateKind.MERGED,
    after=("sink-bias",),
)
