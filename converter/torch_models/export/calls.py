"""Running a torch module: on its example, in its precision and in float64; and, in one line, where an export fails."""

from __future__ import annotations

import contextlib
import copy
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from converter.dataclass import dataclass
from converter.errors import DataError, ExportError
from converter.torch_models.spec import Kind, Loaded
from converter.torch_models.spec.libraries import need

Rebuild = Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a module returned: its tensors by name, in order, as the ONNX model will return them."""

    names: tuple[str, ...]
    tensors: tuple[Any, ...]
    plain: bool  # a tensor, or a flat tuple of them: what every exporter can return
    left_out: tuple[str, ...] = ()  # of what it returned: no tensors

    def arrays(self) -> dict[str, Any]:
        """The tensors as numpy arrays, by name."""
        return {name: to_array(tensor) for name, tensor in zip(self.names, self.tensors, strict=True)}


def to_array(tensor: Any) -> Any:
    """A tensor as a numpy array; bfloat16 as ml_dtypes has it."""
    torch = need("torch")
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def split_example(loaded: Loaded) -> tuple[list[Any], Rebuild]:
    """The tensors of the example, in the order of `loaded.input_names`, and how to put others in their place."""
    tensors: list[Any] = []
    shape = _take_tensors((loaded.example_inputs, loaded.example_kwargs), tensors)

    def rebuild(values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = _put_tensors(shape, iter(values))
        return args, kwargs

    return tensors, rebuild


class _Slot:
    """Where a tensor stood."""


def _take_tensors(value: Any, into: list[Any]) -> Any:
    if isinstance(value, need("torch").Tensor):
        into.append(value)
        return _Slot()
    return _map_parts(value, lambda part: _take_tensors(part, into))


def _put_tensors(value: Any, values: Iterator[Any]) -> Any:
    return next(values) if isinstance(value, _Slot) else _map_parts(value, lambda part: _put_tensors(part, values))


def _map_parts(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: change(part) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(change(part) for part in value))
    if isinstance(value, list | tuple):
        return type(value)(change(part) for part in value)
    return value


def run_module(loaded: Loaded, tensors: Sequence[Any], rebuild: Rebuild) -> Answer:
    """Run the module, without gradients, on copies of `tensors`.

    Raises
    ------
    ExportError
        The module itself fails on the example, or returns what no ONNX model can.
    """
    return _name_outputs(_call(loaded.module, loaded, tensors, rebuild), loaded)


def _call(module: Any, loaded: Loaded, tensors: Sequence[Any], rebuild: Rebuild) -> Any:
    torch = need("torch")
    args, kwargs = rebuild([t.detach().clone() for t in tensors])
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return module(*args, **kwargs)
    except Exception as exc:
        where = find_running_module(exc, module)
        shapes = ", ".join(f"{n} {list(t.shape)}" for n, t in zip(loaded.input_names, tensors, strict=True))
        place = f"({shapes}){where and f' in {where}'}"
        raise ExportError(
            f"{loaded.label}: the module itself fails on its example {place}: {describe_error(exc)}"
        ) from exc


def run_in_float64(loaded: Loaded, tensors: Sequence[Any], rebuild: Rebuild) -> Answer | None:
    """The module's answer with every parameter, buffer and input in float64; None where it insists on another type."""
    torch = need("torch")
    wide = [t.double() if t.is_floating_point() else t for t in tensors]
    try:
        with _default_float64(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = copy.deepcopy(loaded.module).double()
            found = _name_outputs(_call(module, loaded, wide, rebuild), loaded)
    except Exception:  # whatever it is: the module cannot be run so
        return None
    floats = [t for t in found.tensors if t.is_floating_point()]
    return found if all(t.dtype is torch.float64 for t in floats) else None


@contextlib.contextmanager
def _default_float64() -> Iterator[None]:
    """What a module makes while it runs (grids, masks) is made in float64 too."""
    torch = need("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _name_outputs(found: Any, loaded: Loaded) -> Answer:
    torch = need("torch")
    leaves = list(_leaves("", found))
    kept = [(name, value) for name, value in leaves if isinstance(value, torch.Tensor)]
    strange = next((v for _, v in leaves if not isinstance(v, torch.Tensor | int | float | bool | str)), None)
    if strange is not None or not kept:
        what = type(found if strange is None else strange).__name__
        raise ExportError(f"{loaded.label}: returns a {what}; return a tensor, or a tuple, list or dict of tensors")
    if any(value.is_complex() for _, value in kept):
        raise ExportError(
            f"{loaded.label}: returns complex numbers, which runtimes lack; return torch.view_as_real of it"
        )
    alone = isinstance(found, torch.Tensor)
    flat = isinstance(found, tuple | list) and all(isinstance(v, torch.Tensor) for v in found)
    names = _distinct_names(["output"] if alone else [_output_name(n) for n, _ in kept], set(loaded.input_names))
    rest = tuple(_output_name(name) for name, value in leaves if not isinstance(value, torch.Tensor))
    return Answer(names, tuple(value for _, value in kept), alone or flat, rest)


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if value is None:
        return
    if isinstance(value, Mapping):
        parts: Any = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        yield path, value
        return
    for key, part in parts:
        yield from _leaves(f"{path}_{key}" if path else str(key), part)


def collect_tensors(found: Any) -> tuple[Any, ...]:
    """The tensors of what a module returned, in the order of `Answer.names`."""
    return tuple(value for _, value in _leaves("", found) if isinstance(value, need("torch").Tensor))


def _output_name(path: str) -> str:
    """A path such as ``logits`` or ``0_1``; numbers alone get a word before them."""
    return path if not path or not path[0].isdigit() else f"output_{path}"


def _distinct_names(names: Sequence[str], taken: set[str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        fresh = f"{name}_out" if name in taken else name
        while fresh in found:
            fresh += "_"
        found.append(fresh)
    return tuple(found)


def check_inputs(loaded: Loaded, tensors: Sequence[Any]) -> None:
    """Raise DataError unless there is one name for each tensor, and one tensor at least."""
    if not tensors:
        raise DataError(f"{loaded.label}: the example holds no tensor; give the tensors that the module takes")
    if len(tensors) != len(loaded.input_names):
        raise DataError(f"{loaded.label}: {len(loaded.input_names)} names for {len(tensors)} inputs")


# How torch's exporters name the operator that they cannot do, most telling first.
_OPERATORS = (
    re.compile(r"No ONNX function found for <?\w*\(?(?:op=)?'?([\w.:]+)"),
    re.compile(r"Exporting the operator '([\w.:]+)'"),
    re.compile(r"target=torch\.ops\.([\w.]+)"),
    re.compile(r"target=<?\w*\(?(?:op=)?'?([\w.]+)'?"),
    re.compile(r"ONNX export failed on an operator[^:]*: '?([\w.:]+)"),
    re.compile(r"\b(aten::\w+|aten\.\w+(?:\.\w+)?)\b"),
)
_OVERLOAD = re.compile(r"<OpOverload\(op='([\w.]+)', overload='\w+'\)>")
_COLOUR = re.compile(r"\x1b?\[\d+m")
_NOISE = (
    "failed to export the model with torch.export",
    "failed to convert the exported program",
    "failed to decompose",
    "translation failed for one or more",
    "this is step",
    "next steps",
    "- modify",
    "- debug",
    "- create",
    "- if there",
    "##",
    "(refer to the full",
    "for more information",
    "while executing",
    "original traceback",
    "error when translating node",
    "graphmodule:",
    "the following call raised this error",
    "see the stack trace",
    'file "',
    "traceback",
    "set torch",
    "use tlparse",
    "from user code",
)


def causes(exc: BaseException) -> list[BaseException]:
    """An exception and those that it was raised from, the first cause last."""
    found = [exc]
    while (cause := found[-1].__cause__ or found[-1].__context__) is not None and cause not in found:
        found.append(cause)
    return found


def describe_error(exc: BaseException) -> str:
    """What an exception says, in one line, without torch's advice and stack dumps."""
    for each in reversed(causes(exc)):
        if line := _telling_line(str(each)):
            kind = type(each).__name__
            return line if kind in line or kind.endswith(("ExportError", "ConversionError")) else f"{kind}: {line}"
    return type(exc).__name__


def _telling_line(text: str) -> str:
    text = _OVERLOAD.sub(r"\1", text)
    lines = [" ".join(_COLOUR.sub("", line).split()) for line in text.splitlines()]
    found = [line for line in lines if len(line) > 2 and not line.lower().startswith(_NOISE)]
    if not found:
        return ""
    # What ends in a colon announces the line that tells.
    line = " ".join(found[:2]) if found[0].endswith(":") else found[0]
    return line if len(line) <= _LONG else line[: _LONG - 2] + " …"


_LONG = 300


def find_operator(exc: BaseException) -> str:
    """The operator that failed, such as ``aten.fft_fft2.default``; empty where nothing says so."""
    texts = [str(each) for each in causes(exc)]
    for pattern in _OPERATORS:
        for text in texts:
            if found := pattern.search(text):
                return found[1].strip(".:")
    return ""


def find_running_module(exc: BaseException, module: Any) -> str:
    """The innermost module whose ``forward`` was running, as ``layer1.0.attn (Attention)``; empty for the outermost."""
    names = {id(m): n for n, m in module.named_modules()}
    found = ""
    for each in reversed(causes(exc)):
        for owner in _frame_locals(each, "self"):
            if names.get(id(owner)):
                found = f"{names[id(owner)]} ({type(owner).__name__})"
        if found:
            return found
    return found


def _frame_locals(exc: BaseException, name: str) -> Iterator[Any]:
    """The variable `name` of every frame of the traceback that has one, outermost first."""
    trace = exc.__traceback__
    while trace is not None:
        value = trace.tb_frame.f_locals.get(name)
        if value is not None:
            yield value
        trace = trace.tb_next


def find_operator_module(exc: BaseException, loaded: Loaded, name: str, args: Any) -> str:
    """The module whose operator could not be translated: by the exporter's own nodes, or by tracing once more."""
    found = [node for each in causes(exc) for node in _frame_locals(each, "node") if hasattr(node, "meta")]
    if found:
        return _describe_scope(list((found[-1].meta.get("nn_module_stack") or {}).values()))
    try:
        return _find_by_tracing(loaded, name, args) if name else ""
    except Exception:  # this only adds a name to an error that is told in any case
        return ""


def _describe_scope(stack: list[tuple[str, Any]]) -> str:
    if not stack or not stack[-1][0]:
        return ""
    path, kind = stack[-1]
    path = path.removeprefix("L['self'].")
    return f"{path} ({str(getattr(kind, '__name__', kind)).rpartition('.')[2]})"


def _find_by_tracing(loaded: Loaded, name: str, args: Any) -> str:
    torch = need("torch")
    module = loaded.module
    traced = module if loaded.kind is Kind.TORCHSCRIPT else torch.jit.trace(module, args, check_trace=False)
    kind = name.replace(".", "::", 1) if "::" not in name else name
    for node in traced.inlined_graph.nodes():
        if node.kind() == kind:
            path = node.scopeName().rpartition("/")[2].removeprefix("__module.")
            inner = dict(module.named_modules()).get(path)
            return f"{path} ({type(inner).__name__})" if path and inner is not None else ""
    return ""
