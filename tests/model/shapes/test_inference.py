"""Sizes that a model computes: every shape and value that is taken as known is what running the model gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser

from converter.model.graph import Graph, load
from converter.model.shapes.inference import computes_sizes
from converter.model.shapes.symbols import size
from converter.referee.reference.evaluator import Reference
from converter.runtime import Session


def model(text: str, opset: int = 17, **constants: Any) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    for name, value in constants.items():
        dtype = np.float32 if isinstance(np.ravel(value)[0].item(), float) else np.int64
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
    return proto


def ran(proto: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Every tensor of the main graph."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    for node in copy.graph.node:
        copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output)
    return {**feeds, **Reference(copy).run(feeds)}


def check(proto: onnx.ModelProto, *, n: tuple[int, ...] = (1, 2, 3)) -> Graph:
    """Run with several sizes of N: what is said of each tensor holds, and N is the same number everywhere."""
    graph = load(proto)
    for batch in n:
        shape = [d.dim_value or batch for d in proto.graph.input[0].type.tensor_type.shape.dim]
        got = ran(proto, {"x": np.random.default_rng(batch).normal(size=shape).astype(np.float32)})
        symbols: dict[str, int] = {"N": batch}
        for name, tensor in graph.scopes[0].values.items():
            said = graph.shape(tensor)
            if name not in got:
                continue
            assert said is None or len(said) == got[name].ndim, name
            for d, real in zip(said or (), got[name].shape, strict=False):
                found = size(d) if d is not None else None
                if isinstance(found, int):
                    assert found == real, (name, said, got[name].shape)
                elif found is not None and len(found.symbols) == 1:
                    known = symbols.setdefault(found.symbols[0], real // found.factor)
                    assert known * found.factor == real, (name, said, got[name].shape)
            value = graph.whole_numbers(tensor)
            if value is not None:
                assert np.array_equal(value, got[name]), (name, value, got[name])
    return graph


def shape_of(graph: Graph, name: str) -> tuple[int | str | None, ...] | None:
    return graph.shape(graph.scopes[0].values[name])


def value_of(graph: Graph, name: str) -> Any:
    found = graph.whole_numbers(graph.scopes[0].values[name])
    return None if found is None else found.tolist()


X = "(float[{}, 6, 8] x) => (float[?] y)"
HEADS = """
    s = Shape(x)
    axis0 = Constant<value_ints = [0]>()
    width = Gather(s, two)
    head = Div(width, two)
    batch = Gather(s, zero)
    both = Mul(batch, two)
    a = Unsqueeze(both, axis0)
    b = Unsqueeze(head, axis0)
    six = Constant<value_ints = [6]>()
    to = Concat<axis = 0>(a, six, b)
    y = Reshape(x, to)
