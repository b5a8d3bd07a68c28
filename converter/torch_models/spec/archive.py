"""torch's zip archives, read once, within a budget; and which operators of torch a stranger's file may call.

torch has its own zip reader, and what it and Python make of one file may differ (two entries of one name, a directory
that names another place). So torch is never given the user's file, but an archive made here from the bytes that were
looked at; that the file changes in between makes no difference either.

An operator that touches the world outside takes a text: the name of a file, a message, a group of processes. So the
schemas decide, as the installed torch has them: every text that an operator takes must be one of the known choices
("bilinear", "sum", an equation of einsum ...). A new operator of torch is thus refused until it is known.

Nor may it call kernels that trust their caller: torch checks what the user's operators are given, and leaves it at that
where one kernel calls another. Indices of a sparse tensor, of a backward pass or of a factorisation that nobody checked
read and write memory that is none of the tensor's. Nets that are exported need none of these.
"""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from converter.dataclass import dataclass
from converter.errors import ModelError
from converter.torch_models.spec.libraries import need

FACTORY = "give the code that makes the model as SPEC and this file as --weights"
TRUST = (
    "if you know who made the file, --trust loads it as it is: then what it holds may run as code, with all you may do"
)
MAX_ENTRIES = 100_000
EXPANSION = 4  # torch stores without compression; a file that grows more than this is a bomb
FLOOR = 256 << 20  # bytes that any archive may grow to


class NotValidated(Exception):
    """Something in an archive is not among what is known to be harmless; the message says what and where."""


def shorten(value: object) -> str:
    """What is said of a stranger's value: in ASCII, and not all of a long one."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class Archive:
    """The entries of one archive by name, without the folder that all of them lie in."""

    root: str
    entries: Mapping[str, bytes]


def names_in(path: Path) -> list[str]:
    """List the entries of the archive at `path`; ModelError if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as exc:
        raise _no_archive(path) from exc


def read(path: Path) -> Archive:
    """Read the whole archive at `path`.

    Raises
    ------
    ModelError
        It is no zip file, is damaged, or unpacks to far more than it is long.
    NotValidated
        Its names are not what torch writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            _check_budget(path, infos)
            raw = {info.filename: archive.read(info) for info in infos}
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, RuntimeError) as exc:
        raise _no_archive(path) from exc
    except (zlib.error, lzma.LZMAError) as exc:
        raise ModelError(f"{path}: the archive is damaged ({exc}); save it again") from exc
    if len(raw) != len(infos):
        raise NotValidated("two entries of one name")
    return _without_root(raw)


def check_budget(path: Path) -> None:
    """Refuse a zip file that unpacks to far more than it is long; what is none is for others to say.

    Raises
    ------
    ModelError
        It does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return
    _check_budget(path, infos)


