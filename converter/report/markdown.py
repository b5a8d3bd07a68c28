"""Reports as Markdown, for a comment on a pull request: the verdict first, then what changed and what did not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converter.report import fates, groups, markdown_evidence, wording
from converter.report.markdown_words import details, literal, prose, table
from converter.report.rebuilt import fold_of, latency_of, parity_of
from converter.report.result import Folded

__all__ = ["literal", "markdown", "prose", "table"]


MOST = 60_000  # characters: GitHub takes 65,536 in a comment


def markdown(document: Mapping[str, Any]) -> str:
    """A document of any kind as Markdown, ending in a newline; without long tables where a comment cannot hold them."""
    whole = _markdown(document, each=True)
    return whole if len(whole) <= MOST else _markdown(document, each=False)


def _markdown(document: Mapping[str, Any], *, each: bool) -> str:
    parts = _fold(document, each=each) if "counts" in document else _pair(document, each=each)
    version = (document.get("tool") or {}).get("version") or document.get("version", "")
    return "\n\n".join(part for part in [*parts, f"<sub>biasopt {version}</sub>"] if part) + "\n"


def _fold(document: Mapping[str, Any], *, each: bool) -> list[str]:
    result, parity, latency = fold_of(document), parity_of(document), latency_of(document)
    name = result.path.name if result.path else "model in memory"
    return [
        f"## biasopt: {literal(name)}",
        markdown_evidence.verdict(parity),
        markdown_evidence.latency(latency, "the folded model"),
        _written(result),
        table(("", "before", "after"), _count_rows(result), right=(1, 2)),
        _done(result),
        _removal(document.get("removal")),
        _fates(result),
        _left(result, document.get("reasons", {})),
        markdown_evidence.stages(parity, each=each),
        details("Latency", markdown_evidence.times(latency)),
        markdown_evidence.again(document, parity, latency),
    ]


def _pair(document: Mapping[str, Any], *, each: bool) -> list[str]:
    parity, latency = parity_of(document), latency_of(document)
    command = "verify" if parity else "bench"
    return [
        f"## biasopt {command}",
        markdown_evidence.verdict(parity) if parity else "",
        markdown_evidence.latency(latency, "B"),
        markdown_evidence.pair(parity, latency),
        markdown_evidence.times(latency),
        markdown_evidence.stages(parity, each=each),
        markdown_evidence.again(document, parity, latency),
    ]


def _written(result: Folded) -> str:
    written = f"Written: {literal(result.output.name)}" if result.output else "No model was written."
    if result.frozen:
        names = ", ".join(literal(name) for name in result.frozen)
        title = f"No longer inputs of the model: {wording.count(len(result.frozen), 'initializer')}"
        written += f"\n\n{details(title, names)}"
    return written


def _count_rows(result: Folded) -> list[tuple[str, ...]]:
    before, after = result.before, result.after
    size_before, size_after = wording.size(before.parameter_bytes), wording.size(after.parameter_bytes)
    return [
        ("BatchNormalization", f"{before.batch_norms:,}", f"{after.batch_norms:,}"),
        ("bias vectors", f"{before.biases:,}", f"{after.biases:,}"),
        ("nodes", f"{before.nodes:,}", f"{after.nodes:,}"),
        ("parameters", size_before, size_after),
    ]


def _done(result: Folded) -> str:
    rows = [
        (literal(item.pass_name), f"{len(item.nodes):,}", wording.SAFETY[item.safety])
        for item in groups.done(result.rewrites)
    ]
    return "### Done\n\n" + table(("pass", "nodes", "outputs"), rows, right=(1,)) if rows else "Nothing was rewritten."


def _removal(said: Mapping[str, Any] | None) -> str:
    lines = said["said"] if said else []
    return "### Removed by data\n\n" + "\n".join(f"* {prose(line.strip())}" for line in lines) if lines else ""


def _fates(result: Folded) -> str:
    if not result.fates:
        return ""
    rows = [
        (
            group.kind.value,
            f"{len(group.fates):,}",
            prose(group.what + (f": {group.why}" if group.why else "")),
            _nodes(tuple(fate.node for fate in group.fates)),
        )
        for group in fates.gathered(result.fates)
    ]
    body = table(("fate", "biases", "why", "for example"), rows, right=(1,))
    return f"### Biases\n\n{fates.heading(result.fates)}\n\n{body}"


def _left(result: Folded, said: groups.Reasons) -> str:
    items = groups.left(result.findings, said)
    rows = [(literal(item.code), f"{len(item.nodes):,}", prose(item.why), _nodes(item.nodes)) for item in items]
    if not rows:
        return ""
    body = table(("reason", "nodes", "what it means", "for example"), rows, right=(1,))
    return details(f"Left as it was: {wording.count(len(rows), 'reason')}", body)


def _nodes(nodes: tuple[str, ...], shown: int = 3) -> str:
    rest = f" and {len(nodes) - shown:,} more" if len(nodes) > shown else ""
    return ", ".join(literal(node) for node in nodes[:shown]) + rest
