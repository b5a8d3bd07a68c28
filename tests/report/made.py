"""Results made by hand: what the reports read, without the engine that fills it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.records import (
    Counts,
    Delta,
    EffectKind,
    Fate,
    FateKind,
    Finding,
    Latency,
    OutputCheck,
    Parity,
    Rewrite,
    Safety,
    Stage,
    Status,
    Step,
    Verb,
    Verdict,
)
from converter.records.results import TensorPort
from converter.report import save
from converter.rewrite.analysis.recurrent import Gate

BEFORE = Counts(nodes=175, batch_norms=53, biases=1, parameter_bytes=102_000_000)
AFTER = Counts(nodes=122, batch_norms=0, biases=54, parameter_bytes=101_900_000)


@dataclass(frozen=True)
class Result:
    path: Path | None = Path("models/net.onnx")
    output: Path | None = Path("models/net.folded.onnx")
    size_bytes: int = 102_000_000
    opset: int = 17
    before: Counts = BEFORE
    after: Counts = AFTER
    rewrites: tuple[Rewrite, ...] = ()
    findings: tuple[Finding, ...] = ()
    parity: Parity | None = None
    latency: Latency | None = None
    certificate: Path | None = None
    removal: dict[str, object] | None = None
    frozen: tuple[str, ...] = ()
    exit_code: int = 0
    overridable_blocked: int = 0
    overridable_names: int = 0
    problem: str = ""
    fates: tuple[Fate, ...] = ()
    gates: tuple[Gate, ...] = ()
    was_unsorted: bool = False
    was_written_out: bool = False
    stale_shapes: tuple[str, ...] = ()
    ir_version: int = 8
    producer: str = "pytorch 2.13"
    inputs: tuple[TensorPort, ...] = (TensorPort("x", "float32", ("N", 3, 8, 8)),)
    outputs: tuple[TensorPort, ...] = (TensorPort("y", "float32", ("N", 10)),)
    operators: dict[str, int] = field(default_factory=lambda: {"Conv": 3, "Relu": 2})


SAID = {"output-shared": "another node reads what the fold would change", "padded": "a border would differ"}


@dataclass(frozen=True)
class Guard:
    code: str
    why: str


@dataclass(frozen=True)
class Pass:
    name: str
    summary: str = "one becomes the other"
    safety: Safety = Safety.ROUNDING
    guards: tuple[Guard, ...] = ()
    after: tuple[str, ...] = ()
    page: str = "One becomes the other."


def act(pass_name: str, node: str) -> Finding:
    return Finding(f"{pass_name}@{node}", pass_name, node, Status.ACT)


def declined(pass_name: str, node: str, code: str, why: str = "another node reads it") -> Finding:
    return Finding(f"{pass_name}@{node}", pass_name, node, Status.DECLINED, code, why)


def rewrite(pass_name: str, node: str, safety: Safety = Safety.ROUNDING, bytes_added: int = 0) -> Rewrite:
    return Rewrite(f"{pass_name}@{node}", pass_name, node, safety, f"{node}_out", Delta(bytes_added=bytes_added))


def parity(verdict: Verdict = Verdict.PASS, **changes: object) -> Parity:
    check = OutputCheck("logits", verdict, score=0.63, limit=4.0, max_abs=1e-6)
    values: dict[str, object] = {"level": "B", "stages": (Stage("algebra", verdict, "", (check,)),)}
    return Parity(verdict, **(values | changes))  # type: ignore[arg-type]


def folded(**changes: object) -> Result:
    """Three rewrites by two passes, two declines, all checked."""
    values: dict[str, object] = {
        "rewrites": (
            rewrite("fold-bn-into-conv", "bn1"),
            rewrite("drop-zero-bias", "conv2", Safety.EXACT),
            rewrite("fold-bn-into-conv", "bn2", bytes_added=1_230_000),
        ),
        "findings": (
            act("fold-bn-into-conv", "bn1"),
            declined("fold-bn-into-conv", "bn3", "output-shared"),
            declined("fold-affine-into-conv", "mul4", "output-shared"),
            declined("fold-bn-into-next-conv", "bn3", "padded", "the convolution reads padding"),
        ),
        "parity": parity(),
    }
    return Result(**(values | changes))  # type: ignore[arg-type]


def carries(node: str, given_by: str, op: str = "Add", kind: EffectKind = EffectKind.PLAIN) -> Step:
    return Step(node, op, Verb.PROPAGATES, "", kind, (given_by,))


def ends(node: str, given_by: str, verb: str, op: str, how: str = "", kind: EffectKind = EffectKind.PLAIN) -> Step:
    return Step(node, op, Verb(verb), how, kind, (given_by,))


def kept(node: str, op: str = "Relu", by: str = "relu", how: str = "it is not linear", elements: int = 8) -> Fate:
    """A bias of a Conv that a node depends on."""
    why = f"{op} ({by}) depends on it"
    path: tuple[Step, ...] = (ends(by, node, "stops", op, how),)
    return Fate(node, "Conv", FateKind.KEPT, elements, code="stops", why=why, path=path)


def absorbed(node: str, where: str, elements: int = 8) -> Fate:
    """A bias of a Conv that the next one takes over."""
    path = (ends(where, node, "absorbs", "Conv", "its bias 'b' takes it over", EffectKind.BIAS),)
    return Fate(node, "Conv", FateKind.ABSORBED, elements, elements, where, path=path)


def at_output(node: str, elements: int = 2) -> Fate:
    """A bias that the model gives out."""
    path = (ends("y", node, "stops", "output", "it is an output of the model"),)
    code = "output-is-graph-output"
    return Fate(node, "Gemm", FateKind.KEPT, elements, code=code, why="it reaches output 'y'", path=path)


FATES = (
    absorbed("conv1", "conv2"),
    kept("conv2"),
    Fate("conv3", "Conv", FateKind.ZERO, 4, 4),
    Fate("conv4", "Conv", FateKind.KEPT, 8, code="overridable", why="'b4' is also a graph input"),
    absorbed("conv5", "conv6"),
    at_output("gemm"),
)


def html(document: Mapping[str, Any]) -> str:
    """A document as a page."""
    return save.render_document(document, "html")


def markdown(document: Mapping[str, Any]) -> str:
    """A document as Markdown."""
    return save.render_document(document, "md")


def text(document: Mapping[str, Any]) -> str:
    """A document as text."""
    return save.render_document(document, "text")


def junit(document: Mapping[str, Any]) -> str:
    """A document as JUnit XML."""
    return save.render_document(document, "junit")
