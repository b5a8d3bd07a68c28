"""What a bias costs in digits where a norm is given numbers of low precision: measured, never assumed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from converter.torch_models.lint.confirm import Twin
from converter.torch_models.lint.example import Example

# In units of the input's standard deviation. Rounding y = b + N(0, 1) to bfloat16 and normalising it in float32
# leaves an error of 0.03 at b = 16; with float16's eight times finer steps the same is left at b = 64 and more.
LIMITS = {"bfloat16": 16.0, "float16": 64.0}
_WORSE = 4.0  # times the error without the bias: less is not worth a line


@dataclass(frozen=True, slots=True)
class Hazard:
    """One norm whose input has a channel far from 0, because of a bias."""

    norm: str
    dtype: str
    ratio: float  # |bias| in standard deviations, of the worst channel
    error: float  # rms error of the normalised output of that channel, inputs rounded to dtype
    error_without: float  # the same with the bias removed


def measure(twin: Twin, parameter: str, norms: Iterable[str]) -> list[Hazard]:
    """The hazards of one dead bias at the norms that take it away."""
    names = sorted(set(norms))
    before = _inputs(twin.module, twin.example, names)
    value = twin.parameters[parameter]
    kept = value.detach().clone()
    value.data.zero_()
    try:
        after = _inputs(twin.module, twin.example, names)
    finally:
        value.data.copy_(kept)
    found = []
    for name in names:
        if name in before and before[name].shape == after.get(name, before[name]).shape and name in after:
            found += _judged(name, before[name], after[name])
    return found


def _inputs(module: Any, example: Example, names: list[str]) -> dict[str, Any]:
    """What each norm is given at its first call, channels first."""
    import torch

    found: dict[str, Any] = {}
    module = copy.deepcopy(module, {id(p): p for p in module.parameters()})
    for name in names:
        part = module.get_submodule(name)

        def note(_: Any, args: tuple[Any, ...], name: str = name) -> None:
            if args and name not in found:
                found[name] = args[0].detach().transpose(0, 1).flatten(1)

        part.register_forward_pre_hook(note)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        module(*example.args, **example.kwargs)
    return found


def _judged(name: str, before: Any, after: Any) -> list[Hazard]:
    import torch

    sd = after.std(1).clamp_min(1e-30)
    ratios = (before - after).mean(1).abs() / sd
    channel = int(ratios.argmax())
    found = []
    for dtype, limit in LIMITS.items():
        if float(ratios[channel]) < limit:
            continue
        errors = [_error(rows[channel], getattr(torch, dtype)) for rows in (before, after)]
        if errors[0] >= _WORSE * errors[1]:
            found.append(Hazard(name, dtype, float(ratios[channel]), errors[0], errors[1]))
    return found


def _error(row: Any, dtype: Any) -> float:
    exact, rounded = (_normalised(values) for values in (row, row.to(dtype).double()))
    return float((exact - rounded).pow(2).mean().sqrt())


def _normalised(row: Any) -> Any:
    return (row - row.mean()) / row.std(correction=0).clamp_min(1e-30)
