"""What folds in both directions share: scale and shift as vectors, the new weight and bias, and their guards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from converter import numerics
from converter.model.graph import Node, Tensor
from converter.records import Weight
from converter.rewrite.analysis import linear as lin
from converter.rewrite.analysis.affine import Affine
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.analysis.linear import Linear
from converter.rewrite.passes import _checks
from converter.rewrite.passes.base import Guard

Array = NDArray[np.float64]
Check = Callable[[Facts, Any], str | None]

NO_BIAS_SLOT = "the product has no bias and more than two axes, so the shift has nowhere to go"
_WRONG = {
    "overflow": "would exceed its type",
    "rounding": "would lose its small values",
    "not-finite": "is not finite",
}


class Match(Protocol):
    """An affine node and a linear operator, with nodes between them."""

    @property
    def affine(self) -> Affine:
        """The node that goes."""

    @property
    def linear(self) -> Linear:
        """The operator that takes it in."""

    @property
    def memo(self) -> dict[str, Any]:
        """What guards found out about the match, for the next guard and the plan."""

    @property
    def tensors(self) -> list[tuple[Tensor, Node]]:
        """Each tensor between the two, with its one rightful reader."""


def replaced(m: Match) -> list[Tensor]:
    """Constants that the fold replaces: the weight, and the bias if there is one."""
    return [m.linear.weight, *([m.linear.bias] if m.linear.bias is not None else [])]


def holds_bias(facts: Facts, linear: Linear) -> bool:
    """Whether the operator can take a bias; a MatMul without Add only where it can become a Gemm."""
    return linear.bias_node is not None or (facts.rank(linear.node.inputs[0]) == 2 and linear.node.scope.opset >= 7)


def _swamps(facts: Facts, m: Match) -> str | None:
    return _checks.swamps(facts, m.affine)


def _spatial(facts: Facts, m: Match) -> str | None:
    return _checks.spatial(facts, m.affine)


def _weight_rank(facts: Facts, m: Match) -> str | None:
    return lin.weight_rank_problem(facts, m.linear)


@dataclass(frozen=True, slots=True)
class Fold:
    """The arithmetic of one direction.

    Attributes
    ----------
    spread : callable
        (facts, match) -> scale and shift, one number for each channel of the operator, or why there are none.
    scaled : callable
        (operator, weight, scale) -> the new weight.
    moved : callable
        (facts, match) -> the new bias; None where there is none.
    """

    spread: Callable[[Facts, Any], tuple[Array, Array] | str]
    scaled: Callable[[Linear, Weight, Array], Weight]
    moved: Callable[[Facts, Any], Array | None]

    def vectors(self, facts: Facts, m: Match) -> tuple[Array, Array] | str:
        """Scale and shift, each of shape [channels], or why there are none."""
        if "vectors" not in m.memo:
            m.memo["vectors"] = self.spread(facts, m)
        found: tuple[Array, Array] | str = m.memo["vectors"]
        return found

    def numbers(self, facts: Facts, m: Match) -> tuple[Array, Array]:
        """Scale and shift, once guards found that there are some."""
        found = self.vectors(facts, m)
        assert not isinstance(found, str)
        return found

    def weight(self, facts: Facts, m: Match) -> Weight:
        """The new weight."""
        return self.scaled(m.linear, facts.weight(m.linear.weight), self.numbers(facts, m)[0])

    def bias(self, facts: Facts, m: Match) -> Array | None:
        """The new bias; None where there is none."""
        if "bias" not in m.memo:
            m.memo["bias"] = self.moved(facts, m)
        found: Array | None = m.memo["bias"]
        return found

    def rounding(self, facts: Facts, m: Match, code: str) -> str | None:
        """What rounding the new weight to its type would do to it, if it is what `code` says."""
        if "rounding" not in m.memo:
            scales = (self.numbers(facts, m)[0] != 1).any()
            m.memo["rounding"] = numerics.rounding_problem(self.weight(facts, m)) if scales else None
        found = m.memo["rounding"]
        if found is None or found[0] != code:
            return None
        return f"the weight {m.linear.weight.name!r} {_WRONG[code]} in channel {found[1]}"

    def _per_channel(self, facts: Facts, m: Match) -> str | None:
        found = self.vectors(facts, m)
        return found if isinstance(found, str) else None

    def _not_finite(self, facts: Facts, m: Match) -> str | None:
        return _checks.finite_params(facts, m.affine, replaced(m)[1:]) or self.rounding(facts, m, "not-finite")

    def _overflow(self, facts: Facts, m: Match) -> str | None:
        weight = facts.weight(m.linear.weight)
        return self.rounding(facts, m, "overflow") or _checks.finite_result(self.bias(facts, m), weight, "the bias")

    def form(self, nodes: Callable[[Any], list[Node]], channels: Check, where: str) -> tuple[Guard, ...]:
        """Guards on what the match is made of; `channels` checks where the channels lie."""
        return (
            Guard(
                "function-attribute",
                lambda f, m: _checks.function_attributes(nodes(m)),
                "an attribute that each call of a function sets is not known in it",
            ),
            Guard("training-mode", lambda f, m: _checks.training(f, m.affine), "only running statistics are constants"),
            *_checks.use_guards(lambda m: m.tensors),
            Guard("divides-by-result", lambda f, m: _checks.divides(m.affine), "constant / x is not affine"),
            *_checks.constant_guards(lambda m: list(m.affine.params), replaced),
            Guard(
                "rounds", lambda f, m: _checks.swamps(f, m.affine), "a sum that rounds on purpose must stay as it is"
            ),
            Guard(
                "spatial-stats",
                lambda f, m: _checks.spatial(f, m.affine),
                "statistics must be one vector of the channels",
            ),
            Guard(
                "weight-rank",
                lambda f, m: lin.weight_rank_problem(f, m.linear),
                "the weight must have its operator's rank",
            ),
            Guard("not-float", lambda f, m: _checks.floats(f, replaced(m)), "folds are made in floating point"),
            Guard("channel-axis", channels, where),
            Guard(
                "not-per-channel",
                self._per_channel,
                "scale and shift must be one number per channel, or one number",
            ),
            Guard("non-positive-variance", lambda f, m: _checks.variance(f, m.affine), "its square root must exist"),
            Guard("not-finite", self._not_finite, "NaN and infinity must stay visible where they are"),
        )

    def result(self, no_bias_slot: Check, shared: Check, why_shared: str) -> tuple[Guard, ...]:
        """Guards on what the fold would make."""
        return (
            Guard("no-bias-slot", no_bias_slot, "the shift needs a bias to go to"),
            Guard("overflow", self._overflow, "the result must be finite in the type of the weight"),
            Guard(
                "rounding",
                lambda f, m: self.rounding(f, m, "rounding"),
                "underflow must not move a weight by more than 2 u max|W|",
            ),
            Guard("weight-shared", shared, why_shared),
        )
