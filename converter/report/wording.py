"""What numbers and codes mean, in plain words that every kind of report shares."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from converter.dataclass import dataclass
from converter.records import FateKind, Safety, Verdict
from converter.records.choices import StageId
from converter.report.blocks import Style

if TYPE_CHECKING:
    from converter.records import Environment, InputSet, Latency, OutputCheck, Parity

SAFETY = {
    Safety.EXACT: "exactly equal",
    Safety.ROUNDING: "equal up to float rounding",
    Safety.ASSUMES: "equal under an assumption",
}


@dataclass(frozen=True, slots=True)
class VerdictWords:
    """How a verdict is shown."""

    mark: str  # in a column of a terminal
    word: str  # on a page
    sign: str  # in Markdown
    clause: str
    style: Style


VERDICT = {
    Verdict.PASS: VerdictWords("ok", "Pass", "\u2705", "same outputs", Style.PASS),
    Verdict.FAIL: VerdictWords("FAIL", "Fail", "\u274c", "the outputs differ", Style.FAIL),
    Verdict.INCONCLUSIVE: VerdictWords(
        "inconclusive", "Inconclusive", "\u26a0\ufe0f", "could not be decided", Style.OPEN
    ),
    Verdict.SKIPPED: VerdictWords("skipped", "Not checked", "\u26a0\ufe0f", "not checked", Style.SKIP),
}


@dataclass(frozen=True, slots=True)
class LevelWords:
    """What a claim level rests on: as a clause of a verdict, and as a step of the ladder."""

    clause: str
    step: str


LEVEL = {
    "A": LevelWords(
        "on enough of your inputs, against a float64 reference", "enough of your own inputs for a bound on decisions"
    ),
    "P": LevelWords(
        "proved: every number recomputed, every rounding bounded", "every number recomputed, every rounding bounded"
    ),
    "B": LevelWords("against a float64 reference", "inputs measured against an exact reference"),
    "C": LevelWords("without a float64 reference to trust", "no exact reference to measure against"),
    "D": LevelWords("nothing was run", "only the structure was looked at"),
}

_UNRUN = {
    "none": "same inputs and outputs",
    "per-rewrite": "every rewritten place gives the same",
}  # what passed, where no output was

SCOPE = {
    "per-rewrite": "checked per rewrite: the model could not be run whole",
    "identical": "nothing was rewritten: the output is a copy of the input",
    "removal": "the same outputs before biases went by data",
    "none": "what they compute was not compared",
}


@dataclass(frozen=True, slots=True)
class StageWords:
    """A stage of the referee, which has one name everywhere: what it asks, what it proves, what its scores are of."""

    line: str
    proves: str
    unit: str = "of the limit"


_ALONE = (
    "Each rewritten place was looked at alone, so that no error can hide behind another: by a theorem on its rounding, "
    "or run before and after."
)
STAGE = {
    "environment": StageWords(
        "what was asked for is what ran",
        "The models ran where they were asked to run, and nowhere else.",
    ),
    "structure": StageWords(
        "inputs, outputs and well-formedness",
        "Inputs and outputs keep their names, types and shapes; the file is well formed.",
    ),
    "algebra": StageWords(
        "float64: the change against the rounding of weights",
        "Both models were computed in 64-bit arithmetic, where rounding all but vanishes. What difference is left may "
        "be no more than rounding the new weights to their stored type explains.",
        "times what rounding explains",
    ),
    "parameters": StageWords(
        "every folded weight, computed again",
        "Every rewritten weight was computed again, by a formula that shares no code with the rewrite, and compared.",
        "times what is allowed",
    ),
    "local": StageWords("each rewrite on its own", _ALONE, "times what is allowed"),
    "segments": StageWords("each rewrite on its own", _ALONE, "times what rounding explains"),
    "runtime": StageWords(
        "onnxruntime: the error against the original's",
        "Both models were run for real. The new one may be no further from the exact answer than the original is, "
        "but for a small factor: no float model is exact, the original neither.",
        "times the original's own error",
    ),
    "runtime-deployed": StageWords(
        "onnxruntime as deployed: the same",
        "The same once more with onnxruntime's own optimisations, and the precision in which the model will run.",
        "times the original's own error",
    ),
    "decision": StageWords(
        "decisions: how often the two models disagree",
        "How often the two models choose differently, and how often they might, on inputs like these.",
        "at most",
    ),
    "removal": StageWords(
        "biases that went by data: how often decisions changed",
        "Biases that matter were taken out, and weights changed to make up for them. On inputs that had no part in "
        "that, it was counted how often the new model decides otherwise.",
        "at most",
    ),
}

WEIGHTS_MOVE = "times what rounding the weights can change"  # the unit of a run without a float64 reference
DECIDES = ("decision", "removal")  # stages that count decisions


def stage(id_: str) -> StageWords:
    """The words for a stage; its name, where a later version wrote the document."""
    return STAGE.get(id_, StageWords(id_, ""))


OUTCOME = {
    "FASTER": "faster",
    "NOT-SLOWER": "not slower",
    "EQUIVALENT": "as fast",
    "SLOWER": "slower",
    "INCONCLUSIVE": "could not be decided",
}


@dataclass(frozen=True, slots=True)
class FateWords:
    """What became of a bias: in a count, and in a sentence."""

    brief: str
    means: str
    style: Style


FATE = {  # in the order in which they are told
    FateKind.DEAD: FateWords("dead", "nothing downstream depends on it", Style.DEAD),
    FateKind.ZERO: FateWords("zero", "it was zero in every element", Style.ZERO),
    FateKind.ABSORBED: FateWords(
        "absorbed downstream", "something further down that exists anyway takes it over", Style.ABSORBED
    ),
    FateKind.MERGED: FateWords("merged", "it became one with the bias of a layer beside it", Style.MERGED),
    FateKind.REMOVED: FateWords("removed by data", "on the data its layer's weights make up for it", Style.MERGED),
    FateKind.KEPT: FateWords("kept", "something downstream blocks it, so it stays", Style.KEPT),
}

DIFFERENCE = {  # the usual measures of a difference
    "max_abs": "largest difference",
    "mean_abs": "on average",
    "p99_abs": "99 % are below",
    "max_rel": "largest, relative",
    "max_ulp": "largest, in units in the last place",
    "cosine": "cosine similarity",
    "snr_db": "signal to noise",
}

_MOST = 800  # characters of one name or sentence that are shown; a model may hold names of megabytes
_TAIL = 150  # of these, so many are its end: there a message says what to do


def plain(text: str) -> str:
    """A name or a sentence as it may be shown: control characters escaped, the middle of a very long one left out.

    A name in a model must not be able to drive the terminal, or to fill it.
    """
    if len(text) <= _MOST:
        return escape(text)
    left_out = len(text) - _MOST
    return f"{escape(text[: _MOST - _TAIL])}... ({left_out:,} characters more) ...{escape(text[-_TAIL:])}"


def escape(text: str) -> str:
    """The text with its control characters escaped, whole."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def break_commands(text: str, *, in_markup: bool = False) -> str:
    """The text without what GitHub's runner takes for a command: ``::`` at the start of a line, ``##[`` anywhere.

    The runner reads all that a step prints. Nothing that comes from a file may speak to it: ``::stop-commands::``
    and ``::add-mask::`` change what the rest of the log means. ``in_markup``: as HTML and XML escape a character.
    """
    colon, number = ("&#58;", "&#35;") if in_markup else (r"\x3a", r"\x23")
    return _COMMAND.sub(lambda found: found[0].replace("::", f"{colon}:", 1).replace("##[", f"#{number}["), text)


