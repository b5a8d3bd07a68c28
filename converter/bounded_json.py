"""JSON of a stranger: nesting is bounded before a parser that calls itself sees it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

DEEPEST = 200  # ours nest 12 deep, a control flow of torch.export 10 a level

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def parse_json(
    text: str | bytes,
    *,
    parse_float: Callable[[str], object] | None = None,
    parse_constant: Callable[[str], object] | None = None,
) -> Any:
    """What `json.loads` makes of a text, or of its bytes: protobuf gives those where a text is no UTF-8.

    A parser that calls itself until Python's limit ends in a RecursionError, and whatever the collector of garbage
    finishes there writes to the terminal: so the depth is counted first.

    Parameters
    ----------
    parse_float, parse_constant : callables, optional
        As of `json.loads`.

    Raises
    ------
    ValueError
        It is no JSON, or nests deeper than `DEEPEST`.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    if text.count("[") + text.count("{") > DEEPEST and _measure_depth(text) > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST}")
    return json.loads(text, parse_float=parse_float, parse_constant=parse_constant)


def _measure_depth(text: str) -> int:
    """Up to just over the limit; brackets in strings do not count."""
    depth = 0
    for found in _TOKEN.finditer(text):
        first = found.group()[0]
        if first != '"':
            depth += 1 if first in "[{" else -1
            if depth > DEEPEST:
                return depth
    return 0


def parse_texts(text: str | bytes) -> list[str]:
    """A list of texts, as the metadata of a model keeps it; none where it is something else."""
    try:
        found = parse_json(text)
    except ValueError:
        return []
    return [str(entry) for entry in found] if isinstance(found, list) else []
