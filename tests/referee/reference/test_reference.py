"""The float64 reference against hand formulas, onnx.reference and onnxruntime."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from converter.commands.fold import fold
from converter.errors import ModelError
from converter.referee.proto.inference import estimate_bytes
from converter.referee.proto.source import LoadedModel, list_free_inputs
from converter.referee.reference.evaluator import Reference, Unsupported
from converter.runtime import Session
from tests.referee.verify import nets

CORPUS = [
    "basic_pitch",
    "dtln_model_1",
    "gtcrn_simple",
    "mesonet",
    "micro_kws_fp32",
    "micro_kws_qdq",
    "openseeface_mnv3_det",
    "ultraface_slim320",
    "yunet_n_320",
    pytest.param("style_mosaic", marks=pytest.mark.slow),
]


def value(name: str, dtype: int, shape: list[int | str] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def one_node(
    op: str, inputs: dict[str, np.ndarray], opset: int, n_outputs: int = 1, **attributes: object
) -> onnx.ModelProto:
    """A model of one node whose first input is fed and whose others are constants."""
    first, *rest = inputs
    outputs = [f"y{k}" for k in range(n_outputs)]
    kinds = {n: helper.np_dtype_to_tensor_dtype(v.dtype) for n, v in inputs.items()}
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), outputs, name="n", **attributes)],
        "g",
        [value(first, kinds[first], list(inputs[first].shape))],
        [onnx.ValueInfoProto(name=n) for n in outputs],
        [numpy_helper.from_array(inputs[n], n) for n in rest],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def normal(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def agree(model: onnx.ModelProto, feeds: dict[str, np.ndarray], tolerance: float = 2e-6) -> None:
    """Hold the reference against onnxruntime, relative to the size of the output."""
    ours, theirs = Reference(model).run(feeds), Session(model.SerializeToString()).run(feeds)
    for name, got in theirs.items():
        ref = ours[name]
        assert ref.shape == got.shape
        if got.dtype.kind == "f":
            assert ref.dtype == np.float64
            assert np.max(np.abs(ref - got), initial=0) <= tolerance * max(1.0, np.max(np.abs(ref), initial=0))
        else:
            assert np.array_equal(ref, got)


@pytest.mark.parametrize("name", CORPUS)
def test_agrees_with_onnxruntime_on_the_corpus(corpus: Path, name: str) -> None:
    path = corpus / f"{name}.onnx"
    source, rng = LoadedModel.open(path), np.random.default_rng(0)
    feeds = {
        n: np.clip(rng.standard_normal([d if isinstance(d, int) else 1 for d in p.dims or ()]), -4, 4).astype(
            np.float32
        )
        for n, p in list_free_inputs(source.proto).items()
    }
    ours, theirs = Reference(source.proto).run(feeds), Session(path).run(feeds)
    assert theirs
    for output, got in theirs.items():
        # onnxruntime's sigmoid is good to 1e-7 of 1 however small the result.
        size = max(np.linalg.norm(ours[output]), 1e-3 * got.size**0.5)
        assert np.linalg.norm(ours[output] - got) <= 1e-3 * size


@pytest.mark.parametrize("name", sorted(nets.ARCHITECTURES))
def test_agrees_with_onnx_reference_on_float32(name: str) -> None:
    model, x = nets.ARCHITECTURES[name](), normal(2, 3, 16, 16)
    (theirs,) = ReferenceEvaluator(model).run(None, {"x": x})
    ours = Reference(model).run({"x": x})["y"]
    assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def bn_inputs(channels: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "x": normal(2, channels, 5, 7),
        "scale": rng.uniform(0.5, 2, channels).astype(np.float32),
        "bias": rng.standard_normal(channels).astype(np.float32),
        "mean": rng.standard_normal(channels).astype(np.float32),
        "var": rng.uniform(0.5, 2, channels).astype(np.float32),
    }


def bn_formula(inputs: dict[str, np.ndarray], eps: float, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    x, scale, bias = (inputs[k].astype(np.float64) for k in ("x", "scale", "bias"))
    shape = (1, -1, 1, 1)
    return (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + eps) * scale.reshape(shape) + bias.reshape(shape)


@pytest.mark.parametrize(
    ("opset", "more"), [(6, {"is_test": 1}), (7, {}), (8, {}), (9, {}), (13, {}), (14, {}), (17, {})]
)
def test_batch_norm_of_every_opset_is_inference(opset: int, more: dict[str, int]) -> None:
    inputs = bn_inputs()
    got = Reference(one_node("BatchNormalization", inputs, opset, epsilon=0.125, **more)).run({"x": inputs["x"]})["y0"]
    wanted = bn_formula(inputs, 0.125, inputs["mean"].astype(np.float64), inputs["var"].astype(np.float64))
    assert np.allclose(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("opset", "n_outputs", "more"), [(6, 1, {}), (9, 3, {}), (14, 3, {"training_mode": 1})])
def test_batch_norm_in_training_uses_the_statistics_of_the_batch(
    opset: int, n_outputs: int, more: dict[str, int]
) -> None:
    inputs = bn_inputs()
    model = one_node("BatchNormalization", inputs, opset, n_outputs, epsilon=0.125, momentum=0.75, **more)
    got = Reference(model).run({"x": inputs["x"]})
    x = inputs["x"].astype(np.float64)
    mean, var = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    assert np.allclose(got["y0"], bn_formula(inputs, 0.125, mean, var))
    if n_outputs > 1:
        assert np.allclose(got["y1"], 0.75 * inputs["mean"] + 0.25 * mean)


def test_batch_norm_reads_statistics_per_activation() -> None:
    inputs = bn_inputs()
    for k, name in enumerate(("scale", "bias", "mean", "var")):
        inputs[name] = np.abs(normal(3, 5, 7, seed=k)) + 0.5
    got = Reference(one_node("BatchNormalization", inputs, 7, spatial=0)).run({"x": inputs["x"]})["y0"]
    x, scale, bias, mean, var = (v.astype(np.float64) for v in inputs.values())
    assert np.allclose(got, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=1e-6)


@pytest.mark.parametrize("opset", [10, 13, 18, 21])
def test_dequantizes_before_and_after_opset_19(opset: int) -> None:
    q = np.random.default_rng(0).integers(-128, 128, (3, 4), dtype=np.int8)
    per_axis = opset >= 13
    scale = np.array([0.5, 0.25, 0.125], np.float32) if per_axis else np.array(0.5, np.float32)
    zero = np.array([1, -2, 3], np.int8) if per_axis else np.array(5, np.int8)
    more = {"axis": 0} if per_axis else {}
    got = Reference(one_node("DequantizeLinear", {"q": q, "s": scale, "z": zero}, opset, **more)).run({"q": q})["y0"]
    wide = (-1, 1) if per_axis else ()
    assert np.array_equal(got, (q.astype(np.float64) - zero.reshape(wide)) * scale.reshape(wide))


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_softmax_flattens_before_opset_13(op: str, opset: int, axis: int | None) -> None:
    x = normal(2, 3, 5)
    agree(one_node(op, {"x": x}, opset, **({} if axis is None else {"axis": axis})), {"x": x})


CONVS = {
    "1-d": ((2, 4, 11), (6, 4, 3), {"pads": [2, 1], "strides": [2]}),
    "2-d": ((2, 4, 11, 13), (6, 4, 3, 2), {"pads": [1, 0, 2, 3], "strides": [2, 1]}),
    "3-d": ((1, 2, 5, 6, 7), (3, 2, 2, 3, 2), {"pads": [1, 1, 0, 0, 1, 2]}),
    "groups": ((2, 6, 9, 8), (4, 3, 3, 3), {"group": 2, "pads": [1] * 4}),
    "depthwise": ((2, 6, 9, 8), (6, 1, 3, 3), {"group": 6, "strides": [2, 2]}),
    "depthwise, multiplied": ((2, 3, 9, 8), (6, 1, 3, 3), {"group": 3}),
    "dilated": ((1, 4, 15, 14), (5, 4, 3, 3), {"dilations": [2, 3], "pads": [2] * 4}),
    "1x1": ((2, 4, 7, 5), (6, 4, 1, 1), {}),
    "1x1, strided": ((2, 4, 7, 5), (6, 4, 1, 1), {"strides": [2, 2]}),
    "few filters": ((2, 9, 12, 10), (2, 9, 5, 3), {"pads": [2, 1, 2, 1], "dilations": [1, 2]}),
    "few filters in groups": ((1, 12, 12, 10), (4, 6, 3, 3), {"group": 2}),
    "same upper": ((1, 3, 10, 11), (4, 3, 3, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "same lower": ((1, 3, 10, 11), (4, 3, 3, 4), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    "valid": ((1, 3, 10, 11), (4, 3, 3, 4), {"auto_pad": "VALID"}),
}


@pytest.mark.parametrize("case", CONVS)
def test_convolves(case: str) -> None:
    shape, weight, attributes = CONVS[case]
    x, w, b = normal(*shape), normal(*weight, seed=1), normal(weight[0], seed=2)
    model = one_node("Conv", {"x": x, "w": w, "b": b}, 13, **attributes)
    agree(model, {"x": x}, 1e-5)
    (theirs,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert np.allclose(Reference(model).run({"x": x})["y0"], theirs, rtol=1e-3, atol=1e-4)


TRANSPOSED = {
    "1-d": ((2, 4, 7), (4, 3, 3), {"strides": [2], "pads": [1, 0]}),
    "2-d": ((2, 4, 5, 7), (4, 6, 3, 2), {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 2]}),
    "3-d": ((1, 2, 3, 4, 3), (2, 3, 2, 3, 2), {"strides": [2, 1, 2]}),
    "groups": ((2, 6, 5, 4), (6, 2, 3, 3), {"group": 3, "strides": [2, 2]}),
    "dilated": ((1, 3, 5, 6), (3, 4, 3, 2), {"dilations": [2, 3], "pads": [1] * 4}),
    "stride beyond the kernel": ((1, 3, 4, 5), (3, 2, 2, 2), {"strides": [3, 4]}),
    "output shape": (
        (1, 3, 5, 6),
        (3, 4, 3, 3),
        {"strides": [2, 2], "output_shape": [10, 12], "auto_pad": "SAME_UPPER"},
    ),
    "same upper": ((1, 3, 5, 6), (3, 4, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "same lower": ((1, 3, 5, 6), (3, 4, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_convolves_transposed(case: str) -> None:
    shape, weight, attributes = TRANSPOSED[case]
    x, w = normal(*shape), normal(*weight, seed=1)
    b = normal(weight[1] * attributes.get("group", 1), seed=2)
    agree(one_node("ConvTranspose", {"x": x, "w": w, "b": b}, 13, **attributes), {"x": x}, 1e-5)


POOLS = [
    ("MaxPool", 12, {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ("MaxPool", 12, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", 12, {"kernel_shape": [3, 2], "dilations": [2, 3]}),
    ("MaxPool", 12, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ("AveragePool", 11, {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ("AveragePool", 11, {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}),
    ("AveragePool", 19, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1] * 4}),
    (
        "AveragePool",
        19,
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1] * 4, "count_include_pad": 1},
    ),
    ("AveragePool", 11, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("LpPool", 11, {"kernel_shape": [2, 3], "p": 3}),
    ("GlobalAveragePool", 11, {}),
    ("GlobalMaxPool", 11, {}),
    ("GlobalLpPool", 11, {"p": 3}),
    ("LRN", 13, {"size": 3, "alpha": 0.5, "beta": 0.7, "bias": 1.5}),
]


@pytest.mark.parametrize(("op", "opset", "attributes"), POOLS)
def test_pools(op: str, opset: int, attributes: dict[str, object]) -> None:
    x = normal(2, 5, 10, 11)
    agree(one_node(op, {"x": x}, opset, **attributes), {"x": x})


def test_max_pool_says_where_the_largest_was() -> None:
    x = normal(2, 3, 7, 8)
    model = one_node("MaxPool", {"x": x}, 12, 2, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])
    agree(model, {"x": x})


RESIZES = [
    {"mode": mode, "coordinate_transformation_mode": where}
    for mode in ("nearest", "linear", "cubic")
    for where in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
] + [
    {"mode": "nearest", "nearest_mode": "ceil", "coordinate_transformation_mode": "asymmetric"},
    {"mode": "nearest", "nearest_mode": "floor"},
    {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5},
]


@pytest.mark.parametrize("attributes", RESIZES)
@pytest.mark.parametrize("sizes", [(13, 4), (6, 15)])
def test_resizes(attributes: dict[str, object], sizes: tuple[int, int]) -> None:
    x = normal(1, 2, 7, 9)
    given = {"x": x, "roi": np.zeros(0, np.float32), "scales": np.zeros(0, np.float32)}
    agree(one_node("Resize", {**given, "sizes": np.array([1, 2, *sizes])}, 13, **attributes), {"x": x}, 1e-5)


@pytest.mark.parametrize(
    ("op", "mode"), [("Upsample", "nearest"), ("Upsample", "linear"), ("Resize", "nearest"), ("Resize", "linear")]
)
def test_upsamples_as_opsets_9_and_10_did(op: str, mode: str) -> None:
    x, scales = normal(1, 2, 4, 5), np.array([1, 1, 2.5, 2], np.float32)
    agree(one_node(op, {"x": x, "scales": scales}, 9 if op == "Upsample" else 10, mode=mode), {"x": x}, 1e-6)


@pytest.mark.parametrize("reduction", ["none", "add", "mul"])
def test_scatters(reduction: str) -> None:
    x, where = normal(4, 5), np.array([[0, 3, -1, 2, 1], [1, 0, 2, 3, 3]])
    inputs = {"x": x, "i": where, "u": normal(2, 5, seed=1)}
    agree(one_node("ScatterElements", inputs, 18, axis=0, reduction=reduction), {"x": x})
    inputs = {"x": x, "i": np.array([[0, 1], [3, -1]]), "u": normal(2, seed=1)}
    agree(one_node("ScatterND", inputs, 18, reduction=reduction), {"x": x})


def test_erf_is_not_rounded_to_float32() -> None:
    x = np.array([0.1, 0.7], np.float64)
    got = Reference(one_node("Erf", {"x": x}, 13)).run({"x": x})["y0"]
    assert got.tolist() == pytest.approx([0.1124629160182849, 0.6778011938374184], rel=1e-15)


def test_everything_float_becomes_float64() -> None:
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float16[2,3] x) => (float16[2,3] y, bfloat16[2] z, float[2] f, int8[2,3] q)
        {
            a = Cast<to = 1>(x)
            b = Cast<to = 10>(a)
            y = Mul(b, w)
            one = Constant<value_floats = [0.1, 0.3]>()
            n = Constant<value = int64[1] {2}>()
            zero = ConstantOfShape(n)
            f = Add(one, zero)
            z = Identity(v)
            q = Cast<to = 3>(x)
        }
    """)
    weight = np.float16([0.1, 0.2, 0.3])
    for name, stored in (("w", weight), ("v", np.array([0.1, 2.0], ml_dtypes.bfloat16))):
        model.graph.initializer.append(numpy_helper.from_array(stored, name))
    x = normal(2, 3, dtype=np.float16)
    got = Reference(model).run({"x": x})
    assert {n: str(v.dtype) for n, v in got.items()} == {"y": "float64", "z": "float64", "f": "float64", "q": "int8"}
    # No rounding in between: exactly the product of the stored values.
    assert np.array_equal(got["y"], x.astype(np.float64) * weight.astype(np.float64))
    assert got["z"][0] == float(ml_dtypes.bfloat16(0.1))


