"""Are the outputs of two models the same, up to what rounding explains?

The judge is onnxruntime with its optimisations off. How far two equal models may drift apart is
measured, not assumed: every float constant and every float input of the original is moved by a
few ulps, and what that does to each output is the unit of the comparison. A rounding-only
rewrite stays within a small multiple of it; a wrong channel, a lost bias or a forgotten epsilon
is orders of magnitude outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

Feeds = Mapping[str, NDArray]

FLOOR = 1e-5  # of the output's scale: summation order and fused kernels, float32
MARGIN = 16.0  # times the measured drift; in 6,000 random models correct folds stayed below 2
ULPS = 2.0**-22  # relative size of the perturbation: two float32 ulps


@dataclass(frozen=True)
class Difference:
    """One output that is not the same."""

    output: str
    why: str

    def __str__(self) -> str:
        return f"{self.output}: {self.why}"


def session(model: onnx.ModelProto | str) -> ort.InferenceSession:
    """Open a model (proto or path) on the CPU with every optimisation off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    source = model if isinstance(model, str) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto | str, feeds: Feeds) -> dict[str, NDArray]:
    """Output values by name."""
    opened = session(model)
    names = [value.name for value in opened.get_outputs()]
    wanted = {value.name for value in (*opened.get_inputs(), *opened.get_overridable_initializers())}
    values = opened.run(names, {name: value for name, value in feeds.items() if name in wanted})
    return dict(zip(names, values, strict=True))


def named_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every constant of a graph and of the graphs inside it, with the name that nodes read it by."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield node.output[0], attribute.t
            if attribute.HasField("g"):
                yield from named_tensors(attribute.g)


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every constant of a graph and of the graphs inside it."""
    return (tensor for _, tensor in named_tensors(graph))


def sizing(graph: onnx.GraphProto) -> set[str]:
    """Names of float inputs that decide shapes, so that the smallest change is a large one."""
    return {name for node in graph.node if node.op_type in ("Resize", "Upsample", "Range") for name in node.input[1:]}


def nudged(values: NDArray, rng: np.random.Generator) -> NDArray:
    """The same array with every element moved by up to two ulps."""
    if values.dtype not in (np.float32, np.float64):
        return values
    return np.asarray(values * (1 + ULPS * rng.uniform(-1, 1, values.shape)), values.dtype)


def perturbed(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    """A copy of the model with every float constant nudged."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    fixed = sizing(copy.graph)
    for name, tensor in named_tensors(copy.graph):
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE) and name not in fixed:
            tensor.CopyFrom(numpy_helper.from_array(nudged(numpy_helper.to_array(tensor), rng), tensor.name))
    return copy


def drift(model: onnx.ModelProto, feeds: Feeds, want: Mapping[str, NDArray], draws: int = 2) -> dict[str, float]:
    """How far each float output moves when constants and inputs move by two ulps: the largest of some draws."""
    moved = dict.fromkeys(want, 0.0)
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        got = run(perturbed(model, rng), {name: nudged(value, rng) for name, value in feeds.items()})
        for name, value in want.items():
            if value.dtype.kind == "f" and value.size:
                moved[name] = max(moved[name], float(np.max(np.abs(got[name].astype(float) - value))))
    return moved


def differences(
    want: Mapping[str, NDArray], got: Mapping[str, NDArray], moved: Mapping[str, float] | None = None
) -> list[Difference]:
    """Compare outputs by name; ``moved`` is the drift of each output in absolute terms."""
    if list(want) != list(got):
        return [Difference("outputs", f"names {list(want)} became {list(got)}")]
    found = (one_difference(name, want[name], got[name], (moved or {}).get(name, 0.0)) for name in want)
    return [difference for difference in found if difference]


def one_difference(name: str, want: NDArray, got: NDArray, moved: float) -> Difference | None:
    """Compare one output."""
    if want.shape != got.shape or want.dtype != got.dtype:
        return Difference(name, f"{want.dtype}{want.shape} became {got.dtype}{got.shape}")
    if want.dtype.kind != "f":
        return None if np.array_equal(want, got) else Difference(name, "values differ")
    if not np.array_equal(np.isfinite(want), np.isfinite(got)):
        return Difference(name, "non-finite values appeared or vanished")
    finite = np.isfinite(want)
    if not finite.any():
        return None
    wide = want[finite].astype(np.float64)
    error = float(np.max(np.abs(wide - got[finite])))
    floor = max(
        FLOOR, float(np.finfo(want.dtype).eps)
    )  # of half precision one unit in the last place: no nudge is finer
    limit = floor * float(np.max(np.abs(wide))) + MARGIN * moved
    return None if error <= limit else Difference(name, f"off by {error:.3g}, rounding explains {limit:.3g}")


def assert_same_outputs(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Sequence[Feeds]) -> None:
    """Both models give the same outputs on every feed."""
    for feed in feeds:
        want = run(before, feed)
        wrong = differences(want, run(after, feed), drift(before, feed, want))
        assert not wrong, "; ".join(map(str, wrong))
