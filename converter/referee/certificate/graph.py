"""A model spread out for editing: wires between items, scope by scope. Knows nothing of why it is edited."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from converter.referee.certificate.constants import Constant, Held, Refusal, made

_STANDARD = ("", "ai.onnx")


@dataclass(eq=False)
class Wire:
    """A tensor: its name now and at first, who makes it, who reads it."""

    name: str
    scope: Area
    origin: str = ""
    maker: Item | None = None
    readers: list[Item] = field(default_factory=list)
    constant: Constant | None = None
    pins: int = 0  # uses that are no node
    is_input: bool = False
    ours: bool = False  # put in by an edit

    @property
    def used(self) -> bool:
        """Whether anything would miss it."""
        interface = self.is_input and (self.constant is None or self.scope.sheet.ir_version >= 4)
        return bool(self.readers or self.pins or interface)


@dataclass(eq=False)
class Item:
    """A node: what the original has, and what became of it."""

    proto: NodeProto
    scope: Area
    path: str
    label: str
    op: str
    inputs: list[Wire] = field(default_factory=list)
    outputs: list[Wire] = field(default_factory=list)
    attributes: dict[str, AttributeProto] = field(default_factory=dict)
    bodies: list[Area] = field(default_factory=list)
    alive: bool = True
    touched: bool = False
    number: int = 0

    @property
    def is_standard(self) -> bool:
        """Whether it is one of ONNX's own operators."""
        return self.proto.domain in _STANDARD and self.op not in self.scope.sheet.overridden

    def as_node(self) -> NodeProto:
        """The node as it is now; bodies as they were."""
        node = NodeProto(op_type=self.op, name=self.proto.name, domain=self.proto.domain)
        if self.proto.doc_string:
            node.doc_string = self.proto.doc_string
        if getattr(self.proto, "overload", ""):
            node.overload = self.proto.overload
        node.metadata_props.extend(self.proto.metadata_props)
        node.input.extend(w.name for w in self.inputs)
        node.output.extend(w.name for w in self.outputs)
        node.attribute.extend(self.attributes.values())
        return node


class Area:
    """A graph, a graph inside a node, or a function."""

    def __init__(self, sheet: Sheet, path: str, proto: GraphProto | FunctionProto, parent: Area | None) -> None:
        self.sheet, self.path, self.proto, self.parent = sheet, path, proto, parent
        self.names: dict[str, Wire] = {}
        self.items: list[Item] = []
        self.added: list[Wire] = []
        self.frozen: set[str] = set()
        self.first: set[str] = set()  # names that the original has here

    @property
    def is_function(self) -> bool:
        """Whether it is a function, which holds no initializers."""
        return isinstance(self.proto, FunctionProto)

    def find(self, name: str) -> Wire | None:
        """The wire of that name, here or around."""
        area: Area | None = self
        while area is not None:
            if name in area.names:
                return area.names[name]
            area = area.parent
        return None

    def declare(self, name: str) -> Wire:
        """The wire of that name here, made if need be; a fresh one for an absent tensor."""
        if not name:
            return Wire("", self)
        return self.names.setdefault(name, Wire(name, self, name))


