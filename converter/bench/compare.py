"""One pair from files to verdict."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import numpy as np

from converter.bench.design import Design, Gate
from converter.bench.interleaved import InterleavedBench, LoadedSession, Measurement, Open
from converter.bench.isolated import IsolatedBench, WorkerCall, make_worker_call
from converter.bench.judge import explain_context, judge
from converter.bench.worker import write_feeds
from converter.dataclass import dataclass
from converter.errors import BiasoptError, DataError
from converter.records import InputSet, Latency
from converter.referee.proto.copies import make_loadable
from converter.referee.proto.random_inputs import check_given, check_shapes, guess_shapes, has_open_batch, make_feeds
from converter.referee.proto.source import LoadedModel, describe_model
from converter.runtime.gpu import HINT, find_visible_device, list_other_processes, make_clock_reader
from converter.runtime.machine import describe_environment, find_free_bytes
from converter.runtime.providers import is_out_of_memory
from converter.runtime.session import Placement, count_cores, find_placement, prove_placement
from converter.runtime.timing import Deployment, TimedSession, make_flusher
from converter.temporary import open_whole

Feeds = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]


def choose_feeds(
    source: LoadedModel, accepts: Callable[[Feeds], None], shapes: Shapes | None, batch: int | None, seed: int
) -> Feeds:
    """Random inputs that the model runs on.

    Parameters
    ----------
    accepts : callable
        Runs the model; raises DataError if it cannot be run on them.

    Raises
    ------
    DataError
        Shapes or batch contradict the model, or no guess at its open sizes fits.
    """
    check_shapes(source.proto, shapes)
    if batch is not None and not has_open_batch(source.proto, shapes):
        raise DataError(f"{source.label}: its batch size is fixed; leave out --batch, or export it with an open one")
    refused: DataError | None = None
    for guess in guess_shapes(source.proto, shapes, batch or 1):
        feeds = make_feeds(source.proto, guess, seed)
        try:
            accepts(feeds)
        except DataError as exc:
            refused = refused or exc
        else:
            return feeds
    raise DataError(f"{refused or f'{source.label}: no inputs fit'}; give --shape or --inputs") from refused


def check_feeds(source: LoadedModel, feeds: Mapping[str, Any]) -> None:
    """Raise DataError unless inputs from the user, or of the other model, are this model's."""
    check_given(source.proto, feeds)


def record_feeds(feeds: Mapping[str, Any], seed: int, *, real: bool) -> InputSet:
    """What they were, for the report."""
    digest = hashlib.sha256()
    for name in sorted(feeds):
        value = np.ascontiguousarray(feeds[name])
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    shapes = {name: tuple(np.shape(value)) for name, value in feeds.items()}
    return InputSet(
        "npz" if real else "random",
        n=1,
        sha256=digest.hexdigest(),
        shapes=shapes,
        seed=None if real else seed,
        real=real,
    )


def write_samples(found: Measurement, path: Path) -> None:
    """Write the times of the blocks that count, in the order in which they were taken.

    ``a_ms`` and ``b_ms`` hold a time per pair, ``block`` the block of each pair, ``session`` the session of each
    block.

    Raises
    ------
    BiasoptError
        The file cannot be written.
    """
    sizes = [len(samples.a) for samples in found.samples]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_whole(path) as file:
            np.savez_compressed(
                file,
                a_ms=np.concatenate([samples.a for samples in found.samples]),
                b_ms=np.concatenate([samples.b for samples in found.samples]),
                block=np.repeat(np.arange(len(sizes)), sizes),
                session=np.array([block.session for block in found.counted]),
            )
    except OSError as exc:
        raise BiasoptError(f"{path}: cannot be written ({exc.strerror}); choose another --report folder") from exc


Say = Callable[[str], None]

