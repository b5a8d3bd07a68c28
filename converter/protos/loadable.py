"""A model as onnxruntime can load it: nodes whose unused outputs would crash it are written differently."""

from __future__ import annotations

from dataclasses import replace

from onnx import ModelProto, NodeProto

from converter.protos.source import Source, all_nodes


def loadable(source: Source) -> Source:
    """The source itself, or a throw-away copy without the outputs named "" that onnxruntime dies of."""
    if not any(map(_crashes, all_nodes(source.proto))):
        return source
    copy = ModelProto()
    copy.CopyFrom(source.proto)
    for k, node in enumerate(all_nodes(copy)):
        if _crashes(node):
            _rewrite(node, f"/biasopt/unused/{k}")
    return replace(source, proto=copy, path=None)


def _crashes(node: NodeProto) -> bool:
    if node.domain not in ("", "ai.onnx") or not node.output:
        return False
    return (node.op_type == "BatchNormalization" and not node.output[-1]) or (
        node.op_type == "Split" and "" in node.output
    )


def _rewrite(node: NodeProto, prefix: str) -> None:
    if node.op_type == "BatchNormalization":
        while len(node.output) > 1 and not node.output[-1]:
            del node.output[-1]
        return
    for k, name in enumerate(node.output):  # how many there are decides how a Split splits: none may go
        node.output[k] = name or f"{prefix}/{k}"
