"""Operators with their attributes, and which shifts they carry, drop or depend on."""

from __future__ import annotations

from tests.rewrite.bias_flow.rules.cases_attention import ATTENTION, EINSUM
from tests.rewrite.bias_flow.rules.cases_elementwise import CHOICE, PLAIN
from tests.rewrite.bias_flow.rules.cases_layout import MOVE
from tests.rewrite.bias_flow.rules.cases_normalization import NORM, POOL, REDUCE
from tests.rewrite.bias_flow.rules.cases_product import CONV, MATRIX

CASES = [*PLAIN, *CHOICE, *POOL, *REDUCE, *NORM, *MOVE, *CONV, *MATRIX, *EINSUM, *ATTENTION]
