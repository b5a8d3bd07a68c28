"""Does the study see what is certain? If not, nothing else that it says counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEAD = 1e-12  # relative change in float64 that is rounding
LIVE = 1e-3  # and that is not
APART = 1e-6  # of logits after training in float64: rounding grows with every step
CHANCE = 55.0  # per cent of two classes: at most this without any bias on the contrast task
SEEN = 80.0  # at least this with biases

Results = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must come out in a certain way. ``passed`` is None where it was not looked at."""

    name: str
    passed: bool | None
    said: str


def checks(found: Results) -> list[Check]:
    """The three controls."""
    return [_dead(found), _identity(found), _contrast(found)]


def valid(made: list[Check]) -> bool | None:
    """Whether all passed; None if some were not run and none failed."""
    states = [check.passed for check in made]
    return False if False in states else None if None in states else True


def _dead(found: Results) -> Check:
    name = "a bias before a per-channel norm changes nothing, before others it does"
    rows = found.get("exact", {}).get("dead", [])
    if not rows:
        return Check(name, None, "not run")
    most = max(row["change"] for row in rows if row["expected_dead"])
    least = min(row["change"] for row in rows if not row["expected_dead"])
    return Check(
        name,
        most <= DEAD and least >= LIVE,
        f"relative change at most {most:.0e} where dead, at least {least:.2g} elsewhere",
    )


def _identity(found: Results) -> Check:
    name = "two nets that differ in a random bias before their norm learn the same"
    rows = found.get("identity", {}).get("checks", [])
    if not rows:
        return Check(name, None, "not run")
    apart, points = max(row["apart"] for row in rows), max(row["difference"] for row in rows)
    said = f"after training in float64 the logits differ by {apart:.0e}, the accuracy by {points:g} points"
    return Check(name, apart <= APART and points == 0, said)


def _contrast(found: Results) -> Check:
    name = "no net without biases tells bright from dim, and nets with biases do"
    rows = found.get("contrast", {}).get("accuracy", [])
    if not rows:
        return Check(name, None, "not run")
    best = max(row["worst"] for row in rows if row["bias"] == "none")
    mean = min(row["mean"] for row in rows if row["bias"] == "all")
    return Check(
        name, best <= CHANCE and mean >= SEEN, f"at most {best:.1f} % without, {mean:.1f} % and more with biases"
    )
