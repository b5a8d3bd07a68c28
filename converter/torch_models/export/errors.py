"""Which module, and which operator, an exporter's exception is about; in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from converter.torch_models.spec import Kind, Loaded
from converter.torch_models.spec.libraries import need

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
