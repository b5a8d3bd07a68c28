"""Folds a model with a certificate; damages certificates."""

from __future__ import annotations

import base64
import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

import converter
from converter.commands.certificate import Recorder, build_certificate, write_certificate
from converter.model.graph import load
from converter.referee.certificate import compute_seal
from converter.referee.proto.source import LoadedModel
from converter.referee.proto.structural_hash import chain_hashes
from converter.rewrite import pipeline

Document = dict[str, Any]


def certify(model: Path | onnx.ModelProto, folded: Path | None = None, **options: Any) -> Document:
    """The certificate of a fold of all passes, through JSON and back."""
    frozen = bool(options.get("freeze_overridable", False))
    options.setdefault("allow_growth", math.inf)  # as the passes alone
    graph = load(model, freeze_overridable=frozen)
    recorder = Recorder(graph)
    pipeline.run(graph, pipeline.Options(), watch=recorder)
    result = converter.fold(model, out=folded, verify=False, **options)
    after = LoadedModel.open(folded) if folded is not None else LoadedModel.open(result.model)
    return json.loads(json.dumps(build_certificate(recorder, LoadedModel.open(model), after)))


def certified(model: onnx.ModelProto, folder: Path) -> tuple[Path, Path, Path]:
    """Original, folded model and certificate as files."""
    original, folded, said = folder / "a.onnx", folder / "a.folded.onnx", folder / "a.json"
    if not original.exists():
        original.write_bytes(model.SerializeToString())
    write_certificate(certify(original, folded), said)
    return original, folded, said


def resealed(document: Document) -> Document:
    """The certificate as someone who knows how it is made would change it: with a chain and a seal that fit."""
    state = document["input"]["digest"]
    for step in document["steps"]:
        step.pop("state", None)
        state = step["state"] = chain_hashes(state, step)
    document["seal"] = compute_seal(document)
    return document


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to every value that is no container, and to containers that are empty."""
    if isinstance(value, dict) and value:
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list) and value:
        for k, item in enumerate(value):
            yield from leaves(item, (*path, k))
    else:
        yield path


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def changed(document: Document, path: tuple[Any, ...], value: Any = None) -> Document:
    """A copy with one value changed: to ``value``, or to something of its kind."""
    damaged = copy.deepcopy(document)
    at(damaged, path[:-1])[path[-1]] = _other(at(document, path)) if value is None else value
    return damaged


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list | dict):
        return ["more"]
    return "x" if value is None else f"{value[:-1]}{'0' if value[-1:] != '0' else '1'}"


def moved(record: Document, element: int = 0, factor: float = 1.0 + 1e-9) -> str:
    """The numbers of a record in base64, one of them moved a little."""
    import numpy as np

    values = np.frombuffer(base64.b64decode(record["f64"]), "<f8").copy()
    values[element] = values[element] * factor + (1e-9 if values[element] == 0 else 0)
    return base64.b64encode(values.tobytes()).decode()