def _check_budget(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    limit = max(FLOOR, EXPANSION * path.stat().st_size)
    total = sum(info.file_size for info in infos)
    if total > limit or len(infos) > MAX_ENTRIES:
        raise ModelError(
            f"{path}: unpacks to {total} bytes in {len(infos)} entries; torch writes no such archive, so it is not read"
        )


def _without_root(raw: Mapping[str, bytes]) -> Archive:
    roots = {name.partition("/")[0] for name in raw if "/" in name}
    flat = [name for name in raw if "/" not in name]
    if len(roots) == 1 and not flat:
        (root,) = roots
        return Archive(root, {name.partition("/")[2]: data for name, data in raw.items()})
    if "version" in flat and "serialized_exported_program.json" in flat:
        return Archive("", raw)  # torch 2.7 and before
    raise NotValidated("entries that lie in more than one folder")


def rebuild(archive: Archive, entries: Mapping[str, bytes]) -> io.BytesIO:
    """Write `entries` as an archive of the same root; torch reads it from memory."""
    buffer = io.BytesIO()
    prefix = f"{archive.root}/" if archive.root else ""
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as made:
        for name, data in entries.items():
            made.writestr(zipfile.ZipInfo(prefix + name), data)
    buffer.seek(0)
    return buffer


def _no_archive(path: Path) -> ModelError:
    return ModelError(f"{path}: is neither TorchScript nor a program of torch.export (.pt2); {FACTORY}")


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
_NEVER = frozenset({"save", "load", "from_file", "print"})
# Kernels that take indices, pivots, strides or storage on trust, by what is in their names.
_TRUSTING = (
    "backward",
    "sparse",
    "nested",
    "jagged",
    "mkldnn",
    "cudnn",
    "miopen",
    "mps",
    "xnnpack",
    "fbgemm",
    "_unsafe",
)
_TRUSTING_PUBLIC = frozenset(
    "set set_ lu_solve lu_unpack linalg_lu_solve linalg_ldl_solve ormqr linalg_householder_product segment_reduce "
    "crow_indices ccol_indices row_indices col_indices coalesce resize resize_ resize_as "
    "resize_as_ geqrf orgqr cholesky_inverse".split()
)
# What begins with an underscore is a kernel's own business, but for these, which exporters write; and but for those
# with two, which are the operators of TorchScript's language.
_PRIVATE = frozenset(
    "_adaptive_avg_pool2d _adaptive_avg_pool3d _addmm_activation _aminmax _assert_async _assert_scalar "
    "_assert_tensor_metadata _batch_norm_impl_index _batch_norm_no_update _cast_Byte _cast_Char _cast_Double "
    "_cast_Float _cast_Half _cast_Int _cast_Long _cast_Short _cdist_forward _conj _conj_physical _conv_depthwise2d "
    "_convolution _convolution_mode _dim_arange _embedding_bag _embedding_bag_forward_only _euclidean_dist _fft_c2c "
    "_fft_c2r _fft_r2c _functional_assert_async _functional_assert_scalar _functional_sym_constrain_range "
    "_functional_sym_constrain_range_for_size _fused_rms_norm _get_tracing_state _infer_size _is_all_true "
    "_is_any_true _linalg_det _linalg_eigh _linalg_slogdet _linalg_svd _list_to_tensor _local_scalar_dense "
    "_log_softmax _logcumsumexp _make_dep_token _masked_softmax _native_batch_norm_legit "
    "_native_batch_norm_legit_functional _native_batch_norm_legit_no_training _native_multi_head_attention _neg_view "
    "_pack_padded_sequence _pad_circular _pad_enum _pad_packed_sequence _pdist_forward _prelu_kernel _reshape_copy "
    "_reshape_from_tensor _safe_softmax _scaled_dot_product_attention_math _scaled_dot_product_efficient_attention "
    "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu _set_item _shape_as_tensor "
    "_softmax _stack _tensor_to_list _to_copy _transform_bias_rescale_qkv _transformer_encoder_layer_fwd _trilinear "
    "_unique _unique2 _unsafe_index _unsafe_index_put "
    "_unsafe_masked_index _unsafe_view _unwrap_optional _upsample_bicubic2d_aa _upsample_bilinear2d_aa "
    "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm "
    "_weight_norm_interface".split()
)


@cache
def is_harmless(namespace: str, name: str) -> bool:
    """Say whether every overload of ``namespace::name`` takes tensors, numbers and known choices only.

    False for a name that this torch has no operator of.
    """
    if namespace == "prim":
        return name in PRIM
    if namespace not in NAMESPACES or name in _NEVER or (namespace == "aten" and not _checks_its_operands(name)):
        return False
    schemas = _schemas(namespace, name)
    return bool(schemas) and all(_takes_no_texts(schema) for schema in schemas)


def _checks_its_operands(name: str) -> bool:
    if name.startswith("_") and not name.startswith("__"):
        return name in _PRIVATE
    return name not in _TRUSTING_PUBLIC and not any(part in name for part in _TRUSTING)


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
