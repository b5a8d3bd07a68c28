"""The GPU that a session uses: which of the machine's it is, what it is set to, its clock, and who else is on it.

All of it is read and never set: from CUDA's driver, from NVIDIA's management library, else from its tool, else not at
all. CUDA counts only the GPUs that CUDA_VISIBLE_DEVICES leaves, in an order of its own, so that its number is no
index of the other two: what is known to all of them is the uuid.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from converter.dataclass import dataclass

# What slows a GPU down against its will; idle, clocks that the user set and a display's clocks are none of it.
# Source: NVML API reference, nvmlClocksEventReasons.
POWER_CAP = "power cap"
THROTTLES = {
    0x04: POWER_CAP,
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
HINT = "sudo nvidia-smi -lgc <MHz>,<MHz> locks the clocks of the GPU, sudo nvidia-smi -rgc unlocks them"
_CLOCKS = ("clocks.sm,clocks_event_reasons.active", "clocks.sm,clocks_throttle_reasons.active")
_L2_CACHE_SIZE = 38  # CUdevice_attribute of cuda.h
# The facts of a GPU, and what nvidia-smi calls them.
_FACTS = {
    "name": "name",
    "uuid": "uuid",
    "driver": "driver_version",
    "bus_id": "pci.bus_id",
    "compute_capability": "compute_cap",
    "memory_mib": "memory.total",
    "ecc": "ecc.mode.current",
    "mig": "mig.mode.current",
    "power_limit_w": "power.limit",
    "power_default_w": "power.default_limit",
    "persistence": "persistence_mode",
}


# -- which one -----------------------------------------------------------------------------------------


def find_visible_device(device_id: int) -> str:
    """Which GPU of the machine CUDA means by a number: its uuid, or its index; empty where it is not visible."""
    with suppress(Exception):  # no driver, or one that does not answer
        if found := _ask_driver(device_id):
            return found
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return str(device_id)
    listed: list[str] = []
    for entry in (part.strip() for part in visible.split(",")):
        if not re.fullmatch(r"\d+|(?:GPU|MIG)-[\w/-]+", entry):  # CUDA stops reading at what it does not know
            break
        listed.append(entry)
    return listed[device_id] if device_id < len(listed) else ""


def _load_driver() -> Any:
    """CUDA's driver, initialised: no context is made, so that nothing is taken of the GPU."""
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    if driver.cuInit(0):
        raise OSError("cuInit failed")
    return driver


def _ask_driver(device_id: int) -> str:
    driver, device, raw = _load_driver(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
    # The second version gives the uuid of a MIG instance, the first that of the GPU it is a part of.
    get = getattr(driver, "cuDeviceGetUuid_v2", None) or driver.cuDeviceGetUuid
    if driver.cuDeviceGet(ctypes.byref(device), device_id) or get(ctypes.byref(raw), device) or not any(raw):
        return ""
    return str(uuid.UUID(bytes=bytes(raw)))


def find_l2_bytes(device_id: int) -> int | None:
    """The size of the GPU's L2 cache in bytes; None where the driver does not say."""
    with suppress(Exception):
        driver, device, size = _load_driver(), ctypes.c_int(), ctypes.c_int()
        if not driver.cuDeviceGet(ctypes.byref(device), device_id) and not driver.cuDeviceGetAttribute(
            ctypes.byref(size), _L2_CACHE_SIZE, device
        ):
            return size.value if size.value > 0 else None
    return None


# -- what it is ----------------------------------------------------------------------------------------


def describe_gpu(device: str = "0") -> dict[str, Any]:
    """Name, driver and settings of a GPU by its uuid or index, as far as they are told; empty where none answers."""
    if not device:
        return {}
    with suppress(Exception), _open_library() as nvml:
        return _describe_by_library(nvml, _find_handle(nvml, device))
    return next(iter(_describe_by_tool(device)), {})


def list_gpus() -> list[dict[str, Any]]:
    """The same of every GPU of the machine, whatever CUDA_VISIBLE_DEVICES hides."""
    with suppress(Exception), _open_library() as nvml:
        handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
        return [_describe_by_library(nvml, handle) for handle in handles]
    return _describe_by_tool("")


@contextmanager
def _open_library() -> Iterator[Any]:
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _find_handle(nvml: Any, device: str) -> Any:
    if device.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(device))
    for name in (device,) if device[:4] in ("GPU-", "MIG-") else (f"GPU-{device}", f"MIG-{device}"):
        with suppress(Exception):
            return nvml.nvmlDeviceGetHandleByUUID(name)
    # CUDA_VISIBLE_DEVICES takes the beginning of a uuid, if it is that of one GPU only.
    handles = list(map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount())))
    found = [each for each in handles if _text(nvml.nvmlDeviceGetUUID(each)).startswith(device)]
    if len(found) != 1:
        raise LookupError(device)
    return found[0]


