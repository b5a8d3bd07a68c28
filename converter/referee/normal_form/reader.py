"""From the nodes of a small model to the normal form of its output, by the rule of each node's operator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, TypeProto

from converter.model.shapes.inference import computes_sizes, follow_sizes, is_made_up
from converter.referee.normal_form.form import Dims, Form, Known, Leaf, NotExpressed, Other
from converter.referee.normal_form.form import Linear as LinearAtom
from converter.referee.normal_form.interval import Interval, is_float
from converter.referee.normal_form.laws import Law
from converter.referee.proto.diff import Outline
from converter.referee.proto.inference import infer_certain_shapes, infer_types
from converter.referee.proto.source import Port, read_ports, strip_weights
from converter.referee.reference.evaluator import normalize_domain, read_opset_versions
from converter.referee.reference.kernels import Unsupported, make_kernel, read_attributes

Value = Form | Known | None
Rule = Callable[["Reader", NodeProto, list[Value]], "list[Value] | None"]
# Of a constant that was rounded these only move numbers, so they move its errors too.
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_MOVES = {"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Expand"}


class Reader:
    """Reads one side of a rewritten place.

    Parameters
    ----------
    place : Outline
        The place as a model, nodes in order.
    same : set of str
        Constants that hold what they hold in the original.
    find_certain : callable, optional
        What is known of an input of the place for all inputs of the model; by default what it states itself.
    forward : bool
        A factor goes on through joins and rectifiers, to what reads them, instead of back into their arguments.
    """

    def __init__(
        self,
        place: Outline,
        folder: Path | None,
        same: set[str],
        rules: dict[str, Rule],
        find_certain: Callable[[str], Port | None] | None = None,
        *,
        forward: bool = False,
    ) -> None:
        self.model = model = place.model
        self.find_certain = find_certain
        self.forward = forward
        self.folder = folder
        self.rules = rules
        self.same = same
        self.laws: set[Law] = set()  # that were applied on the way
        self.opset = read_opset_versions(model.opset_import).get("", 0)
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.values: dict[str, Value] = {"": None}
        for tensor in model.graph.initializer:
            held = place.tensors[tensor.name]
            self.values[tensor.name] = Known(tensor.name, held, folder, tensor.name not in same)
        for sparse in model.graph.sparse_initializer:
            self.values[sparse.values.name] = Form(Leaf(f"sparse {_hash(sparse)}"))
        for value in model.graph.input:
            self.values.setdefault(value.name, Form(Leaf(value.name)))

    def read(self) -> Form | Known:
        """The form of the model's one output."""
        for node in self.model.graph.node:
            found = self._node(node)
            self.values.update(zip(node.output, found, strict=False))
        value = self.values.get(self.model.graph.output[0].name)
        if value is None:
            raise NotExpressed("its output is not made")
        return value

    @cached_property
    def types(self) -> dict[str, Port]:
        """Types of the tensors, as inference finds them."""
        if self.find_certain is None:
            found = infer_types(self.model)
        else:
            graph = self._certain.graph
            found = read_ports([*graph.input, *graph.value_info, *graph.output])
        for node in self.model.graph.node:
            if (node.domain, node.op_type) == ("ai.onnx.ml", "Scaler"):  # of which onnx infers nothing
                found.setdefault(node.output[0], Port(node.output[0], "tensor", TensorProto.FLOAT))
        return found

    @cached_property
    def _certain(self) -> ModelProto:
        place, find = strip_weights(self.model), self.find_certain
        for value in place.graph.input:
            if find is not None and value.type.HasField("tensor_type"):
                port = find(value.name)
                _state_sizes(value.type.tensor_type, None if port is None else port.dims)
        return infer_certain_shapes(place)

    @cached_property
    def _computed_sizes(self) -> dict[str, Any]:
        return follow_sizes(self._certain)[0].values if computes_sizes(self._certain) else {}

    def dims(self, name: str) -> Dims | None:
        """Sizes of a tensor as inference finds them."""
        value = self.values.get(name)
        if isinstance(value, Known):
            return value.shape
        port = self.types.get(name)
        return None if port is None else port.dims

    def rank(self, name: str) -> int:
        """Axes of a tensor."""
        value = self.values.get(name)
        if isinstance(value, Form) and isinstance(value.atom, LinearAtom) and value.atom.kind in _CONVOLUTIONS:
            return value.atom.rank
        dims = self.dims(name)
        if dims is None:
            raise NotExpressed(f"the number of axes of {name!r} is not known")
        return len(dims)

    def sizes(self, name: str) -> Dims | None:
        """The elements of a small integer tensor that is made of constants and of sizes; None where it is not."""
        value = self.values.get(name)
        if isinstance(value, Known):
            return tuple(value.array().reshape(-1).tolist()) if len(value.shape) < 2 else None
        node = self.makers.get(name)
        if node is None:
            return None
        if (found := self._computed_sizes.get(name)) is not None:
            return tuple(found.reshape(-1).tolist()) if found.ndim < 2 else None
        if node.op_type == "Shape":
            given = read_attributes(node)
            return (self.dims(node.input[0]) or ())[given.get("start", 0) : given.get("end")]
        parts = [self.sizes(n) for n in node.input]
        if node.op_type == "Concat" and None not in parts:
            return tuple(d for part in parts if part is not None for d in part)
        if node.op_type == "Gather":
            of, places = parts[0], parts[1]
            if of is None or places is None or not all(isinstance(k, int) and -len(of) <= k < len(of) for k in places):
                return None
            return tuple(of[k] for k in places if isinstance(k, int))
        return parts[0] if node.op_type in ("Squeeze", "Unsqueeze", "Reshape", "Cast", "Identity") else None

    def _node(self, node: NodeProto) -> list[Value]:
        args = [self.values.get(name) for name in node.input]
        standard = normalize_domain(node.domain) == ""
        if standard and node.op_type == "Constant":
            return [_read_constant(node, rounded=node.output[0] not in self.same)]
        if standard and all(a is None or isinstance(a, Known) for a in args) and not _has_graph(node):
            known = self._derive(node, [a for a in args if not isinstance(a, Form)])
            if known is not None:
                return known
        if standard and (known_sizes := self._known_sizes(node)) is not None:
            return [known_sizes]
        name = node.op_type if standard else f"{normalize_domain(node.domain)}:{node.op_type}"
        rule = self.rules.get(name)
        found = rule(self, node, args) if rule is not None else None
        return found if found is not None else self.opaque(node, args)

    def _known_sizes(self, node: NodeProto) -> Known | None:
        """What reads sizes that are certain, and only these, is a constant; None where it is not."""
        if self.find_certain is None or node.op_type not in ("Shape", "Gather"):
            return None
        shape: tuple[int, ...] = (-1,)
        if node.op_type == "Gather":
            places = self.values.get(node.input[1])
            if not isinstance(places, Known) or len(self.dims(node.input[0]) or ()) != 1:
                return None
            shape = places.shape
        sizes = self.sizes(node.output[0])
        if not sizes or not all(isinstance(size, int) for size in sizes):
            return None
        return Known(node.output[0], np.asarray(sizes, np.int64).reshape(shape))

    def opaque(self, node: NodeProto, args: list[Value], key: Any = None) -> list[Value]:
        """An operator that the form knows nothing of."""
        if key is None:
            key = (normalize_domain(node.domain), list_attributes(node))
        while args and args[-1] is None:
            args = args[:-1]
        label = node.name or f"{node.op_type}:{node.output[0]}"
        return [Form(Other(node.op_type, key, tuple(args), k, label)) for k in range(len(node.output))]

    def _derive(self, node: NodeProto, args: list[Known | None]) -> list[Value] | None:
        """What a node makes of constants alone; None if it cannot be computed here."""
        rounded = any(a is not None and a.rounded and is_float(a.array().dtype) for a in args)
        if rounded and (node.op_type not in _MOVES or any(a is not None and a.rounded for a in args[1:])):
            return None
        try:
            op = make_kernel(node, "", self.opset)
            if op is None:
                return None
            results = op(tuple(None if a is None else _read_plain(a) for a in args))
        except Unsupported:
            return None
        except Exception as exc:  # whatever an operator's implementation trips over
            raise NotExpressed(f"{node.op_type} of constants: {exc}") from exc
        relative = max((a.relative for a in args if a is not None), default=0.0)
        return [Known(n, np.asarray(r), None, rounded, relative) for n, r in zip(node.output, results, strict=False)]


