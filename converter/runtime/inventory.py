"""What is installed and what of it works: for ``biasopt doctor``. Nothing in here raises; what fails says why."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from converter._version import __version__
from converter.errors import BiasoptError
from converter.records.results import Inventory, LibraryState, ProviderState
from converter.runtime.failures import (
    explain_conflict,
    explain_loader,
    find_package,
    is_installed,
    list_distributions,
    preload_tensorrt,
)
from converter.runtime.gpu import list_gpus
from converter.runtime.providers import PROVIDERS, format_error, import_onnxruntime, preload_cuda
from converter.runtime.session import Session

# y = Conv(x, w) with x[1,1,2,2] and w = [[[[2]]]]: the least that shows that a provider computes.
_CONV = bytes.fromhex(
    "08083a650a110a01780a01771201792204436f6e763a001201672a13080108010801080110012204000000404201775a"
    "1b0a017812160a14080112100a0208010a0208010a0208020a020802621b0a017912160a14080112100a0208010a0208"
    "010a0208020a02080242040a00100d"
)
# What the providers of onnxruntime 1.31 need beside the driver's own library.
LIBRARIES = {
    "cpu": (),
    "cuda": (
        *("libcuda.so.1", "libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13"),
        *("libcurand.so.10", "libcufft.so.12", "libcudnn.so.9"),
    ),
    "tensorrt": ("libnvinfer.so.10", "libnvonnxparser.so.10"),
}
_PACKAGES = ("onnx", "numpy", "onnx-graphsurgeon", "torch")


def take_inventory(provider: str = "cpu") -> Inventory:
    """All of it; ``works`` says whether the provider that is asked for computes."""
    providers = [_try_provider(name) for name in PROVIDERS]
    asked = next(each for each in providers if each.name == provider)
    wanted = {"cpu": ("cpu",), "cuda": ("cuda",), "tensorrt": ("cuda", "tensorrt")}[provider]
    libraries = [_find_library(each) for name in PROVIDERS for each in LIBRARIES[name]] if _has_loader() else []
    needed = {each for name in wanted for each in LIBRARIES[name]}
    missing = [each for each in libraries if each.name in needed and not each.path]
    return Inventory(
        versions=_list_versions(),
        place=str(Path(__file__).resolve().parents[1]),
        python=sys.executable,
        platform=platform.platform(terse=True),
        distributions=list_distributions(),
        providers=tuple(providers),
        libraries=tuple(libraries),
        gpus=tuple(_list_gpus()),
        asked=provider,
        works=asked.works,
        advice=() if asked.works and not explain_conflict() else tuple(_advise(asked, missing)),
    )


def _has_loader() -> bool:
    return sys.platform == "linux"


def _list_versions() -> dict[str, str]:
    found = {"biasopt": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    try:
        ort = import_onnxruntime()
        found["onnxruntime"] = str(ort.__version__)
        if built := getattr(ort, "cuda_version", ""):
            found["onnxruntime was built for CUDA"] = str(built)
    except BiasoptError:
        pass  # the providers say why
    return found


def _try_provider(name: str) -> ProviderState:
    """Whether onnxruntime lists a provider, and whether it computes a convolution."""
    try:
        listed = PROVIDERS[name] in import_onnxruntime().get_available_providers()
        got = Session(_CONV, name, strict=False).run({"x": np.ones((1, 1, 2, 2), np.float32)})["y"]
        reason = "" if np.array_equal(got, np.full((1, 1, 2, 2), 2, np.float32)) else "it computes wrong numbers"
    except BiasoptError as exc:
        listed, reason = _is_listed(name), str(exc)
    except Exception as exc:  # whatever is broken here is to be told, not to break the doctor
        listed, reason = _is_listed(name), f"{type(exc).__name__}: {format_error(exc)}"
    return ProviderState(name, listed, works=not reason, reason=reason)


def _is_listed(name: str) -> bool:
    try:
        return PROVIDERS[name] in import_onnxruntime().get_available_providers()
    except Exception:
        return False


def _find_library(name: str) -> LibraryState:
    """Where the loader finds a library, and the version of the package that brings it; the loader's words if not."""
    with suppress(Exception):
        preload_cuda(import_onnxruntime())
        preload_tensorrt()
    try:
        ctypes.CDLL(name)
    except OSError as exc:
        return LibraryState(name, reason=" ".join(str(exc).split()))
    package = find_package(name)
    version = importlib.metadata.version(package) if package and is_installed(package) else ""
    return LibraryState(name, _find_mapped(name), version)


def _find_mapped(name: str) -> str:
    with suppress(OSError, IndexError):
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            path = line.partition("/")[1] + line.partition("/")[2]
            if Path(path).name.startswith(name):
                return path
    return name


def _list_gpus() -> list[dict[str, Any]]:
    with suppress(Exception):
        return list_gpus()
    return []


def _advise(asked: ProviderState, missing: Sequence[LibraryState]) -> list[str]:
    """What to do, each thing once: the conflict first, since nothing else helps before it is ended."""
    if conflict := explain_conflict():
        return [conflict]
    said: dict[str, list[str]] = {}
    for each in missing:
        words = explain_loader(each.reason, PROVIDERS[asked.name])
        loader, _, command = words.rpartition("; run: ")
        said.setdefault(command if loader else words, []).append(each.name)
    found = [
        f"{', '.join(names)}: not found; run: {text}" if text[:3] == "pip" else text for text, names in said.items()
    ]
    return [asked.reason, *found]
