"""Why a provider cannot be used: its cause; what is installed of onnxruntime and NVIDIA, and the commands that mend it.

onnxruntime has few codes for this, so that its own texts and CUDA's error numbers must tell. Where its library does
not load at all, it says so only in a log; the loader is asked again, and its words are passed on.

Two distributions that bring the same package overwrite each other, and removing one leaves the other without its
files. Which do is a matter of the files that they install, not of their names: plugins of onnxruntime
(``onnxruntime-ep-*``, ``onnxruntime-qnn``) bring packages of their own.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import ModuleType

# NVIDIA's libraries for CUDA 13, and what pip calls them. libcuda itself is the driver's and comes from no package.
_PACKAGES = {
    "libcublas": "nvidia-cublas",
    "libcurand": "nvidia-curand",
    "libcudart": "nvidia-cuda-runtime",
    "libnvrtc": "nvidia-cuda-nvrtc",
    "libcufft": "nvidia-cufft",
    "libcudnn": "nvidia-cudnn-cu13",
    "libnvinfer": "tensorrt-cu13-libs",
    "libnvonnxparser": "tensorrt-cu13-libs",
}
_TENSORRT = ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10")
_MARKS = ("onnxruntime/__init__.py,", "onnxruntime/capi/onnxruntime_pybind11_state")


def list_distributions() -> tuple[str, ...]:
    """Every installed distribution that brings the package ``onnxruntime``, with its version."""
    found = set()
    for each in importlib.metadata.distributions():
        files = each.read_text("RECORD") or each.read_text("installed-files.txt")
        if files is not None and not any(files.startswith(m) or f"\n{m}" in files for m in _MARKS):
            continue  # before its name is asked for, which is parsed out of all that it says of itself
        name = re.sub(r"[-_.]+", "-", str(each.metadata["Name"] or "").lower())
        if files is not None or name in ("onnxruntime", "onnxruntime-gpu"):  # not all managers keep a list of files
            found.add(f"{name} {each.version}")
    return tuple(sorted(found))


def has_gpu_build() -> bool:
    """Whether onnxruntime is published with CUDA for this platform."""
    return (sys.platform, platform.machine()) in (("linux", "x86_64"), ("win32", "AMD64"))


def explain_conflict() -> str:
    """What is wrong where several distributions overwrite each other, and the two commands that end it; else empty."""
    names = [text.split()[0] for text in list_distributions()]
    if len(names) < 2:
        return ""
    keep = "onnxruntime-gpu" if "onnxruntime-gpu" in names else names[0]
    return (
        f"{' and '.join(names)} are both installed and overwrite each other's files; "
        f"run: pip uninstall -y {' '.join(names)}; then: pip install {keep}"
    )


def explain_shell(ort: ModuleType | None) -> str:
    """What is wrong where a package lies there without its library, as uninstalling one of two leaves it."""
    names = [text.split()[0] for text in list_distributions()]
    name = names[0] if len(names) == 1 else "onnxruntime-gpu" if has_gpu_build() else "onnxruntime"
    where = next(iter(getattr(ort, "__path__", ())), "")
    return (
        f"onnxruntime{' in ' + where if where else ''} is an empty shell: its files were removed with another "
        f"distribution; reinstall {name}: pip install --force-reinstall --no-deps {name}"
    )


def is_installed(package: str) -> bool:
    """Whether pip knows the package here."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(package))
    return False


def find_package(library: str) -> str | None:
    """What pip calls the package that brings a library; None where it is none of NVIDIA's."""
    return next((package for start, package in _PACKAGES.items() if library.startswith(start)), None)


def advise_library(library: str, extra: str = "cuda") -> str:
    """The command that brings a library that does not load, never one that brings what is installed already."""
    package = find_package(library)
    if package is None:
        return "add the folder that has it to LD_LIBRARY_PATH"
    if is_installed(package):
        return (
            f"{package} is installed, but does not bring it; run: pip install --force-reinstall '{find_pin(package)}'"
        )
    return f"run: pip install 'biasopt[{extra}]'"


def find_pin(package: str) -> str:
    """The package as biasopt's extras require it, such as ``nvidia-cublas~=13.0``."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for text in importlib.metadata.requires("biasopt") or ():
            if found := re.match(rf"{re.escape(package)}(?![\w-])[^;\s]*", text):
                return found[0]
    return package


def preload_tensorrt() -> None:
    """Load TensorRT's libraries from pip's package, where they lie beside no path that the loader searches."""
    spec = importlib.util.find_spec("tensorrt_libs")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for name in _TENSORRT:
            with suppress(OSError):  # a missing library is found out by the session, with the reason
                ctypes.CDLL(str(Path(folder) / name), mode=ctypes.RTLD_GLOBAL)


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
