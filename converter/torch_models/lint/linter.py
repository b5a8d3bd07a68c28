"""``lint``: trace, decide, measure, and only then report findings: place, words, fix, and the digits a bias costs."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter.dataclass import dataclass
from converter.records.lint import CODES, Kind, LintFinding, LintReport, Location, Unconfirmed
from converter.torch_models.lint.confirm import Change, Measured, Twin, confirm, measure_at_other_sizes, measure_frozen
from converter.torch_models.lint.construction_sites import (
    Place,
    Places,
    find_own_call,
    find_switched_rules,
    is_installed,
    read_location,
)
from converter.torch_models.lint.flow import (
    Candidate,
    find_candidates,
    find_mean_modules,
    find_norm_modules,
    list_biases,
)
from converter.torch_models.lint.module_copies import Example, materialize, parse_example
from converter.torch_models.lint.rules import normalization
from converter.torch_models.lint.shift import bind_arguments
from converter.torch_models.lint.trace import TracedModule, trace_module

# In units of the input's standard deviation. Rounding y = b + N(0, 1) to bfloat16 and normalising it in float32
# leaves an error of 0.03 at b = 16; with float16's eight times finer steps the same is left at b = 64 and more.
LIMITS = {"bfloat16": 16.0, "float16": 64.0}
_WORSE = 4.0  # times the error without the bias: less is not worth a line


@dataclass(frozen=True, slots=True)
class PrecisionLoss:
    """One norm whose input has a channel far from 0, because of a bias."""

    norm: str
    dtype: str
    ratio: float  # |bias| in standard deviations, of the worst channel
    error: float  # rms error of the normalised output of that channel, inputs rounded to dtype
    error_without: float  # the same with the bias removed


def measure_precision_loss(twin: Twin, parameter: str, norms: Iterable[str]) -> list[PrecisionLoss]:
    """The hazards of one dead bias at the norms that take it away."""
    names = sorted(set(norms))
    before = _norm_inputs(twin.module, twin.example, names)
    value = twin.parameters[parameter]
    kept = value.detach().clone()
    value.data.zero_()
    try:
        after = _norm_inputs(twin.module, twin.example, names)
    finally:
        value.data.copy_(kept)
    found = []
    for name in names:
        if name in before and before[name].shape == after.get(name, before[name]).shape and name in after:
            found += _judge(name, before[name], after[name])
    return found


def _norm_inputs(module: Any, example: Example, names: list[str]) -> dict[str, Any]:
    """What each norm is given at its first call, channels first."""
    import torch

    found: dict[str, Any] = {}
    module = copy.deepcopy(module, {id(p): p for p in module.parameters()})
    for name in names:
        part = module.get_submodule(name)

        def note(_: Any, args: tuple[Any, ...], name: str = name) -> None:
            if args and name not in found:
                found[name] = args[0].detach().transpose(0, 1).flatten(1)

        part.register_forward_pre_hook(note)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        module(*example.args, **example.kwargs)
    return found


def _judge(name: str, before: Any, after: Any) -> list[PrecisionLoss]:
    import torch

    sd = after.std(1).clamp_min(1e-30)
    ratios = (before - after).mean(1).abs() / sd
    channel = int(ratios.argmax())
    found = []
    for dtype, limit in LIMITS.items():
        if float(ratios[channel]) < limit:
            continue
        errors = [_rounding_error(rows[channel], getattr(torch, dtype)) for rows in (before, after)]
        if errors[0] >= _WORSE * errors[1]:
            found.append(PrecisionLoss(name, dtype, float(ratios[channel]), errors[0], errors[1]))
    return found


def _rounding_error(row: Any, dtype: Any) -> float:
    exact, rounded = (_normalize(values) for values in (row, row.to(dtype).double()))
    return float((exact - rounded).pow(2).mean().sqrt())


def _normalize(row: Any) -> Any:
    return (row - row.mean()) / row.std(correction=0).clamp_min(1e-30)


_CODES = {code.name: code for code in CODES}
_COST = {
    "conv": "0-6 % of a training step, often not measurable; mostly the sum behind its gradient",
    "other": "the sum behind its gradient and its share of the optimizer: usually below what can be measured",
    "kept": "nothing by itself: it is a value, not an operation",
}


class Finder:
    """Makes findings of verdicts."""

    def __init__(self, module: Any, traced: TracedModule, places: Places | None, root: Path) -> None:
        self._module, self._traced, self._places, self._root = module, traced, places, root
        self._modules = dict(module.named_modules())

    def report_dead(self, candidate: Candidate, measured: Measured) -> LintFinding:
        norms = find_norm_modules(self._traced, candidate.trace, self._modules)
        evidence = {
            "ends_at": norms or sorted({cancel.kind for cancel in candidate.trace.cancels}),
            "via": list(candidate.trace.via),
            "output_change": measured.output_change,
            "gradient_ratio": measured.gradient_ratio,
        }
        text = _describe(candidate, norms, self._modules)
        return self._make_finding(candidate.code, candidate.change, candidate.n_parameters, text, evidence)

    def report_recurrent(
        self, cells: Iterable[normalization.Cell], measured: Mapping[str, Measured], unconfirmed: list[Unconfirmed]
    ) -> list[LintFinding]:
        parameters = dict(self._module.named_parameters(remove_duplicate=False))
        found = []
        for cell in cells:
            seen = measured.get(cell.hidden_bias)
            if seen is None or not seen.ok:
                why = seen.why if seen else "it could not be measured"
                unconfirmed.append(Unconfirmed("doubled-rnn-bias", cell.hidden_bias, why))
                continue
            change = Change(cell.hidden_bias, (0, cell.mergeable))
            own_part = cell.input_bias.rpartition(".")[2]
            rest = "; the candidate's third does something of its own and stays" if cell.op == "gru" else ""
            text = f"only ever added to {own_part}{rest}"
            evidence: dict[str, Any] = {"output_change": seen.output_change, "gradient_ratio": seen.gradient_ratio}
            found.append(self._make_finding("doubled-rnn-bias", change, cell.mergeable, text, evidence))
            gate = normalization.measure_forget_gate(cell, parameters)
            if gate is not None:
                found.append(self._report_forget_gate(cell, gate))
        return found

    def _report_forget_gate(self, cell: normalization.Cell, gate: normalization.Forget) -> LintFinding:
        told = f"mean forget bias {gate.bias:+.2f}: a memory of {gate.memory:.1f} steps"
        if gate.advised is not None:
            told += f", and the example has {cell.steps}; started at 1 or {gate.advised:g} it learns to remember longer"
        evidence = {"bias": gate.bias, "memory_steps": gate.memory, "steps": cell.steps, "advised": gate.advised}
        part = (cell.hidden, 2 * cell.hidden)
        return self._make_finding("forget-gate-bias", Change(cell.input_bias, part), cell.hidden, told, evidence)

    def report_large(self, kept: Iterable[Candidate], twin: Twin | None) -> list[LintFinding]:
        found = []
        for candidate in kept:
            name = candidate.change.parameter
            if (
                twin is None
                or candidate.change.part
                or not candidate.code.startswith("bias-before-")
                or candidate.code.startswith("frozen")
            ):
                continue
            if float(twin.parameters[name].abs().max()) == 0.0:
                continue
            norms = find_norm_modules(self._traced, candidate.trace, self._modules)
            for item in measure_precision_loss(twin, name, norms):
                told = (
                    f"{item.ratio:.0f} sd at {item.norm or 'the norm'}: in {item.dtype} the norm's output is "
                    f"{item.error:.1e} off, {item.error_without:.1e} without it"
                )
                evidence = {
                    "norm": item.norm,
                    "dtype": item.dtype,
                    "sd": item.ratio,
                    "error": item.error,
                    "error_without": item.error_without,
                }
                found.append(
                    self._make_finding(
                        "large-bias-before-norm", candidate.change, candidate.n_parameters, told, evidence
                    )
                )
        return found

    def report_switches(self, findings: Iterable[LintFinding]) -> list[LintFinding]:
        """``use_bias = InstanceNorm`` in the files that construct biases which instance norms take away."""
        files: dict[str, list[LintFinding]] = {}
        for finding in findings:
            if finding.code == "bias-before-instance-norm" and finding.location is not None:
                files.setdefault(finding.location.path, []).append(finding)
        found = []
        for path, dead in files.items():
            n = sum(finding.n_parameters for finding in dead)
            for location, name in find_switched_rules(path):
                text = f"{name or 'a flag'} switches on {n:,} parameters in {len(dead)} biases that are dead"
                code = _CODES["use-bias-if-instance-norm"]
                found.append(
                    LintFinding(code.name, code.kind, "", "", None, 0, text, code.fix, _COST["kept"], location, None)
                )
        return found

    def _locate(self, name: str) -> tuple[Location | None, Location | None]:
        """The constructing call and the user's own; of a module that was copied, those of what it lies in."""
        if self._places is None:
            return read_location(self._module, name), None
        parts = name.split(".") if name else []
        for depth in range(len(parts), -1, -1):
            place = self._places.find(self._modules.get(".".join(parts[:depth])))
            location = _user_call(place) if place is not None else None
            if place is not None and location is not None:
                return location, find_own_call(location, place, self._root)
        return read_location(self._module, name), None

    def _make_finding(
        self, code: str, change: Change, n_parameters: int, text: str, evidence: dict[str, Any]
    ) -> LintFinding:
        name = change.parameter.rpartition(".")[0]
        location, called = self._locate(name)
        row = _CODES[code]
        whole = change.part is None
        return LintFinding(
            code=code,
            kind=row.kind,
            module=name,
            parameter=change.parameter,
            n_parameters=n_parameters,
            message=text,
            fix=_advise_fix(code, self._modules.get(name), whole),
            cost=_describe_cost(row.kind, self._modules.get(name)),
            location=location,
            called_from=called,
            part=change.part,
            evidence=evidence,
        )


