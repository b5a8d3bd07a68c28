"""What each block of a study says, from the rows of its jobs: comparisons over paired seeds, judged as families."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from converter import stats
from converter.dataclass import dataclass
from converter.stats import holm, wilson
from converter.study.multiplier import estimate_multiplier
from converter.study.plan import ARMS, count_parameters, start_of

Row = Mapping[str, Any]
Result = dict[str, Any]
ALPHA = 0.05
EQUIVALENT, DIFFERENT, OPEN = "EQUIVALENT", "DIFFERENT", "INCONCLUSIVE"
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One family member: differences in percentage points, first arm minus second.

    ``low``, ``high`` bound the mean at 95 %, ``low90``, ``high90`` at 90 % (these are what equivalence is read from),
    ``low_new``, ``high_new`` at 95 % for new data of this kind.
    """

    n: int
    mean: float
    sd: float
    median: float
    low: float
    high: float
    low90: float
    high90: float
    low_new: float
    high_new: float
    p_flip: float
    p_tost: float
    p_holm: float
    verdict: str
    needed: int | None


def judge(family: Sequence[Sequence[float]], margin: float, share: float = 1.0) -> list[Comparison]:
    """Judge every member of a family of comparisons; differences are called such only after Holm's correction.

    Parameters
    ----------
    family : sequence of sequences of float
        Differences per seed.
    margin : float
        What counts as no difference, in the same unit.
    share : float
        Test images over training images.
    """
    adjusted = holm([stats.t_test(d) for d in family])
    return [_judge(np.asarray(d, dtype=np.float64), p, margin, share) for d, p in zip(family, adjusted, strict=True)]


def _judge(d: Array, p_holm: float, margin: float, share: float) -> Comparison:
    sd = float(d.std(ddof=1)) if len(d) > 1 else math.nan
    p_tost = stats.tost(d, margin)
    verdict = EQUIVALENT if p_tost <= ALPHA else DIFFERENT if p_holm <= ALPHA else OPEN
    return Comparison(
        len(d),
        float(d.mean()),
        sd,
        float(np.median(d)),
        *stats.t_interval(d, 0.95),
        *stats.t_interval(d, 0.90),
        *stats.nadeau_bengio(d, share, 0.95),
        stats.sign_flip(d),
        p_tost,
        p_holm,
        verdict,
        stats.needed_seeds(sd, margin) if verdict == OPEN and len(d) > 1 else None,
    )


def mean_interval(values: Sequence[float]) -> Result:
    """Mean with its 95 % interval over seeds, and the least and the most."""
    low, high = stats.t_interval(values, 0.95)
    ends = {"least": min(values), "most": max(values)}
    return {"n": len(values), "mean": float(np.mean(values)), "low": low, "high": high, "median": median(values)} | ends


def select_arms(rows: Iterable[Row], where: Mapping[str, Any]) -> dict[int, float]:
    """Accuracy by seed of the models that have these values."""
    return {r["seed"]: r["accuracy"] for r in rows if all(r[k] == v for k, v in where.items())}


def pair_differences(first: Mapping[int, float], second: Mapping[int, float]) -> list[float]:
    """First minus second, of the seeds that both have."""
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def list_values(rows: Iterable[Row], key: str) -> list[Any]:
    return sorted({row[key] for row in rows})


def contrast_pairs(family: Sequence[tuple[Result, Sequence[float]]], margin: float, share: float) -> list[Result]:
    """Differences that were chosen beforehand, each with what it is of, judged as one family."""
    judged = judge([d for _, d in family], margin, share)
    return [at | asdict(j) for (at, _), j in zip(family, judged, strict=True)]


def compare_arms(rows: Sequence[Row], keys: Sequence[str], margin: float, share: float) -> list[Result]:
    """With biases against without, for every combination of ``keys``, judged as one family."""
    places = sorted({tuple(row[k] for k in keys) for row in rows}, key=_rank_place)
    pairs = []
    for place in places:
        at = dict(zip(keys, place, strict=True))
        pairs.append((at, select_arms(rows, at | {"bias": "all"}), select_arms(rows, at | {"bias": "head"})))
    family = [pair_differences(a, b) for _, a, b in pairs]
    judged = judge(family, margin, share)
    return [_comparison(at, a, b, j) for (at, a, b), j in zip(pairs, judged, strict=True)]


_FIRST = {"raw": 0, "centred": 1, "pixel": 2, "free": 0, "none": -1, "batch": 0, "instance": 1, "layer": 2}


def _rank_place(place: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_FIRST.get(v, v) if isinstance(v, str) else v for v in place)


