"""Example inputs that a function of the user's makes."""

from __future__ import annotations

from typing import Any

from converter.errors import DataError, ModelError
from converter.torch_models.spec.factory import attribute, told


def call(spec: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
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
    function = attribute(place, name, spec)
    with told(spec, "the function failed"):
        found = function() if callable(function) else function
    return arguments(found, spec)


def arguments(found: Any, label: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An example as positional arguments and those by name."""
    if found is None:
        raise DataError(f"{label}: returned nothing; return a tensor, a tuple of arguments, or a dict by name")
    if isinstance(found, dict):
        return (), {str(k): v for k, v in found.items()}
    return (tuple(found), {}) if isinstance(found, tuple | list) else ((found,), {})
