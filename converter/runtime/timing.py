"""Models loaded as they would be deployed, and run with nothing in the timed part but the run.

Inputs lie where the model runs, outputs too, in memory that is allocated beforehand where their shape is fixed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import numpy as np

from converter.dataclass import dataclass
from converter.errors import DataError, ModelError, RuntimeUnavailable
from converter.runtime.gpu import find_l2_bytes
from converter.runtime.providers import SILENT, check_provider, format_error, import_onnxruntime, list_providers

# Package-private: how a session is made, strictly, is decided in one place.
from converter.runtime.session import (
    _FOREIGN,
    _LEVELS,
    RECORD_ASSIGNMENT,
    Port,
    _create,
    _register,
    count_cores,
    list_assigned,
    refuse_failure,
)

Array = np.ndarray[Any, Any]

# onnxruntime's names of element types, and ONNX's numbers for them (onnx.proto, TensorProto.DataType).
_ELEMENTS = {
    "tensor(float)": 1,
    "tensor(uint8)": 2,
    "tensor(int8)": 3,
    "tensor(uint16)": 4,
    "tensor(int16)": 5,
    "tensor(int32)": 6,
    "tensor(int64)": 7,
    "tensor(bool)": 9,
    "tensor(float16)": 10,
    "tensor(double)": 11,
    "tensor(uint32)": 12,
    "tensor(uint64)": 13,
}
NO_GRAPH = "export it with fixed sizes, or leave out --cuda-graph"
_GRAPH = {"cuda": "enable_cuda_graph", "tensorrt": "trt_cuda_graph_enable"}
_CPU_CACHE, _GPU_CACHE = 64 << 20, 128 << 20  # bytes; more than the last-level caches of today's CPUs and GPUs
# y = Identity(x) of bytes: with both in memory of their own, a copy within the device.
_COPY = bytes.fromhex(
    "08083a390a100a017812017922084964656e746974791201675a100a0178120b0a09080212050a0312016e62100a0179120b0a0908021205"
    "0a0312016e42040a00100d"
)


@dataclass(frozen=True, slots=True)
class Deployment:
    """How models are run: the same for both of a pair."""

    provider: str = "cpu"
    options: Mapping[str, str] = field(default_factory=dict)  # the provider's own, as deployed
    level: str = "all"  # of onnxruntime's graph optimisations: all | basic | off
    threads: int | None = None  # all the cores that this process may use
    custom_ops: Path | None = None
    cuda_graph: bool = False  # record the kernels once, then launch them as one
    include_h2d: bool = False  # time the copy of the inputs to where the model runs, too

    def __post_init__(self) -> None:
        if self.cuda_graph and self.provider not in _GRAPH:
            raise RuntimeUnavailable("CUDA graphs need a GPU; ask for --provider cuda beside --cuda-graph")

    @property
    def device(self) -> tuple[str, int]:
        """Where inputs and outputs lie."""
        chosen = str(self.options.get("device_id", 0))
        return ("cpu", 0) if self.provider == "cpu" else ("cuda", int(chosen) if chosen.isdigit() else 0)

    def provider_options(self, *, captures: bool = True) -> dict[str, str]:
        """The provider's options as the session gets them; without those of a graph for a run before it is captured."""
        graph = {_GRAPH[self.provider]: "1"} if self.cuda_graph and captures else {}
        return {str(k): str(v) for k, v in self.options.items()} | graph


