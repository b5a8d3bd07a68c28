"""What all tests share: markers that skip with a reason, the corpus, and reproducible hypothesis runs."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import signal
from collections.abc import Generator
from pathlib import Path

import hypothesis
import onnx
import pytest

from tests import onnx_text

# The same examples on every run; `--hypothesis-profile=long` looks further.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("long", deadline=None, max_examples=1000, print_blob=True)
hypothesis.settings.load_profile("default")


# What a folder of tests needs beside the core install; without it its modules skip, and say so.
TORCH = ("torch", "torchvision", "onnxscript")
EXTRAS = {"study": (*TORCH, "sklearn"), "torch_models": TORCH}
MODULES = {
    "ablate/test_ablate.py": ("sklearn",),  # its digits are data to measure on
    "ablate/test_compensate.py": ("sklearn",),
    "ablate/test_removal.py": ("sklearn",),
    "ablate/test_width.py": (*TORCH, "sklearn"),
    "rewrite/bias_flow/test_exports.py": TORCH,
}


class Lacking(pytest.Module):
    """A module of tests whose libraries are not installed: one visible skip instead of an error of collection."""

    missing: tuple[str, ...] = ()

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        pytest.skip(f"not installed: {', '.join(self.missing)}; pip install '.[torch,test]'", allow_module_level=True)


def is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # something forbids it
        return False


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    here = module_path.relative_to(Path(__file__).parent)
    needs = MODULES.get(here.as_posix(), EXTRAS.get(here.parts[0], ()))
    missing = tuple(name for name in needs if not is_installed(name))
    if not missing:
        return None
    module: Lacking = Lacking.from_parent(parent, path=module_path)
    module.missing = missing
    return module


def pytest_configure() -> None:
    """Heed what the shell (in the background) and nohup have ignored: the commands that tests interrupt inherit it."""
    onnx_text.install()
    heeded = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL}
    for name, handler in heeded.items():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-cuda", action="store_true", help="fail, not skip, where no CUDA device is found")


def cuda_devices() -> int:
    """Count the CUDA devices by asking the driver; no library of ours is loaded for it."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if onnx.__version__.startswith(("1.17.", "1.18.")):
        for item in items:
            if _OLD_ONNX.search(item.nodeid):
                item.add_marker(pytest.mark.skip(reason=f"onnx {onnx.__version__} itself is wrong there, or ends"))
    skip_cuda = not config.getoption("--require-cuda") and not cuda_devices()
    for item in items:
        if item.get_closest_marker("serial"):
            item.add_marker(pytest.mark.xdist_group("serial"))
        if skip_cuda and item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device found"))


# What is judged by onnx's own reference evaluator (padding by name, recurrent nodes with state or in two directions,
# Scan, float16), or ends in its shape inference, where the onnx that is installed is older than these were mended;
# and damaged dequantizations, at which onnxruntime 1.20 aborts.
_OLD_ONNX = re.compile(
    r"test_convolves\[(same|valid)|test_pools\[AveragePool-19-attributes7|test_flipped_bytes_never_crash"
    r"|test_(everything_float_becomes_float64|same_seed_perturbs_alike)|test_agrees_with_onnxruntime_on_the_corpus"
    r"|test_merge_rnn_biases.py|test_fold_bn_into_quantized.py|\[(scan-outer|captured-by-scan|valid|bn-conv-same-upper|same-unknown-size|chain-[\w-]+)\]"
    r"|-float16\]|fp16-params-fp32\]|passes/.*bfloat16|\[dq-int4-negative\]|test_a_(damaged_number_fails|fold_is_proved)\[dq-"
)
_TOO_NEW = re.compile(
    r"opset (\d+) is unknown, this onnx|No schema registered for .* version '(\d+)'|domain_version of (\d+)"
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A model of an operator set that came after the onnx that is installed is left out."""
    try:
        return (yield)
    except Exception as exc:
        if "is under development and support for this is limited" in str(exc):
            pytest.skip("this onnxruntime does not run the operator set")
        if "Could not find an implementation for" in str(exc) and onnx.__version__.startswith(("1.17.", "1.18.")):
            pytest.skip("this onnxruntime has no kernel of one of its operators")
        found = _TOO_NEW.search(str(exc))
        opset = int(next(group for group in found.groups() if group)) if found else 0
        if opset <= onnx.defs.onnx_opset_version() or opset > 26:
            raise
        pytest.skip(f"onnx {onnx.__version__} knows no operator set {opset}")


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Give the folder of real models that BIASOPT_CORPUS names."""
    folder = os.environ.get("BIASOPT_CORPUS", "")
    if not folder:
        pytest.skip("BIASOPT_CORPUS is not set")
    if not Path(folder).is_dir():
        pytest.fail(f"BIASOPT_CORPUS names no folder: {folder}")
    return Path(folder)
