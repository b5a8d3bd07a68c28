"""Random models in which biases travel fold with equal outputs; BIASOPT_FUZZ=1000 looks at that many of them."""

from __future__ import annotations

import math
import os

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import converter
from converter.rewrite.bias_flow.rules import RULES
from tests.rewrite.bias_flow.judge import LINEAR, assert_same
from tests.rewrite.bias_flow.random_flow import Flowing, flowing
from tests.rewrite.bias_flow.random_parts import ENDS, LAYERS, STARTS

pytestmark = pytest.mark.slow

N_EXAMPLES = int(os.environ.get("BIASOPT_FUZZ", "80"))
fuzz = settings(
    max_examples=N_EXAMPLES,
    deadline=None,
    derandomize="BIASOPT_FUZZ" not in os.environ,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
models = flowing(STARTS, LAYERS, ENDS)
PASSES = (
    "drop-bias-before-instance-norm",
    "drop-attention-key-bias",
    "sink-attention-value-bias",
    "sink-bias",
    "merge-parallel-biases",
)


def n_shifts(proto: onnx.ModelProto) -> int:
    """Biases, sums and batch norms."""
    biased = sum(len(n.input) > 2 for n in proto.graph.node if n.op_type in LINEAR)
    return biased + sum(n.op_type in ("Add", "Sub", "BatchNormalization") for n in proto.graph.node)


@fuzz
@given(models)
def test_outputs_stay_the_same(case: Flowing) -> None:
    result = converter.fold(case.model, verify=False, allow_growth=math.inf)
    assert_same(case.model, result.model, case.feeds, tol=1e-9, least=1.0)


@fuzz
@given(models)
def test_there_are_never_more_shifts(case: Flowing) -> None:
    """Of bias flow alone, never more bias vectors; of all passes, biases, norms and sums together."""
    alone = converter.fold(case.model, verify=False, only=PASSES, allow_growth=math.inf)
    assert alone.after.biases <= alone.before.biases
    result = converter.fold(case.model, verify=False, allow_growth=math.inf)
    assert n_shifts(result.model) <= n_shifts(case.model)
    assert len(result.model.graph.node) <= len(case.model.graph.node)


@fuzz
@given(models)
def test_folding_again_changes_nothing(case: Flowing) -> None:
    once = converter.fold(case.model, verify=False, allow_growth=math.inf).model
    again = converter.fold(once, verify=False, allow_growth=math.inf)
    assert [rewrite.id for rewrite in again.rewrites] == []
    assert again.model.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


@fuzz
@given(models)
def test_no_file_becomes_larger(case: Flowing) -> None:
    """By default; and what was left for that is left the second time, too."""
    once = converter.fold(case.model, verify=False)
    assert len(once.to_bytes()) <= case.model.ByteSize()
    assert not converter.fold(once.model, verify=False).rewrites


@fuzz
@given(models, st.integers(0, 3))
def test_stopping_early_keeps_outputs(case: Flowing, n: int) -> None:
    result = converter.fold(case.model, verify=False, stop_after=n, allow_growth=math.inf)
    assert_same(case.model, result.model, case.feeds, tol=1e-9, least=1.0)


def test_random_models_cover_what_they_promise() -> None:
    """Most operators of the table, and the passes have something to do."""
    operators: set[str] = set()
    acted: set[str] = set()

    @settings(fuzz, max_examples=600, derandomize=True)
    @given(models)
    def collect(case: Flowing) -> None:
        operators.update(n.op_type for n in case.model.graph.node)
        acted.update(r.pass_name for r in converter.fold(case.model, verify=False, allow_growth=math.inf).rewrites)

    collect()
    assert len(set(RULES) & operators) >= 40
    assert set(PASSES) - acted <= {"merge-parallel-biases"}  # rare here
