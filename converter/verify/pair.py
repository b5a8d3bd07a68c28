"""The two models under comparison, their sessions and references, and the inputs they are run on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from converter.errors import BiasoptError, DataError, ModelError
from converter.protos.loadable import loadable
from converter.protos.reference import Reference, Unsupported
from converter.protos.shapes import estimate_bytes
from converter.protos.source import Source, free_inputs
from converter.runtime import Session
from converter.verify.feeds import BATCHES, Guess, check_given, feed, guesses, has_open_batch, hints

Outputs = dict[str, Any]
_GUESSING = 10.0  # seconds after which no further size is tried
_MANY = 10_000  # apart from the seeds of the numbered inputs


@dataclass(frozen=True, slots=True)
class Options:
    """How to compare."""

    shapes: Mapping[str, tuple[int, ...]] | None = None
    inputs: Sequence[Mapping[str, Any]] | None = None
    custom_ops: Path | None = None
    provider: str = "cpu"
    seed: int = 0
    quick: bool = False
    deadline: float = float("inf")
    max_memory: int = 1 << 33
    progress: Callable[[str], None] = field(default=lambda text: None)

    @property
    def n_inputs(self) -> int:
        """Inputs that every stage starts with."""
        return 1 if self.quick else 2

    def time_left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


class Side:
    """One model, with its onnxruntime session and float64 references made on demand."""

    def __init__(self, source: Source, options: Options) -> None:
        self.source = source
        self._options = options
        self._session: Session | None = None
        self._reference: Reference | None = None

    def run(self, feeds: Mapping[str, Any]) -> Outputs:
        """Outputs by onnxruntime, optimisations off."""
        if self._session is None:
            model, folder = loadable(self.source).for_runtime()
            self._session = Session(
                model,
                self._options.provider,
                optimize=False,
                custom_ops=self._options.custom_ops,
                external_dir=folder,
            )
        return self._session.run(_wanted(self.source, feeds))

    def close(self) -> None:
        """Give the session's memory back."""
        self._session = None

    def reference(self, feeds: Mapping[str, Any], perturb: int | None = None) -> Outputs:
        """Outputs in float64; with ``perturb``, of the model with every weight moved by its rounding error."""
        made = self._reference if perturb is None else None
        if made is None:
            limit = self._options.max_memory
            made = Reference(
                self.source.proto, weight_perturb=perturb, external_dir=self.source.folder, max_bytes=limit
            )
        if perturb is None:
            self._reference = made
        return made.run(_wanted(self.source, feeds))


def _wanted(source: Source, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """What the model has an input for: the two models of a segment may read different things."""
    names = {i.name for i in source.proto.graph.input}
    return {name: value for name, value in feeds.items() if name in names}


@dataclass(slots=True)
class Case:
    """One input, and what the original made of it."""

    feeds: dict[str, Any]
    runtime: Outputs | None = None  # by onnxruntime; None if it cannot run the model
    exact: Outputs | None = None  # in float64; None if not asked for yet, or not possible


class Cases:
    """Inputs that the original accepts, made as they are needed.

    ``why_not`` says why there are none; ``no_runtime`` why onnxruntime cannot run the original.
    """

    def __init__(self, side: Side, options: Options, *, exact_only: bool = False) -> None:
        self._side = side
        self._options = options
        self._guess: dict[int, Guess] = {}
        self.items: list[Case] = []
        self.why_not = ""
        self.no_runtime = "float64 alone was asked for" if exact_only else ""
        self.same_batch = False

    @property
    def random(self) -> bool:
        """Whether the inputs are made up rather than the user's."""
        return self._options.inputs is None

    def fill(self, count: int) -> bool:
        """Have at least ``count`` cases; False if that cannot be."""
        given = self._options.inputs
        if given is not None:
            for feeds in list(given)[len(self.items) : count]:
                check_given(self._side.source.proto, feeds)
                self.items.append(self._run(dict(feeds)))
            return bool(self.items)
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

    def other_batch(self) -> Case | None:
        """One case of the larger batch beside the others, if the batch is open and the model accepts it."""
        if not self.random or not has_open_batch(self._side.source.proto, self._options.shapes):
            return None
        self._options.progress(f"onnxruntime: original, batch {BATCHES[1]}")
        return self._attempt(BATCHES[1], self._options.seed + _MANY)

    def _attempt(self, batch: int, seed: int) -> Case | None:
        model = self._side.source.proto
        known = hints(model.graph, set(free_inputs(model)))
        tried = [self._guess[batch]] if batch in self._guess else guesses(model, self._options.shapes, batch)
        last: Exception | None = None
        begun = time.monotonic()
        for guess in tried:
            if last is not None and time.monotonic() - begun > _GUESSING:
                break
            if (size := estimate_bytes(model, guess.shapes)) > self._options.max_memory:
                self.why_not = f"a float64 run would take {size / 2**30:.1f} GiB, above the memory limit"
                return None
            try:
                case = self._run(feed(model, guess, seed, known))
            except (DataError, Unsupported) as exc:
                last = exc
                continue
            self._guess[batch] = guess
            return case
        if not self.items and last is not None:
            self.why_not = f"no input of any size that was tried is accepted ({_short(last)})"
        return None

    def _run(self, feeds: dict[str, Any]) -> Case:
        if self.no_runtime:
            return Case(feeds, None, self._side.reference(feeds))
        try:
            return Case(feeds, self._side.run(feeds))
        except ModelError as exc:
            self.no_runtime = _short(exc)
            return self._run(feeds)


def _short(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200]


def default_memory() -> int:
    """Half of the memory that is free now, in bytes; 4 GiB where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 // 2
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // 2
    except (OSError, ValueError, AttributeError):
        return 1 << 32


def mini(options: Options) -> Options:
    """The options for a segment: made-up inputs of the segment's own."""
    return replace(options, shapes=None, inputs=None, progress=lambda text: None)


__all__ = ["BiasoptError", "Case", "Cases", "Options", "Outputs", "Side", "default_memory", "mini"]
