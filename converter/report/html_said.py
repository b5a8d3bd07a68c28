"""What the page says in plain words: the verdict in a sentence, what each stage proves, how strong the evidence is."""

from __future__ import annotations

from dataclasses import dataclass

from converter.records import Latency, Parity, Verdict
from converter.records.evidence import worst_verdict
from converter.report import wording
from converter.report.result import Folded

_ALONE = "Each rewritten place was run alone, before and after, so that no error can hide behind another."
_RUN = (
    "Both models were run for real. The new one may be no further from the exact answer than the original is, "
    "but for a small factor: no float model is exact, the original neither."
)
_SHIPPED = "The same once more with onnxruntime's own optimisations, and the precision in which the model will run."
_EXACT = (
    "Both models were computed in 64-bit arithmetic, where rounding all but vanishes. What difference is left may "
    "be no more than rounding the new weights to their stored type explains."
)
_WEIGHTS = "Every rewritten weight was computed again, by a formula that shares no code with the rewrite, and compared."
_CHOICES = "How often the two models choose differently, and how often they might, on inputs like these."

_REMOVED = (
    "Biases that matter were taken out, and weights changed to make up for them. On inputs that had no part in that, "
    "it was counted how often the new model decides otherwise."
)
STAGES = {
    "environment": ("The right machine", "The models ran where they were asked to run, and nowhere else."),
    "structure": ("Same interface", "Inputs and outputs keep their names, types and shapes; the file is well formed."),
    "algebra": ("Same mathematics", _EXACT),
    "parameters": ("Right weights", _WEIGHTS),
    "local": ("Right in every place", _ALONE),
    "segments": ("Right in every place", _ALONE),
    "runtime": ("Same outputs when run", _RUN),
    "runtime-deployed": ("Same outputs as deployed", _SHIPPED),
    "decision": ("Same decisions", _CHOICES),
    "removal": ("Same decisions without those biases", _REMOVED),
}

CLASSIC = {
    "max_abs": "largest difference",
    "mean_abs": "on average",
    "p99_abs": "99 % are below",
    "max_rel": "largest, relative",
    "max_ulp": "largest, in units in the last place",
    "cosine": "cosine similarity",
    "snr_db": "signal to noise",
}

UNITS = {
    "algebra": "times what rounding explains",
    "parameters": "times what is allowed",
    "local": "times what is allowed",
    "segments": "times what rounding explains",
    "runtime": "times the original's own error",
    "runtime-deployed": "times the original's own error",
    "decision": "at most",
    "removal": "at most",
}

LEVELS = (
    ("A", "enough of your own inputs for a bound on decisions"),
    ("B", "inputs measured against an exact reference"),
    ("C", "no exact reference to measure against"),
    ("D", "only the structure was looked at"),
)

WORD = {
    Verdict.PASS: "Pass",
    Verdict.FAIL: "Fail",
    Verdict.INCONCLUSIVE: "Not decided",
    Verdict.SKIPPED: "Not checked",
}

FATES = {
    "dead": "nothing downstream can feel it",
    "zero": "it was zero in every element",
    "absorbed": "something further down that exists anyway takes it over",
    "merged": "it became one with the bias of a layer beside it",
    "kept": "it is felt, so it stays",
}


@dataclass(frozen=True, slots=True)
class Headline:
    """The verdict in one word, one short sentence and one longer."""

    verdict: Verdict
    sentence: str
    more: str


def overall(parity: Parity | None, latency: Latency | None) -> Verdict:
    """One verdict of two; a speed that nothing was asked of has no say."""
    return worst_verdict((part.verdict for part in (parity, latency) if part is not None), nothing=Verdict.SKIPPED)


def fold(result: Folded, latency: Latency | None) -> Headline:
    """The headline of a fold."""
    parity = result.parity
    verdict = Verdict.SKIPPED if parity is None else overall(parity, latency)
    if parity is None:
        head = "Folded, but not checked."
    elif parity.scope == "identical" and not result.rewrites:
        head = "Nothing to fold."
    else:
        head = _answers(parity)
    if parity is not None and parity.verdict is Verdict.PASS and latency is not None:
        head += f" {_speed(latency)}"
    return Headline(verdict, head, _folded(result))


