"""Findings and rewrites, gathered the way people ask about them: by pass, and by reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from converter.records import Finding, Rewrite, Safety, Status
from converter.report.result import PassLike


@dataclass(frozen=True, slots=True)
class Done:
    """What one pass did (or would do)."""

    pass_name: str
    safety: Safety
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Left:
    """What was left alone for one reason: ``whys`` say it node by node, ``why`` for all of them."""

    code: str
    why: str
    nodes: tuple[str, ...]
    whys: tuple[str, ...]


Reasons = Mapping[str, str]  # code -> the clause that holds wherever the code is given


def reasons(passes: Iterable[PassLike]) -> Reasons:
    """What each code means in general: the first pass's words for it."""
    said: dict[str, str] = {}
    for row in passes:
        for guard in row.guards:
            said.setdefault(guard.code, guard.why)
    return said


def done(rewrites: Iterable[Rewrite]) -> list[Done]:
    """Rewrites by pass, in the order in which the passes first acted."""
    gathered: dict[tuple[str, Safety], list[str]] = {}
    for rewrite in rewrites:
        gathered.setdefault((rewrite.pass_name, rewrite.safety), []).append(rewrite.node)
    return [Done(name, safety, tuple(nodes)) for (name, safety), nodes in gathered.items()]


def left(findings: Iterable[Finding], said: Reasons) -> list[Left]:
    """Findings that decline, by code, most nodes first; a node that several passes decline for one reason counts once.

    The clause is the findings' own where they agree (a channel, a name in it is then worth showing), and
    otherwise the one of ``said``.
    """
    gathered: dict[str, dict[str, str]] = {}
    for finding in findings:
        if finding.status is Status.DECLINED:
            gathered.setdefault(finding.code, {}).setdefault(finding.node, finding.why)
    groups = [_left(code, clauses, said) for code, clauses in gathered.items()]
    return sorted(groups, key=lambda group: (-len(group.nodes), group.code))


def _left(code: str, clauses: dict[str, str], said: Reasons) -> Left:
    whys = tuple(clauses.values())
    heads = {why.split(": ")[0] for why in whys}  # "no linear operator beside it: it lies between a and b"
    common = whys[0] if len(set(whys)) == 1 else heads.pop() if len(heads) == 1 else said.get(code, whys[0])
    return Left(code, common, tuple(clauses), whys)


def bytes_copied(rewrites: Iterable[Rewrite]) -> int:
    """Bytes by which rewrites made the model larger: copies of weights that others still read."""
    return sum(max(0, rewrite.delta.bytes_added) for rewrite in rewrites)
