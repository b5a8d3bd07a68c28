"""What a call leaves beside its result: attributes and buffers that it sets, and what hooks are shown.

A loss may be made of these (features that are kept for a second head, say), so a bias that they depend on is not dead.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from typing import Any

from converter.torch_models.lint.module_copies import Example, run_seeded

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
