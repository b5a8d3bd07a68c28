"""What a caller asks of the referee, checked against the model and made one record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import DataError
from converter.records.option import names
from converter.records.options import LEVELS, OPT_LEVELS, PRECISIONS, PREPROCESS, STAGES, VerifyOptions
from converter.referee.inputs.files import open_inputs, read_labels
from converter.referee.inputs.images import open_images
from converter.referee.inputs.stream import Stream
from converter.referee.proto.random_inputs import check_shapes
from converter.referee.proto.source import LoadedModel, list_free_inputs
from converter.referee.verify.metrics import Tolerance, check_tolerances
from converter.referee.verify.models import find_default_memory
from converter.referee.verify.options import MARGIN, DecisionRequest, Options
from converter.runtime.providers import check_provider, select_options
from converter.runtime.session import probe_provider


def resolve(a: LoadedModel, asked: VerifyOptions) -> Options:
    """What is asked for one comparison, checked against the original.

    Raises
    ------
    DataError
        An input, shape, range, tolerance or label is of something that the model has not.
    RuntimeUnavailable
        The provider is not there.
    ValueError
        A choice is none of those that there are.
    """
    check_shapes(a.proto, asked.shapes)
    for name in asked.ranges or {}:
        if name not in list_free_inputs(a.proto):
            raise DataError(
                f"{name!r} is not an input of the model; its inputs are {_names(list_free_inputs(a.proto))}"
            )
    where = dict.fromkeys((asked.provider_a or asked.provider, asked.provider_b or asked.provider))
    for provider in where:
        given = asked.provider_options or {}
        given = select_options(provider, given) if len(where) > 1 else given
        check_provider(provider, given)
        if provider != "cpu":  # at once, whatever is to be run
            probe_provider(provider, given)
    tolerances = tuple(t if isinstance(t, Tolerance) else Tolerance(*t) for t in asked.tolerances)
    check_tolerances(tolerances, [o.name for o in a.proto.graph.output])
    _one_of("opt_level", asked.opt_level, OPT_LEVELS)
    _one_of("precision_gate", asked.precision_gate, PRECISIONS)
    begun = time.monotonic()
    values: dict[str, Any] = {name: getattr(asked, name) for name in names(VerifyOptions)}
    values |= {
        "stream": _stream(a, asked),
        "ranges": asked.ranges or {},
        "custom_ops": None if asked.custom_ops is None else Path(asked.custom_ops),
        "provider": asked.provider_a or asked.provider,
        "provider_b": asked.provider_b or asked.provider,
        "provider_options": asked.provider_options or {},
        "begun": begun,
        "deadline": begun + (30.0 if asked.max_time is None else asked.max_time),
        "max_memory": find_default_memory() if asked.max_memory is None else asked.max_memory,
        "runs_large": asked.max_memory is not None or asked.inputs is not None or asked.images is not None,
        "tolerances": tolerances,
        "stages": _stages(asked),
        "by_proof": asked.stages is None or set(asked.stages) == set(STAGES) or not _LEFT_OUT & set(asked.stages),
        "deciding": _deciding(a, asked),
        "progress": asked.progress or (lambda text: None),
    }
    return Options(**values)


def check_level(level: str | None) -> str | None:
    """The level if it is one."""
    return None if level is None else _one_of("require_level", level.upper(), LEVELS)


def _one_of(what: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{what} {value!r} is none of {', '.join(choices)}")
    return value


_LEFT_OUT = {"algebra", "runtime"}  # by a proof


def _stages(asked: VerifyOptions) -> frozenset[str]:
    if asked.stages is None:
        return frozenset(STAGES) - {"decision"}
    chosen = frozenset(_one_of("stage", name, STAGES) for name in asked.stages) | {"structure"}
    return chosen if asked.decide else chosen - {"decision"}


def _stream(a: LoadedModel, asked: VerifyOptions) -> Stream | None:
    inputs, ports = asked.inputs, list_free_inputs(a.proto)
    if asked.images is not None:
        if inputs is not None:
            raise DataError("inputs and images exclude each other; give one of them")
        how = _one_of("preprocess", asked.preprocess, PREPROCESS)
        return open_images(Path(asked.images), how, ports, asked.shapes or {}, asked.samples)
    if inputs is None:
        return None
    single = isinstance(inputs, str | Path | Mapping)
    return open_inputs([inputs] if single else list(inputs), ports, asked.samples)


def _deciding(a: LoadedModel, asked: VerifyOptions) -> DecisionRequest:
    outputs, labels = asked.decision, asked.labels
    known = [o.name for o in a.proto.graph.output]
    for name in outputs:
        if name not in known:
            raise DataError(f"{name!r} is not an output of the model; its outputs are {_names(known)}")
    if labels is not None and asked.inputs is None and asked.images is None:
        raise DataError("labels are of inputs; give those with --inputs")
    if isinstance(labels, str | Path):
        labels = read_labels(Path(labels))
    margin = MARGIN if asked.margin is None else asked.margin
    if not 0 < margin < 1 or not 0 < asked.alpha < 0.5:
        raise ValueError("margin is a share between 0 and 1, and alpha one between 0 and 0.5")
    return DecisionRequest(
        outputs=tuple(outputs),
        labels=None if labels is None else np.asarray(labels),
        metric=asked.metric,
        margin=margin,
        judges=asked.margin is not None or (asked.stages is not None and set(asked.stages) != set(STAGES)),
        alpha=asked.alpha,
        max_time=asked.max_time,
    )


def _names(known: Any) -> str:
    return ", ".join(known) or "none"
