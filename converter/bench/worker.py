"""A process that loads one model alone and runs it: what that takes of memory, and, if asked, how long a run takes.

It reads one JSON object from stdin and writes one to stdout. It imports as little as it can, so that what it
holds at most is the model's and onnxruntime's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import ml_dtypes
import numpy as np

from converter.bench.interleaved import count_repeats, pause_garbage_collection, time_pairs, warm_up
from converter.errors import BiasoptError
from converter.runtime.timing import Deployment, TimedSession

_RUNS = 3  # by then every buffer has been allocated


def main() -> None:
    """Do what stdin asks for."""
    asked = json.load(sys.stdin)
    try:
        said: dict[str, Any] = run_request(asked)
    except BiasoptError as exc:
        said = {"error": str(exc)}
    sys.stdout.write(json.dumps(said))


def run_request(asked: dict[str, Any]) -> dict[str, Any]:
    """Load, run a few times, and say how much memory there was at most; with ``samples``, time that many."""
    how = asked["how"]
    how["custom_ops"] = Path(how["custom_ops"]) if how["custom_ops"] else None
    folder = Path(asked["external_dir"]) if asked["external_dir"] else None
    path = Path(asked["model"])
    model = TimedSession(path if folder is None else path.read_bytes(), Deployment(**how), folder)
    model.bind(read_feeds(Path(asked["feeds"])))
    for _ in range(_RUNS):
        model.run()
    said = {"load_ms": model.load_ms, "first_run_ms": model.first_run_ms, "peak_bytes": find_peak_bytes()}
    if asked["samples"]:
        said |= _time_runs(model, asked)
    return said


def _time_runs(model: TimedSession, asked: dict[str, Any]) -> dict[str, Any]:
    with pause_garbage_collection():
        least, most = asked["warm_up"]
        warm = warm_up(model.run, perf_counter_ns, least, most, extra=3 * bool(model.how.cuda_graph))
        repeat = asked["repeat"] or count_repeats(warm.run_ms)
        samples = time_pairs((model.run, lambda: None), [0] * asked["samples"], repeat, perf_counter_ns)
    return {"samples": samples.a, "repeat": repeat, "settled": warm.settled, "run_ms": warm.run_ms}


def find_peak_bytes() -> int | None:
    """The most memory that this process held in RAM so far; None where the system does not say."""
    try:
        with Path("/proc/self/status").open(encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _find_peak_without_proc()


def _find_peak_without_proc() -> int | None:
    if sys.platform == "win32":
        return _find_peak_on_windows()
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024  # bytes there, kilobytes elsewhere


def _find_peak_on_windows() -> int | None:
    """GetProcessMemoryInfo's PeakWorkingSetSize (PROCESS_MEMORY_COUNTERS of psapi.h)."""
    import ctypes

    class Counters(ctypes.Structure):
        _fields_ = [
            ("cb", ctypes.c_uint32),
            ("page_faults", ctypes.c_uint32),
            *((name, ctypes.c_size_t) for name in ("peak", "working_set", "p1", "p2", "p3", "p4", "page", "peak_page")),
        ]

    counters = Counters(cb=ctypes.sizeof(Counters))
    kernel: Any = getattr(ctypes, "windll").kernel32  # noqa: B009  (there only on Windows)
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(kernel.GetCurrentProcess())
    done = kernel.K32GetProcessMemoryInfo(handle, ctypes.byref(counters), counters.cb)
    return int(counters.peak) if done else None


def write_feeds(feeds: dict[str, Any], path: Path) -> None:
    """Write inputs to a file; types that numpy lacks go as their bytes, with their names."""
    arrays = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
    kinds = {name: str(value.dtype) for name, value in arrays.items() if value.dtype.kind == "V"}
    numbered = {
        f"value{k}": value.view(f"u{value.dtype.itemsize}") if name in kinds else value
        for k, (name, value) in enumerate(arrays.items())
    }
    np.savez(path, names=np.array(json.dumps([list(arrays), kinds])), **numbered)  # type: ignore[arg-type]


def read_feeds(path: Path) -> dict[str, Any]:
    """Read what `write_feeds` wrote."""
    with np.load(path, allow_pickle=False) as found:
        names, kinds = json.loads(str(found["names"]))
        values = {name: found[f"value{k}"] for k, name in enumerate(names)}
    return {n: v.view(getattr(ml_dtypes, kinds[n])) if n in kinds else v for n, v in values.items()}
