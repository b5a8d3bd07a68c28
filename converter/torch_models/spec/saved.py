"""Models that are files: TorchScript, and programs of torch.export (``.pt2``)."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

from converter.errors import ModelError
from converter.torch_models.spec.factory import Made
from converter.torch_models.spec.libraries import need
from converter.torch_models.spec.loaded import Kind

_FACTORY = "give the code that makes the model as SPEC and this file as --weights"


def load(path: Path) -> Made:
    """Read a TorchScript file or a program of torch.export; neither runs code of the file's."""
    if not path.exists():
        raise ModelError(f"{path}: there is no such file")
    names = _entries(path)
    if any("models/model.json" in name or "serialized_exported_program" in name for name in names):
        return _program(path, names)
    if any("/constants.pkl" in name for name in names):
        return _script(path)
    if any("/data.pkl" in name for name in names):
        raise ModelError(f"{path}: holds weights or a pickled module, no program; {_FACTORY}")
    raise ModelError(f"{path}: is neither TorchScript nor a program of torch.export (.pt2); {_FACTORY}")


def _entries(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile) as exc:
        raise ModelError(f"{path}: is neither TorchScript nor a program of torch.export (.pt2); {_FACTORY}") from exc


def _script(path: Path) -> Made:
    torch = need("torch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is deprecated; the user's file is what it is
            module = torch.jit.load(str(path), map_location="cpu")
    except Exception as exc:
        raise ModelError(f"{path}: this torch cannot read it ({_first(exc)}); save it again") from exc
    return Made(module, str(path), path.name, Kind.TORCHSCRIPT)


def _program(path: Path, names: list[str]) -> Made:
    torch = need("torch")
    importlib_load = need("torch.export").load
    if any("opaque_obj_" in name for name in names):
        raise ModelError(f"{path}: holds pickled Python objects, which are not read; export it without them")
    try:
        with warnings.catch_warnings(), _tensors_only(), _silent("torch.export"):
            warnings.simplefilter("ignore")
            program = importlib_load(path)
            module = program.module()
    except Exception as exc:
        raise ModelError(f"{path}: torch {torch.__version__} cannot read it ({_first(exc)}); save it again") from exc
    return Made(module, str(path), path.name, Kind.PROGRAM, example=program.example_inputs, program=program)


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """torch.export.load asks for whole pickles in places; torch lets the environment forbid that."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextlib.contextmanager
def _silent(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _first(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
