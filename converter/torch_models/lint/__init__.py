"""Biases of torch modules that cannot matter in training: found, proved, and taken out before any export.

Importing this loads no torch; using it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converter.torch_models.lint.construction_sites import Places, recording
    from converter.torch_models.lint.linter import Linted, examine, lint
    from converter.torch_models.lint.strip_biases import Checkpoints, checkpoints, original_state_dict, strip

__all__ = [
    "Checkpoints",
    "Linted",
    "Places",
    "checkpoints",
    "examine",
    "lint",
    "original_state_dict",
    "recording",
    "strip",
]
_HOMES = {
    **dict.fromkeys(("Linted", "examine", "lint"), "linter"),
    **dict.fromkeys(("Places", "recording"), "construction_sites"),
    **dict.fromkeys(("Checkpoints", "checkpoints", "original_state_dict", "strip"), "strip_biases"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from converter.torch_models.spec.libraries import need

    need("torch")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
