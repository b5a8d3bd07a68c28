"""Do weights replace biases, and does width help? Digits nets of three widths, trained here, ablated by `converter`.

python -m tests.benchmarks.ablate_digits              trains, prints the table, writes docs/ablate-width.svg and .json
python -m tests.benchmarks.ablate_digits --seeds 1    quicker

Three convolutions (3x3, padded; max-pool after the first two) with BatchNorm, ReLU, and a linear head; half of
scikit-learn's 1,797 digits to train and calibrate on, half to test on. One thread, seeded.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if not __package__:
    sys.path.insert(0, str(ROOT))

WIDTHS = (4, 16, 64)
EPOCHS, BATCH, RATE = 30, 64, 1e-2


def halves(seed: int) -> tuple[Any, Any, Any, Any]:
    """Images [N, 1, 8, 8] of deviation 1 and labels: of the half to train on, and of the half to test on."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = raw.images[:, None].astype(np.float32)
    images /= images.std()
    order = np.random.default_rng(seed).permutation(len(images))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    return images[first], raw.target[first], images[second], raw.target[second]


def trained(
    width: int, seed: int, *, epochs: int = EPOCHS, norm: bool = True
) -> tuple[bytes, tuple[Any, Any, Any, Any]]:
    """A trained net as ONNX, its BatchNorms nodes of their own, and its data."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = halves(seed)
    layers: list[nn.Module] = []
    for k in range(3):
        layers.append(nn.Conv2d(width if k else 1, width, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(width)] if norm else []
        layers += [nn.ReLU()] + ([nn.MaxPool2d(2)] if k < 2 else [])
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 4, 10))
    x, y = torch.from_numpy(data[0]), torch.from_numpy(data[1])
    steps = epochs * -(-len(x) // BATCH)
    best = torch.optim.Adam(net.parameters(), RATE)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(best, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            best.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            best.step()
            rate.step()
    return exported(net.eval()), data


def exported(net: Any) -> bytes:
    """The net as ONNX, nothing folded."""
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(2, 1, 8, 8),),
            buffer,
            dynamo=False,
            opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["image"],
            output_names=["out"],
            dynamic_axes={"image": {0: "N"}, "out": {0: "N"}},
        )
    return buffer.getvalue()


# -- ablation --------------------------------------------------------------------------------


def measured(content: bytes, data: tuple[Any, Any, Any, Any]) -> dict[str, Any]:
    """Accuracy on the test half of the net as it is, with its convolutions' biases zeroed, and with them imitated."""
    from converter.ablate.ablate import open_model
    from converter.ablate.compensate import FitOptions, compensate
    from converter.ablate.measure import measure_effects, measure_mean_gap
    from converter.ablate.samples import Data, DataSource
    from converter.ablate.session import Net
    from converter.ablate.statistics import SurveyLimits, survey_layers
    from converter.referee.proto.source import list_free_inputs

    found = open_model(content)
    net, ports = Net(found.source, found.found.sites), list_free_inputs(found.source.proto)
    sites = [s for s in net.sites if s.op == "Conv"]
    fit = Data(DataSource(inputs={"image": data[0]}), found.source.proto, ports, 1 << 30).all()
    test = Data(DataSource(inputs={"image": data[2]}, labels=data[3]), found.source.proto, ports, 1 << 30).all()
    states = {"zeroed": dict(net.original), "imitated": compensate(net, sites, fit, FitOptions()).state}
    for site in sites:
        states["zeroed"] |= net.without(site)
    states["head corrected"] = states["zeroed"]
    states["inner imitated"] = compensate(net, sites[1:], fit, FitOptions()).state
    gap = {"head corrected": measure_mean_gap(net, states["zeroed"], fit, "out")}
    effects, _ = measure_effects(net, states, test, "out", decides=True, corrections=gap)
    scores, _ = survey_layers(net, sites, fit, SurveyLimits(), lambda text: None)
    first = effects["zeroed"].to_json()
    return {
        "original": 100 * first["accuracy_before"],
        "accuracy": {n: 100 * e.to_json()["accuracy_after"] for n, e in effects.items()},
        "error": {n: e.relative_error for n, e in effects.items()},
        "r": [scores[s.label].r for s in sites],
        "ratio": [scores[s.label].ratio for s in sites],
        "off": off(net, {"imitated": states["imitated"], "inner imitated": states["inner imitated"]}, test),
    }


def off(net: Any, states: dict[str, Any], test: Any) -> dict[str, dict[str, float]]:
    """Accuracy on the test half, moved away from the data."""
    from converter.ablate.measure import make_probes, measure_deviation, measure_effects

    found = {}
    for probe in make_probes(("contrast", "offset", "noise"), measure_deviation(test), 0):
        effects, _ = measure_effects(
            net, {"original": net.original} | states, test, "out", decides=True, shift=probe.shift
        )
        found[probe.said] = {n: 100 * e.to_json()["accuracy_after"] for n, e in effects.items()}
    return found


