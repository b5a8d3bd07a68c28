"""What must hold of a torch module before it is exported: what is wrong here is wrong in the ONNX model too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from converter.errors import ExportError
from converter.torch_models.spec import Kind, Loaded
from converter.torch_models.spec.libraries import need

_SHOWN = 3
_TRAINING_OPS = ("batch_norm", "_native_batch_norm_legit", "native_batch_norm", "dropout", "native_dropout")


def prepare_module(loaded: Loaded, *, strict: bool = True) -> tuple[str, ...]:
    """Bring the module into eval mode on the CPU, and look for what would make its export useless.

    Parameters
    ----------
    strict : bool
        Whether a batch norm without statistics, and parameters that are not finite, are errors or only remarks.

    Returns
    -------
    tuple of str
        Remarks for the user.

    Raises
    ------
    ExportError
        The module has no parameters yet, or (if `strict`) what it computes is no use.
    """
    _check_materialised(loaded)
    notes = [*_move_to_cpu(loaded), *_set_eval_mode(loaded)]
    serious = [*_find_missing_statistics(loaded), *_find_not_finite(loaded)]
    if serious and strict:
        raise ExportError(f"{loaded.label}: {serious[0]}, or export it as it is with --no-strict")
    return (*notes, *serious, *_find_odd_statistics(loaded))


def _check_materialised(loaded: Loaded) -> None:
    torch = need("torch")
    tensors = list(_all_tensors(loaded.module))
    lazy = [n for n, t in tensors if isinstance(t, torch.nn.parameter.UninitializedTensorMixin)]
    if lazy:
        raise ExportError(
            f"{loaded.label}: no shape yet for {_shorten(lazy)} (lazy modules); run the module once in its factory, "
            "or give --weights"
        )
    empty = [n for n, t in tensors if t.is_meta]
    if empty:
        raise ExportError(f"{loaded.label}: no values for {_shorten(empty)} (on the meta device); give --weights")


def _all_tensors(module: Any) -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _move_to_cpu(loaded: Loaded) -> Iterator[str]:
    devices = sorted({str(t.device) for _, t in _all_tensors(loaded.module)} - {"cpu"})
    if devices:
        loaded.module.to("cpu")
        yield f"the module was on {', '.join(devices)}; it was moved to the cpu"


def _set_eval_mode(loaded: Loaded) -> Iterator[str]:
    if loaded.kind is Kind.PROGRAM:
        yield from _check_program_mode(loaded)
        return
    modules = dict(loaded.module.named_modules())
    root = bool(getattr(loaded.module, "training", False))
    inner = [n for n, m in modules.items() if n and getattr(m, "training", False)]
    loaded.module.eval()
    left = [n for n, m in modules.items() if getattr(m, "training", False)]
    if left:
        raise ExportError(
            f"{loaded.label}: {_shorten([n or 'the module' for n in left])} stays in training mode after eval(); "
            "its train() should pass the mode on"
        )
    if root:
        yield "the module came in training mode; it was set to eval mode"
    elif inner:
        yield f"{_shorten(inner)} came in training mode; all was set to eval mode"


def _check_program_mode(loaded: Loaded) -> Iterator[str]:
    """A program has no modes: what it does was settled when torch.export made it."""
    for node in loaded.program.graph.nodes:
        name = getattr(getattr(node.target, "_schema", None), "name", "").rpartition("::")[2]
        if name not in _TRAINING_OPS:
            continue
        arguments = {a.name: value for a, value in zip(node.target._schema.arguments, node.args, strict=False)}
        arguments |= node.kwargs
        if arguments.get("training", arguments.get("train", False)):
            raise ExportError(
                f"{loaded.label}: was exported in training mode ({node.name}); call eval() before torch.export.export"
            )
    yield from ()


def _batch_norms(loaded: Loaded) -> list[tuple[str, Any]]:
    """The batch norms; of a scripted module too, which has lost its classes but not their names."""
    torch = need("torch")
    found = []
    for name, module in loaded.module.named_modules():
        scripted = str(getattr(module, "original_name", ""))
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) or "BatchNorm" in scripted:
            found.append((name or "the module", module))
    return found


def _find_missing_statistics(loaded: Loaded) -> Iterator[str]:
    names = [n for n, m in _batch_norms(loaded) if getattr(m, "running_mean", None) is None]
    if names:
        yield (
            f"no running statistics in batch norm {_shorten(names)} (track_running_stats=False): the output depends on "
            "what else is in the batch, and nothing can be folded; train with statistics"
        )


def _find_not_finite(loaded: Loaded) -> Iterator[str]:
    torch = need("torch")
    statistics = ("running_mean", "running_var")
    tensors = [(n, t) for n, t in loaded.module.named_buffers() if n.rpartition(".")[2] in statistics]
    tensors += loaded.module.named_parameters()
    bad = [n for n, t in tensors if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        yield f"NaN or Inf in {_shorten(bad)}; take a checkpoint from before the training diverged"
    negative = [n for n, t in tensors if n.endswith("running_var") and bool((t < 0).any())]
    if negative:
        yield f"a variance below zero in {_shorten(negative)}; take another checkpoint"


def _find_odd_statistics(loaded: Loaded) -> Iterator[str]:
    norms = [(n, m) for n, m in _batch_norms(loaded) if getattr(m, "running_mean", None) is not None]
    still = [n for n, m in norms if getattr(m, "momentum", 0.1) == 0]
    if still:
        yield f"batch norm {_shorten(still)}: momentum 0, so that training never moved the statistics"
    plain = [n for n, m in norms if getattr(m, "momentum", 0.1) is None]
    if plain:
        yield f"batch norm {_shorten(plain)}: momentum None, so that the statistics average over all of training"
    counts = [getattr(m, "num_batches_tracked", None) for _, m in norms]
    if norms and not loaded.provenance.random_weights and all(c is not None and not int(c) for c in counts):
        yield "no batch norm has seen a batch: its statistics are as they were initialised"


def _shorten(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
