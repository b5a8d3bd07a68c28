"""What ``biasopt doctor`` finds: versions, providers, libraries, GPUs, and what to do about what does not work."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from converter.dataclass import dataclass


@dataclass(frozen=True)
class ProviderState:
    """An execution provider: whether onnxruntime was built with it, and whether it computes a convolution here."""

    name: str  # cpu | cuda | tensorrt
    listed: bool
    works: bool
    reason: str = ""  # why it does not work, and a command


@dataclass(frozen=True)
class LibraryState:
    """A library that a provider needs: where the loader found it, and the version of the package that brings it."""

    name: str
    path: str = ""  # empty where it does not load
    version: str = ""
    reason: str = ""  # the loader's words where it does not


@dataclass(frozen=True)
class Inventory:
    """All of it, and whether the provider that was asked for works."""

    versions: dict[str, str]
    place: str  # where biasopt lies
    python: str  # the interpreter
    platform: str
    distributions: tuple[str, ...]  # of onnxruntime, by the files that they install
    providers: tuple[ProviderState, ...]
    libraries: tuple[LibraryState, ...]
    gpus: tuple[dict[str, Any], ...] = field(default_factory=tuple)
    asked: str = "cpu"
    works: bool = False
    advice: tuple[str, ...] = ()  # what to do, commands to copy
