"""``lint``: trace, decide, measure, and only then report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter.dataclass import dataclass
from converter.records.lint import LintReport, Unconfirmed
from converter.torch_models.lint.confirm import Change, Measured, Twin, confirm, measure_at_other_sizes
from converter.torch_models.lint.findings import Finder
from converter.torch_models.lint.fix.construction_sites import Places
from converter.torch_models.lint.flow import Candidate, find_candidates, find_mean_modules, list_biases
from converter.torch_models.lint.module_copies import materialize, parse_example
from converter.torch_models.lint.rules import recurrent
from converter.torch_models.lint.running_stats import measure_frozen
from converter.torch_models.lint.shift import bind_arguments
from converter.torch_models.lint.trace import TracedModule, trace_module


@dataclass(frozen=True, slots=True)
class Linted:
    """A report, with what it was made from: `strip` and the codemod go on from there."""

    report: LintReport
    traced: TracedModule
    confirmed: tuple[Candidate, ...]
    cells: tuple[recurrent.Cell, ...]
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
    cells = tuple(recurrent.find_cells(traced))
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


def _list_cell_changes(cells: Iterable[recurrent.Cell]) -> dict[str, Change]:
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
