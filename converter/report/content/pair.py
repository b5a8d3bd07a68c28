"""What is said of any pair: the two models, on what and where they ran, how to see it again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converter.records import Environment, InputSet, Latency, ModelFacts, Parity
from converter.report import wording
from converter.report.blocks import (
    Code,
    Column,
    Details,
    KeyValues,
    Medium,
    Only,
    Section,
    Table,
    Words,
    code,
    name,
    quiet,
    strong,
)
from converter.report.content import Run

OPERATORS = 12  # whose counts differ, that are shown


def models_section(a: ModelFacts | None, b: ModelFacts | None) -> Section:
    """What the two models are, and which operators differ."""
    pair = [(letter, model) for letter, model in (("A", a), ("B", b)) if model is not None]
    names = [model_name(model) for _, model in pair]
    if len(set(names)) < len(names):  # told apart by their folders
        names = [model.path or "model in memory" for _, model in pair]
    brief = [(letter, strong(model.path or "model in memory"), _facts(model)) for letter, model in pair]
    rows = [
        (
            letter,
            name(shown),
            wording.size(model.size_bytes) if model.size_bytes else "",
            f"{model.opset or ''}",
            f"{sum(model.nodes.values()):,}" if model.nodes else "",
            code(model.sha256[:12]),
        )
        for (letter, model), shown in zip(pair, names, strict=True)
    ]
    columns = (
        Column(),
        Column("model"),
        Column("size", right=True),
        Column("opset", right=True, wide=True),
        Column("nodes", right=True),
        Column("sha256", media=Medium.COMMENT),
    )
    return Section(
        "The two models",
        (
            Only(Medium.SCREEN, Table((Column(), Column(), Column()), brief)),
            Only(Medium.FILES, Table(columns, rows)),
            Only(Medium.PAGE, _operators(a, b)),
        ),
        about="A is the original, B the one that is to take its place.",
        id="models",
        titled=Medium.PAGE,
    )


def model_name(model: ModelFacts | None) -> str:
    """The name of its file."""
    return wording.file_name(model.path or "" if model else "") or "model in memory"


def _facts(model: ModelFacts) -> str:
    nodes = wording.count(sum(model.nodes.values()), "node")
    return f"{wording.size(model.size_bytes)}, opset {model.opset}, {nodes}"


def _operators(a: ModelFacts | None, b: ModelFacts | None) -> Table:
    """Operators whose count differs."""
    before, after = (model.nodes if model else {} for model in (a, b))
    names = dict.fromkeys([*before, *after]) if before and after else {}
    counts = [(op, before.get(op, 0), after.get(op, 0)) for op in names]
    rows = [(name(op), f"{x:,}", f"{y:,}", change(y - x)) for op, x, y in counts if x != y]
    numbers = [Column(title, right=True) for title in ("A", "B", "change")]
    return Table((Column("operators that differ"), *numbers), rows, most={Medium.PAGE: OPERATORS})


def change(by: int, said: str = "") -> str:
    """A change with its sign; empty where there is none."""
    return f"{'+' if by > 0 else chr(0x2212)}{said or f'{abs(by):,}'}" if by else ""


def again_section(
    run: Run,
    *,
    parity: Parity | None = None,
    latency: Latency | None = None,
    certificate: str = "",
    media: Medium = Medium.ALL,
) -> Section:
    """On what and where it ran, and how to see it again."""
    inputs = parity.inputs if parity else latency.inputs if latency else None
    where = parity.environment if parity else latency.environment if latency else None
    a, b = (parity.a, parity.b) if parity else (latency.model_a, latency.model_b) if latency else (None, None)
    failing = parity.failing_inputs if parity else ""
    other = parity.environment_b if parity else None
    brief = list(_ground(inputs, where, failing, other))
    certified: list[tuple[str, Words]] = [("Certificate", name(certificate))] if certificate else []
    command = [Code(wording.escape(run.command_line))] if run.command_line else []
    known: list[tuple[str, Words]] = [
        *_ground(inputs, where, failing, other, hashes=True),
        *(
            (f"Model {letter}", (name(model.path or "in memory"), *_hash(model.sha256)))
            for letter, model in (("A", a), ("B", b))
            if model is not None
        ),
        *certified,
        ("Exit code", f"{run.exit_code}"),
    ]
    machine = KeyValues(list(_machine(where)) if where else [])
    return Section(
        "See it again",
        (
            Only(Medium.SCREEN, KeyValues(brief)),
            Only(Medium.COMMENT, Details("How to see it again", (KeyValues([*brief, *certified]), *command))),
            Only(Medium.PAGE, *command, KeyValues(known), Details("Machine and versions", (machine,))),
        ),
        about="What is needed to repeat this, and to know the files again.",
        id="again",
        media=media,
        titled=Medium.PAGE,
    )


def _ground(
    inputs: InputSet | None,
    where: Environment | None,
    failing: str,
    other: Environment | None = None,
    *,
    hashes: bool = False,
) -> Iterator[tuple[str, Words]]:
    if inputs is not None:
        yield "Inputs", (wording.inputs(inputs), *(_hash(inputs.sha256) if hashes else ()))
    if where is not None:
        yield "A ran on" if other else "Ran on", wording.environment(where)
    if other is not None:
        yield "B ran on", wording.environment(other)
    if failing:
        yield "Failing inputs", name(failing)


def _hash(sha256: str) -> tuple[Any, ...]:
    return (" ", quiet(f"sha256 {sha256}")) if sha256 else ()


def _machine(where: Environment) -> Iterator[tuple[str, Words]]:
    for key, value in where.machine.items():
        is_size = key.endswith("bytes") and isinstance(value, int)
        yield key.replace("_", " "), wording.size(value) if is_size else f"{value}"
    yield from ((f"GPU {key.replace('_', ' ')}", f"{value}") for key, value in where.gpu.items())
    yield from where.versions.items()
    yield from where.provider_options.items()
    if where.providers_active:
        yield "providers", ", ".join(where.providers_active)
    yield from ((f"nodes on {key}", f"{value}") for key, value in where.nodes_by_ep.items())
