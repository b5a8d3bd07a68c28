"""The schemas of the documents, and a check of a document against them.

The check knows the part of JSON Schema 2020-12 that these files use: ``type``, ``const``, ``enum``, ``properties``,
``required``, ``additionalProperties``, ``items``, ``anyOf`` and ``$ref`` into the same file or ``parts.json``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
KINDS = {f"biasopt.{kind}/1": f"{kind}.json" for kind in ("verify", "bench", "fold")}
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list, tuple),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """One of the files of this folder."""
    found: dict[str, Any] = json.loads((_HERE / name).read_text(encoding="utf-8"))
    return found


def problems(document: Mapping[str, Any]) -> list[str]:
    """What is wrong with a document of a known schema, each with its place; nothing if it is as it should be."""
    name = KINDS[document["schema"]]
    return list(_check(document, schema(name), name, ""))


def _check(value: Any, rule: Mapping[str, Any], file: str, place: str) -> Iterator[str]:
    if "$ref" in rule:
        other, _, path = rule["$ref"].partition("#/")
        target: Any = schema(other or file)
        for step in path.split("/"):
            target = target[step]
        yield from _check(value, target, other or file, place)
        return
    if "anyOf" in rule:
        found = [list(_check(value, option, file, place)) for option in rule["anyOf"]]
        if all(found):
            # the option that comes nearest: one that is at least of the right type
            yield from min(found, key=lambda said: (said[0].startswith(f"{place or 'the document'} is no"), len(said)))
        return
    if "type" in rule and not _is(value, rule["type"]):
        yield f"{place or 'the document'} is no {rule['type']}"
        return
    if "const" in rule and value != rule["const"]:
        yield f"{place or 'the document'} is not {rule['const']!r}"
    if "enum" in rule and not any(value == option and type(value) is type(option) for option in rule["enum"]):
        yield f"{place or 'the document'} is none of {', '.join(map(repr, rule['enum']))}"
    if isinstance(value, dict):
        yield from _object(value, rule, file, place)
    elif isinstance(value, list | tuple) and "items" in rule:
        for k, item in enumerate(value):
            yield from _check(item, rule["items"], file, f"{place}[{k}]")


def _is(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and not (isinstance(value, bool) and name in ("number", "integer"))


def _object(value: Mapping[str, Any], rule: Mapping[str, Any], file: str, place: str) -> Iterator[str]:
    known, rest = rule.get("properties", {}), rule.get("additionalProperties", True)
    for name in rule.get("required", ()):
        if name not in value:
            yield f"{f'{place}.' if place else ''}{name} is missing"
    for name, item in value.items():
        inner = f"{place}.{name}" if place else str(name)
        if name in known:
            yield from _check(item, known[name], file, inner)
        elif rest is False:
            yield f"{inner} is unknown"
        elif isinstance(rest, dict):
            yield from _check(item, rest, file, inner)
