"""From counts of decisions to a verdict: pass or fail where the bound says so, else how many inputs would do."""

from __future__ import annotations

from converter.records import OutputCheck, Verdict
from converter.verify.options import Deciding
from converter.verify.statistics import (
    bounded_mean,
    clopper_pearson,
    mcnemar,
    needed_with_labels,
    needed_without_labels,
    tango,
)
from converter.verify.votes import Votes


def judged(name: str, votes: Votes, ask: Deciding) -> OutputCheck:
    """One output: by labels where all rows have one (and decide one thing each), else by disagreement."""
    detail: dict[str, object] = {"n": votes.rows, "margin": ask.margin, "alpha": ask.alpha}
    if votes.scored:
        detail["certified"] = votes.certified / votes.scored
    if votes.labelled:
        detail |= {"accuracy_a": votes.right_a / votes.labelled, "accuracy_b": votes.right_b / votes.labelled}
    if votes.labelled == votes.rows and not votes.maps:
        return _labelled(name, votes, ask, detail)
    return _unlabelled(name, votes, ask, detail)


def _unlabelled(name: str, votes: Votes, ask: Deciding, detail: dict[str, object]) -> OutputCheck:
    n, k = votes.rows, votes.differ
    rate = k / n
    low, high = bounded_mean(rate, n, ask.alpha) if votes.maps else clopper_pearson(k, n, ask.alpha)
    needed = needed_without_labels(k, n, ask.margin, ask.alpha)
    what = "pixel_disagreement" if votes.maps else "top1_disagreement"
    detail |= {"metric": what, "k": k, "rate": rate, "lower": low, "upper": high, "needed_n": needed}
    seen = f"{percent(rate)} of the points" if votes.maps else f"{k:.0f} of {n:,} inputs"
    text = f"{seen} decided differently: at most {percent(high)} ({_sure(ask)})"
    if high <= ask.margin:
        return OutputCheck(
            name, Verdict.PASS, rate, ask.margin, detail=detail, why=f"{text}, margin {percent(ask.margin)}"
        )
    if low > ask.margin:
        why = f"{seen} decided differently, at least {percent(low)} ({_sure(ask)}), above {percent(ask.margin)}"
        return OutputCheck(name, Verdict.FAIL, rate, ask.margin, detail=detail, why=why)
    hint = (
        _need(needed, ask) if needed else f"as many of more inputs would not meet the margin of {percent(ask.margin)}"
    )
    return OutputCheck(name, Verdict.INCONCLUSIVE, rate, ask.margin, detail=detail, why=f"{text}; {hint}")


def _labelled(name: str, votes: Votes, ask: Deciding, detail: dict[str, object]) -> OutputCheck:
    n, difference = votes.rows, (votes.gained - votes.lost) / votes.rows
    low, high = tango(votes.gained, votes.lost, n, ask.alpha)
    needed = needed_with_labels(votes.gained, votes.lost, n, ask.margin, ask.alpha)
    detail |= {
        "metric": "top1",
        "k": votes.differ,
        "gained": votes.gained,
        "lost": votes.lost,
        "difference": difference,
        "lower": low,
        "upper": high,
        "mcnemar_p": mcnemar(votes.gained, votes.lost),
        "needed_n": needed,
    }
    text = (
        f"accuracy {percent(votes.right_a / n)} and {percent(votes.right_b / n)} of {n:,} inputs, "
        f"difference at least {signed(low)} ({_sure(ask)})"
    )
    return by_interval(name, difference, (low, high), ask, detail, text, _need(needed, ask))


def by_interval(
    name: str,
    difference: float,
    bounds: tuple[float, float],
    ask: Deciding,
    detail: dict[str, object],
    text: str,
    hint: str,
) -> OutputCheck:
    """Non-inferiority: the lower bound of B - A is above -margin; a failure is shown, not merely not excluded."""
    low, high = bounds
    if low > -ask.margin:
        verdict, why = Verdict.PASS, f"{text}, margin {percent(ask.margin)}"
    elif high < -ask.margin:
        verdict, why = Verdict.FAIL, f"{text}, at most {signed(high)}: worse than the margin of {percent(ask.margin)}"
    else:
        verdict, why = Verdict.INCONCLUSIVE, f"{text}; {hint}"
    return OutputCheck(name, verdict, difference, -ask.margin, detail=detail, why=why)


def _need(needed: int | None, ask: Deciding) -> str:
    return f"need \u2265 {needed:,} inputs for {percent(ask.margin)}"


def _sure(ask: Deciding) -> str:
    return f"{100 * (1 - ask.alpha):g} % sure"


def percent(share: float) -> str:
    """``0.1 %``."""
    return f"{100 * share:.3g} %"


def signed(share: float) -> str:
    """``-0.1 %``, in points."""
    return f"{100 * share:+.3g} %"
