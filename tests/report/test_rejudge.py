from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from converter.commands.report import Limits, rejudge
from converter.records import OutputCheck, Parity, Stage, Verdict
from converter.report import serialize
from converter.report.documents import fold_document
from converter.report.serialize import dumps
from tests.report import made_evidence as made
from tests.report.made import folded


def judged(document: dict[str, Any], **limits: float) -> dict[str, Any]:
    again = rejudge(json.loads(dumps(document)), Limits(**limits))
    strict: dict[str, Any] = json.loads(dumps(again))
    serialize.check(strict)
    return strict


def with_stage(stage: Stage, verdict: Verdict | None = None) -> Parity:
    return made.parity(verdict=verdict or stage.status, stages=(stage,))


def outputs(stage: str, *checks: OutputCheck) -> dict[str, Any]:
    worst = next(v for v in ("FAIL", "INCONCLUSIVE", "PASS") if v in {c.status for c in checks})
    return made.verify_json(with_stage(Stage(stage, Verdict(worst), "", checks)))


def check(score: float, limit: float, status: str = "PASS", **detail: Any) -> OutputCheck:
    return OutputCheck("y", Verdict(status), score, limit, detail=detail)


@pytest.mark.parametrize(
    ("stage", "given", "limits", "verdict", "code"),
    [
        ("runtime", check(0.95, 3.0, error_after=1.0), {"max_ratio": 0.9}, "INCONCLUSIVE", 4),
        ("runtime", check(0.95, 3.0, error_after=1.0), {"max_ratio": 0.5, "fail_ratio": 0.9}, "FAIL", 1),
        ("runtime", check(2.5, 3.0, error_after=1.0), {"max_ratio": 2.0, "fail_ratio": 2.4}, "FAIL", 1),
        ("runtime", check(60.0, 3.0, "FAIL", error_after=1.0), {"max_ratio": 61.0}, "PASS", 0),
        ("runtime", check(20.0, 3.0, "FAIL", error_after=1.0), {"fail_ratio": 30.0}, "INCONCLUSIVE", 4),
        ("runtime", check(0.95, 3.0, error_after=1.0), {"max_algebra": 0.1}, "PASS", 0),
        ("runtime", check(9.0, 16.0, note="", distance=1.0), {"max_ratio": 2.0}, "PASS", 0),
        ("algebra", check(0.63, 4.0, e_pert=1.0), {"max_algebra": 0.5}, "INCONCLUSIVE", 4),
        ("algebra", check(0.63, 4.0, e_pert=1.0), {"max_algebra": 0.05}, "FAIL", 1),
        ("segments", check(0.63, 4.0, e_pert=1.0), {"max_algebra": 0.05}, "FAIL", 1),
        ("algebra", check(0.63, 4.0, e_pert=1.0), {"max_ratio": 0.1}, "PASS", 0),
        ("local", check(0.28, 1.0), {"max_local": 0.2}, "FAIL", 1),
        ("local", check(0.28, 1.0), {"max_local": 0.3}, "PASS", 0),
        ("structure", check(0.28, 1.0), {"max_local": 0.1, "max_ratio": 0.1, "max_algebra": 0.1}, "PASS", 0),
    ],
)
def test_scores_are_held_to_the_new_limit(
    stage: str, given: OutputCheck, limits: dict[str, float], verdict: str, code: int
) -> None:
    document = judged(outputs(stage, given), **limits)
    assert (document["verdict"], document["exit_code"]) == (verdict, code)
    assert document["stages"][0]["status"] == verdict
    assert document["rejudged"]["limits"] == limits


@pytest.mark.parametrize(
    "given",
    [
        check(0.9, 3.0, "FAIL", error_after=1.0),  # failed for another reason than its score
        check(0.9, 3.0, "INCONCLUSIVE", error_after=1.0),
        check(5.0, 3.0, "PASS", error_after=1e-8),  # passed by the floor
        check(math.inf, 3.0, "FAIL", error_after=1.0),
        check(math.nan, 3.0, "FAIL", error_after=1.0),
        OutputCheck("y", Verdict.FAIL, why="shape differs"),
    ],
)
def test_what_did_not_follow_from_a_score_keeps_its_verdict(given: OutputCheck) -> None:
    for ratio in (0.1, 1e6):
        document = judged(outputs("runtime", given), max_ratio=ratio, fail_ratio=1e6)
        assert document["verdict"] == given.status.value


def test_a_verdict_that_the_stages_do_not_explain_is_not_lifted() -> None:
    required = replace(made.parity(), verdict=Verdict.INCONCLUSIVE, why="level A was required")
    document = judged(made.verify_json(required), max_ratio=2.0)
    assert (document["verdict"], document["why"]) == ("INCONCLUSIVE", "level A was required")
    assert judged(made.verify_json(required), max_ratio=0.1, fail_ratio=0.2)["verdict"] == "FAIL"


def test_a_stage_that_still_passes_keeps_its_numbers() -> None:
    before, after = made.verify_json(), judged(made.verify_json(), max_ratio=2.0, accuracy_margin=0.01)
    said = {stage["id"]: stage["why"] for stage in before["stages"]}
    assert said["runtime"] == "error at most 0.95 times the original's"
    assert {stage["id"]: stage["why"] for stage in after["stages"]} == said
    assert "with max ratio 2, accuracy margin 1 %;" in after["warnings"][-1]


def test_the_worst_stage_decides_and_is_named() -> None:
    document = judged(made.verify_json(), max_local=0.27, max_ratio=0.5)
    assert document["verdict"] == "FAIL"
    assert document["why"].startswith("local: /layer2/Conv: its score is 0.28, the limit 0.27")
    assert "the run itself said PASS" in document["warnings"][-1]
    assert document["rejudged"]["was"] == "PASS"


