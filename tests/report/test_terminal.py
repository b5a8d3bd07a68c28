from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

import pytest

from converter.report import terminal


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_say_writes_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say("two\nlines\n")
    assert capsys.readouterr().out == "two\nlines\n"


def test_a_reader_that_left_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Closed())
    terminal.say("x")
    monkeypatch.setattr(sys, "stderr", Closed())
    terminal.note("x")


def test_no_streams_at_all_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    terminal.say("x")
    terminal.note("x")
    with terminal.progress() as progress:
        progress("x")


def test_a_note_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.note("error: a\n  b\x1b[2J")
    assert capsys.readouterr().err == "biasopt: error: a b\\x1b[2J\n"


def test_a_narrow_encoding_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    terminal.prepare_streams()
    terminal.say("größe")
    assert raw.getvalue() == b"gr\\xf6\\xdfe"


def test_a_log_gets_a_line_every_half_minute_and_a_short_command_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 29.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with terminal.progress() as progress:
        for k in range(5):
            progress(f"block {k}\r of 5")
    assert capsys.readouterr() == ("", "biasopt: 31 s: block 2 of 5\nbiasopt: 62 s: block 4 of 5\n")


def test_quiet_is_silent_in_a_log_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with terminal.progress(quiet=True) as progress:
        progress("block 1 of 5")
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_progress_shows_the_stage_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with terminal.progress() as progress:
            progress("comparing\x1b[2J [bold]")
        os.set_blocking(ours, False)
        seen = b""
        with suppress(BlockingIOError):
            while True:
                seen += os.read(ours, 4096)
    os.close(ours)
    assert "comparing\\x1b[2J [bold]" in seen.decode()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_quiet_shows_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with terminal.progress(quiet=True) as progress:
            progress("comparing")
        with pytest.raises(BlockingIOError):
            os.read(ours, 10)
    os.close(ours)
