"""The pages in a real browser: nothing sticks out at phone and desktop width, in both colour schemes."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.records import Stage, Verdict
from tests.report import made_evidence as made
from tests.report.browser import Browser, browser  # noqa: F401  (a fixture)
from tests.report.made import html
from tests.report.render.test_html import PAGES, fold_page

pytestmark = pytest.mark.slow

LONG = "/features/" + "a_very_long_name_of_a_module/" * 12 + "Conv"


def long_names() -> str:
    checks = made.places(2000, worst=0.9)
    renamed = tuple(type(check)(LONG + check.name, check.status, check.score, check.limit) for check in checks)
    facts = type(made.A)(LONG + ".onnx", "a" * 64, 10**12, 8, 17, {LONG: 10**6})
    parity = made.parity(stages=(Stage("local", Verdict.PASS, LONG * 2, renamed),), a=facts, b=facts, warnings=(LONG,))
    return html(made.verify_json(parity, made.latency(1.01, 0.03)))


TALL = {**PAGES, "fold, all": lambda: fold_page(bench=made.latency()), "long": long_names}


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["fold, all", "failing", "slower", "hostile", "long"])
def test_nothing_sticks_out(browser: Browser, name: str, width: int) -> None:  # noqa: F811
    found = browser.measure(TALL[name](), width)
    assert found["client"] == width
    assert found["scroll"] <= width, found["out"]
    assert found["out"] == []
    assert found["small"] == 0
    assert all(chart > 150 for chart in found["charts"])


def test_the_measure_sees_what_sticks_out(browser: Browser) -> None:  # noqa: F811
    wide = TALL["bench"]().replace("<footer>", '<footer><p style="width:700px">wide</p>')
    found = browser.measure(wide, 360)
    assert found["scroll"] > 360
    assert "wide" in found["out"][0]


def test_both_colour_schemes_are_there(browser: Browser) -> None:  # noqa: F811
    light, dark = (browser.measure(TALL["bench"](), 800, dark=scheme) for scheme in (False, True))
    assert light["background"] == "rgb(246, 247, 248)"
    assert dark["background"] == "rgb(17, 22, 27)"
    assert light["ink"] != dark["ink"]


def test_no_request_leaves_the_page(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    page = tmp_path / "report.html"
    page.write_text(TALL["fold, all"](), encoding="utf-8")
    assert browser.asked(page) == []
    leaking = tmp_path / "leaking.html"
    leaking.write_text('<img src="http://127.0.0.1:9/x.png">', encoding="utf-8")
    assert browser.asked(leaking) == ["http://127.0.0.1:9/x.png"]  # the check sees what there is
