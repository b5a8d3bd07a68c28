"""Sessions: a model loaded where it was asked to run; and which provider ran which node, by a profile of one run.

A session runs where it was asked to run or not at all: onnxruntime itself only logs that CUDA could not be
loaded and then runs on the CPU. Its own warnings never reach the terminal; every error of it becomes one line.

The list of a session's providers says what it might use. Only the profile says where a node ran.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from converter.dataclass import dataclass
from converter.errors import DataError, ModelError, RuntimeUnavailable
from converter.isolation import resident
from converter.runtime.failures import explain_absence, explain_failure, find_failure
from converter.runtime.providers import (
    PROVIDERS,
    SILENT,
    check_provider,
    format_error,
    import_onnxruntime,
    list_providers,
    silence,
)

_TICK = 0.05  # seconds between two looks at the memory of a run that has a limit

# ONNX element types that numpy lacks, and how their bytes are seen.
_FOREIGN: dict[str, tuple[int, Any, Any]] = {
    "tensor(bfloat16)": (16, ml_dtypes.bfloat16, np.uint16),
    "tensor(float8e4m3fn)": (17, ml_dtypes.float8_e4m3fn, np.uint8),
    "tensor(float8e4m3fnuz)": (18, ml_dtypes.float8_e4m3fnuz, np.uint8),
    "tensor(float8e5m2)": (19, ml_dtypes.float8_e5m2, np.uint8),
    "tensor(float8e5m2fnuz)": (20, ml_dtypes.float8_e5m2fnuz, np.uint8),
}


@dataclass(frozen=True, slots=True)
class Port:
    """A model input or output as onnxruntime sees it: ``type`` is ``tensor(float)`` and the like."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


class Session:
    """A model loaded into onnxruntime.

    Parameters
    ----------
    model : bytes or Path
        A serialized ModelProto, or a file (needed above 2 GB).
    provider : {"cpu", "cuda", "tensorrt"}
        Where to run. Nothing else is accepted in its place.
    optimize : bool or {"all", "basic", "off"}
        All of onnxruntime's graph optimisations, the basic ones, or none.
    custom_ops : Path, optional
        A shared library with custom operators.
    external_dir : Path, optional
        Where the external data of a model given as bytes lies.
    threads : int, optional
        All the cores that this process may use otherwise.
    options : mapping, optional
        The provider's own options.
    strict : bool
        With the options under which errors are seen (no TF32, cuDNN's algorithms by its heuristic), else as deployed.
    narrow : bool
        The model's arithmetic is in half precision, for which strict leaves tensor cores on.
    profile : Path, optional
        How the file begins that a profile is written to; see `end_profile`.
    packed : bool
        Kernels may lay out weights anew, which takes their size in memory again and loads no quicker; else those in
        data files stay mapped.

    Raises
    ------
    ModelError
        The model cannot be loaded: malformed, an operator without kernel, a missing data file.
    RuntimeUnavailable
        onnxruntime, the provider or the library of custom operators cannot be loaded.
    """

    def __init__(
        self,
        model: bytes | Path,
        provider: str = "cpu",
        *,
        optimize: bool | str = False,
        custom_ops: Path | None = None,
        external_dir: Path | None = None,
        threads: int | None = None,
        options: Mapping[str, str] | None = None,
        strict: bool = True,
        narrow: bool = False,
        profile: Path | None = None,
        packed: bool = True,
    ) -> None:
        self._label = str(model) if isinstance(model, Path) else "model"
        wanted = check_provider(provider, options)
        ort = import_onnxruntime()
        settings = _make_options(ort, optimize, threads)
        if custom_ops is not None:
            _register(settings, custom_ops)
        if external_dir is not None and isinstance(model, bytes):
            settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(external_dir))
        if not packed:
            settings.add_session_config_entry("session.disable_prepacking", "1")
        if profile is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(profile)
            settings.add_session_config_entry(*RECORD_ASSIGNMENT)
        asked = [
            list_providers(provider, options, strict=strict, narrow=narrow, alone=alone) for alone in (True, False)
        ]
        with _beside_its_data(ort, model, external_dir) as source:
            self._session, self.alone = _create(ort, source, wanted, asked, settings, self._label)
        self.providers = tuple(self._session.get_providers())
        self.inputs = tuple(Port(p.name, p.type, tuple(p.shape)) for p in self._session.get_inputs())
        self.outputs = tuple(Port(p.name, p.type, tuple(p.shape)) for p in self._session.get_outputs())

    def list_assigned(self) -> dict[str, list[tuple[str, str]]]:
        """Which nodes each provider took at loading; told of sessions with a profile: see the function of that name."""
        return list_assigned(self._session)

    def end_profile(self) -> Path:
        """Write the profile, and say where it is."""
        return Path(self._session.end_profiling())

    def run(self, feeds: Mapping[str, Any], n_bytes: int | None = None) -> dict[str, Any]:
        """All outputs by name.

        Parameters
        ----------
        n_bytes : int, optional
            Memory that it may take beside what the process has; between two nodes it is ended where it took more.

        Raises
        ------
        DataError
            The feeds do not fit the model, a kernel failed on them, or it took more memory than it may.
        """
        try:
            with _limited(n_bytes) as how:
                if any(p.type in _FOREIGN for p in (*self.inputs, *self.outputs)):
                    return self._run_values(feeds, how)
                results = self._session.run(None, dict(feeds), how)
        except Exception as exc:  # onnxruntime's errors have no common base of their own
            refuse_failure(import_onnxruntime(), exc, self.providers[0], {})
            raise DataError(f"{self._label}: onnxruntime could not run it: {format_error(exc)}") from exc
        return dict(zip((p.name for p in self.outputs), results, strict=True))

    def _run_values(self, feeds: Mapping[str, Any], how: Any) -> dict[str, Any]:
        types = {p.name: p.type for p in self.inputs}
        values = {name: _to_value(value, types.get(name, "")) for name, value in feeds.items()}
        results = self._session.run_with_ort_values([p.name for p in self.outputs], values, how)
        return {p.name: _from_value(v, p.type) for p, v in zip(self.outputs, results, strict=True)}


