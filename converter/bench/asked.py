"""What the command line asks of the benchmark, as values; a `ValueError` says what would have been one."""

from __future__ import annotations

from collections.abc import Sequence

from converter.bench.gate import parse, share

__all__ = ["gate", "options", "share"]

GATES = "not-slower, faster:5%, equivalent or none.  [not-slower]"


def gate(text: str) -> str:
    """A gate in its own spelling."""
    return str(parse(text))


def options(values: Sequence[str]) -> dict[str, str]:
    """A provider's options, from ``device_id=1``."""
    found = {}
    for value in values:
        name, equals, setting = value.partition("=")
        if not name or not equals:
            raise ValueError(f"{value!r} is not a provider's option such as device_id=1.")
        found[name.strip()] = setting.strip()
    return found
