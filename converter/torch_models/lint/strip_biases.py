"""``strip``: what to take out, the module without it, and checkpoints (files of them, too) that fit both."""

from __future__ import annotations

import copy
import io
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter.dataclass import dataclass
from converter.errors import DataError, InvariantViolation, ModelError
from converter.torch_models.lint.confirm import TOLERANCE, Shifts, difference, fill_zeros, measure_shifts
from converter.torch_models.lint.flow import Candidate, find_mean_modules
from converter.torch_models.lint.linter import Linted, examine
from converter.torch_models.lint.module_copies import Example, copy_computed, copy_module, float_tensors, run_seeded
from converter.torch_models.lint.rules.normalization import Cell
from converter.torch_models.lint.trace import TracedModule
from converter.torch_models.spec.libraries import need


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


_ATTRIBUTE = "_biasopt_checkpoints"


@dataclass(slots=True)
class Checkpoints:
    """The hook that lets a stripped module load a checkpoint of the module as it was.

    It keeps the plan and one example: where a bias went depends on the weights between it and the norm, so an old
    checkpoint's biases are followed through the old checkpoint's own weights.
    """

    plan: Plan
    example: Example
    left: tuple[str, ...] = ()  # biases that could not be taken out, each with the reason

    def __call__(self, module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Turn a state dict of the old module, if it is one, into one of this module; in place."""
        own = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        if self.is_old(own):
            migrated = self.migrate(module, own)
            for key in own:
                if key in migrated:
                    state[prefix + key] = migrated[key]
                else:
                    del state[prefix + key]

    def is_old(self, state: dict[str, Any]) -> bool:
        """Whether a state dict holds values that this module has no place for."""
        if any(item.parameter in state for item in self.plan.removed):
            return True
        parts = [state[i.parameter].view(-1)[i.start : i.stop] for i in self.plan.zeroed if i.parameter in state]
        parts += [state[pair.hidden][: pair.n] for pair in self.plan.merged if pair.hidden in state]
        return any(bool((part != 0).any()) for part in parts)

    def migrate(self, module: Any, state: dict[str, Any]) -> dict[str, Any]:
        """A state dict of this module that says in eval mode what an old one said."""
        old = _fresh_copy(module)
        restore_parameters(old, self.plan)
        for key, value in old.state_dict().items():  # by hand: a module's own version checks have had their turn
            if key in state and value.shape == state[key].shape:
                value.copy_(state[key])
        shifts = measure_plan_shifts(old, self.example, self.plan)
        if shifts.uneven:
            raise DataError(f"the checkpoint's biases do not fit the norms {', '.join(sorted(shifts.uneven))}")
        zero_biases(old, self.plan)
        lower_means(old, shifts.by_norm)
        gone = {item.parameter for item in self.plan.removed}
        gone |= {name for parameter in tuple(gone) for name in _find_other_names(module, parameter)}
        fresh = old.state_dict()
        return {k: fresh.get(k, v) for k, v in state.items() if k not in gone}


def strip(
    module: Any,
    example: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    in_place: bool = False,
    linted: Linted | None = None,
) -> Any:
    """Take the dead and redundant biases out of a torch module.

    What a bias added is taken from the running means of the norms behind it, so outputs in eval mode stay the same, to
    rounding; in training mode a dead bias did nothing. Parts of packed biases (the keys' third of
    ``in_proj_bias``) and biases of layers that are not known to run without one become zeros; ``b_hh`` of recurrent
    layers moves into ``b_ih``.

    The stripped module loads old checkpoints (`load_state_dict` migrates them); `original_state_dict` goes back.

    Parameters
    ----------
    module : torch.nn.Module
    example : Tensor | tuple | dict
        Arguments of one call; not needed with `linted`.
    kwargs : dict, optional
        Further arguments by name.
    in_place : bool
        Change `module` itself. Optimizers that hold its parameters must then be made anew.
    linted : Linted, optional
        What `examine` returned for this module.

    Returns
    -------
    torch.nn.Module
        A copy, or `module`.

    Raises
    ------
    DataError
        There is neither an example nor what `examine` returned.
    """
    if linted is None:
        if example is None:
            raise DataError("strip needs an example of the module's inputs, to trace it with")
        linted = examine(module, example, kwargs)
    plan, left = _plan(module, linted)
    shifts = measure_plan_shifts(_fresh_copy(module, double=True), linted.traced.example, plan)
    target = module if in_place else copy.deepcopy(module, copy_computed(module))
    zero_biases(target, plan)
    lower_means(target, shifts.by_norm)
    drop_parameters(target, plan)
    hook = Checkpoints(plan, linted.traced.example, left)
    target.register_load_state_dict_pre_hook(hook)
    setattr(target, _ATTRIBUTE, hook)
    return target


def find_removable(module: Any, linted: Linted) -> frozenset[str]:
    """The biases that `strip` takes away as parameters: those that eval mode does not read elsewhere, either."""
    return frozenset(item.parameter for item in _plan(module, linted)[0].removed)


def _plan(module: Any, linted: Linted) -> tuple[Plan, tuple[str, ...]]:
    twin = _fresh_copy(module, double=True)
    wanted = make_plan(twin, linted.traced, linted.confirmed, _find_merged(linted))
    return _keep_what_holds(fill_zeros(twin), linted, wanted)


def checkpoints(module: Any) -> Checkpoints:
    """What `strip` did to a module, and the hook that migrates its checkpoints.

    Raises
    ------
    DataError
        The module was not stripped.
    """
    found = getattr(module, _ATTRIBUTE, None)
    if not isinstance(found, Checkpoints):
        raise DataError(f"{type(module).__name__} was not stripped; pass what strip returned")
    return found


def original_state_dict(module: Any) -> dict[str, Any]:
    """A stripped module's state as the module that it was made from loads it: biases that went away are zeros."""
    import torch

    state = dict(module.state_dict())
    for item in checkpoints(module).plan.removed:
        like = find_like(module, module.get_submodule(item.parameter.rpartition(".")[0]))
        state[item.parameter] = torch.zeros(item.shape, dtype=like.dtype, device=like.device)
        for name in _find_other_names(module, item.parameter):
            state[name] = state[item.parameter]
    return state


def _find_other_names(module: Any, parameter: str) -> list[str]:
    """The other names of a parameter that is gone: by those of the module that had it."""
    owner, _, own = parameter.rpartition(".")
    part = module.get_submodule(owner)
    names = [name for name, other in module.named_modules(remove_duplicate=False) if other is part and name != owner]
    return [f"{name}.{own}" if name else own for name in names]


def measure_plan_shifts(module: Any, example: Example, plan: Plan) -> Shifts:
    """What the inputs of the plan's norms lose in eval mode, in float64."""
    twin = _fresh_copy(module, double=True).eval()

    def remove() -> Any:
        zero_biases(twin, plan)
        return lambda: None

    return measure_shifts(twin, example.to_float64(), plan.norms, remove)


def _keep_what_holds(twin: Any, linted: Linted, plan: Plan) -> tuple[Plan, tuple[str, ...]]:
    """The plan without what would change an output in eval mode, and the reasons."""
    example = linted.traced.example
    if _holds(twin, example, plan):
        return plan, ()
    kept = replace(plan, removed=(), zeroed=())
    left = []
    for item in plan.removed:
        more = replace(kept, removed=(*kept.removed, item))
        if _holds(twin, example, more):
            kept = more
        else:
            left.append(f"{item.parameter}: eval mode reads it elsewhere")
    for part in plan.zeroed:
        more = replace(kept, zeroed=(*kept.zeroed, part))
        if _holds(twin, example, more):
            kept = more
        else:
            left.append(f"{part.parameter}: eval mode reads it elsewhere")
    if not _holds(twin, example, kept):
        raise InvariantViolation("merging recurrent biases changed an output in eval mode")
    return kept, tuple(left)


def _holds(twin: Any, example: Example, plan: Plan) -> bool:
    wide = example.to_float64()
    before = float_tensors(run_seeded(_fresh_copy(twin, double=True).eval(), wide))
    shifts = measure_plan_shifts(twin, example, plan)
    after = _fresh_copy(twin, double=True).eval()
    zero_biases(after, plan)
    lower_means(after, shifts.by_norm)
    drop_parameters(after, plan)
    return not shifts.uneven and difference(before, float_tensors(run_seeded(after, wide))) <= TOLERANCE


def _find_merged(linted: Linted) -> list[Any]:
    known = {f.parameter for f in linted.report.findings if f.code == "doubled-rnn-bias"}
    return [cell for cell in linted.cells if cell.hidden_bias in known]


def _fresh_copy(module: Any, *, double: bool = False) -> Any:
    """A copy on the CPU with parameters of its own and without this file's hook."""
    import torch

    def own(parameter: Any) -> Any:
        value = parameter.detach().cpu()
        value = value.double() if double and value.is_floating_point() else value
        return torch.nn.Parameter(value.clone(), requires_grad=False)

    twin = copy_module(module, own)
    hooks = twin._load_state_dict_pre_hooks
    for key in [key for key, hook in hooks.items() if isinstance(getattr(hook, "hook", hook), Checkpoints)]:
        del hooks[key]
    return twin.double() if double else twin


_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")  # of training scripts
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel, of torch.compile


@dataclass(frozen=True, slots=True)
class MigratedCheckpoint:
    """A migrated checkpoint."""

    content: bytes
    n_removed: int  # parameters that are gone
    dropped: tuple[str, ...]  # entries beside the state that no longer fit, such as the optimizer's


def migrate_checkpoint(stripped: Any, source: Path) -> MigratedCheckpoint:
    """Migrate a checkpoint file for a module that `strip` returned.

    Raises
    ------
    ModelError
        The file cannot be read without running code in it, or holds no state dict.
    DataError
        Its values do not fit the module.
    """
    whole = _read(source)
    trail, state = _find_state(whole, source)
    prefix = next((p for p in _PREFIXES if state and all(k.startswith(p) for k in state)), "")
    own = {key.removeprefix(prefix): value for key, value in state.items()}
    hook = checkpoints(stripped)
    _check_state(stripped, hook, own, source)
    migrated = OrderedDict((prefix + key, value) for key, value in hook.migrate(stripped, own).items())
    if hasattr(state, "_metadata"):  # the versions of the modules that saved it
        migrated._metadata = state._metadata  # type: ignore[attr-defined]
    gone = {prefix + item.parameter for item in hook.plan.removed}
    n_removed = sum(int(value.numel()) for key, value in state.items() if key in gone)
    dropped: tuple[str, ...] = ()
    result: Any = migrated
    if trail:
        holder = whole
        for step in trail[:-1]:
            holder = holder[step]
        holder[trail[-1]] = migrated
        dropped = tuple(key for key in whole if "optim" in str(key).lower() or str(key).lower() == "scaler")
        for key in dropped:
            del whole[key]
        result = whole
    return MigratedCheckpoint(_serialize(result, source), n_removed, dropped)


def _read(file: Path) -> Any:
    torch = need("torch")
    if not file.is_file():
        raise ModelError(f"{file}: there is no such checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if file.suffix.lower() == ".safetensors":
                return need("safetensors.torch", "a .safetensors file").load_file(str(file))
            return torch.load(str(file), map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as exc:
        said = " ".join(str(exc).split()).partition(". ")[0]
        raise ModelError(f"{file}: cannot be read as weights alone ({said[:160]}); save model.state_dict()") from exc


def _find_state(whole: Any, file: Path) -> tuple[list[str], Mapping[str, Any]]:
    """The keys that lead to the state dict, and it."""
    torch = need("torch")
    trail: list[str] = []
    found = whole
    for _ in range(3):
        if isinstance(found, Mapping) and found and all(isinstance(v, torch.Tensor) for v in found.values()):
            return trail, found
        step = next((k for k in _WRAPPERS if isinstance(found, Mapping) and isinstance(found.get(k), Mapping)), None)
        if step is None:
            break
        trail.append(step)
        found = found[step]
    raise ModelError(f"{file}: holds no state dict; save model.state_dict()")


def _check_state(stripped: Any, hook: Any, state: Mapping[str, Any], file: Path) -> None:
    removed = {item.parameter: item.shape for item in hook.plan.removed}
    shapes = {key: tuple(value.shape) for key, value in stripped.state_dict().items()} | removed
    counters = {key for key in shapes if key.endswith("num_batches_tracked")}
    problems = [f"lacks {key}" for key in shapes.keys() - state.keys() - removed.keys() - counters]
    problems += [f"has unexpected {key}" for key in state.keys() - shapes.keys()]
    problems += [
        f"{key} is {list(state[key].shape)}, not {list(shape)}"
        for key, shape in shapes.items()
        if key in state and tuple(state[key].shape) != tuple(shape)
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DataError(f"{file}: {', '.join(sorted(problems)[:3])}{more}; make the model that was trained")


def _serialize(result: Any, source: Path) -> bytes:
    if source.suffix.lower() == ".safetensors":
        tensors = {key: value.contiguous() for key, value in result.items()}
        return bytes(need("safetensors.torch").save(tensors))
    buffer = io.BytesIO()
    need("torch").save(result, buffer)
    return buffer.getvalue()
