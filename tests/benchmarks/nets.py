"""torchvision nets as ONNX files: with every BatchNormalization, and as torch exports by default.

Both of torch's exporters fold Conv and BatchNorm themselves by default. Here they are told not to, but for
``default``, which is what ``torch.onnx.export(..., dynamo=True)`` writes. The statistics are random: with a fresh net's
mean 0 and variance 1 a wrong fold would not show.

``python -m tests.benchmarks.nets NAME EXPORTER OUT`` writes one file; `path` calls that and keeps the result.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

NAMES = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "efficientnet_b0",
    "densenet121",
    "mnasnet1_0",
    "shufflenet_v2_x1_0",
    "regnet_y_400mf",
)
EXPORTERS = ("torchscript", "dynamo", "default")
ROOT = Path(__file__).resolve().parents[2]


def cache() -> Path:
    """Return the folder of exported nets: one for each version of torch."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "biasopt-bench" / f"torch-{version('torch')}"


def path(name: str, exporter: str) -> Path:
    """Return the file of one exported net, exported now if it is not there yet."""
    target = cache() / f"{name}-{exporter}.onnx"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}.part")
        command = [sys.executable, "-m", "tests.benchmarks.nets", name, exporter, str(part)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name} could not be exported with {exporter}:\n{done.stderr[-2000:]}")
        part.replace(target)
    return target


def build(name: str) -> Any:
    """Make a torchvision net in eval mode with seeded weights and random BatchNorm statistics."""
    import torch

    from converter.torch_models.spec.libraries import need

    models = need("torchvision.models")

    torch.manual_seed(zlib.crc32(name.encode()))
    net = models.get_model(name, weights=None).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.0, 0.2)
            torch.nn.init.normal_(module.running_mean, 0.0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net


def export(name: str, exporter: str, target: Path) -> None:
    """Write one net, BatchNormalization nodes and all unless by default."""
    import torch

    net, example = build(name), (torch.zeros(1, 3, 224, 224),)
    if exporter != "torchscript":
        program = torch.onnx.export(net, example, dynamo=True, optimize=exporter == "default", verbose=False)
        program.save(target)
        return
    torch.onnx.export(
        net,
        example,
        target,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=17,
        input_names=["input"],
        output_names=["output"],
    )


if __name__ == "__main__":
    export(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
