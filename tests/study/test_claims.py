"""Verdicts follow the results: each claim is shown results that make for every verdict it can have."""

from __future__ import annotations

import copy
import re
from itertools import product
from typing import Any

import numpy as np
import pytest

from converter import stats
from converter.records.study import Stamp
from converter.study import claims, plan
from converter.study.results import compare_arms, summarize_blocks
from tests.study import made

IDENTITY = [
    r | {"norm": "batch", "apart": 1e-12, "accuracy_without": r["accuracy"], "bias": "paired"}
    for r in made.model_rows("identity", {"all": np.full(3, 90.0)})
]
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


def contrast(none: float = 50.0, every: float = 99.0, head: float = 90.0) -> list[dict]:
    arms = {"all": np.full(4, every), "head": np.full(4, head), "none": np.full(4, none)}
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
            {"padding": 1, "weight": "centre", "inside": change.get("centre", 0.0), "border": 0.0},
            {"padding": 1, "weight": "spread over the kernel", "inside": 0.0, "border": 0.5},
        ],
        "replaceability": [{"rho": 0.0, "n": 4, "measured": 0.3, "theory": 0.3}],
    }  # fmt: skip
    return [{"block": "exact", "job": "j", "of": 1, "check": c} | row for c, some in rows.items() for row in some]


def recall(solved: dict[str, tuple[int, int]], steps: dict[str, int] | None = None) -> list[dict]:
    """How many of 8 seeds solved a lag of 10, and one of 80, by the bias of the forget gate; others none."""
    rows = []
    for lag, arm, seed in product((10, 80), plan.ARMS, range(8)):
        at = (steps or {}).get(arm, 50) if seed < solved.get(arm, (0, 0))[lag == 80] else None
        row = {"forget_bias": arm, "seed": seed, "lag": lag, "steps": 200, "solved_at": at, "accuracy": 90.0}
        rows.append({"block": "recall", "job": "j", "of": 1, "curve": [50.0, 90.0], "checks": [25, 50]} | row)
    return rows


def points(none: float = 50.0, every: float = 100.0) -> list[dict]:
    """Rows of nets on points: how many right answers without any bias, and with."""
    arms = {"all": np.full(4, every), "head": np.full(4, 70.0), "none": np.full(4, none)}
    return [
        row for task, w in product(("threshold", "xor", "rings"), (2, 8))
        for row in made.model_rows("points", arms, width=w, task=task)
    ]  # fmt: skip


def mechanism(gain: float = 0.0) -> list[dict]:
    """Rows in which a bias is worth so much more where weights cannot imitate it."""
    noise, rows = np.array([0.1, -0.1, 0.05, -0.05, 0.1, -0.1]), []
    for kind, filters, more in (("raw", "free", 0.0), ("raw", "centred", gain), ("pixel", "free", gain)):
        arms = {"all": 95 + more + noise, "head": np.full(6, 95.0)}
        layers = {"layers": [{"r": 0.1, "bias": 0.5, "noise": 0.3}] * 2}
        rows += made.model_rows("mechanism", arms, width=16, input=kind, filters=filters, **layers)
    return rows


def _method(accuracy: float, quarter: float) -> dict:
    return {"accuracy": accuracy, "agreement": 99.0, "error": 0.1, "contrast": {"0.25": quarter}}


def ablation(lost: dict[int, float], after: float = 98.0) -> list[dict]:
    every = {m: _method(98.0, 10.0) for m in ("original", "zero", "head", "independent")}
    base = {"block": "ablation", "job": "j", "of": 1, "norm": "batch", "layers": [{"r": 0.1, "size": 1.0}] * 3}
    return [
        base
        | {"width": w, "seed": s}
        | {"methods": every | {"sequential": _method(98.0 - points, after)}}
        for w, points in lost.items()
        for s in range(3)
    ]  # fmt: skip


def capacity(gain: float, best: int = 0) -> list[dict]:
    """Each width gains so much on the one before, up to the one of index ``best``; from there on nothing."""
    rows = []
    for decay in (0.0, 0.3):
        for k, w in enumerate((8, 12, 18, 26)):
            arms = {"all": 95 + 2.0 * min(k, best) + gain * max(0, k - best) + np.linspace(-0.1, 0.1, 6) * (1 + k)}
            rows += made.model_rows("capacity", arms, width=w, weight_decay=decay)
    return rows


