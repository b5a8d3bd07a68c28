"""Remove biases by data: what `fold --allow remove-biases` does to a folded graph, once it is proved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from converter.ablate.compensate import Fit
from converter.ablate.removal import Budget, Proposal, confirm, list_candidates, propose
from converter.ablate.result import summarize_removal
from converter.ablate.samples import Data, DataSource
from converter.ablate.session import Net, SessionOptions
from converter.ablate.sites import BiasSites, Site, choose_sites, find_sites
from converter.commands.inspect import Model
from converter.dataclass import dataclass
from converter.errors import InvariantViolation, RuntimeUnavailable
from converter.model.graph import Bypass, Edit, Graph, SetConst, emit
from converter.numerics import NewTensor
from converter.records import Fate, FateKind, InputSet, Parity, Rewrite, Safety, Stage, Verdict
from converter.records.ablate import KeptBias, OffDataChange, Removal, Role
from converter.records.option import documented, merge_options
from converter.records.options import RemovalOptions
from converter.referee.proto.source import LoadedModel, list_free_inputs
from converter.referee.verify.models import find_default_memory
from converter.report import serialize
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import LINEAR, MATMUL, Linear, drop_bias, linear_into

NAME = "remove-biases"
ROLES = {role.value: role for role in (Role.FIRST, Role.HEAD, Role.DEPTHWISE)}


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed, and the verdict on it.

    Attributes
    ----------
    stage : the referee's decision on rows that nothing else has seen; SKIPPED where nothing was changed
    rewrites : one for each bias that went, of safety ASSUMES; their ``output`` is the layer's result, whose value
        changes
    exit_code : 0 PASS or nothing changed, 1 FAIL, 4 INCONCLUSIVE: then the graph must not be written
    """

    stage: Stage
    proposal: Proposal
    rewrites: tuple[Rewrite, ...]
    inputs: InputSet
    budget: float
    seed: int

    @property
    def exit_code(self) -> int:
        """As everywhere: 1 for a failure, 4 where it is open."""
        return {Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 4}.get(self.stage.status, 0)

    def document(self) -> dict[str, Any]:
        """JSON values for a report."""
        values: dict[str, Any] = serialize.encode(self.record)
        return values

    @property
    def record(self) -> Removal:
        """What a report says of it; `describe_removal` makes words of it."""
        return summarize_removal(self.proposal, self.stage, self.budget, self.inputs)

    @property
    def kept(self) -> tuple[KeptBias, ...]:
        """Biases that stay, and why."""
        return self.proposal.kept

    @property
    def fits(self) -> tuple[Fit, ...]:
        """The layers whose weights took a bias over."""
        return self.proposal.fits

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user must know even if it passed."""
        return self.proposal.warnings


@documented(RemovalOptions)
def remove_biases(graph: Graph, original: Model, options: RemovalOptions | None = None, **keywords: Any) -> Removed:
    """Let weights make up for as many biases as the budget allows, and judge the result.

    The rows of the data are split: one part is fitted on, one decides which biases go, and the verdict comes from the
    third, looked at once, between ``original`` and the model as it would be written.

    Parameters
    ----------
    graph : Graph
        After the exact passes. It is changed; unless the verdict is PASS the caller must throw it away.
    original : path, bytes or ModelProto
        The model as it came.
    options : RemovalOptions, optional
        Or as keywords.
    {options}

    Returns
    -------
    Removed

    Raises
    ------
    DataError
        There is no data, it does not fit the model, or the model decides nothing that could be counted.
    ValueError
        A name is no bias's, or the budget is no share.
    """
    asked = merge_options(RemovalOptions, options, keywords)
    if not 0 < asked.budget < 1 or not 0 < asked.alpha < 0.5:
        raise ValueError("the budget is a share between 0 and 1, and alpha one between 0 and 0.5")
    if not asked.isolated:
        return _remove(graph, original, asked)
    from converter.commands.verify import memory_limit
    from converter.isolation import Died, run_isolated

    there = find_sites(graph, ())
    _candidates(there, asked.keep, asked.also)  # a name that no bias has is said before the work
    sites = {site.y: site for site in there.sites}
    try:
        found = run_isolated(
            lambda tell: _Found.of(_remove(graph, original, replace(asked, progress=tell))),
            _Found,
            seconds=asked.timeout,
            n_bytes=memory_limit(asked.max_memory),
            progress=asked.progress,
        )
    except Died as died:
        raise RuntimeUnavailable(f"{graph.file.label}: the removal {died}; nothing was written") from died
    fits = tuple(fit.at(sites[fit.y]) for fit in found.fits)  # what the child changed was its own graph
    rewrites = tuple(_apply_fit(graph, fit) for fit in fits)
    proposal = Proposal(
        fits=fits,
        kept=found.kept,
        select=math.nan if found.select is None else found.select,
        rows=found.rows,
        needed=found.needed,
        off=found.off,
        warnings=found.warnings,
        tried=found.tried,
    )
    return Removed(found.stage, proposal, rewrites, found.inputs, asked.budget, asked.seed)


@dataclass(frozen=True, slots=True)
class _NewWeight:
    """A `Fit` as a child process sends it: the layer by the name of its result, the weight as bytes."""

    y: str
    weight: bytes
    dtype: str
    shape: tuple[int, ...]
    method: str
    left: float
    growth: float
    counts: tuple[int, int, int]

    @classmethod
    def of(cls, fit: Fit) -> _NewWeight:
        stored = np.ascontiguousarray(fit.weight)
        counts = fit.rows, fit.positions, fit.steps
        return cls(
            fit.site.y, stored.tobytes(), stored.dtype.str, stored.shape, fit.method, fit.left, fit.growth, counts
        )

    def at(self, site: Site) -> Fit:
        weight = np.frombuffer(self.weight, np.dtype(self.dtype)).reshape(self.shape)
        return Fit(site, weight, self.method, self.left, self.growth, *self.counts)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a child process found: a `Removed` without what the parent knows."""

    stage: Stage
    fits: tuple[_NewWeight, ...]
    kept: tuple[KeptBias, ...]
    select: float | None
    rows: tuple[int, int, int]
    needed: int | None
    off: tuple[OffDataChange, ...]
    warnings: tuple[str, ...]
    tried: int
    inputs: InputSet

    @classmethod
    def of(cls, removed: Removed) -> _Found:
        p = removed.proposal
        fits = tuple(map(_NewWeight.of, p.fits))
        select = None if math.isnan(p.select) else p.select
        return cls(removed.stage, fits, p.kept, select, p.rows, p.needed, p.off, p.warnings, p.tried, removed.inputs)


