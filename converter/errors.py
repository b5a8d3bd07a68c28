"""The error tree.

::

    Exception
    ├── BiasoptError               the user can act: one line, no traceback        exit 3
    │   ├── ModelError             a model file or proto is missing, malformed or unsupported
    │   ├── ExportError            torch could not export
    │   ├── DataError              inputs or labels do not fit the model
    │   └── RuntimeUnavailable     the provider that was asked for is not there
    └── InvariantViolation         a bug in biasopt: traceback, "please report"    exit 70

A message says *what happened, where, what to do*: ``<path>: <what>; <what to do>``.
Errors of onnx, onnx-graphsurgeon, onnxruntime and torch are mapped where those are imported.
"""

from __future__ import annotations

import os


class BiasoptError(Exception):
    """An error that the user can act on; its text is one line."""


class ModelError(BiasoptError):
    """A model is missing, malformed or unsupported, or cannot be written."""


class ExportError(BiasoptError):
    """A torch module could not be exported to ONNX."""


class DataError(BiasoptError):
    """Inputs, shapes or labels do not fit the model."""


class RuntimeUnavailable(BiasoptError):
    """The execution provider or library that was asked for is not available."""


def explain_os_error(error: OSError) -> BiasoptError:
    """What the system refused, as an error of the user's: no room, no right, a file that went away meanwhile."""
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return BiasoptError(
        f"{where}the system refused ({error.strerror or type(error).__name__}); see to that, run it again"
    )


class InvariantViolation(Exception):
    """A pass or the graph broke its own promise: a bug in biasopt, never the user's fault."""
