"""What became of the biases, gathered and counted, in words that every kind of report shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from converter.records import Fate, FateKind, Gate, Step, Verb
from converter.report import wording
from converter.report.hops import felt

ORDER = (FateKind.DEAD, FateKind.ZERO, FateKind.ABSORBED, FateKind.MERGED, FateKind.KEPT)
MEANS = {
    FateKind.DEAD: "dead",
    FateKind.ZERO: "zero",
    FateKind.ABSORBED: "absorbed further down",
    FateKind.MERGED: "merged",
    FateKind.KEPT: "kept",
}

MOST = 4  # reasons named on one line


@dataclass(frozen=True, slots=True)
class Group:
    """Biases with one fate for one reason. ``why`` is a clause that holds for all of them, or empty."""

    kind: FateKind
    what: str
    why: str
    fates: tuple[Fate, ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """Biases of a model: bias vectors and their elements, and how many of them go."""

    vectors: int
    vectors_removed: int
    elements: int
    elements_removed: int


def totals(fates: Sequence[Fate]) -> Totals:
    """Count them."""
    removed = sum(fate.kind is not FateKind.KEPT for fate in fates)
    return Totals(len(fates), removed, sum(f.elements for f in fates), sum(f.removed for f in fates))


def gathered(fates: Iterable[Fate]) -> list[Group]:
    """By fate and reason; of one fate the most frequent reason first."""
    found: dict[tuple[FateKind, str], list[Fate]] = {}
    for fate in fates:
        found.setdefault((fate.kind, what(fate)), []).append(fate)
    groups = [Group(kind, said, _common(members), tuple(members)) for (kind, said), members in found.items()]
    return sorted(groups, key=lambda g: (ORDER.index(g.kind), -len(g.fates), g.what))


def stopper(fate: Fate) -> Step | None:
    """Where a bias that is kept is felt; None if something else keeps it."""
    end = fate.path[-1] if fate.path else None
    return (
        end if end is not None and fate.kind is FateKind.KEPT and end.verb is Verb.BLOCKS and end.op != "use" else None
    )


def what(fate: Fate) -> str:
    """Where it goes, or what keeps it, in a few words."""
    ends = {hop.verb: hop.op for hop in fate.path}
    match fate.kind:
        case FateKind.ZERO:
            return "all its elements are zero"
        case FateKind.DEAD:
            return f"{ends.get(Verb.CANCELS, 'what follows')} does not feel it"
        case FateKind.ABSORBED:
            return f"{ends.get(Verb.ABSORBS, 'a node')} further down takes it over"
        case FateKind.MERGED:
            return "one with the bias of a layer beside it"
    end = stopper(fate)
    said = fate.code if end is None else "it reaches an output" if end.op == "output" else f"felt by {end.op}"
    return f"but for a part: {said}" if fate.removed else said


def tail(fate: Fate) -> str:
    """What is to be said of one bias, after its name, in a list of such."""
    if fate.kind is not FateKind.KEPT:
        return f" -> {fate.where}" if fate.where else ""
    end = stopper(fate)
    return f": {fate.why}" if end is None or fate.removed else f": {end.op} {end.node}"


def _common(fates: list[Fate]) -> str:
    """What the reason is, where it is the same for all and says more than `what` does."""
    if fates[0].kind is not FateKind.KEPT:
        return ""
    said = {fate.why if end is None else felt(end) for fate in fates for end in [stopper(fate)]}
    return said.pop() if len(said) == 1 and not what(fates[0]).endswith("an output") else ""


def line(fates: Sequence[Fate]) -> str:
    """All of it on one line: ``52 seen, 17 absorbed further down, 35 kept: felt by Clip 34, output 1``."""
    count = Counter(fate.kind for fate in fates)
    parts = [f"{len(fates):,} seen", *(f"{count[kind]:,} {MEANS[kind]}" for kind in ORDER if count[kind])]
    kept = [fate for fate in fates if fate.kind is FateKind.KEPT]
    ends = [stopper(fate) for fate in kept]
    felt_by = Counter(end.op for end in ends if end is not None and end.op != "output")
    others = Counter(
        f.code if end is None else end.op
        for f, end in zip(kept, ends, strict=True)
        if f.code and (end is None or end.op == "output")
    )
    reasons = [f"felt by {_counted(felt_by)}"] * bool(felt_by) + [_counted(others)] * bool(others)
    partly = sum(fate.removed for fate in kept)
    more = f"; {wording.count(partly, 'element')} of these go" if partly else ""
    return ", ".join(parts) + (f": {', '.join(reasons)}" if reasons else "") + more


def _counted(count: Counter[str]) -> str:
    """The most frequent first; what is rare is summed up."""
    ranked = sorted(count.items(), key=lambda item: (-item[1], item[0]))
    shown, rest = ranked[:MOST], sum(n for _, n in ranked[MOST:])
    return ", ".join([f"{name} {n:,}" for name, n in shown] + [f"others {rest:,}"] * bool(rest))


def share(part: int, whole: int) -> str:
    """A share in per cent; small ones are not called nothing."""
    if not part:
        return "0 %"
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 1 else "under 1 %"


def heading(fates: Sequence[Fate]) -> str:
    """How many there are and what share of them goes."""
    t = totals(fates)
    vectors = (
        f"{t.vectors_removed:,} of {wording.count(t.vectors, 'vector')} go ({share(t.vectors_removed, t.vectors)})"
    )
    elements = (
        f"{t.elements_removed:,} of {wording.count(t.elements, 'element')} ({share(t.elements_removed, t.elements)})"
    )
    return f"{vectors}, {elements}"


def gate(found: Gate) -> str:
    """What a gate's bias says about its memory."""
    if found.mean is None or found.std is None:
        return "bias not known"
    bias = f"bias {found.mean:+.2f} on average (deviation {found.std:.2f})"
    if found.kept is None or found.memory_steps is None:
        return bias
    steps = f"{found.memory_steps:.1f}" if found.memory_steps < 1000 else f"{found.memory_steps:.2g}"
    return f"{bias}: keeps {100 * found.kept:.0f} % a step, so it remembers about {steps} steps"


def gate_name(found: Gate) -> str:
    """``forget gate``, with the direction where it is not the usual one."""
    return f"{found.gate} gate" + ("" if found.direction == "forward" else f", {found.direction}")
