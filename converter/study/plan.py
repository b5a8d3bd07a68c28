"""The blocks of the study as jobs: which nets each trains, with how many seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, replace
from itertools import product

from converter.dataclass import dataclass

BLOCKS = {
    "exact": "what needs no training: replaceability, dead biases, the constant channel",
    "identity": "control: a random bias before batch norm changes nothing",
    "contrast": "control: bright or dim, which no net without biases can tell",
    "widths": "bias x channels x centring of the input",
    "recall": "LSTMs by the bias of their forget gate",
    "ablation": "biases taken out of trained nets",
    "norms": "bias x normalisation",
    "capacity": "channels x weight decay x bias",
    "depth": "bias in deeper nets",
    "drift": "what optimisers do to a bias that is dead",
    "rates": "is the learning rate fair to both arms?",
}
STEPS = 420  # 30 epochs of 14 batches
BATCH = 64
LAG = 40  # of the recall task
_PART = 4  # seeds of a job: few, so that time can be kept to; never fewer models than these
_RATES, _RATES_WIDE = (3e-3, 1e-2, 3e-2), (1e-3, 3e-3, 1e-2)


def count_parameters(width: float, image: Sequence[int], classes: int, *, biases: bool) -> float:
    """Parameters of a net of two layers and this, perhaps broken, width, for images [C, H, W]."""
    channels, _, side = image
    head = (width * (side // 4) ** 2 + 1) * classes
    return 9 * channels * width + 9 * width * width + head + (2 * width if biases else 0)


def choose_rate(width: int) -> float:
    """Adam's rate: of 0.001, 0.003, 0.01 the best on a third of the training images, and the same for both arms."""
    return 1e-2 if width <= 16 else 3e-3


@dataclass(frozen=True, slots=True)
class Variant:
    """One arm of every seed of a job."""

    bias: str = "all"
    input: str = "raw"
    decay: float = 0.0
    rate: float = 1e-2


@dataclass(frozen=True, slots=True)
class Job:
    """Models trained as one stack, or checks made together. Both arms of a seed are always in the same job.

    ``part`` counts the jobs that differ in their seeds alone; the first of them is the minimum.
    """

    block: str
    kind: str  # exact | train | identity | drift | recall | ablate
    seeds: tuple[int, ...]
    part: int = 0
    width: int = 0
    depth: int = 2
    norm: str = "none"
    variants: tuple[Variant, ...] = (Variant(),)
    steps: int = STEPS
    task: str = "images"  # images | contrast | validation

    @property
    def group(self) -> str:
        """The same for jobs that differ in their seeds alone; a digest stands for the arms and the task."""
        what = repr((self.kind, self.task, [astuple(v) for v in self.variants]))
        digest = hashlib.sha256(what.encode()).hexdigest()[:8]
        return f"{self.block}/{self.norm}/depth{self.depth}/width{self.width}/steps{self.steps}/{digest}"

    @property
    def id(self) -> str:
        return f"{self.group}/seeds{self.seeds[0]}-{self.seeds[-1]}"


@dataclass(frozen=True, slots=True)
class StudyScope:
    """What part of the study is wanted.

    Attributes
    ----------
    seeds : int or None
        As many in every block; None for those of the plan.
    nowhere : bool
        A third arm among the widths, without the head's bias too.
    """

    blocks: tuple[str, ...] = ()
    seeds: int | None = None
    quick: bool = False
    nowhere: bool = False


def parse_blocks(values: Sequence[str]) -> list[str]:
    """Names of blocks, from ``a,b``; what is none is a ValueError."""
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    for name in names:
        if name not in BLOCKS:
            raise ValueError(f"{name!r} is no part of the study; there are {', '.join(BLOCKS)}.")
    return list(dict.fromkeys(names))


def plan_jobs(asked: StudyScope) -> list[Job]:
    """All jobs, the most wanted first: one part of everything, the controls before the rest, then second parts."""
    wanted = asked.blocks or (("exact", "identity", "contrast", "widths", "recall") if asked.quick else tuple(BLOCKS))
    made = [job for block in wanted for job in _MADE[block](asked)]
    order = list(BLOCKS)
    return sorted(made, key=lambda job: (job.part, order.index(job.block)))


def _split_job(job: Job, count: int, asked: StudyScope) -> list[Job]:
    """The job for seeds 0 to ``count`` - 1, a few at a time; small nets in larger stacks."""
    seeds = range(asked.seeds or (min(count, _PART) if asked.quick else count))
    size = 2 * _PART if job.width <= 4 and job.kind == "train" else _PART
    chunks = [tuple(seeds[k : k + size]) for k in range(0, len(seeds), size)]
    return [replace(job, seeds=chunk, part=k) for k, chunk in enumerate(chunks)]