class Sheet:
    """A whole model. ``frozen``: names that are no longer inputs but constants."""

    def __init__(self, model: ModelProto, folder: Path | None, frozen: frozenset[str] = frozenset()) -> None:
        self.model, self.folder = model, folder
        self.ir_version = model.ir_version
        self.overridden = {f.name for f in model.functions if f.domain in _STANDARD}
        self.areas: dict[str, Area] = {}
        self.items: dict[str, Item] = {}
        main = self._graph("", model.graph, None, frozen)
        self._training(main)
        for k, function in enumerate(model.functions):
            self._function(f"functions/{k}", function)
        for area in self.areas.values():
            area.first = set(area.names)
        self.taken = {name for area in self.areas.values() for name in area.names}

    def opset(self, area: Area) -> int:
        """The version of ONNX's own operators in a scope."""
        while area.parent is not None:
            area = area.parent
        own = area.proto.opset_import if isinstance(area.proto, FunctionProto) else ()
        for imports in (own, self.model.opset_import):
            found = max((o.version for o in imports if o.domain in _STANDARD), default=0)
            if found:
                return int(found)
        return 0

    def _graph(self, path: str, graph: GraphProto, parent: Area | None, frozen: frozenset[str] = frozenset()) -> Area:
        area = self.areas[path] = Area(self, path, graph, parent)
        for value in graph.input:
            area.declare(value.name).is_input = True
        for tensor in graph.initializer:
            wire = area.declare(tensor.name)
            wire.constant = Held(tensor, self.folder)
            if tensor.name in frozen and wire.is_input and self.ir_version >= 4:
                wire.is_input = False
                area.frozen.add(tensor.name)
        self._nodes(area, graph.node)
        for value in graph.output:
            self._pin(area, value.name)
        for note in graph.quantization_annotation:
            for entry in note.quant_parameter_tensor_names:
                self._pin(area, entry.value)
        return area

    def _function(self, path: str, function: FunctionProto) -> None:
        area = self.areas[path] = Area(self, path, function, None)
        for name in function.input:
            area.declare(name).is_input = True
        self._nodes(area, function.node)
        for name in function.output:
            self._pin(area, name)

    @staticmethod
    def _pin(area: Area, name: str) -> None:
        wire = area.find(name)
        if wire is not None:
            wire.pins += 1

    def _training(self, main: Area) -> None:
        for info in self.model.training_info:
            bindings = (*info.initialization_binding, *info.update_binding)
            names = {x for e in bindings for x in (e.key, e.value)}
            names |= {n for g in (info.initialization, info.algorithm) for node in g.node for n in node.input}
            for name in names & main.names.keys():
                main.names[name].pins += 1

    def _nodes(self, area: Area, protos: Any) -> None:
        for proto in protos:
            for name in proto.output:
                area.declare(name)
        for k, proto in enumerate(protos):
            path = f"{area.path}/nodes/{k}".lstrip("/")
            label = proto.name or f"{proto.op_type}:{next((o for o in proto.output if o), '')}"
            item = Item(proto, area, path, label, proto.op_type, number=len(self.items))
            self.items[path] = item
            area.items.append(item)
            item.attributes = {a.name: a for a in proto.attribute}
            for name in proto.input:
                wire = (area.find(name) if name else None) or area.declare(name)
                item.inputs.append(wire)
                wire.readers.append(item)
            for name in proto.output:
                wire = area.declare(name)
                wire.maker = item
                item.outputs.append(wire)
            for n, graph in enumerate(_bodies(proto)):
                item.bodies.append(self._graph(f"{path}/bodies/{n}", graph, area))

    def item(self, path: Any, where: str) -> Item:
        """The node at a path, which must still be there."""
        found = self.items.get(path) if isinstance(path, str) else None
        if found is None or not found.alive:
            raise Refusal(where, f"there is no node {path!r}")
        return found

    def area(self, path: Any, where: str) -> Area:
        """The scope at a path."""
        found = self.areas.get(path) if isinstance(path, str) else None
        if found is None:
            raise Refusal(where, f"there is no scope {path!r}")
        return found


def _bodies(proto: NodeProto) -> Iterator[GraphProto]:
    for attribute in proto.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def attribute_tensor(item: Item) -> TensorProto | None:
    """The tensor that a Constant holds."""
    found = item.attributes.get("value")
    return found.t if found is not None and found.HasField("t") else None


BaseOf = Callable[[Any], Constant]


@dataclass
class Change:
    """What one step does."""

    before: dict[str, tuple[NodeProto, list[Wire]]] = field(default_factory=dict)  # path -> node and inputs as it was
    removed: list[Item] = field(default_factory=list)
    gone: list[Wire] = field(default_factory=list)  # constants taken out
    loose: list[Wire] = field(default_factory=list)
    added: list[Wire] = field(default_factory=list)

    def touch(self, item: Item) -> None:
        """Note an item before it changes for the first time."""
        if item.path not in self.before:
            self.before[item.path] = (item.as_node(), list(item.inputs))
            item.touched = True


