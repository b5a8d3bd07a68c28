"""Local replay: each rewritten place on what really comes to it, while the original runs in float64.

The original is run node by node for the algebra stage anyway; here its tensors are listened to. As soon as a
place's inputs are there, they are rounded to the model's type, the rewritten place is run on them, and its output
is held against the original's own tensor, in units of what rounding explains. A tensor is let go after its last
place. So an error is found at the layer where it arises, whatever becomes of it further down.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from converter.errors import DataError, ModelError
from converter.records import OutputCheck, Stage, Verdict
from converter.records.evidence import worst_verdict
from converter.referee.proto.diff import ChangedRegions, Region
from converter.referee.proto.inference import infer_types
from converter.referee.proto.source import LoadedModel, Port, find_float_types, read_ports
from converter.referee.proto.tensors import UNIT_ROUNDOFF, read_tensor
from converter.referee.reference.kernels import Unsupported, read_attributes
from converter.referee.verify.algebra import PASS_BELOW, judge_algebra
from converter.referee.verify.metrics import measure_difference
from converter.referee.verify.models import ModelInput, ModelUnderTest, make_region_options
from converter.referee.verify.options import Options

_LEAST = 16.0  # rounding errors of what is not a sum: the bias, the weights themselves, the inputs
_PER_ROOT = 4.0
_SUFFIX = "/biasopt/absolute"
_ALL = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sum", "Concat"}  # of every input the absolute value
_FIRST = {
    *("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Dropout"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "Relu"),
}
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class BoundedModel:
    """A model with a second output, ``bound``: |W| * |x| + |b|, to be multiplied by ``factor`` * u."""

    model: ModelProto
    bound: str
    factor: float  # sum of max(16, 4 sqrt(n)) over the operators
    n: int  # products of the largest sum
    op: str
    layer: str
    axis: int  # of the output channels


def add_bound(model: ModelProto) -> BoundedModel | None:
    """The model with its bound; None where it holds an operator that is not linear."""
    writer = _BoundWriter(model)
    output = model.graph.output[0].name
    for node in model.graph.node:
        if not writer.add(node):
            return None
    if output not in writer.absolute or not writer.linear:
        return None
    copy = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    copy.graph.CopyFrom(model.graph)
    copy.graph.node.extend(writer.nodes)
    bound = writer.absolute[output]
    copy.graph.output.append(helper.make_tensor_value_info(bound, TensorProto.FLOAT, None))
    n, main = max(writer.linear, key=lambda pair: pair[0])
    label = main.name or f"{main.op_type}:{main.output[0]}"
    axis = -1 if main.op_type == "MatMul" else 1
    return BoundedModel(copy, bound, writer.factor, n, main.op_type, label, axis)


class _BoundWriter:
    """Writes the nodes on absolute values, in float32."""

    def __init__(self, model: ModelProto) -> None:
        self.nodes: list[NodeProto] = []
        self.absolute: dict[str, str] = {}
        self.linear: list[tuple[int, NodeProto]] = []
        self.factor = 0.0
        self._types: dict[str, Port] = infer_types(model)
        self._fixed = {t.name for t in model.graph.initializer}
        self._moving = {i.name for i in model.graph.input}

    def add(self, node: NodeProto) -> bool:
        """Write one node; False if it has no counterpart."""
        if node.op_type == "Constant" or not any(self._is_float(name) for name in (*node.input, *node.output)):
            self._fixed.update(node.output)
            return True
        if all(name in self._fixed for name in node.input if name):
            self._fixed.update(node.output)  # made of constants: its own value is what is read
            return True
        made = self._made(node)
        if made is None:
            return False
        self.factor += self._weight(node)
        self.nodes.append(made)
        self.absolute[node.output[0]] = made.output[0]
        return True

    def _made(self, node: NodeProto) -> NodeProto | None:
        op, given = node.op_type, read_attributes(node)
        if any(node.output[1:]) or node.domain not in ("", "ai.onnx"):
            return None
        inputs, attributes = list(node.input), list(node.attribute)
        match op:
            case _ if op in _ALL:
                inputs = [self.of(n) for n in inputs]
            case _ if op in _FIRST:
                inputs = [self.of(inputs[0]), *inputs[1:]]
            case "Sub":
                op, inputs = "Add", [self.of(n) for n in inputs]
            case "Neg":
                op, inputs = "Identity", [self.of(inputs[0])]
            case "Mul" if any(n in self._fixed for n in inputs):
                inputs = [self.of(n) for n in inputs]
            case "Div" if inputs[1] in self._fixed:
                inputs = [self.of(n) for n in inputs]
            case "BatchNormalization" if not given.get("training_mode", 0):
                x, gamma, beta, mean, var = inputs
                inputs = [self.of(x), self.of(gamma), self.of(beta), self._negative(mean), self._wide(var)]
            case _:
                return None
        made = NodeProto(op_type=op, input=inputs, output=[f"{node.output[0]}{_SUFFIX}"])
        if op == node.op_type:
            made.attribute.extend(attributes)
            for attribute in made.attribute:
                if node.op_type == "Gemm" and attribute.name in ("alpha", "beta"):
                    attribute.f = abs(attribute.f)
        return made

    def of(self, name: str) -> str:
        """The absolute value of a tensor."""
        if name and name not in self.absolute:
            self.absolute[name] = self._op("Abs", self._wide(name), f"{name}{_SUFFIX}")
        return self.absolute.get(name, "")

    def _negative(self, name: str) -> str:
        return self._op("Neg", self.of(name), f"{name}{_SUFFIX}/negative")

    def _wide(self, name: str) -> str:
        port = self._types.get(name)
        if port is not None and port.elem == TensorProto.FLOAT:
            return name
        made = self._op("Cast", name, f"{name}{_SUFFIX}/wide")
        self.nodes[-1].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
        return made

    def _op(self, op: str, name: str, output: str) -> str:
        self.nodes.append(NodeProto(op_type=op, input=[name], output=[output]))
        return output

    def _is_float(self, name: str) -> bool:
        port = self._types.get(name)
        return bool(name) and (port is None or port.dtype is None or port.dtype.kind in "fV")

    def _weight(self, node: NodeProto) -> float:
        """max(16, 4 sqrt(n)) of an operator; 0 of one that only moves elements."""
        n = self._products(node)
        if node.op_type in _LINEAR:
            self.linear.append((n, node))
        return max(_LEAST, _PER_ROOT * math.sqrt(n)) if n else 0.0

    def _products(self, node: NodeProto) -> int:
        """How many numbers the operator sums for one of its output."""
        op = node.op_type
        dims = [self._dims(name) for name in node.input[:2]]
        if op in _LINEAR and len(dims) > 1:
            w = [d if isinstance(d, int) else 1 for d in dims[1] or ()]
            given = read_attributes(node)
            if op == "Conv":
                return math.prod(w[1:])
            if op == "ConvTranspose":
                return int(w[0] // max(int(given.get("group", 1)), 1) * math.prod(w[2:])) if w else 1
            axis = -1 if op == "Gemm" and given.get("transB", 0) else -2
            return int(w[axis]) if len(w) >= 2 else 1
        if op in ("GlobalAveragePool", "AveragePool", "ReduceMean"):
            kernel = read_attributes(node).get("kernel_shape") or [d for d in (dims[0] or ())[2:] if isinstance(d, int)]
            return max(int(math.prod(kernel)), 1)
        return 1 if op in ("Add", "Sub", "Sum", "Mul", "Div", "BatchNormalization") else 0

    def _dims(self, name: str) -> tuple[int | str | None, ...] | None:
        port = self._types.get(name)
        return None if port is None else port.dims


Array = np.ndarray[Any, Any]

# Other tools fold in float32, operation by operation: where a bias nearly cancels, that is 26 in a correct fold.
FOREIGN_LIMIT = 100.0
_PENDING = 8  # tensors that are held until they are recognised


@dataclass(eq=False, slots=True)
class _Pending:
    """A place that seems wrong, whose tensor may be another one of the original's that is still to come."""

    number: int  # of its check
    found: Array
    bound: Array


