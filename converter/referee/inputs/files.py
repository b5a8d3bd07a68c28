"""Files and folders of inputs, told apart by what they are.

=====================  ====================================================================================
``x.npz``              keys are input names; an axis more than the input has counts samples
``x.npy``              the same for a model with one input
``x.json``             what Polygraphy saves with ``--save-inputs``
``script.py:function`` dictionaries, or (dictionary, label), that the function returns or yields
a folder               ``test_data_set_*`` or ``input_*.pb`` of onnxruntime's tests, else its .npz, .npy, .json
=====================  ====================================================================================

Nothing is ever unpickled. Long arrays are read piece by piece.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import lzma
import math
import re
import stat
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message
from onnx import OptionalProto, SequenceProto, TensorProto, numpy_helper

from converter.bounded_json import parse_json
from converter.errors import DataError, ModelError
from converter.model.file.disk import read_whole
from converter.model.file.dtypes import decode
from converter.referee.inputs.stream import MOST_ROWS, Array, Reader, Sample, Stream, check_rows, cut_samples
from converter.referee.proto.source import Port

MOST_BYTES = 1 << 32  # of one run's inputs in memory, and of a file of text; a few kilobytes unpack to any size


def read_labels(path: Path) -> np.ndarray[Any, Any]:
    """Labels from .npy, or from text: one whole number per line, the last column where there are commas.

    Raises
    ------
    DataError
        The file holds no whole numbers.
    """
    try:
        _check_file(path)
        found = np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else _read_text(path)
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror or exc}); give labels as .npy or text") from exc
    except (ValueError, EOFError, OverflowError, MemoryError) as exc:
        raise DataError(f"{path}: no labels; give whole numbers as .npy, or one per line") from exc
    if found.dtype.kind not in "iub" or not found.ndim:
        raise DataError(
            f"{path}: labels are {found.dtype} of shape {list(found.shape)}; give whole numbers, one per row"
        )
    return np.asarray(found)


def _read_text(path: Path) -> np.ndarray[Any, Any]:
    rows = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    values = [row.replace(";", ",").split(",")[-1].strip() for row in rows]
    if values and not values[0].lstrip("-").isdigit():
        values = values[1:]  # the column's name
    return np.array([int(v) for v in values], np.int64)


def _check_file(path: Path) -> None:
    """A device never ends and a pipe waits; of text, and of what is kept in memory whole, there is a most."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: is not a regular file; give a file")
    if path.suffix.lower() != ".npy" and status.st_size > MOST_BYTES:
        raise DataError(f"{path}: has {status.st_size} bytes, and {MOST_BYTES} are read at most; give a part of it")


def is_script(text: str) -> bool:
    """Whether the text names a function of a script."""
    return bool(re.search(r"\.py:[A-Za-z_]\w*$", text))


