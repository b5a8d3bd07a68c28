"""The blocks of the study as jobs: which nets each trains, with how many seeds. The numbers of seeds are fixed.

A block that does not get all of its seeds says nothing: a verdict must not depend on how fast the machine is, nor on
when somebody stopped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from itertools import product

from converter.dataclass import dataclass

BLOCKS = {
    "exact": "what needs no training: replaceability, dead biases, the constant channel",
    "identity": "control: a random bias before batch norm changes nothing",
    "contrast": "control: bright or dim, which no net without biases can tell",
    "widths": "bias x channels x centring of the input",
    "points": "dense nets of 2 to 8 units on points of the plane, where the need of a bias is provable",
    "recall": "LSTMs by the bias of their forget gate and by how long they must remember",
    "ablation": "biases taken out of trained nets",
    "depth": "channels and depth by one yardstick",
    "mechanism": "filters that cannot imitate a bias, and inputs that give them nothing to do it with",
    "norms": "bias x normalisation",
    "capacity": "parameters x weight decay: more than needed",
    "drift": "what optimisers do to a bias that is dead",
    "rates": "is the learning rate fair to both arms?",
}
STEPS = 420  # 30 epochs of 14 batches
BATCH = 64
_PART = 4  # seeds of a job: few, so that an interrupted run loses little
_RATES, _RATES_WIDE = (3e-3, 1e-2, 3e-2), (1e-3, 3e-3, 1e-2)
DECAY = 0.3  # decoupled, a step takes rate x decay of each parameter: about half of it in a whole training
LAGS, RECALL_STEPS = (10, 40, 80), 200
# Forget bias at the start. "torch": all biases small and random, as torch draws them; "ln(T-1)": by the lag T.
ARMS = ("0", "torch", "1", "2", "3", "ln(T-1)", "5")


def start_of(arm: str, lag: int) -> float:
    """The forget gate's bias at the start; of torch's draws the mean."""
    return {"torch": 0.0, "ln(T-1)": math.log(lag - 1)}[arm] if arm in ("torch", "ln(T-1)") else float(arm)


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
    filters: str = "free"  # or centred: the weights of a filter add up to 0, so that they cannot make a bias


@dataclass(frozen=True, slots=True)
class Job:
    """Models trained as one stack, or checks made together. Both arms of a seed are always in the same job."""

    block: str
    kind: str  # exact | train | identity | drift | points | recall | ablate
    seeds: tuple[int, ...]
    part: int = 0  # counts the jobs that differ in their seeds alone
    width: int = 0
    depth: int = 2
    norm: str = "none"
    variants: tuple[Variant, ...] = (Variant(),)
    steps: int = STEPS
    task: str = "images"  # images | contrast | validation; of points a task of theirs
    lag: int = 0
    residual: bool = False

    @property
    def group(self) -> str:
        """The same for jobs that differ in their seeds alone; a digest stands for the arms and the task."""
        what = repr((self.kind, self.task, self.lag, self.residual, [astuple(v) for v in self.variants]))
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
    preset : str
        A name of `PRESETS`.
    """

    blocks: tuple[str, ...] = ()
    seeds: int | None = None
    quick: bool = False
    nowhere: bool = False
    preset: str = "laptop"


def parse_blocks(values: Sequence[str]) -> list[str]:
    """Names of blocks, from ``a,b``; what is none is a ValueError."""
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    for name in names:
        if name not in BLOCKS:
            raise ValueError(f"{name!r} is no part of the study; there are {', '.join(BLOCKS)}.")
    return list(dict.fromkeys(names))


def plan_jobs(asked: StudyScope) -> list[Job]:
    """All jobs, block by block, the most wanted block first."""
    preset = QUICK if asked.quick and asked.preset == "laptop" else PRESETS[asked.preset]
    wanted = asked.blocks or tuple(preset)
    made = []
    for block in sorted(set(wanted), key=list(BLOCKS).index):
        plan = preset.get(block) or PRESETS["laptop"][block]
        for job, count in plan(asked):
            made += _split_job(replace(job, block=block), asked.seeds or count)
    return made


def _split_job(job: Job, count: int) -> list[Job]:
    """The job for seeds 0 to ``count`` - 1, a few at a time; small nets in larger stacks."""
    if job.kind == "exact":
        return [job]
    size = 2 * _PART if job.width <= 4 and job.kind in ("train", "points") else _PART
    chunks = [tuple(range(k, min(k + size, count))) for k in range(0, count, size)]
    return [replace(job, seeds=chunk, part=k) for k, chunk in enumerate(chunks)]


Plan = Callable[[StudyScope], Iterator[tuple[Job, int]]]
_ALL = (0,)


def _make_variants(
    biases: Sequence[str] = ("all", "head"), inputs: Sequence[str] = ("raw",), rate: float = 1e-2
) -> tuple[Variant, ...]:
    return tuple(Variant(bias, given, rate=rate) for bias, given in product(biases, inputs))


def _train(width: int, variants: Sequence[Variant], **more: object) -> Job:
    return replace(Job("", "train", _ALL, width=width, variants=tuple(variants)), **more)  # type: ignore[arg-type]


def _plan_exact(asked: StudyScope) -> Iterator[tuple[Job, int]]:
    yield Job("", "exact", _ALL), 1


