"""Why a provider cannot be used: the cause, in the words of who noticed it, and the command that ends it.

onnxruntime has few codes for this, so that its own texts and CUDA's error numbers must tell. Where its library does
not load at all, it says so only in a log; the loader is asked again, and its words are passed on.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import ModuleType

from converter.runtime.installation import (
    advise_library,
    explain_conflict,
    has_gpu_build,
    is_installed,
    list_distributions,
)

_PAGES = {
    "CUDAExecutionProvider": "https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html",
    "TensorrtExecutionProvider": "https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html",
}


class Failure(Enum):
    """A cause, told by a pattern in onnxruntime's text; CUDA's numbers are those of cudaError_t (driver_types.h)."""

    OPTION = r'Unknown provider option: "(?P<name>[^"]*)"'
    DEVICE_ID = r"Invalid device ID|CUDA failure 101\b"
    OLD_DRIVER = r"CUDA failure (?:35|222)\b"
    DRIVER_MISMATCH = r"CUDA failure (?:803|804)\b"
    DEVICE = r"CUDA failure 100\b"
    BUSY = r"CUDA failure 46\b"
    ARCHITECTURE = r"CUDA failure 209\b|no kernel image is available"
    CUDNN = r"cuDNN is (?:unavailable|not available)|cuDNN library was not found|cuDNN handle is required"
    CUFFT = r"cuFFT is not available"
    TENSORRT = r"install TensorRT libraries"
    MEMORY = r"CUDA failure 2\b|out of memory|Failed to allocate memory"
    VALUE = r'Failed to parse provider option "(?P<name>[^"]*)"'
    CUDA = r"CUDA failure \d+"


_ADVICE = {
    Failure.OLD_DRIVER: "the driver is older than this CUDA needs; nvidia-smi names its version: update it",
    Failure.DRIVER_MISMATCH: "driver and kernel module differ; restart the machine, then see nvidia-smi",
    Failure.BUSY: "another process holds the GPU; nvidia-smi lists the processes",
    Failure.ARCHITECTURE: "this onnxruntime has no code for the GPU; nvidia-smi --query-gpu=name,compute_cap "
    "--format=csv names it, or ask for --provider cpu",
    Failure.MEMORY: "the GPU's memory is full; choose a smaller --batch, or end what nvidia-smi lists",
    Failure.TENSORRT: "TensorRT's libraries load, but take no GPU; nvidia-smi -L lists those that there are",
    Failure.CUDA: "nvidia-smi shows the state of the GPU; or ask for --provider cpu",
}


def find_failure(text: str) -> Failure | None:
    """Which cause a text of onnxruntime's names; None if it speaks of something else, such as the model."""
    return next((each for each in Failure if re.search(each.value, text, re.IGNORECASE)), None)


def explain_failure(ort: ModuleType, failure: Failure, provider: str, line: str, options: Mapping[str, str]) -> str:
    """One line: the provider, what onnxruntime said, and what to do."""
    line = line.rstrip(". ")
    if failure is Failure.TENSORRT and (words := try_loading(ort, provider)):
        return f"{provider} cannot be used: {explain_loader(words, provider)}"
    found = re.search(failure.value, line, re.IGNORECASE)
    name = (found.groupdict().get("name") if found else None) or ""
    if failure is Failure.VALUE:  # onnxruntime quotes its default there, not what it was given
        line = f'Failed to parse provider option "{name}": it was given {options.get(name, "")!r}'
    return f"{provider} cannot be used: {line}; {_advise(failure, provider, name)}"


def _advise(failure: Failure, provider: str, option: str) -> str:
    match failure:
        case Failure.OPTION:
            return f"leave out --provider-option {option}=…, or choose one of {_PAGES[provider]}"
        case Failure.VALUE:
            return f"give --provider-option {option}=… a value that is listed at {_PAGES[provider]}"
        case Failure.DEVICE | Failure.DEVICE_ID:
            return _advise_device()
        case Failure.CUDNN:
            return f"the model needs cuDNN; {advise_library('libcudnn.so.9')}, or try --provider-option enable_cudnn=0"
        case Failure.CUFFT:
            return f"the model needs cuFFT; {advise_library('libcufft.so.12')}"
        case _:
            return _ADVICE[failure]


def _advise_device() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return "nvidia-smi -L lists the GPUs; choose one with --provider-option device_id=0"
    return f"CUDA_VISIBLE_DEVICES is {visible!r}: unset it, or set it to an id that nvidia-smi -L lists"


def explain_missing(provider: str, there: str) -> str:
    """Why a build does not list the provider at all, and the commands that bring it."""
    said = f"this onnxruntime has no {provider}; it has {there}"
    if conflict := explain_conflict():
        return f"{said}: {conflict}"
    if not has_gpu_build():
        return f"{said}; none is published for this platform: ask for --provider cpu"
    if is_installed("onnxruntime-gpu"):
        return f"{said}; its files were replaced; run: pip install --force-reinstall --no-deps onnxruntime-gpu"
    names = " ".join(text.split()[0] for text in list_distributions())
    first = f"run: pip uninstall -y {names}; then: " if names else "run: "
    return f"{said}; {first}pip install 'biasopt[{_extra(provider)}]'"


def explain_absence(ort: ModuleType, provider: str, there: str) -> str:
    """Why a listed provider is not in the session that asked for it: the loader's own words, and what to do."""
    words = try_loading(ort, provider)
    said = f"asked for {provider}, got {there}"
    if conflict := explain_conflict():
        return f"{said}: {words}: {conflict}" if words else f"{said}: {conflict}"
    if not words:
        return f"{said}: its library loads, but no device takes it; {_advise_device()}"
    return f"{said}: {explain_loader(words, provider)}"


def explain_loader(words: str, provider: str) -> str:
    """What the dynamic loader's line means, with the command that helps."""
    library = words.partition(":")[0].strip()
    if re.match(r"libcuda\.so|nvcuda\.dll", library):
        return (
            f"there is no NVIDIA driver ({words}); install one, so that nvidia-smi runs, "
            "or start the container with --gpus all; or ask for --provider cpu"
        )
    if not re.match(r"lib[\w+-]+\.so[.\d]*$", library):
        return f"{words}; ask for --provider cpu, or reinstall the library that is named"
    return f"{words}; {advise_library(library, _extra(provider))}"


def try_loading(ort: ModuleType, provider: str) -> str:
    """Load the provider's library as onnxruntime does; what the loader says, empty where it loads.

    To be called after onnxruntime has tried: it then has set up what the library asks it for.
    """
    stem = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "tensorrt"}.get(provider)
    if stem is None or not ort.__file__:
        return ""
    folder = Path(ort.__file__).parent / "capi"
    names = [f"onnxruntime_providers_{each}" for each in ("shared", stem)]
    try:
        for name, mode in zip(names, (ctypes.RTLD_GLOBAL, ctypes.RTLD_LOCAL), strict=True):
            path = folder / (f"{name}.dll" if sys.platform == "win32" else f"lib{name}.so")
            if not path.is_file():
                return f"{path}: no such file"
            ctypes.CDLL(str(path), mode=mode)
    except OSError as exc:
        return " ".join(str(exc).split())
    return ""


def _extra(provider: str) -> str:
    return "tensorrt" if provider.startswith("Tensorrt") else "cuda"
