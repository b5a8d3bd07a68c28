"""Inputs one after the other: read when they are needed, hashed as they pass, cut to what the model takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field, replace
from typing import Any

import numpy as np

from converter.dataclass import dataclass
from converter.errors import DataError
from converter.records import InputSet
from converter.referee.proto.random_inputs import is_fixed
from converter.referee.proto.source import Port

Array = np.ndarray[Any, Any]
Feeds = dict[str, Any]

MOST_EMPTY = 1 << 16  # rows of arrays that hold no value at all: a header of a few bytes may claim any number
MOST_ROWS = 16  # of one run: a longer batch of an open first dim is cut, so that memory stays bounded


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run is fed, and the labels of its rows where there are any."""

    feeds: Feeds
    label: Any = None
    rows: int = 1  # inputs that were one by one where they come from, and are run at once
    cast_from: Mapping[str, str] = field(default_factory=dict)  # the type that was given, where it was not the model's


class Stream:
    """Samples from a source that may be long and may be readable only once.

    Parameters
    ----------
    samples : iterable of Sample
    kind : str
        As in `InputSet`.
    source : str
        The file, folder or script that they come from.
    limit : int, optional
        Rows after which to stop.
    """

    def __init__(self, samples: Iterable[Sample], kind: str, source: str = "", limit: int | None = None) -> None:
        self.kind, self.source = kind, source
        self._rest = iter(samples) if limit is None else _take_rows(samples, limit)
        self._held: list[Sample] = []
        self._digests: list[bytes] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._cast_from: dict[str, str] = {}
        self._nonfinite = 0
        self._labelled = False
        self._rows = 0
        self._finished = False

    def take(self, count: int) -> list[Sample]:
        """The first ``count`` samples, or all if there are fewer; they are kept."""
        while len(self._held) < count and (sample := next(self._rest, None)) is not None:
            self._held.append(self._note_sample(sample))
        return self._held[:count]

    def all(self) -> Iterator[Sample]:
        """Every sample, once; those beyond the ones taken are not kept."""
        if self._finished:
            raise DataError(f"{self.source or self.kind}: these inputs can be read only once")
        self._finished = True
        yield from self._held
        for sample in self._rest:
            yield self._note_sample(sample)

    def _note_sample(self, sample: Sample) -> Sample:
        self._digests.append(hash_feeds(sample.feeds))
        self._labelled |= sample.label is not None
        self._rows += sample.rows
        self._cast_from |= sample.cast_from
        self._nonfinite += sum(count_nonfinite(value) for value in sample.feeds.values())
        for name, value in sample.feeds.items():
            self._shapes.setdefault(name, tuple(np.shape(value)) if not isinstance(value, list | dict) else ())
        return sample

    def record(self, *, labelled: bool = False) -> InputSet:
        """What was read so far; the hash is over all values in their order."""
        return InputSet(
            kind=self.kind,
            n=self._rows,
            sha256=combine_hashes(self._digests),
            shapes=dict(self._shapes),
            real=True,
            labelled=labelled or self._labelled,
            source=self.source,
            cast_from=dict(self._cast_from),
            nonfinite=self._nonfinite,
        )


def _take_rows(samples: Iterable[Sample], count: int) -> Iterator[Sample]:
    """As many rows as there are to be, of the last run as many as that needs."""
    for sample in samples:
        if sample.rows > count:
            feeds = {n: v[:count] if np.shape(v)[:1] == (sample.rows,) else v for n, v in sample.feeds.items()}
            label = sample.label[:count] if np.shape(sample.label)[:1] == (sample.rows,) else sample.label
            sample = Sample(feeds, label, count, sample.cast_from)
        yield sample
        count -= sample.rows
        if count <= 0:
            return


def combine_hashes(digests: Iterable[bytes]) -> str:
    """The hash of hashes, in their order."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def hash_feeds(feeds: Mapping[str, Any]) -> bytes:
    """The hash of one run's values, by name, type and shape."""
    made = hashlib.sha256()
    for name in sorted(feeds):
        for part in list_arrays(feeds[name]):
            made.update(f"{name} {part.dtype} {part.shape}\n".encode("utf-8", "backslashreplace"))
            made.update(_view_bytes(part))
    return made.digest()


def _view_bytes(array: Array) -> Any:
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind == "O":  # texts: of these the bytes in memory are addresses
        return "\0".join(map(str, flat)).encode()
    return flat.view(np.uint8) if flat.dtype.itemsize else b""


def cut_samples(
    feeds: Mapping[str, Any], ports: Mapping[str, Port], label: Any = None, *, long: bool = True, source: str = ""
) -> Iterator[Sample]:
    """The runs that arrays make.

    One rank more than the model's input: the first axis counts samples. A first axis that is a multiple of the
    model's own fixed one: as many runs. A long first axis where the model leaves it open: runs of at most
    `MOST_ROWS` rows, unless ``long`` is false. Inputs without that axis are the same in every run.

    Raises
    ------
    DataError
        An array has a type or shape that the model does not take; ``source`` is the file that it comes from.
    """
    where = f"{source}: " if source else ""
    values = {name: _cast(name, value, ports.get(name), where) for name, value in feeds.items()}
    cast_from = {n: str(d) for n, v in feeds.items() if (d := getattr(v, "dtype", None)) and d != values[n].dtype}
    for sample in _cut(values, ports, label, long=long):
        _check_shapes(sample, feeds, ports, where)
        yield replace(sample, cast_from=cast_from) if cast_from else sample


