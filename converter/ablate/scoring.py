"""The class of each bias: what it would take to do without it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import field, replace
from typing import Any

import numpy as np

from converter.ablate.im2col import Array, Moments
from converter.ablate.measure import Effect
from converter.ablate.sites import Site, proven_fate
from converter.dataclass import dataclass
from converter.records import FateKind
from converter.records.ablate import BiasClass, Role
from converter.referee.proto.source import LoadedModel
from converter.stats import holm, mcnemar

_LEVELS = 127  # of a symmetric 8-bit weight, on either side of 0
_NARROWER = 0.05  # by how much a range must shrink: a tenth of a bit
_WORTH = 0.05  # deviations of a channel: a smaller shift of its mean drowns in the rounding of the activations
NOTE = "Bias correction of quantised models is the subject of US patent 11,604,987; biasopt does not apply it."


def find_quantization_issues(source: LoadedModel, site: Site, moments: Moments) -> Iterator[dict[str, Any]]:
    """What there is to say about one layer, as JSON values."""
    if not moments.channels.count:
        return
    if _readers(source, site.y) == {"Relu"}:
        yield from _find_high_bias(site, moments)
    if moments.only is None:
        yield from _find_mean_shift(site, moments)


def _readers(source: LoadedModel, name: str) -> set[str]:
    return {node.op_type for node in source.proto.graph.node if name in node.input}


def _find_high_bias(site: Site, moments: Moments) -> Iterator[dict[str, Any]]:
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


def _find_mean_shift(site: Site, moments: Moments) -> Iterator[dict[str, Any]]:
    flat = site.form.flat(site.weight)
    peak = float(np.abs(flat).max())
    if not peak:
        return
    step = peak / _LEVELS
    shift = _apply_weight((np.round(flat / step) * step) - flat, moments.mean)
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


def _apply_weight(weight: Array, mean: Array) -> Array:
    return np.asarray(np.einsum("gon,gn->go", weight, mean))


# Leaving such a bias out changes the outputs by less than a float16 model with many layers does.
SMALL_ERROR = 0.02
# On digits, nets whose outputs were off by 0.06 lost nothing, by 0.15 half a point, by 0.4 seven points.
COMPENSABLE_ERROR = 0.10

MEANS = {
    BiasClass.DEAD: "no output depends on it, whatever the data: shown by exact analysis; `fold` removes it",
    BiasClass.REDUNDANT: "something else can hold it exactly: shown by exact analysis; `fold` merges it",
    BiasClass.SMALL: f"leaving it out changes the outputs by at most {100 * SMALL_ERROR:g} %",
    BiasClass.COMPENSABLE: (
        "its layer's weights can imitate it on this data: then the outputs change by at most "
        f"{100 * COMPENSABLE_ERROR:g} %"
    ),
    BiasClass.ESSENTIAL: "neither: removing it costs something, or it is a head's and holds how frequent classes are",
    BiasClass.UNKNOWN: "not measured: time ran out, or the layer could not be recomputed",
}


@dataclass(frozen=True, slots=True)
class Score:
    """What was found out about one bias.

    Attributes
    ----------
    ratio, ratio_most : mean and largest |b| / sd(y) over channels that are not constant
    constant : channels whose result never changes on this data
    r, r_held : what the best imitation leaves, in mean square, on the data it was fitted on and on other data
    r_fit : what the one that `compensate` would fit leaves, its ridge included, on other data
    bounded : r is an upper bound: only some of the layer's inputs were looked at
    predicted : first-order effect on the outputs of leaving the bias out, relative
    effect : measured effect of that
    v : weights that imitate a bias of 1, [G, n]
    imitated : measured effect of weights W + b v in place of the bias, on rows that v was not fitted on
    """

    site: Site
    ratio: float = math.nan
    ratio_most: float = math.nan
    constant: int = 0
    r: float = math.nan
    r_held: float = math.nan
    r_fit: float = math.nan
    bounded: bool = False
    method: str = ""
    rows: int = 0
    positions: int = 0
    predicted: float = math.nan
    effect: Effect | None = None
    p_holm: float = math.nan
    problem: str = ""
    per_channel: dict[str, list[float]] | None = None
    findings: tuple[dict[str, Any], ...] = ()
    v: Array | None = field(default=None, repr=False, compare=False)
    imitated: Effect | None = None

    @property
    def compensated(self) -> float:
        """Foretold effect of the same: what the imitation leaves of the first-order effect."""
        return math.sqrt(min(max(self.held, 0.0), 1.0)) * self.predicted

    @property
    def left(self) -> float:
        """Relative error of the outputs with weights in place of the bias, measured, else foretold."""
        if self.imitated is not None and self.imitated.rows:
            return self.imitated.relative_error
        return self.compensated

    @property
    def held(self) -> float:
        """r of the imitation that would be fitted, on other data; of a single row, r on the same."""
        return self.r if math.isnan(self.r_fit) else max(self.r, self.r_fit)

    @property
    def error(self) -> float:
        """Relative error of the outputs without the bias, measured, else predicted."""
        return self.predicted if self.effect is None or not self.effect.rows else self.effect.relative_error

    @property
    def lost(self) -> float:
        """The accuracy that is lost without the bias, of maps that of their points; 0 without labels."""
        votes = None if self.effect is None else self.effect.votes
        return 0.0 if votes is None or not votes.labelled else (votes.right_a - votes.right_b) / votes.labelled

    @property
    def verdict(self) -> tuple[BiasClass, str]:
        """The class, and why."""
        proven = proven_fate(self.site)
        if proven in (FateKind.DEAD, FateKind.ZERO):
            return BiasClass.DEAD, "it is zero" if proven is FateKind.ZERO else "nothing downstream depends on it"
        if proven is not None:
            where = self.site.fate.where if self.site.fate is not None else ""
            return BiasClass.REDUNDANT, f"{where} can hold it" if where else "something else can hold it"
        if math.isnan(self.error):
            return BiasClass.UNKNOWN, self.problem or "not measured"
        if self.error <= SMALL_ERROR:
            return BiasClass.SMALL, f"the outputs change by {_format_percent(self.error)} without it"
        if self.site.role is Role.HEAD:
            return BiasClass.ESSENTIAL, "a head's bias holds how frequent each answer is"
        if math.isnan(self.left):
            return BiasClass.UNKNOWN, self.problem or "its inputs were not looked at"
        told = f"with weights that imitate it the outputs change by {_format_percent(self.left)}"
        return (BiasClass.COMPENSABLE if self.left <= COMPENSABLE_ERROR else BiasClass.ESSENTIAL), told


def _format_percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def correct_p_values(scores: Sequence[Score]) -> list[Score]:
    """The scores with p-values of McNemar's exact test, adjusted by Holm over all biases that were measured."""
    counts = [s.effect.counts if s.effect is not None else None for s in scores]
    tested = [k for k, c in enumerate(counts) if c is not None]
    values = holm([mcnemar(counts[k][2], counts[k][1]) for k in tested])  # type: ignore[index]
    found = dict(zip(tested, values, strict=True))
    return [replace(s, p_holm=found[k]) if k in found else s for k, s in enumerate(scores)]


def rank_scores(scores: Sequence[Score]) -> list[Score]:
    """What costs most first, as measured: by the accuracy that is lost without the bias, else by the outputs' error."""
    return sorted(scores, key=lambda s: (s.lost, 0.0 if math.isnan(s.error) else s.error), reverse=True)
