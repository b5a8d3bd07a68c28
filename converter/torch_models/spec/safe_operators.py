"""Which operators of torch a stranger's file may call: mathematics, not files, processes or the network.

An operator that touches the world outside takes a text: the name of a file, a message, a group of processes. So the
schemas decide, as the installed torch has them: every text that an operator takes must be one of the known choices
("bilinear", "sum", an equation of einsum ...). A new operator of torch is thus refused until it is known.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from converter.torch_models.spec.libraries import need

NAMESPACES = frozenset({"aten", "prims", "quantized_decomposed", "torchvision"})
HIGHER_ORDER = frozenset(
    {"wrap_with_set_grad_enabled", "wrap_with_autocast", "cond", "while_loop", "scan", "associative_scan", "map_impl"}
)
PYTHON_OPERATORS = frozenset(
    "add and_ eq floordiv ge getitem gt le lshift lt mod mul ne neg or_ pos pow rshift sub truediv".split()
)
SYMBOLIC = frozenset(
    "sym_float sym_int sym_ite sym_max sym_min sym_not sym_sqrt _sym_sqrt sym_sum sym_constrain_range".split()
)
PRIM = frozenset(
    "BroadcastSizes ChunkSizes ConstantChunk EnumName EnumValue IfThenElse ModuleContainerIndex NumToTensor "
    "RaiseException StringIndex TupleIndex TupleUnpack Uninitialized abs data device dtype grad index is_cpu is_cuda "
    "is_ipu is_maia is_meta is_mkldnn is_mps is_mtia is_nested is_quantized is_sparse is_sparse_csr is_vulkan is_xla "
    "is_xpu itemsize layout max min nbytes rangelist requires_grad tolist type unchecked_cast "
    "unchecked_unwrap_optional isinstance".split()
)
# Arguments that are texts and choose among the operator's own ways, or are values of TorchScript's text operators.
_CHOICES = frozenset(
    "UPLO a activation algorithm api_name approximate assert_msg b chars device_type dict driver el equation fillchar "
    "idx indexing input inputs interpolation item key l mode new norm old ord p pad_mode padding padding_side reduce "
    "rounding_mode s self separator side string substr t to_add type values message msg cls".split()
)
_NEVER = frozenset({"save", "load", "from_file", "_print", "print"})


@cache
def is_harmless(namespace: str, name: str) -> bool:
    """Say whether every overload of ``namespace::name`` takes tensors, numbers and known choices only.

    False for a name that this torch has no operator of.
    """
    if namespace == "prim":
        return name in PRIM
    if namespace not in NAMESPACES or name in _NEVER:
        return False
    schemas = _schemas(namespace, name)
    return bool(schemas) and all(_takes_no_texts(schema) for schema in schemas)


def exists(namespace: str, name: str) -> bool:
    """Say whether this torch has an operator of the name."""
    return bool(_schemas(namespace, name))


def is_harmless_target(target: str) -> bool:
    """Say whether what a node of a .pt2 names as its target is on the list."""
    parts = target.split(".")
    if not all(part.isidentifier() and part.isascii() for part in parts):
        return False
    match parts:
        case ["_operator", name]:
            return name in PYTHON_OPERATORS
        case ["math", "trunc"]:
            return True
        case ["torch", name]:
            return name in SYMBOLIC
        case ["torch", "ops", "higher_order", name]:
            return name in HIGHER_ORDER
        case ["torch", "ops", namespace, name, _overload]:
            return is_harmless(namespace, name)
        case _:
            return False


@cache
def _schemas(namespace: str, name: str) -> list[Any]:
    torch = need("torch")
    if namespace == "quantized_decomposed":  # registered in Python, when the module is imported
        need("torch.ao.quantization.fx._decomposed")
    try:
        found: list[Any] = torch._C._jit_get_schemas_for_operator(f"{namespace}::{name}")
    except RuntimeError:
        return []
    return found


def _takes_no_texts(schema: Any) -> bool:
    return all("str" not in str(argument.type) or argument.name in _CHOICES for argument in schema.arguments)
