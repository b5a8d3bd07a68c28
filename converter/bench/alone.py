"""Starts processes that hold one model alone: for its peak memory, and where memory does not hold both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from converter.errors import BiasoptError, DataError
from converter.runtime.timing import Deployment

_ROOT = Path(__file__).resolve().parents[2]
_START = "import sys; sys.path.insert(0, sys.argv[1]); from converter.bench.child import main; main()"

Ask = Callable[..., dict[str, Any]]


def asker(model: Path, external_dir: Path | None, how: Deployment, feeds: Path, timeout: float) -> Ask:
    """Give a function that starts the process for one model and returns what it says.

    Raises (when called)
    --------------------
    DataError
        The process could not run the model, died, or took longer than ``timeout`` seconds.
    """

    def ask(samples: int = 0, warm_up: Sequence[float] = (0.0, 1.0), repeat: int = 0) -> dict[str, Any]:
        asked = {
            "model": str(model),
            "external_dir": str(external_dir) if external_dir else None,
            "how": asdict(how) | {"custom_ops": str(how.custom_ops) if how.custom_ops else None},
            "feeds": str(feeds),
            "samples": samples,
            "warm_up": list(warm_up),
            "repeat": repeat,
        }
        return _start(asked, timeout)

    return ask


def _start(asked: dict[str, Any], timeout: float) -> dict[str, Any]:
    # -P: what lies in the working directory is not imported.
    command = [sys.executable, "-P", "-c", _START, str(_ROOT)]
    try:
        done = subprocess.run(  # noqa: S603
            command, input=json.dumps(asked), capture_output=True, text=True, timeout=timeout, check=True
        )
        said: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        raise DataError(f"{asked['model']}: a process for it alone failed ({type(exc).__name__})") from exc
    if "error" in said:
        raise BiasoptError(said["error"])
    return said


def free_bytes() -> int | None:
    """The memory that can be had without swapping; None where the system does not say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return None