def _plan_identity(*norms: str) -> Plan:
    def plan(asked: StudyScope) -> Iterator[tuple[Job, int]]:
        for norm in norms:
            yield _train(4, _make_variants(), kind="identity", norm=norm, steps=STEPS // 2), 4

    return plan


def _plan_contrast(*widths: int, count: int = 8) -> Plan:
    arms = _make_variants(("all", "head", "none"))

    def plan(asked: StudyScope) -> Iterator[tuple[Job, int]]:
        for width in widths:
            yield _train(width, arms, task="contrast", steps=STEPS // 2), count

    return plan


def _plan_widths(counts: Mapping[int, int], **more: object) -> Plan:
    def plan(asked: StudyScope) -> Iterator[tuple[Job, int]]:
        biases = ("all", "head", "none") if asked.nowhere else ("all", "head")
        for width, count in counts.items():
            yield _train(width, _make_variants(biases, ("raw", "centred"), rate=choose_rate(width)), **more), count

    return plan


def _plan_points(asked: StudyScope) -> Iterator[tuple[Job, int]]:
    arms = _make_variants(("all", "head", "none"), rate=3e-2)
    for task, width in product(("threshold", "xor", "rings"), (2, 4, 8)):
        yield Job("", "points", _ALL, width=width, depth=1, variants=arms, steps=STEPS, task=task), 16


def _plan_recall(lags: Sequence[int], count: int) -> Plan:
    def plan(asked: StudyScope) -> Iterator[tuple[Job, int]]:
        for lag in lags:
            yield Job("", "recall", _ALL, steps=RECALL_STEPS, lag=lag), count

    return plan


def _plan_ablation(counts: Mapping[int, int], **more: object) -> Plan:
    def plan(asked: StudyScope) -> Iterator[tuple[Job, int]]:
        for (width, count), norm in product(counts.items(), ("none", "batch")):
            arms = (Variant(rate=choose_rate(width)),)
            job = Job("", "ablate", _ALL, width=width, depth=3, norm=norm, variants=arms)
            yield replace(job, **more), count if norm == "batch" else 4  # type: ignore[arg-type]

    return plan


def _plan_depth(asked: StudyScope) -> Iterator[tuple[Job, int]]:
    for width, deep in product((4, 16, 64), (2, 4, 8)):
        rate, count = choose_rate(width), 32 if width == 4 else 8  # few channels differ far more from seed to seed
        yield _train(width, _make_variants(rate=rate), depth=deep), count
        yield Job("", "ablate", _ALL, width=width, depth=deep, norm="batch", variants=(Variant(rate=rate),)), count


def _plan_mechanism(asked: StudyScope) -> Iterator[tuple[Job, int]]:
    for width in (4, 16, 32):
        rate = choose_rate(width)
        ways = (("raw", "free"), ("raw", "centred"), ("pixel", "free"))
        arms = [Variant(bias, given, 0.0, rate, how) for (given, how), bias in product(ways, ("all", "head"))]
        yield _train(width, arms), 8


def _plan_norms(asked: StudyScope) -> Iterator[tuple[Job, int]]:
    for norm, width in product(("batch", "instance", "layer"), (4, 16)):
        yield _train(width, _make_variants(), norm=norm), 8


def _plan_capacity(asked: StudyScope) -> Iterator[tuple[Job, int]]:
    for width in (8, 12, 18, 26, 38, 54, 76):  # each about twice the parameters of the one before
        arms = [Variant("all", "raw", decay, choose_rate(width)) for decay in (0.0, DECAY)]
        yield _train(width, arms), 12


def _plan_drift(asked: StudyScope) -> Iterator[tuple[Job, int]]:
    yield _train(8, _make_variants(), kind="drift", norm="batch", steps=STEPS // 2), 4


def _plan_rates(asked: StudyScope) -> Iterator[tuple[Job, int]]:
    for width, rates in ((4, _RATES), (16, _RATES), (64, _RATES_WIDE)):
        arms = [Variant(bias, "raw", 0.0, rate) for bias, rate in product(("all", "head"), rates)]
        yield _train(width, arms, task="validation"), 4
    for width in (32, 64):  # the rate of these was lowered: what the other one would have said
        yield _train(width, _make_variants(rate=1e-2)), 8


PRESETS: dict[str, dict[str, Plan]] = {
    "laptop": {
        "exact": _plan_exact,
        "identity": _plan_identity("batch", "instance"),
        "contrast": _plan_contrast(4, 8, 16, 32),
        "widths": _plan_widths({2: 96, 4: 32, 8: 16, 16: 12, 32: 8, 64: 8}),
        "points": _plan_points,
        "recall": _plan_recall(LAGS, 8),
        "ablation": _plan_ablation({4: 6, 8: 6, 16: 6, 32: 6, 64: 16}),
        "depth": _plan_depth,
        "mechanism": _plan_mechanism,
        "norms": _plan_norms,
        "capacity": _plan_capacity,
        "drift": _plan_drift,
        "rates": _plan_rates,
    },
    "cifar": {
        "exact": _plan_exact,
        "identity": _plan_identity("batch"),
        "contrast": _plan_contrast(4, 32, count=4),
        "widths": _plan_widths({4: 8, 8: 8, 16: 8, 32: 8}),
        "ablation": _plan_ablation({32: 4}),
    },
    "gpu": {
        "exact": _plan_exact,
        "identity": _plan_identity("batch"),
        "contrast": _plan_contrast(8, 64),
        "widths": _plan_widths({8: 16, 16: 16, 32: 16, 64: 16}, depth=8),
        "ablation": _plan_ablation({16: 16, 64: 16}, depth=8),
        "norms": lambda asked: (
            (_train(width, _make_variants(rate=choose_rate(width)), depth=8, residual=True, norm=norm), 16)
            for width, norm in product((16, 64), ("none", "batch"))
        ),
    },
}
QUICK: dict[str, Plan] = {
    "exact": _plan_exact,
    "identity": _plan_identity("batch"),
    "contrast": _plan_contrast(4, 32, count=4),
    "widths": _plan_widths({8: 16, 32: 8}),
    "recall": _plan_recall((10, 40), 6),
}
