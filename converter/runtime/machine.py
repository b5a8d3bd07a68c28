"""The machine: what models ran on, for reports; and what is installed and what of it works, for ``biasopt doctor``."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from converter._version import __version__
from converter.errors import BiasoptError
from converter.records import Environment
from converter.records.results import Inventory, LibraryState, ProviderState
from converter.runtime.failures import (
    explain_conflict,
    explain_loader,
    find_package,
    is_installed,
    list_distributions,
    preload_tensorrt,
)
from converter.runtime.gpu import describe_gpu, find_visible_device, list_gpus
from converter.runtime.providers import PROVIDERS, format_error, import_onnxruntime, preload_cuda
from converter.runtime.session import Session, count_cores


def describe_environment(
    provider: str = "cpu",
    *,
    providers: tuple[str, ...] = (),
    options: Mapping[str, str] | None = None,
    nodes: Mapping[str, int] | None = None,
    arithmetic: Mapping[str, int] | None = None,
) -> Environment:
    """Versions, machine and provider; the GPU only where one was asked for."""
    return Environment(
        versions=_list_versions() | (list_cuda_versions() if provider != "cpu" else {}),
        ort_dists=list_distributions(),
        machine=_describe_machine(),
        provider_requested=provider,
        providers_active=providers,
        provider_options=dict(options or {}),
        nodes_by_ep=dict(nodes or {}),
        arithmetic_by_ep=dict(arithmetic or {}),
        gpu=_describe_used_gpu(options or {}) if provider != "cpu" else {},
    )


def _describe_used_gpu(options: Mapping[str, str]) -> dict[str, Any]:
    """The GPU that a session uses: ``device_id`` counts those that CUDA_VISIBLE_DEVICES leaves visible."""
    device = str(options.get("device_id", "0"))
    return describe_gpu(find_visible_device(int(device) if device.isdigit() else 0))


def _list_versions() -> dict[str, str]:
    found = {"biasopt": __version__, "python": platform.python_version()}
    for name in ("onnx", "numpy"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    found["onnxruntime"] = str(import_onnxruntime().__version__)
    return found


# Libraries that a session on a GPU has loaded, by what they are called in a report, with what tells their version.
_CUDA_LIBRARIES = {
    "CUDA": ("libcudart.so.13", "cudaRuntimeGetVersion", (1000, 10)),
    "cuDNN": ("libcudnn.so.9", "cudnnGetVersion", (10000, 100)),
    "TensorRT": ("libnvinfer.so.10", "getInferLibVersion", (10000, 100)),
}


def list_cuda_versions() -> dict[str, str]:
    """Versions of those of NVIDIA's libraries that this process has loaded, as they tell them themselves."""
    found = {}
    for name, (library, function, (major, minor)) in _CUDA_LIBRARIES.items():
        with suppress(Exception):  # not loaded, or none that tells
            ask = getattr(ctypes.CDLL(library, mode=os.RTLD_NOLOAD), function)
            ask.restype = ctypes.c_size_t if name == "cuDNN" else ctypes.c_int
            number = ctypes.c_int()
            value = int(ask(ctypes.byref(number)) if name == "CUDA" else ask())
            value = number.value if name == "CUDA" else value
            if value >= major:
                found[name] = f"{value // major}.{value % major // minor}" + (f".{value % minor}" * (name != "CUDA"))
    return found


def _describe_machine() -> dict[str, Any]:
    found: dict[str, Any] = {"os": platform.platform(terse=True), "cpu": _find_cpu_name(), "cores": count_cores()}
    with suppress(OSError, ValueError, AttributeError):
        found["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if value := os.environ.get("NVIDIA_TF32_OVERRIDE"):  # rules over every option, for the whole process
        found["NVIDIA_TF32_OVERRIDE"] = value
    return found


def _find_cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def find_free_bytes(root: Path = Path("/")) -> int | None:
    """Memory that can be had without swapping, in bytes; None where the system does not say.

    What the machine has, and what the control groups of this process (containers, batch systems) leave of it.

    Parameters
    ----------
    root : path
        Where ``proc`` and ``sys`` are.

    Sources: proc(5), /proc/meminfo; cgroups(7); the kernel's admin-guide, cgroup-v1/memory and cgroup-v2.
    """
    known = [_read_available(root), *_list_group_rooms(root)]
    if (found := [size for size in known if size is not None]) or root != Path("/"):
        return max(0, min(found)) if found else None
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return None


def _read_available(root: Path) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


# Of each version of control groups: the files of the limit and of what is used, and what of that can be given back.
_V1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
_V2 = "memory.max", "memory.current", "inactive_file"


def _list_group_rooms(root: Path) -> list[int]:
    """What each control group that this process is in, and each group around it, leaves of its limit."""
    rooms = []
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines():
            number, _, rest = line.partition(":")
            controllers, _, own = rest.partition(":")
            if number == "0" and not controllers:
                top, files = root / "sys/fs/cgroup", _V2
            elif "memory" in controllers.split(","):
                top, files = root / "sys/fs/cgroup/memory", _V1
            else:
                continue
            # In a container the own group is mounted as the top, whatever the path says.
            group = top / own.lstrip("/") if ".." not in own.split("/") else top
            folders = [f for f in dict.fromkeys((group, *group.parents, top)) if f.is_relative_to(top)]
            rooms += [room for folder in folders if (room := _read_room(folder, *files)) is not None]
    return rooms


def _read_room(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    with suppress(OSError, ValueError):  # "max": no limit
        most = int((folder / limit).read_text(encoding="ascii"))
        used = int((folder / usage).read_text(encoding="ascii"))
        with suppress(OSError, ValueError, IndexError):
            for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
                if line.startswith(f"{cache} "):
                    used -= int(line.split()[1])
        return most - max(used, 0)
    return None


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
        versions=_list_installed(),
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


def _list_installed() -> dict[str, str]:
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
