"""The machine that models ran on, and the versions of what ran them, for reports."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.records import Environment
from converter.runtime.failures import list_distributions
from converter.runtime.gpu import describe_gpu, find_visible_device
from converter.runtime.providers import import_onnxruntime
from converter.runtime.session import count_cores


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
