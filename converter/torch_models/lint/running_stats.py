"""Move what a bias adds into the running means of the norms behind it.

The module runs twice in float64, with the bias and without it. At each norm the second run's input is put back to what
it was before, so that what follows is undisturbed, and the difference is what the norm's running mean has to give up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import field
from typing import Any

from converter.dataclass import dataclass
from converter.torch_models.lint.confirm import TOLERANCE, Change, Measured, Twin, difference
from converter.torch_models.lint.module_copies import float_tensors, run_seeded

_EVEN = 1e-9  # how much a shift may differ within a channel, of the input's size: rounding of sums, not structure


@dataclass(slots=True)
class Shifts:
    """What each norm's input lost, by channel; and where that was no plain shift."""

    by_norm: dict[str, Any] = field(default_factory=dict)
    uneven: set[str] = field(default_factory=set)


def measure_shifts(module: Any, example: Any, norms: Iterable[str], remove: Callable[[], Callable[[], None]]) -> Shifts:
    """What the inputs of `norms` lose when `remove` takes something out; it returns what puts that back."""
    names = list(norms)
    first: dict[str, list[Any]] = {name: [] for name in names}
    found = Shifts()

    def note(name: str) -> Callable[..., None]:
        return lambda _, args: first[name].append(args[0].detach().clone())

    def compensate(name: str) -> Callable[..., Any]:
        def hook(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            before = first[name].pop(0) if first[name] else None
            if before is None or before.shape != args[0].shape:
                found.uneven.add(name)
                return args
            _compare(found, name, before, args[0])
            return (before, *args[1:])

        return hook

    _run_hooked(module, example, {name: note(name) for name in names})
    put_back = remove()
    try:
        _run_hooked(module, example, {name: compensate(name) for name in names})
    finally:
        put_back()
    return found


def _run_hooked(module: Any, example: Any, hooks: dict[str, Callable[..., Any]]) -> list[Any]:
    handles = [module.get_submodule(name).register_forward_pre_hook(hook) for name, hook in hooks.items()]
    try:
        return float_tensors(run_seeded(module, example))
    finally:
        for handle in handles:
            handle.remove()


def _compare(found: Shifts, name: str, before: Any, after: Any) -> None:
    gap = (before - after).transpose(0, 1).flatten(1)
    shift = gap.mean(1)
    size = float(before.abs().max()) + float(shift.abs().max())
    known = found.by_norm.get(name)
    if float((gap - shift[:, None]).abs().max()) > _EVEN * size:
        found.uneven.add(name)
    if known is not None and float((known - shift).abs().max()) > _EVEN * size:
        found.uneven.add(name)  # called twice, and shifted differently: one mean cannot follow
    found.by_norm[name] = shift


def measure_frozen(twin: Twin, change: Change, norms: Iterable[str]) -> Measured:
    """Whether a change of a bias can be undone in the running means of fixed norms, as the outputs show."""
    stack = ExitStack()

    def remove() -> Callable[[], None]:
        stack.enter_context(twin.apply_changes([change]))
        return stack.close

    shifts = measure_shifts(twin.module, twin.example, norms, remove)
    twin.restore_buffers()
    if not shifts.by_norm:
        return Measured(float("inf"), None, False, "the norm's statistics are not those of a batch norm module")
    if shifts.uneven:
        return Measured(float("inf"), None, False, "it is no plain shift at the norm")
    with twin.apply_changes([change]):
        for name, shift in shifts.by_norm.items():
            twin.module.get_submodule(name).running_mean.sub_(shift)
        moved = difference(twin.outputs, twin.outputs_now())
    ok = moved <= TOLERANCE
    return Measured(
        moved, None, ok, "" if ok else f"moved into the norm it moves the output by {moved:.1e} of its size"
    )
