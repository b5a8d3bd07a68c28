"""A cluster of two workers in processes of their own: the same results as here, also where one of them is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cli
from converter.batch import run, workers
from converter.errors import RuntimeUnavailable
from converter.records.results import Outcome
from tests.batch.zoo import ask, make_zoo, read_models

distributed: Any = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'biasopt[cluster]'")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("cluster")]


@pytest.fixture(scope="module")
def dask() -> Iterator[Any]:
    """A scheduler and two workers of one thread each, on the loopback."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        host="127.0.0.1",
        silence_logs=50,
        resources={"bench": 1},
    ) as made:
        yield made


def test_a_cluster_gives_what_one_machine_gives_though_a_worker_is_killed(dask: Any, tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo", 24)
    here = run.run_batch(ask(zoo, tmp_path / "here"))
    journal = tmp_path / "there" / "batch" / "journal.jsonl"
    killed: list[int] = []

    def kill() -> None:
        """A worker, as soon as a few models are done."""
        end = time.monotonic() + 120
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 4) and time.monotonic() < end:
            time.sleep(0.02)
        pids = client.run(os.getpid)
        killed.append(next(iter(pids.values())))
        os.kill(killed[0], signal.SIGKILL)

    with distributed.Client(dask.scheduler_address, set_as_default=False) as client:
        killer = threading.Thread(target=kill)
        killer.start()
        there = run.run_batch(ask(zoo, tmp_path / "there", scheduler=dask.scheduler_address))
        killer.join()
    assert killed
    assert here.counts == there.counts == {"folded": 24}
    assert not there.uploaded
    assert read_models(tmp_path / "here") == read_models(tmp_path / "there")
    assert not list((tmp_path / "there").rglob("*.tmp*"))
    assert not list((tmp_path / "there").rglob(".biasopt-probe*"))
    again = run.run_batch(ask(zoo, tmp_path / "there", scheduler=dask.scheduler_address))
    assert again.skipped == 24


def test_files_travel_where_no_path_is_shared(dask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = make_zoo(tmp_path / "zoo", 3)
    here = run.run_batch(ask(zoo, tmp_path / "here", jobs=1))
    monkeypatch.setattr(workers.Cluster, "sees", lambda self, folder: False)  # as on two machines
    there = run.run_batch(ask(zoo, tmp_path / "there", scheduler=dask.scheduler_address))
    assert there.uploaded
    assert there.counts == here.counts == {"folded": 3}
    assert read_models(tmp_path / "here") == read_models(tmp_path / "there")


def test_whether_a_path_is_shared_is_tried(dask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = workers.connect(dask.scheduler_address)
    try:
        assert found.sees(tmp_path)
        assert not found.sees(tmp_path / "nowhere")
        assert not list(tmp_path.iterdir())
        monkeypatch.setattr(found.client, "run", lambda function, *_: {"w": ""})
        assert not found.sees(tmp_path)
    finally:
        found.close()


def test_the_command_says_who_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str], dask: Any) -> None:
    zoo = make_zoo(tmp_path / "zoo", 1)
    command = ["batch", str(zoo), "-o", str(tmp_path / "out"), "--quick", "--scheduler"]
    assert cli.run([*command, dask.scheduler_address]) == 0
    assert dask.scheduler_address in capsys.readouterr().out
    assert cli.run([*command, "nonsense://"]) == 3
    assert "no scheduler of Dask's answers" in capsys.readouterr().err


def test_workers_of_another_version_are_refused(dask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "__version__", "99.0")
    with pytest.raises(RuntimeUnavailable, match=r"has biasopt .*, not 99\.0; install the same on each"):
        workers.connect(dask.scheduler_address)


def test_a_worker_that_measures_has_its_resource(dask: Any) -> None:
    found = workers.connect(dask.scheduler_address)
    try:
        assert found._has_resource()
        with found.make_executor(benches=True) as pool:
            assert pool.submit(sum, [1, 2]).result(timeout=30) == 3
    finally:
        found.close()


def test_a_task_whose_workers_all_went_is_lost(tmp_path: Path) -> None:
    from distributed.scheduler import KilledWorker  # what Dask raises then

    assert issubclass(KilledWorker, Exception)

    class Gone:
        def result(self) -> None:
            raise KilledWorker("task", types.SimpleNamespace(address="tcp://w"), 3)  # type: ignore[arg-type]

    from converter.records.results import Task

    row = run._take(Gone(), Task("m.onnx", "", "", "", "k"))  # type: ignore[arg-type]
    assert row.outcome is Outcome.LOST
    assert row.exit_code == 3
