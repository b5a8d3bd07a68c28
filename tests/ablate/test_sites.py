"""Which biases are looked at, where they stand, and what exact analysis says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter.ablate.ablate import open_model
from converter.ablate.sites import choose_sites
from converter.records.ablate import Role
from converter.referee.proto.copies import InputSlot, extract_outputs
from converter.referee.proto.source import LoadedModel
from converter.runtime import Session
from tests.ablate.made import chain, draw, images, layer, net_of
from tests.tiny import model

MODELS = Path(__file__).parents[2] / "models"


def roles(name: str) -> dict[str, str]:
    return {s.label: s.role.value for s in open_model(MODELS / name).found.sites}


def test_roles_of_a_chain() -> None:
    net, _ = net_of(chain())
    assert [s.role for s in net.sites] == [Role.FIRST, Role.INNER, Role.INNER, Role.HEAD]


def test_roles_of_a_mobilenet_after_its_batch_norms_are_folded() -> None:
    found = roles("digits_mobilenet.onnx")
    assert found["/0/Conv"] == "first"
    assert found["/12/Gemm"] == "head"
    assert sorted(n for n, role in found.items() if role == "depthwise") == [
        f"/{k}/body/body.3/Conv" for k in (3, 4, 5, 6)
    ]
    assert open_model(MODELS / "digits_mobilenet.onnx").folded == 14
    assert open_model(MODELS / "digits_mobilenet.onnx", folds=False).folded == 0


def test_fates_of_a_unet_are_those_of_exact_analysis() -> None:
    found = {s.label: s.fate.kind.value for s in open_model(MODELS / "digits_unet_in.onnx").found.sites if s.fate}
    assert [n for n, kind in found.items() if kind != "dead"] == [
        "/grow_bottom/ConvTranspose",
        "/grow_up/ConvTranspose",
        "/head/Conv",
    ]


def test_a_layer_that_is_an_output_itself_is_a_head() -> None:
    text = "(float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Gemm(x, w, b)  z = Gemm(y, w, c) }"
    net, _ = net_of(model(text, {"w": draw(3, 3), "b": draw(3, seed=1), "c": draw(3, seed=2)}))
    assert [s.role for s in net.sites] == [Role.HEAD, Role.HEAD]


@pytest.mark.parametrize(
    ("text", "consts", "why"),
    [
        (
            "(float[N,3] x) => (float[N,5] y) { y = Gemm(x, w, b) }",
            {"w": draw(3, 5), "b": draw(2, 5)},
            "not one number",
        ),
        (
            "(float[2,3] x, float[5] b) => (float[2,5] y) { y = Gemm(x, w, b) }",
            {"w": draw(3, 5), "b": draw(5)},
            "caller may replace",
        ),
    ],
)
def test_what_is_not_covered_says_why(text: str, consts: dict[str, np.ndarray], why: str) -> None:
    found = open_model(model(text, consts)).found
    assert not found.sites
    assert any(why in u.why for u in found.uncovered), found.uncovered


def test_gates_of_a_recurrent_layer_are_not_covered() -> None:
    found = open_model(MODELS / "digits_lstm.onnx").found
    assert [(u.op, "remembers" in u.why) for u in found.uncovered] == [("LSTM", True)]
    assert [s.role for s in found.sites] == [Role.HEAD]


def test_a_batch_norm_that_cannot_be_folded_is_named() -> None:
    text = "(float[N,3] x) => (float[N,3] y) { r = Relu(x)  y = BatchNormalization(r, g, be, m, v) }"
    consts = {"g": np.ones(3), "be": np.ones(3), "m": np.zeros(3), "v": np.ones(3)}
    found = open_model(model(text, {k: v.astype(np.float32) for k, v in consts.items()})).found
    assert [u.op for u in found.uncovered] == ["BatchNormalization"]


def test_names_are_labels_or_results() -> None:
    net, _ = net_of(chain())
    assert [s.y for s in choose_sites(net.sites, ["c", net.sites[0].label])] == ["c", "a"]
    with pytest.raises(ValueError, match="no bias is called 'nobody'"):
        choose_sites(net.sites, ["nobody"])


def test_scale_factors_of_a_gemm_are_part_of_what_it_does() -> None:
    net, _ = net_of(layer("Gemm", "transB=1,alpha=0.5,beta=2.0", (4, 7), (5, 7), 1))
    (site,) = net.sites
    assert site.shift.shape == (5,)
    np.testing.assert_allclose(site.shift, 2 * draw(1, seed=2)[0])


# -- feeding what is constant ----------------------------------------------------------------


def test_feeding_a_bias_is_the_same_as_storing_it() -> None:
    net, found = net_of(chain())
    x = images(4)
    stored = Session(found.source.proto.SerializeToString()).run({"x": x})["z"]
    tap = net.answers()
    np.testing.assert_allclose(tap.run({"x": x}, net.original)["z"], stored, atol=1e-6)
    zeroed = tap.run({"x": x}, net.original | net.without(net.sites[1]))["z"]
    proto = chain()
    for tensor in proto.graph.initializer:
        if tensor.name == "b2":
            tensor.raw_data = b"\0" * len(tensor.raw_data)
    np.testing.assert_allclose(zeroed, Session(proto.SerializeToString()).run({"x": x})["z"], atol=1e-6)


def test_a_copy_runs_only_what_is_needed() -> None:
    net, found = net_of(chain())
    content, inputs = extract_outputs(found.source, ["r"], [net.sites[0].bias_opening, net.sites[2].bias_opening])
    assert inputs == {"x", "biasopt/bias/0"}
    copy = LoadedModel.open(content).proto
    assert [n.op_type for n in copy.graph.node] == ["Conv", "Relu"]
    assert {t.name for t in copy.graph.initializer} == {"w1"}
    assert len(found.source.proto.graph.node) == 9


def test_an_opened_slot_leaves_the_other_readers_alone() -> None:
    text = "(float[N,3] x) => (float[N,3] z) { y = Gemm(x, w, b)  z = Gemm(y, w, b) }"
    found = open_model(model(text, {"w": draw(3, 3), "b": draw(3, seed=1)}))
    content, inputs = extract_outputs(found.source, ["z"], [InputSlot("z", 2, "new", 1, (3,))])
    assert inputs == {"x", "new"}
    x, w, b = draw(2, 3, seed=4), draw(3, 3), draw(3, seed=1)
    got = Session(content).run({"x": x, "new": np.zeros(3, np.float32)})["z"]
    np.testing.assert_allclose(got, (x @ w + b) @ w, atol=1e-5)