def count_cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


_LEVELS = {"all": "ORT_ENABLE_ALL", "basic": "ORT_ENABLE_BASIC", "off": "ORT_DISABLE_ALL"}


def _make_options(ort: ModuleType, optimize: bool | str, threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    level = optimize if isinstance(optimize, str) else "all" if optimize else "off"
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[level])
    options.intra_op_num_threads = threads or count_cores()
    options.inter_op_num_threads = 1
    # Memory goes back as soon as a tensor dies; an arena would keep the largest sum ever reached.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


RECORD_ASSIGNMENT = ("session.record_ep_graph_assignment_info", "1")


def list_assigned(session: Any) -> dict[str, list[tuple[str, str]]]:
    """Provider -> the nodes that it took when the model was loaded, as (operator, name); empty where that is not told.

    Told since onnxruntime 1.24, of sessions with `RECORD_ASSIGNMENT`. What a provider fuses into an engine is one node
    of a profile, but all of its nodes here.
    """
    with suppress(Exception):  # an older onnxruntime, or a provider that does not tell
        found: dict[str, list[tuple[str, str]]] = {}
        for part in session.get_provider_graph_assignment_info():
            found.setdefault(part.ep_name, []).extend((node.op_type, node.name) for node in part.get_nodes())
        return found
    return {}


def _register(options: Any, library: Path) -> None:
    if not library.is_file():  # a pipe would wait for a writer
        raise RuntimeUnavailable(f"{library}: not a custom operator library: it is not a regular file")
    try:
        options.register_custom_ops_library(str(library))
    except Exception as exc:
        raise RuntimeUnavailable(f"{library}: not a custom operator library: {format_error(exc)}") from exc


@contextmanager
def _beside_its_data(ort: ModuleType, model: bytes | Path, folder: Path | None) -> Iterator[bytes | Path]:
    """The model as it can be loaded: one in memory finds its data files since onnxruntime 1.21.

    For an older one it is a file for a moment, in a folder with links to what lies in ``folder``.
    """
    if isinstance(model, Path) or folder is None or _version(ort) >= (1, 21) or not folder.is_dir():
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="biasopt-") as name:
        for entry in folder.resolve().iterdir():
            Path(name, entry.name).symlink_to(entry)
        source = Path(tempfile.mkdtemp(dir=name, prefix="model-")).with_suffix(".onnx")
        source.write_bytes(model)
        yield source


