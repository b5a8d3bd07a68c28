"""Why a provider cannot be used: each cause is named, by whoever noticed it, with a command; on stubs of CUDA."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest

from converter.errors import RuntimeUnavailable
from converter.runtime import failures, providers, timing
from converter.runtime.failures import Failure, explain_failure, explain_loader, find_failure
from converter.runtime.session import Placement, prove_placement, refuse_failure
from tests.runtime import cuda_stub

ROOT = Path(__file__).parents[2]
CUDA, TENSORRT = providers.PROVIDERS["cuda"], providers.PROVIDERS["tensorrt"]
NO_FILE = "cannot open shared object file: No such file or directory"

_PROBE = """
import sys
from converter.errors import BiasoptError
from converter.runtime.session import probe_provider
provider, *options = sys.argv[1:]
try:
    probe_provider(provider, dict(text.split("=") for text in options))
    print("works")
except BiasoptError as exc:
    print(exc)
"""


def probe(env: dict[str, str], provider: str, *options: str) -> str:
    """What a process of its own says of the provider, on one line."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, provider, *options],
        env=env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
    assert done.stdout.count("\n") == 1
    return done.stdout.strip()


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Environments by what CUDA answers: 0 where all goes well."""
    made: dict[Any, dict[str, str]] = {}

    def build(answer: int, *leave_out: str) -> dict[str, str]:
        key = (answer, *leave_out)
        if key not in made:
            made[key] = cuda_stub.build_stubs(tmp_path_factory.mktemp("stub"), answer, leave_out=leave_out)
            made[key].pop("CUDA_VISIBLE_DEVICES", None)
        return made[key]

    return build


def test_the_provider_works_on_a_stub_that_answers_well(stubs: Any) -> None:
    assert probe(stubs(0), "cuda", "use_tf32=0", "cudnn_conv_algo_search=HEURISTIC") == "works"
    strict = [f"{k}={v}" for k, v in providers.STRICT.items()]
    assert probe(stubs(0), "cuda", *strict) == "works"  # so that onnxruntime knows every option that we set


@pytest.mark.parametrize(
    ("option", "cause", "advice"),
    [
        ("nonsense=1", 'Unknown provider option: "nonsense"', "leave out --provider-option nonsense"),
        ("use_tf32=perhaps", "\"use_tf32\": it was given 'perhaps'", "give --provider-option use_tf32"),
        ("cudnn_conv_algo_search=FAST", "it was given 'FAST'", "give --provider-option cudnn_conv_algo_search"),
        ("device_id=7", "Invalid device ID: 7", "nvidia-smi -L"),
    ],
)
def test_an_option_is_named_by_onnxruntime_itself(stubs: Any, option: str, cause: str, advice: str) -> None:
    said = probe(stubs(0), "cuda", option)
    assert cause in said
    assert advice in said
    assert "pip install" not in said


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        (cuda_stub.NO_DEVICE, "nvidia-smi -L lists the GPUs"),
        (cuda_stub.NO_DRIVER, "the driver is older"),
        (cuda_stub.OUT_OF_MEMORY, "smaller --batch"),
        (46, "another process holds the GPU"),
        (209, "no code for the GPU"),
        (803, "restart the machine"),
        (999, "or ask for --provider cpu"),
    ],
)
def test_an_error_of_cuda_is_told_with_its_number(stubs: Any, answer: int, advice: str) -> None:
    said = probe(stubs(answer), "cuda")
    assert said.startswith(f"{CUDA} cannot be used: CUDA failure {answer}: stub says no; ")
    assert advice in said
    assert "hostname" not in said


_CAPTURE = """
import numpy as np, onnx
from converter.errors import BiasoptError
from converter.runtime.timing import Deployment, TimedSession
model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g (float[2,4,4] x) => (float[2] y)'
    '{ [first] r = Relu(x) [the_det] d = Det(r) [last] y = Relu(d) }')
made = TimedSession(model.SerializeToString(), Deployment("cuda", cuda_graph=True))
made._arrays = {"x": np.zeros((2, 4, 4), np.float32)}
try:
    made._prepare_capture()
except BiasoptError as exc:
    print(exc)
