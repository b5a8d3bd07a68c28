"""What a user means by a torch model: ``load(spec)`` gives the module, example inputs, and where they came from.

Importing this loads no torch; calling `load` does.
"""

from __future__ import annotations

from converter.records.results import Provenance
from converter.torch_models.spec.factory import Kind, Loaded
from converter.torch_models.spec.loader import InputSpec, load, parse_input, saved_kind, wrap_module

__all__ = ["InputSpec", "Kind", "Loaded", "Provenance", "load", "parse_input", "saved_kind", "wrap_module"]
