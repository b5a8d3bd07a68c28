"""Every rule of the table, against its operator in float64."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from converter.records import EffectKind
from converter.rewrite import bias_flow
from converter.rewrite.bias_flow.rules import RULES, propagate
from converter.rewrite.bias_flow.shift import Block, Cancel, Propagate, Shift
from converter.rewrite.passes import reasons
from tests.rewrite.bias_flow.rules.cases import CASES
from tests.rewrite.bias_flow.rules.cases_elementwise import PLAIN
from tests.rewrite.bias_flow.rules.cases_traps import TRAPS
from tests.rewrite.bias_flow.rules.one_node import Case, axes_of, holds, is_felt, sets_of
from tests.rewrite.bias_flow.rules.values import X3, ints, some

by_case = pytest.mark.parametrize("case", CASES, ids=[case.label for case in CASES])


def test_every_operator_of_the_table_has_cases() -> None:
    assert {case.op for case in CASES} == set(RULES)


@by_case
def test_what_a_rule_says_is_what_happens(case: Case) -> None:
    """For a shift along every set of axes, its value known or its axes only."""
    for varying in case.patterns():
        shifts = case.shifts(varying)
        seen = case.measured(shifts)
        for blind in (False, True):
            wrong = holds(case.asked(shifts, blind), seen)
            assert not wrong, f"along {sorted(varying)}, {'axes' if blind else 'value'} known: {wrong}"


@by_case
def test_rules_let_through_what_they_can(case: Case) -> None:
    said = {v: case.asked(case.shifts(v)) for v in case.patterns()}
    assert {v for v, outcome in said.items() if isinstance(outcome, Propagate)} == sets_of(case.carry)
    assert {v for v, outcome in said.items() if isinstance(outcome, Cancel)} == sets_of(case.gone)


@pytest.mark.parametrize("case", felt := [c for c in CASES if c.felt], ids=[c.label for c in felt])
def test_a_stop_has_a_reason(case: Case) -> None:
    for varying in sets_of(case.felt):
        shifts = case.shifts(varying)
        outcome = case.asked(shifts)
        assert isinstance(outcome, Block)
        assert outcome.code
        assert outcome.why
        assert is_felt(case, shifts), f"along {sorted(varying)}"


@pytest.mark.parametrize("case", TRAPS, ids=[case.label for case in TRAPS])
def test_axes_and_sums_that_come_and_go(case: Case) -> None:
    """The operator changes the number of axes, or sums over an axis of the other factor."""
    for varying in case.patterns():
        shifts = case.shifts(varying)
        for blind in (False, True):
            wrong = holds(case.asked(shifts, blind), case.measured(shifts))
            assert not wrong, f"along {sorted(varying)}, {'axes' if blind else 'value'} known: {wrong}"


@pytest.mark.parametrize("case", [case for case in PLAIN if "-" in case.carry], ids=lambda case: case.label)
def test_the_judge_sees_a_wrong_claim(case: Case) -> None:
    """A wrong value, a wrong number of axes and a shift that is said to be gone."""
    shifts = case.shifts(axes_of("-"))
    outcome, seen = case.asked(shifts), case.measured(shifts)
    assert isinstance(outcome, Propagate)
    assert not holds(outcome, seen)
    shift = outcome.shifts[0]
    if shift.value is None:  # only the axes are known
        assert holds(Propagate({0: Shift.of_value(np.ones((1,) * shift.rank))}), seen)
        return
    assert holds(Propagate({0: Shift.of_value(shift.value * 1.001)}), seen)
    assert holds(Propagate({0: shift.of_rank(shift.rank + 1)}), seen)
    assert holds(Cancel(EffectKind.NORM, ""), seen)


# ---- shifts of one form -------------------------------------------------------------------------

FORMS = [
    ("DCR", np.tile([0.5, -1.0], 4), [0.5, -1.0]),
    ("CRD", np.repeat([0.5, -1.0], 4), [0.5, -1.0]),
    ("DCR", np.repeat([0.5, -1.0], 4), None),
    ("CRD", np.tile([0.5, -1.0], 4), None),
]


@pytest.mark.parametrize(("mode", "channels", "out"), FORMS)
def test_depth_to_space_with_phases_alike(mode: str, channels: np.ndarray, out: list[float] | None) -> None:
    case = Case(f'y = DepthToSpace<blocksize = 2, mode = "{mode}">(x)', {"x": (1, 8, 2, 3)})
    shifts = {0: channels.reshape(1, 8, 1, 1)}
    outcome = case.asked(shifts)
    assert not holds(outcome, case.measured(shifts))
    if out is None:
        assert isinstance(outcome, Block)
    else:
        assert isinstance(outcome, Propagate)
        assert outcome.shifts[0].value is not None
        assert outcome.shifts[0].value.reshape(-1).tolist() == out


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize(("channels", "gone"), [([0.5, 0.5, -1, -1], True), ([0.5, -1, 0.5, -1], False)])
def test_groups_shifted_alike(channels: list[float], gone: bool, opset: int) -> None:
    n = 2 if opset == 18 else 4
    case = Case(
        "y = GroupNormalization<num_groups = 2>(x, s, b)",
        {"x": (2, 4, 3, 2), "s": some(n), "b": some(n)},
        opset=opset,
    )
    shifts = {0: np.reshape(channels, (1, 4, 1, 1))}
    outcome = case.asked(shifts)
    assert isinstance(outcome, Cancel) == gone
    assert not holds(outcome, case.measured(shifts))
    assert is_felt(case, shifts) != gone


@pytest.mark.parametrize("node", ["y = Sum(x, x)", "y = Concat<axis = 0>(x, x)", "y = Sub(x, c)", "y = Mul(x, c)"])
def test_masked_entries_may_meet_only_what_leaves_them(node: str) -> None:
    """Minus infinity stays under a sum with a finite shift; elsewhere it may become not a number."""
    case = Case(node, {**X3, "c": some(4)})
    masked = replace(Shift.of_value(np.full((1, 1, 1), 0.5)), masked=True)
    outcome = propagate(case.facts, case.node, {i: masked for i, n in enumerate(case.node_proto.input) if n == "x"})
    assert isinstance(outcome, Block)
    assert outcome.code == "masked"


@pytest.mark.parametrize("opset", [11, 17])
def test_a_mask_of_minus_infinity_reaches_softmax(opset: int) -> None:
    """Entries that are minus infinity are not moved; softmax takes no notice of the others' shift."""
    c = np.random.default_rng(0).random((2, 3, 4)) < 0.6
    c[..., 0] = True
    case = Case(
        "y = Where(c, x, f)", {"c": (2, 3, 4), **X3, "f": np.array(-np.inf)}, slots=(1,), feeds={"c": c}, opset=opset
    )
    shifts = case.shifts(axes_of("01"))
    outcome = case.asked(shifts)
    assert isinstance(outcome, Propagate)
    assert outcome.shifts[0].masked
    ((_, moved),) = case.measured(shifts)
    wanted = np.where(c, np.broadcast_to(shifts[1], c.shape), 0)
    assert np.abs(moved - wanted).max() < 1e-12
    after = Case("y = Softmax<axis = 2>(x)", X3, opset=opset)
    assert isinstance(propagate(after.facts, after.node, {0: outcome.shifts[0]}), Cancel)


