"""Findings made of verdicts: the place, the words, the fix."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from converter.records.lint import CODES, Kind, LintFinding, Location, Unconfirmed
from converter.torch_models.lint import precision_loss as hazard
from converter.torch_models.lint.candidates import Candidate, norm_modules
from converter.torch_models.lint.confirm import Change, Measured, Twin
from converter.torch_models.lint.fix import source
from converter.torch_models.lint.fix.construction_sites import Place, Places, is_installed, own
from converter.torch_models.lint.rules import recurrent as rnn
from converter.torch_models.lint.trace import Traced

_CODES = {code.name: code for code in CODES}
_COST = {
    "conv": "0-6 % of a training step, often not measurable; mostly the sum behind its gradient",
    "other": "the sum behind its gradient and its share of the optimizer: usually below what can be measured",
    "kept": "nothing by itself: it is a value, not an operation",
}


class Finder:
    """Makes findings of verdicts."""

    def __init__(self, module: Any, traced: Traced, places: Places | None, root: Path) -> None:
        self._module, self._traced, self._places, self._root = module, traced, places, root
        self._modules = dict(module.named_modules())

    def dead(self, candidate: Candidate, measured: Measured) -> LintFinding:
        norms = norm_modules(self._traced, candidate.outcome, self._modules)
        evidence = {
            "ends_at": norms or sorted({kill.kind for kill in candidate.outcome.kills}),
            "via": list(candidate.outcome.via),
            "output_change": measured.output_change,
            "gradient_ratio": measured.gradient_ratio,
        }
        text = _message(candidate, norms, self._modules)
        return self._finding(candidate.code, candidate.change, candidate.n_parameters, text, evidence)

    def recurrent(
        self, cells: Iterable[rnn.Cell], measured: Mapping[str, Measured], unconfirmed: list[Unconfirmed]
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
            found.append(self._finding("doubled-rnn-bias", change, cell.mergeable, text, evidence))
            gate = rnn.forget(cell, parameters)
            if gate is not None:
                found.append(self._forget(cell, gate))
        return found

    def _forget(self, cell: rnn.Cell, gate: rnn.Forget) -> LintFinding:
        told = f"mean forget bias {gate.bias:+.2f}: a memory of {gate.memory:.1f} steps"
        if gate.advised is not None:
            told += f", and the example has {cell.steps}; ln(T - 1) = {gate.advised:.1f} covers them"
        evidence = {"bias": gate.bias, "memory_steps": gate.memory, "steps": cell.steps, "advised": gate.advised}
        part = (cell.hidden, 2 * cell.hidden)
        return self._finding("forget-gate-bias", Change(cell.input_bias, part), cell.hidden, told, evidence)

    def large(self, kept: Iterable[Candidate], twin: Twin | None) -> list[LintFinding]:
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
            norms = norm_modules(self._traced, candidate.outcome, self._modules)
            for item in hazard.measure(twin, name, norms):
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
                    self._finding("large-bias-before-norm", candidate.change, candidate.n_parameters, told, evidence)
                )
        return found

    def rules(self, findings: Iterable[LintFinding]) -> list[LintFinding]:
        """``use_bias = InstanceNorm`` in the files that construct biases which instance norms take away."""
        files: dict[str, list[LintFinding]] = {}
        for finding in findings:
            if finding.code == "bias-before-instance-norm" and finding.location is not None:
                files.setdefault(finding.location.path, []).append(finding)
        found = []
        for path, dead in files.items():
            n = sum(finding.n_parameters for finding in dead)
            for location, name in source.switched_rules(path):
                text = f"{name or 'a flag'} switches on {n:,} parameters in {len(dead)} biases that are dead"
                code = _CODES["use-bias-if-instance-norm"]
                found.append(
                    LintFinding(code.name, code.kind, "", "", 0, text, code.fix, _COST["kept"], location, None)
                )
        return found

    def _where(self, name: str) -> tuple[Location | None, Location | None]:
        """The constructing call and the user's own; of a module that was copied, those of what it lies in."""
        if self._places is None:
            return source.location(self._module, name), None
        parts = name.split(".") if name else []
        for depth in range(len(parts), -1, -1):
            place = self._places.of(self._modules.get(".".join(parts[:depth])))
            location = _outside(place) if place is not None else None
            if place is not None and location is not None:
                return location, own(location, place, self._root)
        return source.location(self._module, name), None

    def _finding(
        self, code: str, change: Change, n_parameters: int, text: str, evidence: dict[str, Any]
    ) -> LintFinding:
        name = change.parameter.rpartition(".")[0]
        location, called = self._where(name)
        row = _CODES[code]
        whole = change.part is None
        return LintFinding(
            code=code,
            kind=row.kind,
            module=name,
            parameter=change.parameter,
            n_parameters=n_parameters,
            message=text,
            fix=_fix(code, self._modules.get(name), change, whole),
            cost=_cost(row.kind, self._modules.get(name)),
            location=location,
            called_from=called,
            part=change.part,
            evidence=evidence,
        )


def _is_torch(location: Location) -> bool:
    return is_installed(location.path) and "/torch/nn/" in location.path.replace("\\", "/")


def _outside(place: Place) -> Location | None:
    """The innermost call that torch's own modules did not make."""
    return next((where for where in (place.location, *place.callers) if not _is_torch(where)), None)


def _message(candidate: Candidate, norms: list[str], modules: Mapping[str, Any]) -> str:
    if candidate.code == "attention-key-bias" or (candidate.code == "dead-norm-offset" and not norms):
        where = "the part for the keys" if candidate.change.part else "the keys' bias"
        return f"{where} adds the same to every score that the softmax compares"
    kind = type(modules[norms[0]]).__name__ if norms and norms[0] in modules else ""
    end = f"{norms[0] or 'the module itself'} ({kind})" if norms else "what follows"
    more = f" and {len(norms) - 1} more" if len(norms) > 1 else ""
    plain = {"conv1d", "conv2d", "conv3d", "linear", "batch_norm", "instance_norm", "group_norm", "layer_norm"}
    via = [op for op in candidate.outcome.via if op not in plain]
    way = f", through {', '.join(via[:4])}" if via else ""
    if candidate.code == "frozen-norm-bias":
        return f"{end}{more} has fixed statistics, and its offset does the same{way}"
    return f"{end}{more} subtracts it{way}"


def _fix(code: str, module: Any, change: Change, whole: bool) -> str:
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


def _cost(kind: Kind, module: Any) -> str:
    if kind in (Kind.ADVICE, Kind.SOURCE):
        return _COST["kept"]
    return _COST["conv" if "Conv" in type(module).__name__ else "other"]
