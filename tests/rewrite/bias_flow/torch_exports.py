"""The nets as both of torch's exporters write them. Needs torch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.rewrite.bias_flow.torch_nets import N_LAYERS, WIDTH, Bert, Encoder, UNet, ViT, generator

__all__ = ["EXPORTERS", "N_LAYERS", "exported", "feeds", "parameters"]

NETS: dict[str, Callable[[], nn.Module]] = {
    "unet": UNet,
    "generator": generator,
    "encoder": Encoder,
    "bert": lambda: Bert(how="matmul"),
    "bert causal": lambda: Bert(how="matmul", causal=True),
    "bert sdpa": lambda: Bert(how="sdpa"),
    "bert sdpa causal": lambda: Bert(how="sdpa", causal=True),
    "bert fused": lambda: Bert(how="matmul", fused="gpt"),
    "vit": lambda: ViT(how="matmul"),
    "vit sdpa": lambda: ViT(how="sdpa"),
    "vit fused": lambda: ViT(how="sdpa", fused="vit"),
}
PICTURES = {"unet": (1, 1, 8, 8), "generator": (1, 3, 8, 8)}
EXPORTERS = ("torchscript 17", "dynamo 18", "dynamo 23")


@cache
def net(name: str) -> nn.Module:
    """The net in eval mode, with seeded weights and no bias that is zero."""
    torch.manual_seed(0)
    made = NETS[name]().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1 or not parameter.any():
                parameter.uniform_(-0.5, 0.5)
    return made


def inputs(name: str, mask: str, n: int = 2) -> tuple[Tensor, ...]:
    """What the net takes: `mask` is added, bool, padding or empty."""
    torch.manual_seed(1)
    if name.startswith("vit"):
        return (torch.randn(n, 3, 8, 8),)
    if name in PICTURES:
        return (torch.randn(n, *PICTURES[name][1:]),)
    open_ = torch.rand(n, 1, 7, 7) < 0.7
    open_[..., 0] = True
    masks = {
        "added": torch.zeros(n, 1, 7, 7).masked_fill(~open_, -20.0),
        "bool": open_,
        "padding": torch.arange(7).expand(n, 7) >= torch.arange(5, 5 + n)[:, None],
    }
    return (torch.randn(n, 7, WIDTH), *([masks[mask]] if mask else []))


@cache
def exported(name: str, exporter: str, mask: str = "", dynamic: bool = False) -> onnx.ModelProto:
    """The net as an exporter writes it; the batch is symbolic if `dynamic`."""
    how, opset = exporter.split()
    args = inputs(name, mask)
    options: dict[str, Any] = {"opset_version": int(opset), "input_names": ["x", "mask"][: len(args)]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "dynamo":
            shapes = tuple({0: torch.export.Dim("N")} for _ in args) if dynamic else None
            program = torch.onnx.export(net(name), args, dynamo=True, verbose=False, dynamic_shapes=shapes, **options)
            return program.model_proto
        file = io.BytesIO()
        axes = {n: {0: "N"} for n in options["input_names"]} if dynamic else None
        torch.onnx.export(net(name), args, file, dynamo=False, dynamic_axes=axes, **options)
        return onnx.load_from_string(file.getvalue())


def feeds(proto: onnx.ModelProto, name: str, mask: str, n: int = 2) -> dict[str, NDArray[Any]]:
    """Values for the inputs of an exported net."""
    names = [i.name for i in proto.graph.input]
    return dict(zip(names, (np.asarray(t.numpy()) for t in inputs(name, mask, n)), strict=True))


def parameters(name: str, *endings: str) -> list[NDArray[Any]]:
    """The net's parameters whose names end so."""
    return [p.detach().numpy() for n, p in net(name).named_parameters() if n.endswith(endings)]
