"""Sessions that are timed: bound, refused, and let go of; the GPU's clock by fakes."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from converter.errors import DataError, ModelError, RuntimeUnavailable
from converter.runtime import gpu, timing
from converter.runtime.gpu import Reading, find_visible_device, make_clock_reader, parse_reading
from converter.runtime.timing import Deployment, TimedSession, make_flusher
from tests.bench import nets

X = {"x": np.arange(-4, 4, dtype=np.float32).reshape(1, 8)}


def outputs(session: TimedSession) -> list[np.ndarray]:
    return [value.numpy() for value in session._binding.get_outputs()]


def loaded(proto: onnx.ModelProto, **how: object) -> TimedSession:
    return TimedSession(proto.SerializeToString(), Deployment(**how))  # type: ignore[arg-type]


def test_a_bound_model_computes_what_it_computes() -> None:
    session = loaded(nets.dense())
    session.bind(X)
    session.run()
    assert np.array_equal(outputs(session)[0], np.maximum(X["x"], 0) * 2 + 1)
    assert session.load_ms > 0
    assert session.first_run_ms > 0


def test_fixed_outputs_are_allocated_beforehand_and_open_ones_are_not() -> None:
    fixed, opened = loaded(nets.dense()), loaded(nets.dense("N"))
    fixed.bind(X)
    opened.bind(X)
    assert "output y" in fixed._values
    assert "output y" not in opened._values
    assert np.array_equal(outputs(fixed)[0], outputs(opened)[0])


def test_a_wrongly_declared_output_is_left_to_onnxruntime() -> None:
    proto = nets.model("g (float[N,8] x) => (float[3,8] y) { y = Relu(x) }")
    session = loaded(proto)
    session.bind(X)
    session.run()
    assert outputs(session)[0].shape == (1, 8)


def test_types_that_numpy_lacks() -> None:
    proto = nets.model("g (bfloat16[1,4] x) => (float[1,4] y) { y = Cast<to = 1>(x) }")
    session = loaded(proto, include_h2d=True)
    session.bind({"x": np.array([[1, 2, 3, 4]], ml_dtypes.bfloat16)})
    session.run()
    assert outputs(session)[0].tolist() == [[1, 2, 3, 4]]


def test_copying_the_inputs_is_part_of_the_run_if_asked() -> None:
    session = loaded(nets.dense(), include_h2d=True)
    session.bind(X)
    session._arrays["x"][:] = 3
    session.run()
    assert set(outputs(session)[0].ravel()) == {7.0}
    without = loaded(nets.dense())
    without.bind(X)
    assert without.run == without._run_plain


def test_feeds_that_do_not_fit() -> None:
    session = loaded(nets.dense())
    with pytest.raises(DataError, match="input 'x' has no value"):
        session.bind({})
    with pytest.raises(DataError, match="could not run it"):
        session.bind({"x": np.zeros((1, 9), np.float32)})
    with pytest.raises(DataError, match="bind inputs"):
        session.run()


def test_closed_it_runs_no_more() -> None:
    session = loaded(nets.dense())
    session.bind(X)
    session.close()
    with pytest.raises(DataError, match="bind inputs"):
        session.run()


def test_queueing_and_doing() -> None:
    session = loaded(nets.dense())
    session.bind(X)
    queued, done = session.submit_ms()
    assert 0 < queued <= done


def test_levels_of_optimisation_and_threads_reach_the_session() -> None:
    ort = timing.import_onnxruntime()
    settings = timing._make_options(ort, Deployment(level="basic", threads=3))
    assert settings.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert settings.intra_op_num_threads == 3
    assert settings.get_session_config_entry("session.force_spinning_stop") == "1"


def test_a_provider_that_is_not_there_is_refused() -> None:
    if "CUDAExecutionProvider" in timing.import_onnxruntime().get_available_providers():
        pytest.skip("this onnxruntime has it")
    with pytest.raises(RuntimeUnavailable, match="CUDAExecutionProvider"):
        loaded(nets.dense(), provider="cuda")


def test_a_provider_that_is_listed_but_does_not_load_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What onnxruntime does without CUDA's libraries: it lists the provider, and runs on the CPU."""
    ort = timing.import_onnxruntime()
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("it may load here")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises((RuntimeUnavailable, ModelError)):
        loaded(nets.dense(), provider="cuda")


