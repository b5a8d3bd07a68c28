"""What the page says and draws beyond the verdict: how latency was measured, maps of differences, grades."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

from converter.records import OutputCheck, Verdict
from converter.report import charts
from converter.report.serialize import dumps
from tests.report import made_evidence as made
from tests.report.made import html
from tests.report.render.test_html import PAGES, text_of


def test_blocks_that_were_left_out_are_grey_and_do_not_count() -> None:
    latency = made.latency()
    out = replace(latency.blocks[3], log_ratio=2.0, discarded=True)
    page = html(made.bench_json(replace(latency, blocks=(*latency.blocks, out))))
    assert page.count('class="point out"') == 1
    assert "Grey ones were left out" in page
    assert "Rings lie further off" not in page  # far off, but left out
    assert "20 blocks; 1 block left out and made again" in text_of(page)


def test_no_two_places_of_an_axis_have_one_number() -> None:
    counts = [5, 20, 30, 20, 10]
    spread = {"histogram": {"edges_ms": [0.02510 + 0.00002 * k for k in range(6)], "counts": counts}}
    timing = made.timing(0.02514, detail=spread)
    drawn = charts.draw_spread(made.latency(a=timing, b=timing))
    labels = re.findall(r'class="tick"[^>]*>([^<]+)<', str(drawn))
    assert len(labels) >= 3
    assert len(set(labels)) == len(labels)


def test_how_it_was_measured_says_load_end_and_extremes() -> None:
    design = {
        "unit": "session",
        "units": 5,
        "stopped": "time",
        "seconds": 118.2,
        "load": {"ratio": 0.62, "low": 0.58, "high": math.inf},
        "robustness": {"outliers": 1, "trimmed_ratio": 0.999, "median_ratio": 0.997},
    }
    said = text_of(html(json.loads(dumps(made.bench_json(made.latency(design=design))))))
    assert "Rests on 20 blocks in 5 sessions, which differ more than their blocks do" in said
    assert "Loading B takes 0.620 x the time of A (0.580 to inf)" in said
    assert "Extremes 1 block far from the rest; without the extremes 0.999 x the time, the middle block 0.997 x" in said
    assert "Ended when the time was over, after 118 s" in said


def test_outputs_that_agree_are_not_called_undecided_for_want_of_inputs() -> None:
    stages = (*made.parity().stages, made.decision(Verdict.INCONCLUSIVE, 500))
    page = html(made.verify_json(made.parity(verdict=Verdict.INCONCLUSIVE, level="B", stages=stages)))
    said = text_of(page)
    assert "Same outputs. Decisions could not be bounded." in said
    assert "Outputs the same Decisions not bounded" in said
    weak = html(made.verify_json(made.parity(verdict=Verdict.INCONCLUSIVE, level="C", stages=stages)))
    assert "Could not be decided." in text_of(weak)


def test_a_difference_needs_no_grade_of_evidence() -> None:
    assert "How strong is this evidence?" not in PAGES["failing"]()
    assert "How strong is this evidence?" in PAGES["open"]()


def test_differences_by_size_are_a_map() -> None:
    found = {"low": -16.0, "step": 0.5, "counts": [0] * 40, "zeros": 0}
    found["by_size"] = {"low": -10.0, "cells": [[18, 18, 8], [20, 20, 900], [20, 30, 1]]}
    drawn = charts.draw_heat(found, "by size")
    assert drawn is not None
    assert "900 elements of size 1e0 to 1e0.5: 1e-6 to 1e-5.5 apart" in drawn[1]
    assert [drawn[1].count(f'"heat heat-{shade}"') for shade in range(1, 6)] == [1, 1, 0, 0, 1]
    assert ">1e-1<" in drawn[0]  # the one far above the others
    assert charts.draw_heat({"low": -16.0, "step": 0.5, "counts": []}, "old document") is None


def test_no_bar_is_red_below_its_limit() -> None:
    checks = [OutputCheck("y", Verdict.FAIL, score, 1.0, why="a tolerance does not hold") for score in (0.4, 3.0)]
    assert ["fill-fail" in charts.draw_bullet(c.score or 0.0, 1.0, c.status) for c in checks] == [False, True]
    drawn = charts.draw_layers(checks, 1.0)
    assert drawn is not None
    assert drawn[1].count("fill-fail") == 1
    assert charts.draw_bullet(float("nan"), 1.0, Verdict.FAIL).count("fill-fail") == 1
