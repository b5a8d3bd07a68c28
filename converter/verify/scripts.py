"""The user's own functions: what ``script.py:function`` names is loaded and run in this process."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from converter.errors import DataError
from converter.protos.source import Port
from converter.verify.samples import Reader, Sample, cut


def is_script(text: str) -> bool:
    """Whether the text names a function of a script."""
    return bool(re.search(r"\.py:[A-Za-z_]\w*$", text))


def load_function(text: str) -> Callable[..., Any]:
    """The function that ``script.py:function`` names.

    Raises
    ------
    DataError
        There is no such script or function, or the script does not run.
    """
    place, _, name = text.rpartition(":")
    path = Path(place).resolve()
    if not path.is_file():
        raise DataError(f"{place}: there is no such script; give script.py:function")
    spec = importlib.util.spec_from_file_location(f"_biasopt_script_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # what lies beside it can be imported, as when it is run
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        raise DataError(f"{place}: cannot be loaded: {_told(exc, path)}") from exc
    finally:
        sys.path.remove(str(path.parent))
    found = getattr(module, name, None)
    if not callable(found):
        raise DataError(f"{place}: has no function {name!r}; give script.py:function")
    return found  # type: ignore[no-any-return]


def call(text: str, function: Callable[..., Any], *values: Any) -> Any:
    """Call a user's function; what it raises is one line that says where."""
    try:
        return function(*values)
    except Exception as exc:
        raise DataError(f"{text}: {_told(exc, Path(text.rpartition(':')[0]).resolve())}") from exc


def script_reader(text: str) -> Reader:
    """The samples that a function returns or yields: dictionaries, or pairs of one and its label."""

    def read(ports: Mapping[str, Port]) -> Iterator[Sample]:
        made = call(text, load_function(text))
        items = iter([made] if isinstance(made, Mapping | tuple) else made)
        while (item := call(text, next, items, None)) is not None:
            label = None
            if isinstance(item, tuple) and len(item) == 2:
                item, label = item
            if not isinstance(item, Mapping):
                kind = type(item).__name__
                raise DataError(f"{text}: gave a {kind}; give a dictionary of inputs, or (dictionary, label)")
            yield from cut(dict(item), ports, label, long=False)

    return read


def _told(exc: BaseException, path: Path) -> str:
    """The error, and the last line of the script that took part in it."""
    where, trace = "", exc.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            where = f", line {trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}{where}"
