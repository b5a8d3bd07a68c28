"""Rules of norms and of attention: where a change ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converter.torch_models.lint.shift import Call, Effect, Shift, add_effects

Rule = Callable[[Call], Any]


def _offset(call: Call, axes: tuple[int, ...]) -> Effect:
    """The change of the norm's own offset (its beta)."""
    change = call.change("bias")
    if not isinstance(change, Shift):
        return change  # type: ignore[no-any-return]
    return change.move_axes(lambda axis: axes[axis])


def _end_at_norm(call: Call, over: set[int], kind: str, own: tuple[int, ...]) -> Effect:
    """A norm that subtracts the mean over the axes `over`."""
    change = call.change("input")
    if call.change("weight") is not None:
        return call.block("scales")
    if isinstance(change, Shift) and (change.touches(over) or change.masked):
        return call.block("the norm's mean is not what is added to each element")
    if change is not None and not isinstance(change, Shift):
        return call.block()
    if change is not None:
        call.cancel(kind, (call.node,))
    return _offset(call, own)


def _batch_norm(call: Call) -> Effect:
    rank = call.rank
    training = call.args.get("training", call.args.get("use_input_stats"))
    if training:
        return _end_at_norm(call, {0, *range(2, rank)}, "batch-norm", (1,))
    return _fixed_norm(call)


def _instance_norm(call: Call) -> Effect:
    if call.args["use_input_stats"]:
        return _end_at_norm(call, set(range(2, call.rank)), "instance-norm", (1,))
    return _fixed_norm(call)


def _fixed_norm(call: Call) -> Effect:
    """Statistics that are stored: scale and offset by channel, nothing that a change could hide from."""
    change = call.change("input")
    if call.change("weight") is not None or any(call.change(n) is not None for n in ("running_mean", "running_var")):
        return call.block("scales")
    if isinstance(change, Shift) and not change.masked:
        others = {0, *range(2, call.rank)}
        if call.absorb_frozen and call.args.get("bias") is not None and not change.touches(others):
            call.cancel("frozen-norm", (call.node,))
            change = None
        else:
            change = change.with_new_values(change.varies | {1})
    return add_effects(change, _offset(call, (1,)))


def _group_norm(call: Call) -> Effect:
    channels = call.out_shape[1]
    spatial = set(range(2, call.rank))
    each = call.args["num_groups"] == channels
    return _end_at_norm(call, spatial if each else {1, *spatial}, "group-norm", (1,))


def _layer_norm(call: Call) -> Effect:
    n = len(call.args["normalized_shape"])
    axes = tuple(range(call.rank - n, call.rank))
    return _end_at_norm(call, set(axes), "layer-norm", axes)


def _attention(call: Call) -> Effect:
    """Scores are shifted alike for every key if the keys are; then the softmax does not see it."""
    rank = call.rank
    keys = rank - 2
    q, k, v = (call.change(name) for name in ("query", "key", "value"))
    if call.others_changed("query", "key", "value") or q is not None:
        return call.block("the query depends on it")
    if k is not None:
        if not isinstance(k, Shift) or k.touches([keys]) or k.masked:
            return call.block("it differs from key to key")
        call.cancel("attention", (call.node,))
    if v is None:
        return None
    whole = call.args.get("attn_mask") is None and not call.args.get("dropout_p")
    if not isinstance(v, Shift) or v.touches([keys]) or not whole or call.args.get("enable_gqa"):
        return call.block("rows of weights need not sum to 1 over it")
    return v.with_new_values(v.varies)


RULES: dict[str, Rule] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "scaled_dot_product_attention": _attention,
}