@contextmanager
def _limited(n_bytes: int | None) -> Iterator[Any]:
    """Options of a run that ends where this process takes so many bytes more than it has now."""
    if n_bytes is None:
        yield None
        return
    options = import_onnxruntime().RunOptions()
    most, ended = resident(os.getpid()) + n_bytes, threading.Event()

    def watch() -> None:
        while not ended.wait(_TICK):
            if resident(os.getpid()) > most:
                options.terminate = True  # onnxruntime looks at it before each node, those of bodies included
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield options
    except Exception as exc:
        if options.terminate:
            raise MemoryError(f"ended where it had taken {n_bytes / 1e9:.3g} GB") from exc
        raise
    finally:
        ended.set()
        watcher.join()


def _version(ort: ModuleType) -> tuple[int, ...]:
    return tuple(int(part) for part in ort.__version__.split(".")[:2])


def _create(
    ort: ModuleType, model: bytes | Path, wanted: str, lists: Sequence[list[Any]], options: Any, label: str
) -> tuple[Any, bool]:
    """The session, and whether the provider runs all of it; ``lists`` are without and with providers behind it."""
    if len(lists[1]) == 1:
        return _make_session(ort, model, lists[0], options, label), True
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    alone = True
    try:
        session = _make_session(ort, model, lists[0], options, label)
    except ModelError:
        # Shape arithmetic belongs on the CPU: allow that, but only behind a provider that did load.
        alone = False
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")
        session = _make_session(ort, model, lists[1], options, label)
    if session.get_providers()[:1] != [wanted]:
        there = ", ".join(session.get_providers())
        raise RuntimeUnavailable(explain_absence(ort, wanted, there))
    return session, alone


def _make_session(ort: ModuleType, model: bytes | Path, providers: Sequence[Any], options: Any, label: str) -> Any:
    source = str(model) if isinstance(model, Path) else model
    try:
        # Its own fallback would swallow the provider's error and run on the CPU.
        with warnings.catch_warnings(), silence():
            warnings.simplefilter("ignore")
            session = ort.InferenceSession(source, options, providers=list(providers), enable_fallback=0)
    except Exception as exc:
        name, given = (providers[0], {}) if isinstance(providers[0], str) else providers[0]
        refuse_failure(ort, exc, name, given)
        raise ModelError(f"{label}: onnxruntime cannot load it: {format_error(exc)}") from exc
    session.disable_fallback()
    if getattr(session, "_model_bytes", None):
        session._model_bytes = b""  # held for the fallback alone, and as large as the model
    return session


def refuse_failure(ort: ModuleType, exc: Exception, provider: str, options: Mapping[str, str]) -> None:
    """Refuse what is the provider's fault and not the model's: an option, a driver, a device, memory, a library.

    Raises
    ------
    RuntimeUnavailable
        It is the provider's.
    """
    if provider != PROVIDERS["cpu"] and (failure := find_failure(str(exc))):
        raise RuntimeUnavailable(explain_failure(ort, failure, provider, format_error(exc), options)) from exc


def _to_value(value: Any, kind: str) -> Any:
    ort = import_onnxruntime()
    if kind not in _FOREIGN:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
    code, dtype, raw = _FOREIGN[kind]
    bits = np.ascontiguousarray(value).astype(dtype, copy=False).view(raw)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, code)


def _from_value(value: Any, kind: str) -> Any:
    if kind not in _FOREIGN:
        return value.numpy()
    _, dtype, raw = _FOREIGN[kind]
    shape = tuple(value.shape())
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(raw).itemsize
    # numpy has no such type, so onnxruntime hands out no array: copy the bytes from where they lie.
    return np.frombuffer(ctypes.string_at(value.data_ptr(), size) if size else b"", dtype=dtype).reshape(shape)


# Where these run is what was asked for; shape arithmetic belongs on the CPU whatever was asked.
_HEAVY = re.compile(r"Conv|MatMul|Gemm|Normalization|LayerNorm|GroupNorm|Attention|LSTM|GRU|^RNN$")

# y = Relu(x) of one float: a model that every provider runs.
_PROBE = bytes.fromhex(
    "08073a330a0c0a0178120179220452656c751201705a0f0a0178120a0a08"
    "080112040a020801620f0a0179120a0a08080112040a02080142040a00100d"
)


