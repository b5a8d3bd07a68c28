"""What becomes of a shift under operators on positions: padding, resizing, shuffling of pixels."""

from __future__ import annotations

import numpy as np

from converter.analysis.facts import Facts
from converter.analysis.outcomes import Carry, Outcome, Rule, Shifts, Stop, only
from converter.analysis.shifts import known
from converter.graph import Node


def _pad(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    source = node.tensor_in(1)
    value = None if source is None else facts.constants.evaluate(source)
    pads = list(node.attr("pads") or []) if source is None else (None if value is None else [int(v) for v in value])
    mode = node.attr("mode", "constant")
    if pads is None:
        return Stop("padding", "how much it pads is not known")
    if not any(pads):
        return Carry({0: s})
    if mode == "constant" or any(p < 0 for p in pads):
        return Stop("padding", "it pads with a constant that the shift does not reach")
    axes = list(range(s.rank))
    chosen = node.tensor_in(3)
    if chosen is not None:
        given = facts.constants.evaluate(chosen)
        if given is None:
            return Stop("padding", "the axes that it pads are not known")
        axes = [int(a) % s.rank for a in given.reshape(-1)]
    n = len(pads) // 2
    padded = [a for a, b, e in zip(axes, pads[:n], pads[n:], strict=True) if b or e]
    return Carry({0: s}) if s.constant_on(padded) else Stop("varies", "the shift varies along the axes that it pads")


def _resize(facts: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    if node.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return Stop("extrapolation", "it fills in a value outside of the picture, which the shift does not reach")
    if node.attr("antialias", 0):
        return Stop("stops", "it smooths while it resizes")
    before, after = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    for axis in s.varying:
        sizes = [None if d is None or axis >= len(d) else d[axis] for d in (before, after)]
        if sizes[0] is None or sizes[0] != sizes[1]:
            return Stop("varies", "it may resize an axis along which the shift varies")
    return Carry({0: s})


def _depth_to_space(_: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    if s.value is None or not s.constant_on((0, 2, 3)):
        return Stop("varies", "the shift varies over positions")
    if 1 in s.invariant:
        return Carry({0: s})
    n = node.attr("blocksize") ** 2
    d = s.value.reshape(-1)
    phases = d.reshape(n, -1) if node.attr("mode", "DCR") == "DCR" else d.reshape(-1, n).T
    if (phases == phases[0]).all():
        return Carry({0: known(phases[0].reshape(1, -1, 1, 1))})
    return Stop("phases", "it lays channels that are shifted differently side by side")


def _space_to_depth(_: Facts, node: Node, shifts: Shifts) -> Outcome:
    s = only(shifts)
    if isinstance(s, Stop):
        return s
    if s.value is None or not s.constant_on((0, 2, 3)):
        return Stop("varies", "the shift varies over positions")
    if 1 in s.invariant:
        return Carry({0: s})
    return Carry({0: known(np.tile(s.value, (1, node.attr("blocksize") ** 2, 1, 1)))})


SPACE_RULES: dict[str, Rule] = {
    "Pad": _pad,
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
