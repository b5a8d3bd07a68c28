"""Types and shapes of a model's tensors by inference, and what running it in float64 would take."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import GraphProto, ModelProto

from converter.model.file.checker import infer_shapes
from converter.model.file.reader import graphs
from converter.model.shapes.fused import DOMAIN
from converter.model.shapes.inference import computes_sizes, follow_sizes, is_open, without_claims
from converter.referee.proto.source import Port, make_value_info, read_ports, strip_weights
from converter.referee.reference.kernels import list_captures

_WIDE = 8  # bytes of a float64 element


def infer_types(model: ModelProto, dims: dict[str, tuple[int, ...]] | None = None) -> dict[str, Port]:
    """Every tensor of the main graph whose type could be inferred, initializers included."""
    inferred = infer_shapes(strip_weights(model, dims))
    full = inferred.graph
    known = read_ports([*full.value_info, *full.input, *full.output])
    for tensor in full.initializer:
        known[tensor.name] = Port(tensor.name, "tensor", tensor.data_type, tuple(tensor.dims))
    if any(i.domain == DOMAIN for i in model.opset_import):  # onnxruntime's own, of which onnx knows nothing
        found = follow_sizes(inferred)[0]
        for name, sizes in found.dims.items():
            if name not in known or known[name].dims is None:
                known[name] = Port(name, "tensor", found.types.get(name, 0), sizes)
    return known


def infer_certain_shapes(model: ModelProto) -> ModelProto:
    """The model without its weights, with the shapes that follow from its inputs: nothing is taken on the file's word.

    Sizes that the model computes are followed. Names that inference makes up for a size say nothing.
    """
    inferred = infer_shapes(without_claims(strip_weights(model)))
    if computes_sizes(inferred):
        for graph, found in zip(graphs(inferred.graph), follow_sizes(inferred), strict=True):
            known = read_ports([*graph.value_info, *graph.output])
            better = {n: dims for n, dims in found.dims.items() if n not in known or is_open(known[n].dims)}
            kept = [v for v in graph.value_info if v.name not in better]
            types = {n: found.types.get(n) or (known[n].elem if n in known else 0) for n in better}
            del graph.value_info[:]
            graph.value_info.extend(kept)
            graph.value_info.extend(make_value_info(n, Port(n, "tensor", types[n], d)) for n, d in better.items())
    return inferred


def format_size(n_bytes: float) -> str:
    """Bytes of memory for people: ``1.5 GiB``, ``12 MiB``, ``0.3 KiB``."""
    for unit, size in (("GiB", 2.0**30), ("MiB", 2.0**20)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes / 2**10:.1f} KiB"


def estimate_bytes(model: ModelProto, dims: dict[str, tuple[int, ...]] | None = None, limit: int = 0) -> int:
    """Bytes that evaluating ``model`` in float64 needs at its peak, as far as shapes are known.

    The weights once as float64 (onnxruntime holds them too, as stored) plus the largest sum of live tensors. Sizes that
    the file states may be left over from another model, and those inferred may be bounds: above ``limit`` bytes, of
    each tensor the smaller counts. A run watches what it really takes.
    """
    weights: int = sum(math.prod(t.dims) for t in model.graph.initializer)
    known = infer_types(model, dims)
    n_bytes = _WIDE * (weights + count_peak_elements(model.graph, known))
    if n_bytes <= limit:
        return n_bytes
    for name, port in infer_types(without_claims(strip_weights(model)), dims).items():
        if name not in known or _count_elements(port) < _count_elements(known[name]):
            known[name] = port
    return _WIDE * (weights + count_peak_elements(model.graph, known))


def count_peak_elements(graph: GraphProto, known: Mapping[str, Port]) -> int:
    """The largest number of elements alive at once when each tensor dies after its last reader."""
    held = {t.name for t in graph.initializer}
    last: dict[str, int] = {}
    for k, node in enumerate(graph.node):
        for name in (*node.input, *list_captures(node)):
            last[name] = k
    last |= {o.name: len(graph.node) for o in graph.output}
    live = sum(_count_elements(known.get(i.name)) for i in graph.input if i.name not in held)
    peak = live
    for k, node in enumerate(graph.node):
        live += sum(_count_elements(known.get(name)) for name in node.output if name)
        peak = max(peak, live)
        dying = {n for n in (*node.input, *node.output) if n and n not in held and last.get(n, k) <= k}
        live -= sum(_count_elements(known.get(name)) for name in dying)
    return peak


def _count_elements(port: Port | None) -> int:
    if port is None or port.dims is None:
        return 0
    return math.prod(d if isinstance(d, int) else 1 for d in port.dims)
