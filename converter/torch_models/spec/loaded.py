"""The records: a torch model as it was asked for, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What was loaded; only a module has its source and its classes."""

    MODULE = "module"
    TORCHSCRIPT = "torchscript"
    PROGRAM = "program"  # of torch.export


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a module came from. Names of folders on this machine are no part of it."""

    spec: str
    torch: str  # its version
    weights_sha256: str = ""  # empty: no file of weights was given
    random_weights: bool = False  # nothing gave the parameters but a random generator


@dataclass(frozen=True, slots=True)
class Loaded:
    """A torch model, ready to be called.

    ``module(*example_inputs, **example_kwargs)`` runs. The module is in the mode (training or not) in which it came.
    """

    module: Any  # torch.nn.Module; of a TorchScript file a ScriptModule
    example_inputs: tuple[Any, ...]
    label: str  # the spec, for messages
    provenance: Provenance
    kind: Kind = Kind.MODULE
    example_kwargs: dict[str, Any] = field(default_factory=dict)
    input_names: tuple[str, ...] = ()  # one for each tensor in the example, in order
    notes: tuple[str, ...] = ()  # what the user should know: one clause each
    program: Any = None  # torch.export.ExportedProgram, of a .pt2 file
