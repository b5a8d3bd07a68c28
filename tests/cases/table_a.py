"""Table A: 66 models that a folder should fold and 28 that it must leave alone.

65 of the 66 fold today. One is ``later``: weights behind DequantizeLinear, which must come out
numerically equal all the same.
"""

from __future__ import annotations

from tests.cases import a_affine, a_conv_bn, a_dtype, a_forward, a_linear_bn, a_scope
from tests.cases.case import Case

SECTIONS = (a_conv_bn, a_linear_bn, a_scope, a_dtype, a_affine, a_forward)
ROWS: tuple[Case, ...] = tuple(case for section in SECTIONS for case in section.ROWS)
