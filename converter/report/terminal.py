"""Where reports meet the process: stdout that may be a closed pipe, and progress on a terminal's stderr."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from types import FrameType

from converter.errors import BiasoptError, ModelError


def prepare_streams() -> None:
    """Let a name that the terminal's encoding lacks be escaped, not crash the report."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def leave_on_signals() -> None:
    """Let SIGTERM and SIGHUP, which CI systems send, unwind as an exit does, so that no temporary file stays.

    And remember Ctrl-C, which a library may take for an error of its own.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        if _tell_again(number, frame):
            return
        _signals.are_told = True
        note(f"ended by {signal.Signals(number).name}")
        sys.exit(128 + number)

    _signals.is_interrupted = _signals.are_told = False
    if threading.current_thread() is not threading.main_thread():  # only that may
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Who started this with a signal ignored (nohup) wants it ignored.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, leave)


class _Signals:
    """What became of this command by signals."""

    is_interrupted = False
    are_told = False  # on stderr, in a line


_signals = _Signals()
_AGAIN = 0.02  # seconds until a signal that came amid an import is told again
_GRACE = 1.5  # seconds from a signal to the end, where the command has not ended by itself


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed in this command."""
    return _signals.is_interrupted


def tell_interrupted() -> int:
    """Say it, and return the exit code."""
    _signals.are_told = True
    note("interrupted")
    return 130


def _interrupt(number: int, frame: FrameType | None) -> None:
    _signals.is_interrupted = True
    if not _tell_again(number, frame):
        raise KeyboardInterrupt


def _tell_again(number: int, frame: FrameType | None) -> bool:
    """Whether the signal comes amid an import, and is told again once that may be done.

    An exception while a native library starts is the end of the process ("terminate called after throwing ...").
    """
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    if frame is None:
        return False
    again = threading.Timer(_AGAIN, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
    return True


@contextmanager
def leave_in_time() -> Iterator[None]:
    """End this process soon after a signal, also where the main thread is in a library and does not hear it.

    Python's handlers run between two of its own instructions, and a library's call may take minutes. A thread is told
    of the signal at once, by the handler below Python. It needs the interpreter's lock, which onnxruntime, torch and
    numpy give away while they compute; what holds it (onnx's checker) is bounded by the size of the model. What is
    left behind then, the next run removes, as after a kill.
    """
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    ended = threading.Event()
    threading.Thread(target=_watch_signals, args=(reading, ended), daemon=True, name="signals").start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(writing)  # the thread reads the end of it, and closes its own


def _watch_signals(reading: int, ended: threading.Event) -> None:
    heeded = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    while told := os.read(reading, 1):
        number = told[0]
        ours = number in heeded and signal.getsignal(number) not in (signal.SIG_IGN, signal.SIG_DFL)
        if ours and not ended.wait(_GRACE):
            if not _signals.are_told:
                note("interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}")
            os._exit(128 + number)
    os.close(reading)


def say(text: str, *, to_runner: bool = False) -> None:
    """Write to stdout; that nobody reads it any more is no error (``biasopt passes | head -1``).

    ``to_runner``: the text is our own commands to GitHub's runner, or is to be used as it is; what else it would take
    for a command is broken up.
    """
    if sys.stdout is None or _output.is_off:
        return
    if not to_runner and ("::" in text or "##[" in text):
        from converter.report import wording

        text = wording.break_commands(text)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        mute()
    except OSError as exc:
        mute()
        raise BiasoptError(f"stdout: cannot be written ({exc.strerror}); free space or send it elsewhere") from exc


class _Output:
    """Whether results and progress are shown."""

    is_off = False


_output = _Output()


@contextmanager
def show_only_errors() -> Iterator[None]:
    """Neither results nor progress are shown meanwhile; notes on stderr are."""
    before, _output.is_off = _output.is_off, True
    try:
        yield
    finally:
        _output.is_off = before


def read_stdin() -> bytes:
    """All of stdin, as bytes.

    Raises
    ------
    ModelError
        It cannot be read, or is somebody's keyboard.
    """
    try:
        if sys.stdin is None or sys.stdin.isatty():
            raise ModelError("stdin: holds no model; pipe one in, or give a file")
        return sys.stdin.buffer.read()
    except (OSError, ValueError) as exc:
        raise ModelError(f"stdin: cannot be read ({exc}); give a file") from exc


def write_stdout(content: bytes) -> None:
    """Write bytes to stdout.

    Raises
    ------
    BiasoptError
        They cannot be written.
    """
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except (OSError, ValueError, AttributeError) as exc:
        mute()
        raise BiasoptError(f"stdout: the model cannot be written ({exc}); give --output FILE") from exc


@contextmanager
def stdout_is_taken() -> Iterator[None]:
    """What is said goes to stderr meanwhile: stdout is for the model itself."""
    with redirect_stdout(sys.stderr):
        yield


def note(line: str) -> None:
    """Write one line to stderr, for people."""
    with suppress(OSError, AttributeError):  # nobody reads it, or there is no room for it: the exit code says the rest
        sys.stderr.write(f"biasopt: {one_line(line)}\n")
        sys.stderr.flush()


def bug(version: str) -> None:
    """Show the traceback of the exception at hand, and ask for a report."""
    from converter.report import wording

    lines = (wording.plain(line) for line in traceback.format_exc().splitlines())
    with suppress(OSError, AttributeError):
        sys.stderr.write(wording.break_commands("\n".join(lines)) + "\n")
    note(f"this is a bug in biasopt {version}; please report it, with the lines above")


def one_line(text: str) -> str:
    """The text without line breaks and control characters."""
    from converter.report import wording  # only where there is something to say: what it needs loads slowly

    return wording.break_commands(wording.plain(" ".join(text.split())))


def mute() -> None:
    """Send what is still to be written to stdout nowhere, so that the flush at exit cannot fail either."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _Log:
    """Stages as lines of a log, at most one every `_EVERY` seconds, with the time that has gone by."""

    def __init__(self) -> None:
        self._begun = self._told = time.monotonic()

    def __call__(self, stage: str) -> None:
        now = time.monotonic()
        if now - self._told >= _EVERY:
            self._told = now
            note(f"{now - self._begun:.0f} s: {stage}")


_EVERY = 30.0


@contextmanager
def progress(*, quiet: bool = False, still: bool = False) -> Iterator[Callable[[str], None]]:
    """Give a function that shows the present stage, where stderr is a terminal.

    Elsewhere (a CI's log) a line every half minute says that work goes on: a short command prints none.
    ``still``: nothing moves between two stages, since a thread that draws would be in the times that are taken.
    """
    if quiet or _output.is_off or sys.stderr is None:
        yield lambda stage: None
        return
    if not sys.stderr.isatty():
        yield _Log()
        return
    from rich.console import Console
    from rich.text import Text

    if still:
        from rich.live import Live

        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
            yield lambda stage: live.update(Text(one_line(stage)), refresh=True)
        return
    # The stream of now: where stderr is sent elsewhere for a while, so that a library keeps quiet, this goes on.
    with Console(file=sys.stderr).status("") as status:
        yield lambda stage: status.update(Text(one_line(stage)))
