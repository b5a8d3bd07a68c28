"""Stamps do not flip: the committed rows drawn anew, seed by seed, say the same; a slow machine and --quick agree."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from converter.records.study import Stamp
from converter.report.docs import ROOT
from converter.study import claims, plan
from converter.study.results import summarize_blocks

DOCUMENT = json.loads((ROOT / "docs" / "study" / "report.json").read_text(encoding="utf-8"))
ROWS: list[dict[str, Any]] = DOCUMENT["rows"]
SHARE = DOCUMENT["facts"]["test"] / DOCUMENT["facts"]["train"]
_ARMS = ("bias", "input", "weight_decay", "rate", "filters", "forget_bias")  # what differs between arms of one seed
_PLACE = ("width", "depth", "norm", "task", "lag", "removed", "residual", "optimiser")


def judge(rows: Sequence[Mapping[str, Any]]) -> dict[str, Stamp]:
    found = summarize_blocks(rows, DOCUMENT["margin"], SHARE)
    return {claim.id: claim.stamp for claim in claims.judge_claims(found, DOCUMENT["margin"])}


def draw_again(rng: np.random.Generator) -> list[dict[str, Any]]:
    """As many seeds of each part as it has, drawn from its own with replacement: another study of the same size."""
    places: dict[tuple[Any, ...], dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    made = []
    for row in ROWS:
        if row["block"] == "exact":
            made.append(row)
        else:
            places[row["block"], *(row.get(key) for key in _PLACE)][row["seed"]].append(row)
    # The same seeds at every width and depth of a block, which are compared with each other by seed.
    order: dict[tuple[str, int], Any] = {}
    for (block, *_), by_seed in places.items():
        seeds = sorted(by_seed)
        drawn = order.setdefault((block, len(seeds)), rng.integers(0, len(seeds), len(seeds)))
        made += [row | {"seed": k} for k, index in enumerate(drawn) for row in by_seed[seeds[index]]]
    return made


def test_the_committed_rows_are_those_of_the_plan() -> None:
    wanted = Counter[str]()
    for job in plan.plan_jobs(plan.StudyScope()):
        if job.kind == "train":
            wanted[job.block] += len(job.seeds) * len(job.variants)
    got = Counter(row["block"] for row in ROWS if not row.get("removed"))
    assert {block: got[block] for block in wanted} == dict(wanted)
    assert DOCUMENT["run"]["not_run"] == []


def test_what_the_report_concludes_is_concluded_from_its_rows() -> None:
    from converter.study.docs import conclude

    bare = DOCUMENT | {"results": {}, "claims": [], "checks": [], "warnings": [], "limits": []}
    assert conclude(bare) == DOCUMENT


def test_the_committed_stamps_are_derived_from_the_committed_rows() -> None:
    assert judge(ROWS) == {claim["id"]: claim["stamp"] for claim in DOCUMENT["claims"]}


@pytest.mark.slow
def test_studies_of_the_same_size_give_the_same_stamps() -> None:
    wanted, count = judge(ROWS), Counter[str]()
    for k in range(20):
        found = judge(draw_again(np.random.default_rng([k, 16])))
        count.update(key for key, stamp in found.items() if stamp == wanted[key])
    assert {key: n for key, n in count.items() if n < 19} == {}


@pytest.mark.parametrize("blocks", [3, 5, 8])
def test_a_slow_machine_has_fewer_stamps_and_no_other(blocks: int) -> None:
    wanted = judge(ROWS)
    done = list(plan.BLOCKS)[:blocks]
    found = judge([row for row in ROWS if row["block"] in done])
    assert {key: stamp for key, stamp in found.items() if stamp not in (wanted[key], Stamp.NOT_RUN)} == {}
    assert Stamp.NOT_RUN in found.values()


def test_a_quick_study_has_fewer_stamps_and_no_other() -> None:
    """The quick plan's rows are among those of the whole: fewer widths, lags and seeds."""
    wanted, kept = judge(ROWS), []
    for job in plan.plan_jobs(plan.StudyScope(quick=True)):
        for row in ROWS:
            same = row["block"] == job.block and row.get("lag", 0) == job.lag and row.get("width", 0) == job.width
            if same and row.get("seed", 0) in job.seeds and row not in kept:
                kept.append(row)
    kept += [row for row in ROWS if row["block"] == "exact" and row not in kept]
    found = judge(kept)
    assert {key: stamp for key, stamp in found.items() if stamp not in (wanted[key], Stamp.NOT_RUN)} == {}
    assert {found[key] for key in ("2", "5")} <= {wanted["2"], wanted["5"]}
