"""The identities that bring a place to its normal form, and how much rounding each may add, for all inputs.

Measured by the bound of Higham (Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 2.2, 3.1, 3.5): an
operation rounds its result once (u times its size), a sum of n products n times (gamma_n), and every tensor that comes
in is known to one rounding. A bias is added to the finished sum, as the kernels of MLAS, oneDNN and cuDNN do. R is the
sum of all that, carried to the place's output. P = |s| |W| |x|, and |b'| <= |y| + P, from y = W' x + b'.

* ``SCALE``, y = s (W x) as (s W) x: each weight is rounded once more, the product with s goes: (n + 1) u P, as before.
  The same for W (s x), and where y passes what hands values, or maxima of them, on: f(s y) = s f(y).
  Where s goes into both terms of a sum, s (W x + V z), each has a rounding of its own:
  (n + 1) u P + (m + 1) u Q against n u P + m u Q + ..., at most twice.
* ``SHIFT``, y = s (W x + b) + t as (s W) x + (s b + t): (n + 2) u P + 2 u |y| against n u P + u |s (W x + b)| + u |y|,
  and one more u P from x: at most twice. Two additions in a row, (x + a) + b as x + (a + b): 2 u |x| + 2 u |y|
  against u |x| + u |x + a| + u |y|, twice.
* ``NORM_KEPT``, s ((z + b) - m) + t as s (z - (m - b)) + t, where the batch norm stays and computes with the new mean
  in its own precision: four times, twice from n = 4 on.
* ``SIBLINGS``, (W x + b) + (V z + d) as W x + (V z + (b + d)): three times, twice from n = 2 on.

The others move a shift through a sum, or let one cancel, and have no such constant: W (x + b) as W x + W b may cancel
where x + b did not, a mean over n elements rounds n times, and what is added before a cast to a narrower type is
rounded with the sum. Their places are measured, on what comes to them.
`tests/proofs/test_rounding.py` proves the constants and looks for counter-examples in float16.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Law(StrEnum):
    """An identity that the normal form applies."""

    SCALE = "scale-into-weights"
    SHIFT = "shift-into-bias"
    NORM_KEPT = "shift-into-mean"
    SIBLINGS = "shift-across-sum"
    THROUGH_WEIGHTS = "shift-through-weights"
    PRODUCT = "scale-into-factor"
    THROUGH_MEAN = "shift-through-mean"
    CENTRED = "shift-cancels-in-norm"
    SOFTMAX = "shift-cancels-in-softmax"
    ROWS = "rows-sum-to-one"
    CAST = "shift-through-cast"


FACTOR: dict[Law, float | None] = {
    Law.SCALE: 2.0,
    Law.SHIFT: 2.0,
    Law.NORM_KEPT: 4.0,
    Law.SIBLINGS: 3.0,
    Law.THROUGH_WEIGHTS: None,
    Law.PRODUCT: None,
    Law.THROUGH_MEAN: None,
    Law.CENTRED: None,
    Law.SOFTMAX: None,
    Law.ROWS: None,
    Law.CAST: None,
}


def find_factor(laws: Iterable[Law]) -> float | None:
    """How many times the original's rounding a place may have that these laws explain; None where none says."""
    worst = 1.0
    for law in laws:
        factor = FACTOR[law]
        if factor is None:
            return None
        worst = max(worst, factor)
    return worst
