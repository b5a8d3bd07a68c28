"""What must hold before any number is looked at: the interface, the checker, the modes of operators."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from onnx import TensorProto

from converter.model.file.checker import problems
from converter.records import OutputCheck, Stage, Verdict, Warning, WarningCode
from converter.referee.proto.source import (
    LoadedModel,
    Port,
    find_float_types,
    find_overridable,
    list_free_inputs,
    read_opsets,
    read_ports,
    seed_nodes,
    strip_weights,
    walk_nodes,
)
from converter.referee.reference.kernels import is_training, read_attributes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
_BOUNDED = {"Sigmoid", "Softmax", "HardSigmoid", "Tanh", "LogSoftmax"}
_SAME_VALUES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Concat", "Slice", "Cast"}
# Operators that move integers about or count with them: in a model of these alone, every difference is one.
_NEVER_TIES = {
    *(*_SAME_VALUES, "Gather", "GatherElements", "GatherND", "Expand", "Tile", "Pad", "Split", "Where", "Unique"),
    *("Add", "Sub", "Mul", "Max", "Min", "And", "Or", "Not", "Xor", "BitShift", "Shape", "Size", "Range", "Constant"),
    *("ConstantOfShape", "OneHot", "ScatterND", "ScatterElements", "Compress", "EyeLike", "Mod", "ReduceSum"),
} - {"Cast"}
_NARROW = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
# onnxruntime computes a sigmoid to about 1e-7 of 1, whatever the result: errors below this part of 1 prove nothing.
_NATURAL = 1e-3


class Claim(NamedTuple):
    """The shape that the rewritten model states of an output: true or not, as what comes out will show."""

    name: str
    dims: tuple[int | str | None, ...]
    why: str


def check_structure(a: LoadedModel, b: LoadedModel) -> tuple[Stage, list[Warning], tuple[Claim, ...]]:
    """The structure stage, what is worth a warning, and what only a run can decide."""
    warnings: list[Warning] = []
    before, after = list_free_inputs(a.proto), list_free_inputs(b.proto)
    ends = read_ports(a.proto.graph.output), read_ports(b.proto.graph.output)
    open_sizes = {d for port in before.values() for d in port.dims or () if isinstance(d, str)}
    claims = tuple(_list_claims(*ends, open_sizes))
    faults = [
        *_compare_interface("input", before, after),
        *_compare_interface("output", *ends, {c.name for c in claims}),
        *_compare_modes(a.proto, b.proto, warnings),
        *_run_checker(a.proto, b.proto, warnings),
    ]
    _note_versions(a.proto, b.proto, warnings)
    checks = tuple(OutputCheck(name, Verdict.FAIL, why=why) for name, why in faults)
    if not faults and not a.proto.graph.output:
        why = "the models have no outputs: there is nothing to compare"
        return Stage("structure", Verdict.INCONCLUSIVE, why), warnings, ()
    n_in, n_out = len(list_free_inputs(a.proto)), len(a.proto.graph.output)
    why = (
        faults[0][1]
        if faults
        else f"{_format_count(n_in, 'input')} and {_format_count(n_out, 'output')} keep name, type and shape"
    )
    return Stage("structure", Verdict.FAIL if faults else Verdict.PASS, why, checks), warnings, claims


def check_claims(stage: Stage, claims: Sequence[Claim], runs: Sequence[Mapping[str, Any]]) -> Stage:
    """The structure stage with what the original's outputs say of the sizes that the rewritten model states.

    An inferred symbol may stand for two sizes, and a number for what is a symbol elsewhere: of such claims those
    count that what comes out contradicts. Without any run all of them do.
    """
    checks = []
    for claim in claims:
        shapes = [np.shape(run[claim.name]) for run in runs if claim.name in run]
        false = next((shape for shape in shapes if not _holds(claim.dims, shape)), None)
        if not shapes or false is not None:
            seen = "" if false is None else f", and {list(false)} comes out"
            checks.append(OutputCheck(claim.name, Verdict.FAIL, why=claim.why + seen))
    if not checks:
        return stage
    return replace(stage, status=Verdict.FAIL, why=checks[0].why, outputs=(*stage.outputs, *checks))


def _holds(dims: Sequence[int | str | None], shape: Sequence[int]) -> bool:
    return len(dims) == len(shape) and all(not _is_number(d) or d == n for d, n in zip(dims, shape, strict=True))


def _format_count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def _list_claims(a: dict[str, Port], b: dict[str, Port], open_sizes: Collection[str]) -> Iterator[Claim]:
    """Outputs whose shape the two models state differently, where that may be a size that one of them has resolved."""
    for name in a.keys() & b.keys():
        before, after = a[name].dims, b[name].dims
        if before is None or after is None or (a[name].kind, a[name].elem) != (b[name].kind, b[name].elem):
            continue
        fixed = len(before) == len(after) and any(p in open_sizes and _is_number(q) for p, q in _pair(before, after))
        if not fixed and not _may_be(before, after):
            yield Claim(name, after, _describe_shapes("output", a[name], b[name]))


def _compare_interface(
    kind: str, a: dict[str, Port], b: dict[str, Port], claimed: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    for name in a:
        if name not in b:
            yield name, f"{kind} {name!r} is missing"
    for name in b:
        if name not in a:
            yield name, f"{kind} {name!r} is new"
    if set(a) == set(b) and list(a) != list(b):
        yield next(iter(a), ""), f"the order of the {kind}s changed"
    for name in [n for n in a if n in b and n not in claimed]:
        yield from _compare_port(kind, a[name], b[name])


def _compare_port(kind: str, a: Port, b: Port) -> Iterator[tuple[str, str]]:
    if (a.kind, a.elem) != (b.kind, b.elem):
        yield a.name, f"{kind} {a.name!r}: type {_format_type(a)} became {_format_type(b)}"
    elif a.dims is not None and b.dims is not None and not _may_be(a.dims, b.dims):
        yield a.name, _describe_shapes(kind, a, b)


def _may_be(before: Sequence[int | str | None], after: Sequence[int | str | None]) -> bool:
    """Whether every number of the second shape is in the first: what a symbol is called is no claim."""
    return len(before) == len(after) and all(p == q or not _is_number(q) for p, q in _pair(before, after))


def _pair(before: Sequence[Any], after: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(before, after, strict=True)


def _is_number(dim: int | str | None) -> bool:
    return isinstance(dim, int) and dim >= 0


def _describe_shapes(kind: str, a: Port, b: Port) -> str:
    return f"{kind} {a.name!r}: shape {_format_dims(a)} became {_format_dims(b)}"


def _format_type(port: Port) -> str:
    return f"{port.kind}({port.dtype or port.elem})"


def _format_dims(port: Port) -> str:
    return "unknown" if port.dims is None else "[" + ", ".join("?" if d is None else str(d) for d in port.dims) + "]"


def _compare_modes(a: ModelProto, b: ModelProto, warnings: list[Warning]) -> Iterator[tuple[str, str]]:
    before, after = _find_training(a), _find_training(b)
    if before:
        said = f"{len(before)} BatchNormalization nodes are in training mode, e.g. {sorted(before)[0]!r}"
        warnings.append(Warning(WarningCode.TRAINING_MODE, said))
    # A node that only left (folded away or dead) is judged by the outputs; one that appears is a changed mode.
    kept = {o for n in walk_nodes(b) for o in n.output}
    changed = (after - before) | {name for name in before - after if name in kept}
    for name in sorted(changed):
        yield name, f"BatchNormalization {name!r} changed between training and inference mode"


def _find_training(model: ModelProto) -> set[str]:
    version = read_opsets(model).get("", 1)
    return {n.output[0] for n in walk_nodes(model) if n.op_type == "BatchNormalization" and _is_training(n, version)}


def _is_training(node: NodeProto, version: int) -> bool:
    n_outputs = sum(1 for name in node.output if name)
    return is_training(node.op_type, version, read_attributes(node), n_outputs)


def _run_checker(a: ModelProto, b: ModelProto, warnings: list[Warning]) -> Iterator[tuple[str, str]]:
    after = problems(_excuse(strip_weights(b), a))
    if not after:
        return
    before = problems(_excuse(strip_weights(a), a))
    if before:
        said = f"onnx's checker objects to both models: {_shorten(before)}"
        warnings.append(Warning(WarningCode.CHECKER_OBJECTS, said))
    else:
        yield "", f"onnx's checker objects: {_shorten(after)}"


def _excuse(skeleton: ModelProto, original: ModelProto) -> ModelProto:
    """A skeleton without what onnx's checker objects to and onnxruntime neither needs nor misses.

    Before IR 4 an initializer had to be an input too, and onnxruntime writes files where it is not. An output without
    a shape claims none.
    """
    skeleton.ir_version = max(skeleton.ir_version, 4)
    stated = {v.name: v for v in original.graph.output}
    for value in skeleton.graph.output:
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape") and value.name in stated:
            value.CopyFrom(stated[value.name])
    return skeleton


def _shorten(text: str) -> str:
    return " ".join(text.split())[:200]


def _note_versions(a: ModelProto, b: ModelProto, warnings: list[Warning]) -> None:
    before, after = read_opsets(a), read_opsets(b)
    used = {"" if n.domain == "ai.onnx" else n.domain for m in (a, b) for n in walk_nodes(m)}
    for domain in sorted((before.keys() | after.keys()) & used):  # onnxruntime writes down all that it knows
        if before.get(domain) != after.get(domain):
            name = domain or "ai.onnx"
            said = f"operator set {name}: {before.get(domain, 'none')} became {after.get(domain, 'none')}"
            warnings.append(Warning(WarningCode.OPSET_CHANGED, said))
    if new := sorted(_find_quantised(b) - _find_quantised(a)):
        which = "quantised in other operators" if _find_quantised(a) else "quantised"
        said = f"only the rewritten model is {which} ({', '.join(new[:3])})"
        advice = "judge it by --stages decision, with --inputs"
        warnings.append(Warning(WarningCode.QUANTISED, f"{said}, which is no rounding: {advice}"))
    if _NARROW & (find_float_types(b) - find_float_types(a)):
        said = "only the rewritten model holds weights in half precision, which is no rounding of the original's own"
        warnings.append(Warning(WarningCode.HALF_PRECISION, f"{said}: judge it by --stages decision, with --inputs"))
    lost = find_overridable(a) - find_overridable(b)
    if lost:
        some = ", ".join(sorted(lost)[:3])
        said = f"{len(lost)} initializers can no longer be overridden by the caller ({some})"
        warnings.append(Warning(WarningCode.NOT_OVERRIDABLE, said))


def _find_quantised(model: ModelProto) -> set[str]:
    return {n.op_type for n in walk_nodes(model) if "Quantize" in n.op_type or n.op_type.startswith("QLinear")}


def is_unseeded(node: NodeProto) -> bool:
    """Whether the node draws other numbers in every run."""
    names = {a.name for a in node.attribute}
    training_dropout = node.op_type == "Dropout" and len(node.input) > 2 and bool(node.input[2])
    return (node.op_type in RANDOM or training_dropout) and "seed" not in names


def rounding_decides(source: LoadedModel, output: str) -> bool:
    """Whether a float is compared, rounded or made an integer on the way to an output, so that ties can be."""
    made = {name: node for node in source.proto.graph.node for name in node.output}
    pending, seen = [output], {output}
    while pending:
        node = made.get(pending.pop())
        if node is None:
            continue
        if node.op_type not in _NEVER_TIES or node.domain not in ("", "ai.onnx"):
            return True
        fresh = {name for name in node.input if name} - seen
        seen |= fresh
        pending.extend(fresh)
    return False


def find_natural_scale(source: LoadedModel, output: str) -> float:
    """A size below which an output's errors say nothing: for what a sigmoid or softmax made, part of 1."""
    made = {name: node for node in source.proto.graph.node for name in node.output}
    for _ in range(20):
        node = made.get(output)
        if node is None:
            return 0.0
        if node.op_type in _BOUNDED:
            return _NATURAL
        if node.op_type not in _SAME_VALUES or not node.input:
            return 0.0
        output = node.input[0]
    return 0.0


def make_repeatable(source: LoadedModel, warnings: list[Warning]) -> LoadedModel:
    """Random operators without a seed get one, the same in both models, in a throw-away copy."""
    count = sum(map(is_unseeded, walk_nodes(source.proto)))
    if not count:
        return source
    said = f"{count} random operators without a seed were given one for the comparison"
    warnings.append(Warning(WarningCode.RANDOM_SEEDED, said))
    return replace(
        source, proto=seed_nodes(source.proto, is_unseeded, lambda name: zlib.crc32(name.encode()) % 2**20), path=None
    )
