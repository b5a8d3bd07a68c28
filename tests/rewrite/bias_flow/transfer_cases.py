"""Operators with their attributes, and which shifts they carry, drop or feel."""

from __future__ import annotations

from tests.rewrite.bias_flow.cases_attention import ATTENTION, EINSUM
from tests.rewrite.bias_flow.cases_linear import CONV, MATRIX
from tests.rewrite.bias_flow.cases_norm import NORM, POOL, REDUCE
from tests.rewrite.bias_flow.cases_plain import CHOICE, PLAIN
from tests.rewrite.bias_flow.cases_shape import MOVE

CASES = [*PLAIN, *CHOICE, *POOL, *REDUCE, *NORM, *MOVE, *CONV, *MATRIX, *EINSUM, *ATTENTION]
