"""The two models under comparison, their sessions and references, and the inputs they are run on."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from converter.dataclass import dataclass
from converter.errors import DataError, ModelError
from converter.records import InputSet
from converter.records.evidence import Warning, WarningCode
from converter.referee.inputs.stream import combine_hashes, hash_feeds, list_arrays
from converter.referee.proto.copies import expose_outputs, make_loadable
from converter.referee.proto.inference import estimate_bytes, format_size
from converter.referee.proto.random_inputs import (
    BATCHES,
    DOMAINS,
    Guess,
    Hints,
    check_given,
    confine,
    find_hints,
    grow_shapes,
    guess_shapes,
    has_open_batch,
    make_feeds,
    solve_sizes,
)
from converter.referee.proto.source import LoadedModel, count_stored_bytes, list_free_inputs
from converter.referee.reference.evaluator import Reference
from converter.referee.reference.kernels import Unsupported
from converter.referee.verify.options import Options
from converter.referee.verify.precision import has_narrow_weights
from converter.runtime import Session
from converter.runtime.machine import find_free_bytes
from converter.runtime.session import Placement, prove_placement, run_with_placement

Outputs = dict[str, Any]

_HELD = 1 << 28  # bytes of weights that a session may hold on the CPU while something else runs


class ModelUnderTest:
    """One model, with its onnxruntime session and float64 references made on demand.

    ``deployed``: with the optimisations and the provider options that the user deploys with, else without
    optimisations and with the options under which errors are seen.
    """

    def __init__(self, source: LoadedModel, options: Options, *, deployed: bool = False) -> None:
        self.source = source
        self._options = options
        self._deployed = deployed
        self._session: Session | None = None
        self._reference: Reference | None = None
        self.providers: tuple[str, ...] = ()
        self.placement: Placement | None = None
        self._seen: tuple[Mapping[str, Any], Outputs] | None = None  # the placing run

    def run(self, feeds: Mapping[str, Any], n_bytes: int | None = None) -> Outputs:
        """Outputs by onnxruntime; the first run on anything but the CPU proves where it takes place.

        Parameters
        ----------
        n_bytes : int, optional
            Memory beside the process's own at which the run is ended, with a DataError.

        Raises
        ------
        RuntimeUnavailable
            The provider that was asked for does not run the model's arithmetic.
        """
        if self._session is None:
            model, settings = self._settings()
            self._session = Session(model, self._options.provider, **settings)
            self.providers = self._session.providers
            if self._options.provider != "cpu" and self._options.prove and self.placement is None:
                self.run_again(feeds)
        return self._session.run(_select_feeds(self.source, feeds), n_bytes)

    def run_exposing(self, feeds: Mapping[str, Any], names: Sequence[str]) -> Outputs:
        """Outputs by onnxruntime, and these inner tensors, by a session of its own."""
        settings = self._settings()[1] | {"external_dir": self.source.folder}
        session = Session(expose_outputs(self.source, names), self._options.provider, **settings)
        return session.run(_select_feeds(self.source, feeds))

    def run_again(self, feeds: Mapping[str, Any]) -> Outputs:
        """Outputs of a second session, whose profile says which provider ran which node; made once per feeds."""
        if self._seen is None or self._seen[0] is not feeds:
            self._make_room()
            model, settings = self._settings()
            provider = self._options.provider
            self.placement, values = run_with_placement(model, provider, _select_feeds(self.source, feeds), **settings)
            prove_placement(self.placement, provider, self.source.label, partial=self._options.partial)
            self._seen = feeds, values
        return self._seen[1]

    def _settings(self) -> tuple[bytes | Path, dict[str, Any]]:
        model, folder = make_loadable(self.source).for_runtime()
        options = self._options
        return model, {
            "optimize": options.opt_level if self._deployed else "off",
            "strict": not self._deployed,
            "narrow": has_narrow_weights(self.source.proto),
            "options": dict(options.provider_options),
            "custom_ops": options.custom_ops,
            "external_dir": folder,
            "packed": self._deployed or not self._is_large,
        }

    def close(self) -> None:
        """Give the session's memory back."""
        self._session = None

    def _make_room(self) -> None:
        """Close the session of a large model before anything else holds weights: it is made again in a moment."""
        if self._session is not None and self._is_large:
            self.close()

    @cached_property
    def _is_large(self) -> bool:
        return self._options.provider == "cpu" and count_stored_bytes(self.source) > _HELD

    def reference(
        self,
        feeds: Mapping[str, Any],
        perturb: int | None = None,
        watch: Callable[[str, Any], None] | None = None,
    ) -> Outputs:
        """Outputs in float64; with ``perturb``, of the model with every weight moved by its rounding error.

        ``watch`` is told of every tensor as it is made.
        """
        self._make_room()
        made = self._reference if perturb is None else None
        if made is None:
            limit = self._options.max_memory
            made = Reference(
                self.source.proto, weight_perturb=perturb, external_dir=self.source.folder, max_bytes=limit
            )
        if perturb is None:
            self._reference = made
        return made.run(_select_feeds(self.source, feeds), watch)

    @property
    def entered(self) -> frozenset[str]:
        """The subgraphs that the float64 runs went through; none where there was no such run."""
        return self._reference.entered if self._reference is not None else frozenset()


