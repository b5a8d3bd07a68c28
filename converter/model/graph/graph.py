"""A model as a graph: questions by node and tensor, and ``apply``, the only thing that changes it."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import string
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from converter.errors import InvariantViolation, ModelError
from converter.model.file import ModelFile, graphs, infer_shapes
from converter.model.file.dtypes import get_element_type
from converter.model.graph import reader
from converter.model.graph.nodes import (
    Bypass,
    Const,
    DropInput,
    Edit,
    Node,
    Rename,
    Scope,
    SetAttr,
    SetConst,
    SetInput,
    SetOp,
    StoredTensor,
    Tensor,
    Value,
    weight_bytes,
)
from converter.model.shapes.inference import computes_sizes, follow_sizes, list_stale, with_claims, without_claims
from converter.records import Delta

Dim = int | str | None


class Graph:
    """A model that passes ask and that ``apply`` changes. The source it came from never changes.

    Parameters
    ----------
    file : ModelFile
    freeze_overridable : bool
        Take initializers that are also graph inputs (IR 4 and later) as constants, and take their
        names out of the graph's inputs.
    """

    def __init__(self, file: ModelFile, *, freeze_overridable: bool = False) -> None:
        self.file = file
        self.ir_version = file.skeleton.ir_version
        self._freeze = freeze_overridable
        self.most_bytes = math.inf  # that the file may have
        self.short_names = False  # for what is new or means something else: where telling ones would make the file grow
        self._shapes: dict[int, dict[str, tuple[Dim, ...]]] | None = None
        self._types: dict[int, dict[str, int]] = {}
        self._values: dict[int, dict[str, NDArray[Any]]] = {}
        self._stale: tuple[str, ...] = ()
        self.version = 0  # goes up with each change: what was found out before may no longer hold
        self.wiring = 0  # goes up with each change of more than constants and names
        self.scopes: list[Scope] = []
        self._read()

    def _read(self) -> None:
        self.scopes = reader.read(self.file, freeze_overridable=self._freeze)
        self._names = {name for s in self.scopes for name in s.values} | {""}
        self._constant_weights: dict[Node, StoredTensor | None] = {}
        self._derived: dict[Hashable, Const] = {}  # what edits made of a tensor of several readers
        self._short = _short_names()

    def reset(self) -> None:
        """Forget all edits: the model as it was read, in new nodes and tensors; what was inferred of it stays."""
        before = self.scopes
        self.version += 1
        self.wiring += 1
        self._read()
        for known in (self._shapes or {}, self._types, self._values):
            places = zip(before, self.scopes, strict=True)
            by_place: dict[int, Any] = {id(new): known[id(old)] for old, new in places if id(old) in known}
            known.clear()
            known.update(by_place)

    # -- questions -------------------------------------------------------------------------

    def nodes(self) -> Iterator[Node]:
        """Every node that is left, scope by scope, in the model's order."""
        for scope in self.scopes:
            if scope.owner is None or scope.owner.alive:
                for node in list(scope.nodes):
                    if node.alive:
                        yield node

    def producer(self, tensor: Tensor) -> Node | None:
        """The node that makes the tensor; None for inputs and initializers."""
        found: Node | None = tensor.inputs[0] if tensor.inputs else None
        return found

    def readers(self, tensor: Tensor) -> list[Node]:
        """The nodes that read the tensor, in bodies too; a node that reads it twice stands twice."""
        return list(tensor.outputs)

    def n_uses(self, tensor: Tensor) -> int:
        """Readers and other uses: graph outputs, annotations, training bindings, being a graph input."""
        return len(tensor.outputs) + len(tensor.external_uses) + (self._is_interface(tensor))

    def _is_interface(self, tensor: Tensor) -> bool:
        # Below IR 4 an initializer's input entry comes and goes with it.
        return tensor.is_input and (isinstance(tensor, Value) or self.ir_version >= 4)

    def constant_weight(self, node: Node) -> StoredTensor | None:
        """The tensor that a Constant node holds."""
        if node not in self._constant_weights:  # an edit takes a Constant out or leaves it as it is
            ref = reader.attribute_tensor(self.file, node, "value")
            self._constant_weights[node] = StoredTensor(self.file, ref) if ref is not None else None
        return self._constant_weights[node]

    def shape(self, tensor: Tensor) -> tuple[Dim, ...] | None:
        """Dims as inferred by onnx: numbers, symbols, or None; None where even the rank is unknown."""
        if isinstance(tensor, Const):
            return tuple(tensor.weight.shape)
        if self._shapes is None:
            self._infer()
        assert self._shapes is not None
        return self._shapes.get(id(tensor.scope), {}).get(tensor.origin)

    def elem_type(self, tensor: Tensor) -> int | None:
        """The tensor's element type as onnx numbers them, where it is known."""
        if isinstance(tensor, Const):
            return get_element_type(tensor.weight.dtype)
        if self._shapes is None:
            self._infer()
        return self._types.get(id(tensor.scope), {}).get(tensor.origin)

    def whole_numbers(self, tensor: Tensor) -> NDArray[Any] | None:
        """The value of a small tensor of integers or truth values, if it follows from sizes that the model states."""
        if self._shapes is None:
            self._infer()
        return self._values.get(id(tensor.scope), {}).get(tensor.origin) if isinstance(tensor, Value) else None

    def stale_shapes(self) -> tuple[str, ...]:
        """Tensors of which the file states another shape than follows from the inputs; the file's word is not used."""
        if self._shapes is None:
            self._infer()
        return self._stale

    def _infer(self) -> None:
        skeleton = self.file.skeleton
        scopes = [s for s in self.scopes if all(o.kind != "function" for o in s.chain())]
        found = self._infer_from(without_claims(skeleton), scopes)
        self._stale = list_stale(skeleton, found)
        if not self._stale and (told := with_claims(skeleton, found)) is not None:
            self._stale = list_stale(skeleton, self._infer_from(told, scopes))
            if self._stale:  # what it says of one tensor is wrong by what it says of another
                self._infer_from(without_claims(skeleton), scopes)

    def _infer_from(self, told: onnx.ModelProto, scopes: Sequence[Scope]) -> list[dict[str, tuple[Dim, ...]]]:
        """Find shapes, types and values by what a model tells of its tensors; the shapes, scope by scope."""
        inferred = infer_shapes(told)
        self._shapes, self._types, self._values = {}, {}, {}
        # Both walks go through the same nodes in the same order.
        for scope, graph in zip(scopes, graphs(inferred.graph), strict=True):
            dims: dict[str, tuple[Dim, ...]] = {}
            types: dict[str, int] = {}
            for info in (*graph.input, *graph.value_info, *graph.output):
                if info.type.HasField("tensor_type"):
                    types[info.name] = info.type.tensor_type.elem_type
                    if info.type.tensor_type.HasField("shape"):
                        dims[info.name] = tuple(_dim(d) for d in info.type.tensor_type.shape.dim)
            self._shapes[id(scope)] = dims
            self._types[id(scope)] = types
        if computes_sizes(told):
            for scope, found in zip(scopes, follow_sizes(inferred), strict=True):
                self._shapes[id(scope)] |= found.dims
                self._types[id(scope)] |= found.types
                self._values[id(scope)] = found.values
        self._solve_sizes()
        return [self._shapes[id(s)] for s in scopes]

    @staticmethod
    def _inferred_dims(tensor: Tensor, dims: dict[str, tuple[Dim, ...]]) -> tuple[Dim, ...] | None:
        return tuple(tensor.weight.shape) if isinstance(tensor, Const) else dims.get(tensor.origin)

    def _solve_sizes(self) -> None:
        """Sizes that inference named but could not compute: a Reshape gives as many elements as it takes."""
        assert self._shapes is not None
        solved: dict[str, int] = {}
        for node in self.nodes():
            dims = self._shapes.get(id(node.scope), {})
            if node.is_op("Reshape") and len(node.inputs) > 1:
                before, after = (self._inferred_dims(t, dims) for t in (node.inputs[0], node.outputs[0]))
                if before is not None and after is not None:
                    solved |= _missing_size([solved.get(d, d) if isinstance(d, str) else d for d in before], after)
        for names in self._shapes.values():
            for name, shape in names.items():
                if any(d in solved for d in shape if isinstance(d, str)):
                    names[name] = tuple(solved.get(d, d) if isinstance(d, str) else d for d in shape)

    # -- apply -----------------------------------------------------------------------------

    def apply(self, edits: Iterable[Edit]) -> Delta:
        """Carry out the edits in order, then remove what became unreachable by them, and only that.

        Raises
        ------
        InvariantViolation
            An edit cannot be carried out: the plan's guards lied.
        """
        self.version += 1
        change = _Change()
        for edit in edits:
            self.wiring += isinstance(edit, Bypass | SetInput | SetOp)
            match edit:
                case SetConst():
                    self._set_const(edit, change)
                case SetInput(node, slot, tensor):
                    change.loose.append(node.inputs[slot])
                    node.inputs[slot] = tensor
                    change.touch(node)
                case DropInput():
                    self._drop_input(edit, change)
                case SetAttr(node, name, value):
                    node.attr_edits[name] = value
                    change.touch(node)
                case SetOp(node, op):
                    node.op = op
                    node.attr_edits = dict.fromkeys(node.attr_protos)
                    while len(node.outputs) > 1 and node.outputs[-1].name == "":
                        node.outputs.pop()  # absent outputs of the old operator
                    change.touch(node)
                case Bypass():
                    self._bypass(edit, change)
                case Rename(tensor):
                    self._rename(tensor, self._unused_name(f"{tensor.origin}/biasopt"))
        self._collect(change)
        return change.delta()

    def growth(self, edits: Iterable[Edit]) -> int:
        """Bytes that `apply` would add to the model's constants, less those that it would free."""
        added = 0
        lost: Counter[int] = Counter()
        tensors: dict[int, Tensor] = {}

        def loosen(tensor: Tensor) -> None:
            lost[id(tensor)] += 1
            tensors[id(tensor)] = tensor
            producer = self.producer(tensor)
            if lost[id(tensor)] == self.n_uses(tensor) and producer is not None:
                for source in producer.inputs:
                    loosen(source)

        for edit in edits:
            match edit:
                case SetConst(node, slot, weight):
                    added += 0 if self.find_copy(edit) is not None else weight_bytes(weight)
                    if (old := node.tensor_in(slot)) is not None:
                        loosen(old)
                case DropInput(node, slot) | SetInput(node, slot, _):
                    loosen(node.inputs[slot])
                case Bypass(node, slot):
                    for i, tensor in enumerate(node.inputs):
                        if i != slot:
                            loosen(tensor)
        free = [t for k, t in tensors.items() if t.name and lost[k] >= self.n_uses(t)]
        return added - sum(self.constant_bytes(t) for t in free)

    def constant_bytes(self, tensor: Tensor) -> int:
        """Bytes of an initializer, or of what a Constant node holds."""
        if isinstance(tensor, Const):
            return weight_bytes(tensor.weight)
        producer = self.producer(tensor)
        stored = self.constant_weight(producer) if producer is not None and producer.is_op("Constant") else None
        return 0 if stored is None else weight_bytes(stored)

    def bytes_with_short_names(self, measure: Callable[[], int]) -> int:
        """What `measure` says where all that edits named bears the shortest names that are free."""
        renamed = [t for s in self.scopes for t in s.values.values() if isinstance(t, Value) and t.name != t.origin]
        named = renamed + [c for s in self.scopes for c in s.new_constants]
        before, free = [t.name for t in named], (n for n in _short_names() if n not in self._names)
        for tensor, name in zip(named, free, strict=False):
            tensor.name = name
        found = measure()
        for tensor, name in zip(named, before, strict=True):
            tensor.name = name
        return found

    def _unused_name(self, name: str) -> str:
        if self.short_names:
            name = next(n for n in self._short if n not in self._names)
        candidate, n = name, 1
        while candidate in self._names:
            n += 1
            candidate = f"{name}_{n}"
        self._names.add(candidate)
        return candidate

    def find_source(self, tensor: Tensor | None) -> Tensor | None:
        """The model's own tensor that this one is, under another name, or stands in for since an edit."""
        while tensor is not None:
            if isinstance(tensor, Const):
                return tensor if tensor.made_of is None else tensor.made_of
            node = self.producer(tensor)
            if node is None or not node.is_op("Identity"):
                return tensor
            tensor = node.tensor_in(0)
        return None

    def is_shared(self, tensor: Tensor) -> bool:
        """Whether others read the tensor, or what it is another name of."""
        return self.n_uses(tensor) > 1 or (isinstance(tensor, Value) and self.find_source(tensor) is not tensor)

    def _copy_key(self, edit: SetConst) -> Hashable | None:
        source, recipe = self.find_source(edit.node.tensor_in(edit.slot)), getattr(edit.weight, "recipe", None)
        return None if source is None or recipe is None else (source, edit.node.scope, edit.role, recipe)

    def find_copy(self, edit: SetConst) -> Const | None:
        """A constant that another edit made of the same tensor in the same way: one is enough for all readers."""
        found = self._derived.get(self._copy_key(edit))
        return found if found is not None and found.scope.values.get(found.name) is found else None

    def _set_const(self, edit: SetConst, change: _Change) -> None:
        node = edit.node
        const = self.find_copy(edit)
        if const is None:
            const = Const(self._unused_name(f"{node.label}/biasopt/{edit.role}"), node.scope, edit.weight)
            held = node.tensor_in(edit.slot)
            const.made_of = self.find_source(held)
            if held is not None and self.is_shared(held):
                self._derived[self._copy_key(edit)] = const
            node.scope.values[const.name] = const
            node.scope.new_constants[const] = None
            change.added[id(const)] = const
        while len(node.inputs) <= edit.slot:
            node.inputs.append(Value("", node.scope))
        change.loose.append(node.inputs[edit.slot])
        node.inputs[edit.slot] = const
        change.touch(node)

    def _drop_input(self, edit: DropInput, change: _Change) -> None:
        node = edit.node
        change.loose.append(node.inputs[edit.slot])
        if node.is_op("Sum"):  # its terms are not told apart by their place: none is left empty
            del node.inputs[edit.slot]
        else:
            node.inputs[edit.slot] = Value("", node.scope)
        while node.inputs and node.inputs[-1].name == "":
            node.inputs.pop()
        change.touch(node)

    def _bypass(self, edit: Bypass, change: _Change) -> None:
        node = edit.node
        before, after = node.tensor_in(edit.slot), node.tensor_out(0)
        if before is None or after is None:
            raise InvariantViolation(f"{node.label}: bypassed, but slot {edit.slot} or its output is empty")
        self._take_out(node, change)
        if edit.keep == "input":
            if after.external_uses:
                raise InvariantViolation(f"{node.label}: bypassed, but its output {after.name!r} is used elsewhere")
            self._rewire(after, before, change)
        else:
            self._hand_name_up(node, before, after, change)

    def _hand_name_up(self, node: Node, before: Tensor, after: Tensor, change: _Change) -> None:
        producer = self.producer(before)
        if producer is None or before.external_uses or before.scope is not after.scope:
            if after.external_uses:
                raise InvariantViolation(f"{node.label}: bypassed, but the name {after.name!r} has no other bearer")
            self._rewire(after, before, change)
            return
        self._rewire(before, after, change)
        slot = next(i for i, t in enumerate(producer.outputs) if t is before)
        producer.outputs[slot] = after
        change.touch(producer)
        self._forget(before)

    def _rewire(self, old: Tensor, new: Tensor, change: _Change) -> None:
        for reader_node in dict.fromkeys(self.readers(old)):
            for slot, tensor in enumerate(list(reader_node.inputs)):
                if tensor is old:
                    reader_node.inputs[slot] = new
            change.touch(reader_node)
        if not old.inputs and not old.external_uses:
            self._forget(old)

    def _take_out(self, node: Node, change: _Change) -> None:
        node.alive = False
        change.loose += list(node.inputs)
        node.inputs.clear()
        node.outputs.clear()
        change.removed_nodes.append(node.label)
        for body in node.bodies:
            for inner in body.scope.nodes:
                if inner.alive:
                    self._take_out(inner, change)

    def _rename(self, tensor: Tensor, name: str) -> None:
        if tensor.external_uses or tensor.is_input:
            raise InvariantViolation(f"{tensor.name!r} is part of the model's interface and cannot be renamed")
        scope = tensor.scope
        scope.removed_names.add(tensor.name)
        del scope.values[tensor.name]
        tensor.name = name
        scope.values[name] = tensor

    def _forget(self, tensor: Tensor) -> None:
        scope = tensor.scope
        if scope.values.get(tensor.name) is tensor:
            del scope.values[tensor.name]
            scope.removed_names.add(tensor.name)

    def _collect(self, change: _Change) -> None:
        while change.loose:
            tensor = change.loose.pop()
            if tensor.name == "" or self.n_uses(tensor):
                continue
            producer = self.producer(tensor)
            if isinstance(tensor, Const):
                self._remove_const(tensor, change)
            elif producer is not None and all(t.name == "" or not self.n_uses(t) for t in producer.outputs):
                outputs = list(producer.outputs)
                stored = self.constant_weight(producer) if producer.is_op("Constant") else None
                change.freed += 0 if stored is None else weight_bytes(stored)
                self._take_out(producer, change)
                for out in outputs:
                    self._forget(out)

    def _remove_const(self, tensor: Const, change: _Change) -> None:
        scope = tensor.scope
        if scope.values.get(tensor.name) is not tensor:
            return
        if tensor.field is None:
            scope.new_constants.pop(tensor, None)
        else:
            scope.removed_fields.add(tensor.field.start)
        self._forget(tensor)
        change.removed[id(tensor)] = tensor

    def close(self) -> None:
        """Let go of the source file."""
        self.file.close()


