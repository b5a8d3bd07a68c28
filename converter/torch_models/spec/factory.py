"""Modules and examples that code makes: ``package.module:factory``, ``file.py:factory``, ``timm:NAME`` and the like.

The records of what is loaded stand here too: `Loaded`, `Provenance`, `Kind`.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import field
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

from converter.dataclass import dataclass
from converter.errors import BiasoptError, DataError, ModelError
from converter.records.results import Provenance
from converter.torch_models.spec.libraries import need


class Kind(StrEnum):
    """What was loaded; only a module has its source and its classes."""

    MODULE = "module"
    TORCHSCRIPT = "torchscript"
    PROGRAM = "program"  # of torch.export


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


_IMAGE = (1, 3, 224, 224)  # what torchvision's and timm's nets were trained on, for the most part


@dataclass(frozen=True, slots=True)
class Made:
    """A module, and what its maker knows of it."""

    module: Any
    label: str
    name: str  # the spec without folders
    kind: Kind = Kind.MODULE
    random_weights: bool = False
    shape: tuple[int, ...] = ()  # of its one input, where it has a default
    example: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    program: Any = None


def load_factory(spec: str) -> Made:
    """The module that a spec of code names."""
    path, arguments = _split_arguments(spec)
    place, colon, name = path.rpartition(":")
    if not colon or not place or not name:
        raise ModelError(
            f"{spec}: names no model; give package.module:factory, file.py:factory, torchvision:NAME, timm:NAME, "
            "or a TorchScript or .pt2 file"
        )
    if place == "torchvision":
        return Made(_torchvision(name, arguments, spec), spec, spec, random_weights=True, shape=_IMAGE)
    if place == "timm":
        module = _timm(name, arguments, spec)
        return Made(module, spec, spec, random_weights=True, shape=_timm_shape(module))
    module = _make_module(load_attribute(place, name, spec), arguments, spec)
    return Made(module, spec, f"{Path(place).name}:{spec[len(place) + 1 :]}" if is_path(place) else spec)


def _split_arguments(spec: str) -> tuple[str, dict[str, Any]]:
    """Split ``name(key=1, other="x")``: keyword arguments that are literals."""
    if not spec.endswith(")") or "(" not in spec:
        return spec, {}
    head, _, _ = spec.partition("(")
    try:
        call = ast.parse(f"f{spec[len(head) :]}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not all(k.arg for k in call.keywords):
            raise ValueError("only keyword arguments")
        return head, {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as exc:
        raise ModelError(f"{spec}: its arguments are not literals by keyword, such as f(num_classes=10)") from exc


def is_path(place: str) -> bool:
    """Whether the part before the colon is a file of Python, not a module's name."""
    return place.endswith(".py") or "/" in place or "\\" in place


def load_attribute(place: str, name: str, spec: str) -> Any:
    """The object `name` (dots allowed) of a module or a ``.py`` file.

    Raises
    ------
    ModelError
        There is none, or importing failed.
    """
    home = _import_file(Path(place), spec) if is_path(place) else _import_name(place, spec)
    found: Any = home
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            there = getattr(home, "__file__", None) or place
            raise ModelError(f"{spec}: {Path(there).name} has no {name!r}{_close_names(home, name)}") from None
    return found


def _close_names(home: ModuleType, name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, [n for n in vars(home) if not n.startswith("_")], 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _import_file(path: Path, spec: str) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"{spec}: there is no file {path}")
    name = f"_biasopt_spec_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ModelError(f"{spec}: {path} is no file of Python; give file.py:factory")
    home = importlib.util.module_from_spec(found)
    sys.modules[name] = home  # dataclasses and pickles look their module up
    with _findable(path.resolve().parent), explain_failures(spec, "importing it failed"):
        found.loader.exec_module(home)
    return home


def _import_name(name: str, spec: str) -> ModuleType:
    with _findable(Path.cwd()):
        try:
            if importlib.util.find_spec(name.partition(".")[0]) is None:
                raise ModelError(
                    f"{spec}: there is no module {name!r} here or among the installed ones; "
                    "go to the folder it lies in, or give path/file.py:factory"
                )
        except ValueError as exc:
            raise ModelError(f"{spec}: {name!r} is no name of a module") from exc
        with explain_failures(spec, "importing it failed"):
            return importlib.import_module(name)


