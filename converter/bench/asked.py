"""What the command line asks of the benchmark, as values; a `ValueError` says what would have been one."""

from __future__ import annotations

from converter.bench.gate import parse

GATES = "not-slower, faster:5%, equivalent or none.  [not-slower]"


def gate(text: str) -> str:
    """A gate in its own spelling."""
    return str(parse(text))
