"""``load``: from what the user wrote to a module that can be called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter.errors import DataError, ModelError
from converter.records.results import Provenance
from converter.torch_models.spec import factory, files
from converter.torch_models.spec.factory import Kind, Loaded, call_example, split_arguments
from converter.torch_models.spec.files import load_weights
from converter.torch_models.spec.inputs import InputSpec, bind_inputs, name_leaves
from converter.torch_models.spec.libraries import need

_SAVED = (".pt", ".pth", ".ts", ".jit", ".torchscript", ".pt2")


def load(
    spec: str,
    *,
    weights: Path | None = None,
    inputs: Sequence[InputSpec] = (),
    example: str | None = None,
    strict: bool = True,
    seed: int = 0,
    trust: bool = False,
) -> Loaded:
    """Make the module that `spec` names, with its weights and an example of its inputs.

    Parameters
    ----------
    spec : str
        ``package.module:factory``, ``path/file.py:factory``, ``torchvision:resnet50``, ``timm:NAME`` (all four may
        end in keyword arguments, ``torchvision:resnet50(num_classes=10)``), a TorchScript file, or a ``.pt2`` program
        of torch.export. A factory is a function or class called without arguments, or a module.
    weights : Path, optional
        A state dict: of ``torch.save`` (read with ``weights_only=True``) or safetensors.
    inputs : sequence of InputSpec
        The shapes of the example; ``torchvision:`` and ``timm:`` have a default, a ``.pt2`` file its own.
    example : str, optional
        ``file.py:function`` that returns the example instead: a tensor, a tuple, or a dict by name.
    strict : bool
        Whether keys that are missing from `weights`, or that the module lacks, are an error.
    seed : int
        Of random weights and of the example.
    trust : bool
        Load a TorchScript file or a ``.pt2`` as it is, whatever it runs. Otherwise one that holds more than a net is
        refused.

    Returns
    -------
    Loaded
        The module is in the mode in which it came.

    Raises
    ------
    RuntimeUnavailable
        torch, or what else the spec needs, is not installed.
    ModelError
        There is no such module, its factory failed, or the weights do not fit.
    DataError
        There is no example of its inputs, or it does not fit the module.
    """
    torch = need("torch")
    if inputs and example:
        raise DataError("give the inputs' shapes or a function that makes an example, not both")
    with factory.seed_random(torch, seed):
        made = files.load_file(Path(spec), trust=trust) if _is_file(spec) else factory.load_factory(spec)
    known = _add_weights(made, weights, strict)
    return _add_example(known, made, inputs, example, seed)


def saved_kind(spec: str) -> Kind | None:
    """Say what the file that `spec` names is, without loading it; None where it names code."""
    return files.kind_of_file(Path(spec)) if _is_file(spec) else None


def _is_file(spec: str) -> bool:
    path = Path(spec)
    return path.suffix.lower() in _SAVED or (path.is_file() and ":" not in spec)


def _add_weights(made: factory.Made, file: Path | None, strict: bool) -> Loaded:
    notes: tuple[str, ...] = ()
    digest = ""
    if file is not None:
        if made.kind is Kind.PROGRAM:
            raise ModelError(f"{made.label}: a program of torch.export has its own weights; leave --weights out")
        notes, digest = load_weights(made.module, file, strict=strict, label=made.label)
    elif made.random_weights:
        notes = ("the weights are random: no file of weights was given",)
    provenance = Provenance(made.name, need("torch").__version__, digest, made.random_weights and file is None)
    return Loaded(made.module, (), made.label, provenance, made.kind, notes=notes, program=made.program)


def _add_example(
    known: Loaded, made: factory.Made, inputs: Sequence[InputSpec], function: str | None, seed: int
) -> Loaded:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    if function:
        args, kwargs = call_example(function)
    elif inputs:
        args, kwargs, names = bind_inputs(made.module, inputs, seed)
        return replace(known, example_inputs=args, example_kwargs=kwargs, input_names=tuple(names))
    elif made.example is not None:
        args, kwargs = made.example
    elif made.shape:
        args, kwargs, names = bind_inputs(made.module, [InputSpec(made.shape)], seed)
        return replace(known, example_inputs=args, example_kwargs=kwargs, input_names=tuple(names))
    else:
        raise DataError(
            f"{made.label}: nothing says what its inputs are; "
            "give --shape x=1,3,224,224 for each of them, or --example file.py:function"
        )
    names = name_leaves(made.module, args, kwargs)
    return replace(known, example_inputs=args, example_kwargs=kwargs, input_names=tuple(names))


def wrap_module(
    module: Any,
    *,
    inputs: Sequence[InputSpec] = (),
    example: Any = None,
    weights: Path | None = None,
    strict: bool = True,
    seed: int = 0,
) -> Loaded:
    """The same record for a module that is there already.

    Parameters
    ----------
    module : torch.nn.Module
    example : tensor, tuple of arguments, dict by name, or ``file.py:function``, optional
        The inputs, unless `inputs` gives their shapes.

    Raises
    ------
    ModelError
        It is no module, or the weights do not fit.
    DataError
        There is no example of its inputs.
    """
    torch = need("torch")
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"{name}: is no torch.nn.Module, and no text that names one")
    kind = Kind.TORCHSCRIPT if isinstance(module, torch.jit.ScriptModule) else Kind.MODULE
    given = None if example is None or isinstance(example, str) else split_arguments(example, name)
    made = factory.Made(module, type(module).__name__, name, kind, example=given)
    known = _add_weights(made, weights, strict)
    return _add_example(known, made, inputs, example if isinstance(example, str) else None, seed)
