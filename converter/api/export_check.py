"""Whether an exported model answers as its torch module does: onnxruntime against torch, float64 the yardstick."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converter.errors import DataError, ExportError, ModelError
from converter.export import Exported, answer, answer_float64
from converter.export.calls import array
from converter.export.dynamic import widened
from converter.records import Parity, Stage, Verdict

if TYPE_CHECKING:
    from converter.torchspec import Loaded

Progress = Callable[[str], None]
_OTHER_BATCH = 3  # neither the 1 of most examples, nor the 2 that such an example is exported with


@dataclass(frozen=True, slots=True)
class _Case:
    """One input: what torch gave, what onnxruntime gave, and what is right, by output."""

    torch: dict[str, Any]
    onnx: dict[str, Any]
    exact: dict[str, Any] | None


def parity_with_torch(loaded: Loaded, made: Exported, *, real: bool, quick: bool, progress: Progress) -> Parity:
    """The verdict on one export; see `converter.verify.values` for the rule.

    Parameters
    ----------
    real : bool
        Whether the example is the user's own, not a random one.
    quick : bool
        Only the example, no second batch size where the batch is open.
    """
    from converter.runtime import Session
    from converter.verify.values import judge_values

    session = Session(made.path, optimize="off")
    got = tuple(port.name for port in session.outputs)
    if got != made.answer.names:
        raise ExportError(
            f"{loaded.label}: the exporter wrote the outputs {', '.join(got)}, "
            f"but the module returns {', '.join(made.answer.names)}; try the other --exporter"
        )
    cases: list[_Case] = []
    for tensors in [made.tensors] if quick else _inputs(made):
        found = _case(loaded, made, tensors, session, progress, first=not cases)
        if isinstance(found, str):
            return _parity([], found, real)
        cases.append(found)
    checks = [
        judge_values(
            name,
            [c.torch[name] for c in cases],
            [c.onnx[name] for c in cases],
            None if any(c.exact is None for c in cases) else [c.exact[name] for c in cases if c.exact],
        )
        for name in got
    ]
    if any(c.status is not Verdict.PASS for c in checks) and _is_random(loaded, made, cases[0]):
        return _parity(
            checks, "the module draws random numbers in eval mode: no two runs of it agree", real, open_=True
        )
    return _parity(checks, "", real)


def _inputs(made: Exported) -> list[Sequence[Any]]:
    """The example, and one of another batch size where that is open."""
    first = {name: {0: labels[0]} for name, labels in made.axes.items() if 0 in labels}
    if not first:
        return [made.tensors]
    size = max(int(t.shape[0]) for n, t in zip(made.names, made.tensors, strict=True) if n in first)
    least = _OTHER_BATCH if size < _OTHER_BATCH else size + 1
    return [made.tensors, widened(first, made.names, made.tensors, least=least)]


def _case(
    loaded: Loaded, made: Exported, tensors: Sequence[Any], session: Any, progress: Progress, *, first: bool
) -> _Case | str:
    """One input run everywhere; a sentence where onnxruntime cannot run it."""
    mine = made.answer if first else answer(loaded, tensors, made.rebuild)
    wanted = {port.name for port in session.inputs}
    feeds = {n: array(t) for n, t in zip(made.names, tensors, strict=True) if n in wanted}
    progress("onnxruntime: the exported model")
    try:
        theirs = session.run(feeds)
    except (DataError, ModelError) as exc:
        where = "on the example" if first else "at another batch size: the example's is built into the module"
        return f"the exported model does not run {where} ({exc})"
    progress("torch: the module in float64")
    exact = answer_float64(loaded, tensors, made.rebuild)
    exact_arrays = exact.arrays() if exact is not None else _exact_by_onnx(made, feeds, progress)
    return _Case(mine.arrays(), theirs, exact_arrays)


def _exact_by_onnx(made: Exported, feeds: dict[str, Any], progress: Progress) -> dict[str, Any] | None:
    """The exported model in float64, where the module cannot be run so: its distance from torch counts all the same."""
    from converter.protos.reference import Reference, Unsupported
    from converter.protos.source import Source

    progress("float64: the exported model")
    try:
        source = Source.open(made.path, None, "exported model")
        return Reference(source.proto, external_dir=source.folder).run(feeds)
    except (Unsupported, DataError, ModelError):
        return None


def _is_random(loaded: Loaded, made: Exported, case: _Case) -> bool:
    import numpy as np

    again = answer(loaded, made.tensors, made.rebuild).arrays()
    return any(not np.array_equal(case.torch[n], v) for n, v in again.items() if v.dtype.kind in "fiub")


def _parity(checks: Sequence[Any], why: str, real: bool, *, open_: bool = False) -> Parity:
    statuses = {c.status for c in checks}
    if why:
        verdict = Verdict.INCONCLUSIVE if open_ else Verdict.FAIL
    else:
        verdict = next((v for v in (Verdict.FAIL, Verdict.INCONCLUSIVE) if v in statuses), Verdict.PASS)
        why = next((f"output {c.name!r}: {c.why}" for c in checks if c.status is verdict and c.why), "")
    sure = checks and not any("note" in c.detail for c in checks)
    level = ("A" if real else "B") if sure else "C"
    stage = Stage("runtime", verdict, why or _best(checks), tuple(checks))
    return Parity(verdict, level, (stage,), why=why or f"onnxruntime against torch: {_best(checks)}")


def _best(checks: Sequence[Any]) -> str:
    scored = [c for c in checks if c.score is not None and "note" not in c.detail]
    if not scored:
        return "the same to 8 units in the last place"
    worst = max(scored, key=lambda c: c.score)
    if worst.score > worst.limit:
        return "within 8 units in the last place of float64"
    return f"error at most {worst.score:.3g} times torch's own"
