"""Which GPU it is, what is known of it, and who else is on it: by fakes of CUDA's driver, of NVML and of nvidia-smi."""

from __future__ import annotations

import sys
import types
import uuid
from pathlib import Path
from typing import Any

import pytest

from converter.bench import compare
from converter.runtime import gpu, machine
from converter.runtime.timing import Deployment

FIRST, SECOND = (str(uuid.UUID(int=k)) for k in (0x11, 0x22))


class Nvml(types.ModuleType):
    """Two GPUs, by the index of their bus; the second one has a MIG instance."""

    NVML_CLOCK_SM = 1
    ids = (f"GPU-{FIRST}", f"GPU-{SECOND}")

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return self.ids[index]

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        if name not in (*self.ids, "MIG-5"):
            raise ValueError(name)
        return name

    def nvmlDeviceIsMigDeviceHandle(self, handle: str) -> bool:
        return handle.startswith("MIG")

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: str) -> str:
        return self.ids[1]

    def nvmlDeviceGetName(self, handle: str) -> bytes:
        return f"NVIDIA {handle[:3]}".encode()

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlSystemGetDriverVersion(self) -> str:
        return "600.1"

    def nvmlDeviceGetPciInfo(self, handle: str) -> Any:
        return types.SimpleNamespace(busId=b"0000:0" + str(self.ids.index(handle)).encode())

    def nvmlDeviceGetCudaComputeCapability(self, handle: str) -> tuple[int, int]:
        return 9, 0

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return types.SimpleNamespace(total=(20 if handle.startswith("MIG") else 141) << 30)

    def nvmlDeviceGetEccMode(self, handle: str) -> tuple[int, int]:
        return 1, 1

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:
        return self.ids.index(handle), 0

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        return 350_000

    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle: str) -> int:
        raise PermissionError  # not every user may ask for everything

    def nvmlDeviceGetPersistenceMode(self, handle: str) -> int:
        return 0

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return 1000 + self.ids.index(handle)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return 0

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        import os

        return [types.SimpleNamespace(pid=pid) for pid in (os.getpid(), 41, 40)] if handle == self.ids[0] else []


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    found = Nvml("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", found)
    monkeypatch.setattr(gpu, "_load_driver", no_driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def no_driver() -> None:
    raise OSError("no driver")


class Driver:
    """CUDA, whose first device is the second GPU of the bus: the faster one, as CUDA_DEVICE_ORDER has it by default."""

    order = (SECOND, FIRST)

    def cuDeviceGet(self, device: Any, number: int) -> int:
        device._obj.value = number
        return 0 if number < len(self.order) else 101

    def cuDeviceGetUuid_v2(self, raw: Any, device: Any) -> int:
        raw._obj[:] = list(uuid.UUID(self.order[device.value]).bytes)
        return 0

    def cuDeviceGetAttribute(self, size: Any, which: int, device: Any) -> int:
        assert which == 38  # CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE
        size._obj.value = 50 << 20
        return 0


def test_cuda_itself_says_which_gpu_its_number_means(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_load_driver", Driver)
    assert gpu.find_visible_device(0) == SECOND
    assert gpu.describe_gpu(gpu.find_visible_device(0))["bus_id"] == "0000:01"
    assert gpu.describe_gpu(gpu.find_visible_device(1))["bus_id"] == "0000:00"
    read = gpu.make_clock_reader(0)
    assert read is not None
    assert read().sm_mhz == 1001
    assert gpu.find_l2_bytes(1) == 50 << 20
    assert gpu.find_l2_bytes(5) is None


def test_without_cuda_its_variable_is_read(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    for visible, number, wanted in (
        (f"GPU-{SECOND}", 0, f"GPU-{SECOND}"),
        ("GPU-00000000-0000-0000-0000-000000000022", 0, f"GPU-{SECOND}"),
        ("1,0", 0, f"GPU-{SECOND}"),
        ("1,nonsense,0", 1, ""),  # CUDA stops there
        ("-1", 0, ""),
        ("", 0, ""),
        ("MIG-5", 0, "MIG-5"),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpu.describe_gpu(gpu.find_visible_device(number)).get("uuid", "") == wanted, visible
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"GPU-{SECOND[:-2]}")  # that of both: no answer
    assert gpu.describe_gpu(gpu.find_visible_device(0)) == {}
    assert gpu.find_l2_bytes(0) is None


def test_a_mig_instance_has_the_settings_of_its_gpu(nvml: Nvml) -> None:
    assert gpu.describe_gpu("MIG-5") == {
        "name": "NVIDIA MIG",
        "uuid": "MIG-5",
        "driver": "600.1",
        "bus_id": "0000:01",
        "compute_capability": "9.0",
        "memory_mib": 20 << 10,
        "ecc": "on",
        "mig": "on",
        "power_limit_w": 350.0,
        "persistence": "off",
    }
    assert [each["mig"] for each in gpu.list_gpus()] == ["off", "on"]


def test_the_tool_tells_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    line = "NVIDIA H200, GPU-7, 600.1, 00000000:18:00.0, 9.0, 143771, Enabled, [N/A], 700.00, 650.00, Disabled"
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho "{line}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = gpu.describe_gpu("7f")
    assert found == {
        "name": "NVIDIA H200",
        "uuid": "GPU-7",
        "driver": "600.1",
        "bus_id": "00000000:18:00.0",
        "compute_capability": "9.0",
        "memory_mib": 143771,
        "ecc": "on",
        "power_limit_w": 700.0,
        "power_default_w": 650.0,
        "persistence": "off",
    }
    assert (tmp_path / "asked").read_text().startswith("--id=GPU-7f --query-gpu=name,uuid,")
    assert gpu.list_gpus() == [found]


def test_other_processes_are_told(nvml: Nvml) -> None:
    assert gpu.list_other_processes(f"GPU-{FIRST}") == [40, 41]
    assert gpu.list_other_processes("nonsense") == []
    said = list(compare._warn_of_others(Deployment(provider="cuda")))
    assert said == ["other processes compute on this GPU (40, 41): times may be theirs; nvidia-smi lists them"]
    assert list(compare._warn_of_others(Deployment(provider="cuda", options={"device_id": "1"}))) == []
    assert list(compare._warn_of_others(Deployment())) == []


def test_versions_are_those_of_the_libraries_that_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, mode: int) -> Any:
        def runtime(number: Any) -> int:
            number._obj.value = 13010
            return 0

        if "cudnn" in name:
            raise OSError("not loaded")
        return types.SimpleNamespace(cudaRuntimeGetVersion=runtime, getInferLibVersion=lambda: 101302)

    def none(name: str, mode: int) -> Any:
        raise OSError("not loaded")

    monkeypatch.setattr(machine.ctypes, "CDLL", none)
    assert machine.list_cuda_versions() == {}
    monkeypatch.setattr(machine.ctypes, "CDLL", load)
    assert machine.list_cuda_versions() == {"CUDA": "13.1", "TensorRT": "10.13.2"}
