"""The study of verdicts: its pairs are what they are said to be, and a sample of them is judged rightly."""

from __future__ import annotations

import numpy as np
import pytest

from converter.records import Verdict
from tests.benchmarks import verdicts
from tests.benchmarks.verdict_bugs import BUGS, UNREACHED
from tests.benchmarks.verdict_nets import NETS
from tests.benchmarks.verdicts import Answer, Pair

SAMPLE = [
    *(Pair("mlp", change, True) for change in ("channels equalised", "more exact")),
    Pair("cnn", "numbered, folded", True),
    *(Pair("audio", change, True) for change in ("onnxruntime basic", "output dims resolved", "folded in float32")),
    *(Pair("squeeze", change, True) for change in ("channels permuted", "batch norm neutral", "pool as mean")),
    *(Pair("integers", change, False) for change in ("upper bound left out", "remainder of negatives")),
    *(Pair("transformer", change, False) for change in ("row 217 of a table", "channel of a weight x1.003")),
    *(Pair("branches", change, False) for change in ("rare bias x2", "threshold of an If +20")),
    *(Pair("detector", change, False) for change in ("scores 7 % off", "one score 7 % off")),
]


@pytest.mark.parametrize("pair", SAMPLE, ids=str)
def test_a_sample_is_judged_rightly(pair: Pair) -> None:
    answer = verdicts.judge(pair, 0)
    assert answer is not None, "there is no such pair"
    assert not verdicts.is_wrong(answer), answer.why
    said = answer.said["biasopt verify"]
    assert said in (("PASS",) if pair.same else ("FAIL",) if pair.change not in UNREACHED else ("FAIL", "INCONCLUSIVE"))


def test_there_are_as_many_pairs_as_the_page_says() -> None:
    pairs = list(verdicts.list_pairs(list(NETS), []))
    built = [p for p in pairs if not p.same and verdicts.build(p) is not None]
    assert len(built) >= 150
    assert sum(p.change in UNREACHED for p in built) >= 30
    assert {p.net for p in built} == NETS.keys()


@pytest.mark.parametrize("name", ["cnn", "logic", "dead-unit"])
def test_a_net_is_the_same_each_time(name: str) -> None:
    first, second = (NETS[name](5).SerializeToString() for _ in range(2))
    assert first == second
    assert NETS[name](6).SerializeToString() != first


def test_the_table_counts_what_is_wrong() -> None:
    same, bug = Pair("mlp", "renamed", True), Pair("mlp", next(iter(BUGS)), False)
    answers = [
        Answer(pair, seed, dict.fromkeys(verdicts.METHODS, said), "", 0.1)
        for seed in (0, 1)
        for pair, said in ((same, "FAIL"), (bug, "PASS"))
    ]
    assert all(verdicts.is_wrong(a) for a in answers)
    made = verdicts.markdown(answers, ["onnxslim"])
    assert "| biasopt verify | 2 | 0 | 2 | 0 | 0 |" in made
    assert "Without onnxslim, not installed." in made
    lines: list[str] = []
    assert not verdicts._report(answers, lines.append)
    assert sum(line.startswith("WRONG") for line in lines) == 4


def test_the_usual_tolerances_say_what_they_say() -> None:
    x = np.float32([1.0, 2.0, 3.0])
    assert verdicts._within_polygraphy(x, x + np.float32(5e-6))
    assert not verdicts._within_polygraphy(x, x + np.float32(1e-3))
    assert verdicts._has_cosine(x, 2 * x)
    assert not verdicts._has_cosine(x, -x)
    pair = Pair("mlp", "Relu left out", False)
    answer = verdicts.judge(pair, 1)
    assert answer is not None
    assert answer.said == dict.fromkeys(("biasopt verify", "np.allclose", "Polygraphy", "cosine"), Verdict.FAIL.value)
