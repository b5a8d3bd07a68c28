"""What to take out of a module, and the doing of it: on the user's module, on a float64 copy, on a state dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from converter.dataclass import dataclass
from converter.torch_models.lint.flow import Candidate, find_mean_modules
from converter.torch_models.lint.rules.recurrent import Cell
from converter.torch_models.lint.trace import TracedModule


@dataclass(frozen=True, slots=True)
class Removed:
    """A bias that goes away as a parameter."""

    parameter: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Zeroed:
    """A bias, or the elements start:stop of one, that stays as a parameter of zeros."""

    parameter: str
    start: int
    stop: int
    why: str


@dataclass(frozen=True, slots=True)
class Merged:
    """The first ``n`` elements of a recurrent layer's hidden bias, which move into its input bias."""

    hidden: str
    input: str
    n: int
    whole: bool  # then the hidden bias is trained no longer


@dataclass(frozen=True, slots=True)
class Plan:
    """All that `strip` does to one module, and the norms that have to know."""

    removed: tuple[Removed, ...] = ()
    zeroed: tuple[Zeroed, ...] = ()
    merged: tuple[Merged, ...] = ()
    norms: tuple[str, ...] = ()  # whose running means take the values over

    @property
    def n_removed(self) -> int:
        """Parameters that go away."""
        total = 0
        for item in self.removed:
            n = 1
            for size in item.shape:
                n *= size
            total += n
        return total


def make_plan(module: Any, traced: TracedModule, confirmed: Iterable[Candidate], cells: Iterable[Cell]) -> Plan:
    """Plan what becomes of each confirmed finding."""
    removed, zeroed, norms = [], [], []
    modules = dict(module.named_modules())
    holders = _count_holders(module)
    for candidate in confirmed:
        name, part = candidate.change.parameter, candidate.change.part
        parameter = module.get_parameter(name)
        why = _why_kept(modules.get(name.rpartition(".")[0]), name, part, holders[id(parameter)])
        if why:
            start, stop = part or (0, parameter.numel())
            zeroed.append(Zeroed(name, start, stop, why))
        else:
            removed.append(Removed(name, tuple(parameter.shape)))
        norms += find_mean_modules(traced, candidate.trace, modules)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    merged = [
        Merged(c.hidden_bias, c.input_bias, c.mergeable, c.mergeable == parameters[c.hidden_bias].numel())
        for c in cells
    ]
    return Plan(tuple(removed), tuple(zeroed), tuple(merged), tuple(dict.fromkeys(norms)))


def _count_holders(module: Any) -> dict[int, int]:
    """How many modules hold each parameter; a module that goes by several names is one."""
    count: dict[int, int] = {}
    for part in module.modules():
        for parameter in part._parameters.values():
            if parameter is not None:
                count[id(parameter)] = count.get(id(parameter), 0) + 1
    return count


def _why_kept(owner: Any, name: str, part: tuple[int, int] | None, holders: int) -> str:
    """Why a bias cannot go away as a parameter; empty if it can."""
    from torch import nn

    if part is not None:
        return "it shares its parameter with biases that live"
    if holders > 1:
        return "several modules share it"
    if not isinstance(owner, nn.modules.conv._ConvNd | nn.Linear) or not name.endswith("bias"):
        return f"{type(owner).__name__} is not known to run without it"
    return ""


def zero_biases(module: Any, plan: Plan) -> None:
    """Set what the plan takes out to zero, and move what it merges: the module keeps its parameters."""
    import torch

    parameters = dict(module.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for gone in plan.removed:
            parameters[gone.parameter].zero_()
        for item in plan.zeroed:
            parameters[item.parameter].view(-1)[item.start : item.stop] = 0
        for pair in plan.merged:
            parameters[pair.input][: pair.n] += parameters[pair.hidden][: pair.n]
            parameters[pair.hidden][: pair.n] = 0


def lower_means(module: Any, shifts: Mapping[str, Any]) -> None:
    """Take from each norm's running mean what its input lost; float64, rounded once."""
    import torch

    with torch.no_grad():
        for name, shift in shifts.items():
            mean = module.get_submodule(name).running_mean
            mean.copy_((mean.double() - shift.to(mean.device)).to(mean.dtype))


def drop_parameters(module: Any, plan: Plan) -> None:
    """Take the removed biases away as parameters, and train merged ones no longer."""
    for item in plan.removed:
        owner, _, own = item.parameter.rpartition(".")
        part = module.get_submodule(owner)
        part.register_parameter(own, None)
        if own == "bias" and isinstance(getattr(part, "use_bias", None), bool):
            part.use_bias = False
    for pair in plan.merged:
        if pair.whole:
            module.get_parameter(pair.hidden).requires_grad_(False)


def find_like(module: Any, part: Any) -> Any:
    """A parameter whose type and device are those of a part that may have none of its own (parametrised ones)."""
    return next(p for m in (part, module) for p in m.parameters() if p.is_floating_point())


def restore_parameters(module: Any, plan: Plan) -> None:
    """Give a stripped module its old parameters again, as zeros."""
    import torch

    for item in plan.removed:
        owner, _, own = item.parameter.rpartition(".")
        part = module.get_submodule(owner)
        like = find_like(module, part)
        part.register_parameter(own, torch.nn.Parameter(torch.zeros(item.shape, dtype=like.dtype, device=like.device)))
