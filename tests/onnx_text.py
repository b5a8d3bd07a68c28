"""ONNX text for an onnx that does not know all of it: labels of nodes, quoted and empty names came with 1.18.

`install` lets `onnx.parser` read them there as well: what is new is taken out of the text, and put into the proto.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

# [label] a, b = Op(...)
_LABEL = re.compile(r'(?<!\w)\[([\w/.]+)\](\s*)((?:"[^"]*"|\w+)(?:\s*,\s*(?:"[^"]*"|\w+))*\s*=)')
# a name in quotes: where an operand or a result may stand, and no attribute's value
_QUOTED = re.compile(r'(?<=[(,{}\s])"([^"]*)"(?=\s*[,)=])')
_INSIDE = re.compile(r"<[^<>{}]*>")  # attributes, in which a text is a text


def install() -> None:
    """Teach an old parser; a new one is left alone."""
    try:
        onnx.parser.parse_node('[label] y = Relu("")')
    except onnx.parser.ParseError:
        for name in ("parse_model", "parse_graph", "parse_node", "parse_function"):
            setattr(onnx.parser, name, _taught(getattr(onnx.parser, name)))


def encode(array: np.ndarray[Any, Any], name: str) -> onnx.TensorProto:
    """``numpy_helper.from_array``, also of the types of ml_dtypes for an onnx that does not take those."""
    try:
        return numpy_helper.from_array(array, name)
    except ValueError:
        kind = onnx.TensorProto.DataType.Value(_KINDS[array.dtype.name])
        raw = array.tobytes()
        if array.dtype.name == "int4":
            low, high = array.astype(np.uint8).reshape(-1)[::2] & 15, array.astype(np.uint8).reshape(-1)[1::2] & 15
            raw = (low | np.pad(high, (0, low.size - high.size)) << 4).astype(np.uint8).tobytes()
        return onnx.TensorProto(name=name, data_type=kind, dims=array.shape, raw_data=raw)


_KINDS = {"bfloat16": "BFLOAT16", "float8_e4m3fn": "FLOAT8E4M3FN", "float8_e5m2": "FLOAT8E5M2", "int4": "INT4"}


def _taught(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse_taught(text: str) -> Any:
        labels: list[str] = []
        quoted: list[str] = []

        def take_quoted(found: re.Match[str]) -> str:
            quoted.append(found[1])
            return f"quoted_{len(quoted) - 1}_"

        parts = re.split(f"({_INSIDE.pattern})", text)
        bare = "".join(part if place % 2 else _QUOTED.sub(take_quoted, part) for place, part in enumerate(parts))

        def take_label(found: re.Match[str]) -> str:
            labels.append(found[1])
            return f"labelled_{len(labels) - 1}_{found[3]}"

        bare = _LABEL.sub(take_label, bare)
        proto = parse(bare)
        for node in _nodes(proto):
            for names in (node.output, node.input):
                for place, name in enumerate(names):
                    if found := re.fullmatch(r"labelled_(\d+)_(.*)", name):
                        node.name, names[place] = labels[int(found[1])], found[2]
                    if found := re.fullmatch(r"quoted_(\d+)_", names[place]):
                        names[place] = quoted[int(found[1])]
        return proto

    return parse_taught


def _nodes(proto: Any) -> Iterator[onnx.NodeProto]:
    if isinstance(proto, onnx.NodeProto):
        yield proto
        held: Sequence[Any] = [g for a in proto.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]
    elif isinstance(proto, onnx.ModelProto):
        held = [proto.graph, *proto.functions]
    else:
        held = proto.node
    for inner in held:
        yield from _nodes(inner)