def _make_variants(
    biases: Sequence[str] = ("all", "head"), inputs: Sequence[str] = ("raw",), **more: float
) -> tuple[Variant, ...]:
    return tuple(Variant(bias, given, **more) for bias, given in product(biases, inputs))


def _plan_exact(asked: StudyScope) -> list[Job]:
    return [Job("exact", "exact", (0,))]


def _plan_identity(asked: StudyScope) -> list[Job]:
    norms = ("batch",) if asked.quick else ("batch", "instance")
    make = [
        Job("identity", "identity", (0,), width=4, norm=n, variants=_make_variants(), steps=STEPS // 2) for n in norms
    ]
    return [job for one in make for job in _split_job(one, 4, replace(asked, seeds=min(asked.seeds or 4, 4)))]


def _plan_contrast(asked: StudyScope) -> list[Job]:
    arms = _make_variants(("all", "head", "none"))
    widths = (4, 32) if asked.quick else (4, 8, 16, 32)
    steps = STEPS // 2
    make = [Job("contrast", "train", (0,), width=w, variants=arms, task="contrast", steps=steps) for w in widths]
    return [job for one in make for job in _split_job(one, 4, asked)]


def _plan_widths(asked: StudyScope) -> list[Job]:
    plan = {2: 4, 8: 4, 32: 4} if asked.quick else {2: 32, 4: 32, 8: 16, 16: 12, 32: 8, 64: 4}
    biases = ("all", "head", "none") if asked.nowhere else ("all", "head")
    make = [
        (
            Job(
                "widths",
                "train",
                (0,),
                width=w,
                variants=_make_variants(biases, ("raw", "centred"), rate=choose_rate(w)),
            ),
            n,
        )
        for w, n in plan.items()
    ]
    return [job for one, n in make for job in _split_job(one, n, asked)]


def _plan_norms(asked: StudyScope) -> list[Job]:
    make = [
        Job("norms", "train", (0,), width=w, norm=n, variants=_make_variants())
        for n, w in product(("batch", "instance", "layer"), (4, 16))
    ]
    return [job for one in make for job in _split_job(one, 8, asked)]


def _plan_depth(asked: StudyScope) -> list[Job]:
    make = [Job("depth", "train", (0,), width=w, depth=4, variants=_make_variants()) for w in (4, 8, 16)]
    return [job for one in make for job in _split_job(one, 8, asked)]


def _plan_capacity(asked: StudyScope) -> list[Job]:
    made = []
    for width in (8, 16, 32):
        arms = tuple(v for decay in (0.0, 1e-2) for v in _make_variants(decay=decay, rate=choose_rate(width)))
        made += _split_job(Job("capacity", "train", (0,), width=width, variants=arms), 8, asked)
    return made


def _plan_recall(asked: StudyScope) -> list[Job]:
    return _split_job(Job("recall", "recall", (0,), steps=100 if asked.quick else 200), 8, asked)


def _plan_ablation(asked: StudyScope) -> list[Job]:
    make = [
        Job("ablation", "ablate", (0,), width=w, depth=3, norm=n)
        for n, w in product(("none", "batch"), (4, 8, 16, 32, 64))
    ]
    return [job for one in make for job in _split_job(one, 4, asked)]


def _plan_drift(asked: StudyScope) -> list[Job]:
    arms = tuple(Variant(bias, "raw", 0.0, rate) for bias, rate in product(("all", "head"), (1e-2,)))
    return _split_job(Job("drift", "drift", (0,), width=8, norm="batch", variants=arms, steps=STEPS // 2), 4, asked)


def _plan_rates(asked: StudyScope) -> list[Job]:
    made = []
    for width, rates, seeds in ((4, _RATES, 4), (16, _RATES, 4), (64, _RATES_WIDE, 2)):
        arms = tuple(Variant(bias, "raw", 0.0, rate) for bias, rate in product(("all", "head"), rates))
        job = Job("rates", "train", (0,), width=width, variants=arms, task="validation")
        made += _split_job(job, seeds, asked)
    return made


_MADE = {
    "exact": _plan_exact,
    "identity": _plan_identity,
    "contrast": _plan_contrast,
    "widths": _plan_widths,
    "recall": _plan_recall,
    "ablation": _plan_ablation,
    "norms": _plan_norms,
    "capacity": _plan_capacity,
    "depth": _plan_depth,
    "drift": _plan_drift,
    "rates": _plan_rates,
}
