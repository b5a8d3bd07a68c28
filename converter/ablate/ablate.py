"""The whole of ``biasopt ablate``: from a model and data to scores, variants and probes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from converter.ablate.compensate import Compensated, FitOptions, compensate
from converter.ablate.measure import (
    Effect,
    Probe,
    ZeroedBiases,
    changes_off_data,
    disagreement,
    make_probes,
    measure_deviation,
    measure_effects,
    measure_imitations,
    measure_mean_gap,
    measure_zeroed,
)
from converter.ablate.samples import Data, Part, deal_units
from converter.ablate.scoring import Score, correct_p_values, rank_scores
from converter.ablate.session import Net, State
from converter.ablate.sites import BiasSites, Site, find_sites, proven_fate
from converter.ablate.statistics import SurveyLimits, survey_layers
from converter.dataclass import dataclass
from converter.model.graph import Graph, emit, load
from converter.records import FateKind
from converter.records.ablate import BiasClass, Role
from converter.referee.proto.source import LoadedModel
from converter.rewrite import pipeline
from converter.rewrite.passes import PASSES

FOLDS = frozenset(p.name for p in PASSES if p.name.startswith("fold-bn-into-"))


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """The model that is looked at. ``folded`` batch norms became part of the layers around them, exactly."""

    graph: Graph
    source: LoadedModel
    found: BiasSites
    folded: int


def open_model(model: Any, data: str | Path | None = None, *, folds: bool = True) -> OpenedModel:
    """Read a model for ablation.

    Without its batch norms folded the shift of each would be a bias that no layer owns; ``folds`` does that first,
    in memory, by the passes that `fold` uses.

    Raises
    ------
    ModelError
        It cannot be read, or is over 2 GB without external data.
    """
    graph = load(model, data=data)
    folded = 0
    if folds:
        before = _count_batch_norms(graph)
        pipeline.run(graph, pipeline.Options(only=FOLDS))
        folded = before - _count_batch_norms(graph)
    label, folder = graph.file.label, graph.file.base
    content = emit(graph, {}, None).to_bytes()
    asked = load(content, data=folder)
    try:
        fates = pipeline.run(asked, pipeline.Options()).fates
    finally:
        asked.close()
    return OpenedModel(graph, LoadedModel.open(content, folder, label), find_sites(graph, fates), folded)


def _count_batch_norms(graph: Graph) -> int:
    return sum(node.is_op("BatchNormalization") for node in graph.nodes())


FEW_ROWS = 64  # below which compensation is fitted on chance
GOOD_ROWS = 256  # from which more data gained nothing on digits
_SAME = 1e-2  # outputs that vary less than this, relative, say little


def list_warnings(data: Data, zeroed: ZeroedBiases, *, cut: bool) -> list[str]:
    """Why figures may say less than they seem to."""
    found = []
    if data.rows < 2 * FEW_ROWS:
        found.append(
            f"{data.rows} rows of data are few: half of them are fitted on, which takes {FEW_ROWS}, better {GOOD_ROWS}"
        )
    if cut:
        found.append("time ran out while layers were looked at; give --max-time more")
    if zeroed.stopped:
        found.append(
            f"time ran out: biases were left out on {zeroed.rows:,} of {data.rows:,} rows; --max-time gives more"
        )
    if zeroed.varies < _SAME:
        found.append(
            f"output {zeroed.output!r} is nearly the same for every row: it varies by {zeroed.varies:.1g} of its size. "
            "What biases are worth cannot be seen on this data, or the model is not trained"
        )
    if not zeroed.decides:
        found.append(f"output {zeroed.output!r} decides between no classes: effects are errors of its numbers alone")
    return found


def warn_off_the_data(variants: Sequence[Variant], probed: Sequence[ProbeResult]) -> list[str]:
    """A warning for the compensated model where its answers change off the data and not on it."""
    found = []
    for variant in variants:
        if not variant.name.startswith("compensate"):
            continue
        worst = max(probed, key=lambda p: disagreement(p.effects[variant.name]), default=None)
        if worst is None:
            continue
        here, there = disagreement(variant.effect), disagreement(worst.effects[variant.name])
        if changes_off_data(variant.effect, worst.effects[variant.name]):
            found.append(
                f"{variant.said}: under {worst.probe.said} {100 * there:.3g} % differ from the original, on the data "
                f"{100 * here:.2g} %. Biases carried what the level of the inputs means"
            )
    return found


_FIT_MOST = 1024  # rows that the compensation shown here is fitted on


@dataclass(frozen=True, slots=True)
class AblationSettings:
    """What a caller may choose."""

    output: str | None = None
    probe: tuple[str, ...] = ()
    seed: int = 0
    max_time: float = 120.0
    max_bytes: int = 1 << 30
    compensates: bool = True
    progress: Callable[[str], None] = field(default=lambda text: None)


@dataclass(frozen=True, slots=True)
class Variant:
    """One change of the whole model, and what it did on rows that nothing was fitted on."""

    name: str
    said: str
    biases: int
    effect: Effect


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The same changes on inputs that were moved. Accuracy is against labels, else the original's own answers."""

    probe: Probe
    effects: dict[str, Effect]


