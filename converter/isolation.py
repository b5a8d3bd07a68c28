"""A piece of work in a child process, with a deadline and a memory limit.

What onnxruntime and onnx do with a stranger's model (endless loops, growing memory, aborts) they do to the process
that they run in. Here that is a child: it is watched from outside, it can be ended at any moment, Ctrl-C included,
and what happened to it is a result. The child is a fork, so that it costs no start and no import, and so that what it
is asked for needs no serialising; what it finds comes back as msgpack. Where there is no fork (Windows), or where it is
not safe (macOS), the work is done in this process, without the protection.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import select
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from converter import errors
from converter.errors import BiasoptError, InvariantViolation, explain_os_error

Found = TypeVar("Found")
Progress = Callable[[str], None]

IS_POSSIBLE = hasattr(os, "fork") and sys.platform.startswith("linux")

HELD_MOST = 20_000  # nodes of a model that onnx checks in half a second; it holds the interpreter's lock all the while

_HEADER = struct.Struct("<cQ")  # kind of a message, bytes of its text
_TICK = 0.05  # seconds between two looks at the child's memory and the clock
_GRACE = 5.0  # seconds that the end of a child may take after that of its pipe: a large memory is given back slowly
_PR_SET_PDEATHSIG = 1  # linux/prctl.h: the child ends when its parent does


class Died(Exception):
    """The child ended without a result; the text says why, as the end of a sentence: "did not end within 60 s"."""


def run_isolated(
    work: Callable[[Progress], Found],
    kind: type[Found],
    *,
    seconds: float,
    n_bytes: int | None = None,
    progress: Progress | None = None,
) -> Found:
    """Do ``work`` in a child process.

    Parameters
    ----------
    work : callable
        Takes a function that it tells what it is doing, and returns a ``kind``.
    kind : type
        A record that msgspec can carry.
    seconds : float
        After which the child is ended.
    n_bytes : int, optional
        Resident memory at which it is ended.

    Raises
    ------
    Died
        The child was ended, or ended itself, without a result.
    BiasoptError
        As ``work`` raised it.
    InvariantViolation
        ``work`` raised anything else; the text is its traceback.
    """
    tell = progress or (lambda text: None)
    if not IS_POSSIBLE:
        return work(tell)
    for stream in (sys.stdout, sys.stderr):  # else what is in their buffers is written twice
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    try:
        reading, writing = _make_pipe()
        child = os.fork()
    except OSError as exc:  # no more processes or open files
        raise Died(f"could not be begun ({exc.strerror})") from exc
    if child == 0:
        os.close(reading)
        _work(work, writing)  # does not return
    os.close(writing)
    watch = _Watch(child, reading, time.monotonic() + seconds, seconds, n_bytes, tell)
    try:
        return watch.result(kind)
    finally:
        watch.close()


class _Process:
    """What this process is."""

    is_commands = False


def belong_to_command() -> None:
    """Note that this process is a command's alone: nobody's threads are hurt where it is forked unasked."""
    _Process.is_commands = True


def run_interruptible(work: Callable[[], bytes], size: int) -> bytes:
    """Do what holds the interpreter's lock: in a child where that may take long, so that Ctrl-C is heard meanwhile.

    Parameters
    ----------
    size : int
        What the time goes by; below `HELD_MOST`, and in a process that is not a command's, it is done here.

    Raises
    ------
    Died
        The child was ended, or ended itself, without a result.
    """
    if size < HELD_MOST or not _Process.is_commands or threading.current_thread() is not threading.main_thread():
        return work()
    return run_isolated(lambda tell: work(), bytes, seconds=math.inf)


def _make_pipe() -> tuple[int, int]:
    """A pipe beyond the standard streams' numbers: native libraries write their remarks to 1 and 2, open or not."""
    import fcntl

    ends = os.pipe()
    try:
        reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends)
    finally:
        for end in ends:
            os.close(end)
    return reading, writing


