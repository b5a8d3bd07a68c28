"""Removal under a budget: what may go, what it is fitted and judged on, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter.ablate import removal
from converter.commands.fold import FoldResult, fold
from converter.commands.remove import remove_biases
from converter.errors import DataError, ModelError
from converter.isolation import IS_POSSIBLE
from converter.model.graph import load
from converter.records import FateKind, Safety, Verdict
from converter.report.content import Run
from converter.report.content.ablate import describe_removal
from converter.report.content.fold import fold_report
from converter.report.render.markdown import render_markdown
from converter.runtime import Session
from models import zoo
from tests.ablate.made import chain, data_of, draw, images, net_of
from tests.tiny import model

MODELS = Path(__file__).parents[2] / "models"


def digits() -> tuple[np.ndarray, np.ndarray]:
    train, test = zoo.digits()
    return np.concatenate([train.images, test.images]), np.concatenate([train.labels, test.labels])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("removal") / "out.onnx"
    image, _ = digits()
    return out, fold_and_remove(MODELS / "digits_mobilenet.onnx", out=out, inputs={"image": image}, budget=0.01)


def fold_and_remove(net: Any, *, out: Path | None = None, **asked: Any) -> FoldResult:
    """As `biasopt fold --allow remove-biases --no-verify` does: nothing exact is in question here."""
    return fold(net, out=out, verify=False, removal=asked)


@pytest.mark.skipif(not IS_POSSIBLE, reason="no fork on this system")
def test_a_child_process_finds_the_same(tmp_path: Path) -> None:
    image, _ = digits()
    here, there = tmp_path / "here.onnx", tmp_path / "there.onnx"
    asked = {"inputs": {"image": image[:600]}, "budget": 0.1}
    ours = fold_and_remove(MODELS / "digits_cnn_bn.onnx", out=here, **asked)
    theirs = fold_and_remove(MODELS / "digits_cnn_bn.onnx", out=there, isolated=True, **asked)
    assert ours.removed is not None
    assert theirs.removed is not None
    assert ours.rewrites == theirs.rewrites
    assert len(ours.removed.fits) > 0
    assert ours.removed.document() == theirs.removed.document()
    assert here.read_bytes() == there.read_bytes()


def biases_of(path: Path) -> int:
    return sum(n.op_type in ("Conv", "Gemm") and len(n.input) == 3 for n in onnx.load(path).graph.node)


def test_inner_biases_of_a_mobilenet_go_within_one_per_cent(written: tuple[Path, Any]) -> None:
    out, found = written
    assert found.exit_code == 0
    removed = found.removed
    assert removed.stage.status is Verdict.PASS
    assert len(removed.fits) == 5
    assert biases_of(out) == 6  # first, four depthwise, head
    assert {k.code for k in removed.kept} == {"first-layer", "depthwise-layer", "head-layer"}
    image, labels = digits()
    before = Session(MODELS / "digits_mobilenet.onnx").run({"image": image})["out"].argmax(1)
    after = Session(out).run({"image": image})["out"].argmax(1)
    assert (before == after).mean() > 0.99
    assert (after == labels).mean() > (before == labels).mean() - 0.005


def test_the_output_says_what_was_done(written: tuple[Path, Any]) -> None:
    out, found = written
    onnx.checker.check_model(onnx.load(out), full_check=True)
    known = {p.key: p.value for p in onnx.load(out).metadata_props}
    ours = [i for i in json.loads(known["biasopt.rewrites"]) if i.startswith("remove-biases@")]
    assert ours == [f"remove-biases@{f.site.label}" for f in found.removed.fits]
    assert {r.safety for r in found.removed.rewrites} == {Safety.ASSUMES}


def test_the_verdict_is_of_what_was_written_on_rows_that_nothing_saw(written: tuple[Path, Any]) -> None:
    out, found = written
    proposal = found.removed.proposal
    assert proposal.confirm is not None
    rows = proposal.confirm.rows
    assert rows is not None
    image = digits()[0][rows]
    before, after = (Session(m).run({"image": image})["out"] for m in (MODELS / "digits_mobilenet.onnx", out))
    (check,) = found.removed.stage.outputs
    assert check.detail["k"] == (before.argmax(1) != after.argmax(1)).sum()
    assert check.detail["n"] == len(rows) == proposal.rows[2]


def test_its_report_says_what_it_rests_on(written: tuple[Path, Any]) -> None:
    _, found = written
    document = json.loads(json.dumps(found.removed.document(), allow_nan=False))
    assert document["safety"] == "assumes"
    assert document["rows"] == {"calibrate": 359, "select": 359, "confirm": 1079}
    assert [r["node"] for r in document["removed"]] == [f.site.label for f in found.removed.fits]
    lines = describe_removal(found.removed.record, gone=True)
    assert lines[0].startswith("PASS: ")
    assert any("5 biases removed within 1 %" in line for line in lines)
    assert any("data like this" in line for line in lines)
    assert any(line.startswith("4 kept (depthwise-layer)") for line in lines)
    assert lines[-1].startswith("warning: the function changes off the data")


def test_off_the_data_it_warns(written: tuple[Path, Any]) -> None:
    _, found = written
    assert any("changes off the data" in w for w in found.removed.warnings)
    assert any(o.changes and "contrast" in o.said for o in found.removed.proposal.off)


def test_a_tenth_of_a_per_cent_needs_2995_rows_to_confirm(tmp_path: Path) -> None:
    image, _ = digits()
    out = tmp_path / "out.onnx"
    found = fold_and_remove(MODELS / "digits_mobilenet.onnx", out=out, inputs={"image": image}, budget=0.001)
    assert found.exit_code == 4
    assert "2,995" in found.removed.stage.why
    assert found.removed.proposal.needed == 4992  # of which 60 % confirm
    assert not found.removed.rewrites
    assert not list(tmp_path.iterdir())


def test_what_is_needed_is_enough() -> None:
    from converter.ablate.samples import split_rows

    for least, whole in ((2995, 4992), (29_956, 29_956 + sum(removal.MOST))):
        parts = split_rows(whole, 1, 0, removal.SHARES, removal.MOST)
        assert len(parts.confirm) >= least
        assert removal.needed_without_labels(0, 0, 0.001 if least == 2995 else 0.0001, 0.05) == least


def test_selection_is_given_nothing_of_what_confirms(monkeypatch: pytest.MonkeyPatch) -> None:
    """By construction: until the proposal stands, every row that is run belongs to the first two parts."""
    net, _ = net_of(chain())
    data = data_of(net.source, {"x": images(600)})
    parts = removal.split_rows(600, 1, 0, removal.SHARES, removal.MOST)
    allowed, seen = set(parts.calibrate) | set(parts.select), set()
    from converter.ablate import samples

    honest = samples.Part.batches

    def watched(part: samples.Part) -> Any:
        assert part.rows is not None
        seen.update(int(r) for r in part.rows)
        return honest(part)

    monkeypatch.setattr(samples.Part, "batches", watched)
    monkeypatch.setattr(data, "batches", _only(data.batches, allowed, net))
    found = removal.propose(net, net.sites[1:3], (), data, removal.Budget(share=0.05))
    assert found.stage is None or found.stage.status is Verdict.SKIPPED
    assert seen <= allowed
    assert not seen & set(parts.confirm)


def _only(batches: Any, allowed: set[int], net: Any) -> Any:
    """Data whose other rows are poison: had any of them a part in a fit, it would fail."""

    def poisoned() -> Any:
        for batch in batches():
            feeds = {n: v.copy() for n, v in batch.feeds.items()}
            for k in range(batch.rows):
                if batch.first + k not in allowed:
                    feeds["x"][k] = np.nan
            yield type(batch)(feeds, batch.first, batch.rows, batch.labels)

    return poisoned


def test_confirm_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    honest = removal.run_decisions
    monkeypatch.setattr(removal, "run_decisions", lambda *given: calls.append(1) or honest(*given))
    found = fold_and_remove(chain(), inputs={"x": images(700)}, budget=0.2)
    assert calls == [1]
    assert found.removed.stage.id == "decision"


def odd() -> onnx.ModelProto:
    """Inputs of mean zero: nothing can imitate the inner bias, and it matters."""
    text = """(float[N,6] x) => (float[N,5] z) { h = Gemm(x, w, b)  t = Tanh(h)  i = Gemm(t, v, c)  u = Tanh(i)
     z = Gemm(u, o, d) }"""
    consts = {"w": draw(6, 8), "b": 0 * draw(8), "v": draw(8, 8), "c": 2 * draw(8), "o": draw(8, 5), "d": draw(5)}
    return model(text, consts)


def test_a_budget_that_nothing_meets_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    found = fold_and_remove(odd(), out=out, inputs={"x": draw(900, 6)}, budget=0.01)
    assert found.removed.stage.status is Verdict.SKIPPED
    assert found.exit_code == 0
    assert [k.code for k in found.removed.kept if k.code == "over-budget"] == ["over-budget"]
    assert not found.removed.rewrites
    assert out.exists()  # what folds exactly was folded


def test_greedy_selection_takes_the_cheap_ones_only() -> None:
    """Two inner layers: one whose inputs have a mean, one whose inputs have none."""
    text = """(float[N,6] x) => (float[N,5] z) { a = Gemm(x, w, b)  r = Relu(a)  f = Gemm(r, v, c)  t = Tanh(f)
     i = Gemm(t, k, e)  u = Tanh(i)  z = Gemm(u, o, d) }"""
    consts = {"w": draw(6, 64), "b": draw(64), "v": draw(64, 8) / 4, "c": draw(8), "k": draw(8, 8, seed=3)}
    consts |= {"e": 2 * draw(8, seed=3), "o": draw(8, 5), "d": draw(5)}
    found = fold_and_remove(model(text, consts), inputs={"x": draw(2000, 6)}, budget=0.05)
    assert [f.site.y for f in found.removed.fits] == ["f"]
    assert [k.node for k in found.removed.kept if k.code == "over-budget"] == ["gemm_i"]
    assert found.removed.proposal.tried == 2


def test_keep_and_also() -> None:
    image, _ = digits()
    ask: dict[str, Any] = {"inputs": {"image": image}, "budget": 0.05}
    found = fold_and_remove(MODELS / "digits_cnn_bn.onnx", keep=["/3/Conv"], also=["first"], **ask).removed
    assert [f.site.label for f in found.fits] == ["/0/Conv", "/7/Conv"]
    assert {k.node: k.code for k in found.kept} == {"/3/Conv": "asked-to-keep", "/12/Gemm": "head-layer"}
    with pytest.raises(ValueError, match="no bias is called"):
        fold_and_remove(MODELS / "digits_cnn_bn.onnx", keep=["nobody"], **ask)
    with pytest.raises(ValueError, match="budget"):
        fold_and_remove(MODELS / "digits_cnn_bn.onnx", **(ask | {"budget": 1.0}))


@pytest.mark.parametrize("opset", [9, 17])
def test_gemm_and_matmul_lose_their_biases(opset: int, tmp_path: Path) -> None:
    text = """(float[N,6] x) => (float[N,5] z) { h = Gemm(x, w, b)  r = Relu(h)  m = MatMul(r, v)  i = Add(m, c)
     s = Relu(i)  j = Gemm<transB=1,alpha=0.5,beta=3.0>(s, k, e)  t = Relu(j)  z = Gemm(t, o, d) }"""
    consts = {"w": draw(6, 40), "b": draw(40), "v": draw(40, 30) / 6, "c": draw(30), "k": draw(24, 30), "e": draw(24)}
    consts |= {"o": draw(24, 5), "d": draw(5)}
    out = tmp_path / "o.onnx"
    found = fold_and_remove(
        model(text, consts, opset=opset), out=out, inputs={"x": draw(1500, 6)}, budget=0.3, also=["i", "j"]
    )
    assert found.exit_code == 0, found.removed.stage.why
    assert [f.site.y for f in found.removed.fits] == ["i", "j"]
    graph = onnx.load(out).graph
    ops = [n.op_type for n in graph.node]
    assert "Add" not in ops
    gemm = next(n for n in graph.node if "j" in n.output)
    held = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    assert len(gemm.input) == 2 if opset > 9 else not held[gemm.input[2]].any()  # C is required before 11
    # what was measured is what was written
    x = draw(50, 6, seed=9)
    net, _ = net_of(model(text, consts, opset=opset))
    fed = dict(net.original)
    for fit in found.removed.fits:
        site = next(s for s in net.sites if s.label == fit.site.label)
        fed |= net.weights(site, fit.weight, 0 * site.bias)
    np.testing.assert_allclose(Session(out).run({"x": x})["z"], net.answers().run({"x": x}, fed)["z"], atol=1e-4)


def test_a_failure_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A selection that believed its own data too much is caught by the rows that it never saw."""
    monkeypatch.setattr(removal, "SLACK", 1e9)
    out = tmp_path / "out.onnx"
    found = fold_and_remove(odd(), out=out, inputs={"x": draw(900, 6)}, budget=0.01)
    assert found.removed.stage.status is Verdict.FAIL
    assert found.exit_code == 1
    assert not list(tmp_path.iterdir())
    # what was tried is told as that, and not among what was done
    assert found.removed.rewrites
    assert not [rewrite for rewrite in found.rewrites if rewrite.pass_name == "remove-biases"]
    assert FateKind.REMOVED not in {fate.kind for fate in found.fates}
    assert found.after == fold(odd(), verify=False).after
    assert "would have been removed" in "\n".join(found.removal["said"])
    page = render_markdown(fold_report(found, {}, Run(), found.removal["said"]))
    assert "`remove-biases`" not in page
    assert "Removal by data" in page
    assert "Removed by data" not in page
    assert "took out" not in page


