"""``dataclass`` in about a quarter of the time: of a class's methods only ``__init__`` is compiled.

The standard library's compiles up to seven methods for each class, which with all the records, findings and blocks of
a command was a seventh of what a small fold takes. To type checkers it *is* the standard library's, and
`dataclasses.fields`, `dataclasses.replace`, ``match`` and pickles work as with its own.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as dataclass
else:

    def dataclass(
        cls: type[Any] | None = None,
        *,
        frozen: bool = False,
        eq: bool = True,
        repr: bool = True,  # noqa: A002
        slots: bool = False,
        kw_only: bool = False,
    ) -> Any:
        """A decorator with the parameters of `dataclasses.dataclass` that are of use here."""

        def decorated(cls: type[Any]) -> type[Any]:
            return _decorate(cls, frozen=frozen, eq=eq, shown=repr, slots=slots, kw_only=kw_only)

        return decorated if cls is None else decorated(cls)


def _decorate(cls: type[Any], *, frozen: bool, eq: bool, shown: bool, slots: bool, kw_only: bool) -> type[Any]:
    own = set(vars(cls))  # what the class itself says of a method stands
    made = dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=kw_only)(cls)
    fields = dataclasses.fields(made)
    methods: dict[str, Any] = {"__init__": _compile_init(made, fields, frozen=frozen)}
    if shown:
        methods["__repr__"] = _repr
    if eq:
        methods |= {"__eq__": _make_eq(fields), "__hash__": _make_hash(fields) if frozen else None}
    if frozen:
        methods |= {"__setattr__": _setattr, "__delattr__": _delattr}
    if frozen and slots:  # what unpickles sets attributes
        methods |= {"__getstate__": _getstate, "__setstate__": _setstate}
    if "__eq__" in own and cls.__hash__ is None:  # Python's doing, for want of a ``__hash__`` beside the ``__eq__``
        own.discard("__hash__")
    for name, method in methods.items():
        if name not in own:
            setattr(made, name, method)
    return _with_slots(made, fields) if slots else made


def _compile_init(cls: type[Any], fields: tuple[dataclasses.Field[Any], ...], *, frozen: bool) -> Callable[..., None]:
    """``__init__`` with the fields as parameters, those that go by keyword last."""
    scope: dict[str, Any] = {"_set": object.__setattr__, "_unset": object()}
    plain: list[str] = []
    keyword: list[str] = []
    body: list[str] = []
    for f in fields:
        written, value = f.name, f.name
        if f.default is not dataclasses.MISSING:
            scope[f"_{f.name}"] = f.default
            written += f"=_{f.name}"
            value = f.name if f.init else f"_{f.name}"
        elif f.default_factory is not dataclasses.MISSING:
            scope[f"_{f.name}"] = f.default_factory
            written += "=_unset"
            value = f"_{f.name}() if {f.name} is _unset else {f.name}" if f.init else f"_{f.name}()"
        elif not f.init:
            continue
        if f.init:
            (keyword if f.kw_only else plain).append(written)
        body.append(f" _set(self, {f.name!r}, {value})" if frozen else f" self.{f.name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append(" self.__post_init__()")
    parameters = ", ".join(["self", *plain, *(["*", *keyword] if keyword else [])])
    exec(f"def __init__({parameters}):\n" + ("\n".join(body) or " pass"), scope)  # noqa: S102  (names of fields alone)
    init = scope["__init__"]
    init.__qualname__, init.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    init.__annotations__ = {f.name: f.type for f in fields if f.init} | {"return": "None"}
    return init  # type: ignore[no-any-return]


def _with_slots(cls: type[Any], fields: tuple[dataclasses.Field[Any], ...]) -> type[Any]:
    """The class once more with ``__slots__``, which can only be said when a class is made."""
    inherited = {name for base in cls.__mro__[1:] for name in getattr(base, "__slots__", ())}
    names = [f.name for f in fields]
    inside = {k: v for k, v in vars(cls).items() if k not in {"__dict__", "__weakref__", *names}}
    inside["__slots__"] = tuple(name for name in names if name not in inherited)
    again: type[Any] = type(cls).__call__(type(cls), cls.__name__, cls.__bases__, inside)
    again.__qualname__ = cls.__qualname__
    return again


def _getter(fields: tuple[dataclasses.Field[Any], ...]) -> Callable[[Any], Any]:
    names = [f.name for f in fields if f.compare]
    return attrgetter(*names) if names else lambda _: ()


def _make_eq(fields: tuple[dataclasses.Field[Any], ...]) -> Callable[[Any, object], bool]:
    values = _getter(fields)

    def equals(self: Any, other: object) -> bool:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    return equals


def _make_hash(fields: tuple[dataclasses.Field[Any], ...]) -> Callable[[Any], int]:
    values = _getter(fields)
    return lambda self: hash(values(self))


def _repr(self: Any) -> str:
    shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{type(self).__qualname__}({shown})"


def _setattr(self: Any, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, f.name) for f in dataclasses.fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    for f, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, f.name, value)