def _comparison(at: Result, a: Mapping[int, float], b: Mapping[int, float], judged: Comparison) -> Result:
    wrong = [100 - float(np.mean(list(arm.values()))) for arm in (a, b)]
    ratio = wrong[1] / wrong[0] if wrong[0] > 0 else math.nan
    both = {"with": mean_interval(list(a.values())), "without": mean_interval(list(b.values()))}
    return at | both | {"error_ratio": ratio} | asdict(judged)


def summarize_contrast(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {
        "accuracy": [
            {"width": w, "bias": b, **mean_interval(seen), "worst": max(seen) if b == "none" else min(seen)}
            for w in list_values(rows, "width")
            for b in ("all", "head", "none")
            if (seen := list(select_arms(rows, {"width": w, "bias": b}).values()))
        ]
    }


def summarize_identity(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {
        "checks": [
            {
                "norm": norm,
                "n": len(mine),
                "apart": max(r["apart"] for r in mine),
                "difference": max(abs(r["accuracy"] - r["accuracy_without"]) for r in mine),
            }
            for norm in list_values(rows, "norm")
            for mine in [[r for r in rows if r["norm"] == norm]]
        ]
    }


def summarize_recall(rows: Sequence[Row], margin: float, share: float) -> Result:
    lags = list_values(rows, "lag")
    arms = [_summarize_arm([r for r in rows if r["lag"] == lag], lag, arm) for lag in lags for arm in ARMS]
    by_name = {(a["lag"], a["forget_bias"]): a for a in arms}
    # What was claimed, "a large value such as 1 or 2", against 0, at each lag; and the other rule against the 2.
    wanted = [(lag, arm, "0") for lag in lags for arm in ("1", "2")]
    others = [(lag, "ln(T-1)", "2") for lag in lags]
    tests = []
    for family in (wanted, others):
        p = [_test_solved(by_name[lag, a], by_name[lag, b]) for lag, a, b in family]
        tests += [
            {"lag": lag, "forget_bias": a, "against": b, "p": v, "p_holm": h}
            for (lag, a, b), v, h in zip(family, p, holm(p), strict=True)
        ]
    return {"lags": lags, "steps": max(row["steps"] for row in rows), "arms": arms, "tests": tests}


def _test_solved(first: Result, second: Result) -> float:
    return stats.fisher(first["solved"], first["n"], second["solved"], second["n"])


def _summarize_arm(rows: Sequence[Row], lag: int, arm: str) -> Result:
    mine = [row for row in rows if row["forget_bias"] == arm]
    done = [row["solved_at"] for row in mine]
    solved = sum(at is not None for at in done)
    low, high = wilson(solved, len(mine))
    middle = median(math.inf if at is None else at for at in done)
    checks = mine[0]["checks"]
    return {
        "lag": lag,
        "forget_bias": arm,
        "n": len(mine),
        "solved": solved,
        "low": low,
        "high": high,
        "median_steps": None if math.isinf(middle) else middle,
        "solved_at": done,
        "accuracy": float(np.mean([row["accuracy"] for row in mine])),
        "curve": [float(np.mean([row["curve"][k] for row in mine])) for k in range(len(checks))],
        "checks": checks,
        "time_constant": 1 + math.exp(start_of(arm, lag)),
    }


def summarize_points(rows: Sequence[Row], margin: float, share: float) -> Result:
    """Accuracy of each arm of each task and width, judged against the same nets without biases in the hidden layer."""
    accuracy = [
        {"task": task, "width": w, "bias": b, **mean_interval(seen)}
        for task in ("threshold", "xor", "rings")
        for w in list_values(rows, "width")
        for b in ("all", "head", "none")
        if (seen := list(select_arms(rows, {"task": task, "width": w, "bias": b}).values()))
    ]
    return {"accuracy": accuracy}


def summarize_ablation(rows: Sequence[Row], margin: float, share: float) -> Result:
    nets = []
    for norm in ("none", "batch"):
        for width in list_values(rows, "width"):
            mine = [row for row in rows if row["norm"] == norm and row["width"] == width]
            if mine:
                nets.append({"norm": norm, "width": width, "n": len(mine)} | _summarize_net(mine))
    folded = [net for net in nets if net["norm"] == "batch"]
    return {"nets": nets, "zeroing": _summarize_zeroing(folded[-1]) if folded else None}


def _summarize_zeroing(net: Result) -> Result:
    """What leaving the biases out of the widest folded nets costs, in points, with its range."""
    lost: Result = net["methods"]["zero"]["lost"]
    return {"width": net["width"]} | lost


def _summarize_net(rows: Sequence[Row]) -> Result:
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
        for m in rows[0]["methods"]
    }
    return {"methods": methods, "layers": _average_layers(rows, ("r", "size"))}


def _average_layers(rows: Sequence[Row], keys: Sequence[str]) -> list[Result]:
    count = len(rows[0].get("layers", ()))
    return [{k: float(np.mean([r["layers"][i][k] for r in rows])) for k in keys} for i in range(count)]


def summarize_drift(rows: Sequence[Row], margin: float, share: float) -> Result:
    found = []
    for name in list_values(rows, "optimiser"):
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


def summarize_rates(rows: Sequence[Row], margin: float, share: float) -> Result:
    found = compare_arms([r for r in rows if r["task"] == "validation"], ("width", "rate"), margin, share)
    tested = [r for r in rows if r["task"] == "images"]
    best = {}
    for width in list_values(found, "width"):
        mine = [c for c in found if c["width"] == width]
        pick = {arm: max(mine, key=lambda c, arm=arm: c[arm]["mean"])["rate"] for arm in ("with", "without")}  # type: ignore[misc]
        best[str(width)] = pick
    other = compare_arms(tested, ("width", "rate"), margin, share) if tested else []
    return {"comparisons": found, "best": best, "tested": other}


def summarize_exact(rows: Sequence[Row], margin: float, share: float) -> Result:
    drop = ("job", "of", "block", "check")
    return {
        check: [{k: v for k, v in row.items() if k not in drop} for row in rows if row["check"] == check]
        for check in ("replaceability", "first layer", "dead", "constant channel", "update")
    }


def summarize_blocks(rows: Sequence[Row], margin: float, share: float) -> dict[str, Any]:
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


def add_parameters(widths: Result, image: Sequence[int], classes: int) -> None:
    """Add to each multiplier in channels what it is in parameters of the whole net."""
    for made in filter(None, widths["multiplier"].values()):
        for at in made["widths"]:
            w, factor = at["width"], at["factor"]
            before = count_parameters(w, image, classes, biases=True)
            after = None if factor is None else count_parameters(factor * w, image, classes, biases=False)
            at["parameters"] = None if after is None else after / before


def _summarize_widths(rows: Sequence[Row], margin: float, share: float) -> Result:
    main = [row for row in rows if row["bias"] != "none"]
    found = compare_arms(main, ("input", "width"), margin, share)
    nowhere = [
        {"input": i, "width": w, **mean_interval(list(seen.values()))}
        for i in list_values(rows, "input")
        for w in list_values(rows, "width")
        if (seen := select_arms(rows, {"input": i, "width": w, "bias": "none"}))
    ]
    inputs = [i for i in ("raw", "centred", "pixel") if any(c["input"] == i for c in found)]
    return {
        "comparisons": found,
        "small": _pool_smallest(main, inputs, margin, share),
        "nowhere": nowhere,
        "sequence": {i: _test_sequence([c for c in found if c["input"] == i]) for i in inputs},
        "multiplier": {i: _pool_multiplier([r for r in main if r["input"] == i]) for i in inputs},
    }


def _pool_smallest(rows: Sequence[Row], inputs: Sequence[str], margin: float, share: float) -> Result:
    """The one contrast of small nets, fixed beforehand: at the smallest width, each seed's mean over the inputs."""
    width = min(row["width"] for row in rows)
    by_input = [
        {s: a[s] - b[s] for s in a.keys() & b.keys()}
        for i in inputs
        for a, b in [[select_arms(rows, {"width": width, "input": i, "bias": bias}) for bias in ("all", "head")]]
    ]
    seeds = sorted(set.intersection(*(set(one) for one in by_input)))
    pooled = [float(np.mean([one[s] for one in by_input])) for s in seeds]
    return {"width": width} | asdict(judge([pooled], margin, share)[0])


def _test_sequence(found: list[Result]) -> Result:
    """Equivalence tested from the widest down, as far as it goes."""
    wide = sorted(found, key=lambda c: -c["width"])
    held = stats.fixed_sequence([c["p_tost"] for c in wide])
    widths = [c["width"] for c in wide]
    return {"equivalent": widths[:held], "stopped_at": widths[held] if held < len(widths) else None}


def _pool_multiplier(rows: Sequence[Row]) -> Result | None:
    errors = {}
    for width in list_values(rows, "width"):
        a, b = (select_arms(rows, {"width": width, "bias": bias}) for bias in ("all", "head"))
        seeds = sorted(a.keys() & b.keys())
        errors[width] = tuple(1 - np.array([arm[s] for s in seeds]) / 100 for arm in (a, b))
    made = estimate_multiplier(errors, 0.5 / 1000)  # type: ignore[arg-type]
    if made is None:
        return None
    widths = [asdict(w) | {"at_ceiling": w.at_ceiling} for w in made.widths]
    return {"factor": made.factor, "low": made.low, "high": made.high, "widths": widths}


def _summarize_norms(rows: Sequence[Row], margin: float, share: float) -> Result:
    return {"comparisons": compare_arms(rows, ("norm", "width"), margin, share)}


def _summarize_depth(rows: Sequence[Row], margin: float, share: float) -> Result:
    """Channels and depth by one yardstick: what moving the biases of a folded net into its weights costs, in points."""
    lost: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    nets = []
    removed = [row for row in rows if row["removed"]]
    for row in removed:
        made = row["methods"]
        lost[row["width"], row["depth"]][row["seed"]] = made["original"]["accuracy"] - made["sequential"]["accuracy"]
    widths, depths = (list_values(removed, key) for key in ("width", "depth"))
    for w, d in ((w, d) for w in widths for d in depths):
        mine = [row for row in removed if row["width"] == w and row["depth"] == d]
        nets.append({"width": w, "depth": d, "n": len(mine)} | {"methods": _summarize_net(mine)["methods"]})
    deep = [({"width": w}, pair_differences(lost[w, depths[-1]], lost[w, depths[0]])) for w in widths]
    wide = [({"depth": d}, pair_differences(lost[widths[0], d], lost[widths[-1], d])) for d in depths]
    return {
        "comparisons": compare_arms([r for r in rows if not r["removed"]], ("depth", "width"), margin, share),
        "nets": nets,
        "depths": depths,
        "widths": widths,
        "deeper": contrast_pairs(deep, margin, share),
        "fewer": contrast_pairs(wide, margin, share),
    }


def _summarize_mechanism(rows: Sequence[Row], margin: float, share: float) -> Result:
    """What biases are worth where weights can imitate them, and where they cannot."""
    widths = list_values(rows, "width")
    family = []
    for kind, filters in (("raw", "centred"), ("pixel", "free")):
        for w in widths:
            arms = {
                (i, f, b): select_arms(rows, {"input": i, "filters": f, "bias": b, "width": w})
                for i, f in ((kind, filters), ("raw", "free"))
                for b in ("all", "head")
            }
            here, there = (
                {s: arms[i, f, "all"][s] - arms[i, f, "head"][s] for s in arms[i, f, "all"]}
                for i, f in ((kind, filters), ("raw", "free"))
            )
            family.append(({"input": kind, "filters": filters, "width": w}, pair_differences(here, there)))
    free = [row for row in rows if row["input"] == "raw" and row["filters"] == "free"]
    layers = [
        {"width": w, "bias": b, "layers": _average_layers(mine, ("r", "bias", "noise"))}
        for w in widths
        for b in ("all", "head")
        for mine in [[row for row in free if row["width"] == w and row["bias"] == b]]
    ]
    comparisons = compare_arms(rows, ("input", "filters", "width"), margin, share)
    return {"comparisons": comparisons, "more": contrast_pairs(family, margin, share), "layers": layers}


def _summarize_capacity(rows: Sequence[Row], margin: float, share: float) -> Result:
    """The least width within the margin of the best is what is needed; then about 2 and 4 times its parameters."""
    widths, decays = list_values(rows, "width"), list_values(rows, "weight_decay")
    arms = {(d, w): select_arms(rows, {"weight_decay": d, "width": w}) for d in decays for w in widths}
    accuracy = [{"weight_decay": d, "width": w, **mean_interval(list(a.values()))} for (d, w), a in arms.items()]
    needed, family = {}, []
    for d in decays:
        mean = {w: float(np.mean(list(arms[d, w].values()))) for w in widths}
        need = min(w for w in widths if mean[w] >= max(mean.values()) - margin)
        needed[f"{d:g}"] = need
        for times, w in zip((2, 4), widths[widths.index(need) + 1 :], strict=False):
            at = {"weight_decay": d, "width": w, "times": times}
            family.append((at, pair_differences(arms[d, w], arms[d, need])))
    return {"needed": needed, "gains": contrast_pairs(family, margin, share), "accuracy": accuracy}


_MADE: dict[str, Callable[[Sequence[Row], float, float], Result]] = {
    "exact": summarize_exact,
    "identity": summarize_identity,
    "contrast": summarize_contrast,
    "points": summarize_points,
    "widths": _summarize_widths,
    "recall": summarize_recall,
    "ablation": summarize_ablation,
    "norms": _summarize_norms,
    "capacity": _summarize_capacity,
    "depth": _summarize_depth,
    "mechanism": _summarize_mechanism,
    "drift": summarize_drift,
    "rates": summarize_rates,
}