def load_function(text: str) -> Callable[..., Any]:
    """The function that ``script.py:function`` names.

    Raises
    ------
    DataError
        There is no such script or function, or the script does not run.
    """
    place, _, name = text.rpartition(":")
    path = Path(place).resolve()
    if not path.is_file():
        raise DataError(f"{place}: there is no such script; give script.py:function")
    spec = importlib.util.spec_from_file_location(f"_biasopt_script_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # what lies beside it can be imported, as when it is run
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        raise DataError(f"{place}: cannot be loaded: {_describe_error(exc, path)}") from exc
    finally:
        sys.path.remove(str(path.parent))
    found = getattr(module, name, None)
    if not callable(found):
        raise DataError(f"{place}: has no function {name!r}; give script.py:function")
    return found  # type: ignore[no-any-return]


def call_function(text: str, function: Callable[..., Any], *values: Any) -> Any:
    """Call a user's function; what it raises is one line that says where."""
    try:
        return function(*values)
    except Exception as exc:
        raise DataError(f"{text}: {_describe_error(exc, Path(text.rpartition(':')[0]).resolve())}") from exc


def make_script_reader(text: str) -> Reader:
    """The samples that a function returns or yields: dictionaries, or pairs of one and its label."""

    def read(ports: Mapping[str, Port]) -> Iterator[Sample]:
        made = call_function(text, load_function(text))
        items = iter([made] if isinstance(made, Mapping | tuple) else made)
        while (item := call_function(text, next, items, None)) is not None:
            label = None
            if isinstance(item, tuple) and len(item) == 2:
                item, label = item
            if not isinstance(item, Mapping):
                kind = type(item).__name__
                raise DataError(f"{text}: gave a {kind}; give a dictionary of inputs, or (dictionary, label)")
            yield from cut_samples(dict(item), ports, label, long=False, source=text)

    return read


def _describe_error(exc: BaseException, path: Path) -> str:
    """The error, and the last line of the script that took part in it."""
    where, trace = "", exc.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            where = f", line {trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}{where}"


_SUFFIXES = (".npz", ".npy", ".json")
_NPY = b"\x93NUMPY"


def open_inputs(values: Sequence[Any], ports: Mapping[str, Port], limit: int | None = None) -> Stream:
    """A stream over everything given: paths, ``script.py:function``, or dictionaries of arrays.

    Raises
    ------
    DataError
        Something given is none of these, or cannot be read.
    """
    opened = [_make_reader(value) for value in values]
    kinds = {kind for kind, _, _ in opened}
    kind = kinds.pop() if len(kinds) == 1 else "mixed"
    source = ", ".join(name for _, _, name in opened if name)
    samples = (sample for _, reader, _ in opened for sample in reader(ports))
    return Stream(samples, kind, source, limit)


def _make_reader(value: Any) -> tuple[str, Reader, str]:
    if isinstance(value, Mapping):
        return "given", lambda ports: cut_samples(dict(value), ports, long=False), ""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Mapping):
        feeds, label = value
        return "given", lambda ports: cut_samples(dict(feeds), ports, label, long=False), ""
    text = str(value)
    if is_script(text):
        return "script", make_script_reader(text), text
    path = Path(value)
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise DataError(f"{path}: there are no such inputs; give a .npz, .npy, .json, a folder, or script.py:function")
    kinds = {".npz": ("npz", _read_npz), ".npy": ("npy", _read_npy), ".json": ("polygraphy", _read_polygraphy)}
    if path.suffix.lower() not in kinds:
        raise DataError(f"{path}: is no kind of inputs; give a .npz, .npy, .json, a folder, or script.py:function")
    if not path.is_file():
        raise DataError(f"{path}: is not a regular file; give a file")
    kind, read = kinds[path.suffix.lower()]
    return kind, lambda ports: read(path, ports), text


def _open_folder(path: Path) -> tuple[str, Reader, str]:
    sets = [path] if any(path.glob("input_*.pb")) else sorted(path.glob("test_data_set_*"), key=_sort_key)
    if sets:
        return "ort-test-data", lambda ports: (s for folder in sets for s in _read_test_data(folder, ports)), str(path)
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise DataError(f"{path}: holds no inputs (.npz, .npy, .json, test_data_set_*); images are given with --images")
    parts = [_make_reader(file) for file in files]
    kinds = {kind for kind, _, _ in parts}
    kind = kinds.pop() if len(kinds) == 1 else "mixed"
    return kind, lambda ports: (s for _, read, _ in parts for s in read(ports)), str(path)


def _sort_key(path: Path) -> tuple[int, str]:
    found = re.search(r"(\d+)$", path.stem)
    return (int(found[1]) if found else 0, path.name)


# -- numpy's files ---------------------------------------------------------------------------


