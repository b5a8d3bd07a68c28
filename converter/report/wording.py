"""What numbers and codes mean, in plain words that every kind of report shares."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from converter.records import Safety, Verdict

if TYPE_CHECKING:
    from converter.records import Latency, OutputCheck, Parity

SAFETY = {
    Safety.EXACT: "exactly equal",
    Safety.ROUNDING: "equal up to float rounding",
    Safety.ASSUMES: "equal under an assumption",
}

LEVEL = {
    "A": "on enough of your inputs, against a float64 reference",
    "B": "against a float64 reference",
    "C": "without a float64 reference to trust",
    "D": "nothing was run",
}

SCOPE = {
    "per-rewrite": "checked per rewrite: the model could not be run whole",
    "identical": "nothing was rewritten: the output is a copy of the input",
    "removal": "the same outputs before biases went by data",
    "none": "what they compute was not compared",
}

VERDICT = {
    Verdict.PASS: "same outputs",
    Verdict.FAIL: "the outputs differ",
    Verdict.INCONCLUSIVE: "could not be decided",
    Verdict.SKIPPED: "not checked",
}


STAGE = {
    "environment": "what was asked for is what ran",
    "structure": "inputs, outputs and well-formedness",
    "algebra": "float64: the change against the rounding of weights",
    "parameters": "every folded weight, computed again",
    "local": "each rewrite on its own",
    "segments": "each rewrite on its own",
    "runtime": "onnxruntime: the error against the original's",
    "runtime-deployed": "onnxruntime as deployed: the same",
    "decision": "decisions: how often the two models disagree",
    "removal": "biases that went by data: how often decisions changed",
}

DECIDES = ("decision", "removal")  # stages that count decisions

OUTCOME = {
    "FASTER": "faster",
    "NOT-SLOWER": "not slower",
    "EQUIVALENT": "as fast",
    "SLOWER": "slower",
    "INCONCLUSIVE": "could not be decided",
}


def plain(text: str) -> str:
    """Escape control characters: a name in a model must not be able to drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def size(n_bytes: int) -> str:
    """Decimal units, three digits: ``97.8 MB``."""
    if abs(n_bytes) < 1000:
        return f"{n_bytes} B"
    value, units = n_bytes / 1000, ["kB", "MB", "GB", "TB"]
    while abs(value) >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:#.3g}".rstrip(".") + f" {units[0]}"


def duration(ms: float) -> str:
    """Milliseconds in the unit that suits them, three digits: ``12.3 ms``, ``840 us``, ``2.10 s``."""
    if not math.isfinite(ms):
        return "unknown"
    value, unit = (ms * 1000, "us") if abs(ms) < 0.9995 else (ms, "ms") if abs(ms) < 999.5 else (ms / 1000, "s")
    return f"{value:#.3g}".rstrip(".") + f" {unit}"


def ratio(value: float) -> str:
    """How many times as long, three decimals: small differences are the point."""
    return f"{value:.3f}" if value < 10 else number(value)


def percent(share: float) -> str:
    """A share of one, in per cent: ``2 %``, ``0.1 %``."""
    return f"{100 * share:.3g} %"


def count(n: int, singular: str, plural: str = "") -> str:
    """``1 node``, ``2 nodes``."""
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def number(value: float) -> str:
    """Two significant digits; large ones whole."""
    return f"{value:,.0f}" if 99.5 <= abs(value) < 1e6 else f"{value:.2g}"


def listing(names: tuple[str, ...], room: int = 60) -> str:
    """The first names, as many as fit in about ``room`` characters, and how many more there are."""
    shown = [plain(names[0])] if names else []
    for name in names[1:]:
        if sum(map(len, shown)) + 2 * len(shown) + len(name) > room:
            break
        shown.append(plain(name))
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f", and {rest:,} more" if rest else "")


