"""Branches and loops that no input led into: no output says anything of what was rewritten there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from converter.protos.segments import Difference
from converter.protos.source import all_nodes, body_graphs, body_key
from converter.records import Stage, Verdict
from converter.verify.algebra import worst
from converter.verify.local import local

if TYPE_CHECKING:
    from converter.verify.whole import Referee

_BODIES = (".then_branch", ".else_branch", ".body")


def idle(referee: Referee) -> Stage | None:
    """The rewritten places in such subgraphs, each on its own; None if there is none."""
    ran, difference = referee.a.entered, referee.difference
    _warn(referee)
    places = tuple(s for s in difference.segments if s.scope.endswith(_BODIES) and not s.scope.endswith(tuple(ran)))
    inner = [n for n in difference.unmatched if any(f"{body}/" in n for body in _BODIES)]
    lost = tuple(n for n in inner if not any(f"{body}/" in n for body in ran))
    if not places and not lost:
        return None
    a, b = referee.a.source, referee.b.source
    return local(Difference(places, lost), a, b, referee.options, light=not referee.cases.no_runtime)


def _warn(referee: Referee) -> None:
    """Say which branches of the original no input led into, where a float64 run has shown it."""
    ran = referee.a.entered
    bodies = {body_key("", n, name) for n in all_nodes(referee.a.source.proto) for name, _ in body_graphs(n)}
    missed = sorted(bodies - ran)
    if ran and missed:
        some = ", ".join(key.removeprefix("/") for key in missed[:3])
        count = f"{len(missed)} branches" if len(missed) > 1 else "1 branch"
        referee.warnings.append(f"{count} ran on no input, so that no output says anything of them: {some}")


def together(first: Stage | None, second: Stage | None) -> Stage | None:
    """One stage of two that looked at different places, or at some of them twice."""
    if first is None or second is None:
        return first or second
    seen = {c.name for c in second.outputs}
    checks = (*(c for c in first.outputs if c.name not in seen), *second.outputs)
    blamed = second if second.status is not Verdict.PASS and first.status is not Verdict.FAIL else first
    return replace(blamed, status=worst(checks), outputs=checks)
