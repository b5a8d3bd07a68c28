"""``biasopt ablate`` as a user meets it: on models of the zoo, in every form, and where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter.ablate import statistics
from converter.commands.ablate import score_biases as ablate
from converter.errors import BiasoptError, DataError, ModelError, RuntimeUnavailable
from converter.report import save, serialize
from converter.report.content import ablate as ablate_content
from converter.report.serialize import ablate_of, dumps
from models import zoo
from tests.ablate.made import chain, draw, images
from tests.tiny import model

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def mobilenet() -> dict[str, Any]:
    _, test = zoo.digits()
    found = ablate(
        MODELS / "digits_mobilenet.onnx", inputs={"image": test.images}, labels=test.labels, probe=["contrast", "noise"]
    )
    return found.document(["ablate", "m.onnx", "--data", "d.npz"])


def by_node(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {b["node"]: b for b in document["biases"]}


def test_a_mobilenet_is_ranked_usefully(mobilenet: dict[str, Any]) -> None:
    found, order = by_node(mobilenet), [b["node"] for b in mobilenet["biases"]]
    assert len(order) == 15
    # the first layer and the depthwise ones matter, the head hardly, the linear bottlenecks are merged exactly
    assert order[0] == "/0/Conv"
    assert {found[n]["class"] for n in order if found[n]["role"] in ("first", "depthwise")} == {"ESSENTIAL"}
    assert found["/12/Gemm"]["effect"]["difference"] > -0.02
    assert sorted(n for n in order if found[n]["class"] == "REDUNDANT") == [
        f"/{k}/body/body.6/Conv" for k in (3, 4, 5, 6)
    ]
    assert found["/0/Conv"]["effect"]["difference"] < -0.3
    assert found["/0/Conv"]["p_holm"] < 1e-10
    # nothing to average over: depthwise layers cannot imitate their biases, wide ones after a ReLU can
    assert min(found[n]["r_held_out"] for n in order if found[n]["role"] == "depthwise") > 0.3
    assert found["/5/body/body.6/Conv"]["r_held_out"] < 0.03


def test_the_list_is_in_the_order_of_what_was_measured(mobilenet: dict[str, Any]) -> None:
    effects = [b["effect"] for b in mobilenet["biases"]]
    costs = [(-e["difference"], e["relative_error"]) for e in effects]
    assert costs == sorted(costs, reverse=True)


def test_all_at_once_and_off_the_data(mobilenet: dict[str, Any]) -> None:
    found = {v["name"]: v["effect"] for v in mobilenet["variants"]}
    assert found["zero-all"]["accuracy_after"] < 0.3
    assert found["zero-inner"]["accuracy_after"] < 0.6 < found["head-corrected"]["accuracy_after"] < 0.9
    assert found["compensate-inner"]["difference"] > -0.02
    assert found["compensate-inner"]["kl"] < found["head-corrected"]["kl"] < found["zero-inner"]["kl"]
    dark = next(p for p in mobilenet["probes"] if p["amount"] == 0.25)
    assert dark["effects"]["original"]["accuracy_after"] < 0.3
    assert dark["effects"]["compensate-all"]["accuracy_after"] > 0.85  # what has no bias sees no contrast
    assert "compensate-all" in dark["changes"]
    assert any("contrast" in w for w in mobilenet["warnings"])
    assert [p["kind"] for p in mobilenet["probes"]] == ["contrast"] * 4 + ["noise"]


def test_a_unet_shows_which_biases_are_dead() -> None:
    _, test = zoo.digits()
    document = ablate(MODELS / "digits_unet_in.onnx", inputs={"image": test.noisy[:64]}).document()
    found = by_node(document)
    dead = [n for n, b in found.items() if b["class"] == "DEAD"]
    assert len(dead) == 5
    assert all(found[n]["effect"]["relative_error"] < 1e-5 for n in dead)  # measured as proven
    assert found["/head/Conv"]["class"] == "ESSENTIAL"
    assert found["/grow_up/ConvTranspose"]["class"] == "COMPENSABLE"
    # weights that imitated a dead bias would only do harm
    assert [f["node"] for f in document["fits"]] == ["/grow_bottom/ConvTranspose", "/grow_up/ConvTranspose"]
    assert {v["name"]: v["biases"] for v in document["variants"]} == {
        "zero-all": 8,
        "zero-inner": 2,
        "compensate-inner": 2,
    }


def test_weights_in_place_of_each_bias_are_measured(mobilenet: dict[str, Any]) -> None:
    found = by_node(mobilenet)
    assert all(b["imitated"]["rows"] == 129 for b in found.values())  # the rows that nothing was fitted on
    assert found["/3/body/body.6/Conv"]["imitated"]["relative_error"] < 0.05
    assert found["/0/Conv"]["imitated"]["relative_error"] > 0.4
    # foretold within a factor of three of what was measured, where it is more than noise
    pairs = [(b["predicted_error_compensated"], b["imitated"]["relative_error"]) for b in found.values()]
    assert all(1 / 3 < a / b < 3 for a, b in pairs if b > 0.005)


def test_first_order_effects_foretell_measured_ones(mobilenet: dict[str, Any]) -> None:
    pairs = [(b["predicted_error"], b["effect"]["relative_error"]) for b in mobilenet["biases"]]
    assert all(0.6 < a / b < 1.6 for a, b in pairs)
    assert np.corrcoef(np.log(pairs).T)[0, 1] > 0.97


def test_every_form_holds_every_bias_and_no_raw_markup(mobilenet: dict[str, Any], tmp_path: Path) -> None:
    save.save_reports(mobilenet, tmp_path, ["json", "md", "html", "text"])
    for form in ("md", "html", "txt"):
        content = (tmp_path / f"report.{form}").read_text(encoding="utf-8")
        flat = "".join(content.split())
        assert "".join(ablate_content.headline(ablate_of(mobilenet)).split()) in flat
        assert all(b["node"] in flat for b in mobilenet["biases"])
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == json.loads(dumps(mobilenet))
    assert max(map(len, (tmp_path / "report.txt").read_text(encoding="utf-8").splitlines())) <= 80
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert "<script" not in page
    with pytest.raises(BiasoptError, match="no junit of it"):
        save.check_formats(["junit"])


def test_names_from_a_model_are_no_markup(tmp_path: Path) -> None:
    proto = chain()
    for node in proto.graph.node:
        node.name = f"<b>{node.output[0]}</b>|x"
    document = ablate(proto, inputs={"x": images(32)}).document()
    assert "<b>a</b>" not in save.render_document(document, "html")
    assert "`<b>a</b>\\|x` (first)" in save.render_document(document, "md")


def test_the_same_data_and_seed_give_the_same_document() -> None:
    first, second = (ablate(chain(), inputs={"x": images(48)}, probe=["noise"], seed=3).document() for _ in range(2))
    assert first == second
    other = ablate(chain(), inputs={"x": images(48)}, probe=["noise"], seed=4).document()
    assert other["variants"] != first["variants"]


def test_memory_changes_how_but_not_what() -> None:
    """A few layers a run, data read again and again, and the same scores."""
    whole = by_node(ablate(chain(), inputs={"x": images(48)}).document())
    small = by_node(ablate(chain(), inputs={"x": images(48)}, max_memory=50_000, compensate=False).document())
    for node, bias in whole.items():
        assert bias["r"] == pytest.approx(small[node]["r"])
        assert bias["ratio"] == pytest.approx(small[node]["ratio"])
        assert bias["effect"]["relative_error"] == pytest.approx(small[node]["effect"]["relative_error"])


def test_the_document_holds_the_record_by_its_schema() -> None:
    found = ablate(chain(), inputs={"x": images(48)}, probe=["noise"])
    document = json.loads(dumps(found.document()))
    serialize.convert(document, serialize.AblateDocument)
    assert vars(serialize.ablate_of(document)) == vars(found)


def test_where_time_runs_out_it_is_said() -> None:
    document = ablate(chain(), inputs={"x": images(200)}, max_time=1e-9).document()
    assert document["rows"]["measured"] == 16  # what was begun was finished
    assert any("--max-time" in w for w in document["warnings"])
    assert all(b["effect"]["rows"] == 16 for b in document["biases"])


def test_one_bias_alone_and_an_unknown_one() -> None:
    document = ablate(chain(), inputs={"x": images(32)}, only=["c"]).document()
    assert [b["node"] for b in document["biases"]] == ["conv_c"]
    with pytest.raises(ValueError, match="no bias is called 'nobody'"):
        ablate(chain(), inputs={"x": images(32)}, only=["nobody"])
    with pytest.raises(ValueError, match="no probe"):
        ablate(chain(), inputs={"x": images(32)}, probe=["heat"])


def test_a_layer_that_cannot_be_recomputed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = statistics.explain_mismatch
    monkeypatch.setattr(statistics, "explain_mismatch", lambda s, x, y: "misread" if s.y == "c" else honest(s, x, y))
    document = ablate(chain(), inputs={"x": images(64)}).document()
    found = by_node(document)
    assert (found["conv_c"]["class"], found["conv_c"]["why"]) == ("UNKNOWN", "misread")
    assert [f["node"] for f in document["fits"]] == ["conv_e"]


def test_outputs_that_are_all_the_same_are_told() -> None:
    same = np.repeat(images(1), 40, axis=0)
    assert any("nearly the same for every row" in w for w in ablate(chain(), inputs={"x": same}).document()["warnings"])
    usual = ablate(chain(), inputs={"x": images(40) * np.linspace(0.1, 3, 40, dtype=np.float32)[:, None, None, None]})
    assert not any("nearly the same" in w for w in usual.document()["warnings"])


def test_numbers_for_people() -> None:
    shown = [ablate_content.number(v) for v in (None, 0.0, 1e-12, 0.0004, 0.0123, 0.5, 12.3, 1234.5)]
    assert shown == ["\u2014", "0", "0", "4e-4", "0.012", "0.5", "12", "1,234"]
    assert [ablate_content.share(v) for v in (None, 0.0, 1e-7, 0.0012, 0.5)] == [
        "\u2014",
        "0 %",
        "0 %",
        "0.12 %",
        "50.0 %",
    ]
    assert [ablate_content.points(v) for v in (None, -0.123, 0.0)] == ["\u2014", "\u221212.3", "+0.0"]


def test_labels_may_come_with_the_samples(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(
        "import numpy as np\n"
        "def rows():\n"
        "    for k in range(30):\n"
        "        yield {'x': np.random.default_rng(k).random((1, 1, 8, 8), np.float32)}, k % 10\n"
    )
    document = ablate(chain(), inputs=f"{tmp_path / 'data.py'}:rows").document()
    assert document["labelled"]
    assert document["inputs"]["labelled"]
    assert "difference" in document["biases"][0]["effect"]


@pytest.mark.cuda
def test_on_cuda_the_scores_are_the_same() -> None:
    there, here = (by_node(ablate(chain(), inputs={"x": images(64)}, provider=p).document()) for p in ("cuda", "cpu"))
    for node, bias in here.items():
        assert there[node]["effect"]["relative_error"] == pytest.approx(bias["effect"]["relative_error"], rel=1e-3)


def test_without_cuda_nothing_runs_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeUnavailable, match="CUDA"):
        ablate(chain(), inputs={"x": images(16)}, provider="cuda")


def test_the_schema_is_what_its_number_says(mobilenet: dict[str, Any]) -> None:
    """A new key is no new number; a key that goes or changes is."""
    assert set(mobilenet) == {
        *("schema", "tool", "exit_code", "warnings", "model", "inputs", "seed", "folded_batch_norms", "output", "rows"),
        *(
            "labelled",
            "classes",
            "biases",
            "variants",
            "fits",
            "probes",
            "findings",
            "note",
            "uncovered",
            "repro",
            "question",
        ),
    }
    assert set(mobilenet["biases"][0]) == {
        *("node", "op", "role", "class", "why", "fate", "channels", "inputs_per_output", "groups", "ratio"),
        *("ratio_largest", "constant_channels", "r", "r_held_out", "r_fitted", "r_is_bound", "r_method", "rows"),
        *(
            "positions",
            "predicted_error",
            "predicted_error_compensated",
            "effect",
            "imitated",
            "p_holm",
            "problem",
            "per_channel",
        ),
    }
    assert set(mobilenet["biases"][0]["effect"]) == {
        *("rows", "relative_error", "agreement", "kl", "accuracy_before", "accuracy_after", "gained", "lost"),
        *("difference", "low", "high", "mcnemar_p"),
    }


def test_a_model_without_biases_has_nothing_to_say() -> None:
    proto = model("(float[N,3] x) => (float[N,5] y) { y = MatMul(x, w) }", {"w": draw(3, 5)})
    document = ablate(proto, inputs={"x": draw(40, 3)}).document()
    assert document["biases"] == []
    assert ablate_content.headline(ablate_of(document)) in save.render_document(document, "text")
    assert "no bias" in save.render_document(document, "html")


@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE])
def test_other_precisions(dtype: int) -> None:
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    text = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.DOUBLE: "double"}[dtype]
    graph = f"({text}[N,6] x) => ({text}[N,4] y) {{ h = Gemm(x, w, b)  r = Relu(h)  y = Gemm(r, v, c) }}"
    consts = {"w": draw(6, 9), "b": draw(9), "v": draw(9, 4), "c": draw(4)}
    proto = model(graph, {k: v.astype(kind) for k, v in consts.items()})
    document = ablate(proto, inputs={"x": draw(80, 6)}).document()
    assert [b["problem"] for b in document["biases"]] == [None, None]
    assert all(b["effect"]["relative_error"] > 0 for b in document["biases"])


def test_bad_data_is_one_line() -> None:
    with pytest.raises(DataError, match="not finite"):
        ablate(chain(), inputs={"x": np.full((8, 1, 8, 8), np.nan, np.float32)})
    with pytest.raises(DataError, match="'y' is not an input"):
        ablate(chain(), inputs={"x": images(8), "y": images(8)})
    with pytest.raises(DataError, match="is not an output of the model"):
        ablate(chain(), inputs={"x": images(8)}, output="nothing")
    with pytest.raises((DataError, ModelError)):
        ablate(chain(), inputs={"x": draw(8, 3, 8, 8)})
