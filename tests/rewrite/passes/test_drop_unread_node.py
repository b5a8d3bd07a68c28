"""A branch that nobody reads goes away: its rows."""

from __future__ import annotations

import onnx
import pytest

import converter
from converter.records import FateKind
from tests.cases.case import fold, refuse
from tests.rewrite.passes.moved_maps import net, norm
from tests.rewrite.passes.walk import PassRows

P = "drop-unread-node"
TEXT = "(float[2,3,11,13] x) => (float[2,5,9,11] y) {{ c = Conv (x, w) {} {} }}"


def annotated() -> onnx.ModelProto:
    """Something beside the nodes names what is not read: the zero point of a quantization."""
    proto = net(TEXT.format("d = Sigmoid (c)", "y = Relu (c)"), w=(5, 3, 3, 3))()
    note = proto.graph.quantization_annotation.add(tensor_name="w")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="d")
    return proto


@pytest.mark.parametrize("branch", ["d = Sigmoid (c) e = Conv (d, u, b)", "e = Conv (x, w, b)"])
def test_what_it_read_folds(branch: str) -> None:
    """The batch norm goes into the convolution that the branch read, and the branch's bias is dead."""
    proto = net(TEXT.format(branch, norm("c", "y")), bn={"": 5}, w=(5, 3, 3, 3), u=(7, 5, 1, 1), b=(7,))()
    result = converter.fold(proto)
    assert result.parity is not None and result.parity.verdict == "PASS"
    assert [n.op_type for n in result.model.graph.node] == ["Conv"]
    assert [f.kind for f in result.fates if f.elements == 7] == [FateKind.DEAD]


class TestDropUnreadNode(PassRows):
    name = P
    own = (
        fold(
            "unread-sigmoid",
            net(TEXT.format("d = Sigmoid (c)", "y = Relu (c)"), w=(5, 3, 3, 3)),
            P,
            "Conv Relu",
        ),
        refuse(
            "unread-but-annotated",
            annotated,
            P,
            "several-readers",
            "Conv Sigmoid Relu",
            net(TEXT.format("d = Sigmoid (c)", "y = Relu (c)"), w=(5, 3, 3, 3)),
            ort=False,
        ),
    )