_COMMAND = re.compile(r"(?:^|(?<=\r))[^\S\r\n]*::|##\[", re.MULTILINE)


def size(n_bytes: int) -> str:
    """Decimal units, three digits: ``97.8 MB``."""
    if abs(n_bytes) < 1000:
        return f"{n_bytes} B"
    value, units = n_bytes / 1000, ["kB", "MB", "GB", "TB"]
    while abs(value) >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:#.3g}".rstrip(".") + f" {units[0]}"


def duration(ms: float, digits: int = 3) -> str:
    """Milliseconds in the unit that suits them, three digits: ``12.3 ms``, ``840 us``, ``2.10 s``."""
    if not math.isfinite(ms):
        return "unknown"
    value, unit = (ms * 1000, "us") if abs(ms) < 0.9995 else (ms, "ms") if abs(ms) < 999.5 else (ms / 1000, "s")
    return f"{value:#.{digits}g}".rstrip(".") + f" {unit}"


def ratio(value: float) -> str:
    """How many times as long, three decimals: small differences are the point."""
    return f"{value:.3f}" if value < 10 else number(value)


def percent(share: float) -> str:
    """A share of one, in per cent: ``2 %``, ``0.1 %``."""
    return f"{100 * share:.3g} %"


def count(n: int, singular: str, plural: str = "") -> str:
    """``1 node``, ``2 nodes``."""
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def number(value: float) -> str:
    """Two significant digits; large ones whole."""
    return f"{value:,.0f}" if 99.5 <= abs(value) < 1e6 else f"{value:.2g}"


