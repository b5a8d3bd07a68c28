"""A bias that only softmax sees, alike for all its entries, goes away: the key bias of attention.

Given:  a bias b whose shift D reaches softmax(q (k + D)^T) only: q D^T is one number per query.
Result: the bias is gone; of a fused query, key and value bias the key part becomes zero.
        Not with rotary embeddings, norms on keys, a softcap, or a key cache: there the keys are told apart.
Source: softmax(s + c) = softmax(s) for c constant along its axis; Namazifar et al. 2023, arXiv 2302.08626.
"""

from __future__ import annotations

from converter.records import FateKind
from converter.rewrite.passes._flow import ends_in_softmax, finder, flow_pass

PASS = flow_pass(
    name="drop-attention-key-bias",
    summary="A bias that softmax does not feel goes away: the key bias of attention",
    module=__name__,
    find=finder(ends_in_softmax, parts=True),
    fate=FateKind.DEAD,
    after=("drop-bias-before-instance-norm",),
    touches_bn=False,
)
