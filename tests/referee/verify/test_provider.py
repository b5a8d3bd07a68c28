"""Providers: named, given their options, and proved by where the nodes ran."""

from __future__ import annotations

import json
import stat
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter.errors import ModelError, RuntimeUnavailable
from converter.records import Verdict
from converter.referee.verify import compare
from converter.referee.verify.models import ModelUnderTest
from converter.runtime import gpu, machine, providers
from converter.runtime import session as profile
from converter.runtime.session import Placement, find_placement, prove_placement, read_profile
from tests.referee.verify import nets

CPU, CUDA, TENSORRT = providers.PROVIDERS["cpu"], providers.PROVIDERS["cuda"], providers.PROVIDERS["tensorrt"]
X = {"x": np.zeros((1, 3, 16, 16), np.float32)}


def events(*ran: tuple[str, str, str]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{"cat": "Session", "name": "model_run", "args": {}}]
    for k, (name, op, where) in enumerate(ran):
        args = {"op_name": op, "provider": where, "node_index": str(k)}
        made.append({"cat": "Node", "name": f"{name}_kernel_time", "args": args})
        made.append({"cat": "Node", "name": f"{name}_fence_before", "args": {"op_name": op}})
    return made


def written(path: Path, found: Any) -> Path:
    path.write_text(json.dumps(found))
    return path


def test_a_profile_says_where_every_node_ran(tmp_path: Path) -> None:
    ran = events(("c", "Conv", CUDA), ("s", "Shape", CPU), ("c2", "FusedConv", CUDA), ("m", "MatMul", CPU))
    found = read_profile(written(tmp_path / "p.json", ran + ran[1:2]))  # a node in a loop counts once
    assert found.nodes == {CUDA: 2, CPU: 2}
    assert found.elsewhere("cuda") == [f"m (MatMul) on {CPU}"]
    assert len(found.elsewhere("cpu")) == 2
    (tmp_path / "q.json").write_text("no profile")
    with pytest.raises(ModelError, match=r"q\.json"):
        read_profile(tmp_path / "q.json")


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MatMul", "Gemm", "BatchNormalization", "FusedGemm", "LSTM"])
def test_arithmetic_elsewhere_is_refused_and_named(op: str, tmp_path: Path) -> None:
    ran = events(("heavy", op, CPU), ("r", "Relu", CUDA))
    with pytest.raises(RuntimeUnavailable, match=rf"model: .*{CUDA}.*heavy \({op}\)"):
        prove_placement(read_profile(written(tmp_path / "p.json", ran)), "cuda", "model")


def test_shape_arithmetic_may_be_anywhere_but_not_everything() -> None:
    prove_placement(Placement({CUDA: 3, CPU: 4}, ((CUDA, "Conv", "c"),)), "cuda", "model")
    with pytest.raises(RuntimeUnavailable, match="every node"):
        prove_placement(Placement({CPU: 4}, ()), "cuda", "model")
    many = tuple((CPU, "Conv", f"c{k}") for k in range(9))
    with pytest.raises(RuntimeUnavailable, match="and 6 more"):
        prove_placement(Placement({CPU: 9}, many), "cuda", "model")


def test_a_real_run_is_placed(tmp_path: Path) -> None:
    onnx.save(nets.plain(), tmp_path / "m.onnx")
    found = find_placement(tmp_path / "m.onnx", "cpu", X)
    assert found.nodes == {CPU: len(nets.plain().graph.node)}
    assert {op for _, op, _ in found.heavy} == {"Conv", "BatchNormalization", "Gemm"}
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]  # the profile is gone


def test_what_a_session_is_given() -> None:
    strict = providers.list_providers("cuda", {"use_tf32": "1", "device_id": "1"})
    assert strict == [(CUDA, {"use_tf32": "0", "device_id": "1", "cudnn_conv_algo_search": "HEURISTIC"})]
    deployed = providers.list_providers("cuda", {"device_id": "1"}, strict=False, alone=False)
    assert deployed == [(CUDA, {"device_id": "1"}), CPU]
    assert providers.list_providers("cuda", strict=False) == [CUDA]
    behind = providers.list_providers("tensorrt", {"trt_fp16_enable": "1", "device_id": "0"}, alone=False)
    assert behind[0] == (TENSORRT, {"trt_fp16_enable": "0", "device_id": "0"})
    assert behind[1] == (CUDA, {"device_id": "0"} | providers.STRICT)  # the same GPU
    deployed = providers.list_providers("tensorrt", {"device_id": "1"}, strict=False, alone=False)
    assert deployed == [(TENSORRT, {"device_id": "1"}), (CUDA, {"device_id": "1"}), CPU]
    assert providers.list_providers("tensorrt", strict=False, alone=False) == [TENSORRT, CUDA, CPU]
    assert providers.list_providers("tensorrt", {"trt_fp16_enable": "1"}, strict=False)[0][1]["trt_fp16_enable"] == "1"
    assert providers.list_providers("cpu") == [CPU]


