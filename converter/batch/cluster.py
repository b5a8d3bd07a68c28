"""A cluster of Dask's as the executor of a batch: connected, found fit, and asked whether it sees the files.

What is asked of it is `concurrent.futures.Executor` and no more, so that Ray (``ray.util.joblib``-like pools) or MPI
(``mpi4py.futures.MPIPoolExecutor``) fit the same place: they have to run `converter.batch.workers.run_task`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.dataclass import dataclass
from converter.errors import RuntimeUnavailable

RESOURCE = "bench"  # workers that are started with --resources "bench=1" measure one model at a time
_RETRIES = 3  # of a task whose worker went away
_CONNECT = 20.0  # seconds


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connection to a scheduler, and what is known of its workers."""

    client: Any
    address: str
    workers: int
    threads: int

    def make_executor(self, *, benches: bool) -> Executor:
        """The cluster as an executor; each of its threads runs one model at a time."""
        wants: dict[str, Any] = {"retries": _RETRIES, "pure": False}
        if benches and self._has_resource():
            wants["resources"] = {RESOURCE: 1}
        return self.client.get_executor(**wants)  # type: ignore[no-any-return]

    def _has_resource(self) -> bool:
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return any(RESOURCE in worker.get("resources", {}) for worker in workers)

    def sees(self, folder: Path) -> bool:
        """Whether every worker reads what is written here and writes what is read here, tried with a file."""
        token = secrets.token_hex(8)
        probe = folder / f".biasopt-probe-{token}"
        try:
            probe.write_text(token, encoding="ascii")
            answers = self.client.run(answer_probe, str(probe), token)
            return all(
                isinstance(path, str) and Path(path).is_file() and Path(path).read_text(encoding="ascii") == token[::-1]
                for path in answers.values()
            )
        except OSError:
            return False
        finally:
            for path in folder.glob(f"{probe.name}*"):
                with suppress(OSError):
                    path.unlink()

    def close(self) -> None:
        """Hang up; the cluster goes on."""
        self.client.close()


def answer_probe(path: str, token: str) -> str:
    """On a worker: the file that answers the probe; empty where the probe is not to be seen from there."""
    import os
    import socket

    try:
        if Path(path).read_text(encoding="ascii") != token:
            return ""
        answer = Path(f"{path}.{socket.gethostname()}.{os.getpid()}")
        answer.write_text(token[::-1], encoding="ascii")
        return str(answer)
    except OSError:
        return ""


def read_version() -> str:
    """On a worker: its biasopt's."""
    return __version__


def connect(address: str) -> Cluster:
    """Connect to a scheduler, ``tcp://host:8786``, and make sure that its workers can do the work.

    Raises
    ------
    RuntimeUnavailable
        Dask is not installed, nobody answers there, there is no worker, or one has no biasopt or another one.
    """
    try:
        distributed: Any = import_module("distributed")
    except ImportError as exc:
        raise RuntimeUnavailable("--scheduler needs Dask; run: pip install 'biasopt[cluster]'") from exc
    try:
        client: Any = distributed.Client(address, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError) as exc:
        said = " ".join(str(exc).split())[:200]
        raise RuntimeUnavailable(
            f"{address}: no scheduler of Dask's answers ({said}); start one: dask scheduler"
        ) from exc
    try:
        _check_workers(client, address)
    except BaseException:
        client.close()
        raise
    threads: Mapping[str, int] = client.nthreads()
    return Cluster(client, address, len(threads), sum(threads.values()))


def _check_workers(client: Any, address: str) -> None:
    if not client.nthreads():
        raise RuntimeUnavailable(f"{address}: has no worker; start some: dask worker {address} --nthreads 1")
    try:
        versions: dict[str, Any] = client.run(read_version)
    except Exception as exc:
        said = " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
        raise RuntimeUnavailable(f"{address}: its workers have no biasopt ({said}); install biasopt on each") from exc
    for worker, version in sorted(versions.items()):
        if version != __version__:
            raise RuntimeUnavailable(f"{worker}: has biasopt {version}, not {__version__}; install the same on each")
