"""The second opinion: the module itself, in float64, with the bias changed; and what moves into norms' running means.

A bias that is dead leaves every output where it was, to 1e-12 of the output's size, and has no gradient beside
that of the weights. Dropout and other chance is the same in both runs. The example is tried at other sizes, too:
what is padded only where a size is odd shows there.

For the running means the module runs twice, with the bias and without it. At each norm the second run's input is put
back to what it was before, so that what follows is undisturbed, and the difference is what the norm's running mean has
to give up.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import field
from typing import Any

from converter.dataclass import dataclass
from converter.torch_models.lint.module_copies import Example, copy_module, float_tensors, observe_call, run_seeded

TOLERANCE = 1e-12  # of the largest output: rounding in float64 through some hundred layers
GRADIENT = 1e-9  # of the largest gradient of any weight: sums of some million terms that cancel
ROUNDING = 1e-8  # what a bias of a million standard deviations costs in float64
_SEED = 0
_FEW = 5_000_000  # elements of a weight whose gradient is worth its time


@dataclass(frozen=True, slots=True)
class Change:
    """A parameter, the elements of it that change, and what else must change with it for the outputs to stay."""

    parameter: str
    part: tuple[int, int] | None = None
    opposite: str = ""  # a parameter that is changed by as much the other way


@dataclass(frozen=True, slots=True)
class Measured:
    """What one change did."""

    output_change: float  # largest difference, relative to the largest output
    gradient_ratio: float | None  # largest gradient of the bias, relative to the largest of its weight
    ok: bool
    why: str = ""


class Twin:
    """A copy of a module in float64 that remembers its outputs and gradients."""

    def __init__(self, module: Any, example: Example, statistics: Collection[str] = ()) -> None:
        import torch

        def wide(parameter: Any) -> Any:
            value = parameter.detach()
            value = value.double() if value.is_floating_point() and value.dtype != torch.float64 else value.clone()
            return torch.nn.Parameter(value, requires_grad=False)

        with torch.no_grad():  # a scripted part's parameters would not be leaves
            self.module = copy_module(module, wide).double()
        fill_zeros(self.module)
        self._statistics = statistics  # buffers that norms update
        self.example = example.to_float64()
        if self.example.is_constant:
            self.example = self.example.vary(_SEED)
        self.parameters = dict(self.module.named_parameters(remove_duplicate=False))
        self._buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        self.outputs_now()  # some modules hand out or keep more from their second run on
        self.outputs = self.outputs_now()
        self.gradients = self._gradients()
        self._size = largest_value(self.outputs)

    def outputs_now(self, example: Example | None = None) -> list[Any]:
        """The outputs, and what the module keeps, as the parameters are now; buffers are put back."""
        try:
            return observe_call(self.module, self.example if example is None else example, _SEED, self._statistics)
        finally:
            self.restore_buffers()

    def restore_buffers(self) -> None:
        """Put running statistics back to what they were before any run."""
        for name, buffer in self.module.named_buffers():
            if name in self._buffers:
                buffer.data.copy_(self._buffers[name])

    def _gradients(self) -> dict[str, Any]:
        """Of a random weighting of all outputs, so that no symmetry hides a gradient.

        Of all vectors, and of the weights beside them; a head's matrix of a hundred million elements is nobody's scale.
        """
        import torch

        for name, parameter in self.parameters.items():
            beside = self.parameters.get(_weight_of(name))
            parameter.requires_grad_(
                parameter.is_floating_point() and (is_vector(parameter) or parameter.numel() < _FEW)
            )
            if beside is not None and beside.numel() < _FEW:
                beside.requires_grad_(True)
        draw = torch.Generator().manual_seed(_SEED)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(_SEED)
            outputs = float_tensors(self.module(*self.example.args, **self.example.kwargs))
            loss = sum(
                (o * torch.randn(o.shape, generator=draw, dtype=o.dtype)).sum() for o in outputs if o.requires_grad
            )
            if not isinstance(loss, torch.Tensor):
                return {}
            loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        self.restore_buffers()
        found = {n: p.grad.clone() for n, p in self.parameters.items() if p.grad is not None}
        self.module.zero_grad(set_to_none=True)
        self.module.requires_grad_(False)
        return found

    def _draw_steps(self, change: Change, seed: int) -> list[tuple[str, Any]]:
        import torch

        vector = self.parameters[change.parameter]
        draw = torch.Generator().manual_seed(seed)
        step = torch.randn(vector.shape, generator=draw, dtype=torch.float64)
        if change.part is not None:
            start, stop = change.part
            step[:start] = 0
            step[stop:] = 0
        return [(change.parameter, step), *([(change.opposite, -step)] if change.opposite else [])]

    @contextmanager
    def apply_changes(self, changes: Iterable[Change]) -> Iterator[None]:
        """The parameters of `changes` moved, for a while."""
        import torch

        before: dict[str, Any] = {}
        with torch.no_grad():
            for seed, change in enumerate(changes, 1):
                for name, step in self._draw_steps(change, seed):
                    before.setdefault(name, self.parameters[name].clone())
                    self.parameters[name].add_(step)
            try:
                yield
            finally:
                for name, value in before.items():
                    self.parameters[name].copy_(value)

    def gradient_ratio(self, change: Change) -> float:
        """The gradient of what changes, beside that of its weight; of two opposites, their difference."""
        gradient = self.gradients.get(change.parameter)
        if gradient is None:
            return 0.0
        if change.opposite:
            gradient = gradient - self.gradients.get(change.opposite, 0)
        start, stop = change.part or (None, None)
        part = gradient[start:stop] if gradient.ndim else gradient
        beside = self.gradients.get(_weight_of(change.parameter))
        scale = float(beside.abs().max()) if beside is not None and beside.numel() else 0.0
        if not scale:  # a weight that this example leaves alone, as the hidden one of a single step
            weights = [g for g in self.gradients.values() if g.ndim > 1 and g.numel()]
            scale = max((float(g.abs().max()) for g in weights), default=0.0)
        return float(part.abs().max()) / scale if scale else float("inf")

    def output_change(self, changes: Iterable[Change]) -> float:
        """How far the outputs move, relative to their size, when all of `changes` are made at once."""
        with self.apply_changes(changes):
            return difference(self.outputs, self.outputs_now(), self._size)

    def output_change_from_zero(self, change: Change) -> float:
        """The same around a bias of 0: a very large one costs digits of float64 too, dead or not."""
        vector = self.parameters[change.parameter]
        kept = vector.clone()
        vector.zero_()
        try:
            before = self.outputs_now()
            with self.apply_changes([change]):
                return difference(before, self.outputs_now())
        finally:
            vector.copy_(kept)


def fill_zeros(module: Any) -> Any:
    """Give values to parameters that start as zeros: behind a head or a scale of zeros, everything would look dead."""
    import torch

    draw = torch.Generator().manual_seed(_SEED)
    for parameter in module.parameters():
        if parameter.is_floating_point() and parameter.numel() and not parameter.any():
            noise = torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
            parameter.data.copy_(noise / math.sqrt(max(parameter[0].numel() if parameter.ndim else 1, 1)))
    return module


def is_vector(tensor: Any) -> bool:
    """Whether at most one axis is longer than 1: the shape of a bias."""
    return sum(int(size) != 1 for size in tensor.shape) <= 1


def _weight_of(name: str) -> str:
    """The weight of a bias, by torch's names: ``weight`` of ``bias``, ``weight_hh_l0`` of ``bias_hh_l0``."""
    owner, dot, own = name.rpartition(".")
    return owner + dot + own.replace("bias", "weight") if "bias" in own else ""