_GRAPH_RUNS = 3  # a CUDA graph allocates in the first runs, then is recorded
_MEMORY_SHARE = 0.8  # of what is free, that two models may hold together


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be measured, beside the models."""

    design: Design = field(default_factory=Design)
    how: Deployment = field(default_factory=Deployment)
    feeds: Mapping[str, Any] | None = None  # the user's inputs
    shapes: Mapping[str, tuple[int, ...]] | None = None
    batch: int | None = None
    flush: bool = False  # drive models out of the caches before every sample
    unoptimised: bool = False  # measure without onnxruntime's graph optimisations too
    samples: Path | None = None  # .npz that every single time is written to
    say: Say = lambda stage: None


def _warn_of_others(how: Deployment) -> Iterator[str]:
    others = [] if how.provider == "cpu" else list_other_processes(find_visible_device(how.device[1]))
    if others:
        pids = ", ".join(map(str, others[:5])) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        yield f"other processes compute on this GPU ({pids}): times may be theirs; nvidia-smi lists them"


class Bench:
    """One pair, made ready."""

    def __init__(self, a: LoadedModel, b: LoadedModel, request: Request, folder: Path) -> None:
        self.request, self.folder = request, folder
        self.sources = make_loadable(a), make_loadable(b)
        self.models = [source.for_runtime() for source in self.sources]
        self.facts = describe_model(a), describe_model(b)
        self.warnings: list[str] = list(_warn_of_others(request.how))
        self.session = 0  # whose engines of TensorRT's are used; those of 0 serve for all but the sessions
        self.builds: tuple[list[float], list[float]] = [], []  # ms that an engine took to be built
        self.feeds = self._choose_feeds()
        self.peaks = self._find_peaks()

    def _load(self, which: int, how: Deployment) -> TimedSession:
        model, external = self.models[which]
        return TimedSession(model, self._with_caches(which, how), external)

    def _with_caches(self, which: int, how: Deployment) -> Deployment:
        """TensorRT with its caches in a folder of the session's: each session has engines of its own, built once."""
        if how.provider != "tensorrt" or any("cache" in name for name in how.options):  # the user's caches are theirs
            return how
        folder = self.folder / "engines" / f"{'ab'[which]}-{how.level}-{self.session}"
        folder.mkdir(parents=True, exist_ok=True)
        caches = {
            f"trt_{kind}_cache_{what}": text
            for kind in ("engine", "timing")
            for what, text in (("enable", "1"), ("path", str(folder)))
        }
        return replace(how, options={**how.options, **caches})

    def _build(self, which: int, how: Deployment, bind: Callable[[TimedSession], None]) -> None:
        """Have the engine of a session built, beside the times of loading and of the first run."""
        if how.provider == "tensorrt":
            self.request.say(f"TensorRT builds the engine of {'AB'[which]}, {len(self.builds[which]) + 1}")
        begun = time.perf_counter()
        session = self._load(which, how)
        bind(session)  # with open sizes it is built for those of the first run
        session.close()
        self.builds[which].append(1e3 * (time.perf_counter() - begun))

    def _begin_session(self, number: int, how: Deployment) -> None:
        self.session = number
        if how.provider == "tensorrt":
            for which in (0, 1):
                self._build(which, how, lambda session: session.bind(self.feeds))

    def _choose_feeds(self) -> dict[str, Any]:
        """Inputs that both run on; loading both once also fills the system's cache of files for all later loads."""
        request, feeds = self.request, dict(self.request.feeds or {})
        request.say("inputs")

        def choose(session: TimedSession) -> None:
            if request.feeds is None:
                found = choose_feeds(self.sources[0], session.bind, request.shapes, request.batch, request.design.seed)
                feeds.update(found)
            else:
                check_feeds(self.sources[0], feeds)
                session.bind(feeds)

        self._build(0, request.how, choose)
        check_feeds(self.sources[1], feeds)
        self._build(1, request.how, lambda session: session.bind(feeds))
        return feeds

    def _find_peaks(self) -> tuple[int | None, int | None]:
        """The memory that each model takes alone."""
        write_feeds(self.feeds, self.folder / "feeds.npz")
        found: list[int | None] = []
        for which in (0, 1):
            self.request.say(f"memory of {'AB'[which]}")
            try:
                found.append(self._make_worker_call(which, self.request.how)()["peak_bytes"])
            except BiasoptError as exc:
                found.append(None)
                self.warnings.append(f"peak memory is unknown: {exc}")
        return found[0], found[1]

    def _make_worker_call(self, which: int, how: Deployment) -> WorkerCall:
        model, external = self.models[which]
        if isinstance(model, bytes):
            path = self.folder / f"{'ab'[which]}.onnx"
            path.write_bytes(model)
            model = path
        how = self._with_caches(which, how)
        return make_worker_call(
            model, external, how, self.folder / "feeds.npz", max(60.0, self.request.design.max_time)
        )

    def _both_fit(self) -> bool:
        free = find_free_bytes()
        held = [peak for peak in self.peaks if peak is not None]
        return free is None or len(held) < 2 or sum(held) < _MEMORY_SHARE * free

    def measure(self, how: Deployment, design: Design) -> Latency:
        """One measurement of the pair, at one level of optimisation."""
        self.session = 0
        placed = [self._find_placement(which, how) for which in (0, 1)]
        found = self._measure_times(how, design)
        for side, peak in zip(found.sides, self.peaks, strict=True):
            side.peak_bytes = peak
        if how.provider == "tensorrt":
            for side, builds in zip(found.sides, self.builds, strict=True):
                side.builds = builds[1:] or builds  # the first one had to find inputs as well
        if self.request.samples is not None:
            suffix = "" if how.level == self.request.how.level else f"-{how.level}"
            write_samples(found, self.request.samples.with_name(f"{self.request.samples.stem}{suffix}.npz"))
        return self._complete(judge(found), how, placed)

    def _measure_times(self, how: Deployment, design: Design) -> Measurement:
        if not self._both_fit():
            return self._measure_isolated(how, design)
        try:
            return self._measure_interleaved(how, design)
        except BiasoptError as exc:
            if how.provider == "cpu" or not is_out_of_memory(exc):
                raise
            return self._measure_isolated(how, design)  # the GPU's memory holds one of them: that one ran before

    def _find_placement(self, which: int, how: Deployment) -> Placement:
        """Which provider ran which node; refused if what was asked for did not run the arithmetic."""
        self.request.say(f"where {'AB'[which]} runs")
        model, external = self.models[which]
        found = find_placement(
            model,
            how.provider,
            self.feeds,
            optimize=how.level,
            threads=how.threads,
            custom_ops=how.custom_ops,
            external_dir=external,
            options=dict(self._with_caches(which, how).options),
            strict=False,
        )
        if how.provider != "cpu":
            prove_placement(found, how.provider, self.sources[which].label)
        return found

    def _make_opener(self, which: int, how: Deployment) -> Open:
        def load() -> LoadedSession:
            session = self._load(which, how)
            session.bind(self.feeds)
            return session

        return load

    def _measure_interleaved(self, how: Deployment, design: Design) -> Measurement:
        read = None if how.provider == "cpu" else make_clock_reader(how.device[1])
        before = make_flusher(how) if self.request.flush else None
        bench = InterleavedBench(
            (self._make_opener(0, how), self._make_opener(1, how)),
            design,
            clock=time.perf_counter_ns,
            say=self.request.say,
            extra=_GRAPH_RUNS * how.cuda_graph,
            before=before,
            read=read,
            begin=lambda number: self._begin_session(number, how),
            begin_seconds=sum(max(each, default=0.0) for each in self.builds) / 1e3 * (how.provider == "tensorrt"),
        )
        found = bench.measure()
        if how.provider != "cpu" and read is None:
            found.warnings.append("the GPU's clock cannot be read: neither nvidia-ml-py nor nvidia-smi answers")
        return found

    def _measure_isolated(self, how: Deployment, design: Design) -> Measurement:
        asks = self._make_worker_call(0, how), self._make_worker_call(1, how)
        return IsolatedBench(asks, design, clock=time.perf_counter_ns, say=self.request.say).measure()

    def _complete(self, latency: Latency, how: Deployment, placed: list[Placement]) -> Latency:
        options = how.provider_options()
        names = {"a": placed[0], "b": placed[1]}
        design = latency.design | {
            "opt_level": how.level,
            "threads": how.threads or count_cores(),
            "provider": how.provider,
            "cuda_graph": how.cuda_graph,
            "include_h2d": how.include_h2d,
            "flush_caches": self.request.flush,
            "nodes_run": {name: sum(where.nodes.values()) for name, where in names.items()},
            "samples_file": self.request.samples.name if self.request.samples else None,
        }
        if how.provider != "cpu":
            design["hint"] = HINT
        done = replace(
            latency,
            design=design,
            warnings=(*self.warnings, *latency.warnings),
            environment=describe_environment(
                how.provider, providers=tuple(placed[1].nodes), options=options, nodes=placed[1].nodes
            ),
            model_a=self.facts[0],
            model_b=self.facts[1],
            inputs=record_feeds(self.feeds, self.request.design.seed, real=self.request.feeds is not None),
        )
        return replace(done, why=done.why + explain_context(done))


@contextmanager
def _make_scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="biasopt-bench-") as folder:
        yield Path(folder)


def compare(a: LoadedModel, b: LoadedModel, request: Request) -> Latency:
    """Measure ``b`` beside ``a``.

    Raises
    ------
    ModelError, DataError, RuntimeUnavailable
        One of them cannot be loaded or run as was asked.
    """
    with _make_scratch() as folder:
        bench = Bench(a, b, request, folder)
        if not request.unoptimised or request.how.level == "off":
            return bench.measure(request.how, request.design)
        half = replace(request.design, max_time=request.design.max_time / 2)
        main = bench.measure(request.how, half)
        # What the gate asks is asked of the level that is deployed; the other one is for the reader.
        plain = bench.measure(replace(request.how, level="off"), replace(half, gate=Gate("none")))
        return replace(main, unoptimised=plain)
