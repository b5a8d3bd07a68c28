"""Models loaded as they would be deployed, and run with nothing in the timed part but the run.

Inputs lie where the model runs, outputs too, in memory that is allocated beforehand where their shape is fixed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np

from converter.dataclass import dataclass
from converter.errors import DataError, RuntimeUnavailable
from converter.runtime.providers import SILENT, check_provider, format_error, import_onnxruntime, list_providers

# Package-private: how a session is made, strictly, is decided in one place.
from converter.runtime.session import _FOREIGN, _LEVELS, Port, _create, _register, count_cores, refuse_failure

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
_GRAPH = {"cuda": "enable_cuda_graph", "tensorrt": "trt_cuda_graph_enable"}
_CPU_CACHE, _GPU_CACHE = 64 << 20, 128 << 20  # bytes; more than the last-level caches of today's CPUs and GPUs


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
        return ("cpu", 0) if self.provider == "cpu" else ("cuda", int(self.options.get("device_id", 0)))

    def provider_options(self) -> dict[str, str]:
        """The provider's options as the session gets them."""
        graph = {_GRAPH[self.provider]: "1"} if self.cuda_graph else {}
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
        options = how.provider_options()
        wanted, ort = check_provider(how.provider, options), import_onnxruntime()
        settings = _make_options(ort, how)
        if external_dir is not None and isinstance(model, bytes):
            settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(external_dir))
        lists = [list_providers(how.provider, options, strict=False, alone=alone) for alone in (True, False)]
        begun = time.perf_counter_ns()
        self._session, self.alone = _create(ort, model, wanted, lists, settings, self._label)
        self.load_ms = (time.perf_counter_ns() - begun) / 1e6
        self.providers = tuple(self._session.get_providers())
        self.inputs = tuple(Port(p.name, p.type, tuple(p.shape)) for p in self._session.get_inputs())
        self.outputs = tuple(Port(p.name, p.type, tuple(p.shape)) for p in self._session.get_outputs())
        self._device = how.device
        self._values: dict[str, Any] = {}  # referenced for as long as the binding points at them
        self._arrays: dict[str, Array] = {}
        self._binding: Any = None
        self.first_run_ms = float("nan")
        self.run: Callable[[], None] = self._refuse_unbound

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
            if fixed and _is_fixed(port):
                value = import_onnxruntime().OrtValue.ortvalue_from_shape_and_type(
                    list(port.shape), _ELEMENTS[port.type], *self._device
                )
                self._values[f"output {port.name}"] = value
                self._binding.bind_ortvalue_output(port.name, value)
            elif self.how.cuda_graph:
                raise DataError(f"the shape of output {port.name!r} is open; export it with fixed shapes")
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
    content = np.zeros(_GPU_CACHE, np.uint8)
    value = import_onnxruntime().OrtValue.ortvalue_from_numpy(content, *how.device)
    return lambda: value.update_inplace(content)


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