def test_a_mask_must_be_infinite_everywhere() -> None:
    fill = np.array([-np.inf, -np.inf, -9.0, -np.inf])
    c = np.ones((2, 3, 4), bool)
    case = Case("y = Where(c, x, f)", {"c": (2, 3, 4), **X3, "f": fill}, slots=(1,), feeds={"c": c})
    assert isinstance(case.asked(case.shifts(axes_of("-"))), Block)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_old_broadcasting_stops(op: str) -> None:
    case = Case(f"y = {op}(x, c)", {**X3, "c": some(2, 3, 4)}, opset=6)
    outcome = case.asked(case.shifts(axes_of("-")))
    assert isinstance(outcome, Block)
    assert outcome.code == "opset"


OTHERS = ["Relu(x)", "Sigmoid(x)", "Erf(x)", "Exp(x)", "LpNormalization(x)", "NonZero(x)", "GRU(x, w, r)"]


@pytest.mark.parametrize("node", OTHERS)
def test_other_operators_stop(node: str) -> None:
    case = Case(f"y = {node}", {**X3, "w": some(1, 6, 4), "r": some(1, 6, 2)})
    assert case.op not in RULES
    assert isinstance(case.asked(case.shifts(axes_of("-"))), Block)


def test_an_operator_of_several_outputs_stops() -> None:
    case = Case("y, i = TopK(x, k)", {**X3, "k": ints(1)}, types=(TensorProto.DOUBLE, TensorProto.INT64))
    assert case.op not in RULES
    assert isinstance(case.asked(case.shifts(axes_of("-"))), Block)


def test_an_operator_of_another_domain_stops() -> None:
    case = Case("y = Identity(x)", X3)
    case.model.graph.node[0].domain = "com.example"
    case.model.opset_import.append(helper.make_opsetid("com.example", 1))
    assert isinstance(case.asked(case.shifts(axes_of("-"))), Block)


def test_what_is_only_known_at_run_time_stops() -> None:
    """Sizes, places and axes that a caller gives may be anything."""
    for case in (
        Case("y = Slice(x, b, e)", {**X3, "b": (3,), "e": (3,)}, feeds={"b": ints(0, 0, 1), "e": ints(2, 2, 3)}),
        Case("y = Pad(x, p)", {**X3, "p": (6,)}, feeds={"p": ints(0, 0, 0, 0, 0, 0)}),
        Case("y = Tile(x, s)", {**X3, "s": (3,)}, feeds={"s": ints(1, 1, 2)}),
        Case("y, z = Split<axis = 2>(x, s)", {**X3, "s": (2,)}, feeds={"s": ints(1, 3)}),
        Case("y = ReduceMean(x, a)", {**X3, "a": (1,)}, feeds={"a": ints(2)}, opset=18),
    ):
        outcome = case.asked(case.shifts(axes_of("012")))
        assert isinstance(outcome, Block), case.label


# ---- words for people ---------------------------------------------------------------------------


def test_every_code_that_blocks_is_in_the_catalogue() -> None:
    """And the catalogue has no code that nothing gives."""
    folder = Path(bias_flow.__file__).parent
    used = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
                used.add(node.value)
            match node:
                case ast.Call(ast.Name("Block"), [ast.Constant(str(code)), *_]):
                    assert code in reasons.MEANINGS, f"{path.name}: {code}"
    assert set(reasons.FLOW) <= used


def test_every_kind_of_propagation_has_a_clause_of_its_own() -> None:
    plain = {kind: Propagate({}, kind).how for kind in EffectKind}
    said = [how for how in plain.values() if how]
    assert len(said) == len(set(said)) == 5
    assert Propagate({}, EffectKind.UNNORMALIZED, "after Where (P)").how == "after Where (P)"
