"""The original and what became of it, before those who judge: the referee and the benchmark."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import ModelError
from converter.model.graph import Graph
from converter.records import Verdict

if TYPE_CHECKING:
    from converter.commands.certificate import Recorder
    from converter.records import Latency, ModelFacts, Parity

_MARGIN = 1e-3  # as the referee's own
# What `converter.referee.verify.compare` takes beyond what `fold` names itself; its module loads slowly.
FURTHER = {
    *("alpha", "decision", "fail_ratio", "failing", "got_data", "images", "labels", "margin", "max_ratio", "metric"),
    *("names", "opt_level", "precision_gate", "preprocess", "provider_options", "ranges", "require_level", "samples"),
    *("stages", "timed", "tolerances"),
}


def exit_code(found: Parity | Latency | None, on_inconclusive: str = "fail") -> int:
    """0 for a proof (or none asked for), 1 for a failure, 4 where it is open (0 if that is to pass)."""
    if found is None:
        return 0
    from converter.report.document import code

    return code(found.verdict, on_inconclusive)


def check_names(checking: Iterable[str]) -> None:
    """What no function takes is found before the work, not after it."""
    if unknown := sorted(set(checking) - FURTHER):
        raise TypeError(f"fold takes no argument {unknown[0]!r}; those of the referee are {', '.join(sorted(FURTHER))}")


def check_inputs(inputs: Any) -> None:
    """What is no file of inputs is found before the work, too."""
    if inputs is not None:
        from converter.referee.inputs.files import open_inputs

        open_inputs([inputs] if isinstance(inputs, str | Path | Mapping) else list(inputs), {})


def recorder_for(graph: Graph, path: Path, target: Path | None, *, force: bool) -> Recorder:
    """What watches the passes for a certificate, once it is clear that one can be written."""
    from converter.commands.certificate import Recorder
    from converter.commands.output import checked_target

    if target is not None and path.resolve() == target.resolve():
        raise ModelError(f"{path}: is the output itself; give the certificate another name")
    checked_target(graph, path, force=force)
    return Recorder(graph)


@dataclass(frozen=True)
class Pair:
    """The original and what became of it, for those who judge."""

    graph: Graph
    changed: bool
    to_bytes: Callable[[], bytes]  # the folded model
    folded: Path | None  # the same as a temporary file, if it is to be one
    target: Path | None

    @property
    def _original(self) -> Path | bytes:
        file = self.graph.file
        return file.path if file.path is not None else bytes(file.buffer[0 : len(file.buffer)])

    def prove(self, accuracy_margin: float | None, **options: Any) -> Parity:
        """The referee's verdict; a model of which nothing was rewritten needs none."""
        if not self.changed:
            from converter.records import Parity

            return Parity(Verdict.PASS, "B", scope="identical", why="nothing was rewritten; the output is the input")
        from converter.referee import verify  # its libraries load slowly

        if accuracy_margin is None and options.get("labels") is not None:
            accuracy_margin = _MARGIN
        if accuracy_margin is not None:
            from converter.referee.verify.options import CHOICES

            options |= {"margin": accuracy_margin, "stages": CHOICES}
        parity = verify.compare(self._original, self.folded or self.to_bytes(), **options)
        return replace(parity, b=self._named(parity.b))

    def measure(
        self,
        parity: Parity | None,
        margin: float,
        seconds: float | None,
        judging: Mapping[str, Any],
        checking: Mapping[str, Any],
    ) -> Latency:
        """The latency of both, on inputs of the shapes that the proof ran on."""
        from converter.commands.bench import measure_latency

        same = {k: judging[k] for k in ("custom_ops", "provider", "seed", "quick", "progress")}
        same |= {k: checking[k] for k in ("provider_options", "opt_level") if k in checking}
        ran_on = parity.inputs if parity is not None else None
        shapes = judging["shapes"] or (ran_on.shapes if ran_on is not None and ran_on.real else None)
        data = (judging["data"], judging["data"])
        folded = self.folded or self.to_bytes()
        same |= {"margin": margin, "max_time": seconds, "shapes": shapes, "data": data}
        latency = measure_latency(self._original, folded, **same)
        return replace(_advised(latency), model_b=self._named(latency.model_b))

    def certify(
        self, recorder: Recorder, path: Path, data: Path | None, progress: Callable[[str], None] | None
    ) -> None:
        """Write the certificate of the fold that the recorder saw."""
        from converter.commands.certificate import certificate, write
        from converter.referee.proto.source import LoadedModel

        original = LoadedModel.open(self._original, data, "original")
        beside = original.folder if self.folded is None else None  # a file's own data lies beside it
        folded = LoadedModel.open(self.folded or self.to_bytes(), beside, "folded model")
        write(certificate(recorder, original, folded, progress=progress), path)

    def _named(self, facts: ModelFacts | None) -> ModelFacts | None:
        """What was judged is the file that is to be, not the temporary one."""
        return facts if facts is None or self.target is None else replace(facts, path=str(self.target))


def _advised(latency: Latency) -> Latency:
    """The benchmark's advice by the names that its options have here."""
    told = {"--max-time": "--bench-time", "--margin": "--latency-margin"}

    def here(text: str) -> str:
        return re.sub("|".join(told), lambda found: told[found[0]], text)

    return replace(latency, why=here(latency.why), warnings=tuple(map(here, latency.warnings)))
