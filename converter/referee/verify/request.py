"""What a caller asks of the referee, checked against the model and made one record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import DataError
from converter.referee.inputs.files import open_inputs, read_labels
from converter.referee.inputs.images import PREPROCESS, open_images
from converter.referee.inputs.stream import Stream
from converter.referee.proto.random_inputs import check_shapes
from converter.referee.proto.source import LoadedModel, list_free_inputs
from converter.referee.verify.metrics import Tolerance, check_tolerances
from converter.referee.verify.models import find_default_memory
from converter.referee.verify.options import CHOICES, GATES, LEVELS, OPT_LEVELS, Deciding, Options
from converter.runtime.placement import probe
from converter.runtime.providers import check_provider


def options_for(a: LoadedModel, given: Mapping[str, Any]) -> Options:
    """The options of one comparison; ``given`` are the keywords of `compare`.

    Raises
    ------
    DataError
        An input, shape, range, tolerance or label is of something that the model has not.
    RuntimeUnavailable
        The provider is not there.
    ValueError
        A choice is none of those that there are.
    """
    check_shapes(a.proto, given["shapes"])
    for name in given["ranges"] or {}:
        if name not in list_free_inputs(a.proto):
            raise DataError(
                f"{name!r} is not an input of the model; its inputs are {_names(list_free_inputs(a.proto))}"
            )
    check_provider(given["provider"], given["provider_options"])
    if given["provider"] != "cpu":  # at once, whatever is to be run
        probe(given["provider"], given["provider_options"])
    tolerances = tuple(_tolerance(t) for t in given["tolerances"])
    check_tolerances(tolerances, [o.name for o in a.proto.graph.output])
    limit = given["max_time"]
    begun = time.monotonic()
    return Options(
        shapes=given["shapes"],
        stream=_stream(a, given),
        ranges=given["ranges"] or {},
        samples=given["samples"],
        custom_ops=None if given["custom_ops"] is None else Path(given["custom_ops"]),
        provider=given["provider"],
        provider_options=given["provider_options"] or {},
        opt_level=_one_of("opt_level", given["opt_level"], OPT_LEVELS),
        seed=given["seed"],
        quick=given["quick"],
        begun=begun,
        deadline=begun + (30.0 if limit is None else limit),
        max_memory=find_default_memory() if given["max_memory"] is None else given["max_memory"],
        max_ratio=given["max_ratio"],
        fail_ratio=given["fail_ratio"],
        tolerances=tolerances,
        stages=_stages(given),
        gate=_one_of("precision_gate", given["precision_gate"], GATES),
        deciding=_deciding(a, given),
        progress=given["progress"] or (lambda text: None),
    )


def check_level(level: str | None) -> str | None:
    """The level if it is one."""
    return None if level is None else _one_of("require_level", level.upper(), tuple(LEVELS))


def _one_of(what: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{what} {value!r} is none of {', '.join(choices)}")
    return value


def _tolerance(given: Tolerance | tuple[str, str, float]) -> Tolerance:
    return given if isinstance(given, Tolerance) else Tolerance(*given)


def _stages(given: Mapping[str, Any]) -> frozenset[str]:
    asked = given["stages"]
    if asked is None:
        return frozenset(CHOICES) - {"decision"}
    return frozenset(_one_of("stage", name, CHOICES) for name in asked) | {"structure"}


def _stream(a: LoadedModel, given: Mapping[str, Any]) -> Stream | None:
    inputs, images = given["inputs"], given["images"]
    ports = list_free_inputs(a.proto)
    if images is not None:
        if inputs is not None:
            raise DataError("inputs and images exclude each other; give one of them")
        how = _one_of("preprocess", given["preprocess"], PREPROCESS)
        return open_images(Path(images), how, ports, given["shapes"] or {}, given["samples"])
    if inputs is None:
        return None
    single = isinstance(inputs, str | Path | Mapping)
    return open_inputs([inputs] if single else list(inputs), ports, given["samples"])


def _deciding(a: LoadedModel, given: Mapping[str, Any]) -> Deciding:
    outputs, labels = given["decision"], given["labels"]
    names = [o.name for o in a.proto.graph.output]
    for name in outputs:
        if name not in names:
            raise DataError(f"{name!r} is not an output of the model; its outputs are {_names(names)}")
    if labels is not None and given["inputs"] is None and given["images"] is None:
        raise DataError("labels are of inputs; give those with --inputs")
    if isinstance(labels, str | Path):
        labels = read_labels(Path(labels))
    if not 0 < given["margin"] < 1 or not 0 < given["alpha"] < 0.5:
        raise ValueError("margin is a share between 0 and 1, and alpha one between 0 and 0.5")
    return Deciding(
        outputs=tuple(outputs),
        labels=None if labels is None else np.asarray(labels),
        metric=given["metric"],
        margin=given["margin"],
        alpha=given["alpha"],
        max_time=given["max_time"],
    )


def _names(names: Any) -> str:
    return ", ".join(names) or "none"
