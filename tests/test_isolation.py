"""Work in a child process: its result, its errors, and every way to end without one."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper

from converter import isolation
from converter.errors import BiasoptError, DataError, InvariantViolation, ModelError
from converter.isolation import IS_POSSIBLE, Died, Progress, run_interruptible, run_isolated
from converter.model.file import checker, contradiction, infer_shapes, problems

pytestmark = pytest.mark.skipif(not IS_POSSIBLE, reason="no fork on this system: the work is done in this process")


@dataclass(frozen=True)
class Answer:
    number: float
    words: tuple[str, ...] = ()


def run(work: Callable[[Progress], Answer], seconds: float = 60, n_bytes: int | None = None) -> Answer:
    return run_isolated(work, Answer, seconds=seconds, n_bytes=n_bytes)


def test_what_it_finds_comes_back() -> None:
    here = os.getpid()
    found = run(lambda tell: Answer(float(os.getpid()), ("a", "ü")))
    assert found.words == ("a", "ü")
    assert found.number != here


def test_garbage_of_the_parent_is_not_taken_apart_in_the_child() -> None:
    """A session of onnxruntime there would wait for ever for threads that a fork does not bring along."""
    taken_apart: list[int] = []

    class Holder:
        def __del__(self) -> None:
            taken_apart.append(os.getpid())

    def collect(tell: Progress) -> Answer:
        gc.collect()
        return Answer(float(len(taken_apart)))

    gc.disable()
    try:
        holder: Any = Holder()
        holder.itself = holder
        del holder
        assert run(collect).number == 0
        gc.collect()
    finally:
        gc.enable()
    assert taken_apart == [os.getpid()]


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), 0.1, 5e-324])
def test_numbers_come_back_to_the_bit(number: float) -> None:
    assert np.float64(run(lambda tell: Answer(number)).number).tobytes() == np.float64(number).tobytes()


def test_a_long_result_comes_back_whole() -> None:
    words = tuple("x" * 1000 + str(k) for k in range(3000))
    assert run(lambda tell: Answer(1.0, words)).words == words


def test_a_name_that_is_no_utf8_comes_back_escaped() -> None:
    found = run(lambda tell: Answer(float("nan"), ("a", "\udcff\udcfe.onnx")))
    assert found.words == ("a", "\\udcff\\udcfe.onnx")
    assert np.isnan(found.number)


def test_it_says_what_it_does() -> None:
    said: list[str] = []

    def work(tell: Progress) -> Answer:
        tell("first")
        tell("second")
        return Answer(1.0)

    run_isolated(work, Answer, seconds=60, progress=said.append)
    assert said == ["first", "second"]


@pytest.mark.parametrize("error", [DataError("x.npz: no such input"), ModelError("m.onnx: broken")])
def test_an_error_of_the_users_is_that_error(error: Exception) -> None:
    def work(tell: Progress) -> Answer:
        raise error

    with pytest.raises(type(error), match=str(error)):
        run(work)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.ENOENT])
def test_what_the_system_refuses_is_no_bug(number: int) -> None:
    def work(tell: Progress) -> Answer:
        raise OSError(number, os.strerror(number), "m.onnx.data")

    with pytest.raises(BiasoptError, match=f"m.onnx.data: the system refused .{os.strerror(number)}"):
        run(work)


def test_a_bug_comes_with_its_traceback() -> None:
    def work(tell: Progress) -> Answer:
        raise KeyError("here")

    with pytest.raises(InvariantViolation, match=r"(?s)child process.*KeyError: 'here'"):
        run(work)


def _spin(tell: Progress) -> Answer:
    tell("turning")
    while True:
        time.sleep(0.01)


def _grow(tell: Progress) -> Answer:
    held = []
    for _ in range(200):
        held.append(np.ones(1 << 22))  # 32 MiB each
        time.sleep(0.01)
    return Answer(float(len(held)))


def _abort(tell: Progress) -> Answer:
    os.abort()


def _leave(tell: Progress) -> Answer:
    os._exit(3)


def _exhaust(tell: Progress) -> Answer:
    raise MemoryError


def test_the_deadline_ends_it() -> None:
    begun = time.monotonic()
    with pytest.raises(Died, match=r"did not end within 0.3 s, at: turning"):
        run(_spin, seconds=0.3)
    assert time.monotonic() - begun < 10


def test_too_much_memory_ends_it() -> None:
    with pytest.raises(Died, match=r"needed more than 0.6 GB"):
        run(_grow, n_bytes=6 * 10**8)


@pytest.mark.parametrize(
    ("work", "said"), [(_abort, "ended by SIGABRT"), (_leave, "without a word"), (_exhaust, "ran out of memory")]
)
def test_its_end_is_told(work: Callable[[Progress], Answer], said: str) -> None:
    with pytest.raises(Died, match=said):
        run(work)


def _close_everything(tell: Progress) -> Answer:
    os.closerange(3, 100)
    time.sleep(60)
    return Answer(1.0)


def test_a_child_that_closes_its_pipe_and_lives_is_ended() -> None:
    begun = time.monotonic()
    with pytest.raises(Died, match="without a word"):
        run(_close_everything, seconds=1)
    assert time.monotonic() - begun < 20


def test_nothing_is_left_running() -> None:
    before = _list_children()  # another test's helpers may live on: a resource tracker, a cluster's
    with pytest.raises(Died):
        run(_spin, seconds=0.2)
    assert _list_children() <= before


def _list_children() -> set[int]:
    """The processes that any thread of this one started and nobody has waited for."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(number) for task in tasks for number in (task / "children").read_text().split()}


