"""A certificate or a model that was changed does not pass: each kind of field, with and without a new seal."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from onnx import numpy_helper

from converter.referee.certificate import check_certificate
from converter.referee.proto.source import LoadedModel
from tests.referee.certificate.certified import at, certify, changed, leaves, moved, resealed
from tests.referee.verify.nets import mobile, plain

MODEL = plain()
DOCUMENT = certify(MODEL)
SOURCE = LoadedModel.open(MODEL)
LEAVES = [path for path in leaves(DOCUMENT) if path[:2] in (("steps", 0),) or path[0] != "steps"]
# What nothing but the author of a certificate can know: the seal alone protects it.
SAID = {"id", "pass", "version", "safety", "node", "output", "guards"}


def test_untouched() -> None:
    assert check_certificate(SOURCE, DOCUMENT).holds
    assert check_certificate(SOURCE, resealed(copy.deepcopy(DOCUMENT))).holds


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: "/".join(map(str, path)))
def test_no_field_can_be_changed(path: tuple[Any, ...]) -> None:
    if path == ("schema",):
        return  # is told apart when the file is read
    found = check_certificate(SOURCE, changed(DOCUMENT, path))
    assert not found.holds
    assert found.where
    assert found.failure


FACTS = [p for p in LEAVES if p[0] == "steps" and p[2] not in SAID | {"state", "check"}]


@pytest.mark.parametrize("path", FACTS, ids=lambda path: "/".join(map(str, path)))
def test_facts_cannot_be_changed_by_sealing_again(path: tuple[Any, ...]) -> None:
    found = check_certificate(SOURCE, resealed(changed(DOCUMENT, path)))
    assert not found.holds
    assert "step 1" in found.where or found.where == "output.digest"


@pytest.mark.parametrize("path", [("input", "digest"), ("output", "digest")])
def test_digests_cannot_be_changed_by_sealing_again(path: tuple[str, str]) -> None:
    found = check_certificate(SOURCE, resealed(changed(DOCUMENT, path)))
    assert found.where == ".".join(path)


COUNTS = [
    *(("input", "opset"), ("output", "opset"), ("output", "ir_version"), ("output", "nodes")),
    *(("summary", "steps"), ("summary", "recomputed"), ("steps", 0, "check", "numbers")),
    ("steps", 0, "check", "tensors", 0),
]


@pytest.mark.parametrize("path", COUNTS, ids=lambda path: "/".join(map(str, path)))
def test_what_is_counted_is_counted_again(path: tuple[Any, ...]) -> None:
    found = check_certificate(SOURCE, resealed(changed(DOCUMENT, path)))
    assert not found.holds
    assert str(path[-2] if path[-1] == 0 else path[0]) in found.where or "step 1" in found.where


def _numbers(document: Any) -> list[tuple[Any, ...]]:
    return [p[:-1] for p in leaves(document) if p[-1] == "f64" and p[2] == "edits"]


@pytest.mark.parametrize("k", range(len(_numbers(DOCUMENT))))
def test_a_factor_that_is_off_by_a_billionth(k: int) -> None:
    """Even if everything that follows from it is made to fit: the operands say otherwise."""
    path = _numbers(DOCUMENT)[k]
    damaged = changed(DOCUMENT, (*path, "f64"), moved(at(DOCUMENT, path), 2))
    found = check_certificate(SOURCE, resealed(damaged))
    assert not found.holds
    assert found.where.startswith(f"step {path[1] + 1} ")
    assert "follows from the operands" in found.failure


@pytest.mark.parametrize("how", ["drop", "swap", "repeat", "first", "none"])
def test_steps_that_are_missing_or_out_of_order(how: str) -> None:
    damaged = copy.deepcopy(DOCUMENT)
    steps = damaged["steps"]
    match how:
        case "drop":
            del steps[-1]
        case "first":
            del steps[0]
        case "swap":
            steps[0], steps[1] = steps[1], steps[0]
        case "repeat":
            steps.append(copy.deepcopy(steps[0]))
        case "none":
            steps.clear()
    assert not check_certificate(SOURCE, damaged).holds
    if how != "swap":  # independent folds may come in any order
        assert not check_certificate(SOURCE, resealed(damaged)).holds


@pytest.mark.parametrize("name", [t.name for t in MODEL.graph.initializer])
def test_another_original(name: str) -> None:
    model = plain()
    tensor = next(t for t in model.graph.initializer if t.name == name)
    value = numpy_helper.to_array(tensor).copy()
    value.reshape(-1)[-1] += 1e-6
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    found = check_certificate(LoadedModel.open(model), DOCUMENT)
    assert found.where == "input.digest"
    honest = copy.deepcopy(DOCUMENT)
    from converter.referee.proto.structural_hash import hash_model

    honest["input"]["digest"] = hash_model(LoadedModel.open(model))
    found = check_certificate(LoadedModel.open(model), resealed(honest))
    assert not found.holds  # the operands' digests, or for what no step touches that of the result
    assert found.where.startswith("step") or (name == "fc" and found.where == "output.digest")


def test_another_graph_around_the_same_tensors() -> None:
    model = plain()
    next(n for n in model.graph.node if n.op_type == "Conv").attribute[1].ints[:] = [2, 2]
    assert check_certificate(LoadedModel.open(model), DOCUMENT).where == "input.digest"
    assert check_certificate(LoadedModel.open(mobile()), DOCUMENT).where == "input.digest"


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d["steps"].__setitem__(0, 3),
        lambda d: d["steps"][0].pop("edits"),
        lambda d: d["steps"][0].__setitem__("edits", "none"),
        lambda d: d["steps"][0]["edits"].__setitem__(0, []),
        lambda d: d["steps"][0]["edits"][0].pop("value"),
        lambda d: d["steps"][0]["edits"][0]["value"].pop("dtype"),
        lambda d: d["steps"][0]["edits"][0]["value"].__setitem__("kind", "whole"),
        lambda d: d["steps"][0]["edits"][0]["value"]["base"].pop("kind"),
        lambda d: d["steps"][0]["edits"][0]["value"]["factors"][0].__setitem__("view", [3, 8, 3, 3]),
        lambda d: d["steps"][0]["edits"][0]["value"]["factors"][0].__setitem__("f64", "!"),
        lambda d: d["steps"][0]["edits"][0].__setitem__("slot", -1),
        lambda d: d["steps"][0]["edits"][0].__setitem__("slot", 10**9),
        lambda d: d["steps"][0].pop("check"),
        lambda d: d["steps"][0]["check"].__setitem__("recomputed", False),
        lambda d: d.pop("input"),
        lambda d: d.pop("output"),
        lambda d: d.__setitem__("steps", None),
        lambda d: d.__setitem__("frozen", "x"),
        lambda d: d["output"].__setitem__("metadata", {"license": "mine"}),
        lambda d: d["output"]["metadata"].__setitem__("biasopt.version", ["0.1.0"]),
        lambda d: d["steps"].__setitem__(-1, "x"),
        lambda d: d["steps"][0]["edits"][0].__setitem__("edit", {}),
        lambda d: d["steps"][0].__setitem__("guards", "all"),
        lambda d: d["steps"][0].__setitem__("pass", []),
        lambda d: d["steps"][0].pop("safety"),
    ],
)
@pytest.mark.parametrize("again", [False, True], ids=["as it is", "sealed again"])
def test_records_that_are_ill_formed(damage: Any, again: bool) -> None:
    damaged = copy.deepcopy(DOCUMENT)
    damage(damaged)
    if again and "input" in damaged and all(isinstance(s, dict) for s in damaged["steps"] or [None]):
        damaged = resealed(damaged)
    found = check_certificate(SOURCE, damaged)
    assert not found.holds
    assert "\n" not in found.failure
