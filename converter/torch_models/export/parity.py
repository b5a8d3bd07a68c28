"""Whether an exported model answers as its torch module does: onnxruntime against torch, float64 the yardstick."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from converter.dataclass import dataclass
from converter.errors import DataError, ExportError, ModelError
from converter.records import OutputCheck, Parity, Stage, Verdict
from converter.records.evidence import Warning, WarningCode, worst_verdict
from converter.torch_models.export import Exported, run_in_float64, run_module
from converter.torch_models.export.calls import to_array
from converter.torch_models.export.exporters import widen
from converter.torch_models.spec.libraries import need

if TYPE_CHECKING:
    from converter.torch_models.spec import Loaded

Progress = Callable[[str], None]
_OTHER_BATCH = 3  # neither the 1 of most examples, nor the 2 that such an example is exported with


@dataclass(frozen=True, slots=True)
class _Case:
    """One input: what torch gave, what the exported model gave, and what is right, by output."""

    where: str
    torch: dict[str, Any]
    onnx: dict[str, Any]
    exact: dict[str, Any] | None
    only_exact: bool = False  # both are of float64


def compare_with_torch(loaded: Loaded, made: Exported, *, quick: bool, progress: Progress) -> Parity:
    """The verdict on one export; see `converter.referee.verify.outputs` for the rule.

    Parameters
    ----------
    quick : bool
        One input only: not the example but another, which the exporter has not seen.
    """
    _check_outputs(loaded, made)
    try:
        run, note = _open_session(made), ""
    except ModelError as exc:  # no kernel for this type or operator on this machine
        run, note = (
            _open_float64(made),
            f"onnxruntime cannot run it ({_shorten_message(exc, made)}); compared in float64",
        )
    cases: list[_Case] = []
    for where, tensors in (*_vary_inputs(made, quick=quick), *_vary_sizes(loaded, made, quick=quick)):
        progress(f"comparing {where}")
        found = _run_case(loaded, made, tensors, run, where, only_exact=bool(note))
        if isinstance(found, str):
            return _conclude([], found, Verdict.INCONCLUSIVE if note else Verdict.FAIL)
        cases.append(found)
    checks = [_check_output(name, cases) for name in made.answer.names]
    if any(c.status is not Verdict.PASS for c in checks) and _is_random(loaded, made):
        why = "the module draws random numbers in eval mode: no two runs of it agree"
        return _conclude(checks, why, Verdict.INCONCLUSIVE)
    return _conclude(checks, warning=note)


def _check_outputs(loaded: Loaded, made: Exported) -> None:
    from converter.model.file import ModelFile

    got = tuple(value.name for value in ModelFile(made.path).skeleton.graph.output)
    if got != made.answer.names:
        raise ExportError(
            f"{loaded.label}: the exporter wrote the outputs {', '.join(got)}, "
            f"but the module returns {', '.join(made.answer.names)}; try the other --exporter"
        )


Run = Callable[[dict[str, Any]], dict[str, Any]]


def _open_session(made: Exported) -> Run:
    from converter.runtime import Session

    session = Session(made.path, optimize="off")
    wanted = {port.name for port in session.inputs}
    return lambda feeds: session.run({n: v for n, v in feeds.items() if n in wanted})


def _open_float64(made: Exported) -> Run:
    from converter.referee.proto.source import LoadedModel
    from converter.referee.reference.evaluator import Reference
    from converter.referee.verify.models import find_default_memory

    source = LoadedModel.open(made.path, None, "exported model")
    wanted = {value.name for value in source.proto.graph.input}
    model = Reference(source.proto, external_dir=source.folder, max_bytes=find_default_memory())
    return lambda feeds: model.run({n: v for n, v in feeds.items() if n in wanted})


def _shorten_message(exc: BaseException, made: Exported) -> str:
    return str(exc).replace(str(made.path), made.path.name)


def _vary_inputs(made: Exported, *, quick: bool) -> Iterator[tuple[str, Sequence[Any]]]:
    """An input that the exporter has not seen; the example; one of another batch size, where that is open."""
    yield "on another input of the same shape", [_perturb(t) for t in made.tensors]
    if quick:
        return
    yield "on the example", made.tensors
    first = {name: {0: labels[0]} for name, labels in made.axes.items() if 0 in labels}
    if first:
        size = max(int(t.shape[0]) for n, t in zip(made.names, made.tensors, strict=True) if n in first)
        least = _OTHER_BATCH if size < _OTHER_BATCH else size + 1
        yield "at another batch size", widen(first, made.names, made.tensors, least=least)


def _vary_sizes(loaded: Loaded, made: Exported, *, quick: bool) -> Iterator[tuple[str, Sequence[Any]]]:
    """Every open size but the batch's doubled, where the module itself takes that."""
    if quick:
        return
    by_label: dict[str, dict[str, dict[int, str]]] = {}
    for name, labels in made.axes.items():
        for axis, label in labels.items():
            if axis:
                by_label.setdefault(label, {}).setdefault(name, {})[axis] = label
    sizes = {name: t.shape for name, t in zip(made.names, made.tensors, strict=True)}
    for label, axes in by_label.items():
        least = 2 * max(int(sizes[name][axis]) for name, labels in axes.items() for axis in labels)
        tensors = widen(axes, made.names, made.tensors, least=least)
        try:
            run_module(loaded, tensors, made.rebuild)
        except ExportError:
            continue  # twice as much is no size for it
        yield f"at another size of {label}", tensors