class RenamedTensors:
    """Which tensors of the original the names of the rewritten model stand for."""

    def __init__(self, a: LoadedModel, b: LoadedModel, *, ours: bool) -> None:
        kept = {n for node in b.proto.graph.node for n in node.output}
        gone = {n for node in a.proto.graph.node for n in node.output} - kept
        self._gone = set() if ours else gone  # this tool keeps a name only where its value stays
        self._pending: list[_Pending] = []
        self.meant: dict[str, Any] = {}  # by name, the value of the tensor that it stands for

    def wait(self, number: int, found: Array, bound: Array) -> None:
        """The check of this number failed; its tensor may be one that is still to come."""
        if self._gone and len(self._pending) < _PENDING:
            self._pending.append(_Pending(number, found, bound))

    def made(self, name: str, value: Any, checks: list[OutputCheck]) -> None:
        """A tensor of the original was made: one that the rewritten model lacks may be one that is waited for."""
        for waiting in self._pending if name in self._gone else ():
            score = _apart(waiting.found, np.asarray(value), waiting.bound)
            if score <= FOREIGN_LIMIT:
                check = checks[waiting.number]
                detail = check.detail | {"score": score, "means": name}
                found = {"score": score, "limit": FOREIGN_LIMIT, "detail": detail, "why": ""}
                checks[waiting.number] = replace(check, status=Verdict.PASS, **found)  # type: ignore[arg-type]
                self.meant[check.name] = value
                self._pending.remove(waiting)
                return


