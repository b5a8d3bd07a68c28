"""The zoo without torch: the digits and their split, the metrics, and the check of files against zoo.toml.

Letters of shapes: N samples; every image is ``[N, 1, 8, 8]`` in 0…1.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

HERE = Path(__file__).resolve().parent
Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

NOISE = 0.25
"""Standard deviation of the noise on the U-Net's input; pixels lie in 0…1."""

FOREGROUND = 0.5
"""A pixel at least this bright, before the noise, belongs to the digit."""

MARKS = "<!-- table -->", "<!-- /table -->"
"""What encloses the generated table in README.md."""

_BIAS_SLOT = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "LSTM": 3}


@dataclass(frozen=True, slots=True)
class Split:
    """One half of the data: ``images`` and ``noisy`` are ``[N, 1, 8, 8]``, ``labels`` is ``[N]``."""

    images: Floats
    noisy: Floats
    labels: Labels

    @property
    def masks(self) -> Floats:
        """1 where a pixel belongs to the digit, else 0; shape ``[N, 1, 8, 8]``."""
        return (self.images >= FOREGROUND).astype(np.float32)


@cache
def digits() -> tuple[Split, Split]:
    """Read scikit-learn's 1,797 digits: 1,540 to train on, 257 to test on.

    Every seventh image is a test image: the file runs through the digits in tens, and 7 has no factor in common
    with 10, so that the classes stay balanced without any random number.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = (raw.images[:, None] / 16.0).astype(np.float32)
    noise = np.random.default_rng(7).standard_normal(images.shape)
    noisy = (images + NOISE * noise).astype(np.float32)
    labels = raw.target.astype(np.int64)
    is_test = np.arange(len(labels)) % 7 == 3
    train, test = (Split(images[m], noisy[m], labels[m]) for m in (~is_test, is_test))
    return train, test


def _accuracy(split: Split, out: Floats) -> float:
    """Share of images whose largest logit is the label's; ``out`` is ``[N, 10]``."""
    return float((out.argmax(axis=1) == split.labels).mean())


def _mean_iou(split: Split, out: Floats) -> float:
    """Foreground intersection over union, averaged over images; ``out`` holds logits, ``[N, 1, 8, 8]``."""
    got, want = out > 0, split.masks > 0
    both = (got & want).sum(axis=(1, 2, 3))
    return float((both / (got | want).sum(axis=(1, 2, 3))).mean())


def _r2(split: Split, out: Floats) -> float:
    """Share of the pixels' variance that the reconstruction explains; ``out`` is ``[N, 1, 8, 8]``."""
    spread = split.images - split.images.mean(axis=0)
    return 1.0 - float(((out - split.images) ** 2).sum() / (spread**2).sum())


METRICS: dict[str, Callable[[Split, Floats], float]] = {"accuracy": _accuracy, "mean_iou": _mean_iou, "r2": _r2}


def inputs(split: Split, metric: str) -> Floats:
    """Return what a model judged by `metric` reads: noisy images for masks, clean ones otherwise."""
    return split.noisy if metric == "mean_iou" else split.images


def measure(file: Path, metric: str) -> float:
    """Run `file` on the test split, on onnxruntime's CPU with optimisations off, and return its metric."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    _, test = digits()
    (out,) = session.run(None, {session.get_inputs()[0].name: inputs(test, metric)})
    return METRICS[metric](test, out)


def count_bn(model: onnx.ModelProto) -> int:
    """Count BatchNormalization nodes of the main graph."""
    return sum(node.op_type == "BatchNormalization" for node in model.graph.node)


def count_biases(model: onnx.ModelProto) -> int:
    """Count bias vectors of the main graph: bias inputs of Conv, ConvTranspose, Gemm and LSTM (the computed zeros of
    a bias-free convolution too), and constants added to a MatMul's output. A norm's beta is none.
    """
    from_matmul = {node.output[0] for node in model.graph.node if node.op_type == "MatMul"}
    weights = {tensor.name for tensor in model.graph.initializer}

    def is_bias_add(node: onnx.NodeProto) -> bool:
        return node.op_type == "Add" and bool(from_matmul & {*node.input}) and bool(weights & {*node.input})

    def has_bias(node: onnx.NodeProto) -> bool:
        slot = _BIAS_SLOT.get(node.op_type)
        return is_bias_add(node) if slot is None else len(node.input) > slot and bool(node.input[slot])

    return sum(map(has_bias, model.graph.node))


def sha256(file: Path) -> str:
    """Return the digest of `file` in hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def facts(file: Path) -> dict[str, str | int]:
    """Return what zoo.toml says of a file that can be read off the file itself."""
    model = onnx.load(str(file))
    return {
        "sha256": sha256(file),
        "bytes": file.stat().st_size,
        "opset": next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        "batch_norms": count_bn(model),
        "biases": count_biases(model),
    }