"""


def test_a_cuda_graph_is_refused_with_the_nodes_in_its_way(stubs: Any) -> None:
    env = stubs(0) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", _CAPTURE], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("model: cannot be run as a CUDA graph: "), done.stdout + done.stderr[-2000:]
    assert f"not on {CUDA}: Det 'the_det'; export it with fixed sizes, or leave out --cuda-graph" in done.stdout


def test_an_id_that_shows_no_device_is_named(stubs: Any) -> None:
    said = probe(stubs(cuda_stub.NO_DEVICE) | {"CUDA_VISIBLE_DEVICES": "MIG-1234"}, "cuda")
    assert "CUDA_VISIBLE_DEVICES is 'MIG-1234': unset it, or set it to an id that nvidia-smi -L lists" in said


@pytest.mark.parametrize(
    ("library", "advice"),
    [
        ("libcuda.", "there is no NVIDIA driver (libcuda.so.1: "),
        ("libcublasLt.", "libcublasLt.so.13: "),
        ("libcurand.", "libcurand.so.10: "),
    ],
)
def test_a_library_that_is_missing_is_named_by_the_loader(stubs: Any, library: str, advice: str) -> None:
    said = probe(stubs(0, library), "cuda")
    if said == "works":
        pytest.skip(f"this machine has {library} of its own")
    assert said.startswith(f"asked for {CUDA}, got CPUExecutionProvider: {advice}")
    assert ("biasopt[cuda]" in said) is (library != "libcuda.")


def test_tensorrt_has_its_own_advice(stubs: Any) -> None:
    if cuda_stub.find_provider_library("tensorrt") is None or failures.is_installed("tensorrt-cu13-libs"):
        pytest.skip("onnxruntime has no TensorRT here, or TensorRT is installed")
    said = probe(stubs(0), "tensorrt")
    assert "libnvinfer.so.10: " in said or "libnvonnxparser.so.10: " in said
    assert said.endswith("run: pip install 'biasopt[tensorrt]'")


def test_cudnn_is_named_where_the_model_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "cuDNN is not available. Install cuDNN, update the system library search path, or set enable_cudnn=0"
    monkeypatch.setattr(failures, "is_installed", lambda package: False)
    with pytest.raises(
        RuntimeUnavailable, match=r"needs cuDNN; run: pip install 'biasopt\[cuda\]', or try .*enable_cudnn"
    ):
        refuse_failure(types.ModuleType("ort"), RuntimeError(text), CUDA, {})
    refuse_failure(types.ModuleType("ort"), RuntimeError(text), providers.PROVIDERS["cpu"], {})  # it has no say there


def test_a_fault_of_the_model_is_none_of_the_provider() -> None:
    for text in ("No Op registered for Nonsense", "Got invalid dimensions for input: x", "Protobuf parsing failed"):
        assert find_failure(text) is None


def test_every_failure_has_a_command() -> None:
    tools = ("--provider", "nvidia-smi", "pip install", "--batch")
    for each in Failure:
        said = explain_failure(types.SimpleNamespace(__file__=None), each, CUDA, 'option: "x"', {})  # type: ignore[arg-type]
        assert any(tool in said for tool in tools), said
        assert "\n" not in said


@pytest.mark.parametrize("library", ["libcublas.so.13", "libcudnn.so.9", "libcurand.so.10", "libnvinfer.so.10"])
def test_what_is_installed_is_never_advised(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setattr(failures, "is_installed", lambda package: False)
    assert "biasopt[cuda]" in explain_loader(f"{library}: {NO_FILE}", CUDA)
    assert "biasopt[tensorrt]" in explain_loader(f"{library}: {NO_FILE}", TENSORRT)
    monkeypatch.setattr(failures, "is_installed", lambda package: True)
    said = explain_loader(f"{library}: {NO_FILE}", CUDA)
    assert "biasopt[" not in said
    assert "is installed, but does not bring it" in said


def test_a_driver_is_no_matter_of_pip() -> None:
    said = explain_loader(f"libcuda.so.1: {NO_FILE}", CUDA)
    assert "no NVIDIA driver" in said
    assert "--gpus all" in said
    assert "pip" not in said


def fake_wheel(folder: Path, name: str, *files: str) -> None:
    """A distribution as pip leaves it: what it is called, and what it installed."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{each},sha256=x,1\n" for each in files))
    for each in files:
        (folder / each).parent.mkdir(parents=True, exist_ok=True)
        (folder / each).touch()


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, **files: tuple[str, ...]) -> None:
    for name, each in files.items():
        fake_wheel(folder, name.replace("_", "-"), *each)
    real = importlib.metadata.distributions
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: real(path=[str(folder)]))


PACKAGE = ("onnxruntime/__init__.py", "onnxruntime/capi/onnxruntime_pybind11_state.so")


def test_distributions_are_told_by_their_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugins = {"onnxruntime_qnn": ("onnxruntime_qnn/__init__.py",), "onnxruntime_ep_x": ("onnxruntime_ep_x/lib.so",)}
    install(monkeypatch, tmp_path, onnxruntime_gpu=PACKAGE, numpy=("numpy/__init__.py",), **plugins)
    assert failures.list_distributions() == ("onnxruntime-gpu 1.0",)
    assert failures.explain_conflict() == ""
    fake_wheel(tmp_path, "my-own-build", *PACKAGE)  # whatever it is called
    assert failures.list_distributions() == ("my-own-build 1.0", "onnxruntime-gpu 1.0")


def test_a_conflict_is_named_with_the_commands_that_end_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, onnxruntime_gpu=PACKAGE, onnxruntime=PACKAGE)
    wanted = "run: pip uninstall -y onnxruntime onnxruntime-gpu; then: pip install onnxruntime-gpu"
    assert failures.explain_missing(CUDA, "CPUExecutionProvider").endswith(wanted)
    monkeypatch.setattr(failures, "try_loading", lambda ort, provider: f"libcublas.so.13: {NO_FILE}")
    assert failures.explain_absence(types.ModuleType("ort"), CUDA, "CPUExecutionProvider").endswith(wanted)


