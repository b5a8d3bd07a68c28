"""What is told of the ways of attention's biases."""

from __future__ import annotations

from dataclasses import replace

import converter
from converter.report.content.bias_path import describe_step
from tests.rewrite.bias_flow.attention_nets import ROWS
from tests.rewrite.bias_flow.fused_nets import FUSED


def test_readers_of_the_shape_alone_are_no_ends() -> None:
    """Exporters ask for sizes everywhere: what becomes of the bias is told by the others."""
    case = next(c for c in FUSED if c.name == "split")
    proto = replace(case, body="size = Shape(f) " + case.body).build()
    fate = converter.explain(proto, "f", allow_growth=1.0, skip=("drop-unread-node",))
    assert fate.where == "P, mo"
    assert fate.why.endswith("depends on its query part: its entries are shifted differently; its key part is dead;"
                             " its value part went to mo")  # fmt: skip
    assert [hop.op for hop in fate.path].count("Shape") == 3  # once for each part


def test_a_guard_after_softmax_is_named() -> None:
    row = next(r for r in ROWS if r.name == "mask at run time, guarded")
    fate = converter.explain(row.build(), "v")
    (hop,) = (h for h in fate.path if h.node == "z")
    assert describe_step(hop) == "it is multiplied by data: after Where (P) its weights need not sum to one"
    plain = converter.explain(next(r for r in ROWS if r.name == "sigmoid").build(), "v")
    (hop,) = (h for h in plain.path if h.node == "z")
    assert describe_step(hop) == "multiplies it by data; along one axis it stays the same"