def depth(lost: dict[tuple[int, int], float], spread: float = 0.05) -> list[dict]:
    """Points lost by moving biases into weights, at (channels, depth)."""
    arms, rows = {"all": np.full(6, 95.0), "head": np.full(6, 95.0)}, []
    noise = spread * np.array([1.0, -1, 0.5, -0.5, 1, -1])
    for (width, deep), points in lost.items():
        rows += made.model_rows("depth", arms, width=width, depth=deep)
        base = {"block": "depth", "job": "j", "of": 1, "removed": True, "norm": "batch", "width": width, "depth": deep}
        mixed = np.random.default_rng([width, deep]).permutation(noise)  # each place its own
        for s in range(len(noise)):
            methods = {m: _method(98.0, 10.0) for m in ("original", "zero")}
            moved = {"sequential": _method(98.0 - points - float(mixed[s]), 98.0)}
            rows.append(base | {"seed": s, "bias": "all", "accuracy": 98.0, "methods": methods | moved})
    return rows


BOTH = {(4, 2): 5.0, (4, 8): 14.0, (64, 2): 0.1, (64, 8): 0.2}  # channels matter, depth where they are few


def drift() -> list[dict]:
    more = {"optimiser": "Adam", "largest": 0.1, "rms": 0.1, "gradient_bias": 1e-9, "gradient_weight": 0.1}
    rows = made.model_rows("drift", {"all": np.full(2, 95.0)}, **more)
    return [row | {"accuracy_without": 95.0} for row in rows]


CASES = [
    ("1", exact() + drift(), Stamp.CONDITION),
    ("1", exact(adam=0.0) + drift(), Stamp.CONFIRMED),
    ("1", exact(sgd=0.1) + drift(), Stamp.FALSE),
    ("2", widths(SAME) + contrast(), Stamp.CONDITION),
    ("2", widths(SAME) + contrast(head=99.9), Stamp.CONFIRMED),
    ("2", widths(SAME | {16: 3.0}) + contrast(), Stamp.FALSE),
    ("2", widths(SAME, spread=4.0) + contrast(), Stamp.UNDECIDED),
    ("2", widths(SAME), Stamp.NOT_RUN),
    ("3", exact(r={"raw": 0.3, "centred": 0.9}) + mechanism(), Stamp.CONDITION),
    ("3", exact(r={"raw": 0.3, "centred": 0.9}) + mechanism(2.0), Stamp.CONFIRMED),
    ("3", exact() + mechanism(), Stamp.UNSUPPORTED),
    ("4", widths(SAME) + points(), Stamp.CONDITION),
    ("4", widths(SAME) + points(none=99.0), Stamp.FALSE),
    ("4", widths(SAME | {2: 3.0}) + points(), Stamp.CONFIRMED),
    ("4", widths(SAME | {2: -3.0}) + points(), Stamp.FALSE),
    ("4", widths(SAME, spread=4.0) + points(none=99.0), Stamp.UNDECIDED),
    ("4", widths({8: 0.0, 16: 0.0, 32: 0.0}) + points(), Stamp.NOT_RUN),
    ("5", recall({"0": (8, 0), "1": (8, 0), "2": (8, 8)}), Stamp.CONFIRMED),
    ("5", recall({"0": (0, 0), "1": (8, 8), "2": (8, 8)}), Stamp.CONFIRMED),
    ("5", recall({"0": (8, 0), "1": (8, 3), "2": (8, 5)}), Stamp.UNDECIDED),
    ("5", recall({"0": (0, 0), "1": (8, 3), "2": (8, 3)}), Stamp.CONDITION),
    ("5", recall({"0": (8, 8), "1": (8, 8), "2": (8, 8)}), Stamp.UNSUPPORTED),
    ("6", exact() + IDENTITY, Stamp.CONFIRMED),
    ("6", exact(dead=0.1) + IDENTITY, Stamp.FALSE),
    ("7a", ablation({4: 9.0, 64: 0.1}), Stamp.CONFIRMED),
    ("7a", ablation({4: 9.0}, after=10.0), Stamp.UNSUPPORTED),
    ("7b", widths(SAME) + contrast(), Stamp.UNSUPPORTED),
    ("7b", widths({2: 0.0, 4: 0.0}) + contrast(), Stamp.NOT_RUN),
    ("7c", depth(BOTH), Stamp.CONDITION),
    ("7c", depth(BOTH | {(4, 8): 5.0}), Stamp.CONFIRMED),
    ("7c", depth(BOTH | {(64, 8): 9.0}), Stamp.FALSE),
    ("7c", depth(dict.fromkeys(BOTH, 0.1)), Stamp.FALSE),
    ("7c", depth(BOTH, spread=30.0), Stamp.UNDECIDED),
    ("8", capacity(0.0), Stamp.CONFIRMED),
    ("8", capacity(0.0, best=1), Stamp.CONFIRMED),
    ("8", capacity(-3.0), Stamp.FALSE),
    ("8", capacity(0.0, best=3), Stamp.UNDECIDED),
    ("9", exact(), Stamp.CONFIRMED),
    ("9", exact(centre=0.1), Stamp.FALSE),
]


