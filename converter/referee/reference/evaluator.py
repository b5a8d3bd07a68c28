"""A graph made ready to be evaluated node by node, each tensor freed after its last reader."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from converter.errors import BiasoptError
from converter.referee.proto.inference import format_size
from converter.referee.proto.source import make_body_key
from converter.referee.proto.tensors import Weights, widen
from converter.referee.reference.kernels import (
    Unsupported,
    bind_function,
    find_function_body,
    list_captures,
    make_kernel,
    read_attributes,
    read_schema_defaults,
)

Body = Callable[[Sequence[Any]], list[Any]]  # inputs of the body -> its outputs, outer values in reach


def run_if(inputs: Sequence[Any], bodies: dict[str, Body]) -> list[Any]:
    """The outputs of the branch that the condition picks."""
    return bodies["then_branch" if bool(np.asarray(inputs[0]).reshape(())) else "else_branch"](())


def run_loop(inputs: Sequence[Any], body: Body, n_scans: int) -> list[Any]:
    """Loop: carried values first, then each scan output stacked on a new first axis."""
    limit = None if inputs[0] is None else int(inputs[0])
    go_on = True if len(inputs) < 2 or inputs[1] is None else bool(inputs[1])
    carried, step = list(inputs[2:]), 0
    scans: list[list[Any]] = [[] for _ in range(n_scans)]
    while go_on and (limit is None or step < limit):
        outputs = body([np.asarray(step, dtype=np.int64), np.asarray(go_on), *carried])
        go_on = bool(outputs[0])
        carried = outputs[1 : 1 + len(carried)]
        for scan, value in zip(scans, outputs[1 + len(carried) :], strict=True):
            scan.append(value)
        step += 1
    if n_scans and not step:
        raise Unsupported("a Loop with scan outputs that runs zero times")
    return carried + [np.stack(s) for s in scans]


def run_scan(inputs: Sequence[Any], body: Body, n_body_outputs: int, attributes: dict[str, Any]) -> list[Any]:
    """Scan (opset 9 on): states, then each scan output stacked on its axis."""
    n_scan = attributes["num_scan_inputs"]
    n_state = len(inputs) - n_scan
    states = list(inputs[:n_state])
    n_out = n_body_outputs - n_state
    axes_in = attributes.get("scan_input_axes") or [0] * n_scan
    axes_out = attributes.get("scan_output_axes") or [0] * n_out
    turn_in = attributes.get("scan_input_directions") or [0] * n_scan
    turn_out = attributes.get("scan_output_directions") or [0] * n_out
    sequences = [np.moveaxis(x, a, 0) for x, a in zip(inputs[n_state:], axes_in, strict=True)]
    sequences = [s[::-1] if t else s for s, t in zip(sequences, turn_in, strict=True)]
    results: list[list[Any]] = [[] for _ in range(n_out)]
    for step in range(len(sequences[0])):
        outputs = body([*states, *(s[step] for s in sequences)])
        states = outputs[:n_state]
        for result, value in zip(results, outputs[n_state:], strict=True):
            result.append(value)
    if n_out and not results[0]:
        raise Unsupported("a Scan over an empty sequence")
    stacks = [np.stack(r[::-1] if t else r) for r, t in zip(results, turn_out, strict=True)]
    return states + [np.moveaxis(s, 0, a) for s, a in zip(stacks, axes_out, strict=True)]


# Inputs that are sizes, factors or exponents, not weights: never perturbed.
NOT_WEIGHTS = {"Resize": (1, 2, 3), "Upsample": (1,), "Pow": (1,), "Range": (0, 1, 2), "OneHot": (2,)}
# Layers whose every constant is a weight, even a single number.
_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "FusedConv"}
_KEPT_BYTES = 1 << 18  # a constant below this is converted once; a larger one at each use


def normalize_domain(domain: str) -> str:
    """The domain, the standard one by its empty name."""
    return "" if domain == "ai.onnx" else domain


def get_overload(proto: Any) -> str:
    """Which of several functions of one name is meant."""
    return str(getattr(proto, "overload", ""))


def read_opset_versions(imports: Iterable[Any]) -> dict[str, int]:
    """Operator set versions by domain."""
    return {normalize_domain(i.domain): int(i.version) for i in imports}


Watch = Callable[[str, Any], None]


class Context:
    """What all programs of one model share; ``opsets`` differ inside functions."""

    def __init__(
        self,
        opsets: dict[str, int],
        functions: dict[tuple[str, str, str], FunctionProto],
        weights: Weights,
        max_bytes: int | None,
    ) -> None:
        self.opsets = opsets
        self.functions = functions
        self.weights = weights
        self.max_bytes = max_bytes
        self.entered: set[str] = set()  # bodies that ran, by the first output of their node and the attribute
        self.watch_inner: Watch | None = None

    def inside(self, opsets: dict[str, int]) -> Context:
        """The same for the body of a function, which imports its own operator sets."""
        context = Context(opsets, self.functions, self.weights, self.max_bytes)
        context.entered = self.entered
        return context

    def watch_body(self, key: str) -> Watch | None:
        """What is told of the tensors of a body, by its key and their names."""
        tell = self.watch_inner
        return None if tell is None else lambda name, value: tell(f"{key}/{name}", value)


class _Scope:
    """The values of one running graph; a name that is not here is looked up outside."""

    def __init__(self, program: GraphEvaluator, values: dict[str, Any], parent: _Scope | None) -> None:
        self.program = program
        self.values = values
        self.parent = parent

    def get(self, name: str) -> Any:
        if name == "":
            return None
        if name in self.values:
            return self.values[name]
        if name in self.program.constants:
            value, keep = self.program.constant(name)
            if keep:
                self.values[name] = value
            return value
        if self.parent is None:
            raise Unsupported(f"tensor {name!r} is read but nothing makes it")
        return self.parent.get(name)


_Run = Callable[[_Scope, tuple[Any, ...]], Sequence[Any]]


class GraphEvaluator:
    """A graph or function body, ready to run again and again."""

    def __init__(self, graph: GraphProto | FunctionProto, context: Context) -> None:
        self.context = context
        plain = isinstance(graph, FunctionProto)
        self.inputs = list(graph.input) if plain else [i.name for i in graph.input]
        self.outputs = list(graph.output) if plain else [o.name for o in graph.output]
        dense = {} if plain else {t.name: t for t in graph.initializer}
        sparse = {} if plain else {t.values.name: t for t in graph.sparse_initializer}
        self.constants: dict[str, Any] = {**dense, **sparse}
        self.fixed = {n.input[i] for n in graph.node for i in NOT_WEIGHTS.get(n.op_type, ()) if i < len(n.input)}
        self.weights = {name for n in graph.node if n.op_type in _LAYERS for name in n.input}
        self.steps = [(node, self._compile(node)) for node in graph.node]
        self.release = self._last_reads()
        self._kept: dict[str, Any] = {}

    def constant(self, name: str) -> tuple[Any, bool]:
        """An initializer's value, and whether the running scope should hold it until its last reader."""
        if name in self._kept:
            return self._kept[name], False
        proto, weights = self.constants[name], self.context.weights
        if isinstance(proto, TensorProto):
            value = weights.tensor(proto, name, fixed=name in self.fixed, weight=name in self.weights)
        else:
            value = weights.sparse(proto, name)
        if value.nbytes <= _KEPT_BYTES:
            self._kept[name] = value
        return value, value.nbytes > _KEPT_BYTES

    def run(self, values: dict[str, Any], parent: _Scope | None, watch: Watch | None = None) -> list[Any]:
        scope = _Scope(self, values, parent)
        fresh = 0  # bytes made since the live ones were last added up
        for (node, step), release in zip(self.steps, self.release, strict=True):
            outputs = self._step(node, step, scope)
            for name, value in zip(node.output, outputs, strict=False):
                if name:
                    scope.values[name] = widen(value)
                    if watch is not None:
                        watch(name, scope.values[name])
            fresh += sum(getattr(value, "nbytes", 0) for value in outputs)
            del outputs
            fresh = self._check_size(scope, fresh)
            for name in release:
                scope.values.pop(name, None)
        return [scope.get(name) for name in self.outputs]

    def _step(self, node: NodeProto, step: _Run, scope: _Scope) -> Sequence[Any]:
        try:
            return step(scope, tuple(scope.get(name) for name in node.input))
        except (Unsupported, BiasoptError, MemoryError):
            raise
        except Exception as exc:  # whatever an operator's implementation trips over
            text = " ".join(str(exc).split())[:160]
            raise Unsupported(f"{node.op_type} {node.name or node.output[0]!r}: {text}") from exc

    def _check_size(self, scope: _Scope, fresh: int) -> int:
        """Stop above the limit; bytes that are still to be looked at: of small tensors not after each node."""
        limit = self.context.max_bytes
        if limit is None or fresh <= limit >> 6:
            return fresh
        if sum(getattr(v, "nbytes", 0) for v in scope.values.values()) > limit:
            raise Unsupported(f"its tensors take more than {format_size(limit)} in float64")
        return 0

    def _last_reads(self) -> list[list[str]]:
        """For each node, the tensors that nothing after it reads."""
        kept = set(self.outputs)
        release: list[list[str]] = []
        for node, _ in reversed(self.steps):
            names = {*node.input, *node.output, *list_captures(node)} - kept
            release.append(sorted(names))
            kept |= names
        return release[::-1]

    def _compile(self, node: NodeProto) -> _Run:
        domain, opsets = normalize_domain(node.domain), self.context.opsets
        function = self.context.functions.get((domain, node.op_type, get_overload(node)))
        if function is not None:
            return self._call(bind_function(function, node), read_opset_versions(function.opset_import))
        if domain == "" and node.op_type in ("If", "Loop", "Scan"):
            return self._control(node)
        if domain == "" and node.op_type == "Constant":
            return self._constant_node(node)
        if domain not in opsets:
            raise Unsupported(f"operator {domain}.{node.op_type}: its domain is not imported")
        op = make_kernel(node, domain, opsets[domain])
        if op is not None:
            return lambda scope, inputs: op(inputs)
        return self._expanded(node, domain, opsets[domain])

    def _call(self, function: FunctionProto, opsets: dict[str, int]) -> _Run:
        program = GraphEvaluator(function, self.context.inside(opsets))

        def run(scope: _Scope, inputs: tuple[Any, ...]) -> list[Any]:
            padded = (*inputs, *(None,) * (len(program.inputs) - len(inputs)))
            return program.run(dict(zip(program.inputs, padded, strict=True)), None)

        return run

    def _expanded(self, node: NodeProto, domain: str, version: int) -> _Run:
        """An operator that the standard defines by a function of others, made when its input types are known."""
        find_function_body(node, domain, version, None)  # raises Unsupported now rather than after ten seconds

        def run(scope: _Scope, inputs: tuple[Any, ...]) -> Sequence[Any]:
            function = find_function_body(node, domain, version, inputs)
            assert function is not None
            bound = bind_function(function, node, read_schema_defaults(node, domain, version))
            return self._call(bound, read_opset_versions(function.opset_import))(scope, inputs)

        return run

    def _constant_node(self, node: NodeProto) -> _Run:
        name, (attribute,) = node.output[0], node.attribute
        weights, fixed, layer = self.context.weights, name in self.fixed, name in self.weights
        if attribute.type == AttributeProto.TENSOR:
            return lambda scope, inputs: [weights.tensor(attribute.t, name, fixed=fixed, weight=layer)]
        if attribute.type == AttributeProto.SPARSE_TENSOR:
            return lambda scope, inputs: [weights.sparse(attribute.sparse_tensor, name)]
        value = widen(np.asarray(onnx.helper.get_attribute_value(attribute)))
        return lambda scope, inputs: [value]

    def _control(self, node: NodeProto) -> _Run:
        graphs = {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH}
        programs = {name: GraphEvaluator(graph, self.context) for name, graph in graphs.items()}
        attributes = read_attributes(node)

        def run(scope: _Scope, inputs: tuple[Any, ...]) -> list[Any]:
            def body(name: str, program: GraphEvaluator) -> Callable[[Sequence[Any]], list[Any]]:
                key = make_body_key("", node, name)

                def enter(values: Sequence[Any]) -> list[Any]:
                    self.context.entered.add(key)
                    given, watch = dict(zip(program.inputs, values, strict=True)), self.context.watch_body(key)
                    for formal, value in given.items() if watch is not None else ():
                        watch(formal, value)  # type: ignore[misc]
                    return program.run(given, scope, watch)

                return enter

            bodies = {name: body(name, program) for name, program in programs.items()}
            if node.op_type == "If":
                return run_if(inputs, bodies)
            n_outputs = len(programs["body"].outputs)
            if node.op_type == "Loop":
                return run_loop(inputs, bodies["body"], n_outputs - 1 - max(0, len(inputs) - 2))
            if self.context.opsets[""] < 9:
                raise Unsupported("Scan before opset 9")
            return run_scan(inputs, bodies["body"], n_outputs, attributes)

        return run


