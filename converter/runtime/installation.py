"""What is installed of onnxruntime and of NVIDIA's libraries, and the pip commands that mend it.

Two distributions that bring the same package overwrite each other, and removing one leaves the other without its
files. Which do is a matter of the files that they install, not of their names: plugins of onnxruntime
(``onnxruntime-ep-*``, ``onnxruntime-qnn``) bring packages of their own.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import platform
import re
import sys
from contextlib import suppress
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
        name = re.sub(r"[-_.]+", "-", str(each.metadata["Name"] or "").lower())
        files = each.read_text("RECORD") or each.read_text("installed-files.txt")
        named = name in ("onnxruntime", "onnxruntime-gpu")  # other package managers keep no list of files
        if named if files is None else re.search(rf"(?m)^({'|'.join(map(re.escape, _MARKS))})", files):
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