CONTROL = """
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float[3] x, int64 n, bool c) => (float[3] last, float[k,3] all, float[3] picked, float[4,3] sums)
    <float[3] w = {0.5, 2.0, -1.0}, float[4,3] rows = {1,2,3,4,5,6,7,8,9,10,11,12}>
    {
        t = Mul(x, w)
        last, all = Loop(n, , x) <
            body = step (int64 i, bool go, float[3] s) => (bool more, float[3] next, float[3] out) {
            more = Identity(go)
            next = Add(s, t)
            out = Mul(next, w)
        }>
        picked = If(c) <
            then_branch = yes () => (float[3] p) { p = Add(t, w) },
            else_branch = no () => (float[3] p) { p = Neg(t) }
        >
        end, sums = Scan<num_scan_inputs = 1, body = add (float[3] acc, float[3] row) => (float[3] acc2, float[3] o) {
            acc2 = Add(acc, row)
            o = Add(acc2, t)
        }>(x, rows)
    }
"""


@pytest.mark.parametrize("condition", [True, False])
def test_runs_loop_if_and_scan_with_outer_values(condition: bool) -> None:
    model = parser.parse_model(CONTROL)
    agree(model, {"x": normal(3), "n": np.array(3), "c": np.array(condition)})


def test_runs_functions_with_attributes() -> None:
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        agraph (float[2,3] x) => (float[2,3] y)
        { a = local.leak<alpha = 0.25>(x) y = local.leak<alpha = 0.5>(a) }
        <domain: "local", opset_import: ["" : 17]>
        leak <alpha> (v) => (r) { r = LeakyRelu<alpha: float = @alpha>(v) }
    """)
    agree(model, {"x": normal(2, 3)})


def test_expands_operators_that_are_functions() -> None:
    x = normal(2, 3, 5, 4)
    agree(one_node("HardSwish", {"x": x}, 14), {"x": x})
    agree(one_node("MeanVarianceNormalization", {"x": x}, 13), {"x": x}, 1e-5)


def test_same_seed_perturbs_alike_and_by_the_stored_roundoff() -> None:
    w16, w32 = normal(50, dtype=np.float16), normal(50)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["h"], ["a"], to=1),
            helper.make_node("Identity", ["s"], ["b"]),
            helper.make_node("Pow", ["b", "two"], ["p"]),
        ],
        "g",
        [],
        [value("a", 1, [50]), value("b", 1, [50]), value("p", 1, [50])],
        [
            numpy_helper.from_array(w16, "h"),
            numpy_helper.from_array(w32, "s"),
            numpy_helper.from_array(np.float32([2.0]), "two"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    exact, first = Reference(model).run({}), Reference(model, weight_perturb=7).run({})
    again, other = Reference(model, weight_perturb=7).run({}), Reference(model, weight_perturb=8).run({})
    for name, unit in (("a", 2.0**-11), ("b", 2.0**-24)):
        assert np.array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])
        moved = np.std((first[name] - exact[name]) / exact[name]) / unit
        assert 0.7 < moved < 1.4
    assert np.array_equal(first["p"], first["b"] ** 2)  # the exponent is no weight


def test_frees_each_tensor_after_its_last_reader() -> None:
    names = [f"t{k}" for k in range(40)]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in zip(["x", *names], names, strict=False)]
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1 << 17])], [value(names[-1], 1, [1 << 17])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    reference, x = Reference(model), normal(1 << 17)
    reference.run({"x": x})
    tracemalloc.start()
    reference.run({"x": x})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * (8 << 17)  # not 41 tensors


def test_a_capture_keeps_a_tensor_alive_until_its_reader_ran() -> None:
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[3] x, bool c) => (float[3] y)
        {
            held = Neg(x)
            once = Abs(held)
            y = If(c) <
                then_branch = a () => (float[3] p) { p = Add(held, held) },
                else_branch = b () => (float[3] q) { q = Identity(held) }
            >
        }
    """)
    x = normal(3)
    assert np.array_equal(Reference(model).run({"x": x, "c": np.array(True)})["y"], -2.0 * x)


