"""The torture driver: it runs, and it finds what is BAD."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.hostile.torture import Bench, kill, race

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the locks and signals of Linux"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("torture"), external=True, megabytes=0.2)


def test_a_fold_that_is_killed_leaves_a_whole_model(bench: Bench) -> None:
    assert kill(bench, 2, np.random.default_rng(3))["torn"] == 0
    assert not bench.bad


def test_folds_of_one_file_at_once(bench: Bench) -> None:
    assert race(bench, 1)["ended well"] >= 1
    assert not bench.bad


def test_what_is_torn_or_left_is_noticed(bench: Bench) -> None:
    bench.restore()
    (data,) = bench.place.glob("*.data")
    content = data.read_bytes()
    data.write_bytes(bytes(len(content)))
    assert bench.check("x") == "torn"
    data.write_bytes(content[:100])
    assert bench.check("x") == "torn"
    bench.restore()
    (bench.place / ".m.onnx.biasopt.tmp").touch()
    bench.check_strays("x")
    assert len(bench.bad) == 3
    bench.bad.clear()