@contextlib.contextmanager
def _findable(folder: Path) -> Iterator[None]:
    """Let imports find what lies in `folder`, first of all, as Python does for the script that it runs."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _make_module(found: Any, arguments: dict[str, Any], spec: str) -> Any:
    torch = need("torch")
    if isinstance(found, torch.nn.Module):
        if arguments:
            raise ModelError(f"{spec}: names a module, which takes no arguments here")
        return found
    if not callable(found):
        raise ModelError(f"{spec}: is no function or class that makes a torch.nn.Module, but {type(found).__name__}")
    with explain_failures(spec, "the factory failed"):
        made = found(**arguments)
    if not isinstance(made, torch.nn.Module):
        raise ModelError(f"{spec}: returned no torch.nn.Module but {type(made).__name__}")
    return made


def _torchvision(name: str, arguments: dict[str, Any], spec: str) -> Any:
    models = need("torchvision.models", spec)
    with explain_failures(spec, "torchvision could not make it"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name not in models.list_models():
            raise _describe_unknown(spec, "torchvision", name, models.list_models())
        builder = models.get_model_builder(name)
        # A backbone's weights would be downloaded: nothing is, and the user's file brings its own.
        none: dict[str, Any] = dict.fromkeys({"weights", "weights_backbone"} & _describe_parameters(builder))
        return builder(**{**none, **arguments}).eval()


def _timm(name: str, arguments: dict[str, Any], spec: str) -> Any:
    timm = need("timm", spec)
    with explain_failures(spec, "timm could not make it"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not timm.is_model(name.partition(".")[0]):
            raise _describe_unknown(spec, "timm", name, timm.list_models())
        return timm.create_model(name, **{"pretrained": False, **arguments}).eval()


def _describe_parameters(builder: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(inspect.unwrap(builder)).parameters)


def _describe_unknown(spec: str, library: str, name: str, known: list[str]) -> ModelError:
    import difflib

    near = difflib.get_close_matches(name, known, 3, 0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return ModelError(f"{spec}: {library} has no model {name!r}{hint}")


def _timm_shape(module: Any) -> tuple[int, ...]:
    size = (getattr(module, "default_cfg", None) or {}).get("input_size")
    return (1, *size) if size else _IMAGE


@contextlib.contextmanager
def seed_random(torch: Any, seed: int) -> Iterator[None]:
    """Make what is random here the same on every run, and leave the caller's generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def explain_failures(spec: str, what: str) -> Iterator[None]:
    """An exception of the user's code becomes one line that says where it was raised."""
    try:
        yield
    except BiasoptError:
        raise
    except (Exception, SystemExit) as exc:
        frames = traceback.extract_tb(exc.__traceback__)
        ours = Path(__file__).resolve().parents[1]
        theirs = [f for f in frames if not Path(f.filename).is_relative_to(ours) and "importlib" not in f.filename]
        where = f" at {Path(theirs[-1].filename).name}:{theirs[-1].lineno}" if theirs else ""
        said = " ".join(str(exc).split())
        raise ModelError(f"{spec}: {what}{where}: {type(exc).__name__}{said and ': '}{said}") from exc


def call_example(spec: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What ``file.py:function`` returns, as arguments: a tuple in order, a dict by name, else one argument.

    Raises
    ------
    DataError
        The function returns nothing that a module takes.
    ModelError
        There is no such function, or it failed.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise ModelError(f"{spec}: names no function; give file.py:function or package.module:function")
    function = load_attribute(place, name, spec)
    with explain_failures(spec, "the function failed"):
        found = function() if callable(function) else function
    return split_arguments(found, spec)


def split_arguments(found: Any, label: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An example as positional arguments and those by name."""
    if found is None:
        raise DataError(f"{label}: returned nothing; return a tensor, a tuple of arguments, or a dict by name")
    if isinstance(found, dict):
        return (), {str(k): v for k, v in found.items()}
    return (tuple(found), {}) if isinstance(found, tuple | list) else ((found,), {})