class _Change:
    """What one ``apply`` does, counted as it is done."""

    def __init__(self) -> None:
        self.loose: list[Tensor] = []  # tensors that lost a reader
        self.removed_nodes: list[str] = []
        self.touched: dict[int, Node] = {}
        self.freed = 0  # bytes of tensors in Constant nodes that went away
        self.added: dict[int, Const] = {}
        self.removed: dict[int, Const] = {}

    def touch(self, node: Node) -> None:
        self.touched[id(node)] = node

    def delta(self) -> Delta:
        both = self.added.keys() & self.removed.keys()
        added = [t for k, t in self.added.items() if k not in both]
        removed = [t for k, t in self.removed.items() if k not in both]
        return Delta(
            removed_nodes=tuple(self.removed_nodes),
            changed_nodes=tuple(n.label for n in self.touched.values() if n.alive),
            removed_tensors=tuple(t.name for t in removed),
            added_tensors=tuple(t.name for t in added),
            bytes_added=sum(weight_bytes(t.weight) for t in added)
            - sum(weight_bytes(t.weight) for t in removed)
            - self.freed,
        )


def _short_names() -> Iterator[str]:
    """Names that are identifiers, the shortest first."""
    for n in itertools.count():
        yield from map("".join, itertools.product(string.ascii_letters, *[string.ascii_letters + string.digits] * n))


