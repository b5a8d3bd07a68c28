"""The fold: passes, then the referee, then the write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from converter.commands import removing
from converter.commands.inspect import InspectResult, Model, blame, blocked_by_callers, chosen, facts_of, quiet
from converter.commands.judging import Pair, check_inputs, check_names, exit_code, recorder_for
from converter.commands.output import checked_target, pieces_of, staged_at, target_of
from converter.errors import ModelError
from converter.model.graph import Graph, load
from converter.records import Verdict
from converter.rewrite import pipeline

if TYPE_CHECKING:
    from converter.commands.remove import Removed
    from converter.records import Latency, Parity


@dataclass(frozen=True)
class FoldResult(InspectResult):
    """What `fold` did, with the proof, and the folded model."""

    output: Path | None = None
    parity: Parity | None = None
    latency: Latency | None = None  # of the original and the folded model, where it was measured
    certificate: Path | None = None
    removed: Removed | None = None  # biases that went by data, where that was asked for
    exit_code: int = 0
    graph: Graph | None = field(default=None, repr=False, compare=False)

    @property
    def changed(self) -> bool:
        """Whether the folded model differs from the input."""
        return bool(self.rewrites or self.frozen)

    @property
    def removal(self) -> dict[str, Any] | None:
        """What went by data, as JSON values, in words under ``said``; None where that was not asked for."""
        if self.removed is None:
            return None
        from converter.ablate.removal_report import removal_lines

        document = self.removed.document()
        return {**document, "said": removal_lines(document)}

    @property
    def model(self) -> onnx.ModelProto:
        """The folded model. Tensors in other files stay there, by location."""
        model: onnx.ModelProto = onnx.ModelProto.FromString(self.to_bytes())
        return model

    def to_bytes(self) -> bytes:
        """The folded model, serialised; the input's own bytes if nothing was rewritten."""
        if self.output is not None:  # the input may have been replaced
            return self.output.read_bytes()
        assert self.graph is not None
        return pieces_of(self.graph, self, None).to_bytes()

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the model to `path`, whole or not at all.

        Raises
        ------
        ModelError
            Parity failed or is unproven, the target exists (without `force`) or cannot be written.
        """
        if self.parity is not None and self.parity.verdict is not Verdict.PASS:
            raise ModelError(f"{path}: not written, because parity is {self.parity.verdict}: {self.parity.why}")
        if self.output is not None:
            copy = fold(self.output, out=path, verify=False, only=(), force=force)
            assert copy.output is not None
            return copy.output
        assert self.graph is not None
        target = checked_target(self.graph, Path(path), force=force)
        staged_at(self.graph, self, target, in_place=False).commit()
        return target


def fold(
    model: Model,
    *,
    out: str | Path | None = None,
    verify: bool = True,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    allow: Iterable[str] = (),
    data: str | Path | None = None,
    keep_bn: bool = False,
    no_growth: bool = False,
    freeze_overridable: bool = False,
    stop_after: int | None = None,
    force: bool = False,
    in_place: bool = False,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    inputs: Any = None,
    custom_ops: str | Path | None = None,
    provider: str = "cpu",
    max_time: float | None = None,
    max_memory: int | None = None,
    quick: bool = False,
    seed: int = 0,
    accuracy_margin: float | None = None,
    bench: bool = False,
    bench_time: float | None = None,
    latency_margin: float = 0.02,
    certificate: str | Path | None = None,
    removal: Mapping[str, Any] | None = None,
    on_inconclusive: str = "fail",
    progress: Callable[[str], None] | None = None,
    **checking: Any,
) -> FoldResult:
    """Fold every batch norm and bias that can be folded exactly, prove it, and write the result.

    The input is never changed unless `in_place`; the output is whole or absent. A failed proof is
    returned (``exit_code`` 1, or 4 where it is inconclusive), not raised, and nothing is written.

    Parameters
    ----------
    model : path, bytes or ModelProto
    out : path, optional
        Where to write; nothing is written without it (or `in_place`).
    verify : bool
        Compare outputs before and after.
    only, skip, allow : names of passes
    data : path, optional
        Directory of the external data of a proto.
    keep_bn, no_growth, freeze_overridable : bool
        As in `inspect`.
    stop_after : int, optional
        Number of rewrites after which to stop.
    force : bool
        Replace an existing output.
    in_place : bool
        Replace the input, atomically; follows symbolic links and keeps the mode.
    shapes : mapping of input name to dims, inputs : see below, custom_ops : path of a library
        For the proof; see `converter.referee.verify.compare`.
    max_time : float, optional
        Seconds after which the proof takes no more inputs; 30 by default.
    max_memory : int, optional
        Bytes that the float64 copy may take; half of the free memory by default.
    provider : str
        "cpu", "cuda" or "tensorrt": where onnxruntime runs, for the proof and the benchmark.
    quick : bool
        One input and one draw of rounding errors.
    seed : int
        Of the random inputs.
    accuracy_margin : float, optional
        Judge as well whether more than this share of the decisions on `inputs` (or images) changes.
    bench : bool
        Measure the latency of both models; the folded one may be slower by `latency_margin`, a share.
    bench_time : float, optional
        Seconds to measure for; 120 by default, 20 with `quick`.
    certificate : path, optional
        Where to write every rewrite as data, for `biasopt replay` to check and to carry out again.
    removal : mapping, optional
        Options of `converter.commands.remove.remove_biases` (inputs, labels, budget ...): let the weights make up for
        biases that matter. The result decides alike within the budget on data like that, and is not equal.
    on_inconclusive : str
        "fail" (`exit_code` 4, nothing is written) or "pass".
    progress : callable, optional
        Told what is being done, in a few words.
    **checking
        Further options of `converter.referee.verify.compare`: images, labels, tolerances, opt_level ...

    Returns
    -------
    FoldResult

    Raises
    ------
    ModelError
        The model cannot be read, or the output cannot be written.
    ValueError
        A name is no pass's.
    """
    options = chosen(only, skip, allow, stop_after, keep_bn, no_growth)
    where = None if data is None else Path(data)
    judging = {"shapes": shapes, "inputs": inputs, "custom_ops": custom_ops, "provider": provider, "data": where}
    judging |= {"seed": seed, "quick": quick, "max_time": max_time, "max_memory": max_memory, "progress": progress}
    check_names(checking)
    if removal is not None and certificate is not None:
        raise ValueError("a certificate is of exact rewrites; it excludes the removal of biases by data")
    check_inputs(inputs if verify else None)
    with quiet():
        graph = load(model, data=data, freeze_overridable=freeze_overridable)
        target = target_of(graph, out, force=force, in_place=in_place)
        recorder = None if certificate is None else recorder_for(graph, Path(certificate), target, force=force)
        with blame(graph):
            outcome = pipeline.run(graph, options, progress, recorder)
            blocked = blocked_by_callers(model, data, options, outcome, freeze_overridable)
            result = FoldResult(**facts_of(graph, outcome, blocked), graph=graph)
            staged = staged_at(graph, result, target, in_place) if target is not None else None
        graph.file.forget()
        made = staged.temporary if staged is not None else None
        try:
            pair = Pair(graph, result.changed, result.to_bytes, made, target)
            parity = pair.prove(accuracy_margin, **judging, **checking) if verify else None
            code = exit_code(parity, on_inconclusive)
            if removal is not None and code == 0:
                result, parity = removing.applied(result, parity, model, removal, judging)
                code = exit_code(parity, on_inconclusive)
                if staged is not None:
                    staged.discard()
                    staged = staged_at(graph, result, target, in_place) if target is not None and not code else None
                made = staged.temporary if staged is not None else None
                pair = Pair(graph, result.changed, result.to_bytes, made, target)
            timed = bench and not code
            latency = pair.measure(parity, latency_margin, bench_time, judging, checking) if timed else None
            code = code or exit_code(latency, on_inconclusive)
            if recorder is not None and code == 0:
                pair.certify(recorder, Path(certificate or ""), where, progress)
            if staged is not None and code == 0:
                if in_place:
                    graph.close()  # Windows does not replace a file that is open
                staged.commit()
            elif staged is not None:
                staged.discard()
        except BaseException:
            if staged is not None:
                staged.discard()
            raise
    written, said = (target, certificate) if code == 0 else (None, None)
    told = None if said is None else Path(said)
    return replace(result, output=written, parity=parity, latency=latency, certificate=told, exit_code=code)