def test_stops_above_the_memory_limit() -> None:
    model = nets.plain()
    with pytest.raises(Unsupported, match=r"more than 1\.0 KiB in float64"):
        Reference(model, max_bytes=1000).run({"x": normal(1, 3, 16, 16)})
    assert estimate_bytes(model, {"x": (1, 3, 16, 16)}) > 8 * 3 * 16 * 16
    assert estimate_bytes(model, {"x": (8, 3, 16, 16)}) > 2 * estimate_bytes(model, {"x": (1, 3, 16, 16)})


def test_a_size_left_over_from_another_model_is_no_reason_not_to_run() -> None:
    model = nets.plain()
    honest = estimate_bytes(model, {"x": (1, 3, 16, 16)})
    stale = helper.make_tensor_value_info(model.graph.node[0].output[0], TensorProto.FLOAT, [1, 8, 1 << 20, 1 << 20])
    del model.graph.value_info[:]
    model.graph.value_info.append(stale)
    assert estimate_bytes(model, {"x": (1, 3, 16, 16)}, limit=1 << 30) <= 2 * honest


def test_refuses_what_it_cannot_evaluate() -> None:
    x = normal(1, 2, 3)
    custom = one_node("Foo", {"x": x}, 17)
    custom.graph.node[0].domain = "mine"
    custom.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(Unsupported, match=r"mine\.Foo"):
        Reference(custom)
    with pytest.raises(Unsupported, match="Bar"):
        Reference(one_node("Bar", {"x": x}, 17))
    lstm = {"x": x, "w": normal(1, 8, 3), "r": normal(1, 8, 2)}
    with pytest.raises(Unsupported, match="clip"):
        Reference(one_node("LSTM", lstm, 14, hidden_size=2, clip=0.5))
    with pytest.raises(Unsupported, match="no value"):
        Reference(one_node("Relu", {"x": x}, 17)).run({})


