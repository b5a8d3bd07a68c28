"""A pair too large to be in memory together: a process for each, block by block, with an A/A control of its own.

What slows the machine for longer than a block still hits both; what does not, hits one. Its interval is wider for
it, and the report says that it was made so.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from converter.bench.design import AA_BLOCKS, Design
from converter.bench.interleaved import Clock, Measurement, Mode, Samples
from converter.errors import BiasoptError, DataError
from converter.records import Block
from converter.runtime.timing import Deployment

_ROOT = Path(__file__).resolve().parents[2]
_START = "import sys; sys.path.insert(0, sys.argv[1]); from converter.bench.worker import main; main()"

WorkerCall = Callable[..., dict[str, Any]]


def make_worker_call(
    model: Path, external_dir: Path | None, how: Deployment, feeds: Path, timeout: float
) -> WorkerCall:
    """Give a function that starts the process for one model and returns what it says.

    Raises (when called)
    --------------------
    DataError
        The process could not run the model, died, or took longer than ``timeout`` seconds.
    """

    def ask(samples: int = 0, warm_up: Sequence[float] = (0.0, 1.0), repeat: int = 0) -> dict[str, Any]:
        asked = {
            "model": str(model),
            "external_dir": str(external_dir) if external_dir else None,
            "how": asdict(how) | {"custom_ops": str(how.custom_ops) if how.custom_ops else None},
            "feeds": str(feeds),
            "samples": samples,
            "warm_up": list(warm_up),
            "repeat": repeat,
        }
        return _run_worker(asked, timeout)

    return ask


def _run_worker(asked: dict[str, Any], timeout: float) -> dict[str, Any]:
    # -P: what lies in the working directory is not imported.
    command = [sys.executable, "-P", "-c", _START, str(_ROOT)]
    try:
        done = subprocess.run(  # noqa: S603
            command, input=json.dumps(asked), capture_output=True, text=True, timeout=timeout, check=True
        )
        said: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        raise DataError(f"{asked['model']}: a process for it alone failed ({type(exc).__name__})") from exc
    if "error" in said:
        raise BiasoptError(said["error"])
    return said


_SECONDS = 1e9


class IsolatedBench:
    """One measurement of a pair, process by process.

    Parameters
    ----------
    asks : pair of callables
        Each starts a process for one of the models, and returns what it measured.
    """

    def __init__(
        self,
        asks: tuple[WorkerCall, WorkerCall],
        design: Design,
        *,
        clock: Clock,
        say: Callable[[str], None] = lambda stage: None,
    ) -> None:
        self.asks, self.design, self.clock, self.say = asks, design, clock, say
        self.rng = random.Random(design.seed)  # noqa: S311
        self.begun = clock()
        self.found = Measurement(design, mode=Mode.TWO_PROCESSES)

    def measure(self) -> Measurement:
        """The control, then blocks until there are enough, or no time for another."""
        longest = 0.0
        for k in range(AA_BLOCKS + self.design.total):
            begun = self.clock()
            control = k < AA_BLOCKS
            if not control and k > AA_BLOCKS + 1 and self._measure_elapsed() + longest > self.design.max_time:
                self.found.warnings.append(f"{self.design.max_time:g} s were over after {k - AA_BLOCKS} blocks")
                break
            self.say(f"A/A control: block {k + 1}" if control else f"block {k + 1 - AA_BLOCKS} of {self.design.total}")
            self._block(k - AA_BLOCKS, control=control)
            longest = max(longest, (self.clock() - begun) / _SECONDS)
        self.found.stopped = "time" if len(self.found.blocks) < self.design.total else "as planned"
        self.found.seconds = self._measure_elapsed()
        return self.found

    def _measure_elapsed(self) -> float:
        return (self.clock() - self.begun) / _SECONDS

    def _block(self, number: int, *, control: bool) -> None:
        order = self.rng.sample((0, 1), 2)
        times = {which: self._run_alone(which, 0 if control else which, record=not control) for which in order}
        samples = Samples(times[0], times[1])
        if control:
            self.found.aa.append(samples.log_ratio)
            return
        # Every block has processes of its own: it is a session of its own.
        self.found.blocks.append(Block(number, samples.log_ratio, median(samples.a), median(samples.b)))
        self.found.samples.append(samples)

    def _run_alone(self, which: int, model: int, *, record: bool) -> tuple[float, ...]:
        repeat = self.found.repeat if self.found.blocks or self.found.aa else 0
        said = self.asks[model](self.design.pairs, self.design.warm_up, repeat)
        self.found.repeat = said["repeat"]
        if record:
            self.found.sides[which].loads.append(said["load_ms"])
            self.found.sides[which].firsts.append(said["first_run_ms"])
        return tuple(said["samples"])