def replaceability(correlation: float, n: int, positions: int) -> float:
    """r of n inputs that are ReLU of a standard normal, with a common part."""
    from converter.ablate.im2col import Moments, Rows

    rng, sums = np.random.default_rng(n), Moments()
    for k in range(20):
        shared, own = rng.standard_normal((positions // 20, 1)), rng.standard_normal((positions // 20, n))
        x = np.maximum(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own, 0)
        sums.add(Rows(x[None], own[None, :, :1], k))
    return float(sums.residual()[0])


def averaged(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean over seeds of every number."""

    def mean(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {k: mean([v[k] for v in values]) for k in values[0]}
        if isinstance(values[0], list):
            return [mean(list(v)) for v in zip(*values, strict=True)]
        return round(float(np.mean(values)), 4)

    found: dict[str, Any] = mean(runs)
    return found


# -- what is written -------------------------------------------------------------------------

SERIES = {  # colours of the project's charts, and how dots differ where there is no colour
    "original": ("#5b6671", "original"),
    "imitated": ("#2b6cb8", "biases imitated by weights"),
    "head corrected": ("#955f00", "zeroed, head corrected"),
    "zeroed": ("#bb2d23", "biases zeroed"),
}


def picture(found: dict[str, dict[str, Any]]) -> str:
    """Accuracy by width, as an SVG of its own."""
    left, top, wide, high = 56, 22, 520, 250
    at = {w: left + 60 + k * (wide - 120) / (len(WIDTHS) - 1) for k, w in enumerate(WIDTHS)}

    def y(value: float) -> float:
        return top + high * (1 - value / 100)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + wide + 190} {top + high + 56}" role="img">',
        '<g font-family="system-ui, sans-serif" font-size="13">',
        "<title>Test accuracy of digits nets without biases in their convolutions, by width</title>",
        f'<rect width="{left + wide + 190}" height="{top + high + 56}" fill="#fff"/>',
    ]
    for value in range(0, 101, 20):
        parts.append(f'<path d="M{left} {y(value):.1f}h{wide}" stroke="#e1e5e9"/>')
        parts.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#55616d">{value} %</text>')
    for width, x in at.items():
        parts.append(f'<text x="{x:.1f}" y="{top + high + 22}" text-anchor="middle" fill="#55616d">{width}</text>')
    parts.append(
        f'<text x="{left + wide / 2}" y="{top + high + 44}" text-anchor="middle" fill="#55616d">channels</text>'
    )
    ends: list[float] = []
    for name, (colour, said) in SERIES.items():
        values = [found[str(w)]["original"] if name == "original" else found[str(w)]["accuracy"][name] for w in WIDTHS]
        dots = [(at[w], y(v)) for w, v in zip(WIDTHS, values, strict=True)]
        line = " ".join(f"{'L' if k else 'M'}{x:.1f} {v:.1f}" for k, (x, v) in enumerate(dots))
        dash = ' stroke-dasharray="6 4"' if name == "original" else ""
        parts.append(f'<path d="{line}" fill="none" stroke="{colour}" stroke-width="2.5"{dash}/>')
        for (x, v), value in zip(dots, values, strict=True):
            parts.append(
                f'<circle cx="{x:.1f}" cy="{v:.1f}" r="4.5" fill="{colour}"><title>{value:.1f} %</title></circle>'
            )
        place = dots[-1][1] + 4
        while any(abs(place - other) < 16 for other in ends):
            place += 16 - min(abs(place - other) for other in ends)
        ends.append(place)
        parts.append(f'<text x="{left + wide - 42}" y="{place:.1f}" fill="{colour}">{said}</text>')
    return "\n".join([*parts, "</g></svg>"]) + "\n"


def tables(found: dict[str, Any]) -> str:
    """The tables of docs/ablate.md."""
    widths = found["widths"]
    lines = [
        "| channels | original | zeroed | head corrected | inner imitated | all imitated |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for w, row in widths.items():
        accuracy, error = row["accuracy"], row["error"]
        cells = [
            f"{accuracy[n]:.1f} ({error[n]:.2g})" for n in ("zeroed", "head corrected", "inner imitated", "imitated")
        ]
        lines.append(f"| {w} | {row['original']:.1f} | {' | '.join(cells)} |")
    lines += ["", "| channels | r, first layer | second | third | mean abs(b)/sd |", "|--:|--:|--:|--:|---|"]
    for w, row in widths.items():
        ratios = ", ".join(f"{v:.2f}" for v in row["ratio"])
        lines.append(f"| {w} | {' | '.join(f'{v:.3f}' for v in row['r'])} | {ratios} |")
    names = list(next(iter(widths.values()))["off"])
    lines += ["", f"| inputs | {' | '.join(f'{w} channels' for w in widths)} |", "|---|" + "---|" * len(widths)]
    for name in names:
        cells = [" / ".join(f"{row['off'][name][k]:.1f}" for k in ("original", "imitated")) for row in widths.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| correlation | " + " | ".join(f"n = {n}" for n in SIZES) + " |", "|--:|" + "--:|" * len(SIZES)]
    for correlation, values in found["r"].items():
        lines.append(f"| {correlation} | " + " | ".join(f"{v:.2g}" for v in values) + " |")
    return "\n".join(lines) + "\n"


SIZES = (1, 4, 16, 64, 256, 1024)
POSITIONS = (400_000, 400_000, 400_000, 200_000, 100_000, 50_000)


def main(argv: list[str] | None = None) -> int:
    """Train, measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2, help="nets of each width (default: 2)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder for the picture and the numbers")
    args = parser.parse_args(argv)
    widths: dict[str, Any] = {}
    for width in WIDTHS:
        runs = [measured(*trained(width, seed)) for seed in range(args.seeds)]
        widths[str(width)] = averaged(runs)
        print(f"{width} channels: {widths[str(width)]['original']:.2f} %, {widths[str(width)]['accuracy']}", flush=True)
    r = {
        f"{c:g}": [round(replaceability(c, n, p), 4) for n, p in zip(SIZES, POSITIONS, strict=True)]
        for c in (0.0, 0.2, 0.8)
    }
    found = {"seeds": args.seeds, "widths": widths, "r": r}
    print(tables(found))
    (args.out / "ablate-width.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8", newline="\n")
    (args.out / "ablate-width.svg").write_text(picture(widths), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