def test_labels_judge_accuracy_and_not_agreement() -> None:
    image, labels = digits()
    found = fold_and_remove(MODELS / "digits_cnn_bn.onnx", inputs={"image": image}, labels=labels, budget=0.01)
    (check,) = found.removed.stage.outputs
    assert check.detail["metric"] == "top1"
    assert check.status is Verdict.PASS


def test_numbers_cannot_be_counted() -> None:
    _, test = zoo.digits()
    noisy = np.concatenate([test.noisy] * 4)
    with pytest.raises(DataError, match="decides between no classes"):
        fold_and_remove(MODELS / "digits_unet_in.onnx", inputs={"image": noisy}, budget=0.05)


def test_an_existing_output_stays(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"mine")
    with pytest.raises(ModelError, match="exists already"):
        fold_and_remove(chain(), out=out, inputs={"x": images(100)}, budget=0.2)
    assert out.read_bytes() == b"mine"


def test_the_same_seed_gives_the_same_bytes() -> None:
    ask: dict[str, Any] = {"inputs": {"x": images(400)}, "budget": 0.2}
    assert fold_and_remove(chain(), **ask).to_bytes() == fold_and_remove(chain(), **ask).to_bytes()


def test_the_graph_of_the_caller_is_what_is_changed() -> None:
    graph = load(chain())
    found = remove_biases(graph, chain(), inputs={"x": images(700)}, budget=0.3)
    gone = {f.site.label for f in found.fits}
    assert gone
    assert {n.label for n in graph.nodes() if n.is_op("Conv") and n.tensor_in(2) is None} == gone


def test_what_an_output_says_must_stay_also_where_no_decision_changes() -> None:
    from converter.ablate.removal import judge_changes, measure_changes
    from converter.records import Stage, Verdict

    rng = np.random.default_rng(0)
    z = 50 + rng.standard_normal((2400, 2))  # a level that all rows share says nothing
    pairs = [({"z": z[k : k + 600], "aux": z[k : k + 600, :1]}, {"z": z[k : k + 600] + 0.7, "aux": z[k : k + 600, :1]})
             for k in range(0, 2400, 600)]  # fmt: skip
    found = measure_changes(pairs)
    assert abs(found["z"].share - 0.49) < 0.05
    assert found["aux"].share == 0
    stage = judge_changes(Stage("decision", Verdict.PASS, "0 of 2,400 decided differently"), found, 1e-3)
    assert stage.status is Verdict.FAIL
    assert "of what 'z' says" in stage.why
    fine = judge_changes(Stage("decision", Verdict.PASS, "none"), measure_changes([(pairs[0][0], pairs[0][0])]), 1e-3)
    assert (fine.status, fine.detail["variance_gone"]) == (Verdict.PASS, {"z": 0.0, "aux": 0.0})
