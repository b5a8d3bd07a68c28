"""``dataclass`` for frozen records, in about half of the time: of its methods only ``__init__`` is compiled.

The standard library's compiles six methods for each class, which with all the records and blocks of a command was a
tenth of what a small fold takes. To type checkers it *is* the standard library's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool, kw_only: bool = False, repr: bool = True) -> Callable[[type[Any]], type[Any]]:  # noqa: A002
        """A decorator as `dataclasses.dataclass`, for classes that are frozen, without slots or ``__post_init__``."""
        assert frozen

        def decorated(cls: type[Any]) -> type[Any]:
            made = dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=kw_only)(cls)
            shared = {"__eq__": _eq, "__hash__": _hash, "__setattr__": _setattr, "__delattr__": _delattr}
            shared |= {"__init__": _compile_init(made)} | ({"__repr__": _repr} if repr else {})
            for name, method in shared.items():
                if name not in vars(made):
                    setattr(made, name, method)
            return made

        return decorated


def _compile_init(cls: type[Any]) -> Callable[..., None]:
    """``__init__`` with the fields as parameters, those that go by keyword last."""
    known = dataclasses.fields(cls)
    scope: dict[str, Any] = {"_set": object.__setattr__, "_made": object()}
    plain: list[str] = []
    keyword: list[str] = []
    body: list[str] = []
    for f in known:
        written, value = f.name, f.name
        if f.default is not dataclasses.MISSING:
            scope[f"_{f.name}"] = f.default
            written += f"=_{f.name}"
        elif f.default_factory is not dataclasses.MISSING:
            scope[f"_{f.name}"] = f.default_factory
            written += "=_made"
            value = f"_{f.name}() if {f.name} is _made else {f.name}"
        (keyword if f.kw_only else plain).append(written)
        body.append(f" _set(self, {f.name!r}, {value})")
    parameters = ", ".join(["self", *plain, *(["*", *keyword] if keyword else [])])
    exec(f"def __init__({parameters}):\n" + ("\n".join(body) or " pass"), scope)  # noqa: S102  (names of fields alone)
    init = scope["__init__"]
    init.__qualname__, init.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    init.__annotations__ = {f.name: f.type for f in known} | {"return": "None"}
    return init  # type: ignore[no-any-return]


def _values(record: Any) -> tuple[Any, ...]:
    return tuple(getattr(record, f.name) for f in dataclasses.fields(record) if f.compare)


def _eq(self: Any, other: object) -> bool:
    return _values(self) == _values(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _repr(self: Any) -> str:
    shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{type(self).__qualname__}({shown})"


def _setattr(self: Any, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
