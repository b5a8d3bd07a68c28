"""A model spread out for editing: wires between items, scope by scope. Knows nothing of why it is edited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from converter.dataclass import dataclass
from converter.model.file.wire import tag
from converter.referee.certificate.constants import CertificateError, Constant, StoredConstant, build_constant
from converter.referee.proto.source import list_bodies

_STANDARD = ("", "ai.onnx")
_DOC_STRING = 6  # its field in a NodeProto


@dataclass(eq=False)
class Tensor:
    """A tensor: its name now and at first, who makes it, who reads it."""

    name: str
    scope: Scope
    origin: str = ""
    maker: Node | None = None
    readers: list[Node] = field(default_factory=list)
    constant: Constant | None = None
    pins: int = 0  # uses that are no node
    is_input: bool = False
    ours: bool = False  # put in by an edit

    @property
    def used(self) -> bool:
        """Whether anything would miss it."""
        interface = self.is_input and (self.constant is None or self.scope.graph.ir_version >= 4)
        return bool(self.readers or self.pins or interface)


@dataclass(eq=False)
class Node:
    """A node: what the original has, and what became of it."""

    proto: NodeProto
    scope: Scope
    path: str
    label: str
    op: str
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    attributes: dict[str, AttributeProto] = field(default_factory=dict)
    bodies: list[Scope] = field(default_factory=list)
    alive: bool = True
    touched: bool = False
    number: int = 0

    @property
    def is_standard(self) -> bool:
        """Whether it is one of ONNX's own operators."""
        return self.proto.domain in _STANDARD and self.op not in self.scope.graph.overridden

    def as_node(self) -> NodeProto:
        """The node as it is now; bodies as they were."""
        node = NodeProto(op_type=self.op, name=self.proto.name, domain=self.proto.domain)
        if self.proto.doc_string:
            node.MergeFromString(_write_text(_DOC_STRING, self.proto.doc_string))
        if getattr(self.proto, "overload", ""):
            node.overload = self.proto.overload
        node.metadata_props.extend(self.proto.metadata_props)
        node.input.extend(w.name for w in self.inputs)
        node.output.extend(w.name for w in self.outputs)
        node.attribute.extend(self.attributes.values())
        return node


def _write_text(number: int, text: str | bytes) -> bytes:
    """A field of text as protobuf stores it; what is no UTF-8 comes as bytes, which cannot be assigned."""
    content = text if isinstance(text, bytes) else text.encode()
    return tag(number, len(content)) + content