def _read_npy(path: Path, ports: Mapping[str, Port]) -> Iterator[Sample]:
    if len(ports) != 1:
        names = ", ".join(ports) or "none"
        raise DataError(f"{path}: a .npy file is for a model with one input; save a .npz with the keys {names}")
    try:
        with np.errstate(over="ignore"):  # of sizes that multiply past any file
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        for sample in cut_samples({next(iter(ports)): array}, ports, source=str(path)):
            yield replace(sample, feeds={n: np.array(v) for n, v in sample.feeds.items()})
    except _UNREADABLE as exc:
        raise DataError(f"{path}: no readable .npy file of numbers; save it with numpy.save") from exc


# What numpy, zipfile and its decompressors raise of a file that is not what it says.
_UNREADABLE = (
    *(OSError, ValueError, TypeError, EOFError, KeyError, OverflowError, MemoryError, RuntimeError),
    *(NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


def read_arrays(path: Path) -> dict[str, Array]:
    """One set of inputs: every array of an .npz file, by name.

    Raises
    ------
    DataError
        It cannot be read, or holds more than `MOST_BYTES`.
    """
    try:
        _check_file(path)
        with zipfile.ZipFile(path) as archive:
            members = {n.removesuffix(".npy"): n for n in archive.namelist()}
            heads = [_read_header(archive, member) for member in members.values()]
            _check_bytes(sum(_n_bytes(shape, dtype) for shape, _, dtype in heads))
            return {name: _read_array(archive, member) for name, member in members.items()}
    except _UNREADABLE as exc:
        raise DataError(f"{path}: no readable .npz file of numbers; save inputs by name with numpy.savez") from exc


def _read_npz(path: Path, ports: Mapping[str, Port]) -> Iterator[Sample]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {n.removesuffix(".npy"): n for n in archive.namelist()}
            yield from _read_stacked(archive, members, ports, str(path))
    except _UNREADABLE as exc:
        raise DataError(f"{path}: no readable .npz file of numbers; save inputs by name with numpy.savez") from exc


def _read_stacked(
    archive: zipfile.ZipFile, members: Mapping[str, str], ports: Mapping[str, Port], source: str
) -> Iterator[Sample]:
    """Pieces of `MOST_ROWS` samples at a time where every array counts samples along its first axis."""
    heads = {name: _read_header(archive, member) for name, member in members.items()}
    for name, (shape, _, _) in heads.items():
        check_rows(name, shape)
    lengths = {shape[0] if shape else 0 for shape, fortran, _ in heads.values() if not fortran}
    more = [n for n, (s, _, _) in heads.items() if n in ports and (d := ports[n].dims) is not None and len(s) > len(d)]
    if len(more) < len(heads) or len(lengths) != 1 or any(fortran for _, fortran, _ in heads.values()):
        _check_bytes(sum(_n_bytes(shape, dtype) for shape, _, dtype in heads.values()))
        yield from cut_samples({n: _read_array(archive, m) for n, m in members.items()}, ports, source=source)
        return
    _check_bytes(sum(_n_bytes((MOST_ROWS, *shape[1:]), dtype) for shape, _, dtype in heads.values()))
    opened = {n: archive.open(m) for n, m in members.items()}
    try:
        for name, stream in opened.items():
            stream.read(_find_data_offset(archive, members[name]))
        for start in range(0, lengths.pop(), MOST_ROWS):
            rows = {n: _read_rows(opened[n], heads[n], start) for n in opened}
            yield from cut_samples(rows, ports, source=source)
    finally:
        for stream in opened.values():
            stream.close()


def _n_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError("a size that is none")
    return math.prod(shape) * dtype.itemsize


def _check_bytes(n_bytes: int) -> None:
    if n_bytes > MOST_BYTES:
        raise ValueError(f"holds {n_bytes} bytes for one run")


def _read_header(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("holds Python objects")
    return shape, fortran, dtype


def _find_data_offset(archive: zipfile.ZipFile, member: str) -> int:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        read(file)
        return file.tell()


def _read_rows(stream: Any, head: tuple[tuple[int, ...], bool, np.dtype[Any]], start: int) -> Array:
    shape, _, dtype = head
    count = min(MOST_ROWS, shape[0] - start)
    size = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize * count
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("is truncated")
    return np.frombuffer(data, dtype).reshape(count, *shape[1:])


def _read_array(archive: zipfile.ZipFile, member: str) -> Array:
    with archive.open(member) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


# -- onnxruntime's test data -----------------------------------------------------------------


def _read_test_data(folder: Path, ports: Mapping[str, Port]) -> Iterator[Sample]:
    files = sorted(folder.glob("input_*.pb"), key=_sort_key)
    if len(files) > len(ports):
        raise DataError(f"{folder}: holds {len(files)} inputs, and the model has {len(ports)}; is it another model's?")
    values = [read_value(file, port.kind) for file, port in zip(files, ports.values(), strict=False)]
    named = [name for name, _ in values]
    by_name = len(set(named)) == len(named) and set(named) <= set(ports)
    names = named if by_name else list(ports)[: len(values)]
    yield from cut_samples({n: v for n, (_, v) in zip(names, values, strict=True)}, ports, source=str(folder))


# -- Polygraphy ------------------------------------------------------------------------------


def _read_polygraphy(path: Path, ports: Mapping[str, Port]) -> Iterator[Sample]:
    try:
        _check_file(path)
        found = parse_json(path.read_text(encoding="utf-8"))
        runs = found if isinstance(found, list) else [found]
        for run in runs:
            feeds = {str(name): _decode(value) for name, value in run.items()}
            yield from cut_samples(feeds, ports, source=str(path))
    except (*_UNREADABLE, AttributeError) as exc:
        why = "; save inputs with polygraphy run --save-inputs"
        raise DataError(f"{path}: not a list of inputs as Polygraphy saves them{why}") from exc


def _decode(value: Any) -> Array:
    """An array: base64 of what numpy.save writes, which may be compressed; older files nest it or use latin-1."""
    if not isinstance(value, dict):
        return np.asarray(value)
    for key in ("values", "arr"):
        if isinstance(value.get(key), dict | list):
            return _decode(value[key])
    if "tensor" in value:
        raise ValueError("holds pickled torch tensors")
    try:
        content = base64.b64decode(value["array"], validate=True)
    except ValueError:
        content = value["array"].encode("latin-1")
    if not content.startswith(_NPY):
        unpacked = zlib.decompressobj()
        content = unpacked.decompress(content, MOST_BYTES)
        if unpacked.unconsumed_tail:
            raise ValueError("unpacks to too much")
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))


_LARGEST = (1 << 31) - 1  # bytes of a protobuf message


def read_value(path: Path, kind: str) -> tuple[str, Any]:
    """The name and value in a ``.pb`` file; ``kind`` is tensor, sequence or optional.

    Raises
    ------
    DataError
        The file cannot be read, or is none of that kind.
    """
    made: TensorProto | SequenceProto | OptionalProto = TensorProto()
    if kind == "sequence":
        made = SequenceProto()
    elif kind == "optional":
        made = OptionalProto()
    try:
        made.ParseFromString(read_whole(path, _LARGEST))
        if any(tensor.data_location == TensorProto.EXTERNAL for tensor in _list_tensors(made)):
            raise ValueError("its data lies in another file")
        if isinstance(made, TensorProto):
            return made.name, decode(made)
        if isinstance(made, SequenceProto):
            return made.name, numpy_helper.to_list(made)
        return made.name, numpy_helper.to_optional(made)
    except ModelError as exc:  # no regular file, or too long
        raise DataError(str(exc)) from exc
    except (OSError, DecodeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError) as exc:
        raise DataError(f"{path}: holds no {kind} ({' '.join(str(exc).split())[:120]})") from exc


def _list_tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor in a value, however deep: onnx reads what lies in other files, from the working directory."""
    if isinstance(message, TensorProto):
        yield message
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _list_tensors(inner)
