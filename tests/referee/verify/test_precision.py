"""TF32 that was asked off and is on is seen by its errors; float32 is never taken for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import cli
from converter.records import Verdict
from converter.records.evidence import WarningCode
from converter.referee.reference.evaluator import Reference
from converter.referee.verify import compare, comparison, precision
from converter.referee.verify import models as side
from converter.referee.verify import request as asked
from converter.runtime import Session
from converter.runtime import session as profile
from converter.runtime.providers import PROVIDERS
from converter.runtime.session import Placement
from tests.referee.verify import nets
from tests.referee.verify.tf32 import emulate_tf32, round_to_tf32


def draw_net(seed: int) -> tuple[ModelProto, dict[str, Any]]:
    """A net of random depth and width, with inputs."""
    rng = np.random.default_rng(seed)
    channels, size = int(rng.integers(1, 9)), int(rng.integers(5, 11))
    net = nets.Net(seed, channels=channels, size=size)
    for _ in range(int(rng.integers(1, 7))):
        net.conv(int(rng.integers(2, 25)), int(rng.choice([1, 3, 5])), bias=bool(rng.integers(2)))
        net = net.bn() if rng.integers(2) else net
        net = net.relu() if rng.integers(2) else net
    return net.model(int(rng.integers(1, 20))), {"x": rng.standard_normal((1, channels, size, size), dtype=np.float32)}


def look(model: ModelProto, feeds: dict[str, Any], runs: dict[str, ModelProto]) -> dict[str, bool]:
    """Whether float32 is found where a provider runs something else for ``model``, by kinds of that."""
    exact, moved = Reference(model).run(feeds), Reference(model, weight_perturb=1).run(feeds)
    on_cpu = Session(model.SerializeToString(), threads=1).run(feeds)
    found = {}
    for kind, ran in runs.items():
        got = on_cpu if ran is model else Session(ran.SerializeToString(), threads=1).run(feeds)
        seen = precision.check_precision(model, [exact], [got], lambda _: on_cpu, lambda _: moved)
        assert seen is not None
        found[kind] = seen.holds
    return found


def test_the_emulation_keeps_ten_bits() -> None:
    one = np.float32(1)
    assert round_to_tf32(one + np.float32(2.0**-10)) == 1 + 2.0**-10
    assert round_to_tf32(one + np.float32(2.0**-12)) == 1
    assert round_to_tf32(-one * 3) == -3


def test_tf32_is_found_in_100_of_100_nets_and_never_claimed_of_float32() -> None:
    found = {"tf32": 0, "float32": 0, "one layer of tf32": 0}
    for seed in range(100):
        model, feeds = draw_net(seed)
        kinds = {"tf32": emulate_tf32(model), "float32": model, "one layer of tf32": emulate_tf32(model, 1)}
        for kind, holds in look(model, feeds, kinds).items():
            found[kind] += not holds
    assert found["tf32"] == 100
    assert found["float32"] == 0
    assert found["one layer of tf32"] >= 90  # of up to seven, whose errors the others hide at times


def test_another_order_of_sums_is_still_float32() -> None:
    """What a GPU does differently: channels in another order, and sums in pieces."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = int(rng.choice([64, 512, 4096]))
        w, order = rng.standard_normal((n, 8)).astype(np.float32), rng.permutation(n)
        x = rng.standard_normal((3, n)).astype(np.float32) + 3
        model = _product(w)
        parts = [x[:, order[k::5]] @ w[order[k::5]] for k in range(5)]
        got = {"y": np.add.reduce(parts, dtype=np.float32)}
        exact, here = {"y": x.astype(np.float64) @ w.astype(np.float64)}, {"y": x @ w}
        seen = precision.check_precision(model, [exact], [got], lambda _, v=here: v, lambda _, v=exact: v)  # type: ignore[misc]
        assert seen is not None
        assert seen.holds, (seed, n, seen)


