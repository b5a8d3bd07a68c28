"""With what, and where, the models run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.records import Environment
from converter.runtime.providers import distributions, gpu_facts, onnxruntime
from converter.runtime.session import available_cores


def environment(
    provider: str = "cpu",
    *,
    providers: tuple[str, ...] = (),
    options: Mapping[str, str] | None = None,
    nodes: Mapping[str, int] | None = None,
) -> Environment:
    """Versions, machine and provider; the GPU only where one was asked for."""
    return Environment(
        versions=_versions(),
        distributions=distributions(),
        machine=_machine(),
        provider=provider,
        providers=providers,
        provider_options=dict(options or {}),
        nodes=dict(nodes or {}),
        gpu=gpu_facts() if provider != "cpu" else {},
    )


def _versions() -> dict[str, str]:
    found = {"biasopt": __version__, "python": platform.python_version()}
    for name in ("onnx", "numpy"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    found["onnxruntime"] = str(onnxruntime().__version__)
    return found


def _machine() -> dict[str, Any]:
    found: dict[str, Any] = {"os": platform.platform(terse=True), "cpu": _cpu(), "cores": available_cores()}
    with suppress(OSError, ValueError, AttributeError):
        found["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if value := os.environ.get("NVIDIA_TF32_OVERRIDE"):  # rules over every option, for the whole process
        found["NVIDIA_TF32_OVERRIDE"] = value
    return found


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
