"""What a batch costs beside the folds: many tiny models, alone in one process, by ``batch`` here, and on a cluster.

    python -m tests.benchmarks.batch_scale [--models 200] [--jobs 2]     # prints the rows of the table of docs/scale.md
    python -m tests.benchmarks.batch_scale --demo [MODELS...]            # `make cluster-demo`

The cluster is a scheduler and workers of Dask's in processes of their own on the loopback, as
``dask scheduler`` and ``dask worker`` start them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import converter
from converter.batch.journal import Journal, list_files, make_key
from converter.batch.run import run_batch
from converter.records.results import BatchRow, Outcome
from tests.batch.zoo import ask, make_zoo

ROOT = Path(__file__).resolve().parents[2]
_START = 60.0  # seconds that a cluster has


def look() -> tuple[float, float]:
    """The clock, and the time of cores, in seconds."""
    used = os.times()
    return time.perf_counter(), used.user + used.system + used.children_user + used.children_system


@contextmanager
def start_cluster(workers: int) -> Iterator[str]:
    """A scheduler and workers of one thread each; gives the scheduler's address."""
    with tempfile.TemporaryDirectory(prefix="biasopt-cluster-") as folder, ExitStack() as ended:
        file = Path(folder) / "scheduler.json"

        def start(kind: str, *more: str) -> None:
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(file)]
            started = subprocess.Popen(
                [*command, "--no-dashboard", *more], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            ended.callback(started.wait)
            ended.callback(started.terminate)

        start("scheduler", "--host", "127.0.0.1", "--port", "0")
        for _ in range(workers):
            start(
                "worker",
                "--host",
                "127.0.0.1",
                "--nthreads",
                "1",
                "--local-directory",
                folder,
                "--resources",
                "bench=1",
            )
        until = time.monotonic() + _START
        while time.monotonic() < until:
            if file.exists() and file.stat().st_size:
                address = str(json.loads(file.read_text(encoding="utf-8"))["address"])
                if count_workers(address) >= workers:
                    yield address
                    return
            time.sleep(0.1)
        raise SystemExit(f"the cluster did not start within {_START:g} s")


def count_workers(address: str) -> int:
    from distributed import Client

    with Client(address, set_as_default=False, timeout=10) as client:
        return len(client.nthreads())


def run_demo(models: list[str]) -> int:
    """``biasopt batch`` on a cluster, as a user calls it."""
    with start_cluster(2) as address, tempfile.TemporaryDirectory(prefix="biasopt-demo-") as folder:
        command = [sys.executable, "-m", "biasopt", "batch", *models, "-o", folder, "--quick", "--scheduler", address]
        print("$ biasopt", *command[3:], flush=True)
        return subprocess.run(command, cwd=ROOT).returncode


def measure(count: int, jobs: int) -> None:
    """The rows of the table."""
    with tempfile.TemporaryDirectory(prefix="biasopt-scale-") as folder:
        zoo = make_zoo(Path(folder) / "zoo", count)
        files = sorted(zoo.rglob("*.onnx"))

        def tell(what: str, begun: tuple[float, float], per: int = count) -> None:
            """Time of the clock, and of cores: of this process and of its children that have ended."""
            clock, cores = (now - then for now, then in zip(look(), begun, strict=True))
            print(f"| {what} | {1e3 * clock / per:.1f} ms | {1e3 * cores / per:.1f} ms |", flush=True)

        converter.fold(files[0], verify=True, quick=True)  # loads everything
        begun = look()
        for path in files:
            converter.fold(path, out=Path(folder) / "alone.onnx", force=True, verify=True, quick=True)
        tell("fold and verify in one process that runs already", begun)
        for number in (1, jobs):
            begun = look()
            found = run_batch(ask(zoo, Path(folder) / f"out{number}", jobs=number))
            assert found.counts == {"folded": count}
            tell(f"`batch --jobs {number}`", begun)
        begun = look()
        assert run_batch(ask(zoo, Path(folder) / f"out{jobs}", jobs=1)).skipped == count
        tell("`batch`, all of it done before", begun)
        with start_cluster(jobs) as address:
            for uploads in (False, True):
                begun = look()
                out = Path(folder) / f"cluster-{uploads}"
                assert run_batch(ask(zoo, out, scheduler=address, upload=uploads)).counts == {"folded": count}
                tell(f"Dask, {jobs} workers{', files sent' * uploads}", begun)
            begun = look()
            measure_submission(address, 2000)
            tell("Dask alone: submit and collect an empty task", begun, 2000)
        begun = look()
        for path in files:
            make_key(list_files(path), {})
        tell("hash a model", begun)
        begun = look()
        journal = Journal(Path(folder) / "journal")
        for path in files:
            journal.add(BatchRow(path.name, Outcome.FOLDED, report="r" * 80, output="o" * 80))
        tell("write a line of the journal to the disk", begun)
        journal.close()


def measure_submission(address: str, count: int) -> None:
    from distributed import Client

    with Client(address, set_as_default=False) as client, client.get_executor(pure=False) as pool:
        for done in [pool.submit(int, k) for k in range(count)]:
            done.result()


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--demo", nargs="*", metavar="MODELS")
    asked.add_argument("--models", type=int, default=200)
    asked.add_argument("--jobs", type=int, default=2)
    given = asked.parse_args()
    if given.demo is not None:
        return run_demo(given.demo or ["models"])
    measure(given.models, given.jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
