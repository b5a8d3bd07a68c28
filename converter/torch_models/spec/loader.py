"""``load``: from what the user wrote to a module to call, with example inputs (``x=1,3,224,224:float16``)."""

from __future__ import annotations

import inspect
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter.dataclass import dataclass
from converter.errors import DataError, ModelError
from converter.records.results import Provenance
from converter.torch_models.spec import factory, files
from converter.torch_models.spec.factory import Kind, Loaded, call_example, split_arguments
from converter.torch_models.spec.files import load_weights
from converter.torch_models.spec.libraries import need

DTYPES = (
    "float32 float16 bfloat16 float64 int64 int32 int16 int8 uint8 bool".split()  # those that both torch and ONNX have
)
_SHORT = {"float": "float32", "half": "float16", "double": "float64", "long": "int64", "int": "int32"}
_INPUT = re.compile(r"(?:(?P<name>[^=:]*)=)?(?P<dims>[\d,\s]*)(?::(?P<dtype>\w+))?")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One example input: its shape, and perhaps its name and type."""

    shape: tuple[int, ...]
    name: str = ""
    dtype: str = ""  # empty: the module's own


def parse_input(value: str) -> InputSpec:
    """Read ``x=1,3,224,224:float16``; name and type may be left out, and ``n=:int64`` is a scalar.

    Raises
    ------
    ValueError
        It reads otherwise; the message says how it should.
    """
    found = _INPUT.fullmatch(value.strip())
    dims = (found["dims"] if found else "").replace(" ", "")
    if found is None or not re.fullmatch(r"(\d+(,\d+)*,?)?", dims) or not value.strip():
        raise ValueError(f"{value!r} is not an input such as x=1,3,224,224 or ids=1,128:int64.")
    dtype = _SHORT.get(found["dtype"] or "", found["dtype"] or "")
    if dtype and dtype not in DTYPES:
        raise ValueError(f"{dtype!r} in {value!r} is no type of an input; there are {', '.join(DTYPES)}.")
    return InputSpec(tuple(int(dim) for dim in dims.split(",") if dim), (found["name"] or "").strip(), dtype)


def bind_inputs(
    module: Any, specs: Sequence[InputSpec], seed: int = 0
) -> tuple[tuple[Any, ...], dict[str, Any], list[str]]:
    """Example tensors for `module`, positional ones and by keyword, and the inputs' names in that order.

    Names that are parameters of ``forward`` bind to those; if none is one, they go in order and
    only name the ONNX inputs.

    Raises
    ------
    DataError
        Some names are parameters of ``forward`` and some are not, or one is given twice.
    """
    positional, keywords = _forward_parameters(module)
    named = [spec.name for spec in specs if spec.name]
    if len(set(named)) < len(named):
        raise DataError(f"input {next(n for n in named if named.count(n) > 1)!r} is given twice; give each once")
    known = [name for name in named if name in (*positional, *keywords)]
    strange = [name for name in named if name not in known]
    if known and strange:
        takes = ", ".join((*positional, *keywords))
        raise DataError(f"{strange[0]!r} is no parameter of the module's forward; it takes {takes}")
    if known:
        return _bind_by_name(module, specs, positional, seed)
    names = [s.name or (positional[i] if i < len(positional) else f"input_{i}") for i, s in enumerate(specs)]
    tensors = tuple(make_tensor(module, spec, name, seed) for spec, name in zip(specs, names, strict=True))
    return tensors, {}, names


def _bind_by_name(
    module: Any, specs: Sequence[InputSpec], positional: Sequence[str], seed: int
) -> tuple[tuple[Any, ...], dict[str, Any], list[str]]:
    given = {spec.name: spec for spec in specs if spec.name}
    free = iter([spec for spec in specs if not spec.name])
    args: list[Any] = []
    names: list[str] = []
    for name in positional:
        spec = given.pop(name, None) or next(free, None)
        if spec is None:
            break  # what follows goes by keyword
        args.append(make_tensor(module, spec, name, seed))
        names.append(name)
    if next(free, None) is not None:
        raise DataError(f"more inputs than forward takes; it takes {', '.join(positional)}")
    kwargs = {name: make_tensor(module, spec, name, seed) for name, spec in given.items()}
    return tuple(args), kwargs, [*names, *kwargs]


def _forward_parameters(module: Any) -> tuple[list[str], list[str]]:
    """The names that ``forward`` takes by position, and those by keyword only; none where it tells nothing."""
    schema = getattr(getattr(module, "forward", None), "schema", None)
    if schema is not None:  # TorchScript
        return [a.name for a in schema.arguments if a.name != "self" and not a.kwarg_only], []
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError, AttributeError):
        return [], []
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p.name for p in parameters if p.kind in by_place]
    return positional, [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def name_leaves(module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """A name for every tensor in an example, after the parameter that it goes to."""
    positional, _ = _forward_parameters(module)
    rest = (f"input_{i}" for i in range(len(positional), len(args)))
    given = [*zip([*positional[: len(args)], *rest], args, strict=True), *kwargs.items()]
    return [leaf for name, value in given for leaf in _leaf_names(name, value)]


def _leaf_names(name: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [leaf for key, part in value.items() for leaf in _leaf_names(f"{name}_{key}", part)]
    if isinstance(value, list | tuple):
        return [leaf for i, part in enumerate(value) for leaf in _leaf_names(f"{name}_{i}", part)]
    return [name] if isinstance(value, need("torch").Tensor) else []


def make_tensor(module: Any, spec: InputSpec, name: str, seed: int = 0) -> Any:
    """A seeded random tensor: normal floats, integers below the smallest embedding table, fair truth values."""
    torch = need("torch")
    dtype = getattr(torch, spec.dtype) if spec.dtype else module_dtype(module)
    random = torch.Generator().manual_seed((seed << 32) + zlib.crc32(name.encode()))
    if dtype.is_floating_point:
        return torch.randn(spec.shape, generator=random).to(dtype)
    if dtype is torch.bool:
        return torch.rand(spec.shape, generator=random) < 0.5
    return torch.randint(0, _integer_bound(module), spec.shape, generator=random).to(dtype)


def module_dtype(module: Any) -> Any:
    """The type of the module's first parameter that is a float; float32 without one."""
    torch = need("torch")
    found = (p.dtype for p in module.parameters() if p.dtype.is_floating_point)
    return next(found, torch.float32)


def _integer_bound(module: Any) -> int:
    """Exclusive bound of integers: what the smallest embedding takes, since they may index any of them."""
    sizes = [int(m.num_embeddings) for m in module.modules() if isinstance(getattr(m, "num_embeddings", None), int)]
    return max(1, min(sizes, default=8))


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