@dataclass(frozen=True, slots=True)
class Ablation:
    """Everything that was found out."""

    scores: tuple[Score, ...]  # ranked
    variants: tuple[Variant, ...]
    probed: tuple[ProbeResult, ...]
    zeroed: ZeroedBiases
    fits: tuple[Any, ...] = ()
    warnings: tuple[str, ...] = ()
    labelled: bool = False
    rows: int = 0
    fit_rows: int = 0
    seconds: float = field(default=0.0, compare=False)


def select_by_default(sites: Sequence[Site]) -> list[Site]:
    """The biases that removal takes unless told otherwise: of inner layers, where no exact pass takes them."""
    return [s for s in sites if s.role is Role.INNER and not is_dead(s)]


def is_dead(site: Site) -> bool:
    """Whether nothing depends on the bias: weights that imitated it would only do harm."""
    return proven_fate(site) in (FateKind.DEAD, FateKind.ZERO)


def ablate(net: Net, sites: Sequence[Site], data: Data, settings: AblationSettings) -> Ablation:
    """Score every bias of ``sites``, and try what becomes of the model without all of them.

    Raises
    ------
    DataError
        The data does not fit the model.
    """
    begun = monotonic()
    deadline = begun + settings.max_time
    fit, rest = split_halves(data, settings.seed)
    fitted = np.zeros(data.rows, bool)
    fitted[fit.rows] = True
    limits = SurveyLimits(settings.max_bytes, begun + 0.3 * settings.max_time, settings.seed, fitted=fitted)
    scores, cut = survey_layers(net, sites, data.all(), limits, settings.progress)
    zero_by = begun + 0.55 * settings.max_time
    zeroed = measure_zeroed(net, sites, data.all(), settings.output, zero_by, settings.progress)
    made = [
        replace(scores[s.label], predicted=zeroed.predicted[s.label], effect=zeroed.effects[s.label]) for s in sites
    ]
    made = _measure_imitated(net, correct_p_values(made), rest, zeroed, settings, begun)
    variants, fits, more = _try_variants(net, made, fit, rest, zeroed, settings, deadline)
    probed = _run_probes(net, variants, rest, zeroed, settings, deadline) if settings.probe else ()
    warnings = [*list_warnings(data, zeroed, cut=cut), *more, *warn_off_the_data([v for v, _, _ in variants], probed)]
    return Ablation(
        scores=tuple(rank_scores(made)),
        variants=tuple(v for v, _, _ in variants),
        probed=probed,
        zeroed=zeroed,
        fits=fits,
        warnings=tuple(warnings),
        labelled=data.labelled,
        rows=data.rows,
        fit_rows=len(fit),
        seconds=monotonic() - begun,
    )


def _measure_imitated(
    net: Net, scores: list[Score], rest: Part, zeroed: ZeroedBiases, settings: AblationSettings, begun: float
) -> list[Score]:
    """With the measured effect of weights in place of each bias, where that was not shown to be dead."""
    wanted = {s.site.label: s.v for s in scores if s.v is not None and not s.problem and not is_dead(s.site)}
    if not settings.compensates or not wanted:
        return scores
    by = begun + 0.75 * settings.max_time
    found = measure_imitations(net, wanted, rest, zeroed, by, settings.progress)
    return [replace(s, imitated=found.get(s.site.label)) for s in scores]


