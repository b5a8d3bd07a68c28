"""Seeded inputs that models accept."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from converter.errors import DataError
from converter.referee.proto.random_inputs import check_given, check_shapes, guess_shapes, has_open_batch, make_feeds
from converter.referee.proto.source import LoadedModel, list_free_inputs
from converter.referee.verify.models import ModelInputs, ModelUnderTest, Options
from tests.referee.verify import nets

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def first(model: onnx.ModelProto, seed: int = 0, batch: int = 1, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return make_feeds(model, next(guess_shapes(model, shapes, batch)), seed)


def with_weights(text: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    model = parser.parse_model(text)
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    return model


def test_floats_are_normal_and_clipped() -> None:
    x = first(parser.parse_model(f"{HEAD} g (float[100,200] x) => (float[100,200] y) {{ y = Neg(x) }}"))["x"]
    assert x.dtype == np.float32
    assert np.abs(x).max() <= 4
    assert abs(x.mean()) < 0.05
    assert abs(x.std() - 1) < 0.05


def test_a_seed_is_a_value() -> None:
    model = nets.plain()
    assert np.array_equal(first(model, 1)["x"], first(model, 1)["x"])
    assert not np.array_equal(first(model, 1)["x"], first(model, 2)["x"])


def test_batch_is_open_and_channels_follow_the_weights() -> None:
    model = with_weights(
        f"{HEAD} g (float[n,c,h,w] x) => (float[n,m,p,q] y) {{ y = Conv<group = 2>(x, w) }}", w=(4, 3, 3, 3)
    )
    assert has_open_batch(model, None)
    assert first(model, batch=3)["x"].shape == (3, 6, 64, 64)
    assert [g.shapes["x"] for g in guess_shapes(model, None, 1)][:2] == [(1, 6, 64, 64), (1, 6, 224, 224)]
    assert not has_open_batch(model, {"x": (1, 6, 8, 8)})
    assert first(model, x=(5, 6, 8, 9))["x"].shape == (5, 6, 8, 9)


@pytest.mark.parametrize(
    ("node", "weight", "shape"),
    [
        ("y = MatMul(x, w)", (7, 2), (1, 64, 7)),
        ("y = InstanceNormalization(x, w, w)", (7,), (1, 7, 64)),
        ("h, y = LSTM<hidden_size = 2>(x, w, r)", (1, 8, 7), (1, 64, 7)),
    ],
)
def test_sizes_follow_the_first_reader(node: str, weight: tuple[int, ...], shape: tuple[int, ...]) -> None:
    model = with_weights(f"{HEAD} g (float[n,a,b] x) => (float y) {{ {node} }}", w=weight, r=(1, 8, 2))
    assert first(model)["x"].shape == shape


def test_integers_stay_below_what_they_index() -> None:
    model = with_weights(
        f"""{HEAD} g (int64[1,500] ids, int32[1,500] types) => (float y) {{
            a = Gather(words, ids)
            t = Cast<to = 7>(types)
            b = Gather(kinds, t)
            y = Add(a, b)
        }}""",
        words=(11, 4),
        kinds=(2, 4),
    )
    got = first(model)
    assert set(got["ids"].ravel()) == set(range(11))
    assert set(got["types"].ravel()) == {0, 1}
    assert got["types"].dtype == np.int32


def test_masks_have_a_one_in_every_row() -> None:
    model = parser.parse_model(
        f"{HEAD} g (int64[50,3] attention_mask, bool[50,3] keep) => (int64[50,3] y) {{ y = Identity(attention_mask) }}"
    )
    for mask in first(model).values():
        assert set(np.unique(mask)) == {0, 1}
        assert (mask.max(axis=1) == 1).all()


def test_scalars_are_arrays_that_can_be_run() -> None:
    model = parser.parse_model(
        f"{HEAD} g (float s, int64 k, bool b, int8 q, int32 a_mask, int64 len) => (float y) {{ y = Neg(s) }}"
    )
    fed = first(model)
    assert all(isinstance(x, np.ndarray) and x.shape == () for x in fed.values())
    assert [str(x.dtype) for x in fed.values()] == ["float32", "int64", "bool", "int8", "int32", "int64"]
    assert len(cases_of(model).items) == 2


def test_a_size_of_zero_is_a_size() -> None:
    model = parser.parse_model(f"{HEAD} g (float[0,3] x) => (float[0,3] y) {{ y = Neg(x) }}")
    assert first(model)["x"].shape == (0, 3)
    assert not has_open_batch(model, None)


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ({"typo": (9, 9)}, "'typo' is not an input of the model; its inputs are s, x"),
        ({"w": (3,)}, "'w' is not an input"),
        ({"x": (9, 9)}, r"'x' has the shape \[n, 3, \?\], which \[9, 9\] contradicts"),
        ({"x": (9, 4, 9)}, "contradicts"),
        ({"x": (-1, 3, 9)}, "contradicts"),
        ({"s": (1,)}, "contradicts"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: dict[str, tuple[int, ...]], text: str) -> None:
    model = with_weights(f"{HEAD} g (float[n,3,?] x, float s, float[3] w) => (float y) {{ y = Add(x, w) }}", w=(3,))
    check_shapes(model, {"x": (2, 3, 0), "s": ()})
    check_shapes(model, None)
    with pytest.raises(DataError, match=text):
        check_shapes(model, shapes)


def test_initializers_that_may_be_overridden_are_not_fed() -> None:
    model = with_weights(f"{HEAD} g (float[3] x, float[3] w) => (float[3] y) {{ y = Add(x, w) }}", w=(3,))
    assert list(list_free_inputs(model)) == ["x"]
    assert list(first(model)) == ["x"]
    check_given(model, {"x": np.ones(3), "w": np.ones(3)})


def test_text_and_sequences_cannot_be_made_up() -> None:
    for kind in ("string[3]", "seq(float[3])"):
        model = parser.parse_model(f"{HEAD} g ({kind} x) => ({kind} y) {{ y = Identity(x) }}")
        with pytest.raises(DataError, match="--inputs"):
            first(model)


def cases_of(model: onnx.ModelProto, count: int = 2, **options: object) -> ModelInputs:
    asked = Options(**options)
    cases = ModelInputs(ModelUnderTest(LoadedModel.open(model), asked), asked)
    cases.fill(count)
    return cases


def test_tries_sizes_until_one_is_accepted() -> None:
    model = with_weights(
        f"{HEAD} g (float[n,c,h,w] x) => (float[n,k] y) {{ f = Flatten(x) y = MatMul(f, w) }}", w=(3 * 224 * 224, 1)
    )
    assert not cases_of(model).items  # channels are anyone's guess
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    assert [c.feeds["x"].shape for c in cases_of(model).items] == [(1, 3, 224, 224), (3, 3, 224, 224)]


def test_falls_back_to_batch_one() -> None:
    model = parser.parse_model(
        f"{HEAD} g (float[n,4] x) => (float[2,2] y) <int64[2] s = {{2,2}}> {{ y = Reshape(x, s) }}"
    )
    assert [c.feeds["x"].shape for c in cases_of(model).items] == [(1, 4), (1, 4)]


def test_says_why_nothing_was_accepted() -> None:
    model = parser.parse_model(
        f"{HEAD} g (float[n] x) => (float[7,11] y) <int64[2] s = {{7,11}}> {{ y = Reshape(x, s) }}"
    )
    cases = cases_of(model)
    assert not cases.items
    assert "no input" in cases.why_not
    assert len(cases_of(model, shapes={"x": (77,)}).items) == 2


def test_a_run_beyond_the_memory_is_not_begun() -> None:
    cases = cases_of(nets.plain(), max_memory=1000)
    assert not cases.items
    assert "memory" in cases.why_not
