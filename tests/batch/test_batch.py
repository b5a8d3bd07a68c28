"""Many models on this machine: each has a row, whatever becomes of it; what was done is not done again."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx
import pytest

import cli
import converter
from converter.batch import child, run, workers
from converter.batch.journal import Journal, find_models, find_triton_models, list_files
from converter.errors import BiasoptError, ModelError
from converter.records.results import Outcome, worst_code
from converter.report import serialize
from tests.batch.zoo import FAULTS, ask, make_model, make_zoo, read_models, tell
from tests.report.browser import Browser, browser  # noqa: F401  (a fixture)

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and signals are Linux's")


def test_every_model_is_folded_as_it_would_be_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo, out = make_zoo(tmp_path / "zoo", 12), tmp_path / "out"
    code = cli.run(["batch", f"{zoo}/**/*.onnx", "-o", str(out), "--jobs", "2", "--quick", "--certificate", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert code == said["exit_code"] == 0
    assert said["counts"] == {"folded": 12}
    serialize.convert(said, serialize.BatchDocument)
    for path in zoo.rglob("*.onnx"):
        alone = tmp_path / "alone.onnx"
        converter.fold(path, out=alone, force=True, verify=False)
        assert (out / path.relative_to(zoo)).read_bytes() == alone.read_bytes()
    report = out / "batch" / "reports" / "part0" / "m003.onnx"
    assert json.loads((report / "report.json").read_text())["parity"]["verdict"] == "PASS"
    assert (report / "certificate.json").is_file()
    page = (out / "batch" / "summary.html").read_text()
    assert page.count("<tr>") == 13
    link = re.search(r'href="([^"]*m003[^"]*)"', page)
    assert link is not None
    assert (out / "batch" / link[1]).is_file()
    cases = ElementTree.parse(out / "batch" / "summary.xml").getroot().findall(".//testcase")
    assert len(cases) == 12


def test_a_crash_a_hang_and_a_blow_up_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "START", FAULTS)
    zoo = make_zoo(tmp_path / "zoo", 17, "crash.onnx", "hang.onnx", "eat.onnx", "bug.onnx")
    (zoo / "broken.onnx").write_bytes(b"no model")
    found = run.run_batch(ask(zoo, tmp_path / "out", timeout=8.0, max_memory=1 << 30))
    rows = {row.name: row for row in found.rows}
    assert found.counts == {"folded": 17, "refused": 1, "bug": 1, "crashed": 1, "timeout": 1, "memory": 1}
    assert found.exit_code == 70
    assert "SIGSEGV" in rows["crash.onnx"].why
    assert "--timeout" in rows["hang.onnx"].why
    assert "--max-memory" in rows["eat.onnx"].why
    assert "KeyError" in rows["bug.onnx"].why
    assert rows["broken.onnx"].outcome is Outcome.REFUSED
    assert len(read_models(tmp_path / "out")) == 17  # nothing is written of those
    assert not list((tmp_path / "out").rglob("*.tmp*"))


def test_what_was_done_is_not_done_again(tmp_path: Path) -> None:
    zoo, out = make_zoo(tmp_path / "zoo", 6), tmp_path / "out"
    first = run.run_batch(ask(zoo, out))
    again = run.run_batch(ask(zoo, out))
    assert (first.skipped, again.skipped) == (0, 6)
    assert again.rows == first.rows
    onnx.save(make_model(77), zoo / "part0" / "m002.onnx")  # changed
    (out / "part0" / "m004.onnx").write_bytes(b"damaged")
    assert run.run_batch(ask(zoo, out, jobs=1)).skipped == 4
    assert run.run_batch(ask(zoo, out, jobs=1, verify=None)).skipped == 0  # other options
    task = run._make_task(ask(zoo, out, verify=None), find_models([str(zoo)], out)[0], None)
    assert task.key == run._make_task(ask(zoo, out, verify=None, timeout=1.0), find_models([str(zoo)], out)[0], 5).key


def test_a_batch_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo", 14, *(f"slow{k}.onnx" for k in range(4)))
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['biasopt', *sys.argv[1:]]\n"
        f"from converter.batch import workers; workers.START = {FAULTS!r}\nimport cli; sys.exit(cli.run())"
    )
    command = [sys.executable, "-c", code, "batch", str(zoo), "--jobs", "2", "--quick", "-q", "-o"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, timeout=120)
    out = tmp_path / "out"
    journal, rng = out / "batch" / "journal.jsonl", random.Random(0)
    for _ in range(3):
        before = journal.read_bytes().count(b"\n") if journal.exists() else 0
        started = subprocess.Popen([*command, str(out)], start_new_session=True)
        while started.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > before + 1):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        started.kill()
        started.wait()
    time.sleep(0.3)
    subprocess.run([*command, str(out)], check=True, timeout=120)
    rows, counts, exit_code = tell(out / "batch" / "summary.json")
    wanted = tell(tmp_path / "whole" / "batch" / "summary.json")
    assert json.loads(json.dumps([rows, counts, exit_code]).replace(str(out), str(tmp_path / "whole"))) == list(wanted)
    assert read_models(out) == read_models(tmp_path / "whole")
    assert not list(out.rglob("*.tmp*"))
    assert json.loads((out / "batch" / "summary.json").read_text())["skipped"] > 0


def test_a_journal_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    zoo, out = make_zoo(tmp_path / "zoo", 3), tmp_path / "out"
    run.run_batch(ask(zoo, out))
    path = out / "batch" / "journal.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 40])
    assert run.run_batch(ask(zoo, out)).skipped == 2
    assert len(path.read_text().splitlines()) == 4  # the damaged one stays, on a line of its own
    assert run.run_batch(ask(zoo, out)).skipped == 3


def test_two_batches_into_one_folder_are_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out" / "batch")
    with pytest.raises(BiasoptError, match="another batch writes into it"):
        run.run_batch(ask(make_zoo(tmp_path / "zoo", 1), tmp_path / "out"))
    journal.close()


def test_any_executor_does(tmp_path: Path) -> None:
    """What Ray or MPI bring: an executor of concurrent.futures, here one that loses a task."""

    class Losing(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            if args[0].name == "part0/m001.onnx":
                lost: Future[Any] = Future()
                lost.set_exception(RuntimeError("the worker went away"))
                return lost
            return super().submit(fn, *args, **kwargs)

    zoo, out = make_zoo(tmp_path / "zoo", 3), tmp_path / "out"
    with Losing(1) as pool:
        found = run.run_batch(ask(zoo, out), executor=pool)
    assert found.counts == {"folded": 2, "lost": 1}
    assert found.exit_code == 3
    assert "the worker went away" in next(row.why for row in found.rows if row.outcome is Outcome.LOST)
    assert run.run_batch(ask(zoo, out)).counts == {"folded": 3}  # a lost one is tried again
    workers.end_children()


def test_files_travel_where_the_worker_does_not_see_them(tmp_path: Path) -> None:
    zoo, out = make_zoo(tmp_path / "zoo", 2), tmp_path / "out"
    onnx.save(make_model(5), zoo / "external.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert [path.name for path in list_files(zoo / "external.onnx")] == ["external.onnx", "w.bin"]
    there = run.run_batch(ask(zoo, tmp_path / "there"))
    sent = run.run_batch(ask(zoo, out, upload=True))
    assert sent.uploaded
    assert sent.counts == there.counts == {"folded": 3}
    assert read_models(out) == read_models(tmp_path / "there")
    assert (out / "batch" / "reports" / "external.onnx" / "report.html").is_file()
    onnx.load(out / "external.onnx")
    assert run.run_batch(ask(zoo, out, upload=True)).skipped == 3


def test_a_worker_writes_nowhere_else(tmp_path: Path) -> None:
    from converter.records.results import BatchRow, Task

    task = Task("m.onnx", "m.onnx", str(tmp_path / "out" / "m.onnx"), str(tmp_path / "reports"), "k")
    row = BatchRow("m.onnx", Outcome.FOLDED, files={"output/../../evil": b"x"})
    with pytest.raises(BiasoptError, match="outside"):
        run._unpack(row, task)
    with pytest.raises(BiasoptError, match="outside"):
        workers._join(tmp_path, "../evil")


def test_a_triton_repository_stays_whole(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    for name, version in (("net", "1"), ("net", "2"), ("other", "1")):
        (repository / name / version).mkdir(parents=True, exist_ok=True)
        onnx.save(make_model(int(version)), repository / name / version / "model.onnx")
    config = b'name: "net"\nmax_batch_size: 0  # as it is\n'
    (repository / "net" / "config.pbtxt").write_bytes(config)
    (repository / "named" / "1").mkdir(parents=True)
    (repository / "named" / "config.pbtxt").write_text('default_model_filename: "v.onnx"\n')
    onnx.save(make_model(3), repository / "named" / "1" / "v.onnx")
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    (repository / "plan" / "1").mkdir(parents=True)
    (repository / "plan" / "1" / "model.plan").write_bytes(b"engine")
    folder = repository / "folder" / "1" / "model.onnx"
    folder.mkdir(parents=True)
    onnx.save(make_model(4), folder / "model.onnx", save_as_external_data=True, location="w", size_threshold=0)
    out = tmp_path / "served"
    found = run.run_batch(ask(repository, out, triton=True))
    assert found.counts == {"folded": 5, "refused": 1}
    assert (out / "net" / "config.pbtxt").read_bytes() == config
    assert (out / "plan" / "1" / "model.plan").read_bytes() == b"engine"
    assert (out / "broken" / "1" / "model.onnx").read_bytes() == b"no model"  # as it was, so that it is still served
    ops = [n.op_type for n in onnx.load(out / "folder" / "1" / "model.onnx" / "model.onnx").graph.node]
    assert ops == ["Conv", "Relu"]
    names = {p.relative_to(repository).as_posix() for p in repository.rglob("*") if p.is_file()}
    left = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert left - {"folder/1/model.onnx/model.onnx.data"} == names - {"folder/1/model.onnx/w"}
    assert (tmp_path / "served.batch" / "journal.jsonl").is_file()  # models alone lie in a repository
    with pytest.raises(ModelError, match="no model repository"):
        find_triton_models(tmp_path / "served.batch")


def test_what_a_pattern_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = make_zoo(tmp_path / "zoo", 11, "top.onnx")
    out = tmp_path / "zoo" / "out"
    make_zoo(out, 1)  # results of an earlier run are no models
    names = [each.name for each in find_models([f"{zoo}/**/*.onnx"], out)]
    assert len(names) == 12
    assert names[:2] == ["part0/m000.onnx", "part0/m001.onnx"]
    assert [each.name for each in find_models([f"{zoo}/part1/m*.onnx"], out)] == ["m010.onnx"]
    assert [each.name for each in find_models([str(zoo / "top.onnx")], out)] == ["top.onnx"]
    monkeypatch.chdir(zoo)
    assert [each.name for each in find_models(["*.onnx"], out)] == ["top.onnx"]
    with pytest.raises(ModelError, match="no model is there"):
        find_models([f"{zoo}/nothing*"], out)
    (tmp_path / "b").mkdir()
    onnx.save(make_model(1), tmp_path / "b" / "top.onnx")
    with pytest.raises(ModelError, match="would both be written"):
        find_models([str(zoo / "top.onnx"), str(tmp_path / "b" / "top.onnx")], out)


def test_one_exit_code_the_gravest() -> None:
    assert worst_code([]) == 0
    assert worst_code([0, 4, 0]) == 4
    assert worst_code([0, 4, 1]) == 1
    assert worst_code([1, 3]) == 3
    assert worst_code([3, 70, 1]) == 70


def test_who_measures_has_the_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child.tempfile, "gettempdir", lambda: str(tmp_path))
    seen: list[str] = []

    def share(name: str) -> None:
        with child.share_machine():
            seen.append(f"{name}+")
            time.sleep(0.15)
            seen.append(f"{name}-")

    def own() -> None:
        with child.own_machine():
            seen.append("own+")
            time.sleep(0.05)
            seen.append("own-")

    with ThreadPoolExecutor(4) as pool:
        first = [pool.submit(share, name) for name in "ab"]
        time.sleep(0.05)
        alone = pool.submit(own)
        time.sleep(0.05)
        late = pool.submit(share, "late")
        for done in (*first, alone, late):
            done.result()
    assert seen.index("own-") == seen.index("own+") + 1  # nobody beside it
    assert seen.index("own+") > max(seen.index("a-"), seen.index("b-"))
    assert seen.index("late+") > seen.index("own-")  # and nobody passes it by


def test_latency_is_a_part_of_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = make_zoo(tmp_path / "zoo", 1)
    bench = {"quick": True, "max_time": 1.0, "gate": "none"}
    row = run.run_batch(ask(zoo, tmp_path / "out", bench=bench)).rows[0]
    assert row.outcome is Outcome.FOLDED
    assert row.ratio is not None


def wait_until(holds: Callable[[], bool], seconds: float = 120.0) -> bool:
    """Whether it comes to hold; the time is only for what never does, however busy the machine is."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_children_end_with_their_parent(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo", 1, "hang.onnx")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom converter.batch import workers\n"
        f"workers.START = {FAULTS!r}.replace('real = ', 'print(os.getpid(), file=sys.stderr, flush=True); real = ')\n"
        "import tempfile; workers.tempfile.TemporaryFile = lambda: open('said', 'wb+')\n"
        f"from tests.batch.zoo import ask\nfrom pathlib import Path\nfrom converter.batch.run import run_batch\n"
        f"run_batch(ask(Path({str(zoo)!r}), Path({str(tmp_path / 'out')!r}), jobs=1))"
    )
    started = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    said = tmp_path / "said"
    try:
        # the whole line: on a busy machine the number may be there before its last digit
        assert wait_until(lambda: (said.is_file() and said.read_bytes().endswith(b"\n")) or started.poll() is not None)
        pid = int(said.read_text().split()[0])
    finally:
        started.kill()
        started.wait()
    if not wait_until(lambda: is_gone(pid)):
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the child outlived its parent")


