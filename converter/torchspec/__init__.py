"""What a user means by a torch model: ``load(spec)`` gives the module, example inputs, and where they came from.

Importing this loads no torch; calling `load` does.
"""

from __future__ import annotations

from converter.torchspec.inputs import InputSpec, parse_input
from converter.torchspec.load import load, wrap
from converter.torchspec.loaded import Kind, Loaded, Provenance

__all__ = ["InputSpec", "Kind", "Loaded", "Provenance", "load", "parse_input", "wrap"]