def read(folder: Path = HERE) -> list[dict[str, Any]]:
    """Return the ``[[model]]`` entries of ``zoo.toml``, in order."""
    with (folder / "zoo.toml").open("rb") as stream:
        entries: list[dict[str, Any]] = tomllib.load(stream)["model"]
    return entries


def write(entries: list[dict[str, Any]], folder: Path) -> None:
    """Write `entries` to ``zoo.toml``; their strings hold neither quotes nor backslashes."""
    lines = ["# Written by models/recipes.py: do not edit, run `make models`."]
    for entry in entries:
        lines += ["", "[[model]]"]
        lines += [
            f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in entry.items()
        ]
    (folder / "zoo.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(entries: list[dict[str, Any]]) -> str:
    """Return `entries` as the README's table."""
    rows = [
        "| file | what it holds | exporter, opset | BN | biases | bytes | on the test split |",
        "|---|---|---|--:|--:|--:|---|",
    ]
    for e in entries:
        score = f"{e['metric']} {e['value']:.4f}"
        rows.append(
            f"| {e['file']} | {e['description']} | {e['exporter']}, {e['opset']} "
            f"| {e['batch_norms']} | {e['biases']} | {e['bytes']:,} | {score} |"
        )
    return "\n".join(rows)


def write_readme(entries: list[dict[str, Any]], folder: Path) -> None:
    """Replace the table in the README of `folder`, if there is one."""
    readme = folder / "README.md"
    if readme.is_file():
        before, after = (readme.read_text(encoding="utf-8").split(mark) for mark in MARKS)
        readme.write_text(f"{before[0]}{MARKS[0]}\n{table(entries)}\n{MARKS[1]}{after[1]}", encoding="utf-8")


def differences(entry: dict[str, Any], folder: Path = HERE) -> Iterator[str]:
    """Yield one line for each thing in which the file differs from its entry in zoo.toml."""
    file = folder / entry["file"]
    if not file.is_file():
        yield f"{file.name}: missing"
        return
    for key, got in facts(file).items():
        if got != entry[key]:
            yield f"{file.name}: {key} is {got}, zoo.toml says {entry[key]}"
    got_metric = measure(file, entry["metric"])
    if abs(got_metric - entry["value"]) > tolerance():
        yield f"{file.name}: {entry['metric']} is {got_metric:.4f}, zoo.toml says {entry['value']}"


def check(folder: Path = HERE) -> list[str]:
    """Compare every file with zoo.toml, and the folder with its list; an empty answer means all is well."""
    entries = read(folder)
    strays = {file.name for file in folder.glob("*.onnx")} - {entry["file"] for entry in entries}
    found = [f"{name}: not in zoo.toml" for name in sorted(strays)]
    readme = folder / "README.md"
    if readme.is_file() and table(entries) not in readme.read_text(encoding="utf-8"):
        found.append("README.md: its table differs from zoo.toml")
    return found + [difference for entry in entries for difference in differences(entry, folder)]


def tolerance() -> float:
    """Return the change of an average over the test split that one image can make."""
    return 1.0 / len(digits()[1].labels)
