"""A module as a graph of torch's operators, in training mode, with the names of what it holds.

``torch.export`` first. Where that declines (control flow, odd inputs), the module is run under ``torch.fx``'s tracer of
operators, which follows what happens with this one example. Both leave norms, attention and LSTMs whole.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from converter.dataclass import dataclass
from converter.errors import DataError, ModelError
from converter.torch_models.lint.module_copies import Example, copy_for_training, copy_module, one_line, run_seeded


@dataclass(frozen=True, slots=True)
class TracedModule:
    """A traced module.

    ``names`` gives the parameter or buffer of each placeholder that is one; ``home`` the module that each node's
    call lies in.
    """

    module: Any  # a copy of the user's, which ran in its training mode
    example: Example
    graph: Any  # torch.fx.Graph
    names: dict[Any, str]
    tracer: str  # torch.export | torch.fx

    @property
    def data(self) -> frozenset[Any]:
        """The nodes that depend on the inputs or on chance."""
        found: set[Any] = set()
        for node in self.graph.nodes:
            if node.op == "placeholder":
                if node not in self.names:
                    found.add(node)
            elif any(source in found for source in node.all_input_nodes) or _is_random(node):
                found.add(node)
        return frozenset(found)


def _is_random(node: Any) -> bool:
    tags = getattr(node.target, "tags", ())
    return any("nondeterministic" in str(tag) for tag in tags)


def trace_module(module: Any, example: Example) -> TracedModule:
    """Trace a module in training mode.

    Raises
    ------
    DataError
        It does not run on the example.
    ModelError
        No tracer follows it; the message names the module and the operator.
    """
    import torch

    twin = copy_for_training(module)
    example = _find_running_example(twin, example)
    reasons = []
    for name, follow in (("torch.export", _export_graph), ("torch.fx", _record_graph)):
        try:
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.simplefilter("ignore")
                graph, names = follow(copy_module(twin), example)
            first = _first_names(twin)
            return TracedModule(twin, example, graph, {node: first.get(n, n) for node, n in names.items()}, name)
        except Exception as exc:
            reasons.append((name, exc))
    where, op = _locate_failure(copy_module(twin), example)
    said = "; ".join(f"{name}: {one_line(exc)}" for name, exc in reasons)
    raise ModelError(
        f"could not be traced: module {where}, operator {op} ({said}); "
        "lint the part of it that can be, as a module of its own"
    ) from reasons[0][1]


def _first_names(module: Any) -> dict[str, str]:
    """The name by which `named_parameters` knows a parameter that several modules share, by each of its names."""
    first = {id(p): name for name, p in module.named_parameters()}
    return {name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False)}


def _export_graph(module: Any, example: Example) -> tuple[Any, dict[Any, str]]:
    import torch

    with _quiet_torch():
        program = torch.export.export(module, example.args, example.kwargs, strict=False)
    signature = program.graph_signature
    known = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = set(signature.inputs_to_lifted_tensor_constants) | set(signature.inputs_to_lifted_custom_objs)
    names = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and (node.name in known or node.name in constants):
            names[node] = known.get(node.name, "")
    return program.graph, names


def _record_graph(module: Any, example: Example) -> tuple[Any, dict[Any, str]]:
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    flat, tree = torch.utils._pytree.tree_flatten((example.args, example.kwargs))
    tensors = [leaf for leaf in flat if isinstance(leaf, torch.Tensor)]

    def run(values: dict[str, Any], inputs: list[Any]) -> Any:
        fresh = iter(inputs)
        leaves = [next(fresh) if isinstance(leaf, torch.Tensor) else leaf for leaf in flat]
        args, kwargs = torch.utils._pytree.tree_unflatten(leaves, tree)
        return torch.func.functional_call(module, values, args, kwargs)

    with _values_readable():
        graph = make_fx(run, tracing_mode="real", pre_dispatch=True)(state, tensors).graph
    places = [node for node in graph.nodes if node.op == "placeholder"]
    names = dict(zip(places, state, strict=False))  # the state comes first, in its order
    names |= {node: "" for node in graph.nodes if node.op == "get_attr"}
    return graph, names


@contextmanager
def _values_readable() -> Iterator[None]:
    """Let code look at a tensor's value while it is recorded: what is followed is then what this example does."""
    import torch
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
    from torch.overrides import TorchFunctionMode

    looks = {getattr(torch.Tensor, n) for n in "item tolist __bool__ __int__ __float__ __index__".split()}

    class Looks(TorchFunctionMode):  # type: ignore[misc,no-untyped-call,unused-ignore]
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func not in looks:
                return func(*args, **(kwargs or {}))
            with disable_proxy_modes_tracing():  # type: ignore[no-untyped-call,unused-ignore]
                return func(*args, **(kwargs or {}))

    with Looks():  # type: ignore[no-untyped-call,unused-ignore]
        yield


@contextmanager
def _quiet_torch() -> Iterator[None]:
    """torch.export prints the graph that it could not finish, though it says in its error what was wrong."""
    import logging

    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)


def _find_running_example(module: Any, example: Example) -> Example:
    """The example, twice as many where there was one, if the module runs on it."""
    tries = [example.double_batch(), example]
    errors = []
    for tried in tries:
        try:
            run_seeded(copy_module(module), tried)
        except Exception as exc:
            errors.append(exc)
        else:
            return tried
    where = getattr(errors[-1], "_biasopt_module", "")
    raise DataError(
        f"{type(module).__name__} does not run in training mode on this example{where and f' (in {where})'}: "
        f"{one_line(errors[-1])}; give an example that it takes with --shape, or with --example"
    ) from errors[-1]


def _locate_failure(module: Any, example: Example) -> tuple[str, str]:
    """The module and the operator at which a plain recording of operators stops, as far as that can be known."""
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils._python_dispatch import TorchDispatchMode

    last = ["none"]

    class Last(TorchDispatchMode):  # type: ignore[misc,no-untyped-call,unused-ignore]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            last[0] = str(func)
            return func(*args, **(kwargs or {}))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")

            def call(*flat: Any) -> Any:
                with Last():  # type: ignore[no-untyped-call,unused-ignore]
                    return run_seeded(module, example)

            make_fx(call, tracing_mode="real")()
    except Exception as exc:
        return getattr(exc, "_biasopt_module", "") or "the model", last[0]
    return "the model", last[0]
