"""What the interval says (outcome), and whether that is what was asked for (verdict)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from converter.records import Verdict

KINDS = ("not-slower", "faster", "equivalent", "none")


@dataclass(frozen=True, slots=True)
class Gate:
    """What is asked of B: ``not-slower`` than A by the margin, ``faster`` by ``amount``, ``equivalent``, ``none``."""

    kind: str = "not-slower"
    amount: float = 0.0

    def __str__(self) -> str:
        return f"faster:{100 * self.amount:g}%" if self.kind == "faster" else self.kind


def parse(text: str) -> Gate:
    """Read ``not-slower``, ``faster:5%``, ``equivalent`` or ``none``.

    Raises
    ------
    ValueError
        It is none of these.
    """
    kind, _, amount = text.strip().partition(":")
    if kind == "faster":
        return Gate(kind, share(amount))
    if kind in KINDS and not amount:
        return Gate(kind)
    raise ValueError(f"{text!r} is no gate; use not-slower, faster:5%, equivalent or none.")


def share(text: str) -> float:
    """Read ``2%`` or ``0.02`` as 0.02.

    Raises
    ------
    ValueError
        It is neither, or not between 0 and 1.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*", text)
    value = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if not 0 < value < 1:
        raise ValueError(f"{text!r} is not a share such as 2%.")
    return value


def beyond(low: float, high: float, noise: float) -> tuple[float, float]:
    """The interval with what the machine shows where there is nothing to see added on both sides.

    Parameters
    ----------
    low, high : float
        Of log(time of B / time of A).
    noise : float
        How far A beside A may be off, as a log; 0 where the control was steady.
    """
    return low - noise, high + noise


def outcome(low: float, high: float, margin: float, gate: Gate) -> str:
    """What an interval of log(time of B / time of A) says.

    Not-a-number decides nothing: it compares false with everything.
    """
    limit = math.log1p(margin)
    if gate.kind == "equivalent" and -limit < low and high < limit:
        return "EQUIVALENT"
    if high < -limit:
        return "FASTER"
    if high < limit:
        return "NOT-SLOWER"
    return "SLOWER" if low > limit else "INCONCLUSIVE"


def answer(low: float, high: float, margin: float, gate: Gate) -> Verdict:
    """Whether the interval passes the gate, fails it, or leaves it open; SKIPPED where nothing was asked."""
    limit, wanted = math.log1p(margin), -math.log1p(gate.amount)
    passes, fails = {
        "not-slower": (high < limit, low > limit),
        "faster": (high < wanted, low > wanted),
        "equivalent": (-limit < low and high < limit, low > limit or high < -limit),
        "none": (False, False),
    }[gate.kind]
    if gate.kind == "none":
        return Verdict.SKIPPED
    return Verdict.PASS if passes else Verdict.FAIL if fails else Verdict.INCONCLUSIVE