def test_ctrl_c_ends_it_at_once_with_all_its_processes(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo", 1, "hang.onnx", "hang2.onnx")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['biasopt', *sys.argv[1:]]\n"
        f"from converter.batch import workers; workers.START = {FAULTS!r}\nimport cli; cli.main()"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "batch",
        str(zoo),
        "-o",
        str(tmp_path / "out"),
        "--jobs",
        "3",
        "--quick",
        "-q",
    ]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "out" / "batch" / "journal.jsonl"
    assert wait_until(lambda: (journal.exists() and b"\n" in journal.read_bytes()) or started.poll() is not None)
    tree = list_children(started.pid)
    assert tree
    begun = time.monotonic()
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 130, said
    assert time.monotonic() - begun < 10  # two and a half alone; the tests share their cores
    assert wait_until(lambda: all(is_gone(pid) for pid in tree))
    assert run.run_batch(ask(zoo, tmp_path / "out", patterns=[str(zoo / "part0")], jobs=1)).counts == {"folded": 1}


@pytest.mark.slow
def test_a_click_on_a_title_sorts_the_page(
    tmp_path: Path,
    browser: Browser,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under the page's own policy, which lets no script run but the one whose hash it has."""
    from converter.records.results import BatchResult, BatchRow
    from converter.report.content import batch

    found = BatchResult(
        tuple(BatchRow(f"m{k}.onnx", Outcome.FOLDED, rewrites=r) for k, r in enumerate((9, 100, 20))),
        "out",
        {"folded": 3},
    )
    page, shown = batch.render_page(found, tmp_path), tmp_path / "page.html"
    clicks = f"{batch.SCRIPT}document.querySelectorAll('th')[2].click();"
    shown.write_text(page.replace(batch.SCRIPT, clicks), encoding="utf-8")  # another script: it does not run
    assert re.findall(r">(m\d)\.onnx<", browser.run(shown, "--dump-dom")) == ["m0", "m1", "m2"]
    monkeypatch.setattr(batch, "SCRIPT", clicks)
    shown.write_text(batch.render_page(found, tmp_path), encoding="utf-8")
    assert re.findall(r">(m\d)\.onnx<", browser.run(shown, "--dump-dom")) == ["m0", "m2", "m1"]


def list_children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(text) for path in listed for text in path.read_text().split()]


def test_the_page_has_one_script_and_nothing_of_a_models(tmp_path: Path) -> None:
    from converter.records.results import BatchResult, BatchRow
    from converter.report.content.batch import SCRIPT, render_page

    evil = '"><script>alert(1)</script>\u202e.onnx'
    rows = (
        BatchRow(evil, Outcome.FOLDED, output="o", report=str(tmp_path / "reports" / evil), rewrites=3),
        BatchRow("b.onnx", Outcome.REFUSED, "why <b>not</b>"),
    )
    page = render_page(BatchResult(rows, "out", {"folded": 1, "refused": 1}, exit_code=3), tmp_path)
    assert page.count("<script>") == 1
    assert f"<script>{SCRIPT}</script>" in page
    assert "<b>not" not in page
    assert "\u202e" not in page
    assert 'href="reports/%22%3E%3Cscript' in page
