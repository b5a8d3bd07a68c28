"""TF32 on a CPU: a model whose sums of products round both factors to the 10 bits that tensor cores keep of them."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

_SUMS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_SPLIT = np.float32(2**13 + 1)  # Dekker's split of float32's 24 bits: 11 stay, the hidden one counted


def emulate_tf32(model: ModelProto, only: int | None = None) -> ModelProto:
    """A copy that computes as TF32 does; ``only`` the first so many sums."""
    copy = ModelProto()
    copy.CopyFrom(model)
    weights = {t.name: t for t in copy.graph.initializer}
    nodes: list[NodeProto] = []
    copy.graph.initializer.append(numpy_helper.from_array(np.array(_SPLIT), "tf32/split"))
    rounded: dict[str, str] = {}
    left = only
    for node in copy.graph.node:
        if node.op_type in _SUMS and left != 0:
            left = None if left is None else left - 1
            for slot in (0, 1):
                name = node.input[slot]
                if name not in rounded:
                    rounded[name] = f"tf32/{name}"
                    if name in weights:
                        value = round_to_tf32(numpy_helper.to_array(weights[name]))
                        copy.graph.initializer.append(numpy_helper.from_array(value, rounded[name]))
                    else:
                        nodes.extend(_round(name, rounded[name]))
                node.input[slot] = rounded[name]
        nodes.append(node)
    made = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(made)
    return copy


def round_to_tf32(value: np.ndarray) -> np.ndarray:
    """float32 with 10 bits behind the leading one."""
    scaled = value * _SPLIT
    return np.asarray(scaled - (scaled - value), np.float32)


def _round(name: str, out: str) -> list[NodeProto]:
    wide, rest = f"{out}/wide", f"{out}/rest"
    return [
        helper.make_node("Mul", [name, "tf32/split"], [wide]),
        helper.make_node("Sub", [wide, name], [rest]),
        helper.make_node("Sub", [wide, rest], [out]),
    ]