"""


@pytest.mark.parametrize(("batch", "wanted"), [("3", (6, 6, 4)), ("N", ("2*N", 6, 4))])
def test_a_size_is_divided_and_multiplied(batch: str, wanted: tuple[Any, ...]) -> None:
    proto = model(X.format(batch) + "{" + HEADS + "}", zero=0, two=2)
    graph = check(proto, n=(1, 2, 3) if batch == "N" else (3,))
    assert shape_of(graph, "y") == wanted
    assert value_of(graph, "to") == ([6, 6, 4] if batch == "3" else None)
    assert value_of(graph, "head") == 4


CASES: dict[str, tuple[str, dict[str, Any], tuple[Any, ...] | None]] = {
    # What exporters write, and what the size is with x of [N, 6, 8].
    "remainder": ("r = Mod(i, k) s = Shape(x) g = Gather(s, r) y = ConstantOfShape(g)", {"i": [8], "k": [3]}, (8,)),
    "quotient towards zero": ("q = Div(a, b) n = Neg(q) y = ConstantOfShape(n)", {"a": [-7], "b": [2]}, (3,)),
    "halves": ("s = Shape(x) h = Slice(s, b, e) t = Div(h, two) f = Concat<axis=0>(one, t) y = Reshape(x, f)",
               {"b": [2], "e": [3], "two": [2], "one": [-1]}, ("12*N", 4)),
    "open end": ("s = Shape(x) e = Slice(s, b, big) f = Concat<axis=0>(one, e) y = Reshape(x, f)",
                 {"b": [1], "big": [(1 << 63) - 1], "one": [-1]}, ("N", 6, 8)),
    "zero copies": ("s = Shape<start = 1>(x) d = Sub(s, s) f = Concat<axis=0>(d, o) y = Reshape(x, f)",
                    {"o": [2, -1]}, ("N", 6, 2, 4)),
    "at run time alone": ("n = NonZero(x) s = Shape(n) m = Slice(s, o, t) r = Concat<axis=0>(m, k) y = Reshape(n, r)",
                          {"o": [1], "t": [2], "k": [3]}, (None, 3)),
    "may be negative": ("""s = Shape<end = 1>(x) d = Sub(s, k) e = Equal(d, m) w = Where(e, k, o)
        y = ConstantOfShape(w)""", {"k": [2], "m": [-1], "o": [1]}, (None,)),
    "may be one": ("s = Shape<end = 1>(x) e = Equal(s, o) w = Where(e, o, t) y = ConstantOfShape(w)",
                   {"o": [1], "t": [2]}, (None,)),
    "is never odd": ("s = Shape<end = 1>(x) d = Mul(s, t) e = Equal(d, o) w = Where(e, o, t) y = ConstantOfShape(w)",
                     {"o": [3], "t": [2]}, (2,)),
    "remainder of a symbol": ("""s = Shape<end = 1>(x) d = Mul(s, f) r = Mod(d, t) e = Mod(s, t)
        c = Concat<axis=0>(r, e) y = ConstantOfShape(c)""", {"f": [4], "t": [2]}, (0, None)),
    "class token": ("""s = Shape(x) n = Slice(s, z, o) to = Concat<axis=0>(n, minus, minus)
        l = Shape(to) ones = ConstantOfShape<value = int64[1] {1}>(l) m = Mul(ones, minus) e = Equal(to, m)
        w = Where(e, ones, to) y = Expand(token, w)""",
        {"z": [0], "o": [1], "minus": [-1], "token": np.ones((1, 1, 8), np.float32)}, ("N", 1, 8)),
    "the number of elements": ("n = Size(x) u = Unsqueeze(n, z) y = Reshape(x, u)", {"z": [0]}, ("48*N",)),
    "product of dims": ("s = Shape<start = 1>(x) p = ReduceProd(s) f = Concat<axis=0>(o, p) y = Reshape(x, f)",
                        {"o": [-1]}, ("N", 48)),
    "equal symbols cancel": ("s = Shape<end = 1>(x) f = Concat<axis=0>(s, o) y = Reshape(x, f)", {"o": [-1]},
                             ("N", 48)),
    "cast there and back": ("""s = Shape<start = 2>(x) f = Cast<to = 1>(s) m = Mul(f, half) c = Floor(m)
        i = Cast<to = 7>(c) y = ConstantOfShape(i)""", {"half": [0.7]}, (5,)),
    "upwards": ("""s = Shape<start = 2>(x) f = Cast<to = 1>(s) m = Mul(f, h) c = Ceil(m) i = Cast<to = 7>(c)
        y = ConstantOfShape(i)""", {"h": [0.7]}, (6,)),
    "differences": ("s = Shape<start = 1>(x) d = Sub(s, two) y = ConstantOfShape(d)", {"two": [2]}, (4, 6)),
    "of a symbol nothing is left": ("s = Shape(x) d = Sub(s, s) y = ConstantOfShape(d)", {}, (0, 0, 0)),
    "sums of symbols": ("s = Shape<end = 1>(x) d = Add(s, s) y = ConstantOfShape(d)", {}, ("2*N",)),
    "one more than a symbol": ("s = Shape<end = 1>(x) d = Add(s, o) y = ConstantOfShape(d)", {"o": [1]}, None),
    "backwards": ("s = Shape<start = 1>(x) r = Slice(s, a, b, z, m) y = ConstantOfShape(r)",
                  {"a": [-1], "b": [-(1 << 62)], "z": [0], "m": [-1]}, (8, 6)),
    "backwards, not all": ("r = Slice(v, a, b, z, m) y = ConstantOfShape(r)",
                           {"v": [2, 3, 4, 5], "a": [9], "b": [0], "z": [0], "m": [-2]}, (5, 3)),
    "a range": ("s = Shape(x) d = Gather(s, t) r = Range(z, d, t) y = ConstantOfShape(r)",
                {"t": 2, "z": 1}, (1, 3, 5, 7)),
    "larger": ("s = Shape<start = 1>(x) d = Max(s, k) e = Min(d, l) y = ConstantOfShape(e)", {"k": [7], "l": [8]},
               (7, 8)),
    "comparisons": ("""s = Shape<start = 1>(x) a = Greater(s, k) b = Less(s, l) c = And(a, b) d = Not(c) e = Or(c, d)
        f = Cast<to = 7>(e) y = ConstantOfShape(f)""", {"k": [7], "l": [9]}, (1, 1)),
    "transposed and squeezed": ("""s = Shape<start = 1>(x) a = Reshape(s, k) b = Transpose<perm = [1, 0]>(a)
        c = Squeeze(b, o) y = ConstantOfShape(c)""", {"k": [1, 2], "o": [1]}, (6, 8)),
    "expanded": ("s = Shape<start = 2>(x) a = Expand(s, k) b = Identity(a) y = ConstantOfShape(b)", {"k": [2]}, (8, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_of_sizes_holds(name: str) -> None:
    text, constants, wanted = CASES[name]
    graph = check(model(X.format("N") + "{" + text + "}", **constants))
    said = shape_of(graph, "y")
    if wanted is None:
        assert said is None or all(str(d).startswith(("?", "unk__")) or d is None for d in said)
    else:
        assert said is not None
        assert [d if not str(d).startswith(("?", "unk__")) else None for d in said] == list(wanted)


def test_floats_round_as_the_runtime_rounds() -> None:
    """6 * 7/6 is 7 in float, and a little less in float64."""
    text = "s = Shape<start=1>(x) f = Cast<to=1>(s) m = Mul(f, h) c = Floor(m) i = Cast<to=7>(c) y = ConstantOfShape(i)"
    proto = model("(float[N, 6] x) => (float[?] y) {" + text + "}", h=[7 / 6])
    got = Session(proto.SerializeToString()).run({"x": np.zeros((1, 6), np.float32)})["y"]
    assert shape_of(load(proto), "y") == got.shape == (7,)


def test_what_a_caller_may_replace_is_not_known() -> None:
    proto = model("(float[N, 6, 8] x, int64[1] k = {2}) => (float[?] y) { s = Shape<start = 2>(x) h = Div(s, k)"
                  "y = ConstantOfShape(h) }")  # fmt: skip
    graph = load(proto)
    assert shape_of(graph, "y") in (None, ("?0",), ("unk__0",))
    proto.graph.input.pop()  # the same, but nobody can
    assert shape_of(load(proto), "y") == (4,)


def test_a_function_by_the_name_of_an_operator_is_not_the_operator() -> None:
    proto = model("(float[N, 6, 8] x) => (float[?] y) { s = Shape<start = 2>(x) h = Div(s, k) y = ConstantOfShape(h) }",
                  k=[2])  # fmt: skip
    proto.functions.append(
        helper.make_function(
            "", "Div", ["a", "b"], ["c"], [helper.make_node("Sub", ["a", "b"], ["c"])], [helper.make_opsetid("", 17)]
        )
    )
    assert value_of(load(proto), "h") is None


def test_a_body_reads_sizes_of_the_graph_around_it() -> None:
    body = parser.parse_graph("b () => (float[?] z) { q = Div(s, k) z = Reshape(x, q) }")
    proto = model("(float[4, 6, 8] x, bool c) => (float[?] y) { s = Shape(x) t = Mul(s, o) y = Reshape(x, t) }",
                  k=[1, 1, 1], o=[1, 1, 1])  # fmt: skip
    body.output[0].type.tensor_type.ClearField("shape")
    proto.graph.node.append(helper.make_node("If", ["c"], ["w"], then_branch=body, else_branch=body))
    graph = load(proto)
    assert [graph.shape(s.values["z"]) for s in graph.scopes[1:]] == [(4, 6, 8)] * 2


def branching(then: str, other: str, **constants: Any) -> Graph:
    """An If whose branches end in z."""
    proto = model("(float[N, 6, 8] x, bool c) => (float[?] y) { y = Identity(x) }", **constants)
    bodies = []
    for text in (then, other):
        body = parser.parse_graph("b () => (float[?] z) {" + text + "}")
        body.output[0].type.tensor_type.ClearField("shape")
        bodies.append(body)
    proto.graph.node.append(helper.make_node("If", ["c"], ["w"], then_branch=bodies[0], else_branch=bodies[1]))
    proto.graph.node.append(helper.make_node("Relu", ["w"], ["r"]))
    return load(proto)


def test_what_both_branches_agree_on() -> None:
    """Sizes from outside of the branch too, which onnx's inference does not look up there."""
    graph = branching("z = Reshape(x, k)", "z = Reshape(x, l)", k=[-1, 2, 4], l=[-1, 3, 4])
    said = shape_of(graph, "r")
    assert said is not None
    assert (len(said), said[2]) == (3, 4)
    assert all(isinstance(d, str) and d.startswith(("?", "unk__")) for d in said[:2])
    said_inside = {graph.shape(s.values["z"]) for s in graph.scopes[1:]}
    assert said_inside == {("6*N", 2, 4), ("4*N", 3, 4)}
    assert shape_of(branching("z = Reshape(x, k)", "z = Reshape(x, k)", k=[-1, 2, 4]), "r") == ("6*N", 2, 4)
    assert shape_of(branching("z = Reshape(x, k)", "z = Reshape(x, l)", k=[-1, 4], l=[-1, 3, 4]), "r") is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("y = Reshape(x, k)", False),
        ("c = Constant<value_ints = [-1]>() y = Reshape(x, c)", False),
        ("s = Shape(x) c = Cast<to = 1>(s) y = Mul(x, c)", False),
        ("s = Shape(x) y = Reshape(x, s)", True),
        ("s = Shape(x) y = ConstantOfShape(s)", True),
        ("i = ArgMax(x) y = Gather(x, i)", True),
    ],
)
def test_only_a_size_from_a_node_is_followed(text: str, wanted: bool) -> None:
    assert computes_sizes(model("(float[3] x) => (float[3] y) {" + text + "}", k=[-1])) is wanted


