"""A rewritten place, before and after, number by number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto

from converter.errors import BiasoptError
from converter.protos.form_match import Matcher
from converter.protos.form_read import Reader
from converter.protos.form_rules import RULES
from converter.protos.form_weights import Compared
from converter.protos.forms import NotExpressed
from converter.protos.reference_call import Unsupported
from converter.protos.scopes import same_constant
from converter.protos.segments import Segment
from converter.protos.source import Source


@dataclass(frozen=True, slots=True)
class Place:
    """What came of recomputing one place; ``problem`` says why it could not be recomputed."""

    name: str
    compared: tuple[Compared, ...] = ()
    problem: str = ""

    @property
    def worst(self) -> Compared | None:
        """The array that is furthest off."""
        return max(self.compared, key=lambda c: c.score, default=None)

    def moved(self, within: Callable[[Compared], bool]) -> str:
        """Why a number that is not ``within`` its bound says nothing: it may have been moved past what the form knows.

        A factor between two linear operators may be in either; a weight that is damaged is off alone.
        """
        bad = [c for c in self.compared if not within(c)]
        weights = [c for c in bad if c.what == "weight"]
        moved = [c for c in bad if c.inner and c.what in ("bias", "scale")]
        lost = weights or any(c.what == "constant" for c in bad)
        if len(weights) < 2 and not any(c.what == "scale" for c in moved) and (lost or not moved):
            return ""
        found = (moved or weights)[0]
        return f"{found.what} of {found.op} {found.layer!r} went where the normal form does not follow"


def recompute(segment: Segment, a: Source, b: Source, done: dict[Any, Compared] | None = None) -> Place:
    """Recompute every number of a place; ``done`` remembers weights that several places share."""
    name = f"{segment.scope}/{segment.output}" if segment.scope else segment.output
    same = _unchanged(segment, a, b)
    try:
        before = Reader(segment.before, a.folder, {*_names(segment.before)}, RULES).read()
        after = Reader(segment.after, b.folder, same, RULES).read()
        return Place(name, tuple(Matcher(done).match(before, after)))
    except (NotExpressed, Unsupported, BiasoptError) as exc:
        return Place(name, (), str(exc))
    except (ValueError, IndexError, KeyError, TypeError, AssertionError, ArithmeticError) as exc:
        # Nodes that contradict themselves: that is for the stages that run them to say.
        return Place(name, (), f"cannot be read ({type(exc).__name__}: {' '.join(str(exc).split())[:120]})")


def _names(model: ModelProto) -> list[str]:
    made = [n.output[0] for n in model.graph.node if n.op_type == "Constant" and n.output]
    return [*(t.name for t in model.graph.initializer), *made]


def _unchanged(segment: Segment, a: Source, b: Source) -> set[str]:
    """Constants of the rewritten side that are the original's, to the bit."""
    old = {t.name: t for t in segment.before.graph.initializer}
    new = {t.name: t for t in segment.after.graph.initializer}
    kept = {n for n in old.keys() & new.keys() if same_constant(old[n], a, new[n], b)}
    nodes = {n.output[0]: n for n in segment.before.graph.node if n.op_type == "Constant"}
    for node in segment.after.graph.node:
        if node.op_type == "Constant" and node.output[0] in nodes:
            other = nodes[node.output[0]]
            if [x.SerializeToString() for x in node.attribute] == [x.SerializeToString() for x in other.attribute]:
                kept.add(node.output[0])
    return kept
