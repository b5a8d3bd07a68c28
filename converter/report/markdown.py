"""Reports as Markdown, for a comment on a pull request: the verdict first, then what changed and what did not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from converter.records import Parity, Verdict
from converter.report import fates, groups, words
from converter.report.result import Folded

_MARK = {
    Verdict.PASS: "✅",
    Verdict.FAIL: "❌",
    Verdict.INCONCLUSIVE: "⚠️",
    Verdict.SKIPPED: "⚠️",
}


def fold_markdown(result: Folded, said: groups.Reasons, version: str) -> str:
    """One fold as a Markdown document that ends in a newline."""
    name = result.path.name if result.path else "model in memory"
    parts = [
        f"## biasopt: {literal(name)}",
        _verdict(result.parity),
        _written(result),
        table(("", "before", "after"), _count_rows(result), right=(1, 2)),
        _done(result),
        _fates(result),
        _left(result, said),
        _stages(result.parity),
        f"<sub>biasopt {version}</sub>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """A Markdown table; ``right`` are the columns that are set flush right."""
    rule = ["---:" if column in right else "---" for column in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, tuple(rule), *rows))


def literal(text: str) -> str:
    """Text from a model, as code: nothing in it is Markdown, HTML or a table's border."""
    shown = words.plain(text).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") or not shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def prose(text: str) -> str:
    """A sentence that may quote names from a model: no Markdown, HTML, mention or table border in it."""
    return re.sub(r"([\\`*_{}\[\]<>|#@~])", r"\\\1", words.plain(text))


def _verdict(parity: Parity | None) -> str:
    if parity is None:
        return "⚠️ **Parity was not checked.**"
    lines = [f"{_MARK[parity.verdict]} **Parity {parity.verdict.value}**: {words.verdict(parity)}."]
    if parity.verdict is not Verdict.PASS and parity.why:
        lines.append(prose(parity.why))
    if found := words.worst(parity):
        lines.append(prose(words.score(found)))
    return "\n\n".join(lines + [f"⚠️ {prose(warning)}" for warning in parity.warnings])


def _written(result: Folded) -> str:
    written = f"Written: {literal(result.output.name)}" if result.output else "No model was written."
    if result.frozen:
        names = ", ".join(literal(name) for name in result.frozen)
        title = f"No longer inputs of the model: {words.count(len(result.frozen), 'initializer')}"
        written += f"\n\n<details><summary>{title}</summary>\n\n{names}\n\n</details>"
    return written


def _count_rows(result: Folded) -> list[tuple[str, ...]]:
    before, after = result.before, result.after
    size_before, size_after = words.size(before.parameter_bytes), words.size(after.parameter_bytes)
    return [
        ("BatchNormalization", f"{before.batch_norms:,}", f"{after.batch_norms:,}"),
        ("bias vectors", f"{before.biases:,}", f"{after.biases:,}"),
        ("nodes", f"{before.nodes:,}", f"{after.nodes:,}"),
        ("parameters", size_before, size_after),
    ]


def _done(result: Folded) -> str:
    rows = [
        (literal(item.pass_name), f"{len(item.nodes):,}", words.SAFETY[item.safety])
        for item in groups.done(result.rewrites)
    ]
    return "### Done\n\n" + table(("pass", "nodes", "outputs"), rows, right=(1,)) if rows else "Nothing was rewritten."


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
    return f"<details><summary>Left as it was: {words.count(len(rows), 'reason')}</summary>\n\n{body}\n\n</details>"


def _nodes(nodes: tuple[str, ...], shown: int = 3) -> str:
    rest = f" and {len(nodes) - shown:,} more" if len(nodes) > shown else ""
    return ", ".join(literal(node) for node in nodes[:shown]) + rest


def _stages(parity: Parity | None) -> str:
    if parity is None or not parity.stages:
        return ""
    rows = [(words.STAGE.get(stage.id, stage.id), stage.status.value, prose(stage.why)) for stage in parity.stages]
    return "### How it was checked\n\n" + table(("what", "result", "found"), rows)