def largest_value(tensors: Iterable[Any]) -> float:
    """The largest finite value; an infinity, as of a mask, is nobody's scale."""
    found = (o.abs()[o.isfinite()] for o in tensors)
    return max((float(o.max()) for o in found if o.numel()), default=0.0)


def difference(before: list[Any], after: list[Any], size: float | None = None) -> float:
    """The largest difference of two lists of outputs, relative to the largest value in the first."""
    import torch

    if len(before) != len(after) or any(a.shape != b.shape for a, b in zip(before, after, strict=True)):
        return float("inf")
    before, after = [b.detach() for b in before], [a.detach() for a in after]
    if size is None:
        size = largest_value(before)
    worst = 0.0
    for a, b in zip(before, after, strict=True):
        if not a.numel():
            continue
        same = (a == b) | (torch.isnan(a) & torch.isnan(b))
        gap = torch.where(same, torch.zeros_like(a), (a - b).abs())
        worst = max(worst, float(torch.nan_to_num(gap, nan=float("inf")).max()))
    return worst / size if size else (0.0 if worst == 0 else float("inf"))


def confirm(twin: Twin, changes: Mapping[str, Change]) -> dict[str, Measured]:
    """Measure each change: all at once where that moves nothing, else one by one."""
    if not changes:
        return {}
    together = twin.output_change(changes.values())
    found = {}
    for name, change in changes.items():
        moved = together if together <= TOLERANCE else twin.output_change([change])
        if TOLERANCE < moved <= ROUNDING and not change.opposite:
            moved = twin.output_change_from_zero(change)
        found[name] = _judge(moved, twin.gradient_ratio(change))
    return found