def _is_torch(location: Location) -> bool:
    return is_installed(location.path) and "/torch/nn/" in location.path.replace("\\", "/")


def _user_call(place: Place) -> Location | None:
    """The innermost call that torch's own modules did not make."""
    return next((where for where in (place.location, *place.callers) if not _is_torch(where)), None)


def _describe(candidate: Candidate, norms: list[str], modules: Mapping[str, Any]) -> str:
    if candidate.code == "attention-key-bias" or (candidate.code == "dead-norm-offset" and not norms):
        where = "the part for the keys" if candidate.change.part else "the keys' bias"
        return f"{where} adds the same to every score that the softmax compares"
    kind = type(modules[norms[0]]).__name__ if norms and norms[0] in modules else ""
    end = f"{norms[0] or 'the module itself'} ({kind})" if norms else "what follows"
    more = f" and {len(norms) - 1} more" if len(norms) > 1 else ""
    plain = {"conv1d", "conv2d", "conv3d", "linear", "batch_norm", "instance_norm", "group_norm", "layer_norm"}
    via = [op for op in candidate.trace.via if op not in plain]
    way = f", through {', '.join(via[:4])}" if via else ""
    if candidate.code == "frozen-norm-bias":
        return f"{end}{more} has fixed statistics, and its offset does the same{way}"
    return f"{end}{more} subtracts it{way}"


