"""Statistics of every layer: a few layers a run, as many as fit into memory, in one pass over the data each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any

import numpy as np

from converter.ablate.compensate import DENSE_MOST, RIDGE, count_positions
from converter.ablate.im2col import Form, Moments, extract_rows, weight_groups
from converter.ablate.samples import Batch, Part
from converter.ablate.scoring import Score, find_quantization_issues
from converter.ablate.session import Net
from converter.ablate.sites import Site, flatten_channels
from converter.dataclass import dataclass
from converter.errors import DataError
from converter.referee.proto.inference import infer_types

_UNKNOWN_BYTES = 64 << 20  # of a tensor whose size cannot be inferred
_SHARE = 4  # of the memory, one part in so many is for activations and moments at once
_SLACK = {2: 5e-2, 4: 1e-3, 8: 1e-6}  # between our result and onnxruntime's, by bytes of an element
_LISTED = 4096  # channels up to which a score lists each


@dataclass(frozen=True, slots=True)
class SurveyLimits:
    """What limits the survey."""

    max_bytes: int = 1 << 30
    deadline: float = math.inf
    seed: int = 0
    dense_most: int = DENSE_MOST
    fitted: np.ndarray[Any, Any] | None = None  # of each row of data, whether imitations may be fitted on it


def survey_layers(
    net: Net, sites: Sequence[Site], part: Part, limits: SurveyLimits, progress: Callable[[str], None]
) -> tuple[dict[str, Score], bool]:
    """The scores of ``sites`` by label, as far as activations say, and whether time ran out."""
    scores: dict[str, Score] = {}
    groups = list(_group_sites(net, sites, part, limits))
    cut = False
    for k, group in enumerate(groups):
        if k and monotonic() > limits.deadline:
            cut = True
            break
        last = group[-1].label
        progress(f"statistics of layers {len(scores) + 1} to {len(scores) + len(group)} of {len(sites)}, up to {last}")
        found, short = _observe(net, group, part, limits)
        cut |= short
        scores |= found
    left = [s for s in sites if s.label not in scores]
    scores |= {s.label: Score(s, problem="time ran out before its inputs were looked at") for s in left}
    return scores, cut


def _group_sites(net: Net, sites: Sequence[Site], part: Part, limits: SurveyLimits) -> Iterator[list[Site]]:
    first = next(part.batches())
    dims = {n: tuple(np.shape(v)) for n, v in first.feeds.items() if isinstance(v, np.ndarray)}
    known = infer_types(net.source.proto, dims)
    group: list[Site] = []
    size = 0
    for site in sites:
        n = min(site.form.n_in, limits.dense_most)
        more = 3 * 8 * site.form.groups * n * n + sum(_estimate_bytes(known.get(t)) for t in (site.x, site.y))
        if group and size + more > limits.max_bytes // _SHARE:
            yield group
            group, size = [], 0
        group.append(site)
        size += more
    if group:
        yield group


def _estimate_bytes(port: Any) -> int:
    if port is None or port.dims is None or not all(isinstance(d, int) for d in port.dims):
        return _UNKNOWN_BYTES
    return 4 * int(math.prod(port.dims))


def choose_inputs(form: Form, most: int, seed: int) -> tuple[np.ndarray[Any, Any] | None, str]:
    """Which inputs of a wide layer to look at, and how that is called: r is an upper bound then."""
    if form.n_in <= most:
        return None, "dense"
    centre, method = form.centre(), "centre"
    chosen = np.flatnonzero(centre) if centre is not None else np.arange(form.n_in)
    if centre is None or len(chosen) > most:
        method = "subset"
        chosen = np.random.default_rng([seed, 0x0B5E]).choice(chosen, most, replace=False)
    mask = np.zeros(form.n_in, bool)
    mask[chosen] = True
    return mask, method


def _observe(net: Net, group: list[Site], part: Part, limits: SurveyLimits) -> tuple[dict[str, Score], bool]:
    tap = net.inside([n for s in group for n in net.taps(s)])
    chosen = {s.label: choose_inputs(s.form, limits.dense_most, limits.seed) for s in group}
    sums = {s.label: Moments(chosen[s.label][0], limits.fitted) for s in group}
    problems: dict[str, str] = {}
    for k, batch in enumerate(part.batches()):
        if k and monotonic() > limits.deadline:
            cut = True
            break
        values = {**batch.feeds, **tap.run(batch.feeds, {})}
        for site in group:
            if site.label in problems:
                continue
            problem = "" if k else explain_mismatch(site, values[site.x], values[site.y])
            if problem:
                problems[site.label] = problem
                continue
            _add_batch(net, site, sums[site.label], values, batch, len(part), limits)
    else:
        cut = False
    return {
        s.label: Score(s, problem=problems[s.label])
        if s.label in problems
        else _score(net, s, sums[s.label], chosen[s.label][1])
        for s in group
    }, cut


def _add_batch(
    net: Net, site: Site, sums: Moments, values: dict[str, Any], batch: Batch, rows: int, limits: SurveyLimits
) -> None:
    most = count_positions(min(site.form.n_in, limits.dense_most), site.form.groups, rows)
    seed = (limits.seed, net.sites.index(site))
    for piece in extract_rows(site.form, values[site.x], values[site.y], most=most, seed=seed, first=batch.first):
        if not (np.isfinite(piece.x).all() and np.isfinite(piece.y).all()):
            raise DataError(f"{site.label}: gives values that are not finite on this data; look at the inputs")
        sums.add(piece)


def explain_mismatch(site: Site, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> str:
    """Why the layer's result is not what its weights make of its input; empty if it is.

    A layer whose geometry was misread must not be scored, let alone changed.
    """
    weight, shift = site.form.flat(site.weight), site.shift.reshape(site.form.groups, 1, -1)
    try:
        rows = next(
            extract_rows(
                site.form, x[:1] if x.ndim > 1 and not site.form.flip else x, y[:1] if not site.form.flip else y
            )
        )
        ours = rows.x @ weight.swapaxes(1, 2) + shift
        off = float(np.abs(ours - rows.y).max())
        size = float(np.abs(rows.y).max()) + float(np.abs(site.shift).max())
    except (ValueError, IndexError) as exc:
        return f"its geometry is not understood ({exc})"
    if off <= _SLACK.get(site.dtype.itemsize, 5e-2) * size or not math.isfinite(size):
        return ""
    return f"recomputed, it differs by {off:.3g} of {size:.3g}"


def _score(net: Net, site: Site, sums: Moments, method: str) -> Score:
    deviation = flatten_channels(sums.channels.deviation, site.form)
    live = deviation > 1e-12 * max(float(deviation.max(initial=0.0)), 1e-300)
    ratios = np.abs(site.shift[live]) / deviation[live]
    r, held, fit = sums.residual(), sums.residual_held_out(), sums.residual_held_out(RIDGE)
    listed = None
    if site.form.n_out <= _LISTED:
        listed = {"shift": [float(v) for v in site.shift], "deviation": [float(v) for v in deviation]}
    return Score(
        site=site,
        ratio=float(ratios.mean()) if ratios.size else math.nan,
        ratio_most=float(ratios.max()) if ratios.size else math.nan,
        constant=int((~live).sum()),
        r=weight_groups(r, site.shift),
        r_held=weight_groups(held, site.shift),
        r_fit=weight_groups(fit, site.shift),
        bounded=method != "dense",
        method=method,
        rows=sums.rows,
        positions=sums.channels.count,
        per_channel=listed,
        v=sums.imitation(RIDGE),
        findings=tuple(find_quantization_issues(net.source, site, sums)),
    )
