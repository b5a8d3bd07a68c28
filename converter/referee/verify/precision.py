"""Whether a run was as exact as float32: TF32 that was asked off may still be on, and shows in nothing but its errors.

``use_tf32=0`` is a wish: where cuDNN has no plan without tensor cores, onnxruntime takes one with them and says
nothing. TF32 rounds what is multiplied to 10 bits: its errors are about 2^13 times those of float32, less what the
sums of float32 lose by themselves.

Three yardsticks tell how large an error of float32 may be, each where the others are blind, and the largest counts:
what rounding alone makes of a graph of this depth and width; the same model's error on the CPU, whose float32 has
no tensor cores; and, where these two are exceeded, what moving every weight by its rounding error does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converter.dataclass import dataclass
from converter.errors import BiasoptError
from converter.referee.proto.source import find_float_types, list_bodies, read_constant_dims, walk_nodes
from converter.referee.reference.kernels import Unsupported
from converter.referee.verify.metrics import Difference, measure_difference, sum_differences

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    from converter.records import OutputCheck

Outputs = Mapping[str, Any]

_UNIT = 2.0**-24
# Other orders of summation and Winograd's transforms: measured within 10 of the CPU's error.
_OTHER_ORDER = 16.0
_FEW = 8  # elements; the error of a few numbers is a matter of luck, and may be low by that
_SUMS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN", "Attention"}
_LEAST_WIDTH = 64  # products of two activations, whose sizes no weight tells


@dataclass(frozen=True, slots=True)
class PrecisionCheck:
    """The error of the worst output against float64, relative, and the most that float32 would leave."""

    output: str
    error: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the run was as exact as float32."""
        return self.error <= self.bound


def has_narrow_weights(model: ModelProto) -> bool:
    """Whether the model's arithmetic is in half precision, for which tensor cores are no loss."""
    from onnx import TensorProto

    narrow = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    wide = {t.data_type for t in model.graph.initializer if len(t.dims) > 1} - narrow
    return bool(find_float_types(model) & narrow) and not wide & {TensorProto.FLOAT, TensorProto.DOUBLE}


def measure_graph(model: ModelProto) -> tuple[int, int]:
    """Depth and width: operators that sum products along the longest path (0 without any), and their longest sum."""
    dims = read_constant_dims(model.graph)
    sums = [node for node in walk_nodes(model) if node.op_type in _SUMS]
    width = max([_LEAST_WIDTH, *(_find_width(node, dims) for node in sums)])
    return (max(1, _find_depth(model.graph)) if sums else 0), width


def _find_width(node: NodeProto, dims: Mapping[str, Sequence[int]]) -> int:
    shapes = [dims[name] for name in node.input[:3] if len(dims.get(name, ())) > 1]
    if node.op_type == "Conv":
        return max((math.prod(shape[1:]) for shape in shapes), default=0)
    if node.op_type == "ConvTranspose":
        return max((shape[0] * math.prod(shape[2:]) for shape in shapes), default=0)
    return max((max(shape[-2:]) for shape in shapes), default=0)


def _find_depth(graph: GraphProto) -> int:
    found: dict[str, int] = {}
    for node in graph.node:
        own = (node.op_type in _SUMS) + sum(_find_depth(body) for _, body in list_bodies(node))
        here = own + max((found.get(name, 0) for name in node.input), default=0)
        found.update((name, here) for name in node.output)
    return max(found.values(), default=0)


def check_precision(
    model: ModelProto,
    exact: Sequence[Outputs],
    ran: Sequence[Outputs],
    run_on_cpu: Callable[[int], Outputs],
    run_perturbed: Callable[[int], Outputs],
) -> PrecisionCheck | None:
    """Hold a run at strict precision to float32's errors; None where there is nothing to say of that.

    Roundings are independent enough to add up as a random walk does, with the root of their number (Higham and Mary
    2019, A New Approach to Probabilistic Rounding Error Analysis).

    Parameters
    ----------
    exact, ran : one mapping of outputs for each input
        In float64, and as the provider gave them.
    run_on_cpu : callable
        The same model's outputs for input k by onnxruntime on the CPU.
    run_perturbed : callable
        Those in float64 with every weight moved by its rounding error.
    """
    depth, width = measure_graph(model)
    if not depth or has_narrow_weights(model) or not exact:
        return None
    seen = {name: _sum(exact, ran, name) for name in exact[0]}
    seen = {name: found for name, found in seen.items() if found.count and not found.problem}
    bounds = {name: _UNIT * math.sqrt(depth * width) for name in seen}

    def list_doubtful() -> list[str]:
        return [name for name, found in seen.items() if found.relative > bounds[name]]

    def widen(run: Callable[[int], Outputs], factor: float) -> None:
        try:
            moved = [run(k) for k in range(len(exact))]
        except (BiasoptError, Unsupported):  # this yardstick is not to be had; the others are
            return
        for name in seen:
            found = _sum(exact, moved, name)
            if not found.problem and math.isfinite(found.relative):
                luck = 1 + _FEW / max(1, found.count)
                bounds[name] = max(bounds[name], factor * luck * found.relative)

    if list_doubtful():
        widen(run_on_cpu, _OTHER_ORDER)
    if list_doubtful():
        widen(run_perturbed, math.sqrt(width))
    worst = max(seen, key=lambda name: seen[name].relative / bounds[name], default=None)
    return None if worst is None else PrecisionCheck(worst, seen[worst].relative, bounds[worst])


def check_beside_cpu(model: ModelProto, checks: Sequence[OutputCheck]) -> PrecisionCheck | None:
    """The same for B, where A ran on the CPU: A's errors are the yardstick, and both are in the checks of outputs."""
    depth, width = measure_graph(model)
    if not depth or has_narrow_weights(model):
        return None
    least = _UNIT * math.sqrt(depth * width)
    found = [
        PrecisionCheck(
            check.name, check.detail["error_after"], max(least, _OTHER_ORDER * luck * check.detail["error_before"])
        )
        for check in checks
        if "error_before" in check.detail
        for luck in (1 + _FEW / max(1, check.detail["elements"]),)
    ]
    return max(found, key=lambda each: each.error / each.bound, default=None)


def _sum(left: Sequence[Outputs], right: Sequence[Outputs], name: str) -> Difference:
    return sum_differences(measure_difference(x[name], y.get(name)) for x, y in zip(left, right, strict=True))
