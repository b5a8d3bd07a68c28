"""Verdicts follow the results: each claim is shown results that make for every verdict it can have."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from converter.records.study import Stamp
from converter.study import claims
from converter.study.results import compare_arms, summarize_blocks
from tests.study import made

RNG = np.random.default_rng(0)
SAME = {2: 0.0, 4: 0.0, 8: 0.0, 16: 0.0}


def widths(gain: dict[int, float], spread: float = 0.1) -> list[dict]:
    """Rows of the main block in which biases are worth so much at each width."""
    rows = []
    for kind in ("raw", "centred"):
        for w, points in gain.items():
            base = 100 - 60 / w + np.linspace(-1, 1, 8)
            noise = spread * np.array([1, -1, 0.5, -0.5, 1, -1, 0.5, -0.5])
            rows += made.model_rows("widths", {"all": base + points + noise, "head": base}, width=w, input=kind)
    return rows


def contrast(none: float = 50.0, every: float = 99.0) -> list[dict]:
    arms = {"all": np.full(4, every), "head": np.full(4, 90.0), "none": np.full(4, none)}
    return made.model_rows("contrast", arms, width=4)


def exact(**change: Any) -> list[dict]:
    """Rows of the block of claims."""
    rows = {
        "update": [{"optimiser": o, "error": change.get(o.lower(), e)} for o, e in (("SGD", 0.0), ("Adam", 3.0))],
        "first layer": [
            {"layer": la, "input": i, "r": change.get("r", {}).get(i, 0.3), "empty": 0.0}
            for la in ("dense", "conv")
            for i in ("raw", "centred")
        ],
        "dead": [
            {"followed_by": "batch norm", "expected_dead": True, "change": change.get("dead", 1e-16)},
            {"followed_by": "layer norm", "expected_dead": False, "change": 0.9},
        ],
        "constant channel": [
            {"padding": 1, "weight": "x", "inside": change.get("inside", 0.0), "border": change.get("border", 0.5)}
        ],
        "replaceability": [{"rho": 0.0, "n": 4, "measured": 0.3, "theory": 0.3}],
    }  # fmt: skip
    if not change.get("live", True):
        rows["dead"].pop()
    return [{"block": "exact", "job": "j", "of": 1, "check": c} | row for c, some in rows.items() for row in some]


def recall(solved: dict[str, int], steps: dict[str, int] | None = None) -> list[dict]:
    rows = []
    for arm in ("none", "0", "1", "2", "chrono"):
        for seed in range(8):
            at = (steps or {}).get(arm, 50) if seed < solved.get(arm, 0) else None
            row = {"forget_bias": arm, "seed": seed, "lag": 40, "steps": 200, "solved_at": at, "accuracy": 90.0}
            rows.append({"block": "recall", "job": "j", "of": 1, "curve": [50.0, 90.0], "checks": [25, 50]} | row)
    return rows


def ablation(lost: dict[int, float], after: float = 98.0) -> list[dict]:
    def method(accuracy: float, quarter: float) -> dict:
        return {"accuracy": accuracy, "agreement": 99.0, "error": 0.1, "contrast": {"0.25": quarter}}

    every = {m: method(98.0, 10.0) for m in ("original", "zero", "head", "independent")}
    base = {"block": "ablation", "job": "j", "of": 1, "norm": "batch", "layers": [{"r": 0.1, "size": 1.0}] * 3}
    return [
        base
        | {"width": w, "seed": s}
        | {"methods": every | {"sequential": method(98.0 - points, after)}}
        for w, points in lost.items()
        for s in range(3)
    ]  # fmt: skip


def capacity(gain: float) -> list[dict]:
    rows = []
    for decay in (0.0, 0.01):
        for k, w in enumerate((8, 16, 32)):
            arms = {b: 95 + gain * k + np.linspace(-0.1, 0.1, 6) * (1 + k) for b in ("all", "head")}
            rows += made.model_rows("capacity", arms, width=w, weight_decay=decay)
    return rows


def depth(spread: float) -> list[dict]:
    arms = {"all": 95 + spread * np.array([1.0, -1, 1, -1, 1, -1]), "head": np.full(6, 95.0)}
    return made.model_rows("depth", arms, width=16, depth=4)


def drift() -> list[dict]:
    more = {"optimiser": "Adam", "largest": 0.1, "rms": 0.1, "gradient_bias": 1e-9, "gradient_weight": 0.1}
    rows = made.model_rows("drift", {"all": np.full(2, 95.0)}, **more)
    return [row | {"accuracy_without": 95.0} for row in rows]


CASES = [
    ("1", exact() + drift(), Stamp.CONDITION),
    ("1", exact(adam=0.0), Stamp.CONFIRMED),
    ("1", exact(sgd=0.1), Stamp.FALSE),
    ("2", widths(SAME) + contrast(), Stamp.CONDITION),
    ("2", widths(SAME), Stamp.CONFIRMED),
    ("2", widths(SAME | {16: 3.0}), Stamp.FALSE),
    ("2", widths(SAME, spread=4.0), Stamp.UNSUPPORTED),
    ("3", exact(r={"raw": 0.3, "centred": 0.9}), Stamp.CONFIRMED),
    ("3", exact(), Stamp.UNSUPPORTED),
    ("4", widths(SAME), Stamp.FALSE),
    ("4", widths(SAME | {2: 3.0, 4: 3.0}), Stamp.CONFIRMED),
    ("4", widths(SAME | {2: 3.0}), Stamp.CONDITION),
    ("4", widths(SAME | {2: -3.0}), Stamp.FALSE),
    ("4", widths(SAME, spread=4.0) + contrast(), Stamp.UNSUPPORTED),
    ("5", recall({"1": 8, "2": 8, "chrono": 8}, {"2": 25}), Stamp.CONDITION),
    ("5", recall({"1": 8, "2": 8, "chrono": 8}), Stamp.CONFIRMED),
    ("5", recall({"2": 8}), Stamp.CONDITION),
    ("5", recall({"0": 4, "1": 5}), Stamp.UNSUPPORTED),
    ("6", exact(), Stamp.CONDITION),
    ("6", exact(live=False), Stamp.CONFIRMED),
    ("6", exact(dead=0.1), Stamp.FALSE),
    ("7a", ablation({4: 9.0, 64: 0.1}), Stamp.CONFIRMED),
    ("7a", ablation({4: 9.0}, after=10.0), Stamp.UNSUPPORTED),
    ("7b", widths(SAME) + contrast(), Stamp.UNSUPPORTED),
    ("7c", depth(0.1) + ablation({4: 9.0, 64: 0.1}), Stamp.CONDITION),
    ("7c", depth(4.0) + ablation({4: 9.0, 64: 0.1}), Stamp.UNSUPPORTED),
    ("7c", depth(0.1) + ablation({4: 0.1, 64: 0.1}), Stamp.UNSUPPORTED),
    ("8", capacity(0.5), Stamp.CONFIRMED),
    ("8", capacity(-3.0), Stamp.FALSE),
    ("9", exact(), Stamp.CONDITION),
    ("9", exact(border=0.0), Stamp.CONFIRMED),
    ("9", exact(inside=0.1), Stamp.FALSE),
]


@pytest.mark.parametrize(("key", "rows", "verdict"), CASES, ids=[f"{k}-{s}-{n}" for n, (k, _, s) in enumerate(CASES)])
def test_verdicts(key: str, rows: list[dict], verdict: str) -> None:
    made_ = {claim.id: claim for claim in claims.judge_claims(summarize_blocks(rows, 0.5, 1.0), 0.5)}
    assert made_[key].stamp == verdict, made_[key].because


def test_two_to_four_times_is_confirmed_where_it_is_so() -> None:
    rows = []
    for w in (2, 4, 8, 16, 32):
        a, b = (100 - 60 / (w * f) + np.linspace(-0.2, 0.2, 6) for f in (3.0, 1.0))
        rows += made.model_rows("widths", {"all": a, "head": b}, width=w)
    found = {claim.id: claim for claim in claims.judge_claims(summarize_blocks(rows, 0.5, 1.0), 0.5)}
    assert found["7b"].stamp == Stamp.CONFIRMED


def test_what_was_not_run_was_not_looked_at() -> None:
    assert {claim.stamp for claim in claims.judge_claims({}, 0.5)} == {Stamp.OPEN}


GOOD = (
    exact()
    + contrast()
    + [
        r | {"norm": "batch", "apart": 1e-12, "accuracy_without": r["accuracy"], "bias": "paired"}
        for r in made.model_rows("identity", {"all": np.full(3, 90.0)})
    ]
)


def test_controls_pass() -> None:
    assert claims.is_valid(claims.run_checks(summarize_blocks(GOOD, 0.5, 1.0))) is True


def _harm(block: str, **change: Any) -> list[dict]:
    rows = copy.deepcopy(GOOD)
    for row in rows:
        if row["block"] == block and all(row.get(k) == v for k, v in change.get("where", {}).items()):
            row.update({k: v for k, v in change.items() if k != "where"})
    return rows


@pytest.mark.parametrize(
    "rows",
    [
        _harm("exact", where={"followed_by": "batch norm"}, change=1e-6),
        _harm("exact", where={"followed_by": "layer norm"}, change=1e-15),
        _harm("identity", apart=1e-3),
        _harm("identity", accuracy_without=90.2),
        _harm("contrast", where={"bias": "none"}, accuracy=55.1),
        _harm("contrast", where={"bias": "all"}, accuracy=79.0),
    ],
)
def test_a_control_that_fails_makes_the_run_invalid(rows: list[dict]) -> None:
    assert claims.is_valid(claims.run_checks(summarize_blocks(rows, 0.5, 1.0))) is False


def test_controls_that_were_not_run_leave_it_open() -> None:
    assert claims.is_valid(claims.run_checks(summarize_blocks(contrast(), 0.5, 1.0))) is None


def test_comparisons_are_paired_by_seed_and_one_family() -> None:
    base = RNG.normal(90, 5, 8)  # seeds differ far more than arms
    rows = made.model_rows("widths", {"all": base + 1 + 0.01 * np.arange(8), "head": base})
    one, two = compare_arms(rows + [r | {"width": 16} for r in rows], ("input", "width"), 0.5, 1.0)
    assert one["verdict"] == "DIFFERENT"
    assert one["mean"] == pytest.approx(1.035)
    assert (one["width"], two["width"]) == (8, 16)
    assert one["n"] == 8
