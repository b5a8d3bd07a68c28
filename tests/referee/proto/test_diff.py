"""Cutting two models where they differ: the right places, and each of them runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from converter.records import Verdict
from converter.referee.proto.diff import ChangedRegions, find_changed_regions
from converter.referee.proto.source import LoadedModel
from converter.referee.verify.models import Options
from converter.referee.verify.region_replay import run_regions
from tests.referee.verify import nets


def cut(a: onnx.ModelProto, b: onnx.ModelProto) -> ChangedRegions:
    return find_changed_regions(LoadedModel.open(a), LoadedModel.open(b), {"x": (1, 3, 8, 8)})


def judged(a: onnx.ModelProto, b: onnx.ModelProto, light: bool = False, partial: bool = False) -> dict[str, Verdict]:
    stage = run_regions(cut(a, b), LoadedModel.open(a), LoadedModel.open(b), Options(), light=light, partial=partial)
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


def test_every_fold_is_one_region_of_its_own_nodes() -> None:
    model = nets.residual()
    found = cut(model, nets.fold(model))
    assert not found.unmatched
    assert len(found.regions) == 9
    for region in found.regions:
        assert [n.op_type for n in region.before.graph.node] == ["Conv", "BatchNormalization"]
        assert [n.op_type for n in region.after.graph.node] == ["Conv"]
        assert len(region.before.graph.input) == 1
        assert region.before.graph.output[0].name == region.after.graph.output[0].name == region.output


def test_a_constant_that_changed_under_its_name_is_a_difference() -> None:
    model, other = nets.plain(), nets.plain()
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "w0"))
    found = cut(model, other)
    assert [s.output for s in found.regions] == ["conv0"]


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
    (region,) = cut(before, after).regions
    assert region.scope.startswith("function f.block")
    stage = run_regions(cut(before, after), LoadedModel.open(before), LoadedModel.open(after), Options())
    assert [c.status for c in stage.outputs] == [Verdict.PASS]
    wrong = hold(parser.parse_model(function(text % (0.5, 2.0, 1.5))), w=W)
    stage = run_regions(cut(before, wrong), LoadedModel.open(before), LoadedModel.open(wrong), Options())
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
    (region,) = cut(before, after).regions
    assert [i.name for i in region.before.graph.input] == ["x"]
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
    (region,) = cut(before, after).regions
    assert sorted(i.name for i in region.after.graph.input) in (["r", "x"], ["r"])
    assert judged(before, after) == {"y": Verdict.PASS}


def test_what_only_one_side_reads_is_made_from_what_both_read() -> None:
    """B computes y from x; A from x and from a tensor that both models have."""
    before = parser.parse_model(
        f"{HEAD} g (float[3] x) => (float[3] y, float[3] z) {{ a = Neg(x) z = Abs(a) y = Add(x, a) }}"
    )
    after = parser.parse_model(
        f"{HEAD} g (float[3] x) => (float[3] y, float[3] z) {{ a = Neg(x) z = Abs(a) y = Sub(x, x) }}"
    )
    found = find_changed_regions(LoadedModel.open(before), LoadedModel.open(after), None)
    (region,) = found.regions
    assert [i.name for i in region.before.graph.input] == ["x"]


def test_open_sizes_are_read_off_the_weights() -> None:
    text = "{} g (float[n,c,h,w] x) => (float[a,b,d,e] y) {{ {} }}"
    before = hold(
        parser.parse_model(text.format(HEAD, "a = Conv(x, w) y = BatchNormalization(a, gamma, beta, mean, var)")),
        w=W,
        **BN,
    )
    after = hold(parser.parse_model(text.format(HEAD, 'y = Conv(x, "n/biasopt/w", "n/biasopt/b")')), **FOLDED)
    assert judged(before, after) == {"y": Verdict.PASS}


def test_a_region_that_cannot_run_is_no_pass() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17, "mine" : 1]> g (float[3] x) => (float[3] y) {{ {} }}'
    before, after = (parser.parse_model(text.format(t)) for t in ("y = mine.One(x)", "y = mine.Two(x)"))
    assert judged(before, after) == {"y": Verdict.INCONCLUSIVE}


def test_partial_checks_leave_out_what_they_cannot_run() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17, "mine" : 1]> g (float[3] x) => (float[3] y) {{ {} }}'
    before, after = (parser.parse_model(text.format(t)) for t in ("y = mine.One(x)", "y = mine.Two(x)"))
    assert judged(before, after, light=True, partial=True) == {}


def test_external_weights_are_read_one_region_at_a_time(tmp_path) -> None:
    model = nets.plain()
    folded = nets.fold(model)
    paths = []
    for name, proto in (("a", model), ("b", folded)):
        paths.append(tmp_path / f"{name}.onnx")
        onnx.save(proto, paths[-1], save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    a, b = (LoadedModel.open(p) for p in paths)
    found = find_changed_regions(a, b, {"x": (1, 3, 16, 16)})
    assert len(found.regions) == 3
    assert all(t.raw_data == b"" for s in found.regions for t in s.after.graph.initializer)
    stage = run_regions(found, a, b, Options())
    assert stage.status is Verdict.PASS