def test_cuda_graphs_need_a_gpu() -> None:
    with pytest.raises(RuntimeUnavailable, match="--provider cuda"):
        Deployment(cuda_graph=True)
    how = Deployment("cuda", {"device_id": "1"}, cuda_graph=True)
    assert how.provider_options() == {"device_id": "1", "enable_cuda_graph": "1"}
    assert Deployment("tensorrt", cuda_graph=True).provider_options() == {"trt_cuda_graph_enable": "1"}
    assert Deployment("cuda").provider_options() == {}


def test_caches_are_flushed_by_writing() -> None:
    flush = make_flusher(Deployment())
    flush()
    flush()


def test_a_gpu_is_flushed_by_a_copy_within_it_of_twice_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(timing, "find_l2_bytes", lambda device_id: {3: 50 << 20}.get(device_id))
    monkeypatch.setattr(timing, "make_copier", lambda how, n_bytes: asked.append(n_bytes))
    for options in ({"device_id": "3"}, {}):
        make_flusher(Deployment(provider="cuda", options=options))
    assert asked == [100 << 20, 128 << 20]


def test_the_copy_reads_all_of_one_buffer_and_writes_all_of_another() -> None:
    copy = timing.make_copier(Deployment(), 1000)
    x, y = (copy.__self__._values[name].numpy() for name in "xy")  # type: ignore[attr-defined]
    x[:] = np.arange(1000) % 251
    copy()
    assert np.array_equal(copy.__self__._values["y"].numpy(), x)  # type: ignore[attr-defined]
    assert x.ctypes.data != y.ctypes.data


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """CUDA graphs on the CPU: nothing is captured, but everything is prepared for it; what each load was told."""
    loads: list[dict[str, object]] = []
    monkeypatch.setattr(timing, "_GRAPH", {"cpu": "enable_cuda_graph"})
    monkeypatch.setattr(timing, "check_provider", lambda provider, options: "CPUExecutionProvider")
    monkeypatch.setattr(timing, "list_providers", lambda *_, **__: ["CPUExecutionProvider"])
    real = TimedSession._load

    def load(self: TimedSession, **how: object) -> None:
        loads.append(how)
        real(self, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(TimedSession, "_load", load)
    return loads


OPEN = """g (float[N,4,2] x) => (float[N,M] y) <int64[1] i = {0}, int64[1] m = {-1}>
{ s = Shape(x) b = Gather(s, i) c = Concat<axis=0>(b, m) r = Reshape(x, c) y = Relu(r) }"""


def test_a_graph_of_open_sizes_is_captured_with_those_of_the_inputs(captures: list[dict[str, object]]) -> None:
    session = loaded(nets.model(OPEN), cuda_graph=True)
    session.bind({"x": np.arange(-12, 12, dtype=np.float32).reshape(3, 4, 2)})
    assert captures == [{"captures": False}, {"captures": True, "sizes": {"N": 3}}]
    assert outputs(session)[0].shape == (3, 8)
    first = outputs(session)[0].ctypes.data
    session.run()
    assert outputs(session)[0].ctypes.data == first  # a graph writes to where it wrote before
    # The chain of shapes is gone: nothing but Reshape and Relu is left to run.
    assert tuple(session._session.get_outputs()[0].shape) == (3, 8)


def test_a_model_that_cannot_be_captured_says_which_nodes_are_in_the_way(
    captures: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = loaded(nets.model(OPEN), cuda_graph=True)
    taken = {"CPUExecutionProvider": [("Relu", "r")], "Other": [("Det", f"d{k}") for k in range(5)]}
    monkeypatch.setattr(timing, "list_assigned", lambda _: taken)

    def refuse(self: TimedSession, **how: object) -> None:
        raise ModelError("model: onnxruntime cannot load it: no graph capture")

    monkeypatch.setattr(TimedSession, "_load", refuse)
    with pytest.raises(DataError) as refused:
        session.bind({"x": np.zeros((3, 4, 2), np.float32)})
    assert str(refused.value) == (
        "model: cannot be run as a CUDA graph: onnxruntime cannot load it: no graph capture; not on "
        "CPUExecutionProvider: Det 'd0', Det 'd1', Det 'd2' and 2 more; export it with fixed sizes, "
        "or leave out --cuda-graph"
    )


@pytest.mark.parametrize(
    ("line", "reading"),
    [
        ("1980, 0x0000000000000000\n", Reading(1980.0, 0)),
        ("345, 0x0000000000000001", Reading(345.0, 1)),
        ("1200, 0x0000000000000044\n1980, 0x0", Reading(1200.0, 0x44)),
    ],
)
def test_what_nvidia_smi_prints(line: str, reading: Reading) -> None:
    assert parse_reading(line) == reading


@pytest.mark.parametrize("line", ["", "[N/A], [N/A]", "No devices were found"])
def test_what_it_prints_without_an_answer(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_reading(line)


def test_idle_and_set_clocks_are_no_throttling() -> None:
    assert Reading(1.0, 0x1 | 0x2 | 0x10 | 0x100).throttled == ()
    assert Reading(1.0, 0x4 | 0x40).throttled == ("power cap", "hardware thermal slowdown")


def test_which_gpu_cuda_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_visible_device(1) == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-abc")
    assert (find_visible_device(0), find_visible_device(1), find_visible_device(2)) == ("3", "GPU-abc", "")


def library(**more: object) -> types.ModuleType:
    found = types.ModuleType("pynvml")
    found.NVML_CLOCK_SM = 1  # type: ignore[attr-defined]
    found.nvmlInit = lambda: None  # type: ignore[attr-defined]
    found.nvmlDeviceGetHandleByIndex = lambda index: ("index", index)  # type: ignore[attr-defined]
    found.nvmlDeviceGetHandleByUUID = lambda uuid: ("uuid", uuid)  # type: ignore[attr-defined]
    found.nvmlDeviceGetClockInfo = lambda handle, kind: {"index": 1500, "uuid": 900}[handle[0]] + kind  # type: ignore[attr-defined]
    for name, value in more.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize(
    "name", ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"]
)
def test_clocks_by_the_library_newer_and_older(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library(**{name: lambda handle: 0x20}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-abc")
    first, second = make_clock_reader(0), make_clock_reader(1)
    assert first is not None
    assert second is not None
    assert first() == Reading(1501.0, 0x20)
    assert second() == Reading(901.0, 0x20)


def test_clocks_by_the_tool_newer_and_older(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if "event_reasons" in command[2]:  # an older tool does not know that field
            raise subprocess.CalledProcessError(2, command)
        assert command[1] == "--id=0"
        return subprocess.CompletedProcess(command, 0, "1410, 0x0000000000000004\n", "")

    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(gpu.subprocess, "run", answer)
    read = make_clock_reader()
    assert read is not None
    assert read() == Reading(1410.0, 4)


def test_without_library_and_tool_there_is_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    assert make_clock_reader() is None


def test_external_data_of_a_model_given_as_bytes(tmp_path: Path) -> None:
    proto = nets.with_batch_norm()
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    session = TimedSession((tmp_path / "m.onnx").read_bytes(), Deployment(), tmp_path)
    session.bind({"x": np.ones((1, 1, 4, 4), np.float32)})
    assert outputs(session)[0].shape == (1, 1, 2, 2)


@pytest.mark.cuda
def test_on_a_gpu() -> None:
    session = loaded(nets.with_batch_norm(), provider="cuda")
    session.bind({"x": np.ones((1, 1, 4, 4), np.float32)})
    session.run()
    queued, done = session.submit_ms()
    assert queued <= done
    assert session.providers[0] == "CUDAExecutionProvider"
    assert make_clock_reader() is not None
