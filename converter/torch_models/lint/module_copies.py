"""Copies of a module that leave the module alone, and seeded runs of them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

from converter.errors import ModelError
from converter.torch_models.lint.example import Example


def copied(module: Any, parameter: Callable[[Any], Any] = lambda p: p) -> Any:
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
    memo: dict[int, Any] = {id(p): parameter(p) for p in module.parameters()}
    for part in module.modules():  # what old-style weight norm computed: no leaf, and made anew by the next call
        for value in vars(part).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scripted parts, whose parameters are no leaves
            return copy.deepcopy(module, memo).cpu()
    except Exception as exc:
        name = type(module).__name__
        raise ModelError(f"{name}: cannot be copied ({line(exc)}); lint it as it was just made") from exc


def training_copy(module: Any) -> Any:
    """A copy, with shared parameters, that is as the module is while it trains.

    A module that came in eval mode as a whole is switched; one that came in training mode keeps the modes that its
    parts have, which is how a frozen norm is known.
    """

    def here(parameter: Any) -> Any:
        if parameter.device.type == "cpu":
            return parameter
        return type(parameter)(parameter.detach().cpu(), requires_grad=parameter.requires_grad)

    twin = copied(module, here)
    return twin if module.training else twin.train()


def run(module: Any, example: Example, seed: int = 0) -> Any:
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


def line(exc: BaseException) -> str:
    text = " ".join(str(exc).split()) or type(exc).__name__
    return text if len(text) < 200 else text[:197] + "..."
