"""Step by step from an original to its folded model, each step with all that can be said of it."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from converter.protos.digest import node_record
from converter.protos.form_weights import Compared
from converter.protos.source import Source
from converter.replay.constants import Constant, Held, Made, encoded, rounding
from converter.replay.derive import evaluated
from converter.replay.editor import Change, Editor
from converter.replay.places import LIMIT, Types, places
from converter.replay.refusal import Refusal
from converter.replay.sheet import Sheet, Wire, attribute_tensor

ASKED = ("id", "pass", "version", "safety", "node", "output", "guards", "edits")


class Engine:
    """Carries out the steps of a certificate on an original.

    Parameters
    ----------
    source : Source
    frozen : set of str
        Inputs with a default value that became constants.
    """

    def __init__(self, source: Source, frozen: frozenset[str] = frozenset()) -> None:
        self.sheet = Sheet(source.proto, source.folder, frozen)
        self.editor = Editor(self.sheet)
        self.editor.base_of = self._base
        self.n_steps = 0
        self._types = Types(self.sheet)
        self._held = {(w.scope.path, w.name): w.constant for a in self.sheet.areas.values() for w in a.names.values()}
        self._computed: dict[tuple[str, str, int], Constant] = {}

    def step(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Carry out one step; returns the whole record of it, what was asked for included.

        Raises
        ------
        Refusal
            The step cannot be carried out, or does not leave the place's value as it was.
        """
        where = f"step {self.n_steps + 1} ({asked.get('id', 'without a name')})"
        change = self.editor.apply(asked.get("edits"), where)
        record = {key: asked[key] for key in ASKED if key in asked}
        record["before"] = [self._operand(w) for w in _constants(i for _, i in change.before.values())]
        alive = [i for i in map(self.sheet.items.__getitem__, change.before) if i.alive]
        record["after"] = [self._operand(w) for w in _constants(i.inputs for i in alive)]
        record["removed"] = sorted(i.path for i in change.removed)
        record["changed"] = {i.path: _outline(i.as_node()) for i in alive}
        record["rounding"] = {w.name: _rounding(w, where) for w in change.added if w not in change.gone}
        record["check"] = self._check(change, where)
        self.n_steps += 1
        return record

    def _check(self, change: Change, where: str) -> dict[str, Any]:
        """The algebra of the step, in float64."""
        found: list[Compared] = []
        names: list[str] = []
        for place in places(self.sheet, change, self._types):
            problem = place.problem or place.moved(_within)
            if problem:
                return {"recomputed": False, "why": problem}
            bad = [c for c in place.compared if not _within(c)]
            if bad:
                raise Refusal(where, _said(bad[0]))
            found += place.compared
            names.append(place.name)
        numbers = sum(c.count for c in found)
        return {"recomputed": True, "tensors": names, "numbers": numbers, "arrays": len(found)}

    def _operand(self, wire: Wire) -> dict[str, Any]:
        constant = wire.constant
        assert constant is not None
        kind = constant.dtype.name
        return {"name": wire.name, "dtype": kind, "shape": list(constant.shape), "sha256": constant.digest()}

    def _base(self, record: Any) -> Constant:
        """What a recipe starts from: a tensor of the original, by name or in a Constant node, or one computed."""
        where = f"step {self.n_steps + 1}"
        try:
            found = self._find(record)
        except (KeyError, TypeError, ValueError) as exc:
            raise Refusal(where, f"a base without {exc}") from exc
        if found is None:
            raise Refusal(where, f"the original holds no constant {record.get('tensor', record.get('node'))!r}")
        if found.digest() != record.get("sha256"):
            raise Refusal(
                where, f"{record.get('tensor', record.get('node'))!r} is not what the certificate starts from"
            )
        return found

    def _find(self, record: dict[str, Any]) -> Constant | None:
        if record["kind"] == "node":
            item = self.sheet.items.get(record["node"])
            tensor: TensorProto | None = None if item is None else attribute_tensor(item)
            return None if tensor is None else Held(tensor, self.sheet.folder)
        if record["kind"] == "stored":
            return self._held.get((record["scope"], record["tensor"]))
        key = (str(record["scope"]), str(record["tensor"]), int(record["step"]))
        if key not in self._computed and key[2] == self.n_steps + 1:
            wire = self.sheet.area(key[0], "certificate").find(key[1])
            value = None if wire is None else evaluated(wire)
            if value is not None:
                self._computed[key] = value
        return self._computed.get(key)


def _within(c: Compared) -> bool:
    return c.score <= LIMIT


def _constants(inputs: Any) -> list[Wire]:
    wires = {id(w): w for row in inputs for w in row if w.constant is not None}
    return sorted(wires.values(), key=lambda w: (w.scope.path, w.name))


def _outline(node: Any) -> list[Any]:
    """A node without the tensors in its attributes, which no edit changes, and its bodies, which are their own."""
    bare = type(node)()
    bare.CopyFrom(node)
    del bare.attribute[:]
    bare.attribute.extend(a for a in node.attribute if not (a.HasField("t") or a.HasField("g") or a.graphs))
    return node_record(bare, None)


def _rounding(wire: Wire, where: str) -> dict[str, Any]:
    constant = wire.constant
    if not isinstance(constant, Made):
        raise Refusal(where, f"{wire.name!r} was not made by a recipe")
    off, bound = rounding(constant)
    if not bool((off <= bound).all()):
        raise Refusal(where, f"{wire.name!r} is rounded further than its type explains")
    ratio = max((float(o / b) for o, b in zip(off, bound, strict=True) if b > 0), default=0.0)
    return {"residual": encoded(off), "bound": encoded(bound), "worst": round(ratio, 6)}


def _said(c: Compared) -> str:
    where = f"{c.what} of {c.op} {c.layer!r}, channel {c.channel}"
    return f"{where}: {c.found!r} where {c.expected!r} follows from the operands"