def verify(parity: Parity, latency: Latency | None) -> Headline:
    """The headline of a comparison."""
    head = _answers(parity) + (f" {_speed(latency)}" if latency is not None else "")
    if parity.verdict is Verdict.PASS:
        same = "has the inputs and outputs of" if parity.scope == "none" else "gives the same outputs as"
        more = f"Model B {same} model A, {wording.rests_on(parity) or level(parity)}."
    else:
        more = sentence(parity.why)
    return Headline(overall(parity, latency), head, more)


def bench(latency: Latency) -> Headline:
    """The headline of a benchmark."""
    band = f"between {wording.ratio(latency.low)} and {wording.ratio(latency.high)}"
    more = f"Model B takes {wording.ratio(latency.ratio)} times as long as model A, with confidence {band}."
    return Headline(latency.verdict, _speed(latency), f"{more} {sentence(wording.reason(latency))}".strip())


def level(parity: Parity) -> str:
    """What the verdict rests on."""
    return wording.level(parity)


def _answers(parity: Parity) -> str:
    if undecided_choices(parity):
        return "Same outputs. Decisions could not be bounded."
    if parity.scope == "removal" and parity.verdict is Verdict.PASS:
        return "Same decisions, within the budget."
    if parity.scope == "none" and parity.verdict is Verdict.PASS:
        return "Same inputs and outputs."
    return {
        Verdict.PASS: "Same answers.",
        Verdict.FAIL: "Different answers.",
        Verdict.INCONCLUSIVE: "Could not be decided.",
        Verdict.SKIPPED: "Not checked.",
    }[parity.verdict]


def undecided_choices(parity: Parity) -> bool:
    """Whether the outputs agree, and only what is decided from them is open."""
    open_ones = {stage.id for stage in parity.stages if stage.status is Verdict.INCONCLUSIVE}
    return parity.verdict is Verdict.INCONCLUSIVE and open_ones == {"decision"} and parity.level in "AB"


def outputs(parity: Parity) -> str:
    """What there is to say of the outputs alone."""
    if parity.scope == "none" and parity.verdict is Verdict.PASS:
        return "not compared"
    if parity.scope == "removal" and parity.verdict is Verdict.PASS:
        return "changed"
    said = {Verdict.PASS: "the same", Verdict.FAIL: "differ", Verdict.INCONCLUSIVE: "not decided"}
    return "the same" if undecided_choices(parity) else said.get(parity.verdict, "not checked")


def decisions(parity: Parity) -> str:
    """What there is to say of the decisions; empty where they were not looked at."""
    found = [stage.status for stage in parity.stages if stage.id in wording.DECIDES]
    said = {Verdict.PASS: "the same, within the margin", Verdict.FAIL: "differ", Verdict.INCONCLUSIVE: "not bounded"}
    return said.get(found[0], "") if found else ""


def _speed(latency: Latency) -> str:
    if latency.outcome == "INCONCLUSIVE":
        return "Speed could not be decided."
    said = wording.OUTCOME.get(latency.outcome, latency.outcome)
    return f"{said[:1].upper()}{said[1:]}."


def _folded(result: Folded) -> str:
    """What was done, what that means for the outputs, and what was written."""
    parity, gone = result.parity, result.before.batch_norms - result.after.batch_norms
    removed = sum(fate.kind.value != "kept" for fate in result.fates)
    norms = f"{gone:,} of {wording.count(result.before.batch_norms, 'batch norm')}" if gone else ""
    biases = f"{removed:,} of {wording.count(len(result.fates), 'bias', 'biases')}" if removed else ""
    parts = [part for part in (norms, biases) if part]
    went = wording.count(len(result.rewrites), "rewrite") + (f" took out {' and '.join(parts)}" if parts else "")
    if not result.rewrites:
        went = "No rewrite applies to this model"
    if parity is None:
        return f"{went}. The outputs of the two models were not compared."
    if parity.verdict is Verdict.PASS:
        agree = {
            "identical": "the result is a copy",
            "removal": "the outputs change, the decisions on data like yours hardly",
        }.get(parity.scope, "the outputs stay the same")
        return f"{went}; {agree}." + (" No model was written." if result.exit_code else "")
    return f"{sentence(parity.why)} No model was written.".strip() if result.output is None else sentence(parity.why)


def sentence(clause: str) -> str:
    """A clause as a sentence; a name at its beginning keeps its case."""
    clause = wording.plain(clause).strip()
    head = clause if clause.startswith("onnx") else clause[:1].upper() + clause[1:]
    return head + ("" if clause.endswith((".", "!", "?")) else ".") if clause else ""