def test_shapes_that_follow_from_the_inputs_outrank_the_declared_ones() -> None:
    proto = model("(float[2, 6] x) => (float[?] y) <float[5, 2] r> { s = Shape(x) d = Div(s, k) r = Reshape(x, d)"
                  "y = Relu(r) }", k=[1, 1])  # fmt: skip
    graph = load(proto)
    assert shape_of(graph, "r") == (2, 6)
    assert graph.stale_shapes() == ("r",)


def test_what_inference_leaves_open_is_taken_on_the_files_word() -> None:
    text = "(float[2, 6] x, int64[2] k) => (float[?, ?] y) <float[3, 4] r> { r = Reshape(x, k) y = Relu(r) }"
    graph = load(model(text))
    assert shape_of(graph, "r") == (3, 4)
    assert graph.stale_shapes() == ()


@pytest.mark.parametrize("size", [1, 5])
def test_one_size_is_not_claimed_of_an_open_one(size: int) -> None:
    graph = load(model(f"(float[N, 4] x) => (float[N, 4] y) <float[{size}, 4] r> {{ r = Relu(x) y = Relu(r) }}"))
    assert shape_of(graph, "r") == ("N", 4)
    assert graph.stale_shapes() == ("r",)


def test_a_reshape_that_would_lose_elements_is_not_believed() -> None:
    graph = load(
        model("(float[N, 6, 5] x) => (float[?, ?] y) <float[6, 5] r> { r = Reshape(x, k) y = Relu(r) }", k=[6, -1])
    )
    assert shape_of(graph, "r") != (6, 5)


def test_damaged_arithmetic_is_left_to_the_runtime() -> None:
    text = """
        s = Shape(x) a = Div(s, z) b = Mod(s, z) c = Range(o, huge, o) d = Gather(s, huge) e = Squeeze(s, o)
        f = Mul(huge, huge) y = Reshape(x, s)
    """
    proto = model("(float[2, 6] x) => (float[?] y) {" + text + "}", z=[0], o=1, huge=1 << 40)
    graph = load(proto)
    assert [value_of(graph, name) for name in "abcdef"] == [None] * 6
    assert shape_of(graph, "y") == (2, 6)