def _perturb(tensor: Any) -> Any:
    """Other floats of the same signs and about the same size; integers as they are, since they may index something."""
    if not tensor.is_floating_point():
        return tensor
    torch = need("torch")
    factors = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())) + 0.5
    return tensor * factors.to(tensor.dtype)


def _run_case(
    loaded: Loaded, made: Exported, tensors: Sequence[Any], run: Run, where: str, *, only_exact: bool
) -> _Case | str:
    """One input run everywhere; a sentence where the exported model does not run."""
    from converter.referee.reference.kernels import Unsupported
    from converter.referee.verify.models import find_default_memory

    by_torch = made.answer if tensors is made.tensors else run_module(loaded, tensors, made.rebuild)
    feeds = {name: to_array(t) for name, t in zip(made.names, tensors, strict=True)}
    try:
        by_onnx = run(feeds)
    except (DataError, ModelError, Unsupported) as exc:
        return f"the exported model does not run {where} ({_shorten_message(exc, made)})"
    # Twice the parameters' bytes again: a system that grants memory which it lacks ends the process, not the call.
    found = run_in_float64(loaded, tensors, made.rebuild) if 2 * _count_bytes(loaded) <= find_default_memory() else None
    exact = None if found is None else found.arrays()
    if only_exact:
        return _Case(where, exact, by_onnx, None, True) if exact else f"neither runs in float64 {where}"
    return _Case(where, by_torch.arrays(), by_onnx, exact if exact is not None else _run_exactly_by_onnx(made, feeds))


def _count_bytes(loaded: Loaded) -> int:
    return sum(int(p.nbytes) for p in loaded.module.parameters())


def _run_exactly_by_onnx(made: Exported, feeds: dict[str, Any]) -> dict[str, Any] | None:
    """The exported model in float64, where the module cannot be run so: its distance from torch counts all the same."""
    from converter.referee.reference.kernels import Unsupported

    try:
        return _open_float64(made)(feeds)
    except (Unsupported, DataError, ModelError):
        return None


def _check_output(name: str, cases: Sequence[_Case]) -> OutputCheck:
    """One output over all inputs; where it does not pass, with the first input that shows it."""
    check = _judge_output(name, cases)
    if check.status is Verdict.PASS:
        return check
    for case in cases:
        alone = _judge_output(name, [case])
        if alone.status is check.status:
            return OutputCheck(
                name,
                alone.status,
                alone.score,
                alone.limit,
                alone.max_abs,
                detail=alone.detail,
                why=f"{case.where}: {alone.why}",
            )
    return check


def _judge_output(name: str, cases: Sequence[_Case]) -> OutputCheck:
    from converter.referee.verify.outputs import judge_exact, judge_values

    if all(c.only_exact for c in cases):
        return judge_exact(name, [c.torch[name] for c in cases], [c.onnx[name] for c in cases])
    exact = [c.exact[name] for c in cases if c.exact is not None]
    whole = exact if len(exact) == len(cases) else None
    return judge_values(name, [c.torch[name] for c in cases], [c.onnx[name] for c in cases], whole)


def _is_random(loaded: Loaded, made: Exported) -> bool:
    import numpy as np

    first, again = made.answer.arrays(), run_module(loaded, made.tensors, made.rebuild).arrays()
    return any(not np.array_equal(first[n], v) for n, v in again.items() if v.dtype.kind in "fiub")


def _conclude(
    checks: Sequence[OutputCheck], why: str = "", verdict: Verdict | None = None, warning: str = ""
) -> Parity:
    from converter.referee.verify.verdict import has_trusted_reference

    if verdict is None:
        verdict = worst_verdict(c.status for c in checks)
        why = next((f"output {c.name!r} {c.why}" for c in checks if c.status is verdict and c.why), "")
    why = why or f"onnxruntime against torch: {_describe_best(checks)}"
    if warning and verdict is Verdict.PASS:
        why = "the exported model and the module are the same in float64"
    stage = Stage("algebra" if warning else "runtime", verdict, why, tuple(checks))
    return Parity(
        verdict,
        "B" if has_trusted_reference(checks) else "C",
        stages=(stage,),
        warnings=(Warning(WarningCode.ONLY_EXACT, warning),) if warning else (),
        why=why,
    )


def _describe_best(checks: Sequence[OutputCheck]) -> str:
    worst = max(checks, key=lambda c: c.score or 0.0)
    if "note" in worst.detail or worst.score is None or worst.limit is None or worst.score > worst.limit:
        return "the same to 8 units in the last place"
    return f"error at most {worst.score:.3g} times torch's own"
