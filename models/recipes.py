"""Train the models of the zoo on scikit-learn's digits, export them to ONNX, or check the files that are there.

python models/recipes.py               train and export all, write zoo.toml and the README's table
python models/recipes.py --only NAME   build one into --out, without zoo.toml
python models/recipes.py --check       compare the files with zoo.toml, trains nothing
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

if not __package__:  # run as a script: sys.path holds models/, not the folder above it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import nets, zoo

BATCH = 64
LEARNING_RATE = 5e-3

KEPT = {"namespace", "pkg.torch.onnx.original_node_name"}
"""Metadata that names modules, not files; it stays, as a real export would have it."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model of the zoo is built, trained, exported and judged."""

    name: str
    build: Callable[[], nn.Module]
    metric: str  # a key of zoo.METRICS; it also chooses input, target and loss
    exporter: str  # "torchscript" or "dynamo"
    opset: int
    epochs: int
    text: str


RECIPES = (
    Recipe(
        "digits_cnn_bn",
        nets.CnnBiasBn,
        "accuracy",
        "torchscript",
        17,
        40,
        "Conv (with bias), BatchNorm, ReLU, three times",
    ),
    Recipe(
        "digits_cnn_plain_bn",
        nets.CnnPlainBn,
        "accuracy",
        "dynamo",
        18,
        40,
        "Bias-free Conv, each with a computed zero bias; BatchNorm also before the unpadded stem and the head",
    ),
    Recipe(
        "digits_mobilenet",
        nets.MobileNet,
        "accuracy",
        "torchscript",
        13,
        40,
        "Depthwise Conv, linear bottlenecks, residual Add, ReLU6",
    ),
    Recipe(
        "digits_unet_in",
        nets.UNet,
        "mean_iou",
        "torchscript",
        17,
        40,
        "U-Net that finds a digit's pixels under noise: Conv (with bias), InstanceNorm, ConvTranspose",
    ),
    Recipe("digits_lstm", nets.RowLstm, "accuracy", "torchscript", 17, 60, "LSTM over the rows of the image"),
    Recipe(
        "digits_autoencoder",
        nets.Autoencoder,
        "r2",
        "torchscript",
        17,
        60,
        "Gemm and BatchNorm1d down to 12 numbers, ConvTranspose and BatchNorm up again",
    ),
    Recipe(
        "digits_vit",
        nets.TinyVit,
        "accuracy",
        "dynamo",
        20,
        100,
        "Two transformer blocks; query, key and value with biases",
    ),
)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "accuracy": functional.cross_entropy,
    "mean_iou": functional.binary_cross_entropy_with_logits,
    "r2": functional.mse_loss,
}


def _target(split: zoo.Split, metric: str) -> Tensor:
    return torch.from_numpy({"accuracy": split.labels, "mean_iou": split.masks, "r2": split.images}[metric])


def seed() -> None:
    """Make what follows repeatable: one thread, one seed, deterministic kernels."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)


def train(recipe: Recipe) -> nn.Module:
    """Build and train the network of `recipe` from the seed, and return it in eval mode."""
    seed()
    split, _ = zoo.digits()
    x, y = torch.from_numpy(zoo.inputs(split, recipe.metric)), _target(split, recipe.metric)
    net, loss_of = recipe.build(), LOSSES[recipe.metric]
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, epochs=recipe.epochs, steps_per_epoch=-(-len(x) // BATCH)
    )
    for _ in range(recipe.epochs):
        if recipe.metric == "mean_iou":  # new noise each time, or the net learns the noise by heart
            x = torch.from_numpy(split.images) + zoo.NOISE * torch.randn(x.shape)
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            optimizer.zero_grad()
            loss_of(net(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]  # torch does not type it
            optimizer.step()
            schedule.step()
    return net.eval()


def _torchscript(net: nn.Module, opset: int) -> onnx.ModelProto:
    """Export by tracing; PRESERVE keeps an eval-mode BatchNorm a node of its own instead of fusing it."""
    buffer = io.BytesIO()
    torch.onnx.export(
        net,
        (torch.zeros(2, 1, 8, 8),),
        buffer,  # type: ignore[arg-type]  # typed for dynamo=True; a trace is also written to a file object
        dynamo=False,
        opset_version=opset,
        training=torch.onnx.TrainingMode.PRESERVE,
        input_names=["image"],
        output_names=["out"],
        dynamic_axes={"image": {0: "N"}, "out": {0: "N"}},
    )
    return onnx.load_from_string(buffer.getvalue())


def _dynamo(net: nn.Module, opset: int) -> onnx.ModelProto:
    """Export through torch.export, unoptimised: the optimiser would fold BatchNorm and the computed zero biases."""
    program = torch.onnx.export(
        net,
        (torch.zeros(2, 1, 8, 8),),
        dynamo=True,
        optimize=False,
        opset_version=opset,
        input_names=["image"],
        output_names=["out"],
        dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
        verbose=False,
    )
    assert program is not None  # only dynamo=False answers None
    return program.model_proto


def _strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove doc strings and metadata, but for `KEPT`: dynamo's hold stack traces with paths of this machine."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        kept = [entry for entry in item.metadata_props if entry.key in KEPT]
        item.ClearField("metadata_props")
        item.metadata_props.extend(kept)
        item.ClearField("doc_string")
    return model


def export(recipe: Recipe, net: nn.Module) -> onnx.ModelProto:
    """Export `net`, in eval mode, with a free batch size; its BatchNorms stay nodes of their own."""
    exporters = {"torchscript": _torchscript, "dynamo": _dynamo}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # both exporters warn of their own future
        model = _strip(exporters[recipe.exporter](net, recipe.opset))
    onnx.checker.check_model(model, full_check=True)
    return model


def make(recipe: Recipe, folder: Path) -> dict[str, str | int | float]:
    """Train, export and measure one model; write it to `folder` and return its entry for zoo.toml."""
    file = folder / f"{recipe.name}.onnx"
    file.write_bytes(export(recipe, train(recipe)).SerializeToString(deterministic=True))
    return {
        "file": file.name,
        "description": recipe.text,
        "recipe": recipe.name,
        "exporter": recipe.exporter,
        "torch": torch.__version__,
        **zoo.facts(file),
        "metric": recipe.metric,
        "value": round(zoo.measure(file, recipe.metric), 4),
        "regenerate": f"python models/recipes.py --only {recipe.name}",
    }


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=zoo.HERE, help="folder to write to (default: models/)")
    parser.add_argument("--only", choices=[r.name for r in RECIPES], help="build this one model, leave zoo.toml alone")
    parser.add_argument("--check", action="store_true", help="compare the files in --out with its zoo.toml")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Build the zoo or check it; 1 if a check found a difference."""
    args = _arguments(argv)
    if args.check:
        found = zoo.check(args.out)
        print("\n".join(found) or f"{len(zoo.read(args.out))} models agree with zoo.toml")
        return 1 if found else 0
    args.out.mkdir(parents=True, exist_ok=True)
    entries = []
    for recipe in RECIPES:
        if args.only in (None, recipe.name):
            entries.append(make(recipe, args.out))
            print(
                "{file}: {bytes:,} bytes, {batch_norms} BN, {biases} biases, {metric} {value}".format(**entries[-1]),
                flush=True,
            )
    if args.only is None:
        zoo.write(entries, args.out)
        zoo.write_readme(entries, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
