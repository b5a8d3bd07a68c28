"""Folds of this tool's own are proved, whatever the seed; one damaged number is found in any of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import converter
from converter.records import Parity, Verdict
from converter.referee.verify import compare
from tests.benchmarks.verdict_nets import NETS
from tests.cases.case import Case, Want
from tests.cases.rows import ROWS
from tests.referee.verify import nets
from tests.referee.verify.test_comparison import BUGS

# These need a run: a function that is called twice, float16 whose epsilon underflows, a cast that asks for a type.
_NOT_PROVED = {
    "function-called-twice",
    "cast-like-same-between",
    "fp16-var-0-eps-1e-8",
    "fp16-eps-underflows-everywhere",
}
CASES = [case for case in ROWS if case.want is Want.FOLD and case.id not in _NOT_PROVED]
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def judge(a: ModelProto, b: ModelProto, seed: int = 0) -> Parity:
    return compare(a, b, seed=seed, made_here=True)


def fold(case: Case) -> tuple[ModelProto, ModelProto]:
    """A row's model and its fold, which may grow: a weight that others read too is written once more."""
    model = case.build()
    result = converter.fold(model, **{"verify": False, "allow_growth": math.inf} | case.options)
    assert result.rewrites, case.id
    return model, onnx.load_from_string(result.to_bytes())


def list_new(a: ModelProto, b: ModelProto) -> Iterator[TensorProto]:
    """The float constants that a fold has written, of which some number is not zero."""
    old = {t.name: numpy_helper.to_array(t).tobytes() for t in a.graph.initializer}
    for tensor in b.graph.initializer:
        value = numpy_helper.to_array(tensor)  # an older onnx gives bfloat16 as float32 or as bits: not what is stored
        real = value.dtype.kind != "u" and tensor.data_type in _FLOATS
        stored = real and helper.np_dtype_to_tensor_dtype(value.dtype) == tensor.data_type
        if stored and old.get(tensor.name) != value.tobytes() and value.any():
            yield tensor


def damage(model: ModelProto, name: str, how: str, rng: np.random.Generator) -> ModelProto:
    """A copy with one number two units in the last place off, of the other sign, or with the whole constant gone.

    In float64, in which the referee itself computes with error bounds, it is 256 units.
    """
    copy = onnx.load_from_string(model.SerializeToString())
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    value = numpy_helper.to_array(tensor).copy()
    flat = value.reshape(-1)
    at = rng.choice(np.flatnonzero(flat))
    if how == "gone":
        flat[...] = 0
    elif how == "sign":
        flat[at] = -flat[at]
    else:
        away = value.dtype.type(-np.inf if flat[at] < 0 else np.inf)
        for _ in range(256 if value.dtype == np.float64 else 2):
            flat[at] = np.nextafter(flat[at], away)
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    return copy


@pytest.mark.parametrize("case", CASES[::9], ids=str)
def test_a_fold_is_proved(case: Case) -> None:
    parity = judge(*fold(case))
    assert (parity.verdict, parity.level) == (Verdict.PASS, "P")


def has_new(case: Case) -> bool:
    """Whether there is a number to damage: a fold may only leave something out, or write into a branch."""
    try:
        return any(list_new(*fold(case)))
    except Exception:  # the test meets it again, and says so
        return True


@pytest.mark.parametrize("case", [case for case in CASES[3::15] if has_new(case)], ids=str)
def test_a_damaged_number_fails(case: Case) -> None:
    model, folded = fold(case)
    rng = np.random.default_rng(5)
    new = list(list_new(model, folded))
    assert new
    for tensor in new:
        for how in ("ulp", "sign", "gone"):
            assert judge(model, damage(folded, tensor.name, how, rng)).verdict is Verdict.FAIL


def deep(seed: int = 0) -> ModelProto:
    net = nets.Net(seed, channels=4, size=4)
    for _ in range(50):
        net.conv(4, 1).bn()
    return net.model()


def test_one_of_fifty_layers() -> None:
    model = deep()
    folded = onnx.load_from_string(converter.fold(model, verify=False).to_bytes())
    assert judge(model, folded).level == "P"
    new, rng = [t.name for t in list_new(model, folded)], np.random.default_rng(1)
    assert len(new) >= 50
    for how, name in (("ulp", new[10]), ("ulp", new[-3]), ("sign", new[33]), ("gone", new[-1])):
        assert judge(model, damage(folded, name, how, rng)).verdict is Verdict.FAIL


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_one_of_fifty_layers(bug: str) -> None:
    """What is spoilt in the second layer; the epsilon and half precision in all."""
    model = deep()
    assert compare(model, nets.fold(model, **BUGS[bug])).verdict is Verdict.FAIL


