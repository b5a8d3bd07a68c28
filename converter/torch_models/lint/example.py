"""Example inputs, as the checks need them: at least two of a batch, float64, and never all alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """Arguments of one call of a module."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def mapped(self, change: Callable[[Any], Any]) -> Example:
        """The same structure with each tensor changed."""
        import torch

        args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, change, (self.args, self.kwargs))
        return Example(tuple(args), kwargs)

    def tensors(self) -> list[Any]:
        """The tensors in it, in order."""
        import torch

        leaves = torch.utils._pytree.tree_leaves((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]

    def doubled(self) -> Example:
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

        return self.mapped(twice)

    def varied(self, seed: int) -> Example:
        """Other values of the same sort: floating point tensors are shuffled and get noise; others stay."""
        import torch

        draw = torch.Generator().manual_seed(seed)

        def other(tensor: Any) -> Any:
            if not tensor.is_floating_point() or not tensor.numel():
                return tensor
            sd = float(tensor.double().std()) if tensor.numel() > 1 else 0.0
            noise = torch.randn(tensor.shape, generator=draw, dtype=torch.float64)
            return (tensor.double() + noise * (sd or 1.0)).to(tensor.dtype)

        return self.mapped(other)

    def double(self) -> Example:
        """The same in float64, on the CPU."""
        return self.mapped(lambda t: t.detach().cpu().double() if t.is_floating_point() else t.detach().cpu())

    @property
    def is_constant(self) -> bool:
        """Whether no floating point input varies within itself: then norms see nothing."""
        floats = [t for t in self.tensors() if t.is_floating_point() and t.numel() > 1]
        return bool(floats) and all(bool((t == t.flatten()[0]).all()) for t in floats)


def example_of(example: Any, kwargs: dict[str, Any] | None = None) -> Example:
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
    return made.mapped(lambda tensor: tensor.detach().cpu())