def read_number(value: Any) -> Any:
    """A number of a document; one that strict JSON lacks is a string there."""
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def list_names(names: tuple[str, ...], room: int = 60) -> str:
    """The first names, as many as fit in about ``room`` characters, and how many more there are."""
    shown = [plain(names[0])] if names else []
    for name in names[1:]:
        if sum(map(len, shown)) + 2 * len(shown) + len(name) > room:
            break
        shown.append(plain(name))
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f", and {rest:,} more" if rest else "")


def no_such_pass(name: str, known: Iterable[str]) -> str:
    """That no pass has this name, and the nearest that one has."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, cutoff=0.5)
    return f"there is no pass {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else "see `biasopt passes`.")


def worst(parity: Parity) -> OutputCheck | None:
    """The output that came closest to, or went furthest over, its limit; one that differs at all, if there is.

    A place inside the model is worth the line only where it is over its limit, or where no output was run.
    """
    scored = [
        (check.score / check.limit, stage.id in ("runtime", "runtime-deployed"), check)
        for stage in parity.stages
        if stage.id not in DECIDES  # their limits are shares, and of differences that may be below zero
        for check in stage.outputs
        if check.score is not None and check.limit
    ]
    return max(scored, key=lambda item: _rank(*item), default=(0.0, False, None))[2]


def _rank(ratio: float, ran: bool, check: OutputCheck) -> tuple[bool, bool, bool, bool, float, float]:
    # NaN compares false with everything: a score that is not a number is the worst there is
    return ratio != ratio, ratio > 1, ran, check.max_abs != 0, ratio, check.max_abs or 0.0


def score(check: OutputCheck) -> str:
    """One output's score, what it is a multiple of, and the difference itself; empty where there is none."""
    if check.score is None or check.limit is None:
        return ""
    if "error_after" in check.detail:  # both models were measured against an exact result
        said = f"its error is {number(check.score)} x the original model's"
    elif check.limit > 1:
        said = f"{number(check.score)} x what rounding the weights can change"
    else:  # a place or a weight: its score is in units of what it may be off
        said = f"{number(check.score)} x what rounding allows there"
    differs = "" if check.max_abs is None else f"differs by {number(check.max_abs)} at most, "
    return f"{plain(check.name)}: {differs}{said} (limit {number(check.limit)})"


def rests_on(parity: Parity) -> str:
    """What a comparison was of, where it was not of the outputs of two different models; else empty."""
    if parity.scope == "identical" and parity.stages:  # two files were given, and neither is a copy for all we know
        return "both models are one computation"
    return SCOPE.get(parity.scope, "")


def level(parity: Parity) -> str:
    """What the verdict rests on."""
    return LEVEL[parity.level].clause if parity.level in LEVEL else "level unknown"


_LOOKS_AT_OUTPUTS = {StageId.ALGEBRA, StageId.RUNTIME, StageId.RUNTIME_DEPLOYED}