def _advise_fix(code: str, module: Any, whole: bool) -> str:
    row = _CODES[code]
    if row.kind is not Kind.DEAD:
        return row.fix
    if not whole or not _takes_bias(module):
        return "leave its part at 0, or split the projection" if not whole else "hold it at 0, or leave it out"
    affine = "; affine=True gives the norm an offset, where one is wanted"
    return "bias=False" + (affine if code == "bias-before-instance-norm" else "")


def _takes_bias(module: Any) -> bool:
    try:
        return "bias" in inspect.signature(type(module).__init__).parameters
    except (TypeError, ValueError):
        return False


def _describe_cost(kind: Kind, module: Any) -> str:
    if kind in (Kind.ADVICE, Kind.SOURCE):
        return _COST["kept"]
    return _COST["conv" if "Conv" in type(module).__name__ else "other"]


@dataclass(frozen=True, slots=True)
class Linted:
    """A report, with what it was made from: `strip` and the codemod go on from there."""

    report: LintReport
    traced: TracedModule
    confirmed: tuple[Candidate, ...]
    cells: tuple[normalization.Cell, ...]
    places: Places | None


def lint(
    module: Any,
    example: Any,
    kwargs: dict[str, Any] | None = None,
    *,
    places: Places | None = None,
    label: str = "",
    root: Path | None = None,
) -> LintReport:
    """Find the biases of a torch module that cannot matter in training.

    Parameters
    ----------
    module : torch.nn.Module
        Left as it is. In training mode its parts keep their modes, so that frozen norms are known; in eval mode it is
        linted as ``module.train()`` would make it.
    example : Tensor | tuple | dict
        Arguments of one call. An example of one is doubled, with noise, for norms to see a batch.
    kwargs : dict, optional
        Further arguments by name.
    places : Places, optional
        Where its modules were constructed, from `recording`. Without it, classes' sources are read.
    label : str
        What to call the module in reports.
    root : Path, optional
        The user's folder, for the nearest call in it; the current one by default.

    Returns
    -------
    LintReport
        Findings that the trace proved and that a run in float64 confirmed.

    Raises
    ------
    ModelError
        It could not be traced; the message names the module and the operator.
    DataError
        It does not run on the example.
    """
    return examine(module, example, kwargs, places=places, label=label, root=root).report


