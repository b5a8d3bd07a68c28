"""How a pair is measured: how often, for how long, and what is asked of the answer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from converter.bench.gate import Gate

AA_BLOCKS = 5
EXTENSION = 4  # blocks, in a session of their own
MOST_BLOCKS = 80
FEWEST_PAIRS, _FEWEST_BLOCKS, _FEWEST_SESSIONS = 3, 2, 2


@dataclass(frozen=True, slots=True)
class Design:
    """The plan of one measurement; what becomes of it on a slow model is `fit`'s to say."""

    sessions: int = 5
    blocks: int = 4  # of each session
    pairs: int = 20  # of each block
    margin: float = 0.02
    alpha: float = 0.05  # of each bound, so that the interval holds 1 - 2 * alpha
    gate: Gate = field(default_factory=Gate)
    max_time: float = 120.0  # seconds
    quick: bool = False
    seed: int = 0

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
        return asdict(self) | {"gate": str(self.gate), "order": "random"}


def fit(design: Design, pair_seconds: float, session_seconds: float, left: float) -> Design:
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
    for sessions, blocks in _smaller(design):
        room = left - sessions * session_seconds
        pairs = int(room / (sessions * blocks * max(pair_seconds, 1e-9)))
        if pairs >= min(FEWEST_PAIRS, design.pairs):
            return replace(design, sessions=sessions, blocks=blocks, pairs=min(pairs, design.pairs))
    sessions, blocks = list(_smaller(design))[-1]
    return replace(design, sessions=sessions, blocks=blocks, pairs=min(FEWEST_PAIRS, design.pairs))


def _smaller(design: Design) -> list[tuple[int, int]]:
    fewer = [(design.sessions, blocks) for blocks in range(design.blocks, _FEWEST_BLOCKS - 1, -1)]
    last = min(design.blocks, _FEWEST_BLOCKS)
    return (fewer or [(design.sessions, design.blocks)]) + [
        (sessions, last) for sessions in range(design.sessions - 1, _FEWEST_SESSIONS - 1, -1)
    ]
