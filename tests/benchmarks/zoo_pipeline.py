"""Every torchvision classification net through export, fold and verify, as a table in docs/zoo.md.

``python -m tests.benchmarks.zoo_pipeline [NAME ...]``; what was done is kept in the cache and not done again.

The weights are random, and so is everything that a fresh net has constant: batch norms' statistics, scales, zero
biases. With mean 0, variance 1 and a bias of 0 a wrong fold would not show.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from converter.torch_models.spec.libraries import need
from tests.benchmarks.nets import ROOT, cache

SIZES = (64, 128, 224)  # of the input: the smallest that a net takes
MOST_PARAMETERS = 150_000_000
PAGE = ROOT / "docs" / "zoo.md"


_HEAD = """\
# Every torchvision classification net: export, fold, verify

{n} nets of torchvision {torchvision}, exported by `biasopt export` (torch {torch}, dynamo), folded by `biasopt fold`,
and compared before and after (onnxruntime {ort}). Weights are random, and so is what a fresh net has constant:
statistics, scales, zero biases. The input is the smallest of 64, 128 and 224 pixels that a net takes. *R* is the
exported model's distance from a float64 run of the torch module, over torch's own distance from it; the last column is
the verdict on the folded model beside the exported one. `python -m tests.benchmarks.zoo_pipeline` made this page on
{day}.

