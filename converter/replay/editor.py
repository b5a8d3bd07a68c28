"""The edits of a certificate, carried out one by one; everything that a step touches is noted as it was before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from onnx import NodeProto, helper

from converter.replay.constants import Constant, made
from converter.replay.refusal import Refusal
from converter.replay.sheet import Item, Sheet, Wire

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
        after.maker = maker
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
