"""``compare``: what a caller asks, checked and made one record; the pair found to be one model, or judged."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import DataError
from converter.records import Parity, Stage, Verdict
from converter.records.evidence import Warning
from converter.records.option import documented, merge_options, names
from converter.records.options import LEVELS, OPT_LEVELS, PRECISIONS, PREPROCESS, STAGES, VerifyOptions
from converter.referee.inputs.files import open_inputs, read_labels
from converter.referee.inputs.images import open_images
from converter.referee.inputs.stream import Stream
from converter.referee.proto.copies import rename_ports, write_out_functions
from converter.referee.proto.diff import find_changed_regions
from converter.referee.proto.random_inputs import BATCHES, check_given, check_shapes, guess_shapes
from converter.referee.proto.source import LoadedModel, list_free_inputs
from converter.referee.proto.structural_hash import is_same_computation
from converter.referee.verify.comparison import Referee
from converter.referee.verify.metrics import Tolerance, check_tolerances
from converter.referee.verify.models import find_default_memory
from converter.referee.verify.options import MARGIN, DecisionRequest, Options
from converter.referee.verify.structure import check_claims, check_structure, make_repeatable
from converter.referee.verify.verdict import complete, hold_to_level, save_failing
from converter.runtime.providers import check_provider, select_options
from converter.runtime.session import probe_provider

if TYPE_CHECKING:
    from onnx import ModelProto


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
        "stream": _open_stream(a, asked),
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
        "stages": _parse_stages(asked),
        "by_proof": asked.stages is None or set(asked.stages) == set(STAGES) or not _LEFT_OUT & set(asked.stages),
        "deciding": _make_decision_request(a, asked),
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


def _parse_stages(asked: VerifyOptions) -> frozenset[str]:
    if asked.stages is None:
        return frozenset(STAGES) - {"decision"}
    chosen = frozenset(_one_of("stage", name, STAGES) for name in asked.stages) | {"structure"}
    return chosen if asked.decide else chosen - {"decision"}


def _open_stream(a: LoadedModel, asked: VerifyOptions) -> Stream | None:
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


def _make_decision_request(a: LoadedModel, asked: VerifyOptions) -> DecisionRequest:
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


@documented(VerifyOptions)
def compare(
    ref: Path | str | bytes | ModelProto,
    got: Path | str | bytes | ModelProto,
    options: VerifyOptions | None = None,
    **keywords: Any,
) -> Parity:
    """Judge whether ``got`` computes what ``ref`` computes, up to rounding.

    Parameters
    ----------
    ref, got : Path, bytes or ModelProto
        The original and the rewritten model.
    options : VerifyOptions, optional
        Or as keywords.
    {options}

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
    request = merge_options(VerifyOptions, options, keywords)
    required = check_level(request.require_level)
    a = LoadedModel.open(ref, None if request.data_dir is None else Path(request.data_dir), "original")
    got_data = None if request.got_data_dir is None else Path(request.got_data_dir)
    if got_data is None and not isinstance(got, Path | str):
        got_data = a.folder
    b = LoadedModel.open(got, got_data, "rewritten model")
    asked = resolve(a, request)
    sides = (a, b)
    if asked.names:
        b = rename_ports(b, asked.names)
    referee, parity = _judge_pair(a, b, asked)
    if not asked.timed:
        parity = replace(parity, stages=tuple(replace(stage, seconds=None) for stage in parity.stages))
    ran, used = ((None, None), None) if referee is None else (referee.ran, referee.cases.record())
    parity = complete(parity, sides, asked, ran, used)
    if parity.verdict is not Verdict.PASS and asked.failing is not None and referee is not None:
        parity = replace(parity, failing_inputs=save_failing(referee.failing_inputs(parity), Path(asked.failing)))
    return hold_to_level(parity, required)


def _judge_pair(a: LoadedModel, b: LoadedModel, options: Options) -> tuple[Referee | None, Parity]:
    options.progress("structure")
    shape_of_things, warnings, claims = check_structure(a, b)
    if shape_of_things.status is not Verdict.PASS:
        return None, Parity(
            shape_of_things.status,
            "D",
            stages=(shape_of_things,),
            warnings=tuple(warnings),
            scope="none",
            why=shape_of_things.why,
        )
    if options.stream is not None:  # what is asked for is looked at, also where nothing will run on it
        _check_first(a, options.stream)
    if options.stages == {"structure"}:
        shape_of_things = check_claims(shape_of_things, claims, ())
    alike = (
        not claims and _may_be_one(a, b) and not options.is_crossed
    )  # one model on two providers is what is asked then
    if alike and is_same_computation(a, b):
        return None, _conclude_identical(shape_of_things, warnings)
    if options.stages == {"structure"}:
        why = f"{shape_of_things.why}; nothing else was asked for"
        return None, Parity(
            shape_of_things.status, "D", stages=(shape_of_things,), warnings=tuple(warnings), scope="none", why=why
        )
    cut = write_out_functions(a, b)
    difference = find_changed_regions(*cut, _guess_dims(a, options))
    # That no place was found to differ is no proof: a node's meaning also hangs on what lies around it.
    if difference.is_empty and not claims and not alike and not options.is_crossed and is_same_computation(a, b):
        return None, _conclude_identical(shape_of_things, warnings)
    written_out = None if cut[0] is a and cut[1] is b else (make_repeatable(cut[0], []), make_repeatable(cut[1], []))
    a, b = make_repeatable(a, warnings), make_repeatable(b, [])
    referee = Referee(a, b, options, difference, [shape_of_things], warnings, claims, written_out)
    return referee, referee.judge()


def _check_first(a: LoadedModel, stream: Stream) -> None:
    """Refuse inputs that cannot be read, are none, or name no inputs of the model."""
    samples = stream.take(1)
    if not samples:
        raise DataError(f"{stream.source or 'inputs'}: there are none; the models cannot be compared on them")
    check_given(a.proto, samples[0].feeds)


def _conclude_identical(shape_of_things: Stage, warnings: list[Warning]) -> Parity:
    why = "no node and no constant of what is computed differs"
    return Parity(Verdict.PASS, "B", stages=(shape_of_things,), warnings=tuple(warnings), scope="identical", why=why)


def _may_be_one(a: LoadedModel, b: LoadedModel) -> bool:
    """Whether hashing every constant of both may be worth it: the same outputs of the same kinds of operators."""
    shared = {n.op_type for n in a.proto.graph.node} == {n.op_type for n in b.proto.graph.node}
    return shared and [o.name for o in a.proto.graph.output] == [o.name for o in b.proto.graph.output]


def _guess_dims(a: LoadedModel, options: Options) -> dict[str, tuple[int, ...]] | None:
    """The likeliest input shapes, to infer the types of what lies between."""
    return next((g.shapes for g in guess_shapes(a.proto, options.shapes, BATCHES[0])), None)