def split_halves(data: Data, seed: int) -> tuple[Part, Part]:
    """Rows to fit on, and the others; equal rows stay together."""
    units = np.random.default_rng([seed, 0xAB1A]).permutation(-(-data.rows // data.unit))
    size = max(1, min(len(units) // 2, _FIT_MOST // data.unit or 1))
    first, second = deal_units(units, [size], data.rows, data.unit, data.twins)
    return data.part(first), data.part(second if len(second) else first)


TriedVariant = tuple[Variant, State, Any]  # with the correction of the output, or None


def _try_variants(
    net: Net,
    scores: Sequence[Score],
    fit: Part,
    rest: Part,
    zeroed: ZeroedBiases,
    settings: AblationSettings,
    deadline: float,
) -> tuple[list[TriedVariant], tuple[Any, ...], list[str]]:
    sound = [s.site for s in scores if not s.problem]
    inner, but_heads = select_by_default(sound), [s for s in sound if s.role is not Role.HEAD and not is_dead(s)]
    states: dict[str, tuple[str, int, State]] = {}
    everything = [s.site for s in scores]
    states["zero-all"] = ("every bias left out", len(everything), _leave_out(net, everything))
    if inner:
        states["zero-inner"] = ("biases of inner layers left out", len(inner), _leave_out(net, inner))
    corrections: dict[str, Any] = {}
    warnings: list[str] = []
    fits: tuple[Any, ...] = ()
    if but_heads and zeroed.decides:
        state = _leave_out(net, but_heads)
        states["head-corrected"] = ("all but the head's left out, the head's mean put right", len(but_heads), state)
        corrections["head-corrected"] = measure_mean_gap(net, state, fit, zeroed.output)
    if settings.compensates and inner:
        tried: list[tuple[str, str, list[Site]]] = [("compensate-inner", "inner biases imitated", inner)]
        if len(but_heads) > len(inner):
            tried.append(("compensate-all", "all biases but the head's imitated", but_heads))
        for name, said, sites in tried:
            done = _compensate(net, sites, fit, settings, deadline)
            if done is None:
                warnings.append(f"no time was left for {said}; give --max-time more than {settings.max_time:g} s")
                break
            fits = fits or done.fits
            states[name] = (said, len(sites), done.state)
    only = {name: state for name, (_, _, state) in states.items()}
    effects, _ = measure_effects(
        net,
        only,
        rest,
        zeroed.output,
        decides=zeroed.decides,
        threshold=zeroed.threshold,
        corrections=corrections,
        deadline=deadline,
    )
    made = [
        (Variant(n, said, count, effects[n]), state, corrections.get(n)) for n, (said, count, state) in states.items()
    ]
    return made, fits, warnings


def _compensate(
    net: Net, sites: list[Site], fit: Part, settings: AblationSettings, deadline: float
) -> Compensated | None:
    how = FitOptions(max_bytes=settings.max_bytes // 4, seed=settings.seed)
    return compensate(net, sites, fit, how, settings.progress, deadline)


def _leave_out(net: Net, sites: Sequence[Site]) -> State:
    state = dict(net.original)
    for site in sites:
        state |= net.without(site)
    return state


def _run_probes(
    net: Net,
    variants: Sequence[TriedVariant],
    rest: Part,
    zeroed: ZeroedBiases,
    settings: AblationSettings,
    deadline: float,
) -> tuple[ProbeResult, ...]:
    states = {"original": net.original} | {v.name: state for v, state, _ in variants if not v.name.startswith("zero")}
    corrections = {v.name: c for v, _, c in variants if c is not None}
    ask: dict[str, Any] = {"decides": zeroed.decides, "corrections": corrections, "deadline": math.inf}
    ask["threshold"] = zeroed.threshold
    _, said = measure_effects(net, {}, rest, zeroed.output, **ask)
    found: list[ProbeResult] = []
    for probe in make_probes(settings.probe, measure_deviation(rest), settings.seed):
        if found and monotonic() > deadline + 0.25 * settings.max_time:
            break
        settings.progress(f"off the data: {probe.said}")
        references = said if zeroed.decides else None
        effects, _ = measure_effects(net, states, rest, zeroed.output, shift=probe.shift, references=references, **ask)
        found.append(ProbeResult(probe, effects))
    return tuple(found)


def count_classes(scores: Sequence[Score]) -> dict[BiasClass, int]:
    """How many biases are in each class."""
    classes = [s.verdict[0] for s in scores]
    return {c: classes.count(c) for c in BiasClass if c in classes}
