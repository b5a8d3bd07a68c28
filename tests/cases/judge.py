"""Walk one row: what a fold, a refusal and a fold of later must satisfy."""

from __future__ import annotations

from typing import Any

from tests.cases.case import Case
from tests.harness import (
    assert_declines,
    assert_folds,
    assert_left_alone,
    assert_ops,
    assert_same_values,
    assert_sound,
    checker_accepts,
    run_fold,
)


def sound(case: Case) -> dict[str, Any]:
    """Return how the row's values are compared."""
    return {"tol": case.tol, "use_ort": case.ort, "scale": case.feed_scale}


def folds(case: Case) -> None:
    """The rewrite is there, the operators are gone, everything else is as before."""
    proto = case.build()
    assert checker_accepts(proto, full=True) == case.valid, "the row's own model"
    result = assert_folds(proto, case.passes, ops=case.ops, **sound(case), **case.options)
    if case.check:
        case.check(result.model)


def refuses(case: Case) -> None:
    """Each named pass declines with a reason, alone and bit-identical; with all passes the operators stay."""
    for name in case.passes:
        assert_declines(case.build(), name, case.code, says=case.says, **case.options)
    assert_left_alone(case.build(), case.keep, **sound(case), **case.options)


def twin_folds(case: Case) -> None:
    """With the one broken precondition repaired, the same pass acts: the row tests that precondition."""
    assert case.twin
    proto = case.twin()
    result = run_fold(proto, only=case.passes, **case.options)
    assert {r.pass_name for r in result.rewrites} <= set(case.passes)
    assert result.rewrites, f"the twin is declined too: {[(f.id, f.code, f.why) for f in result.findings]}"
    assert_same_values(proto, result.model, **sound(case))


def stays_equal(case: Case) -> Any:
    """Whatever is done, the outputs stay and the file is sound."""
    proto = case.build()
    result = run_fold(proto, **case.options)
    assert_sound(proto, result, **sound(case), **case.options)
    return result


def reaches_goal(case: Case) -> None:
    """The state that a later fold will reach (today it does not)."""
    result = run_fold(case.build(), **case.options)
    if case.ops:
        assert_ops(result.model, case.ops)
    if case.check:
        case.check(result.model)