def only_numbers_differ(parity: Parity) -> bool:
    """Whether the weights are not the recomputed ones, and every stage that looked at outputs found them the same."""
    failed = {stage.id for stage in parity.stages if stage.status is Verdict.FAIL}
    seen = {stage.status for stage in parity.stages if stage.id in _LOOKS_AT_OUTPUTS} - {Verdict.SKIPPED}
    return parity.verdict is Verdict.FAIL and failed == {StageId.PARAMETERS} and seen == {Verdict.PASS}


def verdict(parity: Parity) -> str:
    """What the verdict says and, where it passes, what it rests on."""
    if only_numbers_differ(parity):
        return f"the weights are not the recomputed ones; the outputs agree (level {parity.level})"
    by_data = parity.scope == "removal" and parity.verdict is Verdict.PASS
    said = ["the same decisions within the budget" if by_data else VERDICT[parity.verdict].clause]
    if parity.verdict is Verdict.PASS and parity.scope in _UNRUN:
        said = [_UNRUN[parity.scope]]
    if parity.verdict is Verdict.PASS:
        said.append(rests_on(parity) or level(parity))
    return f"{', '.join(said)} (level {parity.level})"


def speed(latency: Latency, who: str = "") -> str:
    """What the latency verdict says of ``who``, with its interval.

    ``B is not slower: 0.998 x the time (0.993 to 1.003, allowed 1.020)``
    """
    said = OUTCOME.get(latency.outcome, latency.outcome)
    if latency.verdict is Verdict.FAIL and latency.gate.startswith("faster") and latency.outcome != "SLOWER":
        said = f"not faster{latency.gate.removeprefix('faster').replace(':', ' by ')}"
    subject = f"{who} is " if who and latency.outcome != "INCONCLUSIVE" else ""
    allowed = f", allowed {ratio(1 + latency.margin)}" if latency.gate in ("not-slower", "equivalent") else ""
    return (
        f"{subject}{said}: {ratio(latency.ratio)} x the time ({ratio(latency.low)} to {ratio(latency.high)}{allowed})"
    )


def reason(latency: Latency) -> str:
    """Why the latency verdict is what it is, without the numbers, which `speed` says."""
    return latency.why.removeprefix(f"{latency.numbers}: ")


def sentence(clause: str) -> str:
    """A clause as a sentence; a name at its beginning keeps its case."""
    clause = plain(clause).strip()
    head = clause if clause.startswith("onnx") else clause[:1].upper() + clause[1:]
    return head + ("" if clause.endswith((".", "!", "?")) else ".") if clause else ""


def inputs(given: InputSet) -> str:
    """What the models were run on, on one line."""
    seed = f" (seed {given.seed})" if given.seed is not None and not given.real else ""
    source = f" from {plain(given.source)}" if given.source else ""
    cast = {name: f" (given as {plain(dtype)})" for name, dtype in given.cast_from.items()}
    shapes = [
        f"{plain(name)} {'x'.join(map(str, dims)) or 'scalar'}{cast.get(name, '')}"
        for name, dims in given.shapes.items()
    ]
    more = f", and {len(shapes) - 3} more" if len(shapes) > 3 else ""
    return f"{given.n:,} {given.kind}{source}{seed}" + (f": {', '.join(shapes[:3])}{more}" if shapes else "")


def environment(where: Environment) -> str:
    """Where it ran, on one line."""
    version = where.versions.get("onnxruntime", "")
    machine = where.gpu.get("name", "") or where.machine.get("cpu", "")
    parts = [where.provider_requested, f"onnxruntime {version}" if version else "", str(machine)]
    return ", ".join(plain(part) for part in parts if part)


def file_name(path: str) -> str:
    """The last part of a path of any system."""
    return path.replace("\\", "/").rpartition("/")[2]


def failure(parity: Parity | None, latency: Latency | None = None) -> str:
    """Why ``fold`` wrote nothing, on one line."""
    if latency is not None and latency.verdict is not Verdict.PASS:
        return f"latency {latency.verdict.value}: {plain(latency.why)}; nothing was written"
    if parity is None:
        return "nothing was written"
    return f"parity {parity.verdict.value}: {parity.why or VERDICT[parity.verdict].clause}; nothing was written"
