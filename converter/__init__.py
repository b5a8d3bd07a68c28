"""biasopt: removes the biases and batch norms of an ONNX model that cannot matter, and proves it.

>>> import converter
>>> result = converter.fold("model.onnx", out="model.folded.onnx")  # doctest: +SKIP
>>> result.parity.verdict  # doctest: +SKIP
<Verdict.PASS: 'PASS'>
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from converter._version import __version__
from converter.errors import BiasoptError, DataError, ExportError, InvariantViolation, ModelError, RuntimeUnavailable

if TYPE_CHECKING:
    from converter import verify
    from converter.api import FoldResult, InspectResult, NoSuchBias, explain, fold, inspect, load
    from converter.api.ablate import AblateResult
    from converter.api.ablate import ablate as score_biases
    from converter.api.bench import measure_latency
    from converter.api.export import ExportResult, export_model
    from converter.api.lint import LintResult, lint_model
    from converter.api.replay import ReplayResult, replay_certificate
    from converter.api.study import StudyResult
    from converter.api.study import study as run_study
    from converter.api.verify import verify as compare

__all__ = [
    "AblateResult",
    "BiasoptError",
    "DataError",
    "ExportError",
    "ExportResult",
    "FoldResult",
    "InspectResult",
    "InvariantViolation",
    "LintResult",
    "ModelError",
    "NoSuchBias",
    "ReplayResult",
    "RuntimeUnavailable",
    "StudyResult",
    "__version__",
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


def __getattr__(name: str) -> Any:
    # The functions load numpy, onnx and onnxruntime; `import converter` alone does not.
    if name in ("FoldResult", "InspectResult", "NoSuchBias", "explain", "fold", "inspect", "load"):
        from converter import api

        return getattr(api, name)
    if name == "measure_latency":
        return importlib.import_module("converter.api.bench").measure_latency
    if name in ("LintResult", "lint_model"):
        return getattr(importlib.import_module("converter.api.lint"), name)
    if name in ("ReplayResult", "replay_certificate"):
        return getattr(importlib.import_module("converter.api.replay"), name)
    if name in ("ExportResult", "export_model"):
        return getattr(importlib.import_module("converter.api.export"), name)
    if name in ("AblateResult", "score_biases"):  # (converter.ablate is the package)
        return getattr(importlib.import_module("converter.api.ablate"), name.replace("score_biases", "ablate"))
    if name in ("StudyResult", "run_study"):  # (converter.study is the package)
        return getattr(importlib.import_module("converter.api.study"), name.replace("run_study", "study"))
    if name == "compare":  # do two models give the same answers?
        return importlib.import_module("converter.api.verify").verify
    if name == "verify":  # the referee: converter.verify.compare(a, b)
        return importlib.import_module("converter.verify")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
