"""What a quantisation of the model would gain by looking at biases: findings, nothing is changed.

``high-bias``: a channel before a ReLU that never falls below c > 0 on the data: c can move through the ReLU into the
next layer, and the range of the activation shrinks by it (Nagel et al. 2019, section 4.1.3, absorption).
``int8-shift``: weights rounded to 8 bits (symmetric, one scale a tensor) shift a channel's mean by (W_q - W) mu
(section 4.2, bias correction).

Bias correction is the subject of US patent 11,604,987; here it is a finding, and biasopt does not apply it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from converter.ablate.moments import Moments
from converter.ablate.patches import Array
from converter.ablate.sites import Site
from converter.protos.source import Source

_LEVELS = 127  # of a symmetric 8-bit weight, on either side of 0
_NARROWER = 0.05  # by how much a range must shrink: a tenth of a bit
_WORTH = 0.05  # deviations of a channel: a smaller shift of its mean drowns in the rounding of the activations
NOTE = "Bias correction of quantised models is the subject of US patent 11,604,987; biasopt does not apply it."


def findings(source: Source, site: Site, moments: Moments) -> Iterator[dict[str, Any]]:
    """What there is to say about one layer, as JSON values."""
    if not moments.channels.count:
        return
    if _reads(source, site.y) == {"Relu"}:
        yield from _high_bias(site, moments)
    if moments.only is None:
        yield from _shift(site, moments)


def _reads(source: Source, name: str) -> set[str]:
    return {node.op_type for node in source.proto.graph.node if name in node.input}


def _high_bias(site: Site, moments: Moments) -> Iterator[dict[str, Any]]:
    low, high = moments.channels.low.reshape(-1), moments.channels.high.reshape(-1)
    absorbed, high = np.maximum(low, 0.0), np.maximum(high, 0.0)
    if not (absorbed > 0).any() or (high - absorbed).max() > (1 - _NARROWER) * high.max():
        return
    yield {
        "code": "high-bias",
        "node": site.label,
        "channels": int((absorbed > 0).sum()),
        "of": len(absorbed),
        "range_before": float(high.max()),
        "range_after": float((high - absorbed).max()),
    }


def _shift(site: Site, moments: Moments) -> Iterator[dict[str, Any]]:
    flat = site.form.flat(site.weight)
    peak = float(np.abs(flat).max())
    if not peak:
        return
    step = peak / _LEVELS
    shift = _times((np.round(flat / step) * step) - flat, moments.mean)
    deviation = moments.channels.deviation
    seen = deviation > 0
    relative = np.abs(shift[seen]) / deviation[seen]
    if relative.size and relative.max() >= _WORTH:
        yield {
            "code": "int8-shift",
            "node": site.label,
            "channels": int((relative >= _WORTH).sum()),
            "of": int(seen.size),
            "largest_in_deviations": float(relative.max()),
        }


def _times(weight: Array, mean: Array) -> Array:
    return np.asarray(np.einsum("gon,gn->go", weight, mean))
