"""What both models are timed on: one set of inputs, the user's or random."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from converter.errors import DataError
from converter.protos.feeds import check_given, check_shapes, feed, guesses, has_open_batch
from converter.protos.source import Source
from converter.records import InputSet

Feeds = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]


def choose(
    source: Source, accepts: Callable[[Feeds], None], shapes: Shapes | None, batch: int | None, seed: int
) -> Feeds:
    """Random inputs that the model runs on.

    Parameters
    ----------
    accepts : callable
        Runs the model; raises DataError if it cannot be run on them.

    Raises
    ------
    DataError
        Shapes or batch contradict the model, or no guess at its open sizes fits.
    """
    check_shapes(source.proto, shapes)
    if batch is not None and not has_open_batch(source.proto, shapes):
        raise DataError(f"{source.label}: its batch size is fixed; leave out --batch, or export it with an open one")
    refused: DataError | None = None
    for guess in guesses(source.proto, shapes, batch or 1):
        feeds = feed(source.proto, guess, seed)
        try:
            accepts(feeds)
        except DataError as exc:
            refused = refused or exc
        else:
            return feeds
    raise DataError(f"{refused or f'{source.label}: no inputs fit'}; give --shape or --inputs") from refused


def check(source: Source, feeds: Mapping[str, Any]) -> None:
    """Raise DataError unless inputs from the user, or of the other model, are this model's."""
    check_given(source.proto, feeds)


def record(feeds: Mapping[str, Any], seed: int, *, real: bool) -> InputSet:
    """What they were, for the report."""
    digest = hashlib.sha256()
    for name in sorted(feeds):
        value = np.ascontiguousarray(feeds[name])
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    shapes = {name: tuple(np.shape(value)) for name, value in feeds.items()}
    return InputSet("npz" if real else "random", 1, digest.hexdigest(), shapes, None if real else seed, real)
