"""``assert_same``: in a test, whether two models say the same; or a model and a torch module, a function, or arrays.

Two ONNX models go to the referee (`biasopt.compare`). Of anything else only outputs can be compared: their errors
against a float64 run of the side that has one (an ONNX model, a torch module) may be no larger than its own, but
for a small factor. Where neither has one, they must agree to the last bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import onnx

from converter._version import __version__
from converter.dataclass import dataclass
from converter.errors import DataError, ModelError
from converter.records import OutputCheck, Parity, Stage, Verdict
from converter.records.evidence import InputSet, worst_verdict

Arrays = dict[str, Any]
OUTCOMES = ("fail", "skip", "pass")
_LINES = 24  # of the report that an assertion shows


def assert_same(
    a: Any,
    b: Any,
    *,
    inputs: Any = None,
    on_inconclusive: str = "fail",
    report: str | Path | None = None,
    **options: Any,
) -> Parity:
    """Assert that ``b`` gives the answers of ``a``, up to rounding.

    Parameters
    ----------
    a, b : path, bytes, ModelProto, torch module, callable, array, or mapping or sequence of arrays
        The original and the other. Arrays are outputs, and go with the ``inputs`` that they belong to. A callable takes
        the inputs as arrays, in their order, and returns outputs; a torch module takes tensors.
    inputs : mapping of input name to array, or sequence of arrays, optional
        Of two ONNX models also a path, as of `biasopt.compare`. By default random ones, as an ONNX model takes them.
    on_inconclusive : {"fail", "skip", "pass"}
        What becomes of a comparison that could not be decided.
    report : path, optional
        A folder to write the report into, as ``--report`` does: before anything is raised.
    **options
        Of `biasopt.compare`, for two ONNX models.

    Returns
    -------
    Parity

    Raises
    ------
    AssertionError
        They differ, or that could not be decided; the message is how the report begins.
    DataError, ModelError
        The inputs do not fit, or there are none.

    Examples
    --------
    >>> import biasopt  # doctest: +SKIP
    >>> net = torchvision.models.resnet18().eval()  # doctest: +SKIP
    >>> torch.onnx.export(net, (x,), "net.onnx")  # doctest: +SKIP
    >>> biasopt.assert_same(net, "net.onnx", inputs=[x.numpy()])  # doctest: +SKIP
    """
    __tracebackhide__ = True  # of pytest: the failure is the caller's line
    if on_inconclusive not in OUTCOMES:
        raise ValueError(f"on_inconclusive is {on_inconclusive!r}; there are {', '.join(OUTCOMES)}")
    if _is_model(a) and _is_model(b):
        from converter.commands.verify import compare

        given = {} if inputs is None else {"inputs": inputs}
        parity = compare(a, b, **given, **options)
    else:
        if options:
            raise TypeError(f"{min(options)} is an option of two ONNX models; {_name(a)} and {_name(b)} have none")
        parity = _compare_outputs(_make_side(a), _make_side(b), inputs)
    if report is not None:
        _write_report(parity, Path(report))
    if parity.verdict is Verdict.PASS or (parity.verdict is Verdict.INCONCLUSIVE and on_inconclusive == "pass"):
        return parity
    from converter.report.notebook import make_report, render_lines

    said = render_lines(make_report(parity), _LINES)
    if parity.verdict is Verdict.INCONCLUSIVE and on_inconclusive == "skip":
        raise SkipTest(said.partition("\n")[0])
    raise AssertionError(said)


def _write_report(parity: Parity, folder: Path) -> None:
    from converter.report.documents import verify_document
    from converter.report.save import FORMATS, save_reports

    save_reports(verify_document(parity, argv=(), version=__version__), folder, FORMATS)


# -- the two sides ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OutputSource:
    """What gives outputs: ``run`` as deployed, ``run_exactly`` in float64 (None where that cannot be)."""

    name: str
    run: Callable[[Arrays], Any]
    run_exactly: Callable[[Arrays], Any | None]
    make_inputs: Callable[[], Arrays] | None = None
    input_names: tuple[str, ...] = ()


def _is_model(given: Any) -> bool:
    return isinstance(given, str | os.PathLike | bytes | onnx.ModelProto)


def _is_torch(given: Any) -> bool:
    return any(base.__module__.startswith("torch.nn.") for base in type(given).__mro__)


def _name(given: Any) -> str:
    if isinstance(given, str | os.PathLike):
        return str(given)
    return "a model in memory" if _is_model(given) else f"a {type(given).__name__}"


def _make_side(given: Any) -> OutputSource:
    if _is_model(given):
        return _make_model_side(given)
    if _is_torch(given):
        return _make_torch_side(given)
    if callable(given):
        return OutputSource(_name(given), lambda feeds: given(*feeds.values()), lambda feeds: None)
    if isinstance(given, Mapping | Sequence | np.ndarray) or hasattr(given, "__array__"):
        return OutputSource("the given arrays", lambda feeds: given, lambda feeds: None)
    raise TypeError(f"{_name(given)} is no model, no module, no function and no array")


def _make_model_side(given: Any) -> OutputSource:
    from converter.referee.proto.random_inputs import guess_shapes, make_feeds
    from converter.referee.proto.source import LoadedModel
    from converter.referee.reference.evaluator import Reference
    from converter.referee.reference.kernels import Unsupported
    from converter.referee.verify.models import find_default_memory
    from converter.runtime import Session

    source = LoadedModel.open(Path(given) if isinstance(given, str | os.PathLike) else given, None, "model")
    held = {tensor.name for tensor in source.proto.graph.initializer}
    names = tuple(value.name for value in source.proto.graph.input if value.name not in held)

    def run(feeds: Arrays) -> Arrays:
        content = source.path or source.proto.SerializeToString()
        return Session(content, optimize="off", external_dir=source.folder).run(feeds)

    def run_exactly(feeds: Arrays) -> Arrays | None:
        try:
            exact = Reference(source.proto, external_dir=source.folder, max_bytes=find_default_memory())
            return dict(exact.run(feeds))
        except (Unsupported, DataError, ModelError):
            return None

    def make_inputs() -> Arrays:
        for guess in guess_shapes(source.proto, None, 2):
            return dict(make_feeds(source.proto, guess, 0))
        raise DataError(f"{source.label}: nothing says how large its inputs are; give inputs=")

    return OutputSource(source.label, run, run_exactly, make_inputs, names)


def _make_torch_side(module: Any) -> OutputSource:
    from converter.torch_models.export.calls import collect_tensors, run_in_float64, split_example, to_array
    from converter.torch_models.spec import wrap_module
    from converter.torch_models.spec.libraries import need

    torch = need("torch")

    def tensors(feeds: Arrays) -> tuple[Any, ...]:
        return tuple(value if torch.is_tensor(value) else torch.as_tensor(value) for value in feeds.values())

    def run(feeds: Arrays) -> list[Any]:
        with torch.no_grad():
            found = module(*[value.clone() for value in tensors(feeds)])
        return [to_array(value) for value in collect_tensors(found)]

    def run_exactly(feeds: Arrays) -> list[Any] | None:
        loaded = wrap_module(module, example=tensors(feeds), strict=False)
        parts, rebuild = split_example(loaded)
        answer = run_in_float64(loaded, parts, rebuild)
        return None if answer is None else [to_array(value) for value in answer.tensors]

    return OutputSource(f"the module {type(module).__name__}", run, run_exactly)


# -- the comparison --------------------------------------------------------------------------------------


def _compare_outputs(a: OutputSource, b: OutputSource, given: Any) -> Parity:
    """The rule of the runtime stage, on one set of inputs."""
    from converter.referee.verify.outputs import judge_values
    from converter.referee.verify.verdict import has_trusted_reference

    feeds = _read_inputs(a, b, given)
    left, right = _as_outputs(a.run(feeds)), _as_outputs(b.run(feeds))
    if len(left) != len(right):
        why = f"{len(left)} from {a.name}, {len(right)} from {b.name}: not as many outputs"
        return Parity(Verdict.FAIL, "D", why=why)
    names = _name_outputs(left, right)
    right = {name: right[name] for name in names} if set(left) == set(right) else right
    exact, by_b = a.run_exactly(feeds), False
    if exact is None:
        exact, by_b = b.run_exactly(feeds), True
    known = None if exact is None else _as_outputs(exact)
    if known is not None:
        known = {n: known[n] for n in names} if set(names) <= set(known) else known
    checks: list[OutputCheck] = []
    for place, (name, x, y) in enumerate(zip(names, left.values(), right.values(), strict=True)):
        if x.shape != y.shape:
            why = f"is of shape {list(y.shape)}, not {list(x.shape)}"
            checks.append(OutputCheck(name, Verdict.FAIL, why=why))
            continue
        right_values = None if known is None else [list(known.values())[place]]
        pair = ([y], [x]) if by_b else ([x], [y])  # whose float64 run it is, is the one that is measured by
        checks.append(judge_values(name, *pair, right_values))
    verdict = worst_verdict(check.status for check in checks)
    why = next((f"output {c.name!r} {c.why}" for c in checks if c.status is verdict and c.why), "")
    shapes = {name: tuple(np.shape(value)) for name, value in feeds.items()}
    return Parity(
        verdict,
        "B" if has_trusted_reference(checks) else "C",
        why=why or f"{b.name} against {a.name}: the same up to rounding",
        stages=(Stage("runtime", verdict, why, tuple(checks)),),
        inputs=InputSet("npz" if given is not None else "random", 1, 0, shapes=shapes, real=given is not None),
    )


def _read_inputs(a: OutputSource, b: OutputSource, given: Any) -> Arrays:
    """Arrays by name, in the order of an ONNX model's inputs where there is one."""
    known = a.input_names or b.input_names
    make = a.make_inputs or b.make_inputs
    if given is None:
        if make is None:
            raise DataError(f"nothing says what {a.name} and {b.name} take; give inputs=")
        found = make()
    elif isinstance(given, Mapping):
        found = {str(name): _as_array(value) for name, value in given.items()}
    else:
        single = isinstance(given, np.ndarray) or not isinstance(given, Sequence)
        values = [_as_array(value) for value in ([given] if single else given)]
        names = known if len(known) == len(values) else tuple(f"input {place}" for place in range(len(values)))
        found = dict(zip(names, values, strict=True))
    if known and set(found) != set(known):
        raise DataError(f"the inputs are {', '.join(found)}; the model takes {', '.join(known)}")
    return {name: found[name] for name in known} if known else found


def _as_array(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def _as_outputs(found: Any) -> Arrays:
    if isinstance(found, Mapping):
        return {str(name): _as_array(value) for name, value in found.items()}
    single = isinstance(found, np.ndarray) or not isinstance(found, Sequence)
    return {f"output {place}": _as_array(value) for place, value in enumerate([found] if single else found)}


def _name_outputs(left: Arrays, right: Arrays) -> list[str]:
    """The names that one side knows; those of ``left`` where both do."""
    return list(right) if all(name.startswith("output ") for name in left) else list(left)