| net | million parameters | input | R | nodes | batch norms | biases | folded |
|---|---:|---:|---:|---:|---:|---:|---|"""
_FOOT = """\
Batch norms: {modules:,} run in the torch modules, {before} in the exported models, {after} after the fold. A folded
batch norm leaves its shift as the bias of the node before it, so that there are more biases where there was none. What
is left are the norms in front of a Relu in DenseNet: each reads a Concat (or what a block begins with) whose parts
other norms read with numbers of their own, so that no layer before it can take its scale, and the Relu lets no shift
through. The report says so of each (`several-readers`, or `stops`)."""


def names() -> list[str]:
    """The classification nets of the installed torchvision."""
    models = need("torchvision.models")

    return [name for name in models.list_models() if models.get_model_builder(name).__module__.count(".") == 2]


def build(name: str) -> Any:
    """A net in eval mode in which no tensor is constant."""
    import torch

    models = need("torchvision.models")

    torch.manual_seed(zlib.crc32(name.encode()))
    net = models.get_model(name, weights=None).eval()
    with torch.no_grad():
        for key, value in (*net.named_parameters(), *net.named_buffers()):
            if value.dtype.is_floating_point and value.numel() > 1 and bool((value == value.flatten()[0]).all()):
                _spread(key, value)
    return net


def _spread(key: str, value: Any) -> None:
    around = float(value.flatten()[0])
    if key.endswith("running_var"):
        value.uniform_(0.5, 2.0)
    elif around == 0:
        value.normal_(0.0, 0.2)
    else:
        value.mul_(value.clone().uniform_(0.5, 1.5))


def size_of(net: Any) -> int:
    """The smallest of `SIZES` that the net takes."""
    import torch

    for size in SIZES:
        try:
            with torch.no_grad():
                net(torch.zeros(1, 3, size, size))
        except (RuntimeError, AssertionError):
            continue
        return size
    raise RuntimeError(f"takes no input of {SIZES}")


def norms_that_run(net: Any, size: int) -> int:
    """How many batch norms the net runs in eval mode; some nets have auxiliary heads that only training uses."""
    import torch

    ran: list[Any] = []
    norms = [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_hook(lambda module, *_: ran.append(module)) for norm in norms]
    with torch.no_grad():
        net(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return len(ran)


def run(name: str, folder: Path) -> dict[str, Any]:
    """One net from torch to a folded, verified model; what happened."""
    import torch

    import converter

    row: dict[str, Any] = {"name": name, "torch": torch.__version__}
    begun = time.perf_counter()
    net = build(name)
    row["parameters"] = sum(p.numel() for p in net.parameters())
    if row["parameters"] > MOST_PARAMETERS:
        return row | {"skipped": "size"}
    row["size"] = size_of(net)
    row["modules"] = norms_that_run(net, row["size"])
    example = torch.randn(1, 3, row["size"], row["size"], generator=torch.Generator().manual_seed(1))
    made = converter.export_model(net, folder / "net.onnx", example=(example,), quick=True, force=True)
    row |= {"opset": made.opset, "export": made.parity.verdict.value, "export_why": made.parity.why}
    row["ratio"] = max((c.score for s in made.parity.stages for c in s.outputs), default=None)
    if made.output is None:
        return row
    done = converter.fold(made.output, out=folder / "folded.onnx", quick=True, force=True)
    row |= {"fold": done.parity.verdict.value, "fold_why": done.parity.why, "level": done.parity.level}
    for when, counts in (("before", done.before), ("after", done.after)):
        row[when] = {"nodes": counts.nodes, "batch_norms": counts.batch_norms, "biases": counts.biases}
    return row | {"seconds": round(time.perf_counter() - begun, 1)}


def rows(wanted: Sequence[str], kept: Path, deadline: float) -> Iterator[dict[str, Any]]:
    """What happened to each net, from the cache or now; none after the deadline."""
    known = {row["name"]: row for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    for name in wanted:
        if name not in known and time.monotonic() < deadline:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    known[name] = run(name, Path(folder))
                except Exception as exc:
                    known[name] = {"name": name, "error": f"{type(exc).__name__}: {' '.join(str(exc).split())[:300]}"}
            with kept.open("a") as file:
                file.write(json.dumps(known[name]) + "\n")
            print(name, {k: v for k, v in known[name].items() if k not in ("name", "torch")}, flush=True)
            gc.collect()
        if name in known:
            yield known[name]


def page(found: Sequence[dict[str, Any]], left: Sequence[str]) -> str:
    """docs/zoo.md."""
    done = [row for row in found if row.get("fold") == "PASS"]
    rest = [row for row in found if row not in done and row.get("skipped") != "size"]
    giants = [row["name"] for row in found if row.get("skipped") == "size"]
    import onnxruntime
    import torch
    import torchvision

    versions = {"torch": _plain(torch), "torchvision": _plain(torchvision), "ort": _plain(onnxruntime)}
    lines = [_HEAD.format(n=len(done), day=time.strftime("%d %B %Y").lstrip("0"), **versions)]
    lines += map(_line, done)
    lines += [
        "",
        _FOOT.format(modules=sum(r["modules"] for r in done), before=_sum(done, "before"), after=_sum(done, "after")),
    ]
    if rest:
        lines += ["", "## What did not go through", ""]
        lines += [
            f"* {row['name']}: {row.get('error') or row.get('fold_why') or row.get('export_why')}" for row in rest
        ]
    if giants:
        lines += ["", f"Left out for their size (more than {MOST_PARAMETERS // 10**6} million parameters): "]
        lines[-1] += f"{', '.join(giants)}."
    if left:
        lines += ["", f"Not run: {', '.join(left)}."]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    before, after = row["before"], row["after"]
    cells = [row["name"], f"{row['parameters'] / 1e6:.1f}", row["size"], f"{row['ratio']:.2f}"]
    cells += [f"{before[key]:,} → {after[key]:,}" for key in ("nodes", "batch_norms", "biases")]
    return "| " + " | ".join(map(str, [*cells, f"{row['fold']} ({row['level']})"])) + " |"


def _plain(module: Any) -> str:
    return str(module.__version__).partition("+")[0]


def _sum(done: Sequence[dict[str, Any]], when: str) -> str:
    return f"{sum(row[when]['batch_norms'] for row in done):,}"


def main() -> None:
    """Run what is not in the cache, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--max-time", type=float, default=7200.0, help="seconds after which no further net is begun")
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    every = names()
    wanted = asked.names or every
    cache().mkdir(parents=True, exist_ok=True)
    found = list(rows(wanted, cache() / "zoo.jsonl", time.monotonic() + asked.max_time))
    if not asked.names:
        have = {row["name"] for row in found}
        asked.page.write_text(page(found, [name for name in every if name not in have]), encoding="utf-8")


if __name__ == "__main__":
    main()