class Editor:
    """Changes a sheet."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self._verbs: dict[str, Callable[[dict[str, Any], Change, str], None]] = {
            "set-const": self._set_const,
            "drop-input": self._drop_input,
            "set-attr": self._set_attr,
            "set-op": self._set_op,
            "bypass": self._bypass,
            "rename": self._rename,
        }
        self.base_of: BaseOf = lambda record: _no_base()

    def apply(self, edits: Any, where: str) -> Change:
        """One step: its edits in order, then what nothing reads any more goes.

        Raises
        ------
        Refusal
            An edit cannot be carried out on the model as it is.
        """
        change = Change()
        if not isinstance(edits, list) or not edits:
            raise Refusal(where, "has no edits")
        for k, edit in enumerate(edits):
            here = f"{where}, edit {k + 1}"
            verb = self._verbs.get(str(edit.get("edit"))) if isinstance(edit, dict) else None
            if verb is None:
                raise Refusal(here, "is of an unknown kind")
            try:
                verb(edit, change, here)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as exc:
                raise Refusal(here, f"cannot be carried out ({type(exc).__name__}: {exc})") from exc
        self._sweep(change)
        return change

    def _item(self, edit: dict[str, Any], where: str) -> Item:
        return self.sheet.item(edit["node"], where)

    def _set_const(self, edit: dict[str, Any], change: Change, where: str) -> None:
        item, slot, name = self._item(edit, where), int(edit["slot"]), str(edit["name"])
        if not name or name in self.sheet.taken or not 0 <= slot <= len(item.inputs) + 4:
            raise Refusal(where, f"the name {name!r} is taken, or there is no input {slot}")
        self.sheet.taken.add(name)
        wire = Wire(name, item.scope, name, constant=made(edit["value"], self.base_of, where), ours=True)
        item.scope.names[name] = wire
        item.scope.added.append(wire)
        change.touch(item)
        while len(item.inputs) <= slot:
            item.inputs.append(Wire("", item.scope))
        self._let_go(item, item.inputs[slot], change)
        item.inputs[slot] = wire
        wire.readers.append(item)
        change.added.append(wire)

    def _drop_input(self, edit: dict[str, Any], change: Change, where: str) -> None:
        item, slot = self._item(edit, where), int(edit["slot"])
        change.touch(item)
        self._let_go(item, item.inputs[slot], change)
        item.inputs[slot] = Wire("", item.scope)
        while item.inputs and not item.inputs[-1].name:
            item.inputs.pop()

    @staticmethod
    def _let_go(item: Item, wire: Wire, change: Change) -> None:
        if wire.name:
            wire.readers.remove(item)
            change.loose.append(wire)

    def _set_attr(self, edit: dict[str, Any], change: Change, where: str) -> None:
        item, name = self._item(edit, where), str(edit["name"])
        change.touch(item)
        item.attributes.pop(name, None)
        if edit.get("value") is not None:
            item.attributes[name] = helper.make_attribute(name, edit["value"])

    def _set_op(self, edit: dict[str, Any], change: Change, where: str) -> None:
        item = self._item(edit, where)
        change.touch(item)
        item.op = str(edit["op"])
        item.attributes = {}
        while len(item.outputs) > 1 and not item.outputs[-1].name:
            item.outputs.pop()

    def _bypass(self, edit: dict[str, Any], change: Change, where: str) -> None:
        item, slot, keep = self._item(edit, where), int(edit["slot"]), edit["keep"]
        if keep not in ("input", "output"):
            raise Refusal(where, f"keeps {keep!r}")
        before, after = item.inputs[slot], item.outputs[0]
        if not before.name or not after.name:
            raise Refusal(where, f"input {slot} or the output of {item.label} is absent")
        maker = before.maker
        self._take_out(item, change)
        upward = keep == "output" and maker is not None and not before.pins and before.scope is after.scope
        if not upward and after.pins:
            raise Refusal(where, f"{after.name!r} is used elsewhere")
        if not upward:
            self._rewire(after, before, change)
            return
        assert maker is not None
        change.touch(maker)
        self._rewire(before, after, change)
        maker.outputs[maker.outputs.index(before)] = after
        before.maker, after.maker = None, maker  # so that what made it is not swept with the old name
        self._forget(before)

    def _rewire(self, old: Wire, new: Wire, change: Change) -> None:
        for reader in list(dict.fromkeys(old.readers)):
            change.touch(reader)
            reader.inputs = [new if w is old else w for w in reader.inputs]
            new.readers += [r for r in old.readers if r is reader]
        old.readers = []
        if old.maker is None or not old.maker.alive:
            self._forget(old)

    def _rename(self, edit: dict[str, Any], change: Change, where: str) -> None:
        area = self.sheet.area(edit["scope"], where)
        wire, name = area.names.get(edit["tensor"]), str(edit["to"])
        if wire is None or wire.pins or wire.is_input or wire.constant is not None:
            raise Refusal(where, f"{edit['tensor']!r} is not there, or may not be renamed")
        if not name or name in self.sheet.taken:
            raise Refusal(where, f"the name {name!r} is taken")
        self.sheet.taken.add(name)
        for item in (*([wire.maker] if wire.maker is not None else []), *dict.fromkeys(wire.readers)):
            change.touch(item)
        del area.names[wire.name]
        wire.name = name
        area.names[name] = wire

    # -- what nothing reads ----------------------------------------------------------------------

    def _take_out(self, item: Item, change: Change) -> None:
        change.touch(item)
        item.alive = False
        change.removed.append(item)
        for wire in item.inputs:
            self._let_go(item, wire, change)
        for body in item.bodies:
            for inner in body.items:
                if inner.alive:
                    self._take_out(inner, change)

    def _sweep(self, change: Change) -> None:
        while change.loose:
            wire = change.loose.pop()
            if not wire.name or wire.used:
                continue
            if wire.constant is not None:
                if wire.scope.names.get(wire.name) is wire:
                    self._forget(wire)
                    wire.scope.added = [w for w in wire.scope.added if w is not wire]
                    change.gone.append(wire)
            elif wire.maker is not None and wire.maker.alive and not any(o.used for o in wire.maker.outputs):
                outputs = list(wire.maker.outputs)
                self._take_out(wire.maker, change)
                for out in outputs:
                    self._forget(out)

    @staticmethod
    def _forget(wire: Wire) -> None:
        if wire.name and wire.scope.names.get(wire.name) is wire:
            del wire.scope.names[wire.name]


def _no_base() -> Constant:
    raise Refusal("certificate", "a constant without a base")