class Scope:
    """A graph, a graph inside a node, or a function."""

    def __init__(self, graph: Graph, path: str, proto: GraphProto | FunctionProto, parent: Scope | None) -> None:
        self.graph, self.path, self.proto, self.parent = graph, path, proto, parent
        self.names: dict[str, Tensor] = {}
        self.nodes: list[Node] = []
        self.added: list[Tensor] = []
        self.frozen: set[str] = set()
        self.first: set[str] = set()  # names that the original has here

    @property
    def is_function(self) -> bool:
        """Whether it is a function, which holds no initializers."""
        return isinstance(self.proto, FunctionProto)

    def find(self, name: str) -> Tensor | None:
        """The tensor of that name, here or around."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None

    def declare(self, name: str) -> Tensor:
        """The tensor of that name here, made if need be; a fresh one for an absent tensor."""
        if not name:
            return Tensor("", self)
        return self.names.setdefault(name, Tensor(name, self, name))


class Graph:
    """A whole model. ``frozen``: names that are no longer inputs but constants."""

    def __init__(self, model: ModelProto, folder: Path | None, frozen: frozenset[str] = frozenset()) -> None:
        self.model, self.folder = model, folder
        self.ir_version = model.ir_version
        self.overridden = {f.name for f in model.functions if f.domain in _STANDARD}
        self.scopes: dict[str, Scope] = {}
        self.nodes: dict[str, Node] = {}
        main = self._graph("", model.graph, None, frozen)
        self._training(main)
        for k, function in enumerate(model.functions):
            self._function(f"functions/{k}", function)
        for scope in self.scopes.values():
            scope.first = set(scope.names)
        self.taken = {name for scope in self.scopes.values() for name in scope.names}

    def opset(self, scope: Scope) -> int:
        """The version of ONNX's own operators in a scope."""
        while scope.parent is not None:
            scope = scope.parent
        own = scope.proto.opset_import if isinstance(scope.proto, FunctionProto) else ()
        for imports in (own, self.model.opset_import):
            found = max((o.version for o in imports if o.domain in _STANDARD), default=0)
            if found:
                return int(found)
        return 0

    def _graph(self, path: str, body: GraphProto, parent: Scope | None, frozen: frozenset[str] = frozenset()) -> Scope:
        scope = self.scopes[path] = Scope(self, path, body, parent)
        for value in body.input:
            scope.declare(value.name).is_input = True
        for stored in body.initializer:
            tensor = scope.declare(stored.name)
            tensor.constant = StoredConstant(stored, self.folder)
            if stored.name in frozen and tensor.is_input and self.ir_version >= 4:
                tensor.is_input = False
                scope.frozen.add(stored.name)
        self._nodes(scope, body.node)
        for value in body.output:
            self._pin(scope, value.name)
        for note in body.quantization_annotation:
            for entry in note.quant_parameter_tensor_names:
                self._pin(scope, entry.value)
        return scope

    def _function(self, path: str, function: FunctionProto) -> None:
        scope = self.scopes[path] = Scope(self, path, function, None)
        for name in function.input:
            scope.declare(name).is_input = True
        self._nodes(scope, function.node)
        for name in function.output:
            self._pin(scope, name)

    @staticmethod
    def _pin(scope: Scope, name: str) -> None:
        tensor = scope.find(name)
        if tensor is not None:
            tensor.pins += 1

    def _training(self, main: Scope) -> None:
        for info in self.model.training_info:
            bindings = (*info.initialization_binding, *info.update_binding)
            names = {x for e in bindings for x in (e.key, e.value)}
            names |= {n for g in (info.initialization, info.algorithm) for node in g.node for n in node.input}
            for name in names & main.names.keys():
                main.names[name].pins += 1

    def _nodes(self, scope: Scope, protos: Any) -> None:
        for proto in protos:
            for name in proto.output:
                scope.declare(name)
        for k, proto in enumerate(protos):
            path = f"{scope.path}/nodes/{k}".lstrip("/")
            label = proto.name or f"{proto.op_type}:{next((o for o in proto.output if o), '')}"
            node = Node(proto, scope, path, label, proto.op_type, number=len(self.nodes))
            self.nodes[path] = node
            scope.nodes.append(node)
            node.attributes = {a.name: a for a in proto.attribute}
            for name in proto.input:
                tensor = (scope.find(name) if name else None) or scope.declare(name)
                node.inputs.append(tensor)
                tensor.readers.append(node)
            for name in proto.output:
                tensor = scope.declare(name)
                tensor.maker = node
                node.outputs.append(tensor)
            for n, (_, body) in enumerate(list_bodies(proto)):
                node.bodies.append(self._graph(f"{path}/bodies/{n}", body, scope))

    def find_node(self, path: Any, where: str) -> Node:
        """The node at a path, which must still be there."""
        found = self.nodes.get(path) if isinstance(path, str) else None
        if found is None or not found.alive:
            raise CertificateError(where, f"there is no node {path!r}")
        return found

    def find_scope(self, path: Any, where: str) -> Scope:
        """The scope at a path."""
        found = self.scopes.get(path) if isinstance(path, str) else None
        if found is None:
            raise CertificateError(where, f"there is no scope {path!r}")
        return found


def find_attribute_tensor(node: Node) -> TensorProto | None:
    """The tensor that a Constant holds."""
    found = node.attributes.get("value")
    return found.t if found is not None and found.HasField("t") else None


BaseOf = Callable[[Any], Constant]


@dataclass
class Change:
    """What one step does."""

    before: dict[str, tuple[NodeProto, list[Tensor]]] = field(default_factory=dict)  # path -> node and inputs as it was
    removed: list[Node] = field(default_factory=list)
    gone: list[Tensor] = field(default_factory=list)  # constants taken out
    loose: list[Tensor] = field(default_factory=list)
    added: list[Tensor] = field(default_factory=list)

    def touch(self, node: Node) -> None:
        """Note a node before it changes for the first time."""
        if node.path not in self.before:
            self.before[node.path] = (node.as_node(), list(node.inputs))
            node.touched = True


