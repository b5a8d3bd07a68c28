"""Clocks of an NVIDIA GPU, read and never set: by NVIDIA's library, else by its tool, else not at all."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.dataclass import dataclass
from converter.records import Environment
from converter.runtime.installation import list_distributions
from converter.runtime.providers import describe_gpu, import_onnxruntime
from converter.runtime.session import count_cores

# What slows a GPU down against its will; idle, clocks that the user set and a display's clocks are none of it.
# Source: NVML API reference, nvmlClocksEventReasons.
THROTTLES = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
HINT = "sudo nvidia-smi -lgc <MHz>,<MHz> locks the clocks of the GPU, sudo nvidia-smi -rgc unlocks them"
_QUERIES = ("clocks.sm,clocks_event_reasons.active", "clocks.sm,clocks_throttle_reasons.active")


@dataclass(frozen=True, slots=True)
class Reading:
    """The clock of the multiprocessors in MHz, and a bit per reason for which it is lower than it could be."""

    sm_mhz: float
    reasons: int = 0

    @property
    def throttled(self) -> tuple[str, ...]:
        """Why the GPU is slowed down, in words; empty if it is not."""
        return tuple(name for bit, name in THROTTLES.items() if self.reasons & bit)


def make_clock_reader(device_id: int = 0) -> Callable[[], Reading] | None:
    """Give a function that reads the clock now; None where it cannot be read."""
    for make in (_read_by_library, _read_by_tool):
        with suppress(Exception):  # no library, no tool, no driver, no GPU, no right to ask: all the same here
            read = make(find_visible_device(device_id))
            read()
            return read
    return None


def find_visible_device(device_id: int) -> str:
    """Which GPU of the machine CUDA means by a number: its index, or its uuid."""
    listed = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return listed[device_id] if device_id < len(listed) else str(device_id)


def _read_by_library(device: str) -> Callable[[], Reading]:
    import pynvml

    pynvml.nvmlInit()
    by_index = device.isdigit()
    handle: Any = pynvml.nvmlDeviceGetHandleByIndex(int(device)) if by_index else _find_by_uuid(pynvml, device)
    reasons = getattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    reasons = reasons or pynvml.nvmlDeviceGetCurrentClocksThrottleReasons
    return lambda: Reading(float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)), int(reasons(handle)))


def _find_by_uuid(pynvml: Any, uuid: str) -> Any:
    return pynvml.nvmlDeviceGetHandleByUUID(uuid)


def _read_by_tool(device: str) -> Callable[[], Reading]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise FileNotFoundError("nvidia-smi")
    query = next(q for q in _QUERIES if _ask(tool, q, device) is not None)

    def read() -> Reading:
        found = _ask(tool, query, device)
        if found is None:
            raise OSError("nvidia-smi does not answer")
        return found

    return read


def _ask(tool: str, query: str, device: str) -> Reading | None:
    command = [tool, f"--id={device}", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
        return parse_reading(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def parse_reading(line: str) -> Reading:
    """One line of nvidia-smi: ``1980, 0x0000000000000004``.

    Raises
    ------
    ValueError
        It is no such line.
    """
    clock, reasons = (part.strip() for part in line.strip().split("\n")[0].split(","))
    return Reading(float(clock), int(reasons, 16))


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
        versions=_list_versions(),
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
