"""Every folded weight and bias recomputed, by a formula of the referee's own, from the original's parameters.

This is the stage for errors that no output shows: an epsilon dropped in one batch norm of fifty moves the outputs
of a model less than rounding its weights does. Each rewritten place is brought to a normal form before and after
(`converter.referee.normal_form.form`), in float64 with error bounds; what the rewritten model stores must be that
number rounded once to its type: half a unit in the last place, and a 2^-9 of that for what float64 itself rounds. A
fold of a fold was rounded twice, which may come to a unit each.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from converter.records import OutputCheck, Stage, Verdict
from converter.referee.normal_form.compare import SLACK, ComparedArray, Place
from converter.referee.normal_form.repeated import Recomputer
from converter.referee.proto.diff import ChangedRegions
from converter.referee.proto.scopes import list_reads
from converter.referee.proto.source import LoadedModel
from converter.referee.verify.options import Options, find_folds

LIMIT = 0.5 + SLACK / 2  # units in the last place of the stored type, after one rounding
_FOREIGN_LIMIT = 16.0  # of a model that another tool folded in float32, operation by operation
_FAR = 1e-2  # of a number: no arithmetic in float32 is as far off


def check_parameters(a: LoadedModel, b: LoadedModel, difference: ChangedRegions, options: Options) -> Stage:
    """The stage over all places of a pair; ``detail`` counts ``places`` and those ``recomputed``."""
    begun = time.monotonic()
    limit, ours = _find_limit(find_folds(a, b, options)), find_folds(a, b, options) > 0
    checks, missed = [], dict.fromkeys(difference.unmatched, "cannot be cut out")
    for place in _recompute_places(a, b, difference, options):
        problem = place.problem or place.explain_moved(lambda c: c.score <= limit, ours=ours)
        if problem:
            missed[place.name] = problem
        else:
            checks.append(_check(place, limit, ours=ours))
    total = len(difference.regions) + len(difference.unmatched)
    detail = {"places": total, "recomputed": len(checks), "not_recomputed": dict(list(missed.items())[:20])}
    detail["ulp_max"] = max((c.score for c in checks if c.score is not None), default=0.0)
    status, why = _conclude(checks, total, ours)
    if status is Verdict.SKIPPED and (lone := _find_unexplained(checks, missed, b)) is not None:
        status, why = Verdict.INCONCLUSIVE, f"{lone.why}, and no other place makes up for it"
    return Stage("parameters", status, why, tuple(checks), detail, time.monotonic() - begun)


def _recompute_places(a: LoadedModel, b: LoadedModel, difference: ChangedRegions, options: Options) -> Iterator[Place]:
    recomputer = Recomputer(a, b)
    for k, region in enumerate(difference.regions):
        options.progress(f"parameters {k + 1} of {len(difference.regions)}: {region.output}")
        yield recomputer.recompute(region)


def _find_limit(folds: int) -> float:
    """The limit after so many folds of this tool's own; 0 stands for another tool's, which round as they like."""
    return _FOREIGN_LIMIT if not folds else LIMIT if folds == 1 else float(folds)


def _check(place: Place, limit: float, *, ours: bool) -> OutputCheck:
    """A place passes if each of its numbers does."""
    bad = [c for c in place.compared if c.score > limit]
    worst = max(bad, key=_rank) if bad else place.worst
    detail = {} if worst is None else _describe(worst)
    detail |= {"rounding": place.factor, "laws": sorted(place.laws)}
    detail["arrays"] = len(place.compared)
    detail["elements"] = sum(c.count for c in place.compared)
    score = 0.0 if worst is None else worst.score
    if worst is None or not bad:
        return OutputCheck(place.name, Verdict.PASS, score, limit, detail=detail)
    status = Verdict.FAIL if ours else Verdict.INCONCLUSIVE
    return OutputCheck(
        place.name, status, score, limit, abs(worst.found - worst.expected), detail=detail, why=_explain(worst)
    )


def _rank(c: ComparedArray) -> tuple[bool, float]:
    return c.what in ("weight", "constant"), c.score


def _describe(c: ComparedArray) -> dict[str, Any]:
    return {
        "layer": c.layer,
        "op": c.op,
        "what": c.what,
        "tensor": c.tensor,
        "channel": c.channel,
        "ulp": c.score,
        "beyond_half": c.beyond,
        "n": c.count,
        "found": c.found,
        "expected": c.expected,
    }


def _explain(c: ComparedArray) -> str:
    where = f"{c.what} of {c.op} {c.layer!r}, channel {c.channel}"
    if c.score <= 1:
        return f"{where}: {c.beyond} of {c.count} numbers are not the recomputed ones rounded once"
    return f"{where}: {c.found:.9g} where {c.expected:.9g} was recomputed ({c.score:.3g} units in the last place)"


def _find_unexplained(checks: list[OutputCheck], missed: Collection[str], b: LoadedModel) -> OutputCheck | None:
    """A place of another tool's model that differs although its name means what it meant.

    A name that means another tensor shows at its place and again where the new meaning is read, which is a
    rewritten place too. Where no other one lies on its way, before or after, the number itself is another one. A
    bias may be far off where it nearly cancels; other numbers are not.
    """
    bad = [c for c in checks if c.status is not Verdict.PASS]
    others = {c.name for c in bad} | set(missed)
    readers: dict[str, list[str]] = {}
    for node in b.proto.graph.node:
        for name in (n for n in list_reads(node) if n):
            readers.setdefault(name, []).extend(n for n in node.output if n)
    made = {n for node in b.proto.graph.node for n in node.output}  # what lies inside of subgraphs has other paths
    for check in (c for c in bad if c.name in made and c.detail.get("what") != "bias" and _is_far(c)):
        rest = others - {check.name}
        if not _reaches(check.name, rest, readers) and not any(_reaches(n, {check.name}, readers) for n in rest):
            return check
    return None


def settle_parameters(stage: Stage, driven: Stage) -> Stage:
    """Numbers that are not the recomputed ones are no doubt where each place agrees on whatever comes to it.

    But for a weight that is another one altogether: then the unit that it belongs to was off whatever came.
    """
    if stage.id != "parameters" or stage.status is not Verdict.INCONCLUSIVE:
        return stage
    if driven.status is Verdict.PASS and has_other_weight(stage):
        return stage
    more = "; the places agree on driven values" if driven.status is Verdict.PASS else ""
    return replace(stage, status=Verdict.SKIPPED, why=f"{stage.why}{more}")


def has_other_weight(stage: Stage) -> bool:
    """Whether a weight is not what was recomputed by more than any arithmetic in float32 makes it."""
    bad = (c for c in stage.outputs if c.status is not Verdict.PASS)
    return any(c.detail.get("what") != "bias" and _is_far(c) for c in bad)


def _is_far(check: OutputCheck) -> bool:
    found, expected = (float(check.detail[key]) for key in ("found", "expected"))
    return not abs(found - expected) <= _FAR * max(abs(found), abs(expected))


def _reaches(start: str, goals: Collection[str], readers: Mapping[str, list[str]]) -> bool:
    pending, seen = [start], {start}
    while pending:
        fresh = [n for n in readers.get(pending.pop(), ()) if n not in seen]
        if any(n in goals for n in fresh):
            return True
        seen.update(fresh)
        pending.extend(fresh)
    return False


def _conclude(checks: list[OutputCheck], total: int, ours: bool) -> tuple[Verdict, str]:
    count = f"{len(checks)} of {total} places recomputed"
    bad = [c for c in checks if c.status is not Verdict.PASS]
    failed = [c for c in bad if c.status is Verdict.FAIL]
    if not checks:
        return Verdict.SKIPPED, f"{count}: none is of a form that can be recomputed" if total else "no rewritten place"
    if failed:
        return Verdict.FAIL, f"{failed[0].why}" + (f"; {len(failed)} places differ" if len(failed) > 1 else "")
    if bad and not ours:
        # Names that no longer mean the same show as differences at several places, or as places of another form.
        if len(bad) == 1 and len(checks) == total:
            return Verdict.INCONCLUSIVE, f"{bad[0].why}; or a name no longer means the same"
        right = len(checks) - len(bad)
        return Verdict.SKIPPED, f"{right} of {total} places recomputed; at {len(bad)} names seem to mean other tensors"
    top = max((c.score for c in checks if c.score is not None), default=0.0)
    passed = [c for c in checks if c.status is Verdict.PASS]
    return Verdict.PASS, f"{len(passed)} of {total} places recomputed; at most {top:.2g} units in the last place off"