def _apart(found: Array, value: Array, bound: Array) -> float:
    if found.shape != value.shape or value.dtype.kind != "f":
        return math.inf
    return float(ratios(found, value, bound).max(initial=0.0))


def ratios(found: Array, expected: Array, bound: Array) -> Array:
    """Every element's distance in units of its bound; infinite where it is not a number."""
    with np.errstate(all="ignore"):
        ratio = np.abs(found - expected) / bound
    return np.where(np.isfinite(ratio), ratio, np.inf)


LIMIT, FAIL_ABOVE = 1.0, 10.0
_SECONDS = 8.0  # that all places together may take, and a third of what time is left
_TINY = float(np.finfo(np.float32).tiny)


class RegionReplay:
    """Listens to a float64 run of the original: give it to `Reference.run` as ``watch``."""

    def __init__(
        self, difference: ChangedRegions, a: LoadedModel, b: LoadedModel, options: Options, *, ours: bool
    ) -> None:
        self._a, self._b, self._options, self._ours = a, b, options, ours
        self.total = len(difference.regions) + len(difference.unmatched)
        self._waiting = deque(s for s in difference.regions if not s.scope and _is_fed(s))
        self._needs = {id(s): {*_list_inputs(s.before), *_list_inputs(s.after), s.output} for s in self._waiting}
        self._readers = Counter(name for needs in self._needs.values() for name in needs)
        self._values: dict[str, Any] = {}
        self._names = RenamedTensors(a, b, ours=ours)
        self.checks: list[OutputCheck] = []
        self.missed: dict[str, str] = {}
        self.seconds = 0.0  # spent here rather than in the run that is listened to
        self._limit = min(_SECONDS, max(options.time_left() / 3, 0.0))

    def __call__(self, name: str, value: Any) -> None:
        """A tensor of the original was made."""
        self._names.made(name, value, self.checks)
        if name not in self._readers:
            return
        self._values[name] = value
        begun = time.process_time()
        ready = [s for s in self._waiting if self._needs[id(s)] <= self._values.keys()]
        for region in ready:
            self._waiting.remove(region)
            if self.seconds + time.process_time() - begun < self._limit:
                self._judge(region)
            self._release(region)
        self.seconds += time.process_time() - begun

    def _release(self, region: Region) -> None:
        for name in self._needs.pop(id(region)):
            self._readers[name] -= 1
            if not self._readers[name]:
                del self._readers[name], self._values[name]
                self._names.meant.pop(name, None)

    def stage(self) -> Stage | None:
        """What was found; None if no place was replayed."""
        if not self.checks:
            return None
        bad = [c for c in self.checks if c.status is not Verdict.PASS]
        top = max((c.score for c in self.checks if c.score is not None), default=0.0)
        why = f"{len(self.checks)} of {self.total} places replayed; at most {top:.2g} of what rounding explains"
        detail = {"places": self.total, "replayed": len(self.checks), "missed": dict(list(self.missed.items())[:20])}
        if bad:
            first = bad[0]
            why = f"{first.name}: {first.why}" + (f"; {len(bad)} places" if len(bad) > 1 else "")
        return Stage(
            "local",
            worst_verdict(c.status for c in self.checks),
            why,
            tuple(self.checks),
            detail,
            round(self.seconds, 3),
        )

    # -- one place -------------------------------------------------------------------------------

    def _judge(self, region: Region) -> None:
        self._options.progress(f"place {len(self.checks) + 1} of {self.total}: {region.output}")
        expected = np.asarray(self._values[region.output])
        if expected.dtype.kind != "f" or not np.isfinite(expected).all():
            self.missed[region.output] = "its output is not finite, or no float"
            return
        try:
            measure = add_bound(region.after)
            check = self._linear(region, measure, expected) if measure is not None else self._other(region)
        except (DataError, ModelError, Unsupported, ValueError) as exc:
            self.missed[region.output] = " ".join(str(exc).split())[:160]
            return
        if not self._ours:
            check = _doubt_foreign(check)
        self.checks.append(check)

    def _linear(self, region: Region, measure: BoundedModel, expected: np.ndarray[Any, Any]) -> OutputCheck:
        """Error against max(16, 4 sqrt(n)) * u * (|W| * |x| + |b|), the largest over all elements."""
        side = ModelUnderTest(
            LoadedModel(measure.model, region.output, None, self._b.folder), make_region_options(self._options)
        )
        try:
            got = side.run(self._feeds(measure.model))
        finally:
            side.close()
        unit = max((UNIT_ROUNDOFF[t] for t in find_float_types(region.after)), default=2.0**-24)
        found = np.asarray(got[region.output]).astype(np.float64)
        if found.shape != expected.shape:
            raise ValueError(f"shape {list(expected.shape)} became {list(found.shape)}")
        bound = np.asarray(got[measure.bound]).astype(np.float64) * (measure.factor * unit) + _TINY
        ratio = ratios(found, expected, bound)
        at = np.unravel_index(int(np.argmax(ratio)), ratio.shape) if ratio.size else (0,)
        score = float(ratio[at]) if ratio.size else 0.0
        channel = int(at[measure.axis]) if len(at) > 1 else 0
        norms = _compute_norms(region.before, self._a)
        detail = {"layer": measure.layer, "op": measure.op, "n": measure.n, "channel": channel, "score": score, **norms}
        status = Verdict.PASS if score <= LIMIT else Verdict.FAIL if score > FAIL_ABOVE else Verdict.INCONCLUSIVE
        why = "" if status is Verdict.PASS else _explain(measure, channel, score)
        if status is Verdict.FAIL:
            self._names.wait(len(self.checks), found, bound)
        apart = float(np.abs(found - expected).max(initial=0.0))
        return OutputCheck(region.output, status, score, LIMIT, apart, detail=detail, why=why)

    def _other(self, region: Region) -> OutputCheck:
        """A place that is not linear: in float64, against what rounding its weights does to it."""
        small = replace(make_region_options(self._options), quick=True)
        if _list_inputs(region.after) & self._names.meant.keys():
            return self._renamed(region, small)
        left = ModelUnderTest(LoadedModel(region.before, region.output, None, self._a.folder), small)
        right = ModelUnderTest(LoadedModel(region.after, region.output, None, self._b.folder), small)
        found = judge_algebra(left, right, [ModelInput(self._feeds(region.before) | self._feeds(region.after))], small)
        if not found.outputs:
            raise ModelError(found.why)
        check, node = found.outputs[0], region.after.graph.node[-1]
        detail = check.detail | {"layer": node.name or node.output[0], "op": node.op_type, "score": check.score}
        return replace(check, name=region.output, detail=detail)

    def _renamed(self, region: Region, options: Options) -> OutputCheck:
        """A place that reads a name with another meaning: on what it means, against the original's own tensor."""
        side = ModelUnderTest(LoadedModel(region.after, region.output, None, self._b.folder), options)
        feeds = self._feeds(region.after)
        got, moved = (side.reference(feeds, seed)[region.output] for seed in (None, options.seed))
        change, noise = measure_difference(self._values[region.output], got), measure_difference(got, moved)
        unit = max((UNIT_ROUNDOFF[t] for t in find_float_types(self._b.proto)), default=2.0**-24)
        score = math.inf if change.problem else change.relative / max(noise.relative, unit)
        node = region.after.graph.node[-1]
        detail = {"layer": node.name or node.output[0], "op": node.op_type, "score": score, "e": change.relative}
        status = Verdict.PASS if score <= PASS_BELOW else Verdict.FAIL
        why = "" if status is Verdict.PASS else change.problem or f"moved {score:.3g} times as far as rounding would"
        return OutputCheck(region.output, status, score, PASS_BELOW, change.max_abs, detail=detail, why=why)

    def _feeds(self, model: ModelProto) -> dict[str, Any]:
        """The inputs of a place, rounded to the types that it declares."""
        feeds = {}
        for name, port in read_ports(model.graph.input).items():
            feeds[name] = _round(self._names.meant.get(name, self._values[name]), port)
        return feeds


