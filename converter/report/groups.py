"""Findings and rewrites, gathered the way people ask about them: by pass, and by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from converter.records import Finding, Rewrite, Safety, Status


@dataclass(frozen=True, slots=True)
class Done:
    """What one pass did (or would do)."""

    pass_name: str
    safety: Safety | None
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Left:
    """What was left alone for one reason."""

    code: str
    why: str
    nodes: tuple[str, ...]
    passes: tuple[str, ...]


def done(rewrites: Iterable[Rewrite]) -> list[Done]:
    """Rewrites by pass, in the order in which the passes first acted."""
    gathered: dict[tuple[str, Safety], list[str]] = {}
    for rewrite in rewrites:
        gathered.setdefault((rewrite.pass_name, rewrite.safety), []).append(rewrite.node)
    return [Done(name, safety, tuple(nodes)) for (name, safety), nodes in gathered.items()]


def would_do(findings: Iterable[Finding]) -> list[Done]:
    """Findings that act, by pass."""
    gathered: dict[str, list[str]] = {}
    for finding in findings:
        if finding.status is Status.ACT:
            gathered.setdefault(finding.pass_name, []).append(finding.node)
    return [Done(name, None, tuple(nodes)) for name, nodes in gathered.items()]


def left(findings: Iterable[Finding]) -> list[Left]:
    """Findings that decline, by code, most nodes first.

    A node that several passes decline for one reason counts once; the clause is the one given most often.
    """
    gathered: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.status is Status.DECLINED:
            gathered.setdefault(finding.code, []).append(finding)
    groups = [_left(code, members) for code, members in gathered.items()]
    return sorted(groups, key=lambda group: (-len(group.nodes), group.code))


def _left(code: str, members: list[Finding]) -> Left:
    why, _ = Counter(finding.why for finding in members).most_common(1)[0]
    return Left(
        code=code,
        why=why,
        nodes=tuple(dict.fromkeys(finding.node for finding in members)),
        passes=tuple(dict.fromkeys(finding.pass_name for finding in members)),
    )


def bytes_copied(rewrites: Iterable[Rewrite]) -> int:
    """Bytes by which rewrites made the model larger: copies of weights that others still read."""
    return sum(max(0, rewrite.delta.bytes_added) for rewrite in rewrites)