def _work(work: Callable[[Progress], Found], fd: int) -> None:
    """The child's life; it leaves by `os._exit`, so that nothing of the parent's is cleaned up twice."""
    import msgspec

    # What the parent left as garbage is the parent's: a session of onnxruntime that is taken apart here waits for ever
    # for its threads, which a fork does not bring along.
    gc.freeze()
    try:
        _end_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and ends this process
        found = work(lambda text: _send(fd, b"P", text.encode("utf-8", "replace")))
        _send(fd, b"R", _encode(found))
    except BiasoptError as exc:
        _send(
            fd,
            b"E",
            msgspec.msgpack.encode((type(exc).__name__, str(exc).encode("utf-8", "backslashreplace").decode())),
        )
    except OSError as exc:  # a disk that is full, a file that went away: no bug
        told = str(explain_os_error(exc)).encode("utf-8", "backslashreplace").decode()
        _send(fd, b"E", msgspec.msgpack.encode((BiasoptError.__name__, told)))
    except MemoryError:
        _send(fd, b"M", b"")
    except BaseException:  # whatever it is, the parent says it
        _send(fd, b"X", traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(0)


def _encode(found: Any) -> bytes:
    import msgspec

    try:
        return msgspec.msgpack.encode(found, enc_hook=_pack)
    except UnicodeEncodeError:  # the name of a file that is no UTF-8
        plain = msgspec.to_builtins(found, enc_hook=_pack, builtin_types=(bytes,))
        return msgspec.msgpack.encode(_escape(plain))


def _escape(value: Any) -> Any:
    """Write lone surrogates as the escapes that a screen shows for them."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_escape(key): _escape(item) for key, item in value.items()}
    return [_escape(item) for item in value] if isinstance(value, list | tuple) else value


def _pack(value: Any) -> Any:
    """What msgpack has no form for."""
    from converter.records.evidence import Warning

    if isinstance(value, Warning):
        return value.code.value, str(value)
    if hasattr(value, "tolist"):  # numpy's scalars and arrays, where a record has plain values
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a result holds a {type(value).__name__}")


def _unpack(kind: type[Any], value: Any) -> Any:
    from converter.records.evidence import Warning, WarningCode

    return Warning(WarningCode(value[0]), value[1]) if issubclass(kind, Warning) else kind(value)


def _end_with_parent() -> None:
    """Let the kernel end this process with its parent, also where that is killed."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _send(fd: int, kind: bytes, text: bytes) -> None:
    whole = memoryview(_HEADER.pack(kind, len(text)) + text)
    with contextlib.suppress(BrokenPipeError):
        while whole:
            whole = whole[os.write(fd, whole) :]


class _Watch:
    """The parent's end: reads what the child sends, and looks at the clock and at its memory."""

    def __init__(
        self, child: int, fd: int, deadline: float, seconds: float, n_bytes: int | None, tell: Progress
    ) -> None:
        self.child, self.fd, self.deadline, self.seconds, self.n_bytes = child, fd, deadline, seconds, n_bytes
        self.tell, self.doing, self.buffer, self.alive = tell, "", bytearray(), True

    def result(self, kind: type[Found]) -> Found:
        """Wait for it."""
        import msgspec

        poll = select.poll()  # select() knows no number above 1023
        poll.register(self.fd, select.POLLIN)
        while True:
            self._check()
            if not poll.poll(_TICK * 1000):
                continue
            part = os.read(self.fd, 1 << 20)
            if not part:
                raise Died(self._describe_end())
            self.buffer += part
            for tag, text in self._messages():
                if tag == b"R":
                    return msgspec.msgpack.decode(text, type=kind, dec_hook=_unpack)
                self._heed(tag, text)

    def _messages(self) -> list[tuple[bytes, bytes]]:
        found = []
        while len(self.buffer) >= _HEADER.size:
            tag, size = _HEADER.unpack_from(self.buffer)
            if len(self.buffer) < _HEADER.size + size:
                break
            found.append((tag, bytes(self.buffer[_HEADER.size : _HEADER.size + size])))
            del self.buffer[: _HEADER.size + size]
        return found

    def _heed(self, tag: bytes, text: bytes) -> None:
        import msgspec

        if tag == b"P":
            self.doing = text.decode("utf-8", "replace")
            self.tell(self.doing)
        elif tag == b"E":
            name, message = msgspec.msgpack.decode(text, type=tuple[str, str])
            raise getattr(errors, name, BiasoptError)(message)
        elif tag == b"M":
            raise Died(f"ran out of memory{self._where}")
        else:
            raise InvariantViolation(f"in the child process:\n{text.decode('utf-8', 'replace')}")

    def _check(self) -> None:
        if time.monotonic() > self.deadline:
            raise Died(f"did not end within {self.seconds:.4g} s{self._where}")
        if self.n_bytes is not None and (used := resident(self.child)) > self.n_bytes:
            raise Died(f"needed more than {self.n_bytes / 1e9:.3g} GB ({used / 1e9:.3g} GB){self._where}")

    @property
    def _where(self) -> str:
        return f", at: {self.doing}" if self.doing else ""

    def _describe_end(self) -> str:
        status = self._find_status()
        if status is None:
            return f"ended without a word{self._where}"
        self.alive = False
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            with contextlib.suppress(ValueError):
                return f"was ended by {signal.Signals(number).name}{self._where}"
            return f"was ended by signal {number}{self._where}"
        return f"ended without a word{self._where}"

    def _find_status(self) -> int | None:
        """The status that the child ended with; None where that is not told."""
        until = min(self.deadline, time.monotonic() + _GRACE)
        while True:
            try:
                child, status = os.waitpid(self.child, os.WNOHANG)
            except ChildProcessError:  # whoever started this process has it ignore its children: the system ends them
                self.alive = False
                return None
            if child:
                return status
            if time.monotonic() > until:  # its end of the pipe is closed, and it lives: `close` ends it
                return None
            time.sleep(_TICK / 10)

    def close(self) -> None:
        """End the child, if it has not ended."""
        os.close(self.fd)
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.child, 0)


def resident(pid: int) -> int:
    """Resident memory of a process in bytes, without mapped files, which the system takes back; 0 where not known."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
