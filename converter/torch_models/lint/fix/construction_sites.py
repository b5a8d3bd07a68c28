"""Where in the source a module was constructed: noted while its factory runs."""

from __future__ import annotations

import sys
import sysconfig
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from converter.records.lint import Location

_OURS = str(Path(__file__).resolve().parents[1])
_MOST = 40  # callers of one constructor that are worth keeping


@dataclass(frozen=True, slots=True)
class Place:
    """One constructing call: where it stands, what function it stands in, and the calls that led there."""

    location: Location
    function: str
    callers: tuple[Location, ...] = ()


class Places:
    """The constructing calls of modules, by module."""

    def __init__(self) -> None:
        self._places: weakref.WeakKeyDictionary[Any, Place] = weakref.WeakKeyDictionary()

    def of(self, module: Any) -> Place | None:
        """Where a module was constructed, if that was noted."""
        return self._places.get(module)

    def note(self, module: Any, frame: FrameType | None) -> None:
        """Keep the first frame that is no constructor of this module."""
        while frame is not None and _constructs(frame, module):
            frame = frame.f_back
        locations = [(loc, f.f_code.co_qualname) for f in islice(_up(frame), _MOST) if (loc := _location(f))]
        if locations:
            (first, function), *rest = locations
            self._places[module] = Place(first, function, tuple(location for location, _ in rest))


def _up(frame: FrameType | None) -> Iterator[FrameType]:
    """The callers, as far as biasopt's own code, which called the factory."""
    while frame is not None and not frame.f_code.co_filename.startswith(_OURS):
        yield frame
        frame = frame.f_back


def _constructs(frame: FrameType, module: Any) -> bool:
    """Whether a frame is part of making this very module: an ``__init__`` of its class or of a parent's."""
    code = frame.f_code
    first = code.co_varnames[0] if code.co_argcount else ""
    return bool(first) and frame.f_locals.get(first) is module


def _location(frame: FrameType) -> Location | None:
    path = frame.f_code.co_filename
    if path.startswith("<"):
        return None
    return Location(path, *_extent(frame.f_code, frame.f_lasti, frame.f_lineno))


def _extent(code: CodeType, instruction: int, line: int) -> tuple[int, int, int, int]:
    """The call that an instruction belongs to: line, column, end line, end column, counted from 1."""
    nowhere = (None, None, None, None)
    start, end, column, end_column = next(islice(code.co_positions(), instruction // 2, None), nowhere)
    if start is None or end is None or column is None or end_column is None:
        return line, 0, 0, 0
    return start, column + 1, end, end_column + 1


@contextmanager
def recording() -> Iterator[Places]:
    """Note where each ``nn.Module`` is constructed while this is open.

    >>> with recording() as places:  # doctest: +SKIP
    ...     net = make()
    >>> lint(net, x, places=places)  # doctest: +SKIP
    """
    from torch import nn

    places, plain = Places(), nn.Module.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        places.note(self, sys._getframe(1))

    nn.Module.__init__ = init  # type: ignore[method-assign]
    try:
        yield places
    finally:
        nn.Module.__init__ = plain  # type: ignore[method-assign]


def is_installed(path: str) -> bool:
    """Whether a file belongs to an installed package, and so is nobody's to edit."""
    parts = Path(path).parts
    if "site-packages" in parts or "dist-packages" in parts:
        return True
    return Path(path).is_relative_to(sysconfig.get_paths()["stdlib"])


def own(known: Location, place: Place, root: Path) -> Location | None:
    """The nearest call in the user's folder, if the one that is `known` is not there itself."""
    for location in (place.location, *place.callers):
        path = Path(location.path)
        if path.is_absolute() and path.is_relative_to(root) and not is_installed(location.path):
            return None if location == known else location
    return None