def in_half(model: ModelProto, *, keeps_ports: bool) -> ModelProto:
    """The model in float16, as converters make it: its inputs and outputs may stay float32 behind casts."""
    copy = onnx.load_from_string(model.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    del copy.graph.value_info[:]
    if not keeps_ports:
        for port in (*copy.graph.input, *copy.graph.output):
            port.type.tensor_type.elem_type = TensorProto.FLOAT16
        return copy
    for node in copy.graph.node:
        node.input[:] = ["x/half" if name == "x" else name for name in node.input]
        node.output[:] = ["y/half" if name == "y" else name for name in node.output]
    copy.graph.node.insert(0, helper.make_node("Cast", ["x"], ["x/half"], to=TensorProto.FLOAT16))
    copy.graph.node.append(helper.make_node("Cast", ["y/half"], ["y"], to=TensorProto.FLOAT))
    return copy


@pytest.mark.parametrize("keeps_ports", [True, False])
@pytest.mark.parametrize("name", sorted(nets.ARCHITECTURES))
def test_half_precision_is_held_to_its_stored_type(name: str, keeps_ports: bool) -> None:
    """onnxruntime computes in float32 on the CPU: the original's own error there is no yardstick."""
    model = in_half(nets.ARCHITECTURES[name](), keeps_ports=keeps_ports)
    folded = onnx.load_from_string(converter.fold(model, verify=False).to_bytes())
    for seed in range(3):
        parity = judge(model, folded, seed)
        assert (parity.verdict, parity.level) == (Verdict.PASS, "P")


def test_a_fold_of_another_export_is_a_model_like_any_other(tmp_path: Path) -> None:
    """Its numbers are of other parameters, two units off: no fault of the fold's."""
    model = nets.plain()
    other = damage(model, "w0", "ulp", np.random.default_rng(0))
    onnx.save(model, tmp_path / "a.onnx")
    folded = onnx.load_from_string(converter.fold(other, verify=False).to_bytes())
    if not folded.metadata_props:  # left out of a model that it would make larger
        folded.metadata_props.add(key="biasopt.originals", value=json.dumps(["0" * 64]))
    assert compare(tmp_path / "a.onnx", folded).verdict is Verdict.PASS
    digest = hashlib.sha256((tmp_path / "a.onnx").read_bytes()).hexdigest()
    next(p for p in folded.metadata_props if p.key == "biasopt.originals").value = json.dumps([digest])
    assert compare(tmp_path / "a.onnx", folded).verdict is Verdict.FAIL


def test_a_mark_alone_says_of_which_model_it_is_a_fold() -> None:
    """Where there was no room for more: a fold of another tool's version of the model is no fold of the model."""
    model = NETS["mlp"](7)
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.producer_name = "x"
    folded, theirs = (onnx.load_from_string(converter.fold(m, verify=False).to_bytes()) for m in (model, other))
    assert [p.key for p in folded.metadata_props] == ["biasopt"]
    assert compare(model, folded).level == "P"
    parity = compare(model, theirs)
    assert (parity.verdict, parity.level) == (Verdict.PASS, "B")
    spoilt = [damage(m, "w1", "ulp", np.random.default_rng(0)) for m in (folded, theirs)]
    assert [compare(model, m).verdict for m in spoilt] == [Verdict.FAIL, Verdict.PASS]


def test_a_fold_of_a_fold_was_rounded_twice(tmp_path: Path) -> None:
    model = nets.plain()
    first = converter.fold(model, verify=False, only=["fold-bn-into-conv"], stop_after=2).to_bytes()
    second = onnx.load_from_string(converter.fold(first, verify=False).to_bytes())
    parity = compare(model, second)
    assert (parity.verdict, parity.level) == (Verdict.PASS, "P")


def test_what_a_proof_rests_on_is_in_the_report() -> None:
    model = nets.plain()
    parity = judge(model, onnx.load_from_string(converter.fold(model, verify=False).to_bytes()))
    local = next(stage for stage in parity.stages if stage.id == "local")
    assert local.detail["proved"] == local.detail["places"] == len(local.outputs) == 3
    assert local.detail["factor"] == 2
    assert all("shift-into-bias" in check.detail["laws"] for check in local.outputs)


QUANTIZED = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (uint8[1,3,12,12] x) => (float[1,4,10,10] y) {
        h = DequantizeLinear(x, sx, zx) c = Conv(h, w, b) n = BatchNormalization(c, gamma, beta, mean, var)
        r = Relu(n) q = QuantizeLinear(r, sy, zy) y = DequantizeLinear(q, sy, zy)
    }
"""


def test_a_step_of_a_quantiser_is_no_difference() -> None:
    """A value on the boundary of two steps goes to either; what that makes is told, and no seed decides."""
    rng = np.random.default_rng(0)
    held = {
        "sx": np.float32(0.02),
        "zx": np.uint8(128),
        "sy": np.float32(2**-6),
        "zy": np.uint8(0),
        "w": rng.integers(-8, 8, (4, 3, 3, 3)).astype(np.float32) / 8,
        "b": np.zeros(4, np.float32),
        "gamma": np.ones(4, np.float32),
        "beta": np.full(4, 2**-7, np.float32),
        "mean": np.zeros(4, np.float32),
        "var": np.full(4, 0.7, np.float32),
    }
    model = onnx.parser.parse_model(QUANTIZED)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in held.items())
    folded = onnx.load_from_string(converter.fold(model, verify=False).to_bytes())
    assert "BatchNormalization" not in {node.op_type for node in folded.graph.node}
    for seed in range(6):
        parity = judge(model, folded, seed)
        assert (parity.verdict, parity.level) == (Verdict.PASS, "P")


def test_steps_are_counted() -> None:
    from converter.referee.verify.proof import count_steps

    x = np.linspace(0, 1, 100, dtype=np.float32)
    y = x.copy()
    y[[3, 50]] += np.float32(1 / 64)
    y[70] += np.float32(1e-7)
    assert count_steps((x, y), 1e-5) == 2
    assert count_steps((np.arange(5), np.arange(5) + np.array([0, 1, 0, 0, 1])), 1e-5) == 2
