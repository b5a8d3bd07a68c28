"""A BatchNormalization that changes nothing goes away.

Given:  x [N, C, *d]; BatchNormalization in inference form whose scale rounds to 1 and shift to 0 in every channel.
Result: its readers read x.
Source: s = gamma / sqrt(var + eps) = 1 and t = beta - mean s = 0, in the type of the parameters.
"""

from __future__ import annotations

import numpy as np

from converter import numerics
from converter.model.graph import Bypass, Edit, Node
from converter.records import Safety
from converter.rewrite.analysis.affine import BATCH_NORM, Affine, affine_at, scale_and_shift, stats_problem
from converter.rewrite.analysis.facts import Facts
from converter.rewrite.passes import _checks
from converter.rewrite.passes._norms import bn_guards
from converter.rewrite.passes.base import Guard, Pass


def find(facts: Facts, node: Node) -> Affine | None:
    """A batch norm with scale 1 and shift 0, where that can be read."""
    bn = affine_at(node, 0)
    if bn is None or any(facts.constants.weight(t) is None for t in bn.params) or stats_problem(facts, bn):
        return None
    scale, shift = scale_and_shift(facts, bn)
    dtype = facts.weight(bn.params[0]).dtype
    if not numerics.is_float(dtype) or not np.isfinite(scale).all() or shift.any():
        return None
    return bn if (numerics.round_to(scale, dtype) == 1).all() else None


def plan(_: Facts, m: Affine) -> list[Edit]:
    """The node out."""
    return [Bypass(m.node, m.data)]


PASS = Pass(
    name="drop-identity-bn",
    summary="A BatchNormalization that changes nothing goes away",
    safety=Safety.ROUNDING,
    ops=frozenset(BATCH_NORM),
    find=find,
    guards=(
        *bn_guards(lambda m: [m], lambda m: []),
        Guard(
            "output-is-graph-output", lambda f, m: _checks.no_name(f, m.node, m.data), "names of outputs never change"
        ),
    ),
    plan=plan,
    output=lambda m: str(m.result.name),
    module=__name__,
    after=("merge-bn-into-bn",),
)
