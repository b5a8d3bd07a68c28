"""Operators with their attributes, and which shifts they carry, drop or feel."""

from __future__ import annotations

from tests.analysis.cases_attention import ATTENTION, EINSUM
from tests.analysis.cases_linear import CONV, MATRIX
from tests.analysis.cases_norm import NORM, POOL, REDUCE
from tests.analysis.cases_plain import CHOICE, PLAIN
from tests.analysis.cases_shape import MOVE

CASES = [*PLAIN, *CHOICE, *POOL, *REDUCE, *NORM, *MOVE, *CONV, *MATRIX, *EINSUM, *ATTENTION]
