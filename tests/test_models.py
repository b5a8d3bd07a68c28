"""The models of models/: as zoo.toml says, free of this machine's traces, and buildable."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from models import zoo

pytestmark = pytest.mark.slow

ENTRIES = zoo.read()
IDS = [entry["recipe"] for entry in ENTRIES]
each_model = pytest.mark.parametrize("entry", ENTRIES, ids=IDS)

TRACES = re.compile(rb"/(home|tmp|work|usr|root|opt|Users|var)/|[A-Za-z]:\\|\.py\b|site-packages|stack_trace")
"""What a path of the machine that exported the file would hold."""


def text_of(model):
    """Return the model's bytes without its numbers, in which anything can occur."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        tensor.ClearField("raw_data")
    return bare.SerializeToString()


@each_model
def test_file_is_what_the_zoo_says(entry):
    file = zoo.HERE / entry["file"]
    facts = zoo.facts(file)
    assert facts == {key: entry[key] for key in facts}
    assert facts["bytes"] < 500_000


def test_zoo_lists_every_file_and_stays_small():
    files = sorted(zoo.HERE.glob("*.onnx"))
    assert [file.name for file in files] == sorted(entry["file"] for entry in ENTRIES)
    assert sum(file.stat().st_size for file in files) < 3_000_000


@each_model
def test_file_holds_no_trace_of_a_machine(entry):
    assert TRACES.search(text_of(onnx.load(zoo.HERE / entry["file"]))) is None


@pytest.mark.parametrize("text", [b'File "/usr/lib/python3/x', b"nets.py", b"C:\\Users", b"/tmp/x"])
def test_traces_would_be_seen(text):
    assert TRACES.search(b"..." + text + b"...")


@each_model
def test_metric_is_reproduced(entry):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    got = zoo.measure(zoo.HERE / entry["file"], entry["metric"])
    assert abs(got - entry["value"]) <= zoo.tolerance()


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e["metric"] == "accuracy"], ids=lambda e: e["recipe"])
def test_classifier_has_learnt(entry):
    assert entry["value"] >= 0.95


@each_model
def test_batch_size_is_free(entry):
    session = ort.InferenceSession(str(zoo.HERE / entry["file"]), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    (together,) = session.run(None, {"image": images})
    alone = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


@each_model
def test_parameters_are_trained(entry):
    """No BatchNorm has its first statistics or scale, no bias vector is all zero."""
    graph = onnx.load(zoo.HERE / entry["file"]).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            scale, shift, mean, var = (values[name] for name in node.input[1:])
            assert (scale != 1).all()
            assert (var != 1).all()
            assert shift.any()
            assert mean.any()
        elif node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) > 2:
            assert node.input[2] not in values or values[node.input[2]].any()


def test_zeros_of_bias_free_convolutions_are_computed():
    """The one model whose bias inputs are no initializers, which is what it is there for."""
    graph = onnx.load(zoo.HERE / "digits_cnn_plain_bn.onnx").graph
    stored = {tensor.name for tensor in graph.initializer}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convs) == 3
    assert all(node.input[2] and node.input[2] not in stored for node in convs)


def test_split_is_fixed_and_balanced():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    train, test = zoo.digits()
    assert (len(train.labels), len(test.labels)) == (1540, 257)
    assert test.labels[:8].tolist() == [3, 0, 7, 4, 9, 8, 3, 7]
    assert np.bincount(test.labels).min() >= 23
    assert 0 <= test.images.min() < test.images.max() <= 1


def test_check_sees_a_changed_file(tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    for file in [*zoo.HERE.glob("*.onnx"), zoo.HERE / "zoo.toml", zoo.HERE / "README.md"]:
        shutil.copy(file, tmp_path)
    assert zoo.check(tmp_path) == []
    model = onnx.load(tmp_path / "digits_cnn_bn.onnx")
    head = next(tensor for tensor in model.graph.initializer if tensor.name == model.graph.node[-1].input[1])
    head.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(head), head.name))
    onnx.save(model, tmp_path / "digits_cnn_bn.onnx")
    (tmp_path / "digits_lstm.onnx").rename(tmp_path / "stray.onnx")
    found = "\n".join(zoo.check(tmp_path))
    for part in (
        "stray.onnx: not in",
        "digits_lstm.onnx: missing",
        "digits_cnn_bn.onnx: sha256",
        "bn.onnx: accuracy is",
    ):
        assert part in found


@pytest.fixture(scope="module")
def recipes():
    pytest.importorskip("torch", reason="recipes build torch modules", exc_type=ImportError)
    from models import recipes

    return recipes


def test_every_recipe_has_an_entry(recipes):
    want = [(r.name, r.metric, r.exporter, r.opset, r.text) for r in recipes.RECIPES]
    assert want == [(e["recipe"], e["metric"], e["exporter"], e["opset"], e["description"]) for e in ENTRIES]


@each_model
def test_recipe_builds_and_exports(entry, recipes):
    """Untrained: as many BatchNorms and biases as in the file that is here, and no path."""
    pytest.importorskip("onnxscript", reason="torch's dynamo exporter needs it")
    recipe = next(r for r in recipes.RECIPES if r.name == entry["recipe"])
    model = recipes.export(recipe, recipe.build().eval())
    assert zoo.count_bn(model) == entry["batch_norms"]
    assert zoo.count_biases(model) == entry["biases"]
    assert TRACES.search(text_of(model)) is None


def test_seeded_build_repeats(recipes):
    for recipe in recipes.RECIPES:
        states = []
        for _ in range(2):
            recipes.torch.manual_seed(0)
            states.append(recipe.build().state_dict())
        assert all(recipes.torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_runs_as_a_script_from_elsewhere(recipes, tmp_path):
    done = subprocess.run(
        [sys.executable, str(Path(recipes.__file__)), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--check" in done.stdout
