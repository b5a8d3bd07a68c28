"""torch and its relatives: imported when asked for, and missed in one line."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType
from typing import Any

from converter.errors import RuntimeUnavailable

_TORCH = "install the extra: pip install 'biasopt[torch]'"
_HOW = {
    "torch": _TORCH,
    "torchvision": _TORCH,
    "onnxscript": _TORCH,
    "safetensors": _TORCH,
    "onnx_ir": _TORCH,
    "timm": "install it: pip install timm",
}


def need(name: str, why: str = "") -> Any:
    """Import a library, or raise `RuntimeUnavailable` with the line that says how to install it.

    Parameters
    ----------
    name : str
        Of the distribution's top-level module, or of a module below it.
    why : str
        What it is needed for, for the message.
    """
    top = name.partition(".")[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own imports; the user cannot act on them
            importlib.import_module(top)
            module: ModuleType = importlib.import_module(name)
            return module
    except ModuleNotFoundError as exc:
        if exc.name != top:
            raise RuntimeUnavailable(_broken(top, exc)) from exc
        raise RuntimeUnavailable(f"{top} is not installed{why and f' ({why} needs it)'}; {_HOW[top]}") from exc
    except Exception as exc:  # a library that does not fit the torch beside it raises anything on import
        if top == "torchvision" and "does not exist" in str(exc):
            return _without_operators(name)
        raise RuntimeUnavailable(_broken(top, exc)) from exc


def _without_operators(name: str) -> Any:
    """torchvision beside a torch that it was not built for: its own operators are missing, the nets are there."""
    from converter.torch_models.spec.torchvision_ops import load_without_operators

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_without_operators()
            return importlib.import_module(name)
    except Exception as exc:
        raise RuntimeUnavailable(_broken("torchvision", exc)) from exc


def _broken(name: str, exc: Exception) -> str:
    said = (str(exc).splitlines() or [""])[0] or type(exc).__name__
    fit = "install builds of torch and torchvision that belong together" if name == "torchvision" else "reinstall it"
    return f"{name} cannot be imported ({said}); {fit}"