def probe_provider(provider: str, options: Mapping[str, str] | None = None) -> None:
    """Have a session on the provider, of the smallest model.

    Raises
    ------
    RuntimeUnavailable
        The provider is listed, but its libraries do not load, or it does not take these options.
    """
    try:
        Session(_PROBE, provider, options=options, strict=False)  # strict would hide what was misspelt
    except ModelError as exc:
        raise RuntimeUnavailable(f"{PROVIDERS[provider]} cannot be used: {exc}") from exc


@dataclass(frozen=True, slots=True)
class Placement:
    """Nodes per provider, and those that do a model's arithmetic as (provider, operator, node)."""

    nodes: dict[str, int]
    heavy: tuple[tuple[str, str, str], ...]
    taken: dict[str, int] = field(default_factory=dict)  # provider -> nodes of the arithmetic that it took at loading

    def elsewhere(self, provider: str, *, partial: bool = False) -> list[str]:
        """Nodes of the arithmetic that did not run on ``provider`` (cpu, cuda, tensorrt).

        ``partial``: those that TensorRT left to CUDA are where they may be.
        """
        allowed = {PROVIDERS[provider], *((PROVIDERS["cuda"],) if partial and provider == "tensorrt" else ())}
        return [f"{node} ({op}) on {where}" for where, op, node in self.heavy if where not in allowed]

    @property
    def arithmetic(self) -> dict[str, int]:
        """Provider -> nodes of the arithmetic; what is fused into an engine counts by its nodes where that is told."""
        return self.taken or dict(Counter(where for where, _, _ in self.heavy).most_common())


def find_placement(model: bytes | Path, provider: str, feeds: Mapping[str, Any], **session: Any) -> Placement:
    """Run ``model`` once in a session of its own, profiled into a folder that is gone afterwards."""
    return run_with_placement(model, provider, feeds, **session)[0]


def run_with_placement(
    model: bytes | Path, provider: str, feeds: Mapping[str, Any], **session: Any
) -> tuple[Placement, dict[str, Any]]:
    """The same, with the outputs of that run."""
    with tempfile.TemporaryDirectory(prefix="biasopt-profile-") as folder:
        made = Session(model, provider, profile=Path(folder) / "profile", **session)
        values = made.run(feeds)
        placed = read_profile(made.end_profile())
        counts = {where: sum(map(_is_heavy, nodes)) for where, nodes in made.list_assigned().items()}
        return replace(placed, taken={where: count for where, count in counts.items() if count}), values


def _is_heavy(node: tuple[str, str]) -> bool:
    return _HEAVY.search(node[0]) is not None


def read_profile(path: Path) -> Placement:
    """Read onnxruntime's profile.

    Raises
    ------
    ModelError
        The file is no profile.
    """
    try:
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        ran = [e for e in events if e.get("cat") == "Node" and e.get("args", {}).get("provider")]
    except (OSError, ValueError, AttributeError, TypeError) as exc:
        raise ModelError(f"{path}: no profile of onnxruntime ({exc})") from exc
    # A node in a loop runs often and counts once.
    nodes = {
        (
            e["name"].removesuffix("_kernel_time"),
            e["args"].get("node_index"),
            e["args"]["provider"],
            e["args"].get("op_name", ""),
        )
        for e in ran
    }
    counts = Counter(where for _, _, where, _ in nodes)
    heavy = sorted((where, op, name) for name, _, where, op in nodes if _HEAVY.search(op))
    return Placement(dict(counts.most_common()), tuple(heavy))


def prove_placement(found: Placement, provider: str, label: str, *, partial: bool = False) -> None:
    """Refuse a run whose arithmetic was done elsewhere; ``partial``: some of TensorRT's may be done by CUDA.

    Raises
    ------
    RuntimeUnavailable
        Some of it was; the message names the nodes.
    """
    wrong = found.elsewhere(provider, partial=partial)
    if not wrong and not found.nodes.get(PROVIDERS[provider]) and found.nodes:
        wrong = ["every node on " + ", ".join(found.nodes)]
    if wrong:
        some = "; ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise RuntimeUnavailable(f"{label}: asked for {PROVIDERS[provider]}, but {some}; {_advise(found, provider)}")


def _advise(found: Placement, provider: str) -> str:
    if provider == "tensorrt" and not found.elsewhere(provider, partial=True) and found.nodes.get(PROVIDERS[provider]):
        return "--partial lets CUDA do what TensorRT leaves"
    return "ask for a provider that has these"