def test_no_limit_changes_nothing_but_says_so() -> None:
    before, after = json.loads(dumps(made.verify_json(made.failing()))), judged(made.verify_json(made.failing()))
    for name in ("stages", "verdict", "why", "exit_code"):
        assert after[name] == before[name]
    assert "no other limits" in after["warnings"][-1]


# ---- decisions -------------------------------------------------------------------------------------


def decisions(n: int, k: int, status: str, **detail: Any) -> dict[str, Any]:
    known = {"n": n, "k": k, "metric": "top1_disagreement", "margin": 0.001, "alpha": 0.05, **detail}
    return outputs("decision", OutputCheck("y", Verdict(status), k / n, 0.001, detail=known))


def test_disagreements_are_bounded_anew() -> None:
    assert judged(decisions(500, 0, "INCONCLUSIVE"), accuracy_margin=0.01)["verdict"] == "PASS"
    assert judged(decisions(5000, 0, "PASS"), accuracy_margin=0.0005)["verdict"] == "INCONCLUSIVE"
    assert judged(decisions(3000, 0, "PASS"), alpha=0.001)["verdict"] == "INCONCLUSIVE"
    failed = judged(decisions(1000, 100, "PASS"), accuracy_margin=0.05)
    assert failed["verdict"] == "FAIL"
    assert failed["stages"][0]["outputs"][0]["detail"]["lower"] > 0.05
    assert judged(decisions(500, 0, "INCONCLUSIVE"), max_ratio=9.0)["verdict"] == "INCONCLUSIVE"


def test_labelled_decisions_are_bounded_anew() -> None:
    lost = decisions(10_000, 40, "PASS", metric="top1", gained=5, lost=35, accuracy_a=0.76, accuracy_b=0.757)
    assert judged(lost, accuracy_margin=0.01)["verdict"] == "PASS"
    assert judged(lost, accuracy_margin=0.001)["verdict"] == "FAIL"


def test_a_bootstrap_keeps_its_bounds() -> None:
    detail = {"n": 100, "metric": "f.py:auc", "margin": 0.001, "alpha": 0.05, "lower": -0.005, "upper": 0.004}
    document = outputs("decision", OutputCheck("y", Verdict.INCONCLUSIVE, -0.001, -0.001, detail=detail))
    assert judged(document, accuracy_margin=0.01)["verdict"] == "PASS"
    assert judged(document, accuracy_margin=0.01, alpha=0.01)["verdict"] == "INCONCLUSIVE"  # needs the samples


# ---- latency ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "half", "margin", "outcome", "code"),
    [
        (0.998, 0.005, 0.001, "INCONCLUSIVE", 4),
        (1.08, 0.005, 0.10, "NOT-SLOWER", 0),
        (1.08, 0.005, 0.05, "SLOWER", 1),
        (0.80, 0.005, 0.05, "FASTER", 0),
    ],
)
def test_latency_is_held_to_the_new_margin(ratio: float, half: float, margin: float, outcome: str, code: int) -> None:
    document = judged(made.bench_json(made.latency(ratio, half)), latency_margin=margin)
    assert (document["outcome"], document["exit_code"]) == (outcome, code)
    assert document["bench"]["margin"] == margin


def test_a_noisy_machine_stays_noisy_unless_the_margin_is_wide() -> None:
    noisy = made.latency(aa={"ratio": 1.03, "low": 1.0, "high": 1.06, "half_width": 0.03})
    assert judged(made.bench_json(noisy), latency_margin=0.02)["outcome"] == "INCONCLUSIVE"
    assert judged(made.bench_json(noisy), latency_margin=0.07)["outcome"] == "NOT-SLOWER"
    slower = made.latency(1.4, aa={"ratio": 1.03, "low": 1.0, "high": 1.06, "half_width": 0.03})
    assert judged(made.bench_json(slower), latency_margin=0.02)["outcome"] == "SLOWER"  # by more than the noise
    wide = made.latency(aa={"ratio": 1.0, "low": 0.9, "high": 1.1, "half_width": 0.1})
    assert judged(made.bench_json(wide), latency_margin=0.02)["outcome"] == "INCONCLUSIVE"


def test_alpha_widens_the_interval_and_leaves_out_what_was_left_out() -> None:
    latency = made.latency()
    narrow, wide = (judged(made.bench_json(latency), alpha=alpha)["bench"] for alpha in (0.2, 0.001))
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]
    far = replace(latency.blocks[0], log_ratio=3.0, discarded=True)
    marked = judged(made.bench_json(replace(latency, blocks=(far, *latency.blocks))), alpha=0.2)["bench"]
    assert marked["high"] == pytest.approx(narrow["high"])


def test_both_parts_of_a_document_count() -> None:
    both = made.verify_json(made.parity(), made.latency(1.08))
    assert judged(both, latency_margin=0.05)["exit_code"] == 1
    assert judged(both, latency_margin=0.10)["exit_code"] == 0
    assert judged(both, latency_margin=0.10, max_local=0.1)["exit_code"] == 1


def test_a_fold_is_judged_again_too() -> None:
    document = judged(fold_document(folded(parity=made.parity()), "9.9", bench=made.latency(1.08)), max_local=0.1)
    assert (document["parity"]["verdict"], document["exit_code"]) == ("FAIL", 1)
    assert "judged again" in document["parity"]["warnings"][-1]
    alone = judged(fold_document(folded(parity=None), "9.9"), max_ratio=1.0)
    assert (alone["parity"], alone["exit_code"]) == (None, 0)
