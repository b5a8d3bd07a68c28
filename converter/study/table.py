"""A table of words, and how numbers are written in one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converter.study.document import MINUS

Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A heading for each column, rows, which columns are numbers, and what the columns mean."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    right: tuple[int, ...]
    note: str = ""
    title: str = ""


def span(low: float | None, high: float | None, said: Callable[[float], str]) -> str:
    """An interval; empty where there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "\u2013"
    return f"[{said(low)}, {said(high)}]"


def percent(value: float) -> str:
    return f"{value:.2f}"


def small(value: float) -> str:
    """A number over many orders of magnitude; rounding errors are not told apart."""
    return (
        "0"
        if value == 0
        else f"\u2264 1e{MINUS}13"
        if value <= 1e-13
        else f"{value:.3f}"
        if value >= 0.01
        else f"{value:.1e}".replace("-", MINUS)
    )


def about(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