def _select_feeds(source: LoadedModel, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """What the model has an input for: the two models of a region may read different things."""
    names = {i.name for i in source.proto.graph.input}
    return {name: value for name, value in feeds.items() if name in names}


_GUESSING = 10.0  # seconds after which no further size is tried
_EXPLODED = 1e18  # an output of this size is none that a model is made for
_FIXED = 20_000  # the seed of what does not hang on the caller's
_SPARED = 1_000_000_000  # bytes that any run may take
_MANY = 10_000  # apart from the seeds of the numbered inputs


@dataclass(slots=True)
class ModelInput:
    """One input, and what the original made of it."""

    feeds: dict[str, Any]
    runtime: Outputs | None = None  # by onnxruntime; None if it cannot run the model
    exact: Outputs | None = None  # in float64; None if not asked for yet, or not possible


class ModelInputs:
    """Inputs that the original accepts, made as they are needed.

    ``why_not`` says why there are none; ``no_runtime`` why onnxruntime cannot run the original. ``needs_runtime``: what
    it cannot run is of no use, so that nothing is run in float64 instead.
    """

    def __init__(
        self, side: ModelUnderTest, options: Options, *, exact_only: bool = False, needs_runtime: bool = False
    ) -> None:
        self._side = side
        self._needs_runtime = needs_runtime
        self._options = options
        self._guess: dict[int, Guess] = {}
        self._size = 0  # bytes, estimated, of what is tried
        self.items: list[ModelInput] = []
        self.why_not = ""
        self.no_runtime = "float64 alone was asked for" if exact_only else ""
        self.same_batch = False
        self.has_no_answer = False
        self.domain = ""  # of `DOMAINS`, where the original has no answer to normal values

    @property
    def random(self) -> bool:
        """Whether the inputs are made up rather than the user's."""
        return self._options.stream is None

    def fill(self, count: int) -> bool:
        """Have at least ``count`` cases; False if that cannot be."""
        given = self._options.stream
        if given is not None:
            for sample in given.take(count)[len(self.items) :]:
                check_given(self._side.source.proto, sample.feeds)
                self.items.append(self._run(dict(sample.feeds)))
            if not self.items:
                raise DataError(f"{given.source or 'inputs'}: there are none; the models cannot be compared on them")
            return True
        while len(self.items) < count and not self.why_not:
            self._add()
        return bool(self.items)

    def _add(self) -> None:
        number = len(self.items)
        several = has_open_batch(self._side.source.proto, self._options.shapes)
        batch = BATCHES[number % len(BATCHES)] if several and not self.same_batch else BATCHES[0]
        for candidate in (batch, BATCHES[0]) if batch != BATCHES[0] else (batch,):
            case = self._attempt(candidate, self._options.seed + number)
            if case is not None:
                self.items.append(case)
                return
        self.why_not = self.why_not or "no input of any size that was tried is accepted"

    def list_fixed(self) -> list[ModelInput]:
        """Inputs like those that there are, drawn without the caller's seed: what is driven from them is the same.

        Without outputs, where they are made up; the user's own otherwise.
        """
        if not self.random or not self._guess:
            return self.items
        model = self._side.source.proto
        known = find_hints(model.graph, set(list_free_inputs(model)))
        batches = dict.fromkeys(_count_batch(case.feeds) for case in self.items[:2])
        guesses = [g for b in batches if (g := self._guess.get(b)) is not None] or list(self._guess.values())[:1]
        return [ModelInput(self._make_feeds(guess, _FIXED + k, known)) for k, guess in enumerate(guesses)]

    def other_sizes(self) -> list[ModelInput]:
        """Beside the others one case of another batch, and one of other open sizes, where the model takes them.

        Sizes that a rewrite wrote into the model fail on these, and on no other.
        """
        if not self.random or self.no_runtime:
            return []
        shapes = [{n: np.shape(v) for n, v in case.feeds.items()} for case in self.items]
        found = []
        model, seed = self._side.source.proto, self._options.seed + _MANY
        if has_open_batch(model, self._options.shapes) and all(s == shapes[0] for s in shapes):
            self._options.progress(f"onnxruntime: original, batch {BATCHES[1]}")
            found.append(self._attempt(BATCHES[1], seed))
        self._options.progress("onnxruntime: original, other sizes")
        others = grow_shapes(model, self._options.shapes, shapes[0])
        found.append(next(filter(None, (self._try(guess, seed) for guess in others)), None))
        return [case for case in found if case is not None]

    def _try(self, sizes: dict[str, tuple[int, ...]], seed: int) -> ModelInput | None:
        model = self._side.source.proto
        if estimate_bytes(model, sizes, self._options.max_memory) > self._options.max_memory:
            return None
        guess = Guess(sizes, next(iter(self._guess.values())).loose_bound)
        try:
            return self._run(self._make_feeds(guess, seed, find_hints(model.graph, set(list_free_inputs(model)))))
        except (DataError, Unsupported):
            return None

    def _attempt(self, batch: int, seed: int) -> ModelInput | None:
        model = self._side.source.proto
        known = find_hints(model.graph, set(list_free_inputs(model)))
        tried = [self._guess[batch]] if batch in self._guess else guess_shapes(model, self._options.shapes, batch)
        last: Exception | None = None
        begun = time.monotonic()
        for guess in self._follow(tried):
            if last is not None and time.monotonic() - begun > _GUESSING:
                break
            if (size := estimate_bytes(model, guess.shapes, self._options.max_memory)) > self._options.max_memory:
                self.why_not = f"a float64 run would take {format_size(size)}, above the memory limit"
                return None
            self._size = size
            try:
                case = self._seek_answer(self._run(self._make_feeds(guess, seed, known)))
            except (DataError, Unsupported) as exc:
                last = exc
                continue
            self._guess[batch] = guess
            return case
        if not self.items and last is not None:
            hint = describe_open_sizes(self._side.source, self._options.shapes)
            self.why_not = f"no input of any size that was tried is accepted ({_shorten(last)}){hint}"
        return None

    def _follow(self, tried: Iterable[Guess]) -> Iterator[Guess]:
        """The first guess; behind it sizes that the model fixes inside, before all that is only tried."""
        for k, guess in enumerate(tried):
            yield guess
            if not k:
                model = self._side.source.proto
                for shapes in solve_sizes(model, self._options.shapes, guess.shapes):
                    yield Guess(shapes, guess.loose_bound)

    def _make_feeds(self, guess: Guess, seed: int, known: Hints) -> dict[str, Any]:
        model, ranges = self._side.source.proto, self._options.ranges
        feeds: dict[str, Any] = make_feeds(model, guess, seed, known)
        for name in ranges.keys() & feeds.keys():
            feeds[name] = draw_within(name, feeds[name], ranges[name], seed)
        return confine(feeds, self.domain, ranges) if self.domain else feeds

    def _seek_answer(self, case: ModelInput) -> ModelInput:
        """The case, or one of another domain where the original's answer to normal values is no number, or explodes."""
        if self.items or self.domain or _has_answer(case):
            return case
        for domain in DOMAINS:
            try:
                other = self._run(confine(case.feeds, domain, self._options.ranges))
            except (DataError, Unsupported):
                continue
            if _has_answer(other):
                self.domain = domain
                return other
        self.has_no_answer = True
        return case

    def describe_domain(self) -> list[Warning]:
        """A warning of inputs that hold what is no number, or of an original that has no answer to normal ones."""
        given = self._options.stream
        if given is not None and (n := given.record().nonfinite):
            said = f"NaN or Inf in the inputs, {n:,} in all; outputs that are not finite may come from there"
            return [Warning(WarningCode.INPUT_DOMAIN, f"{given.source or 'the inputs given'}: {said}")]
        no_number = "the original gives no finite number, or numbers that explode, on normal inputs"
        if self.domain:
            return [Warning(WarningCode.INPUT_DOMAIN, f"{no_number}: those that were made are {self.domain}")]
        if self.has_no_answer:
            said = f"{no_number}, nor on others ({', '.join(DOMAINS)}); give inputs with --inputs, or --input-range"
            return [Warning(WarningCode.INPUT_DOMAIN, said)]
        return []

    def record(self) -> InputSet | None:
        """What the models were run on."""
        if self._options.stream is not None:
            return self._options.stream.record(labelled=self._options.deciding.labels is not None)
        if not self.items:
            return None
        digests = [hash_feeds(case.feeds) for case in self.items]
        shapes = {name: tuple(np.shape(value)) for name, value in self.items[0].feeds.items()}
        return InputSet(
            "random", n=len(digests), sha256=combine_hashes(digests), shapes=shapes, seed=self._options.seed
        )

    def _run(self, feeds: dict[str, Any]) -> ModelInput:
        if self.no_runtime:
            return ModelInput(feeds, None, None if self._needs_runtime else self._side.reference(feeds))
        try:
            return ModelInput(feeds, self._side.run(feeds, self._allow() if self._needs_runtime else None))
        except ModelError as exc:
            self.no_runtime = _shorten(exc)
            return ModelInput(feeds) if self._needs_runtime else self._run(feeds)

    def _allow(self) -> int:
        """Bytes for a run that proves nothing by itself: some times what its tensors come to, and weights laid anew."""
        return max(_SPARED, 4 * (self._size + count_stored_bytes(self._side.source)))


def _count_batch(feeds: Mapping[str, Any]) -> int:
    return next((int(np.shape(v)[0]) for v in feeds.values() if np.ndim(v)), 0)


def _has_answer(case: ModelInput) -> bool:
    """Whether every output of floats holds a finite number, and none that exploded."""
    for value in (case.runtime or case.exact or {}).values():
        for array in list_arrays(value):
            if array.dtype.kind in "fV" and array.size:
                size = np.abs(np.asarray(array, np.float64))
                finite = size[np.isfinite(size)]
                if not finite.size or finite.max() > _EXPLODED:
                    return False
    return True


def draw_within(name: str, like: Any, limits: tuple[float, float], seed: int) -> Any:
    """Uniform values between two limits, both included, in the shape and type of ``like``."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if like.dtype.kind in "iu":
        return rng.integers(math.ceil(limits[0]), math.floor(limits[1]) + 1, like.shape).astype(like.dtype)
    return rng.uniform(limits[0], limits[1], like.shape).astype(like.dtype)


def describe_open_sizes(source: LoadedModel, given: Mapping[str, Any] | None) -> str:
    """A hint that names the inputs whose sizes the model leaves open, empty where it leaves none."""
    ports = [p for p in list_free_inputs(source.proto).values() if p.name not in (given or {})]
    found = [p for p in ports if p.dims is None or any(not isinstance(d, int) for d in p.dims[1:])]
    return "".join(f"; give --shape {p.name}={','.join(_format_dim(d) for d in p.dims or (None,))}" for p in found[:3])


def _format_dim(dim: int | str | None) -> str:
    return str(dim) if isinstance(dim, int) else (dim or "?")


def _shorten(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200]


def find_default_memory() -> int:
    """Half of the memory that is free now, in bytes; 4 GiB where the system does not say."""
    free = find_free_bytes()
    return 1 << 32 if free is None else free // 2


def make_region_options(options: Options) -> Options:
    """The options for a region: made-up inputs of the region's own."""
    return replace(
        options,
        shapes=None,
        stream=None,
        samples=None,
        ranges={},
        tolerances=(),
        prove=False,
        progress=lambda text: None,
    )
