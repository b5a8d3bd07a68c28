"""biasopt: removes the biases and batch norms of an ONNX model that cannot matter, and proves it.

>>> import biasopt  # the name of the API; it lives here
>>> result = biasopt.fold("model.onnx", out="model.folded.onnx")  # doctest: +SKIP
>>> result.parity.verdict  # doctest: +SKIP
<Verdict.PASS: 'PASS'>
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from converter._version import __version__
from converter.errors import BiasoptError, DataError, ExportError, InvariantViolation, ModelError, RuntimeUnavailable

if TYPE_CHECKING:
    from converter.commands.ablate import AblateResult, score_biases
    from converter.commands.bench import measure_latency
    from converter.commands.certificate import replay_certificate
    from converter.commands.export import export_model
    from converter.commands.fold import FoldResult, fold
    from converter.commands.inspect import explain, inspect
    from converter.commands.lint import LintResult, lint_model
    from converter.commands.study import StudyResult, run_study
    from converter.commands.verify import compare
    from converter.integrations.assertion import assert_same
    from converter.model.graph import load
    from converter.records.options import (
        AblateOptions,
        BenchOptions,
        ExportOptions,
        FoldOptions,
        InspectOptions,
        LintOptions,
        RemovalOptions,
        ReplayOptions,
        StudyOptions,
        VerifyOptions,
    )
    from converter.records.results import ExportResult, InspectResult, ReplayResult
    from converter.referee import verify
    from converter.rewrite.bias_flow.fates import NoSuchBias, UnknownBias

__all__ = [
    "AblateOptions",
    "AblateResult",
    "BenchOptions",
    "BiasoptError",
    "DataError",
    "ExportError",
    "ExportOptions",
    "ExportResult",
    "FoldOptions",
    "FoldResult",
    "InspectOptions",
    "InspectResult",
    "InvariantViolation",
    "LintOptions",
    "LintResult",
    "ModelError",
    "NoSuchBias",
    "RemovalOptions",
    "ReplayOptions",
    "ReplayResult",
    "RuntimeUnavailable",
    "StudyOptions",
    "StudyResult",
    "UnknownBias",
    "VerifyOptions",
    "__version__",
    "assert_same",
    "compare",
    "explain",
    "export_model",
    "fold",
    "inspect",
    "lint_model",
    "load",
    "measure_latency",
    "replay_certificate",
    "run_study",
    "score_biases",
    "verify",
]


# Where each public name lives. The functions load numpy, onnx and onnxruntime; `import converter` alone does not.
_HOME = {
    "AblateResult": "commands.ablate:AblateResult",
    "ExportResult": "records.results:ExportResult",
    "FoldResult": "commands.fold:FoldResult",
    "InspectResult": "records.results:InspectResult",
    "LintResult": "commands.lint:LintResult",
    "NoSuchBias": "rewrite.bias_flow.fates:UnknownBias",  # the name of earlier versions
    "ReplayResult": "records.results:ReplayResult",
    "UnknownBias": "rewrite.bias_flow.fates:UnknownBias",
    "StudyResult": "commands.study:StudyResult",
    "assert_same": "integrations.assertion:assert_same",  # in a test
    "compare": "commands.verify:compare",  # do two models give the same answers?
    "explain": "commands.inspect:explain",
    "export_model": "commands.export:export_model",
    "fold": "commands.fold:fold",
    "inspect": "commands.inspect:inspect",
    "lint_model": "commands.lint:lint_model",
    "load": "model.graph:load",
    "measure_latency": "commands.bench:measure_latency",
    "replay_certificate": "commands.certificate:replay_certificate",
    "run_study": "commands.study:run_study",
    "score_biases": "commands.ablate:score_biases",
    "verify": "referee.verify:",  # the referee: converter.verify.compare(a, b)
}


_HOME |= {name: f"records.options:{name}" for name in __all__ if name.endswith("Options")}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    found = importlib.import_module(f"{__name__}.{module}")  # see biasopt.py
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
