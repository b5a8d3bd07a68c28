"""How a result prints: in a line, and in a notebook as the page that ``--report`` writes."""

from __future__ import annotations

import dataclasses
from enum import Enum
from importlib import import_module
from typing import Any

_MOST = 100  # characters of a value that are shown


class Displayed:
    """A record of which a user holds one. Its fields that are not as by default; what they hold is counted."""

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(_show_fields(self))})"

    def _repr_html_(self) -> str:
        home = __name__.partition(".")[0]  # records know no reports, and are loaded long before them
        return str(import_module(f"{home}.report.notebook").display(self))


def _show_fields(record: Any) -> list[str]:
    values = ((f, getattr(record, f.name)) for f in dataclasses.fields(record) if f.repr)
    return [f"{f.name}={_shorten(value)}" for f, value in values if not _is_default(f, value)]


def _is_default(f: dataclasses.Field[Any], value: object) -> bool:
    made = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
    return type(made) is type(value) and bool(made == value)


def _shorten(value: object) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, str):
        return repr(value if len(value) <= _MOST else f"{value[:_MOST]}...")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        known = _show_fields(value)
        whole = f"{type(value).__qualname__}({', '.join(known)})"
        return whole if len(whole) <= _MOST else f"{type(value).__qualname__}({', '.join([*known[:2], '...'])})"
    if isinstance(value, tuple | list | dict) and len(repr(value)) > _MOST:
        held = {type(item).__name__ for item in value}
        what = held.pop() if len(held) == 1 and not isinstance(value, dict) else "values"
        return f"<{len(value)} {what}>"
    return repr(value)
