"""The referee: does ``got`` answer as ``ref`` does?

Stages, cheapest first: structure, float64 algebra, onnxruntime against the float64 reference; rewrite by rewrite
where the model cannot be run whole. What was not compared did not pass.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.protos.segments import differences
from converter.protos.source import Source, all_nodes, seeded
from converter.records import Parity, Verdict
from converter.verify.feeds import BATCHES, check_shapes, guesses
from converter.verify.pair import Options, default_memory
from converter.verify.structure import is_unseeded, structure
from converter.verify.whole import Referee

if TYPE_CHECKING:
    from onnx import ModelProto


def compare(
    ref: Path | str | bytes | ModelProto,
    got: Path | str | bytes | ModelProto,
    *,
    data: Path | None = None,
    got_data: Path | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    inputs: Sequence[Mapping[str, Any]] | None = None,
    custom_ops: Path | None = None,
    provider: str = "cpu",
    seed: int = 0,
    quick: bool = False,
    max_time: float = 30.0,
    max_memory: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Parity:
    """Judge whether ``got`` computes what ``ref`` computes, up to rounding.

    Parameters
    ----------
    ref, got : Path, bytes or ModelProto
        The original and the rewritten model.
    data : Path, optional
        Directory of the external data of ``ref``; by default its own, where it is a file.
    got_data : Path, optional
        The same for ``got``; by default its own, where it is a file, else that of ``ref``.
    shapes : mapping of input name to shape, optional
        Sizes that the model leaves open.
    inputs : sequence of mappings of input name to array, optional
        Inputs to run on; seeded random ones otherwise.
    custom_ops : Path, optional
        Library of custom operators for onnxruntime.
    provider : {"cpu", "cuda"}
        Where onnxruntime runs the models.
    quick : bool
        One input and one perturbation instead of two.
    max_time : float, seconds
        When no further inputs are added; what was begun is finished.
    max_memory : int, bytes
        What a float64 run may take, by default half of the free memory; above it, rewrite by rewrite.
    progress : callable, optional
        Told in a few words what is being done.

    Returns
    -------
    Parity

    Raises
    ------
    ModelError
        A model cannot be read.
    DataError
        ``inputs`` or ``shapes`` do not fit the model.
    RuntimeUnavailable
        onnxruntime or the provider is missing.
    """
    a = Source.open(ref, data, "original")
    if got_data is None and not isinstance(got, Path | str):
        got_data = a.folder
    b = Source.open(got, got_data, "rewritten model")
    check_shapes(a.proto, shapes)
    options = Options(
        shapes=shapes,
        inputs=inputs,
        custom_ops=custom_ops,
        provider=provider,
        seed=seed,
        quick=quick,
        deadline=time.monotonic() + max_time,
        max_memory=default_memory() if max_memory is None else max_memory,
        progress=progress or (lambda text: None),
    )
    options.progress("structure")
    shape_of_things, warnings = structure(a, b)
    if shape_of_things.status is Verdict.FAIL:
        return Parity(Verdict.FAIL, "D", (shape_of_things,), tuple(warnings), "none", shape_of_things.why)
    difference = differences(a, b, _first_dims(a, options))
    if difference.is_empty:
        why = "no node and no constant of what is computed differs"
        return Parity(Verdict.PASS, "B", (shape_of_things,), tuple(warnings), "identical", why)
    a, b = _repeatable(a, warnings), _repeatable(b, [])
    return Referee(a, b, options, difference, [shape_of_things], warnings).judge()


def _first_dims(a: Source, options: Options) -> dict[str, tuple[int, ...]] | None:
    """The likeliest input shapes, to infer the types of what lies between."""
    return next((g.shapes for g in guesses(a.proto, options.shapes, BATCHES[0])), None)


def _repeatable(source: Source, warnings: list[str]) -> Source:
    """Random operators without a seed get one, the same in both models, in a throw-away copy."""
    count = sum(map(is_unseeded, all_nodes(source.proto)))
    if not count:
        return source
    warnings.append(f"{count} random operators without a seed were given one for the comparison")
    return replace(
        source, proto=seeded(source.proto, is_unseeded, lambda name: zlib.crc32(name.encode()) % 2**20), path=None
    )