def no_such_pass(name: str, known: Iterable[str]) -> str:
    """That no pass has this name, and the nearest that one has."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, cutoff=0.5)
    return f"there is no pass {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else "see `biasopt passes`.")


def worst(parity: Parity) -> OutputCheck | None:
    """The output that came closest to, or went furthest over, its limit; one that differs at all, if there is.

    A place inside the model is worth the line only where it is over its limit, or where no output was run.
    """
    scored = [
        (check.score / check.limit, stage.id in ("runtime", "runtime-deployed"), check)
        for stage in parity.stages
        if stage.id not in DECIDES  # their limits are shares, and of differences that may be below zero
        for check in stage.outputs
        if check.score is not None and check.limit
    ]
    return max(scored, key=lambda item: _rank(*item), default=(0.0, False, None))[2]


def _rank(ratio: float, ran: bool, check: OutputCheck) -> tuple[bool, bool, bool, bool, float, float]:
    # NaN compares false with everything: a score that is not a number is the worst there is
    return ratio != ratio, ratio > 1, ran, check.max_abs != 0, ratio, check.max_abs or 0.0


def score(check: OutputCheck) -> str:
    """One output's score, what it is a multiple of, and the difference itself; empty where there is none."""
    if check.score is None or check.limit is None:
        return ""
    if "error_after" in check.detail:  # both models were measured against an exact result
        said = f"its error is {number(check.score)} x the original model's"
    elif check.limit > 1:
        said = f"{number(check.score)} x what rounding the weights can change"
    else:  # a place or a weight: its score is in units of what it may be off
        said = f"{number(check.score)} x what rounding allows there"
    differs = "" if check.max_abs is None else f"differs by {number(check.max_abs)} at most, "
    return f"{plain(check.name)}: {differs}{said} (limit {number(check.limit)})"


def rests_on(parity: Parity) -> str:
    """What a comparison was of, where it was not of the outputs of two different models; else empty."""
    if parity.scope == "identical" and parity.stages:  # two files were given, and neither is a copy for all we know
        return "both models are one computation"
    return SCOPE.get(parity.scope, "")


def verdict(parity: Parity) -> str:
    """What the verdict says and, where it passes, what it rests on."""
    by_data = parity.scope == "removal" and parity.verdict is Verdict.PASS
    said = ["the same decisions within the budget" if by_data else VERDICT[parity.verdict]]
    if parity.verdict is Verdict.PASS and parity.scope == "none":
        said = ["same inputs and outputs"]
    if parity.verdict is Verdict.PASS:
        said.append(rests_on(parity) or LEVEL.get(parity.level, "level unknown"))
    return f"{', '.join(said)} (level {parity.level})"


def speed(latency: Latency, who: str = "") -> str:
    """What the latency verdict says of ``who``, with its interval.

    ``B is not slower: 0.998 x the time (0.993 to 1.003, allowed 1.020)``
    """
    said = OUTCOME.get(latency.outcome, latency.outcome)
    subject = f"{who} is " if who and latency.outcome != "INCONCLUSIVE" else ""
    allowed = f", allowed {ratio(1 + latency.margin)}" if latency.gate in ("not-slower", "equivalent") else ""
    return (
        f"{subject}{said}: {ratio(latency.ratio)} x the time ({ratio(latency.low)} to {ratio(latency.high)}{allowed})"
    )


def reason(latency: Latency) -> str:
    """Why the latency verdict is what it is, without the numbers, which `speed` says."""
    head, found, tail = latency.why.partition("]: ")
    return tail if found and head.startswith(f"{latency.ratio:.3f}") else latency.why


def failure(parity: Parity | None, latency: Latency | None = None) -> str:
    """Why ``fold`` wrote nothing, on one line."""
    if latency is not None and latency.verdict is not Verdict.PASS:
        return f"latency {latency.verdict.value}: {plain(latency.why)}; nothing was written"
    if parity is None:
        return "nothing was written"
    return f"parity {parity.verdict.value}: {parity.why or VERDICT[parity.verdict]}; nothing was written"
