"""Does bias make a difference? ``study``: small nets trained with and without, and what that says of the claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter._version import __version__
from converter.errors import RuntimeUnavailable
from converter.study.data import load_dataset
from converter.study.document import Ran, study_document
from converter.study.plan import StudyOptions, parse_blocks

if TYPE_CHECKING:
    from converter.study.run import StudyRun

QUICK, DEFAULT = 60.0, 300.0  # seconds


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What was measured: ``done.rows``, one for each model; everything else follows from them."""

    done: StudyRun
    margin: float
    quick: bool

    def document(self, argv: Sequence[str] = ()) -> dict[str, Any]:
        """``biasopt.study/1``, from which every report is made."""
        d = self.done
        ran = Ran(d.rows, d.facts, d.planned, d.left_out, d.resumed, d.seconds, d.cpu_seconds, self.quick)
        return study_document(ran, self.margin, argv=argv, version=__version__)


def study(
    dataset: str = "digits",
    *,
    data_dir: str | Path | None = None,
    full: bool = False,
    blocks: Sequence[str] = (),
    seeds: int | None = None,
    seed: int = 0,
    margin: float = 0.5,
    quick: bool = False,
    no_bias_anywhere: bool = False,
    max_time: float | None = None,
    jobs: int = 1,
    device: str = "cpu",
    out: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> StudyResult:
    """Train small convolutional nets with and without biases, and judge the difference.

    Parameters
    ----------
    dataset : {"digits", "mnist", "fashion-mnist", "cifar10"}
    data_dir : path, optional
        Folder with the files of any but the first; nothing is downloaded.
    full : bool
        Keep the size of its images; else it is halved.
    blocks : of `converter.study.plan.BLOCKS`
        Only these parts.
    seeds : int, optional
        As many in every part; each draws a split, initial weights and an order of batches.
    seed : int
        That all others are mixed with.
    margin : float, percentage points
        Difference in accuracy that counts as none.
    quick : bool
        Few widths, few seeds.
    no_bias_anywhere : bool
        A third arm, in which the head has no bias either.
    max_time : float, seconds
        300, or 60 if quick. Seeds are left out to fit into it; nothing starts after it.
    jobs : int
        Stacks of nets trained side by side, each on one core.
    device : {"cpu", "cuda"}
    out : path, optional
        Folder that keeps the rows; another run goes on with them.
    progress : callable, optional
        Told what is being done.

    Raises
    ------
    DataError
        The data set cannot be read.
    RuntimeUnavailable
        torch or the device is not there.
    BiasoptError
        ``out`` holds another study.
    ValueError
        A block's name is unknown.
    """
    chosen = tuple(parse_blocks(blocks))
    try:
        from converter.study import run
    except ImportError as missing:
        if (missing.name or "").partition(".")[0] != "torch":
            raise
        raise RuntimeUnavailable("study trains with torch, which is not installed; install biasopt[torch]") from missing
    run.check_device(device)
    how = run.RunOptions(
        key=seed,
        device=device,
        lanes=jobs,
        budget=max_time or (QUICK if quick else DEFAULT),
        out=None if out is None else Path(out),
        tell=progress or (lambda said: None),
    )
    images = load_dataset(dataset, None if data_dir is None else Path(data_dir), full)
    asked = StudyOptions(chosen, seeds, quick, no_bias_anywhere)
    return StudyResult(run.run_study(images, asked, how), margin, quick)
