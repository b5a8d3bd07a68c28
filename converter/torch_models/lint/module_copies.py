"""Copies of a module that leave it alone, seeded runs of them, and what a call leaves beside its result.

An example has at least two of a batch, in float64 where it is measured, and is never all alike.

A loss may be made of what a call leaves (features that are kept for a second head, say), so a bias that they depend on
is not dead.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

from converter.dataclass import dataclass
from converter.errors import ModelError


@dataclass(frozen=True, slots=True)
class Example:
    """Arguments of one call of a module."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def map_tensors(self, change: Callable[[Any], Any]) -> Example:
        """The same structure with each tensor changed."""
        import torch

        args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, change, (self.args, self.kwargs))
        return Example(tuple(args), kwargs)

    def tensors(self) -> list[Any]:
        """The tensors in it, in order."""
        import torch

        leaves = torch.utils._pytree.tree_leaves((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]

    def double_batch(self) -> Example:
        """Two of a batch where there was one: with one, what differs between examples would look constant."""
        import torch

        tensors = self.tensors()
        if not tensors or any(t.ndim == 0 or t.shape[0] != 1 for t in tensors):
            return self
        draw = torch.Generator().manual_seed(0)

        def twice(tensor: Any) -> Any:
            if not tensor.is_floating_point():
                return torch.cat([tensor, tensor])
            sd = tensor.float().std() if tensor.numel() > 1 else torch.tensor(0.0)
            noise = torch.randn(tensor.shape, generator=draw) * (sd if float(sd) > 0 else 1.0)
            return torch.cat([tensor, (tensor + noise.to(tensor)).to(tensor.dtype)])

        return self.map_tensors(twice)

    def vary(self, seed: int) -> Example:
        """Other values of the same sort: floating point tensors are shuffled and get noise; others stay."""
        import torch

        draw = torch.Generator().manual_seed(seed)

        def other(tensor: Any) -> Any:
            if not tensor.is_floating_point() or not tensor.numel():
                return tensor
            sd = float(tensor.double().std()) if tensor.numel() > 1 else 0.0
            noise = torch.randn(tensor.shape, generator=draw, dtype=torch.float64)
            return (tensor.double() + noise * (sd or 1.0)).to(tensor.dtype)

        return self.map_tensors(other)

    def to_float64(self) -> Example:
        """The same in float64, on the CPU."""
        return self.map_tensors(lambda t: t.detach().cpu().double() if t.is_floating_point() else t.detach().cpu())

    @property
    def is_constant(self) -> bool:
        """Whether no floating point input varies within itself: then norms see nothing."""
        floats = [t for t in self.tensors() if t.is_floating_point() and t.numel() > 1]
        return bool(floats) and all(bool((t == t.flatten()[0]).all()) for t in floats)


def parse_example(example: Any, kwargs: dict[str, Any] | None = None) -> Example:
    """Read what a caller gives: a tensor, a tuple of arguments, or a dict by name."""
    import torch

    extra = dict(kwargs or {})
    if isinstance(example, Example):
        return example
    if isinstance(example, dict):
        made = Example((), {**example, **extra})
    elif isinstance(example, tuple | list) and not isinstance(example, torch.Size):
        made = Example(tuple(example), extra)
    else:
        made = Example((example,), extra)
    return made.map_tensors(lambda tensor: tensor.detach().cpu())


def copy_module(module: Any, parameter: Callable[[Any], Any] = lambda p: p) -> Any:
    """A copy of all but the parameters, which become what `parameter` makes of them; by default they are shared.

    Raises
    ------
    ModelError
        It cannot be copied.
    """
    import torch

    lazy = [n for n, p in module.named_parameters() if torch.nn.parameter.is_lazy(p)]
    if lazy:
        names = ", ".join(lazy[:4])
        raise ModelError(
            f"{type(module).__name__}: no shape yet for {names} (lazy modules); run it once in its factory"
        )
    memo = copy_computed(module) | {id(p): parameter(p) for p in module.parameters()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scripted parts, whose parameters are no leaves
            return copy.deepcopy(module, memo).cpu()
    except Exception as exc:
        name = type(module).__name__
        raise ModelError(f"{name}: cannot be copied ({one_line(exc)}); lint it as it was just made") from exc


def copy_computed(module: Any) -> dict[int, Any]:
    """What a deep copy of a module must be told: copies of what old-style weight norm computed, which are no leaves."""
    import torch

    values = [value for part in module.modules() for value in vars(part).values()]
    return {id(v): v.detach().clone() for v in values if isinstance(v, torch.Tensor) and not v.is_leaf}


def materialize(module: Any, example: Example) -> Any:
    """The module, or if parts of it are lazy a copy that has run once, so that they have their shapes."""
    import torch

    parameters = torch.nn.parameter
    every = [*module.parameters(), *module.buffers()]
    lazy = [value for value in every if parameters.is_lazy(value)]
    if not lazy:
        return module
    try:
        made = copy.deepcopy(module, {id(v): type(v)(requires_grad=v.requires_grad) for v in lazy})
        run_seeded(made, example)
    except Exception as exc:
        name = type(module).__name__
        raise ModelError(f"{name}: its lazy modules get no shapes ({one_line(exc)}); give an example") from exc
    return made


def copy_for_training(module: Any) -> Any:
    """A copy, with shared parameters, that is as the module is while it trains.

    A module that came in eval mode as a whole is switched; one that came in training mode keeps the modes that its
    parts have, which is how a frozen norm is known. Where a class has a ``train`` of its own, a training loop calls
    it before the first step, and what it puts into eval mode is frozen then.
    """
    import torch

    def here(parameter: Any) -> Any:
        if parameter.device.type == "cpu":
            return parameter
        return type(parameter)(parameter.detach().cpu(), requires_grad=parameter.requires_grad)

    twin = copy_module(module, here)
    if not module.training:
        return twin.train()
    modes = {part: part.training for part in twin.modules()}
    for part in list(modes):
        if type(part).train is not torch.nn.Module.train and part.training:
            part.train()
    for part, mode in modes.items():  # what somebody froze by hand, after the last call of train, stays so
        part.training = part.training and mode
    return twin


def run_seeded(module: Any, example: Example, seed: int = 0) -> Any:
    """One seeded call without gradients; an exception knows the innermost module that it came from."""
    import torch

    entered: list[str] = []
    names = {id(part): name for name, part in module.named_modules()}
    handles = []
    for part in (p for p in module.modules() if not isinstance(p, torch.jit.ScriptModule)):  # which takes no hooks
        name = f"{names[id(part)] or 'the model'} ({type(part).__name__})"
        handles.append(part.register_forward_pre_hook(lambda *_, name=name: entered.append(name)))
        handles.append(part.register_forward_hook(lambda *_: entered.pop() and None))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            return module(*example.args, **example.kwargs)
    except Exception as exc:
        exc._biasopt_module = entered[-1] if entered else ""  # type: ignore[attr-defined]
        raise
    finally:
        for handle in handles:
            handle.remove()


def one_line(exc: BaseException) -> str:
    text = " ".join(str(exc).split()) or type(exc).__name__
    return text if len(text) < 200 else text[:197] + "..."


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of norms: a dead bias does move the mean


def observe_call(module: Any, example: Example, seed: int, statistics: Collection[str] = ()) -> list[Any]:
    """Floating point tensors of one call: the result's, those that hooks are shown, those that the module keeps.

    Parameters
    ----------
    statistics : collection of str
        Buffers that norms update, and that do not count.
    """
    before = _list_attributes(module)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    shown: list[Any] = []
    handles = [hook for part in module.modules() for hook in _watch_hooks(part, shown.append)]
    try:
        found = float_tensors(run_seeded(module, example, seed))
    finally:
        for handle in handles:
            handle.remove()
    kept = [value for key, value in _list_attributes(module).items() if before.get(key) is not value]
    for (part, name), value in before.items():
        if isinstance(value, list | dict):  # that a call adds to
            vars(part)[name] = value
    moved = [
        b.clone()
        for name, b in module.named_buffers()
        if _is_counted(name, statistics) and _has_moved(buffers, name, b)
    ]
    return [*found, *float_tensors([shown, kept, moved])]


def _list_attributes(module: Any) -> dict[tuple[Any, str], Any]:
    """What modules hold in plain attributes; lists and dicts as they are now."""
    from torch import nn

    own = vars(nn.Module()).keys()
    return {
        (part, name): copy.copy(value) if isinstance(value, list | dict) else value
        for part in module.modules()
        for name, value in vars(part).items()
        if name not in own and not callable(value)
    }


def _watch_hooks(part: Any, show: Callable[[Any], None]) -> Iterator[Any]:
    """Handles of hooks that see what the user's hooks of a module see."""
    if any(not _is_torch_hook(hook) for hook in getattr(part, "_forward_hooks", {}).values()):
        yield part.register_forward_hook(lambda _, args, out: show([args, _copy_tensors(out)]), prepend=True)
    if any(not _is_torch_hook(hook) for hook in getattr(part, "_forward_pre_hooks", {}).values()):
        yield part.register_forward_pre_hook(lambda _, args: show(_copy_tensors(args)), prepend=True)


def _is_torch_hook(hook: Any) -> bool:
    return str(getattr(hook, "__module__", type(hook).__module__)).split(".")[0] == "torch"


def _copy_tensors(found: Any) -> Any:
    """A later operator may write into it."""
    import torch

    return torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, found)


def _is_counted(name: str, statistics: Collection[str]) -> bool:
    return name not in statistics and not name.endswith(_STATISTICS)


def _has_moved(before: dict[str, Any], name: str, now: Any) -> bool:
    import torch

    old = before.get(name)
    return old is None or old.shape != now.shape or not torch.equal(old, now)


def float_tensors(result: Any) -> list[Any]:
    """The floating point tensors in what a module returned."""
    import torch

    if hasattr(result, "to_tuple"):  # a dataclass of outputs, as transformers have
        result = result.to_tuple()
    leaves = torch.utils._pytree.tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