class TimedSession:
    """One model, loaded and ready to be timed.

    Parameters
    ----------
    model : bytes or Path
        A serialized ModelProto, or a file.
    how : Deployment
        How to run it.
    external_dir : Path, optional
        Where the external data of a model given as bytes lies.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    RuntimeUnavailable
        What was asked for to run it is not there.
    """

    def __init__(self, model: bytes | Path, how: Deployment, external_dir: Path | None = None) -> None:
        self._label = str(model) if isinstance(model, Path) else "model"
        self.how = how
        self._device = how.device
        self._source = model, external_dir  # a CUDA graph loads it again
        self._shapes: dict[str, tuple[int, ...]] = {}  # of outputs, where a run had to tell
        self._load(captures=False)
        self.providers = tuple(self._session.get_providers())
        self.inputs = tuple(Port(p.name, p.type, tuple(p.shape)) for p in self._session.get_inputs())
        self.outputs = tuple(Port(p.name, p.type, tuple(p.shape)) for p in self._session.get_outputs())
        self._values: dict[str, Any] = {}  # referenced for as long as the binding points at them
        self._arrays: dict[str, Array] = {}
        self._binding: Any = None
        self.first_run_ms = float("nan")
        self.run: Callable[[], None] = self._refuse_unbound

    def _load(self, *, captures: bool, sizes: Mapping[str, int] | None = None) -> None:
        how, (model, external) = self.how, self._source
        options = how.provider_options(captures=captures)
        wanted, ort = check_provider(how.provider, options), import_onnxruntime()
        settings = _make_options(ort, how)
        if external is not None and isinstance(model, bytes):
            settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(external))
        if how.cuda_graph and not captures:
            settings.add_session_config_entry(*RECORD_ASSIGNMENT)
        for name, size in (sizes or {}).items():
            settings.add_free_dimension_override_by_name(name, size)
        lists = [list_providers(how.provider, options, strict=False, alone=alone) for alone in (True, False)]
        begun = time.perf_counter_ns()
        self._session, self.alone = _create(ort, model, wanted, lists, settings, self._label)
        self.load_ms = (time.perf_counter_ns() - begun) / 1e6

    def _prepare_capture(self) -> None:
        """Load the model again to be captured: a graph holds addresses, so that every size has to be known before.

        Open sizes become those of the inputs, which also lets onnxruntime compute at load what it else computes on the
        CPU from shapes; outputs that are open all the same get the shapes that a run without capture gives them.
        """
        sizes = {
            name: int(size)
            for port in self.inputs
            for name, size in zip(port.shape, self._arrays[port.name].shape, strict=False)
            if isinstance(name, str) and name
        }
        if not all(map(_is_fixed, self.outputs)):
            try:
                self._run_first(fixed=False)
            except Exception as exc:
                refuse_failure(import_onnxruntime(), exc, self.providers[0], self.how.options)
                raise DataError(f"{self._label}: onnxruntime could not run it: {format_error(exc)}") from exc
            found = zip(self.outputs, self._binding.get_outputs(), strict=True)
            self._shapes = {port.name: tuple(value.shape()) for port, value in found}
        assigned = list_assigned(self._session)
        self._binding = self._session = None
        try:
            self._load(captures=True, sizes=sizes)
        except ModelError as exc:
            said = str(exc).removeprefix(f"{self._label}: ")
            raise DataError(
                f"{self._label}: cannot be run as a CUDA graph: {said}{_name_nodes(assigned, self.providers[0])}; "
                f"{NO_GRAPH}"
            ) from exc

    def _refuse_unbound(self) -> None:
        raise DataError(f"{self._label}: bind inputs before a run")

    def bind(self, feeds: Mapping[str, Any]) -> None:
        """Place the inputs, make room for the outputs, and run once, timed as the first run.

        Raises
        ------
        DataError
            The feeds do not fit the model, or a kernel failed on them.
        """
        self._place(feeds)
        if self.how.cuda_graph:
            self._prepare_capture()
        try:
            self.first_run_ms = self._run_first(fixed=True)
        except Exception as exc:  # onnxruntime's errors have no common base of their own
            if self.how.cuda_graph:
                raise DataError(f"{self._label}: cannot be run as a CUDA graph: {format_error(exc)}") from exc
            self._first_unfixed()

    def _first_unfixed(self) -> None:
        """Let onnxruntime make room for the outputs: a declared shape may be wrong."""
        try:
            self.first_run_ms = self._run_first(fixed=False)
            self.run = self._run_rebound
        except Exception as exc:
            refuse_failure(import_onnxruntime(), exc, self.providers[0], self.how.options)
            raise DataError(f"{self._label}: onnxruntime could not run it: {format_error(exc)}") from exc

    def bind_values(self, x: Any, y: Any) -> Callable[[], None]:
        """Bind values that are in place already to the only input and output, and give what runs the model on them."""
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(self.inputs[0].name, x)
        self._binding.bind_ortvalue_output(self.outputs[0].name, y)
        self._values = {"x": x, "y": y}
        return self._run_plain

    def _place(self, feeds: Mapping[str, Any]) -> None:
        missing = [p.name for p in self.inputs if p.name not in feeds]
        if missing:
            raise DataError(f"{self._label}: input {missing[0]!r} has no value")
        self._arrays = {p.name: np.ascontiguousarray(feeds[p.name]) for p in self.inputs}
        try:
            self._values = {p.name: self._place_value(self._arrays[p.name], p.type) for p in self.inputs}
        except Exception as exc:
            raise DataError(f"{self._label}: its inputs cannot be placed: {format_error(exc)}") from exc

    def _place_value(self, value: Array, kind: str) -> Any:
        ort = import_onnxruntime()
        if kind in _FOREIGN:  # made on the CPU only; onnxruntime copies it to where it is read
            code, dtype, raw = _FOREIGN[kind]
            return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(value.astype(dtype, copy=False).view(raw), code)
        return ort.OrtValue.ortvalue_from_numpy(value, *self._device)

    def _run_first(self, *, fixed: bool) -> float:
        self._bind(fixed=fixed)
        begun = time.perf_counter_ns()
        self._session.run_with_iobinding(self._binding)
        taken = (time.perf_counter_ns() - begun) / 1e6
        self.run = self._run_with_copy if self.how.include_h2d else self._run_plain
        return taken

    def _bind(self, *, fixed: bool) -> None:
        self._binding = self._session.io_binding()
        for port in self.inputs:
            self._binding.bind_ortvalue_input(port.name, self._values[port.name])
        for port in self.outputs:
            shape = self._shapes.get(port.name, port.shape)
            if fixed and _is_fixed(Port(port.name, port.type, shape)):
                value = import_onnxruntime().OrtValue.ortvalue_from_shape_and_type(
                    list(shape), _ELEMENTS[port.type], *self._device
                )
                self._values[f"output {port.name}"] = value
                self._binding.bind_ortvalue_output(port.name, value)
            elif fixed and self.how.cuda_graph:
                raise DataError(f"output {port.name!r} is of type {port.type}, for which no place can be made before")
            else:
                self._binding.bind_output(port.name, *self._device)

    def _run_plain(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def _run_rebound(self) -> None:
        # After a run the binding holds the output, which onnxruntime would check against the declared shape.
        for port in self.outputs:
            self._binding.bind_output(port.name, *self._device)
        (self._run_with_copy if self.how.include_h2d else self._run_plain)()

    def _run_with_copy(self) -> None:
        for name, array in self._arrays.items():
            if array.dtype.kind != "V":
                self._values[name].update_inplace(array)
        self._session.run_with_iobinding(self._binding)

    def submit_ms(self) -> tuple[float, float]:
        """Time of one run until its kernels are queued, and until they are done, in ms; the same on the CPU."""
        options = import_onnxruntime().RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        begun = time.perf_counter_ns()
        self._session.run_with_iobinding(self._binding, options)
        queued = time.perf_counter_ns()
        self._binding.synchronize_outputs()
        return (queued - begun) / 1e6, (time.perf_counter_ns() - begun) / 1e6

    def close(self) -> None:
        """Let go of the model and its memory."""
        self.run = self._refuse_unbound
        self._binding = self._session = None
        self._values.clear()


def make_flusher(how: Deployment) -> Callable[[], None]:
    """Give a function that drives the model out of the caches, by writing a buffer larger than they are."""
    if how.provider == "cpu":
        buffer = np.zeros(_CPU_CACHE, np.uint8)

        def flush() -> None:
            np.add(buffer, 1, out=buffer)

        return flush
    return make_copier(how, 2 * (find_l2_bytes(how.device[1]) or _GPU_CACHE // 2))


def make_copier(how: Deployment, n_bytes: int) -> Callable[[], None]:
    """Give a function that copies so many bytes within the device: what is read and what is written pass its L2."""
    session = TimedSession(_COPY, replace(how, cuda_graph=False, include_h2d=False, level="off", custom_ops=None))
    ort = import_onnxruntime()
    x = ort.OrtValue.ortvalue_from_numpy(np.zeros(n_bytes, np.uint8), *how.device)
    y = ort.OrtValue.ortvalue_from_shape_and_type([n_bytes], _ELEMENTS["tensor(uint8)"], *how.device)
    return session.bind_values(x, y)


def _name_nodes(assigned: Mapping[str, Sequence[tuple[str, str]]], provider: str) -> str:
    """The nodes that are in the way of a graph: those that another provider took."""
    found = [f"{op} {name!r}" for where, nodes in assigned.items() if where != provider for op, name in nodes]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"; not on {provider}: {', '.join(found[:3])}{more}" if found else ""


def _is_fixed(port: Port) -> bool:
    return port.type in _ELEMENTS and all(isinstance(dim, int) for dim in port.shape)


def _make_options(ort: Any, how: Deployment) -> Any:
    """Settings of a session as deployed: onnxruntime's own, but for what a duet needs."""
    settings = ort.SessionOptions()
    settings.log_severity_level = SILENT
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[how.level])
    settings.intra_op_num_threads = how.threads or count_cores()
    # Threads that spin after a run would take the cores from the other model's: measured on 2 cores, that alone
    # doubles MobileNetV2's time.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    if how.custom_ops is not None:
        _register(settings, how.custom_ops)
    return settings