class FakeOrt(types.SimpleNamespace):
    """onnxruntime where CUDA is listed, and nothing says whether it loads."""

    loads = 0

    def get_available_providers(self) -> list[str]:
        return [CUDA, CPU]

    def preload_dlls(self) -> None:
        type(self).loads += 1
        for name in "abcd":
            print(f"Failed to load lib{name}.so.9: lib{name}.so.9: cannot open shared object file")


def test_libraries_are_loaded_once_and_silently(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(providers, "import_onnxruntime", FakeOrt)
    monkeypatch.setattr(providers, "_preloaded", [])
    assert providers.check_provider("cuda", {"device_id": "0"}) == CUDA
    assert providers.check_provider("cuda") == CUDA
    assert FakeOrt.loads == 1
    assert capsys.readouterr() == ("", "")
    for provider, options in (("tensorrt", None), ("tpu", None), ("cpu", {"a": "b"})):
        with pytest.raises(RuntimeUnavailable):
            providers.check_provider(provider, options)


def test_a_listed_provider_that_does_not_load_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime without CUDA's libraries makes a session on the CPU and says nothing."""
    from converter.runtime import session

    made: list[Any] = []

    class Silent:
        def __init__(self, source: Any, options: Any, providers: list[Any], enable_fallback: int) -> None:
            assert enable_fallback == 0  # its own would swallow the provider's error
            made.append((options.get_session_config_entry("session.disable_cpu_ep_fallback"), providers))
            if made[-1][0] == "1":
                raise RuntimeError("This session contains graph nodes that are assigned to the default CPU EP")

        def get_providers(self) -> list[str]:
            return [CPU]

        def disable_fallback(self) -> None:
            pass

    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", Silent)
    monkeypatch.setattr(session, "check_provider", lambda provider, options: CUDA)
    with pytest.raises(RuntimeUnavailable, match=f"asked for {CUDA}, got {CPU}"):
        session.Session(nets.plain().SerializeToString(), "cuda")
    assert [flag for flag, _ in made] == ["1", "0"]
    assert [len(given) for _, given in made] == [1, 2]


def test_a_provider_is_tried_before_anything_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing differs, and nothing would be run."""
    from converter.referee.verify import request as asked

    tried: list[Any] = []
    monkeypatch.setattr(asked, "check_provider", lambda provider, options: CUDA)

    def broken(provider: str, options: Any) -> None:
        tried.append((provider, options))
        raise RuntimeUnavailable("listed, but not there")

    monkeypatch.setattr(asked, "probe_provider", broken)
    model = nets.plain()
    with pytest.raises(RuntimeUnavailable, match="not there"):
        compare(model, model, provider="cuda", provider_options={"device_id": "0"})
    assert tried == [("cuda", {"device_id": "0"})]


def test_the_probe_is_a_model() -> None:
    profile.probe_provider("cpu")
    assert onnx.load_from_string(profile._PROBE).graph.node[0].op_type == "Relu"


def test_what_onnxruntime_prints_is_kept_off_the_terminal(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    import onnxruntime

    real = onnxruntime.InferenceSession

    def noisy(*args: Any, **kwargs: Any) -> Any:
        print("*** EP Error ***")
        return real(*args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noisy)
    profile.probe_provider("cpu")
    assert capfd.readouterr() == ("", "")


def test_the_referee_proves_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a provider that runs, but hands the arithmetic on: never a pass."""
    from converter.referee.verify import models as side
    from converter.referee.verify import request as asked

    real_session, real_run = side.Session, profile.run_with_placement
    shared: dict[str, Any] = {"where": CPU}

    def on_cpu(model: Any, provider: str, feeds: Any, **settings: Any) -> Any:
        found, values = real_run(model, "cpu", feeds, **settings | {"options": {}})
        heavy = tuple((shared["where"], op, name) for _, op, name in found.heavy)
        return Placement({shared["where"]: len(heavy), CPU: 1}, heavy), values

    monkeypatch.setattr(asked, "check_provider", lambda provider, options: CUDA)
    monkeypatch.setattr(asked, "probe_provider", lambda provider, options: None)
    monkeypatch.setattr(
        side, "Session", lambda model, provider, **settings: real_session(model, "cpu", **settings | {"options": {}})
    )
    monkeypatch.setattr(side, "run_with_placement", on_cpu)
    model = nets.plain()
    with pytest.raises(RuntimeUnavailable, match=r"original: asked for CUDA.*\(BatchNormalization\)"):
        compare(model, nets.fold(model), provider="cuda", stages=["runtime"])
    with pytest.raises(RuntimeUnavailable, match=r"original: asked for CUDA"):
        compare(model, nets.fold(model), provider="cuda")
    shared["where"] = CUDA
    strict = {"provider_options": {"device_id": "0"}, "stages": ["runtime"]}
    parity = compare(model, nets.fold(model), provider="cuda", **strict)
    assert parity.verdict is Verdict.PASS
    assert parity.environment is not None
    assert parity.environment.nodes_by_ep[CUDA] > 0
    assert parity.environment.provider_options["use_tf32"] == "0"


def test_strict_and_deployed_sessions_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.referee.verify import models as side

    seen: list[dict[str, Any]] = []
    real = side.Session

    def spy(model: Any, provider: str, **settings: Any) -> Any:
        seen.append(settings)
        return real(model, provider, **settings)

    monkeypatch.setattr(side, "Session", spy)
    model = nets.plain()
    compare(model, nets.fold(model), opt_level="basic", stages=["algebra", "runtime"])
    assert {(s["optimize"], s["strict"]) for s in seen} == {("off", True), ("basic", False)}
    seen.clear()
    compare(model, nets.fold(model), precision_gate="strict", stages=["algebra", "runtime"])
    assert {s["strict"] for s in seen} == {True}


def test_several_distributions_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("onnxruntime 1.32.0", "onnxruntime-gpu 1.32.0")
    monkeypatch.setattr(machine, "list_distributions", lambda: both)
    model = nets.plain()
    parity = compare(model, nets.fold(model), quick=True)
    assert parity.verdict is Verdict.PASS
    assert any("onnxruntime-gpu" in w for w in parity.warnings)


def test_the_machine_is_told() -> None:
    found = machine.describe_environment()
    assert set(found.versions) == {"biasopt", "python", "onnx", "numpy", "onnxruntime"}
    assert found.machine["cores"] >= 1
    assert found.gpu == {}


def test_gpu_facts_by_library_by_tool_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda k: k,
        nvmlDeviceGetName=lambda h: b"NVIDIA X",
        nvmlDeviceGetUUID=lambda h: "GPU-1",
        nvmlSystemGetDriverVersion=lambda: "600.1",
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert gpu.describe_gpu() == {"name": "NVIDIA X", "uuid": "GPU-1", "driver": "600.1"}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.describe_gpu() == {}
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA Y, GPU-2, 601.0'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    if sys.platform != "win32":
        assert gpu.describe_gpu() == {"name": "NVIDIA Y", "uuid": "GPU-2", "driver": "601.0"}


def test_the_gpu_that_is_told_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(machine, "describe_gpu", lambda device: asked.append(device) or {"uuid": device})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7,GPU-3")
    assert machine.describe_environment("cuda", options={"device_id": "1"}).gpu == {"uuid": "GPU-3"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    machine.describe_environment("cuda", options={"device_id": "1"})
    machine.describe_environment("cuda")
    assert asked == ["GPU-3", "1", "0"]
    fake = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetName=lambda h: f"NVIDIA {h}",
        nvmlDeviceGetUUID=lambda h: h,
        nvmlSystemGetDriverVersion=lambda: "600.1",
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert gpu.describe_gpu("MIG-5") == {"name": "NVIDIA MIG-5", "uuid": "MIG-5", "driver": "600.1"}


def test_placing_is_left_out_for_cut_out_places() -> None:
    from converter.referee.proto.source import LoadedModel
    from converter.referee.verify.models import make_region_options
    from converter.referee.verify.options import Options

    assert Options().prove is True
    assert make_region_options(Options()).prove is False
    side = ModelUnderTest(LoadedModel.open(nets.plain()), Options())
    side.run(X)
    assert side.placement is None  # on the CPU there is nothing to prove; the second session places it
    side.run_again(X)
    assert side.placement is not None


def test_a_placing_run_is_made_once_per_input(monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.referee.proto.source import LoadedModel
    from converter.referee.verify import models as side
    from converter.referee.verify.options import Options

    count = [0]
    real = side.run_with_placement

    def counted(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(side, "run_with_placement", counted)
    made = ModelUnderTest(LoadedModel.open(nets.plain()), Options())
    first, second = made.run_again(X), made.run_again(X)
    assert first is second
    assert np.array_equal(first["y"], made.run(X)["y"])
    other = {"x": X["x"] + 1}
    assert not np.array_equal(made.run_again(other)["y"], first["y"])
    assert count == [2]
