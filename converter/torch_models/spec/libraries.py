"""torch and its relatives: imported when asked for, and missed in one line.

torchvision's wheel is built against one build of torch. Beside another one (a CPU build, say) its
library does not load, and then even ``import torchvision`` fails, since it registers shape and
gradient rules for operators that nobody declared. Classification nets need none of them: with
the names declared, the import works and the nets export.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

from converter.errors import RuntimeUnavailable

# One entry per operator that torchvision registers a rule for; what it takes, and how many tensors it returns.
_BOX = "Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_SIZE = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_CONV = ", ".join(f"SymInt {name}_{axis}" for name in ("stride", "pad", "dilation") for axis in "hw")
_DEFORM = f"Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, {_CONV}, SymInt groups"
_FIVE = ", ".join(["Tensor"] * 5)
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align(Tensor input, {_BOX}, int sampling_ratio, bool aligned) -> Tensor",
    f"roi_pool(Tensor input, {_BOX}) -> (Tensor, Tensor)",
    f"ps_roi_align(Tensor input, {_BOX}, int sampling_ratio) -> (Tensor, Tensor)",
    f"ps_roi_pool(Tensor input, {_BOX}) -> (Tensor, Tensor)",
    f"deform_conv2d({_DEFORM}, SymInt offset_groups, bool use_mask) -> Tensor",
    f"_roi_align_backward(Tensor grad, {_BOX}, {_SIZE}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_pool_backward(Tensor grad, Tensor argmax, {_BOX}, {_SIZE}) -> Tensor",
    f"_ps_roi_align_backward(Tensor grad, Tensor mapping, {_BOX}, int sampling_ratio, {_SIZE}) -> Tensor",
    f"_ps_roi_pool_backward(Tensor grad, Tensor mapping, {_BOX}, {_SIZE}) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, {_DEFORM}, SymInt offset_groups, bool use_mask) -> ({_FIVE})",
)
_declared: list[Any] = []  # torch forgets a library's declarations when its object is collected


def _declare_operators() -> None:
    import torch

    libraries: Any = torch.library  # partly typed
    library = libraries.Library("torchvision", "FRAGMENT")
    known = {name.split("(")[0] for name in torch._C._dispatch_get_all_op_names()}
    for schema in _SCHEMAS:
        if f"torchvision::{schema.split('(')[0]}" not in known:
            library.define(schema)
    _declared.append(library)


def _forget_modules() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]


def load_without_operators() -> ModuleType:
    """Import torchvision once more, its operators declared by hand, after a plain import has failed for want of them.

    What runs one of them fails then, and not before; nets that only classify run none.

    Raises
    ------
    Exception
        Whatever the second import raises.
    """
    _forget_modules()
    _declare_operators()
    return importlib.import_module("torchvision")


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
            raise RuntimeUnavailable(_explain_broken(top, exc)) from exc
        raise RuntimeUnavailable(f"{top} is not installed{why and f' ({why} needs it)'}; {_HOW[top]}") from exc
    except Exception as exc:  # a library that does not fit the torch beside it raises anything on import
        if top == "torchvision" and "does not exist" in str(exc):
            return _load_torchvision(name)
        raise RuntimeUnavailable(_explain_broken(top, exc)) from exc


def _load_torchvision(name: str) -> Any:
    """torchvision beside a torch that it was not built for: its own operators are missing, the nets are there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_without_operators()
            return importlib.import_module(name)
    except Exception as exc:
        raise RuntimeUnavailable(_explain_broken("torchvision", exc)) from exc


def _explain_broken(name: str, exc: Exception) -> str:
    said = (str(exc).splitlines() or [""])[0] or type(exc).__name__
    fit = "install builds of torch and torchvision that belong together" if name == "torchvision" else "reinstall it"
    return f"{name} cannot be imported ({said}); {fit}"