def test_reads_external_data_where_it_lies(tmp_path: Path) -> None:
    model, x = nets.plain(), normal(1, 3, 16, 16)
    wanted = Reference(model).run({"x": x})["y"]
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    source = LoadedModel.open(path)
    assert np.array_equal(Reference(source.proto, external_dir=tmp_path).run({"x": x})["y"], wanted)
    assert source.proto.graph.initializer[0].raw_data == b""  # the proto holds no copy
    with pytest.raises(ModelError, match="directory"):
        Reference(source.proto).run({"x": x})
    (tmp_path / "m.data").write_bytes(b"short")
    with pytest.raises(ModelError, match="truncated"):
        Reference(source.proto, external_dir=tmp_path).run({"x": x})


@pytest.mark.parametrize(("opset", "axis"), [(11, 0), (13, 1), (13, -1)])
def test_gather_elements_of_many_entries(opset: int, axis: int) -> None:
    x, rng = normal(100, 90, 80), np.random.default_rng(1)
    indices = rng.integers(-80, 80, (70, 66, 65))
    model = one_node("GatherElements", {"x": x, "i": indices}, opset, axis=axis)
    (wanted,) = Session(model.SerializeToString()).run({"x": x}).values()
    assert np.array_equal(Reference(model).run({"x": x})["y0"], wanted)


