"""Whether a model computes sizes: most do not, and pay for one look at their nodes alone."""

from __future__ import annotations

from onnx import GraphProto, ModelProto

from converter.protos.modelfile import graphs

# Operator -> the first input that sets a size of its output (or picks elements by their place).
_SIZED = {"ConstantOfShape": 0, "Range": 0, "Gather": 1, "Where": 0}
_SIZED |= dict.fromkeys("Reshape Expand Slice Tile Resize Upsample Pad Split Squeeze Unsqueeze TopK Trilu".split(), 1)


def computes_sizes(model: ModelProto) -> bool:
    """Whether some node gives a size to another, or a graph inside a node takes one from outside of it.

    Only then there is anything to follow: the rest is onnx's to infer.
    """
    return any(_takes_size(g, inner=i > 0) for i, g in enumerate(graphs(model.graph)))


def _takes_size(graph: GraphProto, *, inner: bool) -> bool:
    made: set[str] = set()
    held = {"", *(t.name for t in graph.initializer)} if inner else set()
    for node in graph.node:
        first = _SIZED.get(node.op_type)
        if first is not None:
            sizes = node.input[first:]
            if not made.isdisjoint(sizes) or (inner and not held.issuperset(sizes)):
                return True
        if node.op_type != "Constant":
            made.update(node.output)
        elif inner:
            held.update(node.output)
    return False
