"""``biasopt.study/1``: all that a study found, as JSON values; every other form of the report is made of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from converter.report import document as parts
from converter.stats import holm, wilson
from converter.study import claims
from converter.study import claims as checks
from converter.study import statistics as stats
from converter.study.plan import parameters
from converter.study.statistics import DIFFERENT, EQUIVALENT, Judged

Row = Mapping[str, Any]
Result = dict[str, Any]


def mean_interval(values: Sequence[float]) -> Result:
    """Mean with its 95 % interval over seeds."""
    low, high = stats.t_interval(values, 0.95)
    return {"n": len(values), "mean": float(np.mean(values)), "low": low, "high": high, "median": median(values)}


def arms(rows: Iterable[Row], where: Mapping[str, Any]) -> dict[int, float]:
    """Accuracy by seed of the models that have these values."""
    return {r["seed"]: r["accuracy"] for r in rows if all(r[k] == v for k, v in where.items())}


def differences(first: Mapping[int, float], second: Mapping[int, float]) -> list[float]:
    """First minus second, of the seeds that both have."""
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def values(rows: Iterable[Row], key: str) -> list[Any]:
    return sorted({row[key] for row in rows})


def compared(rows: Sequence[Row], keys: Sequence[str], margin: float, share: float) -> list[Result]:
    """With biases against without, for every combination of ``keys``, judged as one family."""
    places = sorted({tuple(row[k] for k in keys) for row in rows}, key=_rank)
    pairs = []
    for place in places:
        at = dict(zip(keys, place, strict=True))
        pairs.append((at, arms(rows, at | {"bias": "all"}), arms(rows, at | {"bias": "head"})))
    family = [differences(a, b) for _, a, b in pairs]
    judged = stats.judge(family, margin, share)
    return [_comparison(at, a, b, j) for (at, a, b), j in zip(pairs, judged, strict=True)]


_FIRST = {"raw": 0, "centred": 1, "batch": 0, "instance": 1, "layer": 2}


def _rank(place: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_FIRST.get(v, v) if isinstance(v, str) else v for v in place)


def _comparison(at: Result, a: Mapping[int, float], b: Mapping[int, float], judged: Judged) -> Result:
    wrong = [100 - float(np.mean(list(arm.values()))) for arm in (a, b)]
    ratio = wrong[1] / wrong[0] if wrong[0] > 0 else math.nan
    both = {"with": mean_interval(list(a.values())), "without": mean_interval(list(b.values()))}
    return at | both | {"error_ratio": ratio} | asdict(judged)


def contrast(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {
        "accuracy": [
            {"width": w, "bias": b, **mean_interval(seen), "worst": max(seen) if b == "none" else min(seen)}
            for w in values(rows, "width")
            for b in ("all", "head", "none")
            if (seen := list(arms(rows, {"width": w, "bias": b}).values()))
        ]
    }


def identity(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {
        "checks": [
            {
                "norm": norm,
                "n": len(mine),
                "apart": max(r["apart"] for r in mine),
                "difference": max(abs(r["accuracy"] - r["accuracy_without"]) for r in mine),
            }
            for norm in values(rows, "norm")
            for mine in [[r for r in rows if r["norm"] == norm]]
        ]
    }


def recall(rows: Sequence[Row], margin: float, share: float) -> Result:
    steps, lag = max(row["steps"] for row in rows), rows[0]["lag"]
    found = []
    for arm in ("none", "0", "1", "2", "chrono"):
        mine = [row for row in rows if row["forget_bias"] == arm]
        done = [row["solved_at"] for row in mine]
        solved = sum(at is not None for at in done)
        low, high = wilson(solved, len(mine))
        middle = median(math.inf if at is None else at for at in done)
        checks = mine[0]["checks"]
        means = [float(np.mean([row["curve"][k] for row in mine])) for k in range(len(checks))]
        found.append({
            "forget_bias": arm,
            "n": len(mine),
            "solved": solved,
            "low": low,
            "high": high,
            "median_steps": None if math.isinf(middle) else middle,
            "solved_at": done,
            "accuracy": float(np.mean([row["accuracy"] for row in mine])),
            "curve": means,
            "checks": checks,
            "time_constant": None if arm == "chrono" else 1 + math.exp(0.0 if arm == "none" else float(arm)),
        })  # fmt: skip
    return {"lag": lag, "steps": steps, "arms": found, "tests": _against(found)}


def _against(found: Sequence[Result]) -> list[Result]:
    """Fisher's test of every other start against a forget bias of 0, with Holm's correction."""
    by_name = {f["forget_bias"]: f for f in found}
    zero, others = by_name["0"], ("1", "2", "chrono")
    p = [stats.fisher(by_name[o]["solved"], by_name[o]["n"], zero["solved"], zero["n"]) for o in others]
    adjusted = holm(p)
    return [{"forget_bias": o, "p": v, "p_holm": h} for o, v, h in zip(others, p, adjusted, strict=True)]


METHODS = ("original", "zero", "head", "independent", "sequential")


def ablation(rows: Sequence[Row], margin: float, share: float) -> Result:
    nets = []
    for norm in ("none", "batch"):
        for width in values(rows, "width"):
            mine = [row for row in rows if row["norm"] == norm and row["width"] == width]
            if mine:
                nets.append({"norm": norm, "width": width, "n": len(mine)} | _ablated(mine))
    return {"nets": nets}


def _ablated(rows: Sequence[Row]) -> Result:
    def over(pick: Callable[[Row], float]) -> Result:
        return mean_interval([pick(row) for row in rows])

    methods = {
        m: {
            "accuracy": over(lambda r, m=m: r["methods"][m]["accuracy"]),  # type: ignore[misc]
            "lost": over(lambda r, m=m: r["methods"]["original"]["accuracy"] - r["methods"][m]["accuracy"]),  # type: ignore[misc]
            "agreement": over(lambda r, m=m: r["methods"][m]["agreement"]),  # type: ignore[misc]
            "error": over(lambda r, m=m: r["methods"][m]["error"]),  # type: ignore[misc]
            "contrast": {
                c: float(np.mean([r["methods"][m]["contrast"][c] for r in rows]))
                for c in rows[0]["methods"][m]["contrast"]
            },
        }
        for m in METHODS
    }
    count = len(rows[0]["layers"])
    layers = [{k: float(np.mean([r["layers"][i][k] for r in rows])) for k in ("r", "size")} for i in range(count)]
    return {"methods": methods, "layers": layers}


def drift(rows: Sequence[Row], margin: float, share: float) -> Result:
    found = []
    for name in values(rows, "optimiser"):
        mine = [row for row in rows if row["optimiser"] == name]
        of = {k: [row[k] for row in mine] for k in ("largest", "rms", "gradient_bias", "gradient_weight")}
        apart = [row["accuracy"] - row["accuracy_without"] for row in mine]
        found.append({
            "optimiser": name,
            "n": len(mine),
            "rate": mine[0]["rate"],
            "largest": max(of["largest"]),
            "rms": median(of["rms"]),
            "gradient_bias": median(of["gradient_bias"]),
            "gradient_weight": median(of["gradient_weight"]),
            "difference": mean_interval(apart),
        })  # fmt: skip
    return {"optimisers": found}


def rates(rows: Sequence[Row], margin: float, share: float) -> Result:
    found = compared(rows, ("width", "rate"), margin, share)
    best = {}
    for width in values(rows, "width"):
        mine = [c for c in found if c["width"] == width]
        pick = {arm: max(mine, key=lambda c, arm=arm: c[arm]["mean"])["rate"] for arm in ("with", "without")}  # type: ignore[misc]
        best[str(width)] = pick
    return {"comparisons": found, "best": best}


def exact(rows: Sequence[Row], margin: float, share: float) -> Result:
    drop = ("job", "of", "block", "check")
    return {
        check: [{k: v for k, v in row.items() if k not in drop} for row in rows if row["check"] == check]
        for check in ("replaceability", "first layer", "dead", "constant channel", "update")
    }


Array = np.ndarray[Any, np.dtype[Any]]
_REACH, _STEP = 300, 0.01  # shifts tried: so many steps to either side, each in doublings
_RESAMPLES = 2_000
_CEILING = 0.5  # share of resamples without an answer from which on a width is called censored


@dataclass(frozen=True, slots=True)
class AtWidth:
    """The multiplier read off at one width.

    Attributes
    ----------
    factor, low, high : float or None
        None where the nets without biases never come to the accuracy (or are above it everywhere).
    censored : float
        Share of the resamples in which that was so.
    """

    width: int
    factor: float | None
    low: float | None
    high: float | None
    censored: float

    @property
    def at_ceiling(self) -> bool:
        """Whether so many resamples had no answer that the interval says little."""
        return self.censored > _CEILING


@dataclass(frozen=True, slots=True)
class Multiplier:
    """The pooled factor in channels with a 95 % interval, and the one at each width."""

    factor: float
    low: float
    high: float
    widths: tuple[AtWidth, ...]


def multiplier(
    errors: Mapping[int, tuple[Array, Array]], floor: float, seed: int = 0, resamples: int = _RESAMPLES
) -> Multiplier | None:
    """Estimate the factor, from the errors of every width.

    Parameters
    ----------
    errors : mapping of width to two arrays [S]
        Error rates with and without biases, in the order of the seeds. At least three widths.
    floor : float
        The least error that the test set can tell from none.

    Returns
    -------
    Multiplier or None
        None for fewer than three widths.
    """
    widths = sorted(errors)
    if len(widths) < 3:
        return None
    rng = np.random.default_rng(seed)
    means = np.stack([_resampled(*errors[w], rng, resamples) for w in widths])  # [W, 1 + resamples, 2]
    logs = np.log(np.maximum(means, floor)).transpose(1, 2, 0)  # [1 + resamples, 2, W]
    x = np.log2(np.array(widths, dtype=np.float64))
    found = 2 ** _shifts(x, logs.reshape(len(logs), -1))
    low, high = np.quantile(found[1:], [0.025, 0.975])
    return Multiplier(float(found[0]), float(low), float(high), tuple(_each(x, widths, logs)))


def _resampled(with_bias: Array, without: Array, rng: np.random.Generator, resamples: int) -> Array:
    """Mean errors of both arms [1 + resamples, 2]: as seen, then of resampled seeds, the same ones in both arms."""
    n = len(with_bias)
    index = np.concatenate([np.arange(n)[None], rng.integers(0, n, (resamples, n))])
    return np.stack([np.asarray(with_bias)[index].mean(1), np.asarray(without)[index].mean(1)], axis=1)


def _shifts(x: Array, logs: Array) -> Array:
    """The shift of least squares for each row of log errors [R, 2W]: both arms on one parabola."""
    shifts = np.arange(-_REACH, _REACH + 1) * _STEP
    shifts = shifts[np.argsort(np.abs(shifts), kind="stable")]  # of equals the smallest: argmin takes the first
    best, place = np.full(len(logs), np.inf), np.zeros(len(logs))
    for shift in shifts:
        at = np.concatenate([x, x - shift])
        basis, _ = np.linalg.qr(np.stack([np.ones_like(at), at, at * at], axis=1))
        rest = logs - (logs @ basis) @ basis.T
        rss = (rest * rest).sum(1)
        better = rss < best - 1e-15
        best[better], place[better] = rss[better], shift
    return place


def _each(x: Array, widths: list[int], logs: Array) -> list[AtWidth]:
    falling = np.minimum.accumulate(logs[:, 1], axis=1)  # without biases, made monotone
    found = []
    for k, width in enumerate(widths):
        shifts = np.array([_inverse(x, curve, level) for curve, level in zip(falling, logs[:, 0, k], strict=True)])
        factors, known = 2 ** (shifts - x[k]), np.isfinite(shifts)
        inner = factors[1:][known[1:]]
        low, high = (float(q) for q in np.quantile(inner, [0.025, 0.975])) if len(inner) else (None, None)
        factor = float(factors[0]) if known[0] else None
        found.append(AtWidth(width, factor, low, high, float(1 - known[1:].mean())))
    return found


def _inverse(x: Array, falling: Array, level: float) -> float:
    """Where a falling curve comes down to a level; NaN if it starts below or never does."""
    if level > falling[0] or level < falling[-1]:
        return float("nan")
    right = max(1, int(np.argmax(falling <= level)))
    above, below = falling[right - 1], falling[right]
    part = 0.0 if above == below else (above - level) / (above - below)
    return float(x[right - 1] + part * (x[right] - x[right - 1]))


def results(rows: Sequence[Row], margin: float, share: float) -> dict[str, Any]:
    """Every block that has rows.

    Parameters
    ----------
    margin : float
        In percentage points.
    share : float
        Test images over training images of a split.
    """
    by_block: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_block[row["block"]].append(row)
    found: dict[str, Any] = {}
    for block, make in _MADE.items():
        if by_block[block]:
            found[block] = make(by_block[block], margin, share)
    return found


def in_parameters(widths: Result, image: Sequence[int], classes: int) -> None:
    """Add to each multiplier in channels what it is in parameters of the whole net."""
    for made in filter(None, widths["multiplier"].values()):
        for at in made["widths"]:
            w, factor = at["width"], at["factor"]
            before = parameters(w, image, classes, biases=True)
            after = None if factor is None else parameters(factor * w, image, classes, biases=False)
            at["parameters"] = None if after is None else after / before


def _widths(rows: Sequence[Row], margin: float, share: float) -> Result:
    main = [row for row in rows if row["bias"] != "none"]
    found = compared(main, ("input", "width"), margin, share)
    nowhere = [
        {"input": i, "width": w, **mean_interval(list(seen.values()))}
        for i in values(rows, "input")
        for w in values(rows, "width")
        if (seen := arms(rows, {"input": i, "width": w, "bias": "none"}))
    ]
    inputs = [i for i in ("raw", "centred", "pixel") if any(c["input"] == i for c in found)]
    return {
        "comparisons": found,
        "nowhere": nowhere,
        "sequence": {i: _sequence([c for c in found if c["input"] == i]) for i in inputs},
        "multiplier": {i: _multiplier([r for r in main if r["input"] == i], found, i) for i in inputs},
    }


def _sequence(found: list[Result]) -> Result:
    """Equivalence tested from the widest down, as far as it goes."""
    wide = sorted(found, key=lambda c: -c["width"])
    held = stats.fixed_sequence([c["p_tost"] for c in wide])
    widths = [c["width"] for c in wide]
    return {"equivalent": widths[:held], "stopped_at": widths[held] if held < len(widths) else None}


def _multiplier(rows: Sequence[Row], found: Sequence[Result], kind: str) -> Result | None:

    errors = {}
    for width in values(rows, "width"):
        a, b = (arms(rows, {"width": width, "bias": bias}) for bias in ("all", "head"))
        seeds = sorted(a.keys() & b.keys())
        errors[width] = tuple(1 - np.array([arm[s] for s in seeds]) / 100 for arm in (a, b))
    made = multiplier(errors, 0.5 / 1000)  # type: ignore[arg-type]
    if made is None:
        return None
    widths = [asdict(w) | {"at_ceiling": w.at_ceiling} for w in made.widths]
    return {"factor": made.factor, "low": made.low, "high": made.high, "widths": widths}


def _norms(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {"comparisons": compared(rows, ("norm", "width"), margin, share)}


def _depth(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {"comparisons": compared(rows, ("depth", "width"), margin, share)}


def _capacity(rows: Sequence[Row], margin: float, share: float) -> Result:
    """What 2 and 4 times the channels do to accuracy, and the bias with and without weight decay."""
    widths, decays = values(rows, "width"), values(rows, "weight_decay")
    places = [(d, b, w) for d in decays for b in ("all", "head") for w in widths[1:]]
    family, base = [], {}
    for decay, bias, width in places:
        base = {"weight_decay": decay, "bias": bias}
        family.append(differences(arms(rows, base | {"width": width}), arms(rows, base | {"width": widths[0]})))
    gains = [
        {"weight_decay": d, "bias": b, "width": w, "times": w / widths[0], **asdict(j)}
        for (d, b, w), j in zip(places, stats.judge(family, margin, share), strict=True)
    ]
    accuracy = [
        {"weight_decay": d, "bias": b, "width": w, **mean_interval(list(seen.values()))}
        for d in decays
        for b in ("all", "head")
        for w in widths
        if (seen := arms(rows, {"weight_decay": d, "bias": b, "width": w}))
    ]
    comparisons = compared(rows, ("weight_decay", "width"), margin, share)
    return {"base": widths[0], "gains": gains, "accuracy": accuracy, "comparisons": comparisons}


_MADE: dict[str, Callable[[Sequence[Row], float, float], Result]] = {
    "exact": exact,
    "identity": identity,
    "contrast": contrast,
    "widths": _widths,
    "recall": recall,
    "ablation": ablation,
    "norms": _norms,
    "capacity": _capacity,
    "depth": _depth,
    "drift": drift,
    "rates": rates,
}


SCHEMA = "biasopt.study/1"
MINUS = "\u2212"


@dataclass(frozen=True, slots=True)
class Ran:
    """What the document says of the run itself."""

    rows: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]
    planned: int
    left_out: Sequence[str]
    resumed: int
    seconds: float
    cpu_seconds: float
    quick: bool


def study_document(ran: Ran, margin: float, *, argv: Sequence[str], version: str) -> dict[str, Any]:
    """The document.

    Parameters
    ----------
    margin : float
        Percentage points that count as no difference.
    """
    share = ran.facts["test"] / ran.facts["train"]
    found = results(ran.rows, margin, share)
    if "widths" in found:
        in_parameters(found["widths"], ran.facts["shape"], ran.facts["classes"])
    made = checks.checks(found)
    valid = checks.valid(made)
    return {
        "schema": SCHEMA,
        "tool": parts.tool(argv, version),
        "exit_code": 1 if valid is False else 0,
        "verdict": verdict(found, made, ran.facts["dataset"], margin),
        "valid": valid,
        "checks": [asdict(check) for check in made],
        "warnings": _warnings(ran, made),
        "claims": [asdict(claim) | {"blocks": list(claim.blocks)} for claim in claims.claims(found, margin)],
        "margin": margin,
        "results": found,
        "limits": limits(ran, found),
        "facts": dict(ran.facts),
        "run": {
            "jobs": ran.planned,
            "left_out": list(ran.left_out),
            "resumed": ran.resumed,
            "seconds": round(ran.seconds, 1),
            "cpu_seconds": round(ran.cpu_seconds, 1),
            "models": sum(row["block"] != "exact" for row in ran.rows),
            "quick": ran.quick,
        },
        "rows": [{k: _short(v) for k, v in row.items() if k not in ("job", "of")} for row in ran.rows],
        "repro": parts.repro(argv),
    }


def _short(value: Any) -> Any:
    """A measured number to 6 digits: more say nothing, and rows are many."""
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_short(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def verdict(found: Mapping[str, Any], made: list[checks.Check], dataset: str, margin: float) -> dict[str, Any]:
    """The answer in a sentence, its conditions, and whether it is an answer."""
    failed = [check for check in made if check.passed is False]
    if failed:
        said = "; ".join(f"{check.name}: {check.said}" for check in failed)
        more = f"What is certain did not show. {said}."
        return {"answered": False, "sentence": "This run is invalid: a control failed.", "more": more}
    if "widths" not in found:
        more = "The claims below say what was looked at."
        return {"answered": False, "sentence": "The main comparison was not run.", "more": more}
    return _answer(found, dataset, margin) | {"more": _more(found, margin)}


def _answer(found: Mapping[str, Any], dataset: str, margin: float) -> dict[str, Any]:
    compared = found["widths"]["comparisons"]
    common = set.intersection(*(set(s["equivalent"]) for s in found["widths"]["sequence"].values()))
    widest = max(c["width"] for c in compared)
    if any(c["verdict"] == DIFFERENT for c in compared if c["width"] == widest):
        said = f"On {dataset}, biases in the convolutions make a difference, even in the widest nets."
        return {"answered": True, "sentence": said}
    if common:
        so = f"from {min(common)} channels on" if min(common) < widest else f"at {widest} channels"
        said = f"On {dataset}, biases in the convolutions change accuracy by less than {margin:g} points {so}."
        return {"answered": True, "sentence": said}
    said = f"On {dataset}, these seeds cannot tell whether biases in the convolutions make a difference."
    return {"answered": False, "sentence": said}


def _more(found: Mapping[str, Any], margin: float) -> str:
    compared = found["widths"]["comparisons"]
    parts_ = []
    open_ = sorted({c["width"] for c in compared if c["verdict"] not in (DIFFERENT, EQUIVALENT)})
    if open_:
        parts_.append(f"At {_listed(open_)} channels the seeds that were run leave it open, for one input or both.")
    some = [c for c in compared if c["verdict"] == DIFFERENT]
    if some:
        said = "; ".join(f"{points(c['mean'])} points at {c['width']} channels, {c['input']} input" for c in some)
        parts_.append(f"They differ: {said}.")
    contrast = found.get("contrast", {}).get("accuracy", [])
    if contrast:
        none = max(r["mean"] for r in contrast if r["bias"] == "none")
        every = min(r["mean"] for r in contrast if r["bias"] == "all")
        parts_.append(
            f"Where brightness is the answer they make all the difference, at any width: {every:.0f} % right with "
            f"biases, {none:.0f} % without."
        )
    nets = [n for n in found.get("ablation", {}).get("nets", []) if n["norm"] == "batch"]
    if nets:
        net = max(nets, key=lambda n: n["width"])
        zero, seq = (net["methods"][m]["lost"]["mean"] for m in ("zero", "sequential"))
        parts_.append(
            f"Taken out of a trained net of {net['width']} channels whose batch norm was folded they cost "
            f"{zero:.1f} points; moved into the weights, {max(seq, 0):.1f}."
        )
    return " ".join(parts_)


def points(value: float) -> str:
    """``+1.04``, with a real minus."""
    return f"{value:+.2f}".replace("-", MINUS)


def _listed(widths: Sequence[int]) -> str:
    said = [str(w) for w in widths]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _warnings(ran: Ran, made: list[checks.Check]) -> list[str]:
    found = [f"Control not run: {check.name}." for check in made if check.passed is None]
    if ran.left_out:
        found.append(
            f"{len(ran.left_out)} of {ran.planned} jobs did not fit into the time; --out DIR keeps rows, so that "
            "another run goes on with them."
        )
    if ran.quick:
        found.append("A quick run: few widths, few seeds, some claims not looked at.")
    return found


def limits(ran: Ran, found: Mapping[str, Any]) -> list[str]:
    """What this does not show."""
    facts = ran.facts
    c, h, w = facts["shape"]
    said = [
        (
            f"One data set: {facts['dataset']}, {facts['images']:,} images of {c} x {h} x {w} numbers; "
            "nothing here says what happens on ImageNet."
        ),
        (
            "One recipe: 3 x 3 convolutions with ReLU, Adam with a rate of 0.01 (0.003 from 32 channels on) along a "
            "cosine, 420 steps of 64 images. No depthwise convolutions, no attention, no tuning of each arm by itself "
            "(the block on rates looks at that)."
        ),
        (
            "Intervals are over seeds: split, initial weights and order of batches at once. The splits of one data set "
            "overlap, so that on new data of this kind they are wider: see the columns on new data."
        ),
        "Equivalent means within the margin, not the same. No difference found is not no difference.",
        (
            "In distribution only. A net without biases is the same at every contrast; whether that is good depends on "
            "what a level means, see the contrast control."
        ),
    ]
    if "ablation" in found:
        said.append(
            "Biases of nets trained without batch norm are small here; that leaving them out is harmless says little."
        )
    if "recall" in found:
        said.append("LSTMs: one lag, 32 cells, a task made for the forget gate. On other data it may matter less.")
    return said
