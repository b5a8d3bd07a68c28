"""The API, and what starts the command line: ``import biasopt; biasopt.fold("model.onnx")``.

Everything lives in the package ``converter`` beside this file, and is loaded when it is asked for. A ``converter`` or
a ``cli`` of the user's keeps working beside it: where theirs is the one that Python would import, ours is loaded under
the name ``_biasopt``, and inside of it ``converter`` means ours.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

TYPE_CHECKING = False  # as typing's, which would be loaded for it
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from converter import *  # noqa: F403

# ruff: noqa: PTH100, PTH109, PTH118, PTH120  (pathlib would cost a tenth of the start-up of --help)
_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = os.path.join(_HERE, "converter")
_OTHER = "_biasopt"  # what `converter` is called where the user has one
__path__: list[str] = []  # so that `biasopt.errors` is `converter.errors`; see `_Finder`


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name not in ("__all__", "__version__"):
        raise AttributeError(f"module 'biasopt' has no attribute {name!r}")
    try:
        return getattr(_package(), name)
    except AttributeError:
        raise AttributeError(f"module 'biasopt' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*_package().__all__, "main"})


# -- our package, whatever theirs is called -----------------------------------------------------------


def _package(places: Sequence[str] = ()) -> ModuleType:
    """Our package: ``converter``, or ``_biasopt`` where that is the name of a module of the user's.

    ``places``: folders that will be searched for modules before long.
    """
    if _OTHER in sys.modules:
        return sys.modules[_OTHER]
    there = sys.modules.get("converter")
    if there is not None and _is_ours(getattr(there, "__file__", None)):
        return there
    import importlib.util

    if there is None and not _finds_theirs(places):
        import converter

        return converter
    return importlib.import_module(_OTHER)


def _is_ours(file: str | None) -> bool:
    return file is not None and os.path.dirname(os.path.abspath(file)) == _PACKAGE


def _finds_theirs(places: Sequence[str]) -> bool:
    """Whether ``import converter`` would give a module of the user's, or would in one of ``places``."""
    from importlib.machinery import PathFinder

    for path in (None, list(places)):
        found = PathFinder.find_spec("converter", path)
        if found is not None and found.origin is not None and not _is_ours(found.origin):
            return True
    if PathFinder.find_spec("converter") is None:  # this file was loaded from a folder that is not searched
        sys.path.append(_HERE)
    return False


class _Finder:
    """Finds ``_biasopt`` and what is in it; and ``biasopt.x``, which is ``converter.x``."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in ("biasopt", _OTHER):
            return None
        from importlib.machinery import ModuleSpec, PathFinder
        from importlib.util import spec_from_file_location

        if name.startswith("biasopt."):
            return ModuleSpec(name, _Alias())  # type: ignore[arg-type]
        if name == _OTHER:
            start = os.path.join(_PACKAGE, "__init__.py")
            return spec_from_file_location(
                name, start, loader=_loader(name, start), submodule_search_locations=[_PACKAGE]
            )
        found = PathFinder.find_spec(name, path)
        if found is not None and found.origin is not None and found.origin.endswith(".py"):
            found.loader = _loader(name, found.origin)
        return found


class _Alias:
    """Loads ``biasopt.x``: the module ``x`` of our package itself, not another copy of it."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        import importlib

        name = module.__name__.removeprefix("biasopt")
        sys.modules[module.__name__] = importlib.import_module(_package().__name__ + name)


def _loader(name: str, path: str) -> Any:
    """Loads a file of ours so that in it ``converter`` means our package."""
    import builtins
    from importlib.machinery import SourceFileLoader

    def import_ours(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002  (as __import__ calls it)
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level == 0 and (name == "converter" or name.startswith("converter.")):
            name = _OTHER + name.removeprefix("converter")
        return builtins.__import__(name, globals, locals, fromlist or (), level)

    class Loader(SourceFileLoader):
        def exec_module(self, module: ModuleType) -> None:
            module.__builtins__ = {**vars(builtins), "__import__": import_ours}  # type: ignore[attr-defined]
            super().exec_module(module)

    return Loader(name, path)


sys.meta_path.insert(0, _Finder())


# -- the command --------------------------------------------------------------------------------------


def _fill_standard_streams() -> None:
    """Open what is closed of the numbers 0 to 2: a file that got one would take the remarks of native libraries."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        _run()
    except KeyboardInterrupt:  # while the command line itself was being loaded; what comes later, `cli.run` hears
        sys.stderr.write("biasopt: interrupted\n")
        sys.exit(130)


def _run() -> None:
    # What is loaded lives to the end: looking for garbage every 700 objects is a tenth of the time.
    gc.set_threshold(100_000, 20, 20)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime's, whoever imports it; it keeps a list of events
    _fill_standard_streams()
    run = _command_line().main
    try:
        run()
    finally:
        # All is said and written: a signal from here on would only tell of a failure that is none.
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        gc.freeze()  # the interpreter looks for garbage twice more on its way out; the system takes it all anyway


def _command_line() -> ModuleType:
    """``cli.py`` from beside this file, under a name that no module of the user's has.

    A factory or a script that a command is given may import what lies in the working directory.
    """
    from importlib.machinery import SourceFileLoader
    from importlib.util import module_from_spec, spec_from_file_location

    file = os.path.join(_HERE, "cli.py")
    ours = _package([os.getcwd()]).__name__
    loader = SourceFileLoader("_biasopt_cli", file) if ours == "converter" else _loader("_biasopt_cli", file)
    spec = spec_from_file_location("_biasopt_cli", file, loader=loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules["_biasopt_cli"] = module
    loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