def _state_sizes(given: TypeProto.Tensor, dims: Dims | None) -> None:
    """The sizes that are certain; of others the number of axes is left."""
    if dims is None:
        if not given.HasField("shape"):
            return
        dims = (None,) * len(given.shape.dim)
    given.ClearField("shape")
    given.shape.SetInParent()
    for size in dims:
        dim = given.shape.dim.add()
        if isinstance(size, int):
            dim.dim_value = size
        elif isinstance(size, str) and not is_made_up(size):
            dim.dim_param = size


def _read_plain(known: Known) -> Any:
    array = known.array()
    return array if known.rounded else (array.astype(np.float64) if is_float(array.dtype) else array)


def _read_constant(node: NodeProto, *, rounded: bool) -> Value:
    (attribute,) = node.attribute
    if attribute.type == AttributeProto.TENSOR:
        return Known(node.output[0], attribute.t, rounded=rounded)
    if attribute.type == AttributeProto.SPARSE_TENSOR:
        return Form(Leaf(f"sparse {_hash(attribute)}"))
    (value,) = read_attributes(node).values()
    array = np.asarray(value)
    return Known(node.output[0], array.astype(np.float32) if array.dtype == np.float64 else array, rounded=rounded)


def _has_graph(node: NodeProto) -> bool:
    return any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute)


def _hash(proto: Any) -> str:
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def list_attributes(node: NodeProto, *leave: str) -> tuple[tuple[str, str], ...]:
    """The attributes as something to compare, without those named."""
    return tuple(sorted((a.name, _hash(a)) for a in node.attribute if a.name not in leave))


def get_interval(value: Value) -> Interval | None:
    """The numbers of a float constant; None for anything else."""
    if not isinstance(value, Known):
        return None
    kind = value.source.data_type if isinstance(value.source, TensorProto) else None
    if kind is not None and kind not in (1, 10, 11, 16):  # FLOAT, FLOAT16, DOUBLE, BFLOAT16
        return None
    return value.interval if kind is not None or is_float(value.array().dtype) else None


def find_axes(node: NodeProto, args: list[Value]) -> list[int] | None:
    """Axes by attribute or by a constant input."""
    given = read_attributes(node).get("axes")
    if given is None and len(args) > 1 and isinstance(args[1], Known):
        given = args[1].array().reshape(-1).tolist()
    return None if given is None else [int(a) for a in given]
