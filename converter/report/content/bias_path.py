"""Biases: what became of each, gathered and counted; the path of one, drawn as a tree; the memory of gates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from converter.dataclass import dataclass
from converter.records import EffectKind, Fate, FateKind, Gate, Step, Verb, Verdict
from converter.report import wording
from converter.report.blocks import (
    Block,
    Paragraph,
    Report,
    Section,
    Span,
    Style,
    Tree,
    TreeNode,
)

# ---- what a node does with the shift of a bias ---------------------------------------------------------

_MAX = "the largest value moves with all the others"
_MEAN = "a mean moves with its values"
_LAID_OUT = "lays it out anew"
_PICKS = "picks from it"
_WEIGHTS = "turns it, through its weights, into a shift of its own channels"
_CARRIES = {
    "Cast": "carries it over into another type",
    "Neg": "turns its sign",
    "Sub": "carries it, its sign turned where it is what is subtracted",
    "Mean": "carries its share",
    **dict.fromkeys(("Mul", "Div"), "scales it by its constant"),
    **dict.fromkeys(("Max", "Min"), "carries it: all its operands are shifted alike"),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool", "ReduceMax"), f"carries it: {_MAX}"),
    "ReduceMin": "carries it: the smallest value moves with all the others",
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean"), f"carries it: {_MEAN}"),
    "ReduceSum": "carries it as often as it sums",
    "Transpose": "carries it, its axes moved",
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _LAID_OUT),
    **dict.fromkeys(("Expand", "Tile"), "repeats it"),
    "Concat": "puts it beside its other inputs",
    "Split": "hands on its parts",
    **dict.fromkeys(("Slice", "Gather"), _PICKS),
    "Pad": "carries it: what it pads with is shifted alike",
    **dict.fromkeys(("Resize", "Upsample"), "carries it: between shifted values lie shifted ones"),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _LAID_OUT),
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm"), _WEIGHTS),
}
_HOW = {
    EffectKind.WEIGHTS: _WEIGHTS,
    EffectKind.DATA: "multiplies it by data; along one axis it stays the same",
    EffectKind.FACTOR: "scales it by a factor that depends on the data",
    EffectKind.SOFTMAX_ROWS: "hands it on unchanged: its weights sum to one",
    EffectKind.MASKED: "carries it, but for masked entries, which stay minus infinity",
}

_TAKEN = {  # the name of the constant would be noise
    EffectKind.BIAS: "takes it over into its bias",
    EffectKind.NEW_BIAS: "takes it over into a new bias",
    EffectKind.MEAN: "takes it over into its mean",
    EffectKind.CONSTANT: "takes it over into its constant",
}


def describe_step(step: Step) -> str:
    """What the node does with the shift."""
    match step.verb:
        case Verb.ABSORBS:
            said = _TAKEN.get(step.kind, step.how)
        case Verb.CANCELS:
            said = f"cancels it: {step.how}"
        case Verb.BLOCKS:
            said = "would change" if step.op == "output" else f"blocks it: {describe_block(step)}"
        case _:
            if len(step.sources) > 1:
                return "adds up the shifts that meet here"
            said = _HOW.get(step.kind) or _CARRIES.get(step.op, "carries it unchanged")
            if step.kind is EffectKind.UNNORMALIZED:  # what keeps the weights of an attention from it
                said = f"it is {step.how}"
    return wording.plain(said)


def describe_block(step: Step) -> str:
    """Why the node blocks the shift."""
    return "it is not linear" if step.kind is EffectKind.NONLINEAR else wording.plain(step.how)


# ---- the path of one bias ------------------------------------------------------------------------------


def explain_report(fate: Fate) -> Report:
    """The verdict first, then a tree for each part of the bias that goes its own way."""
    head, why = explain(fate)
    style = Style.OPEN if fate.kind is FateKind.KEPT else Style.PASS
    first = Paragraph((Span(head, style), f": {why}"))
    paths = _paths(fate)
    rest: list[Block] = [Tree(_tree(fate, path)) for path in paths]
    if not paths:
        rest = [Paragraph(f"{fate.op} {fate.node}: {wording.count(fate.elements, 'element')}")]
    elif fate.kind is FateKind.KEPT and all(step.verb is not Verb.BLOCKS for step in fate.path):
        rest.insert(0, Paragraph("Possible path:", small=True))
    sections = tuple(Section("", (block,)) for block in (first, *rest))
    return Report("inspect", fate.node, Verdict.SKIPPED, head, why, sections)


def explain(fate: Fate) -> tuple[str, str]:
    """What became of a bias: one word, and one sentence."""
    where = wording.plain(fate.where)
    match fate.kind:
        case FateKind.DEAD:
            return "Dead", "nothing downstream depends on this bias, so it goes."
        case FateKind.ZERO:
            return "Zero", "all elements of this bias are zero, so it goes."
        case FateKind.ABSORBED:
            n = where.count(", ") + 1
            by = f"{n} nodes take" if n > 1 else f"{where or 'another node'} takes"
            return "Absorbed", f"this bias goes, and {by} it over."
        case FateKind.MERGED:
            return "Merged", f"this bias becomes one with that of {where}."
        case FateKind.REMOVED:
            return "Removed", "on the data the weights of its layer make up for it."
    why = wording.plain(fate.why)
    if fate.removed:
        return "Kept in part", f"{fate.removed:,} of {wording.count(fate.elements, 'element')} become zero. {why}."
    hint = " `--freeze-overridable` would take it as a constant." if fate.code == "overridable" else ""
    return "Kept", f"{why}.{hint}"


def _paths(fate: Fate) -> list[tuple[Step, ...]]:
    """The path of each part of a fused bias, in the order in which they went."""
    found: dict[str, list[Step]] = {}
    for step in (
        fate.path if [step.node for step in fate.path] != [fate.node] else ()
    ):  # of an LSTM, which blocks its own
        found.setdefault(step.part, []).append(step)
    return [tuple(path) for path in found.values()]


def _tree(fate: Fate, path: tuple[Step, ...]) -> TreeNode:
    part = next((part for step in path if (part := step.part)), "")
    adds = f"its bias: {part or wording.count(fate.elements, 'element')}"
    root = TreeNode(Verb.STARTS, f"{fate.op} {fate.node}", adds)
    nodes = {fate.node: root}
    for step in path:
        node = TreeNode(step.verb, f"{step.op} {step.node}", describe_step(step))
        givers = [nodes[name] for name in step.sources if name in nodes]
        (givers or [root])[-1].children.append(node)
        nodes[step.node] = node
    return root


# ---- many biases -----------------------------------------------------------------------------------------

MOST = 4  # reasons named on one line
KEPT = {  # what keeps a bias that no operator blocks, in two words; other codes are in the table of what was not folded
    "batch-norm": "in batch norms that stay",
    "keep-bn": "in batch norms to be kept",
    "not-asked": "passes left out",
    "padded-shift": "zero padding behind",
    "unread": "read by nobody",
}


@dataclass(frozen=True, slots=True)
class FateGroup:
    """Biases with one fate for one reason. ``why`` is a clause that holds for all of them, or empty."""

    kind: FateKind
    what: str
    why: str
    fates: tuple[Fate, ...]


@dataclass(frozen=True, slots=True)
class BiasCounts:
    """Biases of a model: vectors and their elements, how many go, and how many of what stays become zero."""

    vectors: int
    vectors_removed: int
    elements: int
    elements_removed: int
    elements_zeroed: int = 0


def count_fates(fates: Sequence[Fate]) -> BiasCounts:
    """Count them."""
    gone = [f for f in fates if f.kind is not FateKind.KEPT]
    removed, all_removed = (sum(f.removed for f in some) for some in (gone, fates))
    return BiasCounts(len(fates), len(gone), sum(f.elements for f in fates), removed, all_removed - removed)


def group_fates(fates: Iterable[Fate]) -> list[FateGroup]:
    """By fate and reason; of one fate the most frequent reason first."""
    found: dict[tuple[FateKind, str], list[Fate]] = {}
    for fate in fates:
        found.setdefault((fate.kind, describe_end(fate)), []).append(fate)
    groups = [FateGroup(kind, said, _common(members), tuple(members)) for (kind, said), members in found.items()]
    return sorted(groups, key=lambda g: (list(wording.FATE).index(g.kind), -len(g.fates), g.what))


def blocker(fate: Fate) -> Step | None:
    """Where a bias that is kept is blocked; None if something else keeps it."""
    end = fate.path[-1] if fate.path else None
    return (
        end if end is not None and fate.kind is FateKind.KEPT and end.verb is Verb.BLOCKS and end.op != "use" else None
    )


def describe_end(fate: Fate) -> str:
    """Where it goes, or what keeps it, in a few words."""
    ends = {step.verb: step.op for step in fate.path}
    match fate.kind:
        case FateKind.ZERO:
            return "all its elements are zero"
        case FateKind.DEAD:
            return f"{ends.get(Verb.CANCELS, 'what follows')} cancels it"
        case FateKind.ABSORBED:
            return f"{ends.get(Verb.ABSORBS, 'a node')} downstream takes it over"
        case FateKind.MERGED:
            return "one with the bias of a layer beside it"
        case FateKind.REMOVED:
            return "the weights of its layer make up for it on the data"
    end = blocker(fate)
    said = fate.code if end is None else "it reaches an output" if end.op == "output" else f"blocked by {end.op}"
    return f"but for a part: {said}" if fate.removed else said


def describe_one(fate: Fate) -> str:
    """What is to be said of one bias, after its name, in a list of such."""
    if fate.kind is not FateKind.KEPT:
        return f" -> {fate.where}" if fate.where else ""
    end = blocker(fate)
    return f": {fate.why}" if end is None or fate.removed else f": {end.op} {end.node}"


def _common(fates: list[Fate]) -> str:
    """What the reason is, where it is the same for all and says more than `describe_end` does."""
    first = blocker(fates[0])
    if fates[0].kind is not FateKind.KEPT or (first is not None and first.op == "output"):
        return ""
    said = {fate.why if end is None else describe_block(end) for fate in fates for end in [blocker(fate)]}
    return said.pop() if len(said) == 1 else ""


def summarize_fates(fates: Sequence[Fate]) -> str:
    """All of it on one line: ``52: 17 absorbed downstream, 35 kept (blocked by Clip 34, output 1)``."""
    count = Counter(fate.kind for fate in fates)
    parts = [f"{count[kind]:,} {words.brief}" for kind, words in wording.FATE.items() if count[kind]]
    kept = [fate for fate in fates if fate.kind is FateKind.KEPT]
    ends = [blocker(fate) for fate in kept]
    blocked_by = Counter(end.op for end in ends if end is not None and end.op != "output")
    others = Counter(
        f.code if end is None else end.op
        for f, end in zip(kept, ends, strict=True)
        if f.code and (end is None or end.op == "output")
    )
    named = Counter({KEPT.get(code, code): 0 for code in others})
    for code, n in others.items():
        named[KEPT.get(code, code)] += n
    reasons = [f"blocked by {_list_counts(blocked_by)}"] * bool(blocked_by) + [_list_counts(named)] * bool(named)
    partly = sum(fate.removed for fate in kept)
    more = f"; {wording.count(partly, 'element')} of these become zero" if partly else ""
    why = f" ({', '.join(reasons)}{more})" if reasons or more else ""
    return f"{len(fates):,}: {', '.join(parts)}{why}"


def _list_counts(count: Counter[str]) -> str:
    """The most frequent first; what is rare is summed up."""
    ranked = sorted(count.items(), key=lambda item: (-item[1], item[0]))
    shown, rest = ranked[:MOST], sum(n for _, n in ranked[MOST:])
    return ", ".join([f"{name} {n:,}" for name, n in shown] + [f"others {rest:,}"] * bool(rest))


def percent_of(part: int, whole: int) -> str:
    """A share in per cent; small ones are not called nothing."""
    if not part:
        return "0 %"
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 1 else "under 1 %"


def removed_share(fates: Sequence[Fate]) -> str:
    """How many there are and what share of them goes."""
    t = count_fates(fates)
    of_vectors = percent_of(t.vectors_removed, t.vectors)
    of_elements = percent_of(t.elements_removed, t.elements)
    vectors = f"{t.vectors_removed:,} of {wording.count(t.vectors, 'vector')} go ({of_vectors})"
    elements = f"{t.elements_removed:,} of {wording.count(t.elements, 'element')} ({of_elements})"
    return f"{vectors}, {elements}" + (f"; {t.elements_zeroed:,} become zero" if t.elements_zeroed else "")


# ---- gates ---------------------------------------------------------------------------------------------


def describe_gate(found: Gate) -> str:
    """What a gate's bias says about its memory."""
    if found.mean is None or found.std is None:
        return "bias not known"
    bias = f"bias {found.mean:+.2f} on average (deviation {found.std:.2f})"
    if found.kept is None or found.memory_steps is None:
        return bias
    steps = f"{found.memory_steps:.1f}" if found.memory_steps < 1000 else f"{found.memory_steps:.2g}"
    return f"{bias}: keeps {100 * found.kept:.0f} % a step, so it remembers about {steps} steps"


def name_gate(found: Gate) -> str:
    """``forget gate``, with the direction where it is not the usual one."""
    return f"{found.gate} gate" + ("" if found.direction == "forward" else f", {found.direction}")
