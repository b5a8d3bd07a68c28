"""The step of a fold that assumes something: biases that go by data, after all that is exact is proved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from converter.records import Verdict

if TYPE_CHECKING:
    from converter.commands.fold import FoldResult
    from converter.commands.inspect import Model
    from converter.commands.remove import Removed
    from converter.records import Parity

Result = TypeVar("Result", bound="FoldResult")
_SHARED = ("shapes", "data", "custom_ops", "provider", "seed", "max_memory", "progress")


def applied(
    result: Result, parity: Parity | None, model: Model, asked: Mapping[str, Any], judging: Mapping[str, Any]
) -> tuple[Result, Parity]:
    """Remove biases from the folded graph of ``result``; the verdict on that is a stage of the parity."""
    from converter.commands.remove import remove_biases
    from converter.rewrite.analysis.counts import count
    from converter.rewrite.analysis.facts import Facts

    assert result.graph is not None
    same = {name: judging[name] for name in _SHARED if judging[name] is not None}
    removed = remove_biases(result.graph, model, **same, **asked)
    rewrites = (*result.rewrites, *removed.rewrites)
    after = count(Facts(result.graph))
    return replace(result, rewrites=rewrites, after=after, removed=removed), _with(parity, removed)


def _with(parity: Parity | None, removed: Removed) -> Parity:
    """What was proved of the exact part, and what the data say of the rest."""
    from converter.records import Parity

    stage = replace(removed.stage, id="removal")
    scope = "removal" if removed.rewrites else (parity.scope if parity is not None else "none")
    if parity is None:
        return Parity(stage.status, "C", stages=(stage,), scope=scope, why=stage.why)
    changed = stage.status in (Verdict.FAIL, Verdict.INCONCLUSIVE)
    verdict, why = (stage.status, f"removal: {stage.why}") if changed else (parity.verdict, parity.why)
    return replace(parity, verdict=verdict, why=why, scope=scope, stages=(*parity.stages, stage))
