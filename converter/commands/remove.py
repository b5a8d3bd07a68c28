"""Remove biases by data: what `fold --allow remove-biases` does after the exact passes.

`remove_biases` changes a graph that is folded already; `fold_and_remove` is the whole way from a file to a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converter.ablate.compensate import Fit
from converter.ablate.removal import Budget, KeptBias, Proposal, confirm, list_candidates, propose
from converter.ablate.removal_report import removal_json
from converter.ablate.samples import Data, DataSource
from converter.ablate.session import Net, SessionOptions
from converter.ablate.sites import BiasSites, Role, Site, choose_sites, find_sites
from converter.commands.inspect import InspectResult, Model, blame, facts_of, quiet
from converter.commands.output import pieces_of, staged_at, target_of
from converter.errors import InvariantViolation
from converter.model.graph import Bypass, Edit, Graph, SetConst, emit, load
from converter.numerics import NewTensor
from converter.records import InputSet, Rewrite, Safety, Stage, Verdict
from converter.referee.proto.source import LoadedModel, list_free_inputs
from converter.referee.verify.models import find_default_memory
from converter.report import document
from converter.rewrite import pipeline
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
        """JSON values for a report; `removal_lines` makes words of them."""
        return removal_json(self.proposal, self.stage, self.budget, document.inputs(self.inputs))

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


def remove_biases(
    graph: Graph,
    original: Model,
    *,
    inputs: Any = None,
    images: str | Path | None = None,
    preprocess: str = "imagenet",
    labels: Any = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    samples: int | None = None,
    output: str | None = None,
    budget: float = 1e-3,
    alpha: float = 0.05,
    keep: Sequence[str] = (),
    also: Sequence[str] = (),
    data: str | Path | None = None,
    custom_ops: str | Path | None = None,
    provider: str = "cpu",
    seed: int = 0,
    max_time: float = 300.0,
    max_memory: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Removed:
    """Let weights make up for as many biases as the budget allows, and judge the result.

    The rows of the data are split: one part is fitted on, one decides which biases go, and the verdict comes from the
    third, looked at once, between ``original`` and the model as it would be written.

    Parameters
    ----------
    graph : Graph
        After the exact passes. It is changed; unless the verdict is PASS the caller must throw it away.
    original : path, bytes or ModelProto
        The model as it came.
    inputs, images, preprocess, labels, shapes, samples, output : as in `converter.commands.ablate.ablate`
    budget : float
        The accuracy that may be lost, as a share; without labels, the rows that may be decided differently.
    alpha : float
        The chance of overlooking a larger loss.
    keep : names of nodes whose bias stays
    also : names of nodes, or "first", "head", "depthwise"
        Biases that may go although they stay by default.
    data : path, optional
        Directory of the external data of a proto.

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
    if not 0 < budget < 1 or not 0 < alpha < 0.5:
        raise ValueError("the budget is a share between 0 and 1, and alpha one between 0 and 0.5")
    tell = progress or (lambda text: None)
    size = max_memory or find_default_memory()
    folded = _source(graph)
    found = find_sites(graph, ())
    may, kept = _candidates(found, keep, also)
    tell("reading the data")
    given = DataSource(inputs, images, preprocess, shapes, labels, samples)
    rows = Data(given, folded.proto, list_free_inputs(folded.proto), size // 4)
    where = SessionOptions(provider, None if custom_ops is None else Path(custom_ops))
    limits = Budget(budget, alpha, output, seed=seed, max_time=max_time, max_bytes=size, progress=tell)
    proposal = propose(Net(folded, found.sites, where), may, kept, rows, limits)
    rewrites = tuple(_applied(graph, fit) for fit in proposal.fits)
    stage = proposal.stage
    if stage is None:
        before = LoadedModel.open(original, None if data is None else Path(data))
        stage = confirm(before, _source(graph), proposal, limits, where)
    return Removed(stage, proposal, rewrites, rows.record, budget, seed)


def _source(graph: Graph) -> LoadedModel:
    return LoadedModel.open(emit(graph, {}, None).to_bytes(), graph.file.base, graph.file.label)


def _candidates(found: BiasSites, keep: Sequence[str], also: Sequence[str]) -> tuple[list[Site], list[KeptBias]]:
    wanted: list[Site | Role] = [ROLES[name] for name in also if name in ROLES]
    wanted += choose_sites(found.sites, [name for name in also if name not in ROLES])
    may, kept = list_candidates(found.sites, choose_sites(found.sites, keep), wanted)
    return may, kept + [KeptBias(u.label, u.op, "not-covered", u.why) for u in found.uncovered]


def _applied(graph: Graph, fit: Fit) -> Rewrite:
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


# -- from a file to a file -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FoldedAndRemoved:
    """The whole way: what the exact passes did, what was removed by data, and the model."""

    inspected: InspectResult
    removed: Removed
    output: Path | None
    content: bytes

    @property
    def exit_code(self) -> int:
        """Of the verdict."""
        return self.removed.exit_code


def fold_and_remove(
    model: Model,
    *,
    out: str | Path | None = None,
    force: bool = False,
    data: str | Path | None = None,
    **asked: Any,
) -> FoldedAndRemoved:
    """Fold exactly, remove biases by data, and write the result if the verdict is PASS: whole or not at all.

    Parameters
    ----------
    model : path, bytes or ModelProto
    out : path, optional
    asked : as in `remove_biases`
    """
    with quiet():
        graph = load(model, data=data)
        target = target_of(graph, out, force=force, in_place=False)
        with blame(graph):
            outcome = pipeline.run(graph, pipeline.Options())
            removed = remove_biases(graph, model, data=data, **asked)
            found = InspectResult(**facts_of(graph, outcome, 0))
            found = replace(found, rewrites=(*outcome.rewrites, *removed.rewrites))
            content, written = pieces_of(graph, found, None).to_bytes(), None
            if target is not None and removed.exit_code == 0:
                staged_at(graph, found, target, in_place=False).commit()
                written = target
    return FoldedAndRemoved(found, removed, written, content)
