"""Models and weights that are files; code in them runs only with `trust`.

TorchScript, programs of torch.export (``.pt2``), and state dicts, which are loaded with every key accounted for.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.errors import ModelError
from converter.torch_models.spec import program_archive, script_archive
from converter.torch_models.spec.archive import FACTORY, TRUST, NotValidated, check_budget, names_in, read, rebuild
from converter.torch_models.spec.factory import Kind, Made
from converter.torch_models.spec.libraries import need


def load_file(path: Path, *, trust: bool = False) -> Made:
    """Read a TorchScript file or a program of torch.export.

    Unless `trust`, the archive is looked at first and torch is given what was found harmless, so that no code of the
    file's runs but the net itself.

    Raises
    ------
    ModelError
        It is neither, holds what is not known to be harmless, or this torch cannot read it.
    """
    kind = kind_of_file(path)
    source = str(path) if trust else _validate(path, kind)
    return _load_script(path, source) if kind is Kind.TORCHSCRIPT else _load_program(path, source)


def kind_of_file(path: Path) -> Kind:
    """Say by the names in the archive what it is; nothing of it is loaded."""
    if not path.exists():
        raise ModelError(f"{path}: there is no such file")
    if not path.is_file():  # a pipe would wait for a writer
        raise ModelError(f"{path}: is not a regular file; {FACTORY}")
    names = names_in(path)
    if any("models/model.json" in name or "serialized_exported_program" in name for name in names):
        return Kind.PROGRAM
    if any("/constants.pkl" in name for name in names):
        return Kind.TORCHSCRIPT
    if any("/data.pkl" in name for name in names):
        raise ModelError(f"{path}: holds weights or a pickled module, no program; {FACTORY}")
    raise ModelError(f"{path}: is neither TorchScript nor a program of torch.export (.pt2); {FACTORY}")


def _validate(path: Path, kind: Kind) -> io.BytesIO:
    try:
        content = read(path)
        validator = script_archive.validate if kind is Kind.TORCHSCRIPT else program_archive.validate
        return rebuild(content, validator(content))
    except NotValidated as exc:
        raise ModelError(f"{path}: holds what is not known to be harmless ({exc}); {TRUST}") from exc


def _load_script(path: Path, source: str | io.BytesIO) -> Made:
    torch = need("torch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is deprecated; the user's file is what it is
            module = torch.jit.load(source, map_location="cpu")
    except Exception as exc:
        raise ModelError(f"{path}: this torch cannot read it ({_first_line(exc)}); save it again") from exc
    return Made(module, str(path), path.name, Kind.TORCHSCRIPT)


def _load_program(path: Path, source: str | io.BytesIO) -> Made:
    torch = need("torch")
    importlib_load = need("torch.export").load
    try:
        with warnings.catch_warnings(), _allow_tensors_only(), _silence("torch.export"):
            warnings.simplefilter("ignore")
            program = importlib_load(source)
            module = program.module()
    except Exception as exc:
        raise ModelError(
            f"{path}: torch {torch.__version__} cannot read it ({_first_line(exc)}); save it again"
        ) from exc
    return Made(module, str(path), path.name, Kind.PROGRAM, example=program.example_inputs, program=program)


@contextlib.contextmanager
def _allow_tensors_only() -> Iterator[None]:
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
def _silence(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]


_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")  # of training scripts' checkpoints
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel, of torch.compile
_SHOWN = 3  # keys that a message names


def load_weights(module: Any, file: Path, *, strict: bool, label: str) -> tuple[tuple[str, ...], str]:
    """Load a file of weights into `module`; returns what the user should know, and the file's sha256.

    Raises
    ------
    ModelError
        The file cannot be read without running code in it, or its keys or shapes do not fit.
    """
    state = _strip_prefix(_unwrap(_read(file), file), module)
    notes = _check_keys(module, state, file, label, strict)
    on_meta = any(p.is_meta for p in (*module.parameters(), *module.buffers()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module.load_state_dict(state, strict=False, assign=on_meta)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as exc:  # a module may load as it likes
        raise ModelError(f"{file}: does not fit {label} ({' '.join(str(exc).split())})") from exc
    with file.open("rb") as content:
        return notes, hashlib.file_digest(content, "sha256").hexdigest()


def _read(file: Path) -> Any:
    torch = need("torch")
    if not file.is_file():
        raise ModelError(f"{file}: there is no such file of weights")
    if file.suffix.lower() == ".safetensors":
        read = need("safetensors.torch", "a .safetensors file").load_file
    else:
        check_budget(file)

        def read(path: str) -> Any:
            return torch.load(path, map_location="cpu", weights_only=True)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(str(file))
    except Exception as exc:
        raise ModelError(f"{file}: {_explain_unreadable(exc)}") from exc


def _explain_unreadable(exc: Exception) -> str:
    said = " ".join(str(exc).split())
    if "weights_only" in said or "Unsupported" in said:
        _, _, name = said.partition("GLOBAL ")
        what = f" ({name.split()[0]})" if name else ""
        return f"holds Python objects beside tensors{what}, which are not read; save model.state_dict() alone"
    said = said.partition(". ")[0]
    told = f" ({said})" if " " in said else ""
    return f"no file of weights{told}; save model.state_dict() with torch.save or safetensors"


def _unwrap(found: Any, file: Path) -> Mapping[str, Any]:
    torch = need("torch")
    for _ in range(3):
        if isinstance(found, Mapping) and not all(isinstance(key, str) for key in found):
            raise ModelError(f"{file}: holds keys that are no names, no state dict; save model.state_dict()")
        if isinstance(found, Mapping) and found and all(isinstance(v, torch.Tensor) for v in found.values()):
            return found
        inner = [found[k] for k in _WRAPPERS if isinstance(found, Mapping) and isinstance(found.get(k), Mapping)]
        if not inner:
            break
        found = inner[0]
    if (
        isinstance(found, Mapping)
        and all(isinstance(key, str) for key in found)
        and any(isinstance(v, torch.Tensor) for v in found.values())
    ):
        return found  # with extra state beside the tensors
    what = f"a {type(found).__name__}" + (
        f" of {', '.join(map(str, list(found)[:4]))}" if isinstance(found, Mapping) else ""
    )
    raise ModelError(f"{file}: holds {what}, no state dict; save model.state_dict()")


def _strip_prefix(state: Mapping[str, Any], module: Any) -> OrderedDict[str, Any]:
    """The keys without the prefix that a wrapper gave to all of them.

    The versions of the modules, by which some of them convert what older ones stored, go along; a file that has none
    (safetensors, a dict made by hand) is taken to be of the present ones.
    """
    own = module.state_dict()
    versions: dict[str, Any] = dict(getattr(state, "_metadata", None) or {})
    for prefix in _PREFIXES * 2:
        if all(k.startswith(prefix) for k in state) and not all(k.startswith(prefix) for k in own):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
            versions = {f"{k}.".removeprefix(prefix).removesuffix("."): v for k, v in versions.items() if k}
    found = OrderedDict(state)
    found._metadata = versions or own._metadata  # type: ignore[attr-defined]  # where torch keeps it
    return found


def _check_keys(module: Any, state: Mapping[str, Any], file: Path, label: str, strict: bool) -> tuple[str, ...]:
    own = module.state_dict()
    wrong = [
        f"{k} is {list(state[k].shape)}, not {list(v.shape)}"
        for k, v in own.items()
        if k in state and hasattr(v, "shape") and tuple(state[k].shape) != tuple(v.shape)
    ]
    if wrong:
        raise ModelError(f"{file}: does not fit {label}: {list_first(wrong)}; make the model that was trained")
    # A counter that old checkpoints lack, and that nothing reads in eval mode.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    if own and len(missing) == len([k for k in own if not k.endswith("num_batches_tracked")]):
        raise ModelError(
            f"{file}: shares no key with {label} (it has {list_first(unexpected)}, the model {list_first(list(own))})"
        )
    parts = [
        f"{word} {list_first(keys)}" for word, keys in (("lacks", missing), ("has unexpected", unexpected)) if keys
    ]
    if not parts:
        return ()
    if strict:
        fixed = not missing and all(k.endswith(".bias") for k in unexpected)
        hint = " or, after `lint --fix`, make it fit by --fix-checkpoint," if fixed else ","
        raise ModelError(f"{file}: {' and '.join(parts)}; make the model that was trained{hint} or give --no-strict")
    return (f"{file.name} {' and '.join(parts)}: taken as it is",)


def list_first(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
