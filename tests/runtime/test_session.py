"""Sessions: the right provider or an error, one line per error, silence on the terminal."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from converter.errors import BiasoptError, DataError, ModelError, RuntimeUnavailable
from converter.model.file.dtypes import get_element_type
from converter.runtime import Session, count_cores
from tests.conftest import cuda_devices
from tests.referee.verify import nets


def relu(kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, kind, [3]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=kind)], "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_runs_bytes_and_files_alike(tmp_path: Path) -> None:
    model, path = nets.plain(), tmp_path / "m.onnx"
    onnx.save(model, path)
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    by_bytes, by_path = Session(model.SerializeToString()), Session(path)
    assert np.array_equal(by_bytes.run({"x": x})["y"], by_path.run({"x": x})["y"])
    assert [(p.name, p.type, p.shape) for p in by_path.inputs] == [("x", "tensor(float)", ("N", 3, 16, 16))]
    assert [p.name for p in by_path.outputs] == ["y"]


def test_optimised_and_plain_sessions_agree() -> None:
    model = nets.mobile().SerializeToString()
    x = np.ones((1, 3, 16, 16), np.float32)
    assert np.allclose(Session(model).run({"x": x})["y"], Session(model, optimize=True).run({"x": x})["y"], atol=1e-5)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float16, np.float64])
def test_passes_types_that_numpy_lacks(dtype: type) -> None:
    x = np.array([1.5, -2.0, 0.25]).astype(dtype)
    got = Session(relu(get_element_type(np.dtype(dtype))).SerializeToString()).run({"x": x})["y"]
    assert got.dtype == np.dtype(dtype)
    assert np.array_equal(got.astype(np.float64), [1.5, -2.0, 0.25])


def test_reads_external_data_of_a_model_in_memory(tmp_path: Path) -> None:
    model, x = nets.plain(), np.ones((1, 3, 16, 16), np.float32)
    wanted = Session(model.SerializeToString()).run({"x": x})["y"]
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    content = (tmp_path / "m.onnx").read_bytes()
    assert np.array_equal(Session(content, external_dir=tmp_path).run({"x": x})["y"], wanted)
    with pytest.raises(ModelError):
        Session(content, external_dir=tmp_path / "elsewhere")


def unknown_operator() -> bytes:
    model = relu()
    model.graph.node[0].op_type = "Nonsense"
    return bytes(model.SerializeToString())


def no_kernel() -> bytes:
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (double[1,1,3,3] x, double[1,1,1,1] w) => (double[1,1,3,3] y) { y = Conv(x, w) }
    """)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (b"not a model", "protobuf"),
        (unknown_operator(), "Nonsense"),
        (no_kernel(), "implementation for Conv"),
        (Path("/does/not/exist.onnx"), "/does/not/exist.onnx"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_line(model: bytes | Path, text: str) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        Session(model)
    assert "\n" not in str(caught.value)
    assert "ONNXRuntimeError" not in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "feeds",
    [{}, {"z": np.ones(3, np.float32)}, {"x": np.ones(4, np.float32)}, {"x": np.ones(3)}, {"x": "text"}],
    ids=["missing", "renamed", "shape", "dtype", "text"],
)
def test_feeds_that_do_not_fit_are_one_line(feeds: dict[str, object]) -> None:
    with pytest.raises(DataError) as caught:
        Session(relu().SerializeToString()).run(feeds)
    assert "\n" not in str(caught.value)


def test_a_library_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ops.so").write_text("nonsense")
    with pytest.raises(RuntimeUnavailable, match=r"ops\.so") as caught:
        Session(relu().SerializeToString(), custom_ops=tmp_path / "ops.so")
    assert "\n" not in str(caught.value)


def test_what_runs_elsewhere_did_not_run() -> None:
    model = relu().SerializeToString()
    with pytest.raises(RuntimeUnavailable, match="tpu"):
        Session(model, "tpu")
    if not cuda_devices():
        with pytest.raises(RuntimeUnavailable, match="CUDA"):
            Session(model, "cuda")


@pytest.mark.cuda
def test_runs_on_cuda_when_asked() -> None:
    model, x = nets.plain().SerializeToString(), np.ones((1, 3, 16, 16), np.float32)
    assert np.allclose(Session(model, "cuda").run({"x": x})["y"], Session(model).run({"x": x})["y"], atol=1e-4)


def test_onnxruntime_stays_silent(capfd: pytest.CaptureFixture[str]) -> None:
    # An initializer that nothing reads, a shape that is wrong and a failing run: each makes it log by default.
    model = nets.plain()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, np.float32), "unused"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 11
    session = Session(model.SerializeToString())
    session.run({"x": np.ones((1, 3, 16, 16), np.float32)})
    with pytest.raises(BiasoptError):
        session.run({"x": np.ones((1, 2, 16, 16), np.float32)})
    with pytest.raises(BiasoptError):
        Session(no_kernel())
    assert capfd.readouterr() == ("", "")


def test_counts_cores() -> None:
    assert count_cores() >= 1


def test_a_run_that_grows_ends_at_its_limit() -> None:
    """A loop of 2^40 rounds keeps what each made; a run that stays below its limit says what it says without one."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[64] x, int64 n) => (float[64] z, float[n, 64] zs)
      <bool on = {1}> {
        z, zs = Loop(n, on, x) <body = b (int64 k, bool go, float[64] v) => (bool co, float[64] vo, float[64] vs) {
          co = Identity(go)
          vo = Identity(v)
          vs = Identity(v)
        }>
      }"""
    session = Session(onnx.parser.parse_model(text).SerializeToString())
    feeds = {"x": np.ones(64, np.float32), "n": np.array(3, np.int64)}
    assert session.run(feeds, 50_000_000)["zs"].shape == session.run(feeds)["zs"].shape == (3, 64)
    with pytest.raises(DataError, match=r"ended where it had taken 0\.05 GB"):
        session.run(feeds | {"n": np.array(2**40, np.int64)}, 50_000_000)
