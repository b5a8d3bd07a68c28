"""Verdicts of the trace: which biases end where, before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from converter.torch_models.lint.call import bound
from converter.torch_models.lint.confirm import GRADIENT, Change, Twin, is_vector
from converter.torch_models.lint.flow import Flow, Outcome
from converter.torch_models.lint.trace import Traced

_OFFSETS = ("batch_norm", "instance_norm", "group_norm", "layer_norm")
_NORMS = ("batch-norm", "instance-norm", "group-norm", "layer-norm")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One bias, or part of one, whose change the trace saw end."""

    code: str
    change: Change
    outcome: Outcome
    n_parameters: int

    @property
    def key(self) -> str:
        """Its name, unique among candidates."""
        part = self.change.part
        return self.change.parameter + (f"[{part[0]}:{part[1]}]" if part else "")


def biases(module: Any) -> dict[str, Any]:
    """The trained vectors that could be biases: one axis at most is longer than 1."""
    named = module.named_parameters()
    return {name: p for name, p in named if p.is_floating_point() and p.numel() and is_vector(p)}


def candidates(traced: Traced, twin: Twin | None) -> Iterator[Candidate]:
    """Biases that end at norms and softmaxes; parts of a bias where float64 suggests one."""
    flow = Flow(traced)
    for name, parameter in biases(traced.module).items():
        outcome = flow.decide(name)
        if outcome.dead:
            yield Candidate(_code(outcome), Change(name), outcome, parameter.numel())
            continue
        outcome = flow.decide(name, absorb_frozen=True)
        if outcome.dead and _frozen_is_trained(traced, outcome):
            yield Candidate("frozen-norm-bias", Change(name), outcome, parameter.numel())
            continue
        for part in _quiet_parts(twin, name) if parameter.ndim == 1 else ():
            outcome = flow.decide(name, part)
            if outcome.dead:
                yield Candidate(_code(outcome), Change(name, part), outcome, part[1] - part[0])


def _code(outcome: Outcome) -> str:
    kinds = [kill.kind for kill in outcome.kills]
    if next(iter(outcome.via), "") in _OFFSETS:
        return "dead-norm-offset"
    norms = [kind for kind in _NORMS if kind in kinds]
    if norms:
        return f"bias-before-{norms[0]}"
    if "attention" in kinds or ("softmax" in kinds and outcome.products):
        return "attention-key-bias"
    return "bias-before-softmax" if "softmax" in kinds else "bias-before-centring"


def _frozen_is_trained(traced: Traced, outcome: Outcome) -> bool:
    """Whether each fixed norm on the way has an offset of its own that is trained: else the bias is the only one."""
    parameters = dict(traced.module.named_parameters(remove_duplicate=False))
    frozen = [kill.node for kill in outcome.kills if kill.kind == "frozen-norm"]
    betas = [parameters.get(traced.names.get(bound(node)["bias"], "")) for node in frozen]
    return bool(frozen) and all(beta is not None and beta.requires_grad for beta in betas)


def _quiet_parts(twin: Twin | None, name: str) -> list[tuple[int, int]]:
    """Runs of elements without a gradient, in a vector that has one: what packs several biases shows itself so."""
    gradient = None if twin is None else twin.gradients.get(name)
    if gradient is None or gradient.numel() < 2:
        return []
    largest = float(gradient.abs().max())
    if not largest:
        return []
    quiet = (gradient.abs() <= GRADIENT * largest).tolist()
    found, start = [], None
    for index, is_quiet in enumerate([*quiet, False]):
        if is_quiet and start is None:
            start = index
        elif not is_quiet and start is not None:
            found.append((start, index))
            start = None
    return found


def norm_modules(traced: Traced, outcome: Outcome, modules: Mapping[str, Any]) -> list[str]:
    """The qualified names of the modules in which a change ended."""
    found = []
    for kill in outcome.kills:
        stack = kill.node.meta.get("nn_module_stack") or {}
        name = str(next(reversed(stack.values()))[0]) if stack else _owner(traced, kill.node)
        if name in modules:
            found.append(name)
    return list(dict.fromkeys(found))


def _owner(traced: Traced, node: Any) -> str:
    """The module that holds a norm's parameters or statistics: for traces that keep no stack of modules."""
    names = [traced.names[source] for source in node.all_input_nodes if traced.names.get(source)]
    return names[0].rpartition(".")[0] if names else ""