def _judge(moved: float, gradient: float) -> Measured:
    why = ""
    if not moved <= TOLERANCE:
        why = f"changing it moves the output by {moved:.1e} of its size"
    elif not gradient <= GRADIENT:
        why = f"its gradient is {gradient:.1e} of the weights'"
    return Measured(moved, gradient, not why, why)


_LARGE = 32  # from here on a smaller size is as telling, and faster


def measure_at_other_sizes(twin: Twin, changes: Mapping[str, Change]) -> dict[str, float]:
    """Of changes that the example does not depend on, those that it depends on at another size, and how much.

    Empty, too, where the module takes no other size.
    """
    for example in _resize(twin.example) if changes else ():
        try:
            before = twin.outputs_now(example)
        except Exception:  # noqa: S112  (whatever it is: that size is none of the module's)
            continue
        with twin.apply_changes(changes.values()):
            if difference(before, twin.outputs_now(example)) <= ROUNDING:
                return {}
        found = {}
        for name, change in changes.items():
            with twin.apply_changes([change]):
                moved = difference(before, twin.outputs_now(example))
            if moved > ROUNDING:
                found[name] = moved
        return found
    return {}


def _resize(example: Example) -> Iterator[Example]:
    """Sizes to try: odd ones first; the axes of places, as images and sequences have them."""
    rank = max((t.ndim for t in example.tensors() if t.is_floating_point()), default=0)
    places: dict[int, list[tuple[int, ...]]] = {3: [(1,), (2,)], 4: [(2, 3)], 5: [(2, 3, 4)]}
    for axes in places.get(rank, []):
        yield _grow(example, rank, axes, lambda size: (size * 5 // 8) | 1 if size >= _LARGE else size + 3)
        yield _grow(example, rank, axes, lambda size: 2 * size)


def _grow(example: Example, rank: int, axes: tuple[int, ...], size_of: Callable[[int], int]) -> Example:
    def change(tensor: Any) -> Any:
        if tensor.ndim != rank:
            return tensor
        for axis in axes:
            size, wanted = tensor.shape[axis], size_of(tensor.shape[axis])
            repeats = [1] * rank
            repeats[axis] = -(-wanted // max(size, 1))
            tensor = tensor.repeat(repeats).narrow(axis, 0, wanted)
        return tensor

    return example.map_tensors(change).vary(1)


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