def examine(
    module: Any,
    example: Any,
    kwargs: dict[str, Any] | None = None,
    *,
    places: Places | None = None,
    label: str = "",
    root: Path | None = None,
) -> Linted:
    """Like `lint`, with what the report was made from."""
    given = parse_example(example, kwargs)
    module = materialize(module, given)
    traced = trace_module(module, given)
    notes = [] if traced.tracer == "torch.export" else ["torch.export declined; what holds is what this example ran"]
    notes += _list_limits(traced)
    twin, why = _make_twin(traced)
    if why:
        notes.append(why)
    found = list(find_candidates(traced, twin))
    cells = tuple(normalization.find_cells(traced))
    changes = {c.key: c.change for c in found if c.code != "frozen-norm-bias"} | _list_cell_changes(cells)
    measured = confirm(twin, changes) if twin is not None else {}
    measured = _check_other_sizes(twin, changes, measured) | _confirm_frozen(twin, traced, found)
    unconfirmed = [
        Unconfirmed(c.code, c.key, measured[c.key].why if c.key in measured else why)
        for c in found
        if c.key not in measured or not measured[c.key].ok
    ]
    finder = Finder(module, traced, places, (root or Path.cwd()).resolve())
    kept = [c for c in found if c.key in measured and measured[c.key].ok]
    findings = [finder.report_dead(c, measured[c.key]) for c in kept]
    findings += finder.report_recurrent(cells, measured, unconfirmed)
    findings += finder.report_large(kept, twin)
    findings += finder.report_switches(findings)
    vectors = list_biases(traced.module)
    report = LintReport(
        label or type(module).__name__,
        tuple(findings),
        tuple(unconfirmed),
        len(vectors),
        sum(v.numel() for v in vectors.values()),
        sum(p.numel() for p in traced.module.parameters()),
        traced.tracer,
        tuple(notes),
    )
    return Linted(report, traced, tuple(kept), cells, places)


def _list_limits(traced: TracedModule) -> list[str]:
    """What the module does by which biases are hidden from the trace."""
    found = []
    if any("autocast" in str(node.target) for node in traced.graph.nodes):
        found.append("what runs under autocast is not followed: lint the module without it")
    if any("FakeQuantize" in type(part).__name__ for part in traced.module.modules()):
        found.append(
            "quantisation-aware training: what a bias adds is rounded before the norm sees it, so that none is dead "
            "exactly; lint the module before it is prepared"
        )
    return found


def _make_twin(traced: TracedModule) -> tuple[Twin | None, str]:
    try:
        return Twin(traced.module, traced.example, _find_statistics(traced)), ""
    except Exception as exc:  # the user's module, in a precision that it was not written for
        said = " ".join(str(exc).split()) or type(exc).__name__
        return None, f"nothing could be confirmed: it does not run in float64 ({said[:160]})"


def _check_other_sizes(
    twin: Twin | None, changes: Mapping[str, Change], measured: Mapping[str, Measured]
) -> dict[str, Measured]:
    """What was measured, less what does not hold at another size of the input."""
    quiet = {name: change for name, change in changes.items() if name in measured and measured[name].ok}
    felt = {} if twin is None else measure_at_other_sizes(twin, quiet)
    why = "at another size of the input, changing it moves the output by {:.1e} of its size"
    return dict(measured) | {n: replace(measured[n], ok=False, why=why.format(moved)) for n, moved in felt.items()}


def _find_statistics(traced: TracedModule) -> frozenset[str]:
    """The buffers that norms are called with as running statistics, whatever they are named."""
    names = ("running_mean", "running_var")
    given = [
        bind_arguments(node).get(name) for node in traced.graph.nodes if node.op == "call_function" for name in names
    ]
    return frozenset(traced.names[node] for node in given if node is not None and traced.names.get(node))


def _list_cell_changes(cells: Iterable[normalization.Cell]) -> dict[str, Change]:
    return {c.hidden_bias: Change(c.hidden_bias, (0, c.mergeable), opposite=c.input_bias) for c in cells}


def _confirm_frozen(twin: Twin | None, traced: TracedModule, found: Iterable[Candidate]) -> dict[str, Measured]:
    """A redundant bias is confirmed by moving a change of it into the norms' means: the outputs stay."""
    if twin is None:
        return {}
    modules = dict(traced.module.named_modules())
    return {
        c.key: measure_frozen(twin, c.change, find_mean_modules(traced, c.trace, modules))
        for c in found
        if c.code == "frozen-norm-bias"
    }