def _doubt_foreign(check: OutputCheck) -> OutputCheck:
    """Of another tool's model: float32 arithmetic makes more than one rounding, and names may change their meaning."""
    if check.status is Verdict.PASS:
        return check
    if check.limit == LIMIT and check.score is not None and check.score <= FOREIGN_LIMIT:
        return replace(check, status=Verdict.PASS, limit=FOREIGN_LIMIT, why="")
    doubt = f"{check.why}; or this name no longer means the same"
    return replace(check, status=Verdict.INCONCLUSIVE, why=doubt)


def _round(value: Any, port: Port) -> Any:
    array = np.asarray(value)
    if port.dtype is None or array.dtype == port.dtype:
        return array
    with np.errstate(all="ignore"):
        return array.astype(port.dtype)


def _list_inputs(model: ModelProto) -> set[str]:
    return {i.name for i in model.graph.input}


def _is_fed(region: Region) -> bool:
    """Whether the place has inputs that are tensors of known type."""
    values = [*region.before.graph.input, *region.after.graph.input]
    return bool(values) and all(v.type.HasField("tensor_type") for v in values)


def _explain(measure: BoundedModel, channel: int, score: float) -> str:
    where = f"{measure.op} {measure.layer!r}, channel {channel}"
    return f"{where}: {score:.3g} times as far off as rounding explains (n = {measure.n})"


def _compute_norms(before: ModelProto, a: LoadedModel) -> dict[str, float]:
    """Largest scale and smallest variance of the batch norms that went: where errors are large for a reason."""
    held = {t.name: t for t in before.graph.initializer}
    scales, variances = [], []
    for node in before.graph.node:
        if node.op_type == "BatchNormalization" and {node.input[1], node.input[4]} <= held.keys():
            gamma, var = (read_tensor(held[node.input[k]], a.folder).astype(np.float64) for k in (1, 4))
            epsilon = next((x.f for x in node.attribute if x.name == "epsilon"), 1e-5)
            with np.errstate(all="ignore"):
                scales.append(float(np.max(np.abs(gamma) / np.sqrt(var + epsilon), initial=0.0)))
            variances.append(float(np.min(var, initial=np.inf)))
    return {"scale_max": max(scales), "var_min": min(variances)} if scales else {}
