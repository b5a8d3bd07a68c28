"""Small float64 models with biases, and what must hold when they are folded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser

import converter
from converter.records import Counts
from converter.referee.reference.evaluator import Reference

Feeds = Mapping[str, NDArray[Any]]

LINEAR = ("Conv", "ConvTranspose", "Gemm")


def model(text: str, opset: int = 17, **constants: Any) -> onnx.ModelProto:
    """The graph in ONNX text, each node named after its first output.

    A constant given as a tuple is a shape: random values of about unit size. An output whose name begins with
    "unused" is left out.
    """
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')
    rng = np.random.default_rng(0)
    for name, value in constants.items():
        array = rng.normal(0.3, 0.7, value) if isinstance(value, tuple) else np.asarray(value)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in proto.graph.node:
        node.name = node.output[0]
        node.output[:] = ["" if o.startswith("unused") else o for o in node.output]
    onnx.checker.check_model(proto)
    return proto


def bn(name: str, channels: int) -> dict[str, NDArray[Any]]:
    """Scale, shift, mean and variance of a batch norm, as constants of these names."""
    rng = np.random.default_rng(channels)
    values = [rng.uniform(0.5, 1.5, channels), *rng.normal(0, 0.5, (2, channels)), rng.uniform(0.5, 2, channels)]
    return {name + letter: value for letter, value in zip("gbmv", values, strict=True)}


def feeds_of(proto: onnx.ModelProto, seed: int = 1) -> dict[str, NDArray[Any]]:
    """Normal values for floats, coins for booleans that leave each row's first entry open; unknown sizes are 3."""
    rng = np.random.default_rng(seed)
    held = {t.name for t in proto.graph.initializer}
    out: dict[str, NDArray[Any]] = {}
    for value in proto.graph.input:
        if value.name in held:
            continue
        kind = value.type.tensor_type
        shape = [d.dim_value or 3 for d in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype == np.bool_:
            out[value.name] = rng.random(shape) < 0.6
            out[value.name][..., 0] = True
        else:
            out[value.name] = rng.normal(0, 1, shape).astype(dtype)
    return out


def biases(proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Node name -> its bias: third inputs of linear operators, constants of Adds that follow a MatMul."""
    held = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    held |= {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in proto.graph.node if n.op_type == "Constant"}
    products = {n.output[0] for n in proto.graph.node if n.op_type == "MatMul"}
    found = {}
    for node in proto.graph.node:
        if node.op_type in LINEAR and len(node.input) > 2 and node.input[2] in held:
            found[node.name] = held[node.input[2]]
        if node.op_type == "Add" and products & set(node.input):
            for constant in set(node.input) & set(held):
                found[node.name] = held[constant]
    return found


def vectors(counts: Counts) -> int:
    """Bias vectors, the shifts of batch norms included."""
    return counts.biases + counts.batch_norms


def ops(proto: onnx.ModelProto) -> list[str]:
    """Operator of every node but Constant."""
    return [n.op_type for n in proto.graph.node if n.op_type != "Constant"]


def assert_same(
    before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds, tol: float = 1e-12, least: float = 0.0
) -> None:
    """Outputs equal in float64 to `tol` of their scale, or of `least`; not a number where it was not a number."""
    wanted, got = Reference(before).run(feeds), Reference(after).run(feeds)
    assert list(wanted) == list(got)
    for name, want in wanted.items():
        assert want.shape == got[name].shape, name
        if want.dtype.kind != "f":
            assert np.array_equal(want, got[name]), name
            continue
        assert np.array_equal(np.isnan(want), np.isnan(got[name])), f"{name}: other entries are not numbers"
        finite = np.isfinite(want)
        scale = np.abs(want[finite]).max(initial=least)
        error = np.abs(want[finite] - got[name][finite]).max(initial=0.0)
        assert error <= tol * scale, f"{name}: off by {error:.3g} at scale {scale:.3g}"


def depends_on(before: onnx.ModelProto, names: Sequence[str], feeds: Feeds) -> bool:
    """Whether the outputs change when the named nodes lose their bias: what makes a row worth keeping live."""
    found = biases(before)
    without = onnx.ModelProto()
    without.CopyFrom(before)
    for node in without.graph.node:
        if node.name in names:
            zero = numpy_helper.from_array(np.zeros_like(found[node.name]), f"{node.name}_zero")
            without.graph.initializer.append(zero)
            held = {t.name for t in without.graph.initializer}
            slot = 2 if node.op_type in LINEAR else next(i for i, n in enumerate(node.input) if n in held)
            node.input[slot] = zero.name
    wanted, got = Reference(before).run(feeds), Reference(without).run(feeds)
    return any(np.nanmax(np.abs(wanted[k] - got[k])) > 1e-6 * np.nanmax(np.abs(wanted[k])) for k in wanted)


def judged(
    proto: onnx.ModelProto, *, gone: str = "", kept: str = "", feeds: Feeds | None = None, **options: Any
) -> converter.FoldResult:
    """Fold: the biases of `gone` leave, those of `kept` stay what they were, and outputs are equal.

    `gone` and `kept` are names of nodes, separated by spaces.
    """
    given = feeds_of(proto) if feeds is None else feeds
    before = biases(proto)
    unknown = {*gone.split(), *kept.split()} - set(before)
    assert not unknown, f"no biases to begin with: {unknown}"
    result = converter.fold(proto, **{"verify": False, "allow_growth": math.inf} | options)
    after = biases(result.model)
    story = "\n".join(f"{f.id} {f.status} {f.code} {f.why}" for f in result.findings)
    left = {name for name in gone.split() if np.any(after.get(name, 0))}
    assert not left, f"still there: {left}\n{story}"
    lost = {name for name in kept.split() if not np.any(after.get(name, 0))}
    assert not lost, f"lost: {lost}\n{story}"
    assert_same(proto, result.model, given)
    # A folded batch norm may leave a bias in its place.
    assert vectors(result.after) <= vectors(result.before)
    again = converter.fold(result.model, **{"verify": False, "allow_growth": math.inf} | options)
    assert not again.rewrites, f"a second fold acts: {[r.id for r in again.rewrites]}"
    onnx.checker.check_model(result.model)
    return result