class Reference:
    """A model that can be run in float64.

    Parameters
    ----------
    model : ModelProto
        Read, never changed.
    weight_perturb : int, optional
        Seed: every float weight is multiplied by ``1 + u * xi``, u the unit roundoff of its stored type.
    external_dir : Path, optional
        Where the model's external data lies.
    max_bytes : int, optional
        Stop (``Unsupported``) when the live tensors of one graph take more.

    Raises
    ------
    Unsupported
        An operator is unknown (here or, for what depends on values, in ``run``).
    """

    def __init__(
        self,
        model: ModelProto,
        *,
        weight_perturb: int | None = None,
        external_dir: str | Path | None = None,
        max_bytes: int | None = None,
    ) -> None:
        folder = None if external_dir is None else Path(external_dir)
        functions = {(normalize_domain(f.domain), f.name, get_overload(f)): f for f in model.functions}
        context = Context(
            read_opset_versions(model.opset_import), functions, Weights(folder, weight_perturb), max_bytes
        )
        self._program = GraphEvaluator(model.graph, context)
        constant = set(self._program.constants)
        self.input_names = tuple(i.name for i in model.graph.input if i.name not in constant)
        self.output_names = tuple(o.name for o in model.graph.output)

    @property
    def entered(self) -> frozenset[str]:
        """The subgraphs that some run went through: ``/output.attribute``, by the first output of their node."""
        return frozenset(self._program.context.entered)

    def run(self, feeds: Mapping[str, Any], watch: Watch | None = None, inner: Watch | None = None) -> dict[str, Any]:
        """The outputs by name, floats as float64.

        Parameters
        ----------
        feeds : mapping of input name to array, any float type
            An initializer that is also a graph input may be overridden.
        watch : callable, optional
            Told the name and the value of each input and of each tensor of the main graph as it is made; a
            value that it does not keep is freed after its last reader, as ever.
        inner : callable, optional
            The same for the bodies of control flow, each time that they run: ``/output.attribute/name``.
        """
        values = {name: widen(value) for name, value in feeds.items()}
        missing = [n for n in self.input_names if n not in values]
        if missing:
            raise Unsupported(f"no value for input {missing[0]!r}")
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if watch is not None:
                for name, value in values.items():
                    watch(name, value)
            self._program.context.watch_inner = inner
            results = self._program.run(values, None, watch)
        return dict(zip(self.output_names, results, strict=True))
