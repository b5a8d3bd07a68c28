"""The referee: does ``got`` answer as ``ref`` does?

Stages, cheapest first: structure, float64 algebra, the rewritten parameters, onnxruntime against the float64
reference at strict precision and as deployed, and what the models decide on the user's inputs; rewrite by rewrite
where the model cannot be run whole. What was not compared did not pass.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.protos.meaning import same_computation
from converter.protos.rename import renamed
from converter.protos.segments import differences
from converter.protos.source import Source, all_nodes, seeded
from converter.records import Parity, Stage, Verdict
from converter.verify.asked import check_level, options_for
from converter.verify.classic import Tolerance
from converter.verify.closing import closed
from converter.verify.feeds import BATCHES, guesses
from converter.verify.options import Options
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
    names: Mapping[str, str] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    inputs: Any = None,
    images: Path | str | None = None,
    preprocess: str = "imagenet",
    labels: Any = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    samples: int | None = None,
    custom_ops: Path | str | None = None,
    provider: str = "cpu",
    provider_options: Mapping[str, str] | None = None,
    opt_level: str = "all",
    precision_gate: str = "both",
    stages: Iterable[str] | None = None,
    max_ratio: float | None = None,
    fail_ratio: float = 10.0,
    tolerances: Sequence[Tolerance | tuple[str, str, float]] = (),
    decision: Sequence[str] = (),
    metric: str = "top1",
    margin: float = 1e-3,
    alpha: float = 0.05,
    require_level: str | None = None,
    failing: Path | str | None = None,
    timed: bool = False,
    seed: int = 0,
    quick: bool = False,
    max_time: float | None = None,
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
    names : mapping of a name in ``ref`` to one in ``got``, optional
        Inputs and outputs that are called differently.
    shapes : mapping of input name to shape, optional
        Sizes that the model leaves open.
    inputs : path, ``script.py:function``, mapping of input name to array, or a sequence of these, optional
        Inputs to run on, see `converter.verify.readers`; seeded random ones otherwise.
    images : Path, optional
        A folder of images to run on, by class or flat, scaled by ``preprocess``: imagenet, unit, tanh or none.
    labels : Path or integer array, optional
        The right class of every row of the inputs.
    ranges : mapping of input name to (low, high), optional
        Random values lie between these.
    samples : int, optional
        How many random inputs, or how many of the user's at most.
    custom_ops : Path, optional
        Library of custom operators for onnxruntime.
    provider : {"cpu", "cuda", "tensorrt"}
        Where onnxruntime runs the models; that it does is proved.
    provider_options : mapping, optional
        Of that provider, as deployed.
    opt_level : {"all", "basic", "off"}
        onnxruntime's optimisations as deployed.
    precision_gate : {"strict", "as-deployed", "both"}
        Whether the runtime stage counts with TF32 and optimisations off, as deployed, or both.
    stages : iterable of str, optional
        Of structure, algebra, parameters, local, runtime and decision; all but the last by default.
    max_ratio, fail_ratio : float
        The rewritten model's error over the original's: up to the first it passes, above the second it fails.
    tolerances : sequence of (output, metric, value)
        Further gates, on the usual measures; an empty name is every output.
    decision : sequence of output names
        The outputs that decide; every float output [N, C] by default.
    metric : str
        "top1", or ``script.py:function`` of (outputs, labels).
    margin, alpha : float
        The loss that is tolerated, as a share, and the chance of overlooking a larger one.
    require_level : {"A", "B", "C", "D"}, optional
        A claim below it is inconclusive.
    failing : Path, optional
        A folder to save inputs into on which the models differ.
    timed : bool
        Record how long every stage took; without it the same models give the same record.
    seed : int
        Of random inputs, perturbations and resamples.
    quick : bool
        One input and one perturbation instead of two, no stage as deployed, no decisions.
    max_time : float, seconds
        When no further inputs are added, 30 by default; what was begun is finished. The decision stage reads all
        inputs unless this is given.
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
        ``inputs``, ``shapes``, ``labels`` or the like do not fit the model.
    RuntimeUnavailable
        onnxruntime or the provider is missing, or does not run the model's arithmetic.
    ValueError
        A choice is none of those that there are.
    """
    given = dict(locals())
    required = check_level(require_level)
    a = Source.open(ref, data, "original")
    if got_data is None and not isinstance(got, Path | str):
        got_data = a.folder
    b = Source.open(got, got_data, "rewritten model")
    options = options_for(a, given)
    sides = (a, b)
    if names:
        b = renamed(b, names)
    referee, parity = _judged(a, b, options)
    if not timed:
        parity = replace(parity, stages=tuple(replace(stage, seconds=None) for stage in parity.stages))
    return closed(parity, sides, options, referee, required, None if failing is None else Path(failing))


def _judged(a: Source, b: Source, options: Options) -> tuple[Referee | None, Parity]:
    options.progress("structure")
    shape_of_things, warnings = structure(a, b)
    if shape_of_things.status is Verdict.FAIL:
        return None, Parity(Verdict.FAIL, "D", (shape_of_things,), tuple(warnings), "none", shape_of_things.why)
    alike = _may_be_one(a, b)
    if alike and same_computation(a, b):
        return None, _identical(shape_of_things, warnings)
    if options.stages == {"structure"}:
        why = f"{shape_of_things.why}; nothing else was asked for"
        return None, Parity(Verdict.PASS, "D", (shape_of_things,), tuple(warnings), "none", why)
    difference = differences(a, b, _first_dims(a, options))
    # That no place was found to differ is no proof: a node's meaning also hangs on what lies around it.
    if difference.is_empty and not alike and same_computation(a, b):
        return None, _identical(shape_of_things, warnings)
    a, b = _repeatable(a, warnings), _repeatable(b, [])
    referee = Referee(a, b, options, difference, [shape_of_things], warnings)
    return referee, referee.judge()


def _identical(shape_of_things: Stage, warnings: list[str]) -> Parity:
    why = "no node and no constant of what is computed differs"
    return Parity(Verdict.PASS, "B", (shape_of_things,), tuple(warnings), "identical", why)


def _may_be_one(a: Source, b: Source) -> bool:
    """Whether hashing every constant of both may be worth it: the same outputs of the same kinds of operators."""
    shared = {n.op_type for n in a.proto.graph.node} == {n.op_type for n in b.proto.graph.node}
    return shared and [o.name for o in a.proto.graph.output] == [o.name for o in b.proto.graph.output]


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