def _product(w: np.ndarray, dtype: int = TensorProto.FLOAT) -> ModelProto:
    ends = [helper.make_tensor_value_info(n, dtype, ["N", d]) for n, d in (("x", w.shape[0]), ("y", w.shape[1]))]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(w, "w")]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def test_depth_and_width_of_a_graph() -> None:
    assert precision.measure_graph(_product(np.zeros((500, 3), np.float32))) == (1, 500)
    model = nets.Net(0, channels=16).conv(200, 3).relu().conv(8, 1).model()
    assert precision.measure_graph(model) == (3, 200)
    relu = helper.make_node("Relu", ["x"], ["y"])
    bare = helper.make_model(helper.make_graph([relu], "g", list(model.graph.input), list(model.graph.output)))
    assert precision.measure_graph(bare)[0] == 0
    assert precision.check_precision(bare, [{}], [{}], lambda _: {}, lambda _: {}) is None


def test_half_precision_keeps_tensor_cores() -> None:
    from converter.runtime.providers import list_providers

    half = _product(np.ones((64, 4), np.float16), TensorProto.FLOAT16)
    assert precision.has_narrow_weights(half)
    assert not precision.has_narrow_weights(_product(np.ones((64, 4), np.float32)))
    wide = list_providers("cuda")[0][1]
    narrow = list_providers("cuda", narrow=True)[0][1]
    assert wide["use_tf32"] == "0"
    assert "use_tf32" not in narrow
    assert narrow["cudnn_conv_algo_search"] == "HEURISTIC"


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A provider ``cuda`` that is the CPU, and computes what is put under "as" of the models it is given."""
    how: dict[str, Any] = {"as": lambda model: model}
    real = side.Session

    def session(model: Any, provider: str, **settings: Any) -> Any:
        if provider != "cpu":
            loaded = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
            model = how["as"](loaded).SerializeToString()
        return real(model, "cpu", **settings | {"options": {}})

    def placed(model: Any, provider: str, feeds: Any, **settings: Any) -> Any:
        return Placement({PROVIDERS[provider]: 5}, ((PROVIDERS[provider], "Conv", "c"),)), session(
            model, provider, **settings
        ).run(feeds)

    monkeypatch.setattr(side, "Session", session)
    monkeypatch.setattr(side, "run_with_placement", placed)
    for name in ("check_provider", "probe_provider"):
        monkeypatch.setattr(asked, name, lambda provider, options: provider)
    return how


def test_a_claim_with_tf32_on_is_of_level_c(fake_gpu: dict[str, Any]) -> None:
    model, _ = draw_net(1)
    b = nets.fold(model)
    parity = compare(model, b, provider="cuda", stages=["algebra", "runtime"])
    assert (parity.verdict, parity.level) == (Verdict.PASS, "B")
    told = next(s.detail["float32"] for s in parity.stages if s.id == "runtime")
    assert told["holds"]
    assert told["error"] < told["bound"]
    fake_gpu["as"] = emulate_tf32
    parity = compare(model, b, provider="cuda", stages=["algebra", "runtime"])
    assert parity.level == "C"
    said = [w for w in parity.warnings if w.code is WarningCode.TF32]
    assert len(said) == 1
    assert said[0].startswith("TF32 was on although it was asked off: output 'y' is ")
    held = compare(model, b, provider="cuda", stages=["algebra", "runtime"], require_level="B")
    assert held.verdict is not Verdict.PASS
    assert "TF32 was on" in held.why or held.why.startswith("runtime")
    free = compare(model, b, provider="cuda", stages=["algebra", "runtime"], precision_gate="as-deployed")
    assert not any(w.code is WarningCode.TF32 for w in free.warnings)  # where TF32 is as asked
    parity = compare(model, b, provider="tensorrt", stages=["algebra", "runtime"])
    assert any("TensorRT has no option against it" in w for w in parity.warnings)


def test_one_model_on_two_providers(fake_gpu: dict[str, Any]) -> None:
    model, _ = draw_net(2)
    parity = compare(model, model, provider_a="cpu", provider_b="cuda")
    assert (parity.verdict, parity.level, parity.scope) == (Verdict.PASS, "B", "whole-model")
    assert parity.environment is not None
    assert parity.environment_b is not None
    assert parity.environment.provider_requested == "cpu"
    assert parity.environment_b.provider_requested == "cuda"
    assert {s.id: s.status for s in parity.stages}["runtime"] is Verdict.PASS
    same = compare(model, model, provider="cuda")
    assert same.scope == "identical"  # on one provider there is nothing to run


def test_a_provider_that_computes_otherwise_does_not_pass(fake_gpu: dict[str, Any]) -> None:
    model, _ = draw_net(3)
    fake_gpu["as"] = emulate_tf32
    parity = compare(model, model, provider_a="cpu", provider_b="cuda")
    assert parity.verdict is Verdict.FAIL
    assert any("TF32 was on although" in w for w in parity.warnings)


def test_options_go_to_the_provider_that_knows_them() -> None:
    from converter.referee.verify.options import Options

    given = {"device_id": "1", "trt_fp16_enable": "1", "prefer_nhwc": "1"}
    crossed = Options(provider_a="cuda", provider_b="tensorrt", provider_options=given)
    assert crossed.for_side(0).provider_options == {"device_id": "1", "prefer_nhwc": "1"}
    assert crossed.for_side(1).provider_options == {"device_id": "1", "trt_fp16_enable": "1"}
    assert Options(provider_a="cpu", provider_b="cuda", provider_options=given).for_side(0).provider_options == {}


def test_the_command_takes_one_model_for_two_providers(
    tmp_path: Path, fake_gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from converter.commands import verify

    real: Callable[..., Any] = verify.compare
    monkeypatch.setattr(  # in this process, where the provider is a fake
        verify, "compare", lambda a, b, options: real(a, b, comparison.replace(options, isolated=False))
    )
    model, _ = draw_net(4)
    onnx.save(model, tmp_path / "m.onnx")
    path = str(tmp_path / "m.onnx")
    assert (
        cli.run(["verify", path, "--provider-a", "cpu", "--provider-b", "cuda", "--report", str(tmp_path / "r")]) == 0
    )
    page = (tmp_path / "r" / "report.md").read_text()
    assert "A ran on" in page
    assert "B ran on" in page
    assert cli.run(["report", str(tmp_path / "r" / "report.json")]) == 0
    capsys.readouterr()
    assert cli.run(["verify", path]) == 2
    assert "Missing B: give it, or --provider-a" in capsys.readouterr().err


def test_tensorrt_may_leave_nodes_to_cuda() -> None:
    trt, cuda, cpu = PROVIDERS["tensorrt"], PROVIDERS["cuda"], PROVIDERS["cpu"]
    mixed = Placement({trt: 1, cuda: 3}, ((cuda, "Conv", "c"), (cuda, "Conv", "d")), {trt: 6, cuda: 2})
    with pytest.raises(Exception, match="--partial lets CUDA do what TensorRT leaves"):
        profile.prove_placement(mixed, "tensorrt", "model")
    profile.prove_placement(mixed, "tensorrt", "model", partial=True)
    assert mixed.arithmetic == {trt: 6, cuda: 2}
    on_cpu = Placement({trt: 1, cpu: 3}, ((cpu, "Conv", "c"),))
    with pytest.raises(Exception, match="ask for a provider that has these"):
        profile.prove_placement(on_cpu, "tensorrt", "model", partial=True)
    nothing = Placement({cuda: 3}, ((cuda, "Conv", "c"),))
    with pytest.raises(Exception, match="every node on CUDA"):
        profile.prove_placement(nothing, "tensorrt", "model", partial=True)


def test_onnxruntime_tells_which_provider_took_which_node() -> None:
    model = nets.plain()
    feeds = {"x": np.zeros((1, 3, 16, 16), np.float32)}
    found = profile.find_placement(model.SerializeToString(), "cpu", feeds)
    if found.taken:  # since 1.24
        heavy = sum(n.op_type in ("Conv", "BatchNormalization", "Gemm") for n in model.graph.node)
        assert found.taken == {PROVIDERS["cpu"]: heavy}