def test_a_build_without_the_provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, onnxruntime=PACKAGE)
    monkeypatch.setattr(failures, "is_installed", lambda package: False)
    monkeypatch.setattr(failures, "has_gpu_build", lambda: True)
    assert failures.explain_missing(TENSORRT, "CPUExecutionProvider").endswith(
        "run: pip uninstall -y onnxruntime; then: pip install 'biasopt[tensorrt]'"
    )
    monkeypatch.setattr(failures, "is_installed", lambda package: True)
    assert "--force-reinstall --no-deps onnxruntime-gpu" in failures.explain_missing(CUDA, "CPUExecutionProvider")
    monkeypatch.setattr(failures, "has_gpu_build", lambda: False)
    assert "none is published for this platform" in failures.explain_missing(CUDA, "CPUExecutionProvider")


@pytest.mark.parametrize(
    "left", ["onnxruntime/capi/libonnxruntime_providers_cuda.so", "onnxruntime/__init__.py"], ids=["library", "package"]
)
def test_an_empty_shell_ends_with_3(tmp_path: Path, left: str) -> None:
    """What ``pip uninstall onnxruntime`` leaves of onnxruntime-gpu."""
    fake_wheel(tmp_path, "onnxruntime-gpu", *PACKAGE)
    for each in PACKAGE:
        (tmp_path / each).unlink()
    (tmp_path / left).write_text("import onnxruntime.capi._pybind_state\n" if left.endswith(".py") else "")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "real = sys.path[:]\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        "import importlib.util\n"
        "try:\n    import onnxruntime\nexcept ImportError:\n    pass\n"
        "sys.path[:] = real\n"
        "from converter.runtime.providers import import_onnxruntime\n"
        "try:\n    import_onnxruntime()\nexcept Exception as exc:\n    print(type(exc).__name__, exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("RuntimeUnavailable onnxruntime"), done.stdout + done.stderr
    assert "is an empty shell" in done.stdout
    assert "pip install --force-reinstall --no-deps" in done.stdout


def test_the_extras_fit_what_onnxruntime_was_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same majors as onnxruntime's own extra asks for."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(extras["cuda"]) < set(extras["tensorrt"])  # TensorRT hands on to CUDA
    assert set(extras["tensorrt"]) - set(extras["cuda"]) == {"tensorrt-cu13-libs>=10.13,<11"}
    try:
        own = importlib.metadata.requires("onnxruntime-gpu") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("onnxruntime-gpu is not installed")
    wanted = {text.split(";")[0].strip() for text in own if "extra ==" in text and text.startswith("nvidia-")}
    assert set(extras["cuda"]) & wanted >= {
        "nvidia-cuda-runtime~=13.0",
        "nvidia-cudnn-cu13~=9.0",
        "nvidia-curand~=10.0",
    }
    told = ["nvidia-cublas-extra>=1", "nvidia-cublas~=13.0; extra == 'cuda'", "numpy>=2"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: told)
    assert failures.find_pin("nvidia-cublas") == "nvidia-cublas~=13.0"
    assert failures.find_pin("unknown") == "unknown"


def test_the_table_of_causes_says_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What helps, row by row, is in a message; the causes are tested one by one above and beside."""
    lines = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]
    assert len(rows) >= 14
    monkeypatch.setattr(failures, "is_installed", lambda package: False)
    monkeypatch.setattr(failures, "is_installed", lambda package: False)
    ort: Any = types.SimpleNamespace(__file__=None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    said = [explain_failure(ort, each, CUDA, 'provider option: "x"', {}) for each in Failure]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    said.append(explain_failure(ort, Failure.DEVICE, CUDA, "CUDA failure 100", {}))
    for library, provider in (("libcuda.so.1", CUDA), ("libcublas.so.13", CUDA), ("libnvinfer.so.10", TENSORRT)):
        said.append(explain_loader(f"{library}: {NO_FILE}", provider))
    for published in (True, False):
        monkeypatch.setattr(failures, "has_gpu_build", lambda published=published: published)
        monkeypatch.setattr(failures, "explain_conflict", lambda: "")
        said.append(failures.explain_missing(CUDA, "CPUExecutionProvider"))
    monkeypatch.setattr(failures, "list_distributions", lambda: ("onnxruntime 1", "onnxruntime-gpu 1"))
    said += [failures.explain_conflict(), failures.explain_shell(None)]
    mixed = Placement({TENSORRT: 1, CUDA: 1}, ((CUDA, "Conv", "c"),))
    with pytest.raises(RuntimeUnavailable) as refused:
        prove_placement(mixed, "tensorrt", "model")
    said += [str(refused.value), timing.NO_GRAPH]
    for cause, _, helps in rows:
        words = [word for word in re.split(r"\bx=|…", helps.strip("`")) if word]
        assert any(all(word in each for word in words) for each in said), cause
