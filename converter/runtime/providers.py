"""Execution providers: their names, their options (TF32 off where errors are to be seen), and whether they are there.

A provider that was asked for is honoured or refused. onnxruntime itself only logs that CUDA could not be loaded
and then runs on the CPU.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from converter.errors import RuntimeUnavailable
from converter.runtime.failures import explain_missing, explain_shell, list_distributions, preload_tensorrt

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
# What a provider may hand nodes on to that it cannot run itself.
_BEHIND = {"cpu": (), "cuda": ("cpu",), "tensorrt": ("cuda", "cpu")}
# TF32 hides every small error. On cuDNN 9 nothing is searched by timing any more: HEURISTIC takes its mode A,
# EXHAUSTIVE its mode B, and DEFAULT is its fallback mode, which may be extremely slow. Narrow types keep tensor cores.
STRICT = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
_NARROW_ENGINES = ("trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable", "trt_fp8_enable")
SILENT = 4  # onnxruntime's severity "fatal"


def format_error(exc: BaseException) -> str:
    """The error's text on one line, without onnxruntime's codes, source paths and the host's name."""
    text = " ".join(str(exc).split())
    text = re.sub(r"\S*/onnxruntime_src/\S+ std::conditional_t.*(?=CUDA failure)| ?; GPU=.*", "", text)
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
    text = re.sub(r"Exception during \w+: |\S*/onnxruntime_src/\S+ ", "", text)
    text = re.sub(
        r"Non-zero status code returned while running (\w+) node. Name:'([^']*)' Status Message: ", r"\1 \2: ", text
    )
    # The function that noticed, and the lines that handed it on.
    text = re.sub(r"(?:(?:static )?[\w:*&]+ )?onnxruntime::[\w:]+\([^()]*\) ", "", text)
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |\b\w+\.(?:h|cc):\d+ (?:operator\(\)|\w+) ", "", text)
    return text[:300] or type(exc).__name__


def is_out_of_memory(exc: BaseException) -> bool:
    """Whether onnxruntime gave up for want of memory; it has no code for that, so that its own words must tell."""
    return re.search("out of memory|failed to allocate", str(exc), re.IGNORECASE) is not None


def import_onnxruntime() -> ModuleType:
    """The package, told to be silent, and to tell nobody: where the user has not said otherwise, no telemetry."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read while it is imported; later is too late
    try:
        import onnxruntime as ort
    except ImportError as exc:
        if list_distributions() and (exc.name or "").startswith("onnxruntime"):
            raise RuntimeUnavailable(explain_shell(None)) from exc
        raise RuntimeUnavailable(f"onnxruntime cannot be imported ({format_error(exc)}); install it to verify") from exc
    if not hasattr(ort, "InferenceSession"):
        raise RuntimeUnavailable(explain_shell(ort))
    ort.set_default_logger_severity(SILENT)
    return ort  # type: ignore[no-any-return]


def check_provider(provider: str, options: Mapping[str, str] | None = None) -> str:
    """The provider's own name.

    Raises
    ------
    RuntimeUnavailable
        There is no such provider, this onnxruntime was built without it, or it takes no options.
    """
    if provider not in PROVIDERS:
        raise RuntimeUnavailable(f"provider {provider!r} is unknown; use one of {', '.join(PROVIDERS)}")
    wanted, ort = PROVIDERS[provider], import_onnxruntime()
    if wanted not in ort.get_available_providers():
        there = ", ".join(ort.get_available_providers())
        raise RuntimeUnavailable(explain_missing(wanted, there))
    if provider == "cpu" and options:
        raise RuntimeUnavailable(f"provider 'cpu' takes no options; leave out {min(options)!r}, or name a provider")
    if provider != "cpu":
        preload_cuda(ort)
    if provider == "tensorrt":
        preload_tensorrt()
    return wanted


_preloaded: list[str] = []  # what loading said; filled once per process


def preload_cuda(ort: ModuleType) -> None:
    """Load CUDA and cuDNN from pip's packages, so that ``pip install biasopt[cuda]`` is enough; only once."""
    load = getattr(ort, "preload_dlls", None)
    if _preloaded or load is None:
        return
    with silence() as said:
        try:
            load()
        except Exception as exc:  # a missing library is found out by the session, with the reason
            said.write(str(exc))
    _preloaded.append(" ".join(said.getvalue().split()))


@contextlib.contextmanager
def silence() -> Iterator[io.StringIO]:
    """Keep what a library prints off the user's terminal, where stdout is for data."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        yield said


def select_options(provider: str, options: Mapping[str, str]) -> dict[str, str]:
    """Of options that are meant for two providers, those that this one knows: TensorRT's own begin with ``trt_``."""
    if provider == "cpu":
        return {}
    for_engines = provider == "tensorrt"
    return {k: v for k, v in options.items() if k == "device_id" or k.startswith("trt_") is for_engines}


def list_providers(
    provider: str,
    options: Mapping[str, str] | None = None,
    *,
    strict: bool = True,
    alone: bool = True,
    narrow: bool = False,
) -> list[Any]:
    """What a session is given: the provider with its options, and those behind it unless ``alone``.

    ``strict``: with the options under which errors are seen, whatever the user's say; but a model whose arithmetic is
    ``narrow`` keeps tensor cores, which lose nothing of it.
    """
    exact = {k: v for k, v in STRICT.items() if not (narrow and k == "use_tf32")}
    chosen = {str(k): str(v) for k, v in (options or {}).items()}
    if strict and provider == "cuda":
        chosen |= exact
    if strict and provider == "tensorrt":
        chosen |= {name: "0" for name in _NARROW_ENGINES if name in chosen}
    first = (PROVIDERS[provider], chosen) if chosen else PROVIDERS[provider]
    # CUDA behind TensorRT is to run on the same GPU.
    given = {k: v for k, v in chosen.items() if k == "device_id"} | (exact if strict else {})
    behind = [(PROVIDERS[name], given) if name == "cuda" and given else PROVIDERS[name] for name in _BEHIND[provider]]
    return [first] if alone else [first, *behind]