def _remove(graph: Graph, original: Model, asked: RemovalOptions) -> Removed:
    tell = asked.progress or (lambda text: None)
    size = asked.max_memory or find_default_memory()
    folded = _source(graph)
    found = find_sites(graph, ())
    may, kept = _candidates(found, asked.keep, asked.also)
    tell("reading the data")
    given = DataSource(asked.inputs, asked.images, asked.preprocess, asked.shapes, asked.labels, asked.samples)
    rows = Data(given, folded.proto, list_free_inputs(folded.proto), size // 4)
    where = SessionOptions(asked.provider, None if asked.custom_ops is None else Path(asked.custom_ops))
    limits = Budget(
        asked.budget,
        asked.alpha,
        asked.output,
        seed=asked.seed,
        max_time=asked.max_time,
        max_bytes=size,
        progress=tell,
    )
    proposal = propose(Net(folded, found.sites, where), may, kept, rows, limits)
    rewrites = tuple(_apply_fit(graph, fit) for fit in proposal.fits)
    stage = proposal.stage
    if stage is None:
        before = LoadedModel.open(original, None if asked.data_dir is None else Path(asked.data_dir))
        stage = confirm(before, _source(graph), proposal, limits, where)
    return Removed(stage, proposal, rewrites, rows.record, asked.budget, asked.seed)


def add_stage(parity: Parity | None, removed: Removed) -> Parity:
    """What was proved of the exact part, and what the data say of the rest."""
    stage = replace(removed.stage, id="removal")
    scope = "removal" if removed.rewrites else (parity.scope if parity is not None else "none")
    if parity is None:
        return Parity(stage.status, "C", stages=(stage,), scope=scope, why=stage.why)
    changed = stage.status in (Verdict.FAIL, Verdict.INCONCLUSIVE)
    verdict, why = (stage.status, f"removal: {stage.why}") if changed else (parity.verdict, parity.why)
    return replace(parity, verdict=verdict, why=why, scope=scope, stages=(*parity.stages, stage))


def mark_removed(fates: Iterable[Fate], rewrites: Iterable[Rewrite]) -> Iterator[Fate]:
    """What became of each bias, once those that went by data are gone too."""
    gone = {label for rewrite in rewrites for label in (rewrite.node, *rewrite.delta.removed_nodes)}
    for fate in fates:
        if fate.kind is FateKind.KEPT and fate.node in gone:
            yield replace(fate, kind=FateKind.REMOVED, removed=fate.elements, code="", why="", path=())
        else:
            yield fate


def _source(graph: Graph) -> LoadedModel:
    return LoadedModel.open(emit(graph, {}, None).to_bytes(), graph.file.base, graph.file.label)


def _candidates(found: BiasSites, keep: Sequence[str], also: Sequence[str]) -> tuple[list[Site], list[KeptBias]]:
    wanted: list[Site | Role] = [ROLES[name] for name in also if name in ROLES]
    wanted += choose_sites(found.sites, [name for name in also if name not in ROLES])
    may, kept = list_candidates(found.sites, choose_sites(found.sites, keep), wanted)
    return may, kept + [KeptBias(u.node, u.op, "not-covered", u.why) for u in found.uncovered]


def _apply_fit(graph: Graph, fit: Fit) -> Rewrite:
    facts, site = Facts(graph), fit.site
    node = next(n for n in graph.nodes() if n.label == site.label and n.is_op(*LINEAR))
    linear = linear_into(facts, node, site.op)
    if linear is None or linear.bias_node is None:
        raise InvariantViolation(f"{site.label}: its bias went away while it was being removed")
    edits: list[Edit] = [SetConst(linear.node, 1, NewTensor(fit.weight, site.dtype), "weight"), *_without(linear, site)]
    return Rewrite(f"{NAME}@{site.label}", NAME, site.label, Safety.ASSUMES, site.y, graph.apply(edits))


def _without(linear: Linear, site: Site) -> list[Edit]:
    assert linear.bias_node is not None
    if linear.op == MATMUL:
        return [Bypass(linear.bias_node, 1 - linear.bias_slot)]
    if linear.op == "Gemm" and linear.node.scope.opset < 11:  # there it must have a third input
        return [SetConst(linear.node, 2, NewTensor(0 * site.bias, site.dtype), "bias")]
    return drop_bias(linear)
