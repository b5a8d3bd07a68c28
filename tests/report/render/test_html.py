from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from converter.records import FateKind, Latency, OutputCheck, Parity, Stage, Verdict
from converter.report import charts
from converter.report.documents import fold_document
from tests.report import made_evidence as made
from tests.report.made import FATES, SAID, declined, folded, html

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(1)>&amp;{{7*7}}\x1b[2J\u202e\ud800"""


def fold_page(bench: Latency | None = None, **changes: Any) -> str:
    result = folded(**({"fates": FATES, "parity": made.parity()} | changes))
    return html(fold_document(result, "9.9", argv=["fold", "net.onnx"], said=SAID, bench=bench))


def hostile() -> dict[str, Any]:
    """A document in which every name is out to break the page."""
    check = OutputCheck(HOSTILE, Verdict.FAIL, 9.0, 4.0, 1.0, detail={"e_pert": 1.0, HOSTILE: HOSTILE}, why=HOSTILE)
    stages = tuple(Stage(name, Verdict.FAIL, HOSTILE, (check, check)) for name in ("algebra", "local", HOSTILE))
    facts = replace(made.A, path=HOSTILE, nodes={HOSTILE: 3})
    machine = replace(made.MACHINE, machine={"cpu": HOSTILE}, versions={HOSTILE: HOSTILE}, provider_requested=HOSTILE)
    inputs = replace(made.INPUTS, shapes={HOSTILE: (1,)}, source=HOSTILE)
    parity = made.parity(
        verdict=Verdict.FAIL, stages=stages, a=facts, b=facts, warnings=(HOSTILE,), why=HOSTILE, blame=HOSTILE
    )
    parity = replace(parity, environment=machine, inputs=inputs, failing_inputs=HOSTILE)
    fates = (replace(FATES[1], node=HOSTILE, why=HOSTILE, where=HOSTILE), replace(FATES[0], where=HOSTILE))
    result = folded(parity=parity, fates=fates, findings=(declined("p", HOSTILE, HOSTILE, HOSTILE),), exit_code=1)
    latency = made.latency(why=HOSTILE, warnings=(HOSTILE,), design={"threads": HOSTILE})
    return fold_document(result, HOSTILE, argv=[HOSTILE], said={HOSTILE: HOSTILE}, bench=latency)


class Parser(HTMLParser):
    """Collects elements, attributes and text, and whether what opens is closed."""

    VOID = frozenset(("meta", "br", "img", "link", "input"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.text += f" {data}"


def text_of(page: str) -> str:
    return " ".join(Parser(page).text.split())


PAGES = {
    "verify": lambda: html(made.verify_json(bench=made.latency())),
    "failing": lambda: html(made.verify_json(made.failing())),
    "open": lambda: html(made.verify_json(made.undecided())),
    "bench": lambda: html(made.bench_json()),
    "slower": lambda: html(made.bench_json(made.latency(1.08))),
    "fold": fold_page,
    "fold, timed": lambda: fold_page(bench=made.latency()),
    "fold, unverified": lambda: fold_page(parity=None, fates=()),
    "bare": lambda: html(made.verify_json(Parity(Verdict.PASS, "D", scope="identical"))),
    "hostile": lambda: html(hostile()),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_asks_for_nothing(name: str) -> None:
    page = PAGES[name]()
    parsed = Parser(page)
    assert page.startswith("<!DOCTYPE html>")
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & set(parsed.tags)
    names = {attribute for attribute, _ in parsed.attributes}
    links = [value for attribute, value in parsed.attributes if attribute == "href"]
    assert all(f'id="{link.removeprefix("#")}"' in page for link in links)  # places of the page itself
    assert not {"src", "srcset", "action", "xlink:href"} & names
    assert not [attribute for attribute in names if attribute.startswith("on")]
    assert "url(" not in page
    assert "@import" not in page
    assert """content="default-src 'none'; style-src 'unsafe-inline'\"""" in page


def test_names_from_a_model_are_only_ever_text() -> None:
    page = PAGES["hostile"]()
    assert "<script" not in page
    assert "<img" not in page
    assert "{{7*7}}" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert page.encode("utf-8")
    assert text_of(page).count("<script>alert(1)</script>") > 10


@pytest.mark.parametrize(
    ("name", "tone", "sentence", "word"),
    [
        ("verify", "pass", "Same answers. Not slower.", "Pass"),
        ("failing", "fail", "Different answers.", "Fail"),
        ("open", "open", "Same outputs. Decisions could not be bounded.", "Inconclusive"),
        ("bench", "pass", "Not slower.", "Pass"),
        ("slower", "fail", "Slower.", "Fail"),
        ("fold", "pass", "Same answers.", "Pass"),
        ("fold, timed", "pass", "Same answers. Not slower.", "Pass"),
        ("fold, unverified", "skip", "Folded, but not checked.", "Not checked"),
    ],
)
def test_the_verdict_is_a_sentence_a_word_and_a_colour(name: str, tone: str, sentence: str, word: str) -> None:
    page = PAGES[name]()
    assert f'<div class="hero {tone}">' in page
    assert f"<h1>{sentence}</h1>" in page
    assert f'<dd class="word">{word}</dd>' in page
    assert re.search(rf"<title>{word}: [\w.]+</title>", page)


def test_a_fast_model_that_answers_otherwise_fails() -> None:
    page = html(made.verify_json(made.failing(), made.latency()))
    assert '<div class="hero fail">' in page
    slow = html(made.verify_json(made.parity(), made.latency(1.08)))
    assert '<div class="hero fail">' in slow
    assert "<h1>Same answers. Slower.</h1>" in slow


def test_a_fold_that_is_too_slow_says_that_nothing_was_written() -> None:
    page = fold_page(made.latency(1.08), exit_code=1, output=None)
    assert "<h1>Same answers. Slower.</h1>" in page
    assert "the outputs stay the same. No model was written." in text_of(page)
    assert "No model was written" not in text_of(fold_page())


def test_a_fold_tells_what_was_done_and_where_the_biases_went() -> None:
    said = text_of(fold_page())
    assert "3 rewrites took out 53 of 53 batch norms and 3 of 6 biases; the outputs stay the same." in said
    assert "nodes 122 was 175 (\u221253)" in said
    assert "fold-bn-into-conv 2 equal up to float rounding" in said
    assert "biases 3 was 6" in " ".join(said.split())
    assert "3 of 6 vectors go (50 %), 20 of 38 elements (53 %)" in said
    assert "absorbed 2 something further down that exists anyway takes it over" in said
    assert "conv1 → conv2" in said
    assert "blocked by Relu: it is not linear" in said
    assert "output-shared 2 another node reads it bn3, mul4" in said


def test_every_stage_says_what_it_proves_and_how_near_the_limit_it_came() -> None:
    said = text_of(PAGES["verify"]())
    for title in (
        "environment what was asked",
        "structure inputs,",
        "algebra float64",
        "local each rewrite on its own",
    ):
        assert title in said  # by the name that the command line has for it
    assert "logits 0.63 times what rounding explains, limit 4" in said
    assert "logits 0.95 times the original's own error, limit 3" in said
    assert "/layer2/Conv 0.28 times what is allowed, limit 1" in said


def test_the_worst_place_is_named_first() -> None:
    page = PAGES["failing"]()
    section = page.partition('id="layers"')[2]
    assert section.index("/layer2/Conv") < section.index("/layer51/Conv")
    assert "fill-fail" in section
    assert "First difference at" in text_of(page)


def test_latency_shows_blocks_interval_limit_and_control() -> None:
    page = PAGES["bench"]()
    assert page.count('class="point') == 20
    assert "interval: \u22120.698 % to +0.3 %" in page
    assert "limit +2 %" in text_of(page)
    assert "Control: A beside itself takes 1.001 x the time (0.997 to 1.005)" in text_of(page)
    assert "load 240 ms 199 ms first run" in text_of(page)


def test_blocks_that_lie_far_off_are_rings_and_do_not_shrink_the_rest() -> None:
    latency = made.latency()
    far = replace(latency.blocks[3], log_ratio=2.0)
    blocks = (*latency.blocks[:3], far, *latency.blocks[4:])
    page = html(made.bench_json(replace(latency, blocks=blocks)))
    assert page.count('class="point beyond"') == 1
    assert "Rings lie further off" in page
    assert "+2 %" in page
    assert "Rings lie further off" not in PAGES["bench"]()
    out = replace(latency.blocks[3], discarded=True)
    page = html(made.bench_json(replace(latency, blocks=(*latency.blocks, out))))
    assert "left out" in page


def test_runs_without_a_shape_give_way_to_the_blocks() -> None:
    spike = {"histogram": {"edges_ms": [40.0, 50.0, 60.0], "counts": [399, 1]}}
    latency = made.latency(a=made.timing(41.0, detail=spike), b=made.timing(41.0, detail=spike))
    assert "399 between" not in html(made.bench_json(latency))
    assert "the median of each block" in html(made.bench_json(latency))
    assert "How long each run took" in PAGES["bench"]()
    assert "A: 120 between 40.0 ms and 41.0 ms" in PAGES["bench"]().replace("\u00a0", " ")


def test_what_is_needed_to_see_it_again_is_there() -> None:
    said = text_of(PAGES["failing"]())
    assert "biasopt verify models/resnet50.onnx out/resnet50.folded.onnx" in said
    assert "sha256 " + "a" * 64 in said
    assert "Failing inputs out/failing.npz" in said
    assert "2 random (seed 0): input 1x3x224x224" in said
    assert "onnxruntime 1.32.0" in said
    assert "3 inputs gave numbers that are not finite in both models" in said


def test_what_is_missing_has_no_section() -> None:
    page = PAGES["fold, unverified"]()
    sections = re.findall(r'<section id="(\w+)">', page)
    assert sections == ["changes", "left", "again"]
    assert re.findall(r'<section id="(\w+)">', PAGES["bench"]()) == ["models", "latency", "again"]


def test_two_thousand_layers_are_drawn_and_listed_within_bounds() -> None:
    checks = made.places(2000, worst=0.9)
    page = html(made.verify_json(made.parity(stages=(Stage("local", Verdict.PASS, "", checks),))))
    assert "2,000 places" in text_of(page)
    assert "The worst 100 of 2,000; --verbose and the JSON report have all of them." in text_of(page)
    assert "/layer2/Conv: 0.9 of the limit (the worst of 9)" in page
    assert page.count("<rect") <= charts.COLUMNS + 60
    assert len(page) < 250_000


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 0.0, 1e300])
def test_scores_that_are_no_numbers_are_drawn_at_the_edge(score: float) -> None:
    check = OutputCheck("y", Verdict.FAIL, score, 4.0)
    page = html(
        made.verify_json(made.parity(verdict=Verdict.FAIL, stages=(Stage("algebra", Verdict.FAIL, "", (check,)),)))
    )
    widths = [float(width) for width in re.findall(r'width="([\d.]+)%"', page)]
    assert all(0 <= width <= 100 for width in widths)


def test_every_fate_has_a_colour_and_a_meaning() -> None:
    page = fold_page()
    for kind in FateKind:
        assert f".fate-{kind.value} " in page