def _check_shapes(sample: Sample, given: Mapping[str, Any], ports: Mapping[str, Port], where: str) -> None:
    """onnxruntime refuses these too, without a word of what was given and what is taken."""
    for name, value in sample.feeds.items():
        port = ports.get(name)
        if port is None or port.dims is None or not isinstance(value, np.ndarray) or port.kind != "tensor":
            continue
        fits = len(port.dims) == value.ndim
        if not fits or any(is_fixed(d) and d != n for d, n in zip(port.dims, value.shape, strict=True)):
            wanted = ", ".join("?" if d is None else str(d) for d in port.dims)
            raise DataError(
                f"{where}input {name!r} takes the shape [{wanted}], and {list(np.shape(given[name]))} was given; "
                "give such arrays, or several at once with an axis in front"
            )


def _cut(values: Feeds, ports: Mapping[str, Port], label: Any, *, long: bool) -> Iterator[Sample]:
    arrays = {n: v for n, v in values.items() if isinstance(v, np.ndarray) and n in ports and ports[n].kind == "tensor"}
    for name, array in arrays.items():
        check_rows(name, array.shape)
    stacked = [n for n, v in arrays.items() if (d := ports[n].dims) is not None and v.ndim == len(d) + 1]
    if stacked:
        count = _check_same_count([arrays[n].shape[0] for n in stacked], stacked)
        yield from (_cut_part(values, stacked, k, k + 1, label, drop=True) for k in range(count))
        return
    size, count = _count_rows(arrays, ports, long=long)
    if count <= 1:
        yield Sample(values, label, size if size > 1 else 1)
        return
    total = next(iter(arrays.values())).shape[0]
    cuts = [n for n, v in arrays.items() if v.ndim]
    yield from (_cut_part(values, cuts, k, min(k + size, total), label) for k in range(0, total, size))


def check_rows(name: str, shape: tuple[int, ...]) -> None:
    """Refuse rows without number that hold nothing.

    Raises
    ------
    DataError
        It has no values, and more rows than anybody gives.
    """
    if len(shape) and shape[0] > MOST_EMPTY and 0 in shape:
        raise DataError(f"input {name!r} was given {shape[0]} rows without a value; give values")


def _count_rows(arrays: Mapping[str, Array], ports: Mapping[str, Port], *, long: bool) -> tuple[int, int]:
    """Rows of one run, and how many runs the arrays make."""
    firsts = [(v.shape[0], (ports[n].dims or (None,))[0]) for n, v in arrays.items() if v.ndim]
    if not firsts or len({n for n, _ in firsts}) != 1 or len(firsts) != len(arrays):
        return 1, 1
    total, fixed = firsts[0][0], {d for _, d in firsts if isinstance(d, int)}
    if not total and not fixed:
        raise DataError(f"input {next(iter(arrays))!r} was given no row; give at least one")
    if not fixed and not long:
        return total, 1
    if not fixed:
        return min(total, MOST_ROWS), -(-total // MOST_ROWS)
    size = min(fixed)
    return (size, total // size) if len(fixed) == 1 and size and total % size == 0 else (1, 1)


def _cut_part(values: Feeds, names: Sequence[str], start: int, end: int, label: Any, *, drop: bool = False) -> Sample:
    some = {n: (v[start] if drop else v[start:end]) if n in names else v for n, v in values.items()}
    if label is not None and np.ndim(label):
        label = np.asarray(label)[start:end]
    return Sample(some, label, 1 if drop else end - start)


def _check_same_count(sizes: Sequence[int], names: Sequence[str]) -> int:
    if len(set(sizes)) != 1:
        found = ", ".join(f"{n} {size}" for n, size in zip(names, sizes, strict=True))
        raise DataError(f"inputs have different numbers of samples ({found}); give as many of each")
    return sizes[0]


def _cast(name: str, value: Any, port: Port | None, where: str) -> Any:
    """Floats in the model's float type, integers in its integer type if that holds them; the rest as it is."""
    if port is None or port.kind != "tensor" or port.dtype is None or isinstance(value, list | dict):
        return value
    array = np.asarray(value)
    if array.dtype == port.dtype:
        return array
    floats = array.dtype.kind in "fV" and port.dtype.kind in "fV"
    if floats or (array.dtype.kind in "iub" and port.dtype.kind in "iu"):
        with np.errstate(all="ignore"), suppress(TypeError, ValueError):  # a record, bytes of some other length
            cast = array.astype(port.dtype)
            if floats or np.array_equal(cast, array):
                return cast
    raise DataError(f"{where}input {name!r} takes {port.dtype}, and {array.dtype} was given; convert it first")


Reader = Callable[[Mapping[str, Port]], Iterator[Sample]]


def count_nonfinite(value: Any) -> int:
    """How many NaN and Inf a value holds, its parts together."""
    count = 0
    for array in list_arrays(value):
        with suppress(TypeError, ValueError):  # what no number is
            count += (
                int(np.count_nonzero(~np.isfinite(np.asarray(array, np.float64)))) if array.dtype.kind in "fV" else 0
            )
    return count


def list_arrays(value: Any) -> list[Array]:
    """The arrays inside a value, in a fixed order."""
    if value is None:
        return []
    if isinstance(value, dict):
        keys = sorted(value, key=str)
        return [np.asarray(keys), *(leaf for k in keys for leaf in list_arrays(value[k]))]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in list_arrays(item)]
    return [np.asarray(value)]
