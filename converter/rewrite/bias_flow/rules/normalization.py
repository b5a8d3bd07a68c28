"""What becomes of a shift under pools (MaxPool, averages), reductions, norms and softmax."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from converter.model.graph import Node
from converter.records import EffectKind
from converter.rewrite.analysis.affine import affine_at, training_problem
from converter.rewrite.analysis.channel_axis import average_counts_padding, is_average, is_pool
from converter.rewrite.analysis.facts import Facts, further_outputs
from converter.rewrite.bias_flow.shift import Block, Cancel, Effect, Rule, Shift, Shifts, one_shift, tensor_at


@one_shift
def _pool(_: Facts, node: Node, s: Shift) -> Shift | Effect:
    if not is_pool(node):
        return Block("stops", "its indices are read as well")
    if is_average(node) and average_counts_padding(node):
        return Block("counted-padding", "it averages padded zeros in, which the shift does not reach")
    if not s.constant_on(range(2, s.rank)):
        return Block("varies", "the shift varies over the positions that it pools")
    return s


def read_reduced_axes(facts: Facts, node: Node, rank: int) -> list[int] | None:
    """Axes that a reduction works on; None if they are not known."""
    source = node.tensor_in(1)
    if source is not None:
        value = facts.constants.evaluate(source)
        if value is None:
            return None
        axes = [int(a) for a in value.reshape(-1)]
    else:
        axes = list(node.attr("axes") or [])
    if not axes:
        return [] if node.attr("noop_with_empty_axes", 0) else list(range(rank))
    return [a % rank for a in axes]


@one_shift
def _reduce(facts: Facts, node: Node, s: Shift) -> Shift | Effect:
    axes = read_reduced_axes(facts, node, s.rank)
    if axes is None:
        return Block("axes", "its axes are known at run time only")
    if not s.constant_on(axes):
        return Block("varies", "the shift varies along the axes that it reduces")
    times = 1.0
    if node.op == "ReduceSum":
        shape = facts.shape(tensor_at(node, 0))
        extents = [None if shape is None else shape[a] for a in axes]
        if any(not isinstance(d, int) for d in extents):
            return Block("axes", "the number of elements that it sums is not known")
        times = float(np.prod([d for d in extents if isinstance(d, int)]))
    out = s if node.attr("keepdims", 1) else s.move_axes(lambda d: np.squeeze(d, tuple(axes)))
    if out.value is None:  # a mean of what does not vary is what it is
        return out if node.op != "ReduceSum" else out.tagged(None)
    return Shift.of_value(out.value * times)


def _subtract_mean(axes_of: Callable[[Facts, Node, int], list[int] | None], what: str) -> Rule:
    """A norm that subtracts the mean over some axes."""

    @one_shift
    def effect(facts: Facts, node: Node, s: Shift) -> Effect:
        if further_outputs(node):
            return Block("stops", "the mean that it gives as well would change")
        axes = axes_of(facts, node, s.rank)
        if axes is None:
            return Block("stops", "its axes are not known")
        if s.constant_on(axes):
            return Cancel(EffectKind.NORM, f"{what} subtracts the mean, the shift with it")
        return Block("norm-mixes-channels", "it takes the mean over channels that are shifted differently")

    return Rule(effect)


def _read_layer_axes(_: Facts, node: Node, rank: int) -> list[int]:
    return list(range(node.attr("axis", -1) % rank, rank))


def _read_mvn_axes(_: Facts, node: Node, rank: int) -> list[int]:
    return [a % rank for a in (node.attr("axes") or [0, 2, 3])]


@one_shift
def _group_norm(facts: Facts, node: Node, s: Shift) -> Effect:
    shape = facts.shape(tensor_at(node, 0))
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    groups = node.attr("num_groups", 0)
    if not s.constant_on(range(2, s.rank)):
        return Block("varies", "the shift varies over positions")
    if s.constant_on([1]) or (groups and channels == groups):
        return Cancel(EffectKind.NORM, "group normalisation subtracts the mean, the shift with it")
    if s.value is not None and groups and s.value.shape[1] % groups == 0:
        grouped = s.value.reshape(s.value.shape[0], groups, -1)
        if (grouped == grouped[:, :, :1]).all():
            return Cancel(EffectKind.NORM, "every channel of a group is shifted alike")
    return Block("norm-mixes-channels", "it takes the mean over channels that are shifted differently")


def _batch_norm(facts: Facts, node: Node, shifts: Shifts) -> Effect:
    """One in training, or one whose mean is shifted as well, as it is where the mean is computed of the same input."""
    if set(shifts) == {0, _MEAN} and _is_same_vector(shifts[0], shifts[_MEAN]):
        return Cancel(EffectKind.NORM, "the mean that it subtracts holds the same shift")
    return _batch_norm_alone(facts, node, shifts)


_MEAN = 3  # its slot


def _is_same_vector(s: Shift, mean: Shift) -> bool:
    """Whether a shift of the channels, on axis 1, is that of a vector of them."""
    if s.value is None or mean.value is None or s.rank < 2 or not s.constant_on([0, *range(2, s.rank)]):
        return False
    one, other = np.broadcast_arrays(s.value.reshape(-1), mean.value.reshape(-1))
    return mean.rank == 1 and bool((one == other).all())


@one_shift
def _batch_norm_alone(_: Facts, node: Node, s: Shift) -> Effect:
    affine = affine_at(node, 0)
    if affine is None or training_problem(affine) is None:
        return Block("batch-norm", "its statistics are fixed, so it depends on the shift")
    if node.scope.opset < 14:
        return Block("batch-norm", "before opset 14 runtimes differ on what training means")
    if further_outputs(node):
        return Block("batch-norm", "the statistics that it gives would change")
    if s.constant_on([0, *range(2, s.rank)]):
        return Cancel(EffectKind.NORM, "batch normalisation in training subtracts the batch's mean")
    return Block("varies", "the shift varies over positions")


def find_softmax_axes(node: Node, rank: int) -> list[int]:
    """Axes over which a softmax's weights sum to one: before opset 13 all from `axis` on."""
    if node.scope.opset < 13:
        return list(range(node.attr("axis", 1) % rank, rank))
    return [node.attr("axis", -1) % rank]


@one_shift
def _softmax(_: Facts, node: Node, s: Shift) -> Effect:
    if s.constant_on(find_softmax_axes(node, s.rank)):
        return Cancel(EffectKind.SOFTMAX, "softmax does not depend on what all its entries share")
    return Block("softmax", "its entries are shifted differently")


@one_shift
def _arg(_: Facts, node: Node, s: Shift) -> Effect:
    if s.constant_on([node.attr("axis", 0) % s.rank]):
        return Cancel(EffectKind.SOFTMAX, "the place of the extreme stays where it is")
    return Block("stops", "its entries are shifted differently")


NORMALIZATION_RULES: dict[str, Rule] = {
    **dict.fromkeys(("MaxPool", "AveragePool"), Rule(_pool, trunk=True)),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), Rule(_pool)),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"), Rule(_reduce)),
    "InstanceNormalization": _subtract_mean(lambda _, __, r: list(range(2, r)), "instance normalisation"),
    "LayerNormalization": _subtract_mean(_read_layer_axes, "layer normalisation"),
    "MeanVarianceNormalization": _subtract_mean(_read_mvn_axes, "mean-variance normalisation"),
    "GroupNormalization": Rule(_group_norm),
    "BatchNormalization": Rule(_batch_norm),
    "Softmax": Rule(_softmax, masked=True),
    "LogSoftmax": Rule(_softmax),
    **dict.fromkeys(("ArgMax", "ArgMin"), Rule(_arg)),
}