@pytest.mark.parametrize("axes", [[-2, -1], [-1, -2], [-4, -1], [0, -1], [1, 3]])
def test_negative_axes_are_of_the_result(axes: list[int]) -> None:
    x = normal(2, 3)
    old = one_node("Unsqueeze", {"x": x}, 11, axes=axes)
    (wanted,) = Session(old.SerializeToString()).run({"x": x}).values()
    new = one_node("Unsqueeze", {"x": x, "a": np.array(axes)}, 13)
    for model in (old, new):
        assert np.array_equal(Reference(model).run({"x": x})["y0"], wanted)


@pytest.mark.parametrize("axes", [[-2, -1], [-1, -2], [-4, -2, -1]])
def test_a_factor_is_followed_through_an_unsqueeze_with_negative_axes(axes: list[int]) -> None:
    rng = np.random.default_rng(0)
    model = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 11]>
        g (float[2, 3, 5, 5] x) => (float[2, 4, 5, 5] y) {{
            a = Conv (x, w) u = Unsqueeze <axes = {axes}> (k) y = Mul (a, u)
        }}
    """)
    for name, value in (("w", rng.standard_normal((4, 3, 1, 1)) * 1e-6), ("k", rng.uniform(1e-6, 2e-6, 4))):
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    result = fold(model)
    assert len(result.rewrites) == 1
    assert result.exit_code == 0


def test_refuses_external_data_outside_the_directory(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret.bin")
    model = one_node("Add", {"x": normal(3), "w": normal(3)}, 17)
    model.graph.initializer[0].CopyFrom(tensor)
    with pytest.raises(ModelError, match="lies outside"):
        Reference(model, external_dir=tmp_path).run({"x": normal(3)})
