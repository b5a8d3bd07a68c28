"""Cutting two models where they differ: the right places, and each of them runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from converter.records import Verdict
from converter.referee.proto.diff import Difference, differences
from converter.referee.proto.source import Source
from converter.referee.verify.local import local
from converter.referee.verify.models import Options
from tests.referee.verify import nets


def cut(a: onnx.ModelProto, b: onnx.ModelProto) -> Difference:
    return differences(Source.open(a), Source.open(b), {"x": (1, 3, 8, 8)})


def judged(a: onnx.ModelProto, b: onnx.ModelProto, light: bool = False, partial: bool = False) -> dict[str, Verdict]:
    stage = local(cut(a, b), Source.open(a), Source.open(b), Options(), light=light, partial=partial)
    return {c.name: c.status for c in stage.outputs}


def hold(model: onnx.ModelProto, **values: np.ndarray) -> onnx.ModelProto:
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in values.items())
    return model


RNG = np.random.default_rng(0)
W = RNG.standard_normal((3, 3, 3, 3))
GAMMA, VAR = RNG.uniform(0.5, 2, 3), RNG.uniform(0.5, 2, 3)
BETA, MEAN = RNG.standard_normal(3), RNG.standard_normal(3)
SCALE = GAMMA / np.sqrt(VAR + 1e-5)
FOLDED = {"n/biasopt/w": W * SCALE.reshape(-1, 1, 1, 1), "n/biasopt/b": BETA - MEAN * SCALE}
BN = {"gamma": GAMMA, "beta": BETA, "mean": MEAN, "var": VAR}
HEAD = '<ir_version: 8, opset_import: ["" : 17, "f" : 1]>'


def test_the_same_nodes_are_no_difference() -> None:
    model = nets.plain()
    assert cut(model, nets.plain()).is_empty
    assert not cut(model, nets.fold(model)).is_empty


def test_every_fold_is_one_segment_of_its_own_nodes() -> None:
    model = nets.residual()
    found = cut(model, nets.fold(model))
    assert not found.unmatched
    assert len(found.segments) == 9
    for segment in found.segments:
        assert [n.op_type for n in segment.before.graph.node] == ["Conv", "BatchNormalization"]
        assert [n.op_type for n in segment.after.graph.node] == ["Conv"]
        assert len(segment.before.graph.input) == 1
        assert segment.before.graph.output[0].name == segment.after.graph.output[0].name == segment.output


def test_a_constant_that_changed_under_its_name_is_a_difference() -> None:
    model, other = nets.plain(), nets.plain()
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "w0"))
    found = cut(model, other)
    assert [s.output for s in found.segments] == ["conv0"]


def body(inner: str) -> str:
    return f"""{HEAD}
        g (float[1,3,8,8] x, bool c) => (float[1,3,6,6] y) {{
            y = If(c) <
                then_branch = yes () => (float[1,3,6,6] p) {{ {inner} }},
                else_branch = no () => (float[1,3,6,6] q) {{ q = Conv(x, w) }}
            >
        }}
    """


@pytest.mark.parametrize("light", [False, True])
def test_subgraphs_are_compared_as_scopes_of_their_own(light: bool) -> None:
    before = hold(
        parser.parse_model(body("a = Conv(x, w) p = BatchNormalization(a, gamma, beta, mean, var)")), w=W, **BN
    )
    after = hold(parser.parse_model(body('p = Conv(x, "n/biasopt/w", "n/biasopt/b")')), w=W, **FOLDED)
    assert judged(before, after, light) == {"/y.then_branch/p": Verdict.PASS}
    wrong = hold(parser.parse_model(body('p = Conv(x, "n/biasopt/w")')), w=W, **FOLDED)
    assert judged(before, wrong, light) == {"/y.then_branch/p": Verdict.FAIL}


def function(inner: str) -> str:
    return f"""{HEAD}
        g (float[1,3,8,8] x) => (float[1,3,6,6] y) {{ y = f.block<eps = 0.25>(x, w) }}
        <domain: "f", opset_import: ["" : 17]>
        block <eps> (v, k) => (r) {{
            gamma = Constant<value_floats = [0.5, 2.0, 1.5]>()
            zero = Constant<value_floats = [0.0, 0.0, 0.0]>()
            one = Constant<value_floats = [1.0, 1.0, 1.0]>()
            {inner}
        }}
    """


def test_functions_are_compared_as_their_first_caller_sees_them() -> None:
    norm = "a = Conv(v, k) r = BatchNormalization<epsilon: float = @eps>(a, gamma, zero, zero, one)"
    before = hold(parser.parse_model(function(norm)), w=W)
    scales = [g / np.sqrt(1.25) for g in (0.5, 2.0, 1.5)]
    text = "s = Constant<value = float[3,1,1] {%r, %r, %r}>() a = Conv(v, k) r = Mul(a, s)"
    after = hold(parser.parse_model(function(text % tuple(float(np.float32(s)) for s in scales))), w=W)
    (segment,) = cut(before, after).segments
    assert segment.scope.startswith("function f.block")
    stage = local(cut(before, after), Source.open(before), Source.open(after), Options())
    assert [c.status for c in stage.outputs] == [Verdict.PASS]
    wrong = hold(parser.parse_model(function(text % (0.5, 2.0, 1.5))), w=W)
    stage = local(cut(before, wrong), Source.open(before), Source.open(wrong), Options())
    assert stage.status is Verdict.INCONCLUSIVE  # not ours by name: nothing says that the names mean the same


def test_constants_that_are_computed_stay_what_they_are() -> None:
    before = hold(
        parser.parse_model(f"""{HEAD}
            g (float[1,3,8,8] x) => (float[1,3,6,6] y)
            <float zero = {{0.0}}> {{
                size = Shape<start = 0, end = 1>(w)
                wide = Expand(zero, size)
                bias = CastLike(wide, w)
                a = Conv(x, w, bias)
                y = BatchNormalization(a, gamma, beta, mean, var)
            }}
        """),
        w=W,
        **BN,
    )
    after = hold(
        parser.parse_model(
            f'{HEAD} g (float[1,3,8,8] x) => (float[1,3,6,6] y) {{ y = Conv(x, "n/biasopt/w", "n/biasopt/b") }}'
        ),
        **FOLDED,
    )
    (segment,) = cut(before, after).segments
    assert [i.name for i in segment.before.graph.input] == ["x"]
    assert judged(before, after) == {"y": Verdict.PASS}


def test_shapes_computed_from_the_input_are_not_random_numbers() -> None:
    text = f"""{HEAD}
        g (float[1,3,8,8] x) => (float[1,k] y) {{{{
            n = Shape<start = 0, end = 1>(x)
            rest = Constant<value = int64[1] {{{{-1}}}}>()
            shape = Concat<axis = 0>(n, rest)
            r = Relu(x)
            {{}}
        }}}}
    """
    before = parser.parse_model(text.format("a = Neg(r) b = Neg(a) y = Reshape(b, shape)"))
    after = parser.parse_model(text.format("y = Reshape(r, shape)"))
    (segment,) = cut(before, after).segments
    assert sorted(i.name for i in segment.after.graph.input) in (["r", "x"], ["r"])
    assert judged(before, after) == {"y": Verdict.PASS}


def test_what_only_one_side_reads_is_made_from_what_both_read() -> None:
    """B computes y from x; A from x and from a tensor that both models have."""
    before = parser.parse_model(
        f"{HEAD} g (float[3] x) => (float[3] y, float[3] z) {{ a = Neg(x) z = Abs(a) y = Add(x, a) }}"
    )
    after = parser.parse_model(
        f"{HEAD} g (float[3] x) => (float[3] y, float[3] z) {{ a = Neg(x) z = Abs(a) y = Sub(x, x) }}"
    )
    found = differences(Source.open(before), Source.open(after), None)
    (segment,) = found.segments
    assert [i.name for i in segment.before.graph.input] == ["x"]


def test_open_sizes_are_read_off_the_weights() -> None:
    text = "{} g (float[n,c,h,w] x) => (float[a,b,d,e] y) {{ {} }}"
    before = hold(
        parser.parse_model(text.format(HEAD, "a = Conv(x, w) y = BatchNormalization(a, gamma, beta, mean, var)")),
        w=W,
        **BN,
    )
    after = hold(parser.parse_model(text.format(HEAD, 'y = Conv(x, "n/biasopt/w", "n/biasopt/b")')), **FOLDED)
    assert judged(before, after) == {"y": Verdict.PASS}


def test_a_segment_that_cannot_run_is_no_pass() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17, "mine" : 1]> g (float[3] x) => (float[3] y) {{ {} }}'
    before, after = (parser.parse_model(text.format(t)) for t in ("y = mine.One(x)", "y = mine.Two(x)"))
    assert judged(before, after) == {"y": Verdict.INCONCLUSIVE}


def test_partial_checks_leave_out_what_they_cannot_run() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17, "mine" : 1]> g (float[3] x) => (float[3] y) {{ {} }}'
    before, after = (parser.parse_model(text.format(t)) for t in ("y = mine.One(x)", "y = mine.Two(x)"))
    assert judged(before, after, light=True, partial=True) == {}


def test_external_weights_are_read_one_segment_at_a_time(tmp_path) -> None:
    model = nets.plain()
    folded = nets.fold(model)
    paths = []
    for name, proto in (("a", model), ("b", folded)):
        paths.append(tmp_path / f"{name}.onnx")
        onnx.save(proto, paths[-1], save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    a, b = (Source.open(p) for p in paths)
    found = differences(a, b, {"x": (1, 3, 16, 16)})
    assert len(found.segments) == 3
    assert all(t.raw_data == b"" for s in found.segments for t in s.after.graph.initializer)
    stage = local(found, a, b, Options())
    assert stage.status is Verdict.PASS