def _find_whole(nvml: Any, handle: Any) -> Any:
    """The GPU that a MIG instance is a part of; it has the clocks and the settings."""
    with suppress(Exception):
        if nvml.nvmlDeviceIsMigDeviceHandle(handle):
            return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    return handle


def _describe_by_library(nvml: Any, handle: Any) -> dict[str, Any]:
    whole = _find_whole(nvml, handle)
    reads: dict[str, Callable[[], Any]] = {
        "name": lambda: _text(nvml.nvmlDeviceGetName(handle)),
        "uuid": lambda: _text(nvml.nvmlDeviceGetUUID(handle)),
        "driver": lambda: _text(nvml.nvmlSystemGetDriverVersion()),
        "bus_id": lambda: _text(nvml.nvmlDeviceGetPciInfo(whole).busId),
        "compute_capability": lambda: ".".join(map(str, nvml.nvmlDeviceGetCudaComputeCapability(whole))),
        "memory_mib": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total >> 20,
        "ecc": lambda: _switch(nvml.nvmlDeviceGetEccMode(whole)[0]),
        "mig": lambda: _switch(nvml.nvmlDeviceGetMigMode(whole)[0]),
        "power_limit_w": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(whole) / 1000,
        "power_default_w": lambda: nvml.nvmlDeviceGetPowerManagementDefaultLimit(whole) / 1000,
        "persistence": lambda: _switch(nvml.nvmlDeviceGetPersistenceMode(whole)),
    }
    found: dict[str, Any] = {}
    for key, read in reads.items():
        with suppress(Exception):  # not every GPU has each of them, and not every user may ask
            found[key] = read()
    return found


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _switch(value: int) -> str:
    return "on" if value else "off"


def _describe_by_tool(device: str) -> list[dict[str, Any]]:
    for facts in (_FACTS, dict(list(_FACTS.items())[:3])):  # an older tool refuses what it does not know
        lines = [[part.strip() for part in line.split(",")] for line in _ask_tool(",".join(facts.values()), device)]
        if found := [dict(zip(facts, line, strict=True)) for line in lines if len(line) == len(facts)]:
            return [_read_facts(each) for each in found]
    return []


def _read_facts(texts: dict[str, str]) -> dict[str, Any]:
    known = {key: text for key, text in texts.items() if text and not re.fullmatch(r"\[?N/A\]?|\[.*\]", text)}
    switches = {"Enabled": "on", "Disabled": "off"}
    return {
        key: float(text) if key.endswith("_w") else int(text) if key == "memory_mib" else switches.get(text, text)
        for key, text in known.items()
    }


def _ask_tool(query: str, device: str) -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    name = device if not device or device.isdigit() or device[:4] in ("GPU-", "MIG-") else f"GPU-{device}"
    which = [f"--id={name}"] if name else []
    command = [tool, *which, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in done.stdout.splitlines() if line.strip()]


# -- who else is on it, and its clock ------------------------------------------------------------------


def list_other_processes(device: str) -> list[int]:
    """Processes that compute on the GPU, but for this one; to be asked before this one does, since a container has
    numbers of its own.
    """
    with suppress(Exception), _open_library() as nvml:
        found = nvml.nvmlDeviceGetComputeRunningProcesses(_find_handle(nvml, device))
        return sorted({int(each.pid) for each in found} - {os.getpid()})
    return []


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


def _read_by_library(device: str) -> Callable[[], Reading]:
    import pynvml

    pynvml.nvmlInit()
    handle = _find_whole(pynvml, _find_handle(pynvml, device))
    reasons = getattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    reasons = reasons or pynvml.nvmlDeviceGetCurrentClocksThrottleReasons
    return lambda: Reading(float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)), int(reasons(handle)))


def _read_by_tool(device: str) -> Callable[[], Reading]:
    query = next(query for query in _CLOCKS if _ask_tool(query, device))

    def read() -> Reading:
        lines = _ask_tool(query, device)
        if not lines:
            raise OSError("nvidia-smi does not answer")
        return parse_reading(lines[0])

    return read


def parse_reading(line: str) -> Reading:
    """One line of nvidia-smi: ``1980, 0x0000000000000004``.

    Raises
    ------
    ValueError
        It is no such line.
    """
    clock, reasons = (part.strip() for part in line.strip().split("\n")[0].split(","))
    return Reading(float(clock), int(reasons, 16))