class Editor:
    """Changes a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._verbs: dict[str, Callable[[dict[str, Any], Change, str], None]] = {
            "set-const": self._set_const,
            "set-input": self._set_input,
            "drop-input": self._drop_input,
            "set-attr": self._set_attr,
            "set-op": self._set_op,
            "bypass": self._bypass,
            "rename": self._rename,
        }
        self.base_of: BaseOf = lambda record: _refuse_base()

    def apply(self, edits: Any, where: str) -> Change:
        """One step: its edits in order, then what nothing reads any more goes.

        Raises
        ------
        Refusal
            An edit cannot be carried out on the model as it is.
        """
        change = Change()
        if not isinstance(edits, list) or not edits:
            raise CertificateError(where, "has no edits")
        for k, edit in enumerate(edits):
            here = f"{where}, edit {k + 1}"
            verb = self._verbs.get(str(edit.get("edit"))) if isinstance(edit, dict) else None
            if verb is None:
                raise CertificateError(here, "is of an unknown kind")
            try:
                verb(edit, change, here)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as exc:
                raise CertificateError(here, f"cannot be carried out ({type(exc).__name__}: {exc})") from exc
        self._sweep(change)
        return change

    def _find_node(self, edit: dict[str, Any], where: str) -> Node:
        return self.graph.find_node(edit["node"], where)

    def _set_const(self, edit: dict[str, Any], change: Change, where: str) -> None:
        node, slot, name = self._find_node(edit, where), int(edit["slot"]), str(edit["name"])
        constant = build_constant(edit["value"], self.base_of, where)
        held = node.scope.names.get(name)  # what an earlier edit made in the same way serves this reader too
        same = held is not None and held.ours and held.used and held.constant is not None
        if same and held is not None and held.constant is not None:
            same = held.constant.dtype == constant.dtype and held.constant.digest() == constant.digest()
        if not name or (name in self.graph.taken and not same) or not 0 <= slot <= len(node.inputs) + 4:
            raise CertificateError(where, f"the name {name!r} is taken, or there is no input {slot}")
        if held is None or not same:
            self.graph.taken.add(name)
            held = Tensor(name, node.scope, name, constant=constant, ours=True)
            node.scope.names[name] = held
            node.scope.added.append(held)
            change.added.append(held)
        tensor = held
        change.touch(node)
        while len(node.inputs) <= slot:
            node.inputs.append(Tensor("", node.scope))
        self._let_go(node, node.inputs[slot], change)
        node.inputs[slot] = tensor
        tensor.readers.append(node)

    def _drop_input(self, edit: dict[str, Any], change: Change, where: str) -> None:
        node, slot = self._find_node(edit, where), int(edit["slot"])
        change.touch(node)
        self._let_go(node, node.inputs[slot], change)
        if node.op == "Sum" and node.proto.domain in _STANDARD:  # a sum without one of its terms
            del node.inputs[slot]
        else:
            node.inputs[slot] = Tensor("", node.scope)
        while node.inputs and not node.inputs[-1].name:
            node.inputs.pop()

    def _set_input(self, edit: dict[str, Any], change: Change, where: str) -> None:
        node, slot = self._find_node(edit, where), int(edit["slot"])
        tensor = self.graph.find_scope(edit["scope"], where).names.get(edit["tensor"])
        made_before = tensor is not None and (tensor.maker is None or tensor.maker.number < node.number)
        if tensor is None or tensor.scope is not node.scope or not made_before or not 0 <= slot < len(node.inputs):
            raise CertificateError(where, f"{edit['tensor']!r} is not there before {node.label}")
        change.touch(node)
        self._let_go(node, node.inputs[slot], change)
        node.inputs[slot] = tensor
        tensor.readers.append(node)

    @staticmethod
    def _let_go(node: Node, tensor: Tensor, change: Change) -> None:
        if tensor.name:
            tensor.readers.remove(node)
            change.loose.append(tensor)

    def _set_attr(self, edit: dict[str, Any], change: Change, where: str) -> None:
        node, name = self._find_node(edit, where), str(edit["name"])
        change.touch(node)
        node.attributes.pop(name, None)
        if edit.get("value") is not None:
            node.attributes[name] = helper.make_attribute(name, edit["value"])

    def _set_op(self, edit: dict[str, Any], change: Change, where: str) -> None:
        node = self._find_node(edit, where)
        change.touch(node)
        node.op = str(edit["op"])
        node.attributes = {}
        while len(node.outputs) > 1 and not node.outputs[-1].name:
            node.outputs.pop()

    def _bypass(self, edit: dict[str, Any], change: Change, where: str) -> None:
        node, slot, keep = self._find_node(edit, where), int(edit["slot"]), edit["keep"]
        if keep not in ("input", "output"):
            raise CertificateError(where, f"keeps {keep!r}")
        before, after = node.inputs[slot], node.outputs[0]
        if not before.name or not after.name:
            raise CertificateError(where, f"input {slot} or the output of {node.label} is absent")
        maker = before.maker
        self._take_out(node, change)
        upward = keep == "output" and maker is not None and not before.pins and before.scope is after.scope
        if not upward and after.pins:
            raise CertificateError(where, f"{after.name!r} is used elsewhere")
        if not upward:
            self._reconnect(after, before, change)
            return
        assert maker is not None
        change.touch(maker)
        self._reconnect(before, after, change)
        maker.outputs[maker.outputs.index(before)] = after
        before.maker, after.maker = None, maker  # so that what made it is not swept with the old name
        self._forget(before)

    def _reconnect(self, old: Tensor, new: Tensor, change: Change) -> None:
        for reader in list(dict.fromkeys(old.readers)):
            change.touch(reader)
            reader.inputs = [new if w is old else w for w in reader.inputs]
            new.readers += [r for r in old.readers if r is reader]
        old.readers = []
        if old.maker is None or not old.maker.alive:
            self._forget(old)

    def _rename(self, edit: dict[str, Any], change: Change, where: str) -> None:
        scope = self.graph.find_scope(edit["scope"], where)
        tensor, name = scope.names.get(edit["tensor"]), str(edit["to"])
        if tensor is None or tensor.pins or tensor.is_input or tensor.constant is not None:
            raise CertificateError(where, f"{edit['tensor']!r} is not there, or may not be renamed")
        if not name or name in self.graph.taken:
            raise CertificateError(where, f"the name {name!r} is taken")
        self.graph.taken.add(name)
        for node in (*([tensor.maker] if tensor.maker is not None else []), *dict.fromkeys(tensor.readers)):
            change.touch(node)
        del scope.names[tensor.name]
        tensor.name = name
        scope.names[name] = tensor

    # -- what nothing reads ----------------------------------------------------------------------

    def _take_out(self, node: Node, change: Change) -> None:
        change.touch(node)
        node.alive = False
        change.removed.append(node)
        for tensor in node.inputs:
            self._let_go(node, tensor, change)
        for body in node.bodies:
            for inner in body.nodes:
                if inner.alive:
                    self._take_out(inner, change)

    def _sweep(self, change: Change) -> None:
        while change.loose:
            tensor = change.loose.pop()
            if not tensor.name or tensor.used:
                continue
            if tensor.constant is not None:
                if tensor.scope.names.get(tensor.name) is tensor:
                    self._forget(tensor)
                    tensor.scope.added = [w for w in tensor.scope.added if w is not tensor]
                    change.gone.append(tensor)
            elif tensor.maker is not None and tensor.maker.alive and not any(o.used for o in tensor.maker.outputs):
                outputs = list(tensor.maker.outputs)
                self._take_out(tensor.maker, change)
                for out in outputs:
                    self._forget(out)

    @staticmethod
    def _forget(tensor: Tensor) -> None:
        if tensor.name and tensor.scope.names.get(tensor.name) is tensor:
            del tensor.scope.names[tensor.name]


def _refuse_base() -> Constant:
    raise CertificateError("certificate", "a constant without a base")
