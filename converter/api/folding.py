"""The fold: passes, then the referee, then the write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from converter import pipeline
from converter.api.inspecting import InspectResult, Model, blame, blocked_by_callers, chosen, facts_of, quiet
from converter.api.output import checked_target, pieces_of, staged_at, target_of
from converter.errors import ModelError
from converter.graph import Graph, load
from converter.records import Verdict

if TYPE_CHECKING:
    import numpy as np

    from converter.records import Parity


@dataclass(frozen=True)
class FoldResult(InspectResult):
    """What `fold` did, with the proof, and the folded model."""

    output: Path | None = None
    parity: Parity | None = None
    exit_code: int = 0
    graph: Graph | None = field(default=None, repr=False, compare=False)

    @property
    def changed(self) -> bool:
        """Whether the folded model differs from the input."""
        return bool(self.rewrites or self.frozen)

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
    inputs: Sequence[dict[str, np.ndarray[Any, Any]]] | None = None,
    custom_ops: str | Path | None = None,
    provider: str = "cpu",
    max_time: float = 30.0,
    max_memory: int | None = None,
    quick: bool = False,
    seed: int = 0,
    on_inconclusive: str = "fail",
    progress: Callable[[str], None] | None = None,
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
    shapes : mapping of input name to dims, inputs : feeds, custom_ops : path of a library
        For the proof; see `converter.verify.compare`.
    max_time : float
        Seconds after which the proof takes no more inputs.
    max_memory : int, optional
        Bytes that the float64 copy may take; half of the free memory by default.
    provider : str
        "cpu" or "cuda": where onnxruntime runs for the proof.
    quick : bool
        One input and one draw of rounding errors.
    seed : int
        Of the random inputs.
    on_inconclusive : str
        "fail" (`exit_code` 4, nothing is written) or "pass".
    progress : callable, optional
        Told what is being done, in a few words.

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
    with quiet():
        graph = load(model, data=data, freeze_overridable=freeze_overridable)
        target = target_of(graph, out, force=force, in_place=in_place)
        with blame(graph):
            outcome = pipeline.run(graph, options, progress)
            blocked = blocked_by_callers(model, data, options, outcome, freeze_overridable)
            result = FoldResult(**facts_of(graph, outcome, blocked), graph=graph)
            staged = staged_at(graph, result, target, in_place) if target is not None else None
        try:
            parity = None
            if verify:
                got: Path | bytes = staged.temporary if staged is not None else result.to_bytes()
                parity = _prove(
                    result,
                    got,
                    data=None if data is None else Path(data),
                    shapes=dict(shapes) if shapes else None,
                    inputs=list(inputs) if inputs else None,
                    custom_ops=custom_ops,
                    provider=provider,
                    seed=seed,
                    quick=quick,
                    max_time=max_time,
                    max_memory=max_memory,
                    progress=progress,
                )
            code = exit_code(parity, on_inconclusive)
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
    written = target if code == 0 else None
    return replace(result, output=written, parity=parity, exit_code=code)


def exit_code(parity: Parity | None, on_inconclusive: str = "fail") -> int:
    """0 for a proof (or none asked for), 1 for a failure, 4 where it is open (0 if that is to pass)."""
    if parity is None or parity.verdict in (Verdict.PASS, Verdict.SKIPPED):
        return 0
    if parity.verdict is Verdict.FAIL:
        return 1
    return 0 if on_inconclusive == "pass" else 4


def _prove(result: FoldResult, got: Path | bytes, **options: Any) -> Parity:
    if not result.changed:
        from converter.records import Parity

        return Parity(Verdict.PASS, "B", scope="identical", why="nothing was rewritten; the output is the input")
    from converter import verify  # its libraries load slowly

    assert result.graph is not None
    file = result.graph.file
    ref: Path | bytes = file.path if file.path is not None else bytes(file.buffer[0 : len(file.buffer)])
    parity: Parity = verify.compare(ref, got, **options)
    return parity
