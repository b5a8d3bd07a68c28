"""The evidence in Markdown: verdict, stages, latency, models, machine, how to see it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converter.records import Latency, ModelFacts, OutputCheck, Parity, Stage, Verdict
from converter.report import measured, verify_text, wording
from converter.report.markdown_words import MARK, block, details, literal, prose, table

MOST = 20  # rows of a stage's table; a comment has room for 65,536 characters


def verdict(parity: Parity | None) -> str:
    """The verdict, why, and the number that came closest to its limit."""
    if parity is None:
        return "⚠️ **Parity was not checked.**"
    lines = [f"{MARK[parity.verdict]} **Parity {parity.verdict.value}**: {wording.verdict(parity)}."]
    if parity.verdict is not Verdict.PASS and parity.why:
        lines.append(prose(parity.why))
    if parity.blame:
        lines.append(f"It begins at {literal(parity.blame)}.")
    if found := wording.worst(parity):
        lines.append(prose(wording.score(found)))
    return "\n\n".join(lines + [f"⚠️ {prose(warning)}" for warning in parity.warnings])


def latency(found: Latency | None, who: str) -> str:
    """The latency verdict on one line, and what it rests on."""
    if found is None:
        return ""
    lines = [f"{MARK[found.verdict]} **Latency {found.verdict.value}**: {prose(wording.speed(found, who))}."]
    if found.verdict is not Verdict.PASS and found.why:
        lines.append(prose(wording.reason(found)))
    return "\n\n".join(lines + [f"⚠️ {prose(warning)}" for warning in found.warnings])


def times(found: Latency | None) -> str:
    """Each figure of both models, and their ratio."""
    if found is None:
        return ""
    rows = [
        (name, left[0], right[0], wording.ratio(right[1] / left[1]) if left[1] else "")
        for name, left, right in verify_text.figures(found.a, found.b)
    ]
    told = [f"* {name}: {prose(said)}" for name, said in measured.told(found)]
    return "\n\n".join([table(("", "A", "B", "B / A"), rows, right=(1, 2, 3)), "\n".join(told)]).strip()


def pair(parity: Parity | None, found: Latency | None) -> str:
    """What the two models are."""
    a, b = (parity.a, parity.b) if parity else (found.model_a, found.model_b) if found else (None, None)
    rows = [_model(letter, model) for letter, model in (("A", a), ("B", b)) if model is not None]
    return table(("", "model", "size", "opset", "nodes", "sha256"), rows, right=(2, 3, 4)) if rows else ""


def _model(letter: str, model: ModelFacts) -> tuple[str, ...]:
    name = literal(model.path.replace("\\", "/").rpartition("/")[2] or "model in memory")
    nodes = f"{sum(model.nodes.values()):,}"
    return (letter, name, wording.size(model.size_bytes), f"{model.opset}", nodes, f"`{model.sha256[:12]}`")


def stages(parity: Parity | None, *, each: bool = True) -> str:
    """One table of the stages, and with ``each`` one under it for each stage that compared something."""
    if parity is None or not parity.stages:
        return ""
    rows = [(wording.stage(stage.id).line, stage.status.value, prose(stage.why)) for stage in parity.stages]
    head = "### How it was checked\n\n" + table(("what", "result", "found"), rows)
    tables = [_stage(stage) for stage in parity.stages] if each else []
    return "\n\n".join(text for text in (head, *tables) if text)


def _stage(stage: Stage) -> str:
    if not stage.outputs:
        return ""
    found = sorted(stage.outputs, key=_badness)
    rows = [_check(check) for check in found[:MOST]]
    more = f"\n\n… and {len(found) - MOST:,} more." if len(found) > MOST else ""
    title = f"{wording.stage(stage.id).line}: {wording.count(len(found), 'comparison')}"
    header = ("where", "result", "score", "limit", "largest difference", "why")
    return details(title, table(header, rows, right=(2, 3, 4)) + more)


def _badness(check: OutputCheck) -> tuple[bool, float]:
    """What fails first, then what came closest to its limit."""
    part = check.score / check.limit if check.score is not None and check.limit else 0.0
    return check.status is Verdict.PASS, -part if part == part else float("-inf")


def _check(check: OutputCheck) -> tuple[str, ...]:
    scores = ("" if x is None else wording.number(x) for x in (check.score, check.limit, check.max_abs))
    return (literal(check.name), check.status.value, *scores, prose(check.why))


def again(document: Mapping[str, Any], parity: Parity | None, found: Latency | None) -> str:
    """On what, where, and how to see it again."""
    inputs = parity.inputs if parity else found.inputs if found else None
    environment = parity.environment if parity else found.environment if found else None
    repro = document.get("repro") or {}
    lines = []
    if inputs is not None:
        lines.append(f"Inputs: {prose(verify_text.given(inputs))}")
    if environment is not None:
        lines.append(f"Ran on: {prose(verify_text.where(environment))}")
    if repro.get("failing_inputs"):
        lines.append(f"Failing inputs: {literal(repro['failing_inputs'])}")
    if document.get("certificate"):
        lines.append(f"Certificate: {literal(document['certificate'])}")
    if repro.get("cmd"):
        lines.append(block(wording.plain(repro["cmd"])))
    return details("How to see it again", "\n\n".join(lines))
