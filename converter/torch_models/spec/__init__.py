"""What a user means by a torch model: ``load(spec)`` gives the module, example inputs, and where they came from.

Importing this loads no torch; calling `load` does.
"""

from __future__ import annotations

from converter.torch_models.spec.inputs import InputSpec, parse_input
from converter.torch_models.spec.load import load, wrap
from converter.torch_models.spec.loaded import Kind, Loaded, Provenance

__all__ = ["InputSpec", "Kind", "Loaded", "Provenance", "load", "parse_input", "wrap"]
