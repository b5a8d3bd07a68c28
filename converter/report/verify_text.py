"""``verify`` and ``bench`` on the terminal: the verdict first, then what it rests on, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from converter.records import Environment, InputSet, Latency, ModelFacts, OutputCheck, Parity, Stage, Timing, Verdict
from converter.report import measured, wording

WIDTH = 80  # of these reports, where they go to no terminal
MOST = 5  # outputs or places shown per stage, the worst first; verbose shows them all
COLOUR = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.SKIPPED: "yellow",
}
_MARK = {Verdict.PASS: "ok", Verdict.FAIL: "FAIL", Verdict.INCONCLUSIVE: "open", Verdict.SKIPPED: "skipped"}

Block = list[RenderableType]


def verify_blocks(parity: Parity, *, verbose: bool = False) -> list[Block]:
    """What the referee found about a pair.

    Parameters
    ----------
    verbose : bool
        Show every output and place, not only the worst and those that do not pass.
    """
    return [
        _verdict(parity),
        _pair(parity.a, parity.b),
        _stages(parity.stages),
        *([_checks(stage, verbose=verbose)] for stage in parity.stages if _shown(stage, verbose=verbose)),
        _warnings(parity.warnings),
        _ground(parity.inputs, parity.environment, parity.failing_inputs),
    ]


def bench_blocks(latency: Latency, *, alone: bool = True) -> list[Block]:
    """What the benchmark found about a pair, B beside A.

    Parameters
    ----------
    alone : bool
        Nothing else is told of this pair: name the models, the inputs and the machine too.
    """
    return [
        _latency_verdict(latency),
        _pair(latency.model_a, latency.model_b) if alone else [],
        [_times(latency.a, latency.b)],
        _design(latency),
        _warnings(latency.warnings),
        _ground(latency.inputs, latency.environment, "") if alone else [],
    ]


def _verdict(parity: Parity) -> Block:
    head = Text.assemble((parity.verdict.value, COLOUR[parity.verdict]), f": {wording.verdict(parity)}")
    lines: Block = [head]
    if parity.verdict is not Verdict.PASS and parity.why:
        lines.append(Text(wording.plain(parity.why)))
    if parity.blame:
        lines.append(Text.assemble("It begins at ", (wording.plain(parity.blame), "bold")))
    return lines


def _latency_verdict(latency: Latency) -> Block:
    verdict = Text(latency.verdict.value, style=COLOUR[latency.verdict])
    lines: Block = [Text.assemble(verdict, f": {wording.speed(latency, 'B')}")]
    if latency.verdict is not Verdict.PASS and latency.why:
        lines.append(Text(wording.plain(wording.reason(latency))))
    return lines


def _pair(a: ModelFacts | None, b: ModelFacts | None) -> Block:
    table = grid("left", "left", "left")
    for letter, model in (("A", a), ("B", b)):
        if model is not None:
            nodes = wording.count(sum(model.nodes.values()), "node")
            said = f"{wording.size(model.size_bytes)}, opset {model.opset}, {nodes}"
            table.add_row(letter, Text(wording.plain(model.path or "model in memory"), style="bold"), said)
    return [table] if table.row_count else []


def _stages(stages: tuple[Stage, ...]) -> Block:
    if not stages:
        return []
    table = grid("left", "left", "left", "right")
    for stage in stages:
        took = "" if stage.seconds is None else wording.duration(1000 * stage.seconds)
        said = Text(wording.plain(stage.why) or wording.stage(stage.id).line)
        table.add_row(Text(_MARK[stage.status], style=COLOUR[stage.status]), stage.id, said, Text(took, style="dim"))
    return [table]


def _shown(stage: Stage, *, verbose: bool) -> list[OutputCheck]:
    """What is worth a line of its own: what does not pass, and with ``verbose`` everything."""
    told = stage.status is not Verdict.SKIPPED  # what decides nothing is for those who ask
    found = [check for check in stage.outputs if verbose or (told and check.status is not Verdict.PASS)]
    return sorted(found, key=lambda check: list(Verdict).index(check.status) == 0)


def _checks(stage: Stage, *, verbose: bool) -> RenderableType:
    found = _shown(stage, verbose=verbose)
    table = grid("left", "left", "right", "right", "left")
    table.add_row(Text(stage.id, style="bold"), "", "score", "limit", "")
    for check in found if verbose else found[:MOST]:
        score, limit = ("" if x is None else wording.number(x) for x in (check.score, check.limit))
        mark = Text(_MARK[check.status], style=COLOUR[check.status])
        table.add_row(mark, wording.plain(check.name), score, limit, wording.plain(check.why))
    if not verbose and len(found) > MOST:
        table.add_row("", Text(f"and {len(found) - MOST:,} more", style="dim"), "", "", "")
    return table


def _times(a: Timing, b: Timing) -> RenderableType:
    table = grid("left", "right", "right", "right")
    table.add_row("", Text("A", style="bold"), Text("B", style="bold"), "B / A")
    for name, left, right in figures(a, b):
        table.add_row(name, left[0], right[0], wording.ratio(right[1] / left[1]) if left[1] else "")
    return table


Value = tuple[str, float]


def figures(a: Timing, b: Timing) -> Iterator[tuple[str, Value, Value]]:
    """Each figure of both, as words and as a number."""
    for name, key in FIGURES.items():
        left, right = (getattr(timing, key, None) or timing.detail.get(key) for timing in (a, b))
        if left is not None and right is not None:
            said = wording.size if key.endswith("bytes") else wording.duration
            yield name, (said(left), left), (said(right), right)


FIGURES = {
    "median": "p50_ms",
    "90 % are below": "p90_ms",
    "99 % are below": "p99_ms",
    "99 %, upper bound": "p99_upper_ms",  # in the detail
    "load": "load_ms",
    "first run": "first_run_ms",
    "memory, peak": "peak_bytes",
}


def _design(latency: Latency) -> Block:
    """How it was measured, and what the same model beside itself gave."""
    table = grid("left", "left")
    pairs = f"{wording.count(latency.a.n, 'run')} of each, interleaved in {wording.count(len(latency.blocks), 'block')}"
    table.add_row("Measured", pairs)
    for name, said in measured.told(latency):
        table.add_row(name, said)
    shown = {key: value for key, value in latency.design.items() if key in DESIGN and value not in (None, "")}
    if shown:
        table.add_row(
            "Settings", ", ".join(f"{DESIGN[key]} {wording.plain(str(value))}" for key, value in shown.items())
        )
    return [table]


DESIGN = {"threads": "threads", "opt_level": "optimisations", "sessions": "sessions", "seed": "seed"}


def _warnings(warnings: tuple[str, ...]) -> Block:
    return [Text(f"warning: {wording.plain(warning)}", style="yellow") for warning in warnings]


def _ground(inputs: InputSet | None, environment: Environment | None, failing: str) -> Block:
    table = grid("left", "left")
    if inputs is not None:
        table.add_row("Inputs", Text(given(inputs)))
    if environment is not None:
        table.add_row("Ran on", Text(where(environment)))
    if failing:
        table.add_row("Failing", Text(wording.plain(failing), style="bold"))
    return [table] if table.row_count else []


def given(inputs: InputSet) -> str:
    """What the models were run on, on one line."""
    seed = f" (seed {inputs.seed})" if inputs.seed is not None and not inputs.real else ""
    source = f" from {wording.plain(inputs.source)}" if inputs.source else ""
    shapes = [f"{wording.plain(name)} {'x'.join(map(str, dims)) or 'scalar'}" for name, dims in inputs.shapes.items()]
    more = f", and {len(shapes) - 3} more" if len(shapes) > 3 else ""
    return f"{inputs.n:,} {inputs.kind}{source}{seed}" + (f": {', '.join(shapes[:3])}{more}" if shapes else "")


def where(environment: Environment) -> str:
    """Where it ran, on one line."""
    version = environment.versions.get("onnxruntime", "")
    gpu = environment.gpu.get("name", "")
    cpu = environment.machine.get("cpu", "")
    parts = [environment.provider_requested, f"onnxruntime {version}" if version else "", str(gpu or cpu)]
    return ", ".join(wording.plain(part) for part in parts if part)


def grid(*justify: str) -> Table:
    """A table without lines; a long name is folded, not cut."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for side in justify:
        table.add_column(justify="right" if side == "right" else "left", overflow="fold")
    return table
