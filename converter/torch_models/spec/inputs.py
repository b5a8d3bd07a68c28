"""Example inputs: ``x=1,3,224,224:float16`` read into a record, and made into a tensor."""

from __future__ import annotations

import inspect
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from converter.dataclass import dataclass
from converter.errors import DataError
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
