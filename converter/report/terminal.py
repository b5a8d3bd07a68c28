"""Where reports meet the process: stdout that may be a closed pipe, and progress on a terminal's stderr."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from converter.errors import BiasoptError


def prepare_streams() -> None:
    """Let a name that the terminal's encoding lacks be escaped, not crash the report."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def leave_on_signals() -> None:
    """Let SIGTERM and SIGHUP, which CI systems send, unwind as an exit does, so that no temporary file stays."""

    def leave(number: int, _: object) -> None:
        note(f"ended by {signal.Signals(number).name}")
        sys.exit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Only the main thread may; and who started this with a signal ignored (nohup) wants it ignored.
        main = threading.current_thread() is threading.main_thread()
        if number is not None and main and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, leave)


def say(text: str, *, to_runner: bool = False) -> None:
    """Write to stdout; that nobody reads it any more is no error (``biasopt passes | head -1``).

    ``to_runner``: the text is our own commands to GitHub's runner, or is to be used as it is; what else it would take
    for a command is broken up.
    """
    if sys.stdout is None:
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


@contextmanager
def progress(*, quiet: bool = False, still: bool = False) -> Iterator[Callable[[str], None]]:
    """Give a function that shows the present stage, where stderr is a terminal; elsewhere it shows nothing.

    ``still``: nothing moves between two stages, since a thread that draws would be in the times that are taken.
    """
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda stage: None
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
