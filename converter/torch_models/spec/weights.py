"""State dicts from files, read without running code, and loaded with every key accounted for."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.errors import ModelError
from converter.torch_models.spec.libraries import need

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")  # of training scripts' checkpoints
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel, of torch.compile
_SHOWN = 3  # keys that a message names


def load_into(module: Any, file: Path, *, strict: bool, label: str) -> tuple[tuple[str, ...], str]:
    """Load a file of weights into `module`; returns what the user should know, and the file's sha256.

    Raises
    ------
    ModelError
        The file cannot be read without running code in it, or its keys or shapes do not fit.
    """
    state = _unprefixed(_unwrapped(_read(file), file), module)
    notes = _check(module, state, file, label, strict)
    on_meta = any(p.is_meta for p in (*module.parameters(), *module.buffers()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module.load_state_dict(state, strict=False, assign=on_meta)
    except RuntimeError as exc:
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

        def read(path: str) -> Any:
            return torch.load(path, map_location="cpu", weights_only=True)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(str(file))
    except Exception as exc:
        raise ModelError(f"{file}: {_unreadable(exc)}") from exc


def _unreadable(exc: Exception) -> str:
    said = " ".join(str(exc).split())
    if "weights_only" in said or "Unsupported" in said:
        _, _, name = said.partition("GLOBAL ")
        what = f" ({name.split()[0]})" if name else ""
        return f"holds Python objects beside tensors{what}, which are not read; save model.state_dict() alone"
    said = said.partition(". ")[0]
    told = f" ({said})" if " " in said else ""
    return f"no file of weights{told}; save model.state_dict() with torch.save or safetensors"


def _unwrapped(found: Any, file: Path) -> Mapping[str, Any]:
    torch = need("torch")
    for _ in range(3):
        if isinstance(found, Mapping) and found and all(isinstance(v, torch.Tensor) for v in found.values()):
            return found
        inner = [found[k] for k in _WRAPPERS if isinstance(found, Mapping) and isinstance(found.get(k), Mapping)]
        if not inner:
            break
        found = inner[0]
    if isinstance(found, Mapping) and found and any(isinstance(v, torch.Tensor) for v in found.values()):
        return found  # with extra state beside the tensors
    what = f"a {type(found).__name__}" + (
        f" of {', '.join(map(str, list(found)[:4]))}" if isinstance(found, Mapping) else ""
    )
    raise ModelError(f"{file}: holds {what}, no state dict; save model.state_dict()")


def _unprefixed(state: Mapping[str, Any], module: Any) -> dict[str, Any]:
    """The keys without the prefix that a wrapper gave to all of them."""
    own = module.state_dict().keys()
    for prefix in _PREFIXES * 2:
        if all(k.startswith(prefix) for k in state) and not all(k.startswith(prefix) for k in own):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    return dict(state)


def _check(module: Any, state: Mapping[str, Any], file: Path, label: str, strict: bool) -> tuple[str, ...]:
    own = module.state_dict()
    wrong = [
        f"{k} is {list(state[k].shape)}, not {list(v.shape)}"
        for k, v in own.items()
        if k in state and hasattr(v, "shape") and tuple(state[k].shape) != tuple(v.shape)
    ]
    if wrong:
        raise ModelError(f"{file}: does not fit {label}: {_few(wrong)}; make the model that was trained")
    # A counter that old checkpoints lack, and that nothing reads in eval mode.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    if own and len(missing) == len([k for k in own if not k.endswith("num_batches_tracked")]):
        raise ModelError(f"{file}: shares no key with {label} (it has {_few(unexpected)}, the model {_few(list(own))})")
    parts = [f"{word} {_few(keys)}" for word, keys in (("lacks", missing), ("has unexpected", unexpected)) if keys]
    if not parts:
        return ()
    if strict:
        raise ModelError(f"{file}: {' and '.join(parts)}; make the model that was trained, or give --no-strict")
    return (f"{file.name} {' and '.join(parts)}: taken as it is",)


def _few(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