CLOSED = """
import contextlib, os
from converter.isolation import run_isolated
def work(tell):
    with contextlib.suppress(OSError):
        os.write(2, b"a remark of a native library")
    return 7
os.close(0), os.close(2)
print(run_isolated(work, int, seconds=60))
"""
DEAF = """
import os, signal
from converter.isolation import Died, run_isolated
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
try:
    run_isolated(lambda tell: os.abort(), int, seconds=60)
except Died as died:
    print(died)
"""
MANY = """
import os, resource
from converter.isolation import run_isolated
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(2000, hard), hard))
for _ in range(1100): os.open(os.devnull, os.O_RDONLY)
print(run_isolated(lambda tell: 7, int, seconds=60))
"""
FULL = """
import os, resource
from converter.isolation import Died, run_isolated
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (4, hard))
try:
    run_isolated(lambda tell: 7, int, seconds=60)
except Died as died:
    print(died)
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [(CLOSED, "7"), (DEAF, "ended without a word"), (MANY, "7"), (FULL, "could not be begun (Too many open files)")],
    ids=["closed", "deaf", "many", "full"],
)
def test_whatever_its_parent_was_started_with(code: str, said: str) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60)
    assert done.stdout.strip() == said, done.stderr


SCRIPT = """
import sys, time
from converter.isolation import run_isolated
def work(tell):
    tell("begun")
    while True: time.sleep(0.01)
def say(text): print(text, flush=True)
try:
    run_isolated(work, int, seconds=60, progress=say)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted\n"), (signal.SIGKILL, "")])
def test_ctrl_c_and_a_killed_parent_end_the_child(number: int, said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, start_new_session=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "begun\n"
        os.kill(parent.pid, number)
        begun = time.monotonic()
        # stdout ends once both have ended: the child holds it too
        assert parent.stdout.read() == said
        assert time.monotonic() - begun < 5


def test_only_a_command_forks_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> bytes:
        return str(os.getpid()).encode()

    here = str(os.getpid()).encode()
    monkeypatch.setattr(isolation._Process, "is_commands", False)  # a test before this one may have run a command
    assert run_interruptible(work, isolation.HELD_MOST) == here
    monkeypatch.setattr(isolation._Process, "is_commands", True)
    assert run_interruptible(work, isolation.HELD_MOST - 1) == here
    assert run_interruptible(work, isolation.HELD_MOST) != here


def test_onnx_says_the_same_of_a_large_model_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    good = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,3] y) { a = Relu(x) y = Neg(a) }"""
    )
    bad = onnx.ModelProto.FromString(good.SerializeToString())
    bad.graph.node[1].op_type = "NoSuchOperator"
    models = (good, bad)
    here = [(infer_shapes(m), problems(m), contradiction(m)) for m in models]
    monkeypatch.setattr(isolation._Process, "is_commands", True)
    monkeypatch.setattr(isolation, "HELD_MOST", 0)
    monkeypatch.setattr(checker, "HELD_MOST", 0)
    assert [(infer_shapes(m), problems(m), contradiction(m)) for m in models] == here
    assert here[0][0].graph.value_info and here[1][1] and not here[0][1]


def test_ctrl_c_is_heard_while_onnx_looks_at_a_large_model(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", [f"t{k}"], [f"t{k + 1}"]) for k in range(60_000)]
    ends = [helper.make_tensor_value_info(name, 1, [1, 8]) for name in ("t0", "t60000")]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]), ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, str(root / "biasopt.py"), "inspect", str(tmp_path / "m.onnx")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        time.sleep(1.5)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert time.monotonic() - begun < 2