@pytest.mark.parametrize(("key", "rows", "verdict"), CASES, ids=[f"{k}-{s}-{n}" for n, (k, _, s) in enumerate(CASES)])
def test_verdicts(key: str, rows: list[dict], verdict: str) -> None:
    made_ = {claim.id: claim for claim in claims.judge_claims(summarize_blocks(rows, 0.5, 1.0), 0.5)}
    assert made_[key].stamp == verdict, made_[key].because


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        ("2", widths(SAME, spread=1.5) + contrast()),
        ("5", recall({"0": (8, 0), "1": (8, 3), "2": (8, 5)})),
        ("7b", widths(SAME, spread=8.0) + contrast()),
        ("7c", depth(BOTH, spread=30.0)),
    ],
)
def test_what_is_open_says_how_many_seeds_would_tell(key: str, rows: list[dict]) -> None:
    found = {claim.id: claim for claim in claims.judge_claims(summarize_blocks(rows, 0.5, 1.0), 0.5)}
    assert found[key].stamp == Stamp.UNDECIDED
    assert re.search(r"; about [\d,]+ (times the )?seeds would tell", found[key].because), found[key].because


def test_seeds_that_would_tell_do() -> None:
    found = summarize_blocks(recall({"0": (8, 0), "1": (8, 3), "2": (8, 5)}), 0.5, 1.0)["recall"]
    n = claims._count_seeds_to_tell({"recall": found})
    assert n is not None
    tests = sum(t["against"] == "0" for t in found["tests"])
    assert (
        tests * stats.fisher(round(5 * n / 8), n, 0, n)
        <= 0.05
        < tests * stats.fisher(round(5 * (n - 1) / 8), n - 1, 0, n - 1)
    )


def test_more_parameters_are_confirmed_where_it_is_so() -> None:
    rows = contrast()
    for w in (2, 4, 8, 16, 32):
        a, b = (100 - 60 / (w * f) + np.linspace(-0.2, 0.2, 6) for f in (3.0, 1.0))
        rows += made.model_rows("widths", {"all": a, "head": b}, width=w)
    found = {claim.id: claim for claim in claims.judge_claims(summarize_blocks(rows, 0.5, 1.0), 0.5)}
    assert found["7b"].stamp == Stamp.CONFIRMED


def test_what_was_not_run_says_how_to_run_it() -> None:
    found = claims.judge_claims({}, 0.5, "biasopt study --dataset mnist")
    assert {claim.stamp for claim in found} == {Stamp.NOT_RUN}
    assert found[1].because == "biasopt study --dataset mnist --blocks widths,contrast"


GOOD = exact() + contrast() + IDENTITY


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


@pytest.mark.parametrize(("majority", "valid"), [(10.0, True), (95.0, False)])
def test_nets_that_learned_nothing_say_nothing(majority: float, valid: bool) -> None:
    found = summarize_blocks(GOOD + widths(SAME), 0.5, 1.0)
    found["widths"]["majority"] = majority
    assert claims.is_valid(claims.run_checks(found)) is valid


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
