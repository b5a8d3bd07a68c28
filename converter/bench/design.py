"""How a benchmark is laid out: sessions, blocks, pairs, the gate; and what an interval says by that gate."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, field, replace
from typing import Any

from converter.dataclass import dataclass
from converter.records import Verdict
from converter.records.options import Advice

KINDS = ("not-slower", "faster", "equivalent", "none")


@dataclass(frozen=True, slots=True)
class Gate:
    """What is asked of B: ``not-slower`` than A by the margin, ``faster`` by ``amount``, ``equivalent``, ``none``."""

    kind: str = "not-slower"
    amount: float = 0.0

    def __str__(self) -> str:
        return f"faster:{100 * self.amount:g}%" if self.kind == "faster" else self.kind


def parse_gate(text: str) -> Gate:
    """Read ``not-slower``, ``faster:5%``, ``equivalent`` or ``none``.

    Raises
    ------
    ValueError
        It is none of these.
    """
    kind, _, amount = text.strip().partition(":")
    if kind == "faster":
        return Gate(kind, parse_share(amount))
    if kind in KINDS and not amount:
        return Gate(kind)
    raise ValueError(f"{text!r} is no gate; use not-slower, faster:5%, equivalent or none.")


def parse_share(text: str) -> float:
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


def widen_interval(low: float, high: float, noise: float) -> tuple[float, float]:
    """The interval with what the machine shows where there is nothing to see added on both sides.

    Parameters
    ----------
    low, high : float
        Of log(time of B / time of A).
    noise : float
        How far A beside A may be off, as a log; 0 where the control was steady.
    """
    return low - noise, high + noise


def conclude_outcome(low: float, high: float, margin: float, gate: Gate) -> str:
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


def judge_gate(low: float, high: float, margin: float, gate: Gate) -> Verdict:
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


def normalize_gate(text: str) -> str:
    """A gate in its own spelling."""
    return str(parse_gate(text))


AA_BLOCKS = 5
EXTENSION = 4  # blocks, in a session of their own
MOST_BLOCKS = 80
FEWEST_PAIRS, _FEWEST_BLOCKS, _FEWEST_SESSIONS = 3, 2, 2


@dataclass(frozen=True, slots=True)
class Design:
    """The plan of one measurement; what becomes of it on a slow model is `fit_design`'s to say."""

    sessions: int = 5
    blocks: int = 4  # of each session
    pairs: int = 20  # of each block
    margin: float = 0.02
    alpha: float = 0.05  # of each bound, so that the interval holds 1 - 2 * alpha
    gate: Gate = field(default_factory=Gate)
    max_time: float = 120.0  # seconds
    quick: bool = False
    seed: int = 0
    advice: Advice = field(default_factory=Advice)

    @classmethod
    def fast(cls, **given: Any) -> Design:
        """The quick one: three sessions, short blocks, no extension; its interval is as wide as that makes it."""
        return cls(**({"sessions": 3, "blocks": 3, "pairs": 10, "max_time": 20.0} | given | {"quick": True}))

    @property
    def total(self) -> int:
        """Blocks that are planned."""
        return self.sessions * self.blocks

    @property
    def enough(self) -> float:
        """The half-width of the interval, as a log, at which measuring ends."""
        return math.log1p(self.margin) / 3

    @property
    def warm_up(self) -> tuple[float, float]:
        """Seconds of warm-up of one model in one session: at least, at most."""
        if self.quick:
            return 0.2, min(1.0, self.max_time / 20)
        return 1.0, min(30.0, self.max_time / 40)

    def record(self) -> dict[str, Any]:
        """The plan as JSON values."""
        plan = asdict(self) | {"gate": str(self.gate), "order": "random"}
        del plan["advice"]  # it has no part in how is measured
        return plan


def fit_design(design: Design, pair_seconds: float, session_seconds: float, left: float) -> Design:
    """The plan cut down to the seconds that are left: first pairs, then blocks, then sessions.

    Parameters
    ----------
    pair_seconds : float
        One run of each model.
    session_seconds : float
        To load both models and warm them up.
    left : float
        Seconds for all sessions.
    """
    for sessions, blocks in _list_smaller(design):
        room = left - sessions * session_seconds
        pairs = int(room / (sessions * blocks * max(pair_seconds, 1e-9)))
        if pairs >= min(FEWEST_PAIRS, design.pairs):
            return replace(design, sessions=sessions, blocks=blocks, pairs=min(pairs, design.pairs))
    sessions, blocks = list(_list_smaller(design))[-1]
    return replace(design, sessions=sessions, blocks=blocks, pairs=min(FEWEST_PAIRS, design.pairs))


def _list_smaller(design: Design) -> list[tuple[int, int]]:
    fewer = [(design.sessions, blocks) for blocks in range(design.blocks, _FEWEST_BLOCKS - 1, -1)]
    last = min(design.blocks, _FEWEST_BLOCKS)
    return (fewer or [(design.sessions, design.blocks)]) + [
        (sessions, last) for sessions in range(design.sessions - 1, _FEWEST_SESSIONS - 1, -1)
    ]