def _missing_size(before: Sequence[Dim], after: Sequence[Dim]) -> dict[str, int]:
    """The one size of `after` that has a made-up name, if the count of elements gives it."""
    fresh = [d for d in after if isinstance(d, str) and d.startswith("unk__") and d not in before]
    if len(fresh) != 1 or None in before or None in after:
        return {}
    symbols = [sorted(d for d in side if isinstance(d, str) and d != fresh[0]) for side in (before, after)]
    numbers = [math.prod(d for d in side if isinstance(d, int)) for side in (before, after)]
    if symbols[0] != symbols[1] or numbers[1] == 0 or numbers[0] % numbers[1]:
        return {}
    return {fresh[0]: numbers[0] // numbers[1]}


def _dim(d: onnx.TensorShapeProto.Dimension) -> Dim:
    if d.HasField("dim_value"):
        return int(d.dim_value) if d.dim_value >= 0 else None  # exporters write -1 for a size that they leave open
    return d.dim_param or None


def load(
    model: str | Path | onnx.ModelProto | bytes,
    *,
    data: str | Path | None = None,
    freeze_overridable: bool = False,
    written_out: bool = False,
) -> Graph:
    """Open a model.

    Parameters
    ----------
    model : path, ModelProto or bytes
    data : path, optional
        Directory of the external data; a file's own directory by default.
    written_out : bool
        With its functions written out at their calls, where that can be: `ModelFile.was_written_out` says so.

    Raises
    ------
    ModelError
        See `converter.model.file.ModelFile`.
    """
    if isinstance(model, onnx.ModelProto):
        try:
            source: Path | bytes = model.SerializeToString()
        except ValueError as exc:  # protobuf's own limit
            raise ModelError("<model>: over 2 GB in memory; save it with external data and give the path") from exc
    else:
        source = model if isinstance(model, bytes) else Path(model)
    file = ModelFile(source, Path(data) if data is not None else None)
    try:
        if written_out:
            file.write_out_functions()
        with collecting_seldom():
            return Graph(file, freeze_overridable=freeze_overridable)
    except (TypeError, ValueError, AttributeError, RecursionError) as exc:
        # Well-formed protobuf of ill-formed content: names that are no text, fields of the wrong kind.
        file.close()
        raise ModelError(f"{file.label}: damaged, or not an ONNX model ({exc}); export it again") from exc


@contextlib.contextmanager
def collecting_seldom() -> Iterator[None]:
    """Python's collector looks at all objects again and again while a graph of many makes few that it could free."""
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(max(before[0], 50_000), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
